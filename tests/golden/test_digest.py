"""docs/digest.py against digests that make_tiny.py computed from values in memory, against the worked
example of docs/digest.md, and against directories that must not have one. Standard library only."""
import hashlib
import json
import pathlib
import shutil
import struct
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "golden" / "tiny"
HUB = sorted(p.parent.name for p in TINY.glob("*/config.json"))


def run(folder):
    return subprocess.run([sys.executable, str(ROOT / "docs" / "digest.py"), str(folder)],
                          capture_output=True, text=True, check=False)


def write(path, tensors, cut=0):
    """tensors: {name: (type, shape, bytes)}, in the order given."""
    header, data = {}, b""
    for name, (kind, shape, raw) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    raw = struct.pack("<Q", len(head)) + head + data
    path.write_bytes(raw[:len(raw) - cut])


def one(*values):
    return ("F32", [len(values)], struct.pack(f"<{len(values)}f", *values))


def test_every_tiny_model_is_there():
    assert HUB == ["gqa_tied", "gqa_untied_odd", "mha_bf16", "wide_head"]


@pytest.mark.parametrize("name", HUB)
def test_digest_of_a_tiny_model(name):
    expected = json.loads((TINY / name / "expected.json").read_text(encoding="utf-8"))["digest"]
    assert run(TINY / name).stdout.strip() == expected


def test_the_worked_example_of_the_manual(tmp_path):
    write(tmp_path / "model.safetensors", {"w": one(1, -2)})
    stream = (b"engramd.digest.1" + bytes.fromhex("01000000 77 03000000 463332 01000000 0200000000000000")
              + hashlib.sha256(bytes.fromhex("0000803f000000c0")).digest())
    expected = "sha256:" + hashlib.sha256(stream).hexdigest()
    assert run(tmp_path).stdout.strip() == expected
    manual = (ROOT / "docs" / "digest.md").read_text(encoding="utf-8")
    assert expected in manual
    words = iter(manual.replace("engramd.digest.1", "").split())
    assert all(f"{byte:02x}" in words for byte in stream), "the manual's bytes are others"


def test_the_order_in_the_file_does_not_count(tmp_path):
    a, b = {"b": one(1), "a.10": one(2), "a.2": one(3)}, {"a.2": one(3), "b": one(1), "a.10": one(2)}
    for folder, tensors in (("x", a), ("y", b)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "model.safetensors", tensors)
    assert run(tmp_path / "x").stdout == run(tmp_path / "y").stdout != ""


@pytest.mark.parametrize("other", [("F32", [2], struct.pack("<2f", 1, 2.0000002)),
                                   ("F32", [2, 1], struct.pack("<2f", 1, 2)),
                                   ("F16", [4], struct.pack("<2f", 1, 2)),
                                   ("BF16", [4], struct.pack("<2f", 1, 2))])
def test_value_shape_and_type_count(tmp_path, other):
    seen = set()
    for tensor in (one(1, 2), other):
        write(tmp_path / "model.safetensors", {"w": tensor})
        seen.add(run(tmp_path).stdout)
    assert len(seen) == 2 and "" not in seen


def test_a_tied_head_counts_once(tmp_path):
    embed = {"model.embed_tokens.weight": one(1, 2)}
    both = embed | {"lm_head.weight": one(1, 2)}

    def of(tensors, tied):
        write(tmp_path / "model.safetensors", tensors)
        (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
        return run(tmp_path).stdout

    assert of(both, True) == of(embed, True) == of(embed, False) != of(both, False)


def test_shards_and_one_file_agree(tmp_path):
    write(tmp_path / "model.safetensors", {"a": one(1), "b": one(2)})
    whole = run(tmp_path).stdout
    (tmp_path / "model.safetensors").unlink()
    write(tmp_path / "s1.safetensors", {"b": one(2)})
    write(tmp_path / "s2.safetensors", {"a": one(1)})
    index = {"weight_map": {"a": "s2.safetensors", "b": "s1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert run(tmp_path).stdout == whole != ""


@pytest.mark.parametrize("make", [
    lambda p: write(p, {"w": one(1, 2)}, cut=1),
    lambda p: write(p, {"w": ("F32", [3], b"\0" * 8)}),
    lambda p: write(p, {"w": ("I64", [1], b"\0" * 8)}),
    lambda p: p.write_bytes(struct.pack("<Q", 1 << 60) + b"{}"),
    lambda p: p.write_bytes(b"GGUF"),
    lambda p: None])
def test_a_broken_directory_has_no_digest(tmp_path, make):
    make(tmp_path / "model.safetensors")
    result = run(tmp_path)
    assert result.returncode and not result.stdout and result.stderr.count("\n") == 1, result


def test_one_changed_bit_in_a_tiny_model_shows(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(TINY / "gqa_tied", folder)
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    assert run(folder).stdout not in ("", run(TINY / "gqa_tied").stdout)
