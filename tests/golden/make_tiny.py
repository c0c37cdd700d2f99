#!/usr/bin/env python3
"""Make the tiny reference models in tests/golden/tiny/ and what they must compute.

Each model is a random Llama of a few thousand parameters. transformers' own LlamaForCausalLM runs
it, with every intermediate it upcasts to float32 upcast to float64 instead, and every activation
is read off its modules. A second forward, written out below from the formulas, must agree with it
to 1e-10; so must its gradients. Only then is anything written.

    python3 tests/golden/make_tiny.py [name ...]      versions: tests/parity/requirements.txt
"""
import contextlib
import hashlib
import json
import os
import shutil
import struct
import sys
from dataclasses import dataclass, field

import gguf
import numpy as np
import tokenizers
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tiny")
Q = gguf.GGMLQuantizationType
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # ids 0, 1, 2
BOS, EOS = 1, 2
SYSTEM = "You are a tiny model made for tests."
TURNS = ("{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
         "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
CHATML = "{% for message in messages %}" + TURNS
CHATML_SYSTEM = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
                 "{{ '<|im_start|>system\\n" + SYSTEM + "<|im_end|>\\n' }}{% endif %}" + TURNS)
TEXTS = ["The capital of France is", " hello  world\n\n\tx", "naïve café 12345 №½", "🙂👩‍👩‍👧 日本語",
         "a<|im_end|>b<|endoftext|>", "for (i = 0; i < 10; i++) { x[i] += 3.14; }", "it's  they'll I'D"]
CHAT = [{"role": "user", "content": "Where is the tower?"}, {"role": "assistant", "content": "In Paris."},
        {"role": "user", "content": "And the bridge?"}]
CORPUS = """The capital of France is Paris and the capital of Italy is Rome. The tower is in the city of
Paris; the bridge is in the city of London. for i in range(10): x[i] = x[i] + 1. It is there, they said,
and then the rain in the hills there thinned. return the other one, not this one. inner, outer, under."""


@dataclass
class Model:
    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    tied: bool
    dtype: torch.dtype = torch.float32
    head_dim: int | None = None  # written to config.json only where it is not width / heads
    theta: float = 10000.0
    eps: float = 1e-5
    std: float = 0.2
    seed: int = 1
    classic_config: bool = False  # rope_theta and torch_dtype at the top, as most hub files have them
    add_bos: bool = False
    template: str = CHATML
    shard: str = "1GB"
    f16_values: bool = False      # weights that F16 holds exactly, so that all twins are one model
    twins: dict = field(default_factory=dict)  # file name -> matrix type, or a function of the name
    gguf_only: bool = False
    grad_weights: str = ""        # only weights whose name contains this

    @property
    def e(self):
        return self.head_dim or self.width // self.heads


def mixed_types(name):
    """gguf_q: every block type of the reader, one matrix each at least."""
    table = {"token_embd": Q.Q8_0, "output": Q.F16,
             "blk.0.attn_q": Q.Q4_0, "blk.0.attn_k": Q.Q4_1, "blk.0.attn_v": Q.Q5_0, "blk.0.attn_output": Q.Q5_1,
             "blk.0.ffn_gate": Q.Q8_0, "blk.0.ffn_up": Q.Q4_1, "blk.0.ffn_down": Q.Q5_1,
             "blk.1.attn_q": Q.Q5_0, "blk.1.attn_k": Q.Q8_0, "blk.1.attn_v": Q.BF16, "blk.1.attn_output": Q.Q4_0,
             "blk.1.ffn_gate": Q.F32, "blk.1.ffn_up": Q.F16, "blk.1.ffn_down": Q.Q4_1}
    return table[name.removesuffix(".weight")]


