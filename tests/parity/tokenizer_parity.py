#!/usr/bin/env python3
"""Token ids against two other implementations, live, over all of Unicode.

    tokenizer_parity.py --model MODEL.gguf --engramd build/engramd [--tokenize TOOL] [--quick]

TOOL is tests/tools/tokenize_main.c, built; by default `tokenize` beside engramd. References: a `tokenizers` pipeline built from the GGUF file's own vocabulary, merges and
pre-tokenizer, and llama.cpp's tokenizer on the same file (skipped, saying so, when
xllamacpp is not installed). Ours must equal `tokenizers` everywhere, and hence both wherever
the two agree; where they disagree, the code points are listed, and must be ones that
docs/decisions/unicode-tables.md explains.

A second part runs each pattern of core/text/pretokenize.def, NFC, and the flags of added tokens, on
tokenizer.json files made from the same vocabulary; a third each name that a GGUF file may give its
pre-tokenizer.
"""
import argparse
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unicodedata
import urllib.request

import gguf
import numpy
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
from common import Tally  # noqa: E402
import tokenizer_reference as reference  # noqa: E402
import torture  # noqa: E402

CODE_POINTS = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
BATCH = 20000

# Where llama.cpp and tokenizers may differ. Digits younger than llama.cpp's tables:
YOUNG_DIGITS = [(0x10D40, 0x10D49), (0x116D0, 0x116E3), (0x11BF0, 0x11BF9), (0x11DE0, 0x11DE9),
                (0x16130, 0x16139), (0x16D70, 0x16D79), (0x16FF4, 0x16FF6), (0x1CCF0, 0x1CCF9),
                (0x1E5F1, 0x1E5FA)]
# and characters with a byte the vocabulary lacks: both drop it, but only tokenizers then joins what
# is left and right of it.
WITHOUT_A_BYTE = [(0x04, 0x04), (0x06, 0x06), (0x13, 0x14), (0x16, 0x16), (0x1D, 0x1D), (0x40000, 0xBFFFF)]


def explained(text):
    return any(a <= ord(c) <= b for c in text for a, b in YOUNG_DIGITS + WITHOUT_A_BYTE)


class Ours:
    """The C tokenizer on a pipe (tests/tools/tokenize_main.c)."""

    def __init__(self, tool, model):
        self.command = [tool, model]

    def ask(self, verb, payloads):
        sent = b"".join(b"%s %d\n%s" % (verb.encode(), len(p), p) for p in payloads)
        run = subprocess.run(self.command, input=sent, stdout=subprocess.PIPE, check=True)
        lines = run.stdout.decode().splitlines()
        assert len(lines) == len(payloads), (len(lines), len(payloads))
        return lines

    def encode(self, texts, special=False):
        out = []
        for line in self.ask("special" if special else "encode", [t.encode() for t in texts]):
            kind, _, rest = line.partition(" ")
            out.append([int(x) for x in rest.split()] if kind == "ids" else line)
        return out

    def decode(self, id_lists, keep_special):
        lines = self.ask("decode" if keep_special else "plain",
                         [" ".join(map(str, ids)).encode() for ids in id_lists])
        return [bytes.fromhex(line[4:]).decode() for line in lines]


class LlamaCpp:
    """llama.cpp's tokenizer through its own server, inside this process."""

    SEPARATOR = 999_999_999  # an id no vocabulary has: integers among the texts come back as they are

    def __init__(self, path):
        import xllamacpp
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel, params.warmup = path, 64, 1, False
        self.server = xllamacpp.Server(params)
        self.version = xllamacpp.BUILD_INFO

    def encode(self, texts, special=False):
        mixed = [x for t in texts for x in (t, self.SEPARATOR)]
        body = json.dumps({"content": mixed, "add_special": False, "parse_special": special}).encode()
        request = urllib.request.Request(self.server.listening_address + "/tokenize", body,
                                         {"Content-Type": "application/json"})
        out = [[]]
        for i in json.load(urllib.request.urlopen(request))["tokens"]:
            if i == self.SEPARATOR:
                out.append([])
            else:
                out[-1].append(i)
        return out[:-1]


def sweep_text(c):
    """One code point among every kind of neighbour that the patterns tell apart."""
    x = chr(c)
    return f"{x} a{x}b 1{x}2 {x}{x}\n!{x}?'{x} 's{x}\t{x}\r\n{x}  {x}A'{x}{x}S{x}a\n \n{x}"


def compare(tally, what, texts, ours, theirs):
    bad = [(t, a, b) for t, a, b in zip(texts, ours, theirs) if a != b]
    tally.check(not bad, f"{what}: {len(texts) - len(bad)} of {len(texts)} equal")
    for text, a, b in bad[:5]:
        print(f"      {text[:60]!r}\n        ours {str(a)[:300]}\n        theirs {str(b)[:300]}")


