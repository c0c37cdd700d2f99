#!/usr/bin/env python3
"""Recompute the digest of a model's weights from safetensors files.

    python3 docs/digest.py DIR             the digest, as engramd states it
    python3 docs/digest.py --tensors DIR   also each tensor's name, type, shape and SHA-256

DIR is a hub-style directory: what `engramd export` writes, or any model in float32 or 16-bit floats.
Needs nothing but Python. docs/digest.md explains the layout of the bytes.
"""
import argparse
import hashlib
import json
import math
import os
import struct
import sys

MAGIC = b"engramd.digest.1"
WIDTH = {"F32": 4, "F16": 2, "BF16": 2}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Refused(Exception):
    """The directory cannot be digested; the message says why."""


def weight_files(folder):
    """The safetensors files that together hold the model."""
    index = os.path.join(folder, "model.safetensors.index.json")
    if os.path.exists(index):
        with open(index, encoding="utf-8") as f:
            names = sorted(set(json.load(f)["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    return [os.path.join(folder, name) for name in names]


def tensors_of(path):
    """Yield (name, type, shape, SHA-256 of the element bytes) for each tensor of one file."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        head = f.read(8)
        header_size = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if header_size > size - 8:
            raise Refused(f"{path}: cut short, or not a safetensors file")
        header = json.loads(f.read(header_size))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if kind not in WIDTH:
                raise Refused(f"{path}: {name} is {kind}; only {', '.join(WIDTH)} have a digest")
            inside = 0 <= start <= end <= size - 8 - header_size
            if not inside or end - start != math.prod(shape) * WIDTH[kind]:
                raise Refused(f"{path}: {name} lies about its length")
            f.seek(8 + header_size + start)
            yield name, kind, shape, hash_range(f, end - start)


def hash_range(f, left):
    # Safetensors stores elements little-endian and in C order, which is what the digest asks for.
    sha = hashlib.sha256()
    while left:
        block = f.read(min(left, 1 << 20))
        if not block:
            raise Refused(f"{f.name}: cut short")
        sha.update(block)
        left -= len(block)
    return sha.digest()


def tied(folder):
    """Whether the output head is the embedding; then it counts once, as the embedding."""
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        return False
    with open(path, encoding="utf-8") as f:
        return bool(json.load(f).get("tie_word_embeddings", False))


def read(folder):
    """{name: (type, shape, SHA-256)} of every tensor that counts."""
    found = {}
    for path in weight_files(folder):
        for name, *rest in tensors_of(path):
            if name in found:
                raise Refused(f"{path}: {name} occurs twice")
            found[name] = tuple(rest)
    if tied(folder) and EMBEDDING in found:
        found.pop(HEAD, None)
    return found


def digest(tensors):
    """SHA-256 over the stream that docs/digest.md lays out."""
    sha = hashlib.sha256(MAGIC)
    for name in sorted(tensors, key=lambda n: n.encode("utf-8")):
        kind, shape, sha_of_elements = tensors[name]
        raw = name.encode("utf-8")
        sha.update(struct.pack("<I", len(raw)) + raw)
        sha.update(struct.pack("<I", len(kind)) + kind.encode("ascii"))
        sha.update(struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape))
        sha.update(sha_of_elements)
    return "sha256:" + sha.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--tensors", action="store_true")
    args = parser.parse_args()
    try:
        found = read(args.folder)
    except (Refused, OSError, ValueError, KeyError, TypeError) as e:
        sys.exit(f"digest.py: {e}")
    if args.tensors:
        for name in sorted(found, key=lambda n: n.encode("utf-8")):
            kind, shape, sha = found[name]
            print(f"{sha.hex()}  {kind:4}  {'x'.join(map(str, shape)):>12}  {name}")
    print(digest(found))


if __name__ == "__main__":
    main()