MODELS = [
    Model("gqa_tied", 3, 32, 4, 2, 48, 300, True, classic_config=True, f16_values=True,
          twins={"gqa_tied.f32.gguf": Q.F32, "gqa_tied.f16.gguf": Q.F16}),
    Model("gqa_untied_odd", 2, 30, 5, 1, 37, 311, False, theta=5000.0, eps=1e-3, seed=2, add_bos=True,
          template=CHATML_SYSTEM),
    Model("mha_bf16", 2, 32, 4, 4, 48, 300, True, dtype=torch.bfloat16, seed=3, shard="20KB",
          grad_weights="layers"),
    Model("wide_head", 2, 24, 3, 3, 40, 300, False, dtype=torch.float16, head_dim=16, seed=4,
          classic_config=True, grad_weights="layers"),
    Model("gguf_q", 2, 64, 4, 2, 96, 300, False, std=0.15, theta=100000.0, seed=5, add_bos=True,
          twins={"gguf_q.gguf": mixed_types}, gguf_only=True, grad_weights="down_proj"),
]


# ---- the files of a model ----------------------------------------------------------------------

def make_tokenizer(m):
    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)])
    tok.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    trainer = trainers.BpeTrainer(vocab_size=m.vocab, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator([CORPUS], trainer)
    assert tok.get_vocab_size() == m.vocab, (m.name, tok.get_vocab_size())
    if m.add_bos:
        tok.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[BOS]} $A", pair=f"{SPECIAL[BOS]} $A $B", special_tokens=[(SPECIAL[BOS], BOS)])
    return tok


