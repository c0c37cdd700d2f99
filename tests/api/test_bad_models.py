"""Model files that are cut short, lie, or are of an unknown family: one sentence, no crash. And a disk
that is full: nothing is published, looking goes on."""
import json
import os
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from conftest import ENGRAMD, REPORT, ROOT, SLOW, Daemon, scaled
from helpers import TOUCH, committed, edit, fact, problem, say, state
from reference import TINY

GGUF = TINY / "gguf_q" / "gguf_q.gguf"
HUB = TINY / "gqa_tied"
SHARDED = TINY / "mha_bf16"


def serve(model, data, *options):
    """(exit status or None when it served, its stderr's last line when it did not)"""
    p = subprocess.Popen([ENGRAMD, "serve", "--model", str(model), "--data", str(data), "--listen", "127.0.0.1:0",
                          "--log-level", "error", *options],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    ready = p.stdout.readline()
    if ready:
        p.terminate()
        _, err = p.communicate(timeout=60 * SLOW)
        assert p.returncode == 0 and not REPORT.search(err), err
        return None, ""
    _, err = p.communicate(timeout=60 * SLOW)
    assert not REPORT.search(err), err
    return p.returncode, err


def refused(model, data, *words):
    status, err = serve(model, data)
    assert status is not None, "it was served"
    assert status > 0, f"ended by signal {-status}"
    assert err.startswith("engramd: ") and err.count("\n") == 1 and err.endswith("\n"), err
    for word in words:
        assert str(word) in err, err
    return err


# ---- GGUF ------------------------------------------------------------------------------------

def gguf_layout(data):
    """Offsets of what a GGUF file declares: {"tensors": [(name, at, info offset)…], "data": offset}."""
    at, sizes = 8, {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    u64 = lambda o: struct.unpack_from("<Q", data, o)[0]
    u32 = lambda o: struct.unpack_from("<I", data, o)[0]
    n_tensors, n_keys, at = u64(8), u64(16), 24

    def skip(kind, at):
        if kind == 8:
            return at + 8 + u64(at)
        if kind == 9:
            item, n, at = u32(at), u64(at + 4), at + 12
            for _ in range(n):
                at = skip(item, at)
            return at
        return at + sizes[kind]
    keys = {}
    for _ in range(n_keys):
        name = data[at + 8:at + 8 + u64(at)].decode()
        at += 8 + u64(at)
        keys[name] = at
        at = skip(u32(at), at + 4)
    tensors = []
    for _ in range(n_tensors):
        begin, name = at, data[at + 8:at + 8 + u64(at)].decode()
        at += 8 + u64(at)
        dims = u32(at)
        tensors.append((name, begin, at, at + 4 + 8 * dims))  # name, row, count of dims, type
        at += 4 + 8 * dims + 4 + 8
    return {"keys": keys, "tensors": tensors, "end": at, "data": (at + 31) // 32 * 32}


@pytest.fixture(scope="module")
def gguf():
    data = GGUF.read_bytes()
    return data, gguf_layout(data)


def patched(data, offset, value):
    return data[:offset] + value + data[offset + len(value):]


@pytest.fixture
def broken(tmp_path):
    def write(data):
        path = tmp_path / "broken.gguf"
        path.write_bytes(data)
        return path
    return write


def test_the_files_broken_below_are_good(tmp_path):
    for i, model in enumerate((GGUF, HUB, SHARDED)):
        assert serve(model, tmp_path / str(i)) == (None, "")


def test_a_gguf_file_cut_short(gguf, broken, tmp_path):
    data, layout = gguf
    rng = random.Random(1)
    cuts = [0, 1, 3, 4, 7, 8, 12, 23, 24, 31, layout["data"] - 1, layout["data"], len(data) - 1]
    cuts += [rng.randrange(len(data)) for _ in range(scaled(25))]
    for n in cuts:
        err = refused(broken(data[:n]), tmp_path / "data", "broken.gguf")
        assert n < 8 or re.search(r"byte \d+|\d+ bytes|\b%d\b" % n, err), f"no offset is named: {err}"
        if n > layout["data"]:
            assert any(name in err for name, *_ in layout["tensors"]), f"no tensor is named: {err}"
    assert serve(GGUF, tmp_path / "data") == (None, "")  # nothing of the broken ones is in the ledger


U64 = lambda v: struct.pack("<Q", v)
U32 = lambda v: struct.pack("<I", v)


@pytest.mark.parametrize("name", [
    "magic", "version 1", "version 99", "big endian", "2^63 tensors", "2^63 keys", "2^40 keys", "a key of 2^63 bytes",
    "a value of unknown type", "a tensor name of 2^62 bytes", "5 dimensions", "0 dimensions", "a dimension of 2^63",
    "a product past 2^64", "a wider matrix", "an unknown tensor type", "a tensor past the end", "an offset of 2^63",
    "an unaligned offset", "an unknown family", "no family", "a tensor missing", "too many layers", "an alignment of 3"])
def test_a_gguf_file_that_lies(gguf, broken, tmp_path, name):
    data, layout = gguf
    tensor, row, dims, kind = layout["tensors"][3]
    key = layout["keys"]
    family = data.index(b"llama", key["general.architecture"])
    change = {
        "magic": (0, b"GGUX"), "version 1": (4, U32(1)), "version 99": (4, U32(99)), "big endian": (4, struct.pack(">I", 3)),
        "2^63 tensors": (8, U64(1 << 63)), "2^63 keys": (16, U64(1 << 63)), "2^40 keys": (16, U64(1 << 40)),
        "a key of 2^63 bytes": (24, U64(1 << 63)),
        "a value of unknown type": (key["general.architecture"], U32(77)),
        "a tensor name of 2^62 bytes": (row, U64(1 << 62)), "5 dimensions": (dims, U32(5)), "0 dimensions": (dims, U32(0)),
        "a dimension of 2^63": (dims + 4, U64(1 << 63)), "a product past 2^64": (dims + 4, U64(1 << 40) + U64(1 << 40)),
        "a wider matrix": (dims + 4, U64(struct.unpack_from("<Q", data, dims + 4)[0] * 2)),
        "an unknown tensor type": (kind, U32(200)), "a tensor past the end": (kind + 4, U64(len(data) // 32 * 32)),
        "an offset of 2^63": (kind + 4, U64(1 << 63)), "an unaligned offset": (kind + 4, U64(7)),
        "an unknown family": (family, b"mamba"), "no family": (24 + 8, b"generaX"),
        "a tensor missing": (row + 8, b"X"), "too many layers": (key["llama.block_count"] + 4, U32(3)),
    }
    if name == "an alignment of 3":
        extra = U64(17) + b"general.alignment" + U32(4) + U32(3)
        bad = patched(data[:24] + extra + data[24:], 16, U64(struct.unpack_from("<Q", data, 16)[0] + 1))
    else:
        bad = patched(data, *change[name])
    words = {"an unknown family": ["mamba"], "a tensor past the end": [tensor], "an unknown tensor type": [tensor],
             "a wider matrix": [tensor], "5 dimensions": [tensor], "an unaligned offset": [tensor], "version 99": ["99"],
             "an offset of 2^63": [tensor], "a dimension of 2^63": [tensor]}
    refused(broken(bad), tmp_path / "data", "broken.gguf", *words.get(name, []))


def one_more(data, layout, name):
    """The same file with eight further numbers."""
    aligned = lambda b: b + bytes(-len(b) % 32)
    weights = aligned(data[layout["data"]:])
    row = U64(len(name)) + name.encode() + U32(1) + U64(8) + U32(0) + U64(len(weights))
    head = patched(data[:layout["end"]], 8, U64(len(layout["tensors"]) + 1)) + row
    return aligned(head) + weights + struct.pack("<8f", *range(8))


@pytest.mark.parametrize("name", ["blk.0.ffn_up.bias", "blk.1.attn_q_norm.weight", "blk.0.attn_output.bias", "blk.2.attn_q.weight",
                                  "blk.0.ffn_gate.bias", "output.bias", "anything"])
def test_a_gguf_file_with_a_tensor_nobody_computes_with(gguf, broken, tmp_path, name):
    refused(broken(one_more(*gguf, name)), tmp_path / "data", "broken.gguf", name)


def test_lists_of_rotary_divisors_are_no_such_tensor(gguf, broken, tmp_path):
    assert serve(broken(one_more(*gguf, "rope_factors_long.weight")), tmp_path / "data") == (None, "")


def test_a_family_has_only_the_biases_it_has_names_for(broken, tmp_path):
    data = (ROOT / "tests/golden/families/qwen2/twin.gguf").read_bytes()
    assert serve(broken(data), tmp_path / "good") == (None, "")
    refused(broken(one_more(data, gguf_layout(data), "blk.0.attn_output.bias")), tmp_path / "data", "blk.0.attn_output.bias has no place")


def test_gguf_headers_with_wrong_bytes(gguf, broken, tmp_path):
    """Whatever a damaged header says: it is served, or refused in one sentence."""
    data, layout = gguf
    rng, refusals = random.Random(4), 0
    for n in range(scaled(60, 10)):
        bad = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(layout["data"])
            bad[at] = rng.choice([0, 1, 0x7f, 0x80, 0xff, bad[at] ^ (1 << rng.randrange(8))])
        status, err = serve(broken(bytes(bad)), tmp_path / f"data{n}")
        if status is not None:
            refusals += 1
            assert status > 0 and err.startswith("engramd: ") and err.count("\n") == 1, (n, status, err)
    assert refusals > 0


# ---- hub directories -------------------------------------------------------------------------

@pytest.fixture
def hub(tmp_path):
    """hub(source, {file: change}): a copy with files changed (a function of bytes) or left out (None)."""
    def make(changes, source=HUB):
        to = tmp_path / "hub"
        shutil.copytree(source, to, ignore=lambda _, names: [n for n in names if n.startswith("expected") or n.endswith(".gguf")])
        for name, change in changes.items():
            if change is None:
                (to / name).unlink()
            else:
                (to / name).write_bytes(change((to / name).read_bytes()))
        return to
    return make


def config(**more):
    return lambda b: json.dumps({**json.loads(b), **more}).encode()


def header(change):
    """Of a safetensors file: change(dict) → dict, lengths kept right."""
    def f(b):
        n = struct.unpack("<Q", b[:8])[0]
        new = json.dumps(change(json.loads(b[8:8 + n]))).encode()
        return struct.pack("<Q", len(new)) + new + b[8 + n:]
    return f


def tensor(**more):
    name = "model.layers.1.mlp.up_proj.weight"
    return header(lambda h: {**h, name: {**h[name], **more}})


UP = "model.layers.1.mlp.up_proj.weight"
HUBS = {
    "no config": ({"config.json": None}, ["config.json"]),
    "no tokenizer": ({"tokenizer.json": None}, ["tokenizer.json"]),
    "no weights": ({"model.safetensors": None}, ["safetensors"]),
    "an empty config": ({"config.json": lambda b: b""}, ["config.json"]),
    "half a config": ({"config.json": lambda b: b[:50]}, ["config.json"]),
    "a config that is a list": ({"config.json": lambda b: b"[]"}, ["config.json"]),
    "an unknown family": ({"config.json": config(model_type="mamba", architectures=["MambaForCausalLM"])}, ["hub", "mamba"]),
    "no layers": ({"config.json": config(num_hidden_layers=0)}, ["hub", "layers", "1..1024"]),
    "more layers than there are": ({"config.json": config(num_hidden_layers=4)}, ["model.layers.3."]),
    "fewer layers than there are": ({"config.json": config(num_hidden_layers=2)}, ["config.json leaves out tensor model.layers.2."]),
    "another width": ({"config.json": config(hidden_size=64)}, ["hub", "model.embed_tokens.weight", "[300,32]", "[300,64]"]),
    "heads that do not divide": ({"config.json": config(num_key_value_heads=3)}, ["heads"]),
    "width as text": ({"config.json": config(hidden_size="32")}, ["hidden_size"]),
    "another activation": ({"config.json": config(hidden_act="quick_gelu")}, ["quick_gelu"]),
    "an unknown rope": ({"config.json": config(rope_scaling={"rope_type": "spiral", "factor": 2})}, ["config.json"]),
    "half a tokenizer": ({"tokenizer.json": lambda b: b[:1000]}, ["tokenizer.json"]),
    "another kind of tokenizer": ({"tokenizer.json": lambda b: b.replace(b'"BPE"', b'"Unigram"')}, ["tokenizer.json", "Unigram"]),
    "a merge of nothing": ({"tokenizer.json": lambda b: json.dumps({**json.loads(b), "model": {**json.loads(b)["model"],
                            "merges": [["zz", "qq"]]}}).encode()}, ["tokenizer", "hub", "zz"]),
    "weights cut short": ({"model.safetensors": lambda b: b[:-1]}, ["model.safetensors"]),
    "weights cut in the header": ({"model.safetensors": lambda b: b[:100]}, ["model.safetensors"]),
    "weights with a tail": ({"model.safetensors": lambda b: b + b"xx"}, ["model.safetensors"]),
    "empty weights": ({"model.safetensors": lambda b: b""}, ["model.safetensors"]),
    "a header of 2^63 bytes": ({"model.safetensors": lambda b: struct.pack("<Q", 1 << 63) + b[8:]}, ["model.safetensors"]),
    "a header of a gigabyte": ({"model.safetensors": lambda b: struct.pack("<Q", 1 << 30) + b[8:]}, ["model.safetensors"]),
    "a tensor past the end": ({"model.safetensors": tensor(data_offsets=[1 << 40, (1 << 40) + 6144])}, ["model.safetensors", "bytes"]),
    "a tensor that ends before it begins": ({"model.safetensors": tensor(data_offsets=[6144, 0])}, ["model.safetensors", UP]),
    "a negative offset": ({"model.safetensors": tensor(data_offsets=[-6144, 0])}, ["model.safetensors", UP]),
    "a shape that lies": ({"model.safetensors": tensor(shape=[48, 33])}, ["model.safetensors", UP]),
    "a shape past 2^64": ({"model.safetensors": tensor(shape=[1 << 40, 1 << 40])}, ["model.safetensors", UP]),
    "an unknown element type": ({"model.safetensors": tensor(dtype="F8")}, ["hub", UP, "is of type F8"]),
    "a weight of too many dimensions": ({"model.safetensors": tensor(shape=[1, 1, 1, 48, 32])}, ["hub", UP, "has 5 dimensions"]),
    "a tensor missing": ({"model.safetensors": header(lambda h: {("gone" if k == UP else k): v for k, v in h.items()})}, [UP]),
}


@pytest.mark.parametrize("name", HUBS)
def test_a_hub_directory_that_lies(hub, tmp_path, name):
    changes, words = HUBS[name]
    refused(hub(changes), tmp_path / "data", *words)


def test_biases_that_config_json_leaves_out(tmp_path):
    shutil.copytree(ROOT / "tests" / "golden" / "families" / "llama", tmp_path / "llama")
    described = json.loads((tmp_path / "llama" / "config.json").read_text())
    (tmp_path / "llama" / "config.json").write_text(json.dumps({**described, "attention_bias": False}))
    refused(tmp_path / "llama", tmp_path / "data", "config.json leaves out tensor model.layers.0.self_attn.q_proj.bias")


@pytest.mark.parametrize("name, changes, words", [
    ("a shard missing", {"model-00002-of-00003.safetensors": None}, ["model-00002-of-00003.safetensors"]),
    ("a shard cut short", {"model-00003-of-00003.safetensors": lambda b: b[:-5]}, ["model-00003-of-00003.safetensors"]),
    ("an index that names nothing", {"model.safetensors.index.json": lambda b: b"{}"}, ["model.safetensors.index.json"]),
    ("an index that leads outside", {"model.safetensors.index.json": lambda b: b.replace(b"model-00001", b"../odel-00001")},
     ["model.safetensors.index.json"]),
    ("an index that errs", {"model.safetensors.index.json": lambda b: b.replace(b"model-00001", b"model-00002")}, ["safetensors"]),
])
def test_shards_that_lie(hub, tmp_path, name, changes, words):
    refused(hub(changes, SHARDED), tmp_path / "data", *words)


def test_what_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "empty", tmp_path / "text", tmp_path / "absent", tmp_path / "fifo", Path("/dev/null")):
        refused(path, tmp_path / "data", path)


def test_a_damaged_weight_is_another_base(tmp_path):
    """No reader can know a wrong number; the digest does."""
    data = tmp_path / "data"
    assert serve(GGUF, data)[0] is None
    bad = bytearray(GGUF.read_bytes())
    bad[-1] ^= 0x40
    (tmp_path / "gguf_q.gguf").write_bytes(bad)
    refused(tmp_path / "gguf_q.gguf", data, "--add-model")


def test_a_locked_ledger_is_refused(fresh_daemon):
    err = refused(HUB, fresh_daemon.data, fresh_daemon.data)
    assert re.search("lock|use", err), err
    assert say(fresh_daemon)


# ---- a full disk -----------------------------------------------------------------------------

class SmallDisk(Daemon):
    """Its data directory is a small file system that only the daemon sees; we reach it through /proc."""

    def spawn(self):
        self.log = open(self.log_path, "ab")
        Path(self.data).mkdir()
        script = 'mount -t tmpfs -o size=3m tmpfs "$1" && shift && exec "$@"'
        argv = ["unshare", "--mount", "sh", "-c", script, "sh", self.data, ENGRAMD, "serve", "--model", self.model,
                "--data", self.data + "/ledger", "--listen", "127.0.0.1:0", *self.options]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=self.log, cwd=ROOT)
        return self

    @property
    def disk(self):
        return Path(f"/proc/{self.process.pid}/root{self.data}")

    def fill(self):
        with open(self.disk / "filler", "wb", buffering=0) as f:
            for size in (65536, 4096, 512, 1):
                try:
                    while f.write(b"x" * size):
                        pass
                except OSError:
                    pass

    def empty(self):
        (self.disk / "filler").unlink()


@pytest.fixture
def small(tmp_path):
    may = subprocess.run(["unshare", "--mount", "sh", "-c", f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"], capture_output=True)
    if may.returncode != 0:
        pytest.skip("no mount of our own here; full disks are also tested in tests/unit")
    d = SmallDisk(tmp_path / "disk").start()
    yield d
    d.stop()




def test_a_full_disk_publishes_nothing_and_looking_goes_on(small):
    d = small
    r = committed(edit(d))
    before = state(d)
    d.fill()
    for _ in range(3):
        problem(edit(d, fact("one", "It is"), TOUCH), 507, "no-space")
        problem(d.post("/v1/rollback", {"to": "base"}), 507, "no-space")
    assert state(d) == before and say(d)["text"] == " Lyon"
    ask = {"inputs": ["a full disk"], "reads": [{"site": "blocks.0.attn.hook_z", "pos": -1}]}
    a = d.post("/v1/trace", ask)
    assert a.status == 200 and a.json["run"] is None and "not-recorded" in a.json["warnings"] and a.json["captures"]
    tuco = d.post("/v1/tuco", {"prompts": ["It is"]})
    assert tuco.status == 200 and tuco.json["run"] is None and tuco.json["scores"][0]["tuco"] > 0
    ready = d.get("/readyz")
    assert ready.status == 503 and ready.json["checks"]["writer"] == "disk-full"
    d.empty()
    again = committed(edit(d, fact("one", "It is"), TOUCH))
    assert again["seq"] == 3 and again["parent"]["revision"] == r["revision"]
    assert d.post("/v1/trace", ask).json["run"]
    assert d.get("/readyz").json["checks"]["writer"] == "ok"
    assert d.get("/v1/audit/verify").json["ok"] is True


def test_a_key_is_not_used_up_by_a_full_disk(small):
    d, key = small, {"Idempotency-Key": "again"}
    d.fill()
    problem(edit(d, headers=key), 507)
    d.empty()
    assert committed(edit(d, headers=key))["seq"] == 2
    assert len(d.revisions()) == 2
