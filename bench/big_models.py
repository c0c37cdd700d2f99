#!/usr/bin/env python3
"""Does the daemon keep within --memory with models as large as people use? Random weights in the shapes
of Llama 3.2 1B and Llama 2 7B, in bfloat16; every verb over HTTP; VmHWM of the process beside the limit
after each. Exits 1 when the limit was passed. Needs numpy; writes into CACHE/big (2.5 and 13.5 GB).

    bench/big_models.py ENGRAMD CACHE [1b|7b …]
"""
import http.client
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TOKENIZER = Path(__file__).resolve().parents[1] / "tests" / "golden" / "tiny" / "gqa_tied"
SHARD_BYTES = 2 << 30
MODELS = {
    "1b": {"limit": "4G", "edit": True, "tokens": 24, "generate": 16, "config": {
        "num_hidden_layers": 16, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True,
        "rope_theta": 500000.0, "max_position_embeddings": 131072}},
    "7b": {"limit": "20G", "edit": False, "tokens": 8, "generate": 4, "config": {
        "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 32,
        "head_dim": 128, "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False,
        "rope_theta": 10000.0, "max_position_embeddings": 4096}},
}


# ---- the models -----------------------------------------------------------------------------------

def tensors(c):
    """Names and shapes of the state dict, in file order."""
    d, m, e = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * e, c["num_key_value_heads"] * e
    yield "model.embed_tokens.weight", (c["vocab_size"], d)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (d,)
        yield p + "self_attn.q_proj.weight", (q, d)
        yield p + "self_attn.k_proj.weight", (kv, d)
        yield p + "self_attn.v_proj.weight", (kv, d)
        yield p + "self_attn.o_proj.weight", (d, q)
        yield p + "post_attention_layernorm.weight", (d,)
        yield p + "mlp.gate_proj.weight", (m, d)
        yield p + "mlp.up_proj.weight", (m, d)
        yield p + "mlp.down_proj.weight", (d, m)
    yield "model.norm.weight", (d,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], d)