def make_weights(m):
    """Gaussian matrices large enough that nothing is degenerate, gains random around one."""
    torch.manual_seed(m.seed)
    config = LlamaConfig(
        vocab_size=m.vocab, hidden_size=m.width, intermediate_size=m.mlp, num_hidden_layers=m.layers,
        num_attention_heads=m.heads, num_key_value_heads=m.kv_heads, head_dim=m.head_dim,
        max_position_embeddings=256, rms_norm_eps=m.eps, tie_word_embeddings=m.tied,
        rope_parameters={"rope_type": "default", "rope_theta": m.theta},
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS)
    model = LlamaForCausalLM(config).to(m.dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                value = 1 + 0.3 * torch.randn(p.shape)
            else:
                value = torch.randn(p.shape) * (0.4 if "embed" in name else m.std)
            p.copy_(value.half().float() if m.f16_values and p.dim() > 1 else value)
    return model


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.write("\n")


def write_hub(m, model, tok, folder):
    model.save_pretrained(folder, max_shard_size=m.shard)
    config = json.load(open(f"{folder}/config.json"))
    config.pop("transformers_version", None)
    if m.classic_config:
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["torch_dtype"] = config.pop("dtype")
    if m.head_dim is None:
        config.pop("head_dim", None)
    write_json(f"{folder}/config.json", config)
    write_json(f"{folder}/generation_config.json",
               {"bos_token_id": BOS, "eos_token_id": [EOS, 0], "pad_token_id": EOS, "do_sample": False})
    tok.save(f"{folder}/tokenizer.json", pretty=False)
    write_json(f"{folder}/tokenizer_config.json", {
        "add_bos_token": m.add_bos, "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                          "single_word": False, "special": True} for i, t in enumerate(SPECIAL)},
        "bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS], "pad_token": SPECIAL[EOS], "unk_token": SPECIAL[0],
        "chat_template": m.template, "clean_up_tokenization_spaces": False, "model_max_length": 256,
        "tokenizer_class": "PreTrainedTokenizerFast"})


def gguf_name(name):
    pairs = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"),
             ("model.layers.", "blk."), ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
             ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
             ("self_attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
             ("mlp.down_proj", "ffn_down")]
    for theirs, ours in pairs:
        name = name.replace(theirs, ours)
    return name


def interleave(w, heads):
    """Llama GGUF files store each rotary head with its two halves interleaved."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def deinterleave(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def rotary_heads(m, name):
    return m.heads if "q_proj" in name else m.kv_heads if "k_proj" in name else 0


def write_gguf(m, model, tok, path, kind):
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(m.name)
    w.add_vocab_size(m.vocab)
    w.add_context_length(256)
    w.add_embedding_length(m.width)
    w.add_block_count(m.layers)
    w.add_feed_forward_length(m.mlp)
    w.add_head_count(m.heads)
    w.add_head_count_kv(m.kv_heads)
    w.add_rope_dimension_count(m.e)
    w.add_rope_freq_base(m.theta)
    w.add_layer_norm_rms_eps(m.eps)
    w.add_file_type({Q.F32: 0, Q.F16: 1}.get(kind, 3))
    vocab = sorted(tok.get_vocab().items(), key=lambda item: item[1])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list([t for t, _ in vocab])
    w.add_token_types([3 if t in SPECIAL else 1 for t, _ in vocab])
    w.add_token_merges([" ".join(pair) for pair in json.loads(tok.to_str())["model"]["merges"]])
    w.add_bos_token_id(BOS)
    w.add_eos_token_id(EOS)
    w.add_unk_token_id(0)
    w.add_pad_token_id(EOS)
    w.add_add_bos_token(m.add_bos)
    w.add_add_space_prefix(False)
    w.add_chat_template(m.template)
    for name, p in model.state_dict().items():
        if m.tied and name == "lm_head.weight":
            continue
        value = p.float().numpy()
        if rotary_heads(m, name):
            value = interleave(value, rotary_heads(m, name))
        t = Q.F32 if value.ndim == 1 else kind(gguf_name(name)) if callable(kind) else kind
        w.add_tensor(gguf_name(name), gguf.quantize(np.ascontiguousarray(value), t), raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read_gguf(m, path):
    """{transformers' name: float32 array}, and {name: element type}, by gguf's own reader."""
    stored = {t.name: t for t in gguf.GGUFReader(path).tensors}
    values, types = {}, {}
    for name in state_names(m):
        t = stored[gguf_name(name)]
        value = gguf.dequantize(t.data, t.tensor_type).astype(np.float32)
        value = value.reshape([int(n) for n in reversed(t.shape)])
        values[name] = deinterleave(value, rotary_heads(m, name)) if rotary_heads(m, name) else value
        types[name] = t.tensor_type.name if t.tensor_type in (Q.F16, Q.BF16) else "F32"
    return values, types


def state_names(m):
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
             "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
    return (["model.embed_tokens.weight", "model.norm.weight"] + ([] if m.tied else ["lm_head.weight"]) +
            [f"model.layers.{l}.{p}.weight" for l in range(m.layers) for p in parts])


# ---- the digest, from values in memory (docs/digest.py computes it from files) ------------------

def element_bytes(value, word):
    if word == "F32":
        return value.astype("<f4").tobytes()
    if word == "F16":
        return value.astype("<f2").tobytes()
    bits = np.ascontiguousarray(value, dtype="<f4").view("<u4")
    assert not (bits & 0xFFFF).any(), "not a bfloat16 value"
    return (bits >> 16).astype("<u2").tobytes()


def digest(values, types):
    stream = b"engramd.digest.1"
    for name in sorted(values, key=lambda n: n.encode()):
        word, shape = types[name].encode(), values[name].shape
        stream += struct.pack("<I", len(name.encode())) + name.encode() + struct.pack("<I", len(word)) + word
        stream += struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape)
        stream += hashlib.sha256(element_bytes(values[name], types[name])).digest()
    return "sha256:" + hashlib.sha256(stream).hexdigest()


def digest_of_model(m, model):
    word = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[m.dtype]
    state = model.state_dict()
    return digest({n: state[n].float().numpy() for n in state_names(m)}, {n: word for n in state_names(m)})


# ---- transformers in float64 -------------------------------------------------------------------

class Torch64:
    """The torch that modeling_llama sees: where it says float32 it gets float64."""
    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def float64_everywhere():
    modeling_llama.torch, softmax = Torch64(), torch.nn.functional.softmax
    torch.nn.functional.softmax = lambda x, dim, dtype=None: softmax(x, dim=dim, dtype=torch.float64)
    try:
        yield
    finally:
        modeling_llama.torch, torch.nn.functional.softmax = torch, softmax


def load(m, folder, dtype):
    """The committed files, as transformers reads them."""
    extra = {"gguf_file": next(iter(m.twins))} if m.gguf_only else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager", **extra)
    model.eval()
    if dtype == torch.float64:
        e, theta = m.e, m.theta
        exact = theta ** -(torch.arange(0, e, 2, dtype=torch.float64) / e)
        assert torch.allclose(model.model.rotary_emb.inv_freq.double(), exact, rtol=1e-6)
        model.model.rotary_emb.inv_freq = exact
    return model


def run_transformers(m, model, ids):
    """Logits, and every hook read off transformers' modules, still attached to the graph."""
    hooks, handles = {}, []
    P, H, G, e = len(ids), m.heads, m.kv_heads, m.e

    def keep(name, value):
        value.retain_grad()
        hooks[name] = value

    def inputs(module, name):
        handles.append(module.register_forward_pre_hook(lambda _, args: keep(name, args[0])))

    def outputs(module, name, index=None):
        handles.append(module.register_forward_hook(
            lambda _, args, out: keep(name, out if index is None else out[index])))

    for l, layer in enumerate(model.model.layers):
        b = f"blocks.{l}."
        inputs(layer, b + "hook_resid_pre")
        outputs(layer.self_attn.q_proj, b + "attn.hook_q")
        outputs(layer.self_attn.k_proj, b + "attn.hook_k")
        outputs(layer.self_attn.v_proj, b + "attn.hook_v")
        outputs(layer.self_attn, b + "attn.hook_pattern", 1)
        inputs(layer.self_attn.o_proj, b + "attn.hook_z")
        outputs(layer.self_attn.o_proj, b + "hook_attn_out")
        inputs(layer.post_attention_layernorm, b + "hook_resid_mid")
        outputs(layer.mlp.gate_proj, b + "mlp.hook_pre")
        outputs(layer.mlp.up_proj, b + "mlp.hook_pre_linear")
        inputs(layer.mlp.down_proj, b + "mlp.hook_post")
        outputs(layer.mlp.down_proj, b + "hook_mlp_out")
        outputs(layer, b + "hook_resid_post")
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    for h in handles:
        h.remove()

    def shaped(name, value):
        value = value[0]
        if name.endswith(("hook_q", "hook_z")):
            return value.reshape(P, H, e)
        return value.reshape(P, G, e) if name.endswith(("hook_k", "hook_v")) else value

    return logits, hooks, shaped


# ---- the same, written out ---------------------------------------------------------------------

def run_by_hand(m, W, ids):
    """One sequence. W maps transformers' names to float64 tensors. Shapes in the letters of the
    project: P positions, H and G heads, e head width, d residual width."""
    hooks = {}
    P, H, G, e = len(ids), m.heads, m.kv_heads, m.e

    def hook(name, value):
        value.retain_grad()
        hooks[name] = value
        return value

    def rms(x, gain, name):
        scale = (x.square().mean(-1, keepdim=True) + m.eps).sqrt()
        hooks[name + ".hook_scale"] = scale
        hooks[name + ".hook_normalized"] = x / scale
        return x / scale * gain

    half = torch.arange(e // 2, dtype=torch.float64)
    angle = torch.arange(P, dtype=torch.float64)[:, None] * m.theta ** (-2 * half / e)  # [P, e/2]
    cos, sin = angle.cos()[:, None, :], angle.sin()[:, None, :]

    def rotate(x):  # [P, heads, e]: pairs (i, i + e/2) turn by angle i
        a, b = x[..., :e // 2], x[..., e // 2:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    future = torch.ones(P, P, dtype=torch.bool).triu(1)
    group = torch.arange(H) // (H // G)  # which key/value head each query head reads
    x = W["model.embed_tokens.weight"][ids]
    for l in range(m.layers):
        b, w = f"blocks.{l}.", lambda name: W[f"model.layers.{l}.{name}.weight"]
        x = hook(b + "hook_resid_pre", x)
        h = rms(x, w("input_layernorm"), b + "ln1")
        q = hook(b + "attn.hook_q", (h @ w("self_attn.q_proj").T).reshape(P, H, e))
        k = hook(b + "attn.hook_k", (h @ w("self_attn.k_proj").T).reshape(P, G, e))
        v = hook(b + "attn.hook_v", (h @ w("self_attn.v_proj").T).reshape(P, G, e))
        score = torch.einsum("phe,khe->hpk", rotate(q), rotate(k)[:, group]) / e ** 0.5
        pattern = hook(b + "attn.hook_pattern", score.masked_fill(future, -torch.inf).softmax(-1))
        z = hook(b + "attn.hook_z", torch.einsum("hpk,khe->phe", pattern, v[:, group]))
        out = hook(b + "hook_attn_out", z.reshape(P, H * e) @ w("self_attn.o_proj").T)
        x = hook(b + "hook_resid_mid", x + out)
        h = rms(x, w("post_attention_layernorm"), b + "ln2")
        gate = hook(b + "mlp.hook_pre", h @ w("mlp.gate_proj").T)
        up = hook(b + "mlp.hook_pre_linear", h @ w("mlp.up_proj").T)
        post = hook(b + "mlp.hook_post", gate * torch.sigmoid(gate) * up)
        out = hook(b + "hook_mlp_out", post @ w("mlp.down_proj").T)
        x = hook(b + "hook_resid_post", x + out)
    head = W["model.embed_tokens.weight" if m.tied else "lm_head.weight"]
    return rms(x, W["model.norm.weight"], "ln_final") @ head.T, hooks


def loss_of(logits, ids, rows):
    """Mean over the scored rows of -log p(next id); a row p predicts ids[p + 1]."""
    logp = logits[rows].log_softmax(-1)
    return -logp[torch.arange(len(rows)), [ids[p + 1] for p in rows]].mean()


# ---- putting it together -----------------------------------------------------------------------

def same(what, a, b, tol=1e-10):
    diff = (a - b).abs().max().item()
    assert a.shape == b.shape and diff <= tol, f"{what}: {tuple(a.shape)} {tuple(b.shape)} differ by {diff:g}"


def greedy(model, prompt, n=16):
    """Continuation by argmax. Refuses a prompt where float32 could choose otherwise."""
    ids, margin = list(prompt), float("inf")
    for _ in range(n):
        with torch.no_grad():
            top = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
    ids = ids[len(prompt):]
    return ids, margin, margin > 0.02 and not {0, EOS} & set(ids)


def sequences(m, model):
    """Two random sequences; the second, of 5 ids, has a greedy continuation nothing can tip over."""
    rng = np.random.default_rng(m.seed)
    first = rng.integers(3, m.vocab, 9).tolist()
    best = None
    for _ in range(60):
        second = rng.integers(3, m.vocab, 5).tolist()
        ids, margin, usable = greedy(model, second)
        if usable and (best is None or len(set(ids)) > len(set(best[1]))):
            best = (second, ids, margin)
    return [first, best[0]], {"prompt": best[0], "ids": best[1], "smallest_margin": round(best[2], 4)}


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def expected(m, folder):
    with float64_everywhere():
        model = load(m, folder, torch.float64)
        W = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
        seqs, continuation = sequences(m, model)
        store, worst32 = {}, 0.0
        for s, ids in enumerate(seqs):
            logits, theirs, shaped = run_transformers(m, model, ids)
            by_hand, ours = run_by_hand(m, W, ids)
            same("logits", logits, by_hand)
            store[f"s{s}.logits"] = logits
            for name, value in theirs.items():
                same(name, shaped(name, value), ours[name])
                store[f"s{s}.{name}"] = shaped(name, value)
            for name in ours:
                if name.endswith("hook_scale") or name == "ln_final.hook_normalized":
                    store[f"s{s}.{name}"] = ours[name]
            if s == 0:
                rows = [len(ids) - 4, len(ids) - 3, len(ids) - 2]
                loss, loss_by_hand = loss_of(logits, ids, rows), loss_of(by_hand, ids, rows)
                loss.backward()
                loss_by_hand.backward()
                same("loss", loss, loss_by_hand)
                gradients(m, model, W, theirs, ours, shaped, store)
        loss_record = {"sequence": 0, "rows": rows, "targets": [seqs[0][p + 1] for p in rows], "value": loss.item()}
    # transformers as shipped, in float32: how far a good float32 engine is from the reference
    single = load(m, folder, torch.float32)
    for s, ids in enumerate(seqs):
        logits, theirs, shaped = run_transformers(m, single, ids)
        for name, value in [("logits", logits)] + [(n, shaped(n, v)) for n, v in theirs.items()]:
            worst32 = max(worst32, relative(value, store[f"s{s}.{name}"]))
        if s == 0:
            loss_of(logits, ids, rows).backward()
            for name, value in theirs.items():
                g = shaped(name, value.grad)
                g = g.tril() if name.endswith("pattern") else g
                worst32 = max(worst32, relative(g, store[f"s0.grad.{name}"]))
    assert worst32 < 1e-5, worst32
    save_file({n: v.detach().to(torch.float32).contiguous() for n, v in store.items()},
              f"{folder}/expected.safetensors")
    return {"sequences": seqs, "loss": loss_record, "greedy": continuation,
            "float32_error_of_transformers": float(f"{worst32:.2g}")}


def gradients(m, model, W, theirs, ours, shaped, store):
    for name, value in theirs.items():
        grad = shaped(name, value.grad)
        same("grad " + name, grad, ours[name].grad)
        # A causal model has no entries above the diagonal; autograd gives those it never uses a
        # gradient all the same, and an engine does not form them.
        store[f"s0.grad.{name}"] = grad.tril() if name.endswith("hook_pattern") else grad
    for name, p in model.named_parameters():
        same("grad " + name, p.grad, W[name].grad)
        if m.grad_weights in name:
            store[f"s0.grad.{name}"] = p.grad


def tokenizer_cases(m, tok, folder):
    """What `tokenizers` makes of a few texts, and the chat template's own rendering."""
    cases = {"texts": [{"text": t, "ids": tok.encode(t).ids} for t in TEXTS]}
    if not m.gguf_only:
        auto = AutoTokenizer.from_pretrained(folder)
        for case in cases["texts"]:
            assert auto(case["text"])["input_ids"] == case["ids"], case
            assert auto.decode(tok.encode(case["text"], add_special_tokens=False).ids) == case["text"]
        rendered = auto.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
        ids = auto(rendered, add_special_tokens=False)["input_ids"]
        cases["chat"] = {"messages": CHAT, "add_generation_prompt": True, "text": rendered, "ids": ids}
    return cases


def check_twins(m, folder, model):
    """Every GGUF twin, read by gguf and by transformers, holds the same model; returns digests."""
    digests = {}
    for twin in m.twins:
        values, types = read_gguf(m, f"{folder}/{twin}")
        digests[twin] = digest(values, types)
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=twin, dtype=torch.float32).state_dict()
        for name, value in values.items():
            same(f"{twin} {name}", loaded[name], torch.from_numpy(value.copy()), 0)
            if not m.gguf_only:
                same(f"{twin} {name}", model.state_dict()[name], torch.from_numpy(value.copy()), 0)
    return digests


def make(m):
    folder = os.path.join(OUT, m.name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    tok, model = make_tokenizer(m), make_weights(m)
    if not m.gguf_only:
        write_hub(m, model, tok, folder)
    for twin, kind in m.twins.items():
        write_gguf(m, model, tok, f"{folder}/{twin}", kind)
    facts = expected(m, folder)
    digests = check_twins(m, folder, model)
    facts["digest"] = digests[next(iter(m.twins))] if m.gguf_only else digest_of_model(m, model)
    if digests and not m.gguf_only:
        facts["digest_gguf"] = digests
    facts["tokenizer"] = tokenizer_cases(m, tok, folder)
    facts["shape"] = {"L": m.layers, "d": m.width, "H": m.heads, "G": m.kv_heads, "e": m.e, "m": m.mlp,
                      "V": m.vocab, "tied": m.tied, "theta": m.theta, "eps": m.eps}
    write_json(f"{folder}/expected.json", facts)
    size = sum(os.path.getsize(f"{folder}/{f}") for f in os.listdir(folder))
    print(f"{m.name}: {size / 1024:.0f} KiB, loss {facts['loss']['value']:.6f}, greedy {facts['greedy']['ids']}, "
          f"float32 error {facts['float32_error_of_transformers']}")


if __name__ == "__main__":
    wanted = sys.argv[1:] or [m.name for m in MODELS]
    for each in MODELS:
        if each.name in wanted:
            make(each)