def ranges(code_points):
    out = []
    for c in sorted(code_points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return " ".join(f"U+{a:04X}" if a == b else f"U+{a:04X}..{b:04X}" for a, b in out)


def sweep(tally, ours, tok, llama, code_points, what):
    differ, wrong = [], []
    for k in range(0, len(code_points), BATCH):
        block = code_points[k:k + BATCH]
        texts = [sweep_text(c) for c in block]
        mine, theirs = ours.encode(texts), reference.ids(tok, texts)
        third = llama.encode(texts) if llama else theirs
        for c, x, y, z in zip(block, mine, theirs, third):
            if x != y:
                wrong.append(c)
            if y != z:
                differ.append(c)
    tally.check(not wrong, f"{what}: {len(code_points) - len(wrong)} of {len(code_points)} equal")
    if wrong:
        print("     differ on", ranges(wrong)[:2000])
    if llama:
        odd = [c for c in differ if not explained(chr(c))]
        tally.check(not odd, f"{what}: llama.cpp agrees or the difference is explained {ranges(odd)[:500]}")
        print(f"      they differ on {len(differ)}: {ranges(differ)[:400]}…")


def random_texts(n, seed):
    rng = random.Random(seed)
    pools = [list(range(1, 128)), list(range(1, 0x3000)), CODE_POINTS, [0x20, 0x0A, 0x0D, 0x09, 0xA0],
             [ord(c) for c in "0123456789'sdtmlrveSTLRVEM aé"], list(range(0x300, 0x370))]
    for _ in range(n):
        yield "".join(chr(rng.choice(rng.choice(pools))) for _ in range(rng.randint(1, 60)))


def mark_texts(n, seed):
    """Bases and combining marks of every class, old and young, in any order."""
    rng = random.Random(seed)
    marks = [c for c in CODE_POINTS if unicodedata.combining(chr(c))] + list(range(0x1AB0, 0x1AF0))
    marks += [*range(0x10EFA, 0x10F00), *range(0x11F40, 0x11F43), *range(0x1E4EC, 0x1E4F0), 0x11930, 0x11A7]
    bases = [0x61, 0x65, 0x20, 0x1100, 0xAC00, 0x1161, 0x11A8, 0x0627, 0x0B47, 0x11935, 0x212B, 0x0344]
    for _ in range(n):
        yield "".join(chr(rng.choice(bases if rng.random() < 0.3 else marks))
                      for _ in range(rng.randint(1, 12)))


def pattern_rows():
    """The regular expressions of core/text/pretokenize.def."""
    with open(os.path.join(ROOT, "core", "text", "pretokenize.def"), encoding="utf-8") as f:
        text = f.read()
    for name, body in re.findall(r'^SPLIT\((\w+), \w+, ((?:\s*"(?:[^"\\]|\\.)*")+)\)', text, re.M):
        yield name, "".join(json.loads(s) for s in re.findall(r'"(?:[^"\\]|\\.)*"', body))


def variants(tok):
    """Tokenizers over the same vocabulary, one per feature of tokenizer.json that we take."""
    model = json.loads(tok.to_str())["model"]
    base = dict(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]],
                special=["<|im_start|>", "<|im_end|>"])
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    for name, regex in pattern_rows():
        split = pre_tokenizers.Split(Regex(regex), "isolated")
        yield f"pattern {name}", reference.build(steps=[split, bytes_only], **base)
    yield "digit runs", reference.build(steps=[pre_tokenizers.Digits(individual_digits=False), gpt2], **base)
    yield "prefix space", reference.build(steps=[pre_tokenizers.Digits(individual_digits=True),
                                       pre_tokenizers.ByteLevel(add_prefix_space=True)], **base)
    yield "NFC", reference.build(steps=[gpt2], normalizer=normalizers.NFC(), **base)
    yield "ignore_merges", reference.build(steps=[gpt2], ignore_merges=True, **base)
    yield "unk_token", reference.build(steps=[gpt2], unk_token="<|endoftext|>", **base)
    yield "unk_token fused", reference.build(steps=[gpt2], unk_token="<|endoftext|>", fuse_unk=True, **base)


def added_tokens(tok):
    """Added tokens of every combination of flags, overlapping each other."""
    out = Tokenizer.from_str(tok.to_str())
    flags = list(itertools.product([False, True], repeat=4))
    for i, (single, left, right, normalized) in enumerate(flags):
        text = ["ab", "abc", "<x>", "<x>y", "e\u0301", "\u00e9t", "Q", "QQ", " z", "z ", "<", "<|", "é",
                "word", "or", "\n\n"][i]
        out.add_tokens([AddedToken(text, single_word=single, lstrip=left, rstrip=right,
                                   normalized=normalized)])
    return out


ADDED_ALPHABET = ["ab", "abc", "<x>", "y", "e\u0301", "\u00e9t", "Q", " ", "  ", "z", "<|im_start|>", "<|",
                  "word", "or", "\n", "1", "_", "\u00a0", "é", "<", "t", "\U0001F600", "-", "\u0897"]


def added_texts(n, seed):
    rng = random.Random(seed)
    return ["".join(rng.choice(ADDED_ALPHABET) for _ in range(rng.randint(1, 12))) for _ in range(n)]