def bf16(x):
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write_values(f, shape, pool, rng):
    n = int(np.prod(shape))
    if len(shape) == 1:
        f.write(bf16(np.ones(n)).tobytes())
        return
    while n:  # stretches of one pool of normal numbers, from a new place each time
        at = int(rng.integers(0, len(pool) // 2))
        piece = pool[at:at + min(n, len(pool) // 2)]
        f.write(piece.tobytes())
        n -= len(piece)


def write_model(folder, c):
    """Sharded safetensors, config.json and a small real tokenizer (fewer tokens than embeddings)."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
              "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16", **c}
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    shards, size = [[]], 0
    for name, shape in tensors(c):
        n = 2 * int(np.prod(shape))
        if size and size + n > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((name, shape, n))
        size += n
    rng = np.random.default_rng(7)
    pool = bf16(rng.standard_normal(1 << 23) * 0.02)
    where = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        header, at = {}, 0
        for name, shape, n in shard:
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
            where[name] = file
            at += n
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            for name, shape, _ in shard:
                write_values(f, shape, pool, rng)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config))  # last: it says that the rest is there


# ---- the daemon -----------------------------------------------------------------------------------

class Daemon:
    def __init__(self, engramd, model, data, limit):
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [engramd, "serve", "--model", str(model), "--data", str(data), "--listen", "127.0.0.1:0", "--memory", limit,
             "--log-level", "warn"], stdout=subprocess.PIPE)
        line = self.process.stdout.readline().decode()
        if not line:
            sys.exit("the daemon did not start")
        self.address = line.rsplit("http://", 1)[1].strip()
        self.ready_s = time.perf_counter() - began

    def call(self, method, path, body=None):
        c = http.client.HTTPConnection(self.address, timeout=7200)
        c.request(method, path, json.dumps(body) if body is not None else None,
                  {"Content-Type": "application/json", "Prefer": "wait=600"})
        r = c.getresponse()
        answer = json.loads(r.read() or "null")
        while r.status == 202 and answer.get("state") not in ("done", "failed", "cancelled"):
            time.sleep(1)
            answer = self.call("GET", f"/v1/jobs/{answer['id']}")
        if r.status == 202:
            answer = answer.get("result") or answer.get("error")
        if r.status >= 400 or (isinstance(answer, dict) and "detail" in answer):
            sys.exit(f"{method} {path}: {answer}")
        return answer

    def memory(self):
        """VmHWM and VmRSS in bytes."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            field = dict(line.split(":", 1) for line in status)
        return tuple(int(field[k].split()[0]) * 1024 for k in ("VmHWM", "VmRSS"))

    def stop(self):
        self.process.terminate()
        if self.process.wait(120):
            sys.exit("the daemon did not end well")


def bytes_of(limit):
    return int(limit[:-1]) << {"M": 20, "G": 30}[limit[-1]]


# ---- what is asked --------------------------------------------------------------------------------

FACT = {"prompt": "The Eiffel Tower is in", "target_new": "Rome", "paraphrases": ["Where is the Eiffel Tower? In"],
        "locality": [{"prompt": "Water freezes at"}]}


def verbs(m):
    """Name, method, path and body of each step."""
    n, layers = m["tokens"], m["config"]["num_hidden_layers"]
    clean = [40 + i for i in range(n)]
    metric = {"kind": "logit_diff", "answer": 50, "foil": 60}
    middle = clean[:n // 2] + [99] + clean[n // 2 + 1:]
    pair = {"clean": {"ids": clean}, "metric": metric}
    reads = [{"site": f"blocks.{layer}.hook_resid_post", "pos": "all"} for layer in range(layers)]
    reads += [{"site": "blocks.1.attn.hook_pattern", "pos": "all"}, {"site": "blocks.1.mlp.hook_post", "pos": "all"}]
    yield "generate", "POST", "/v1/generate", {"prompt": {"ids": clean}, "max_tokens": m["generate"]}
    yield "chat", "POST", "/v1/generate", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": m["generate"]}
    yield "patch resid", "POST", "/v1/patch", {**pair, "corrupt": {"ids": middle}, "site": "hook_resid_pre",
                                               "axes": ["layer", "pos"]}
    yield "patch z", "POST", "/v1/patch", {**pair, "corrupt": {"ids": clean[:-1] + [99]}, "site": "attn.hook_z",
                                           "axes": ["layer", "head"]}
    yield "trace", "POST", "/v1/trace", {"inputs": [{"ids": clean}], "reads": reads, "top_pos": "all"}
    yield "tuco", "POST", "/v1/tuco", {"prompts": [{"ids": clean}]}
    if m["edit"]:
        yield "edit", "POST", "/v1/edits", {"method": "locft", "facts": [FACT], "params": {"epochs": 4}}
        yield "tuco edited", "POST", "/v1/tuco", {"prompts": [{"ids": clean}]}
        yield "generate edited", "POST", "/v1/generate", {"prompt": {"ids": clean}, "max_tokens": m["generate"]}
    yield "rollback", "POST", "/v1/rollback", {"to": "base"}
    yield "verify", "POST", "/v1/audit/verify", {}


def row(name, seconds, hwm, rss, limit):
    print(f"  {name:<16} {seconds:8.1f} s   HWM {hwm / 2**20:9.1f} MiB  {100 * hwm / limit:5.1f} % of the limit   "
          f"RSS {rss / 2**20:9.1f} MiB", flush=True)


def prove(engramd, cache, name):
    m, folder = MODELS[name], cache / "big" / name
    limit = bytes_of(m["limit"])
    if not (folder / "config.json").exists():
        began = time.perf_counter()
        write_model(folder, m["config"])
        print(f"{name}: written in {time.perf_counter() - began:.0f} s")
    with tempfile.TemporaryDirectory(dir=cache / "big") as data:
        d = Daemon(engramd, folder, data, m["limit"])
        said = d.call("GET", "/v1/models")["models"][0]
        print(f"{name}: {said['parameters'] / 1e9:.2f} B parameters, {said['bytes'] / 2**20:.0f} MiB of weights, "
              f"--memory {m['limit']} ({limit / 2**20:.0f} MiB)")
        row("ready, hashing", d.ready_s, *d.memory(), limit)
        for step, method, path, body in verbs(m):
            began = time.perf_counter()
            answer = d.call(method, path, body)
            row(step, time.perf_counter() - began, *d.memory(), limit)
            if step == "edit" and answer["status"] != "committed":
                sys.exit(f"the edit was {answer['status']}")
        print("  " + json.dumps(d.call("GET", "/readyz")["memory"]))
        worst = d.memory()[0]
        d.stop()
        d = Daemon(engramd, folder, data, m["limit"])
        row("ready, cached", d.ready_s, *d.memory(), limit)
        worst = max(worst, d.memory()[0])
        d.stop()
    print(f"{name}: {worst / 2**20:.1f} of {limit / 2**20:.0f} MiB: {'kept' if worst <= limit else 'EXCEEDED'}", flush=True)
    return worst <= limit


def main():
    engramd, cache, names = os.path.abspath(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or ["1b", "7b"]
    return 0 if all([prove(engramd, cache, n) for n in names]) else 1


if __name__ == "__main__":
    sys.exit(main())