def part_file(tally, path, tool, quick):
    tok, ours = reference.pipeline(path), Ours(tool, path)
    try:
        llama = LlamaCpp(path)
        print("llama.cpp", llama.version)
    except ImportError:
        llama = None
        print("skip llama.cpp: xllamacpp is not installed")
    texts = torture.texts() + list(random_texts(3000, 1))
    for special in (False, True):
        a, b = ours.encode(texts, special), reference.ids(tok, texts, special)
        compare(tally, f"torture and random texts, special={special}", texts, a, b)
        if llama:
            c = llama.encode(texts, special)
            odd = [t for t, x, y in zip(texts, b, c) if x != y and not explained(t)]
            tally.check(not odd, f"… llama.cpp agrees or the difference is explained {odd[:3]}")
    ids = reference.ids(tok, texts, True)
    for keep in (True, False):
        theirs = [tok.decode(i, skip_special_tokens=not keep) for i in ids]
        compare(tally, f"decode, keep special={keep}", texts, ours.decode(ids, keep), theirs)
    rng = random.Random(2)
    noise = [[rng.randrange(tok.get_vocab_size()) for _ in range(40)] for _ in range(500)]
    noise += [[rng.randrange(100, 260) for _ in range(12)] for _ in range(2000)]
    compare(tally, "decode of random ids", [str(n) for n in noise], ours.decode(noise, True),
                [tok.decode(i, skip_special_tokens=False) for i in noise])
    everything = CODE_POINTS[::37] if quick else CODE_POINTS
    sweep(tally, ours, tok, llama, everything, "sweep over all code points")
    return tok


def part_variants(tally, tok, tool, quick):
    texts = torture.texts() + list(random_texts(1000, 3)) + added_texts(200, 4)
    texts += list(mark_texts(20000, 6))
    assigned = [c for c in CODE_POINTS if c < 0x30000 and unicodedata.category(chr(c)) != "Co"]
    chosen = assigned[::101] if quick else assigned[::7] + torture.boundaries()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        for name, other in variants(tok):
            other.save(path)
            ours = Ours(tool, path)
            compare(tally, name, texts, ours.encode(texts), reference.ids(other, texts))
            sweep(tally, ours, other, None, chosen, f"{name}, sweep")
        for normalizer in (None, normalizers.NFC()):
            other = Tokenizer.from_str(tok.to_str())
            if normalizer:
                other.normalizer = normalizer
            other = added_tokens(other)
            other.save(path)
            ours = Ours(tool, path)
            many = added_texts(4000, 5)
            for special in (False, True):
                compare(tally, f"added tokens, {normalizer}, special={special}", many,
                            ours.encode(many, special), reference.ids(other, many, special))


def named_rows():
    """(name, ignore_merges, nfc, splits) of core/text/pretokenize.def."""
    with open(os.path.join(ROOT, "core", "text", "pretokenize.def"), encoding="utf-8") as f:
        for name, ignore, nfc, splits in re.findall(r'^PRE\("([^"]+)", (\w+), (\w+), (.+)\)$', f.read(), re.M):
            yield name, ignore == "true", nfc == "true", splits.replace("SPLIT_", "").split(", ")


def write_gguf(path, pre, vocab, merges, kinds):
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(vocab)
    w.add_token_types(kinds)
    w.add_token_merges(merges)
    w.add_tensor("output_norm.weight", numpy.ones(4, numpy.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def part_names(tally, tok, tool, source):
    fields = gguf.GGUFReader(source).fields
    vocab, merges, kinds = (fields["tokenizer.ggml." + k].contents() for k in ("tokens", "merges", "token_type"))
    texts, regexes = torture.texts() + list(random_texts(2000, 7)) + list(mark_texts(2000, 8)), dict(pattern_rows())
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "vocab.gguf")
        for name, ignore, nfc, splits in named_rows():
            write_gguf(path, name, vocab, merges, kinds)
            steps = [pre_tokenizers.Digits(individual_digits=True) if s == "DIGIT"
                     else pre_tokenizers.Split(Regex(regexes[s]), "isolated") for s in splits]
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
            other = reference.build({t: i for i, t in enumerate(vocab)}, [tuple(m.split(" ")) for m in merges],
                                    ["<|im_start|>"], steps, normalizers.NFC() if nfc else None, ignore_merges=ignore)
            compare(tally, f"GGUF pre-tokenizer {name}", texts, Ours(tool, path).encode(texts), reference.ids(other, texts))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", metavar="GGUF", required=True)
    p.add_argument("--engramd", metavar="BINARY", default="build/engramd")
    p.add_argument("--tokenize", metavar="TOOL")
    p.add_argument("--quick", action="store_true", help="a sample of the code points")
    a = p.parse_args()
    tool = a.tokenize or os.path.join(os.path.dirname(a.engramd) or ".", "tokenize")
    print("tokenizers", tokenizers.__version__)
    tally = Tally()
    tok = part_file(tally, a.model, os.path.abspath(tool), a.quick)
    part_variants(tally, tok, os.path.abspath(tool), a.quick)
    part_names(tally, tok, os.path.abspath(tool), a.model)
    tally.finish()


main()
