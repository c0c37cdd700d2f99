#!/usr/bin/env python3
"""Encoding and decoding on one core beside Hugging Face `tokenizers`, same text, same tokenizers, same run.

    .cache/parity/bin/python bench/bench_tokenizer.py build/bench_tokenizer MODEL.gguf [SENTENCEPIECE.gguf]

The default model's byte-level BPE, and a SentencePiece vocabulary: a real one where its file is named, else
one trained here. A few megabytes of mixed text: prose of the system's documentation in many languages, code,
white space and numbers, as one text and as many of some four kilobytes. The ids must be equal, or nothing is
timed. `tokenizers` has its own caches warm and its parallelism off (its fast path, which keeps no offsets); each
side's best of the repeats counts, in processor time, which a busy machine disturbs least.
"""
import glob
import os
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
import tokenizers  # noqa: E402
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402

import tokenizer_reference as reference  # noqa: E402

REPEATS, MEGABYTES = 3, 4
MARK = "\u2581"


def mixed_text(size):
    """A third prose and data, a third code, a third text of many scripts, in pieces of some kilobytes."""
    sources = [glob.glob(os.path.join(ROOT, p), recursive=True) for p in
               ("**/*.md", "core/**/*.c", "tests/**/*.py", "tests/golden/tokenizer/*.json")]
    texts = []
    for names in sources:
        blob = "\n".join(open(n, encoding="utf-8").read() for n in sorted(names) if "/build/" not in n and "/." not in n)
        texts.append(blob.replace("\\u", " ") if "{" == blob[:1] else blob)
    import torture
    scripts = "\n".join(t for t in torture.FIXED if "\x01" not in t and "<|" not in t)
    scripts += ("\u4eca\u65e5\u306f\u3001\u826f\u3044\u5929\u6c17\u3067\u3059\u306d\u3002\u5317\u4eac\u662f\u4e2d\u56fd\u7684\u9996\u90fd\u3002 "
                "\u041c\u043e\u0441\u043a\u0432\u0430 \u2014 \u0441\u0442\u043e\u043b\u0438\u0446\u0430 \u0420\u043e\u0441\u0441\u0438\u0438. O\u00f9 est la biblioth\u00e8que? "
                "\u0397 \u0391\u03b8\u03ae\u03bd\u03b1 \u0395\u03bb\u03bb\u03ac\u03b4\u03b1. \U0001F600\U0001F680 ") * 8
    texts.append(scripts)
    out, at, total = [], [0] * len(texts), 0
    while total < size:
        for i, text in enumerate(texts):
            piece = text[at[i]:at[i] + 5000]
            at[i] = (at[i] + 5000) % max(1, len(text) - 2500)
            out.append(piece)
            total += len(piece.encode())
    return "".join(out)


def gguf_fields(path):
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    return lambda key: fields["tokenizer.ggml." + key].contents()


def sentencepiece_json(tokens, scores, kinds):
    """The same vocabulary as transformers converts it."""
    ids = {t: i for i, t in enumerate(tokens)}
    merges = []
    for token, i in ids.items():
        if kinds[i] not in (1, 4):
            continue
        for k in range(1, len(token)):
            left, right = ids.get(token[:k]), ids.get(token[k:])
            if left is not None and right is not None and kinds[left] in (1, 4) and kinds[right] in (1, 4):
                merges.append((-scores[i], i, left, right))
    merges = [(tokens[a], tokens[b]) for _, _, a, b in sorted(merges)]
    unk = tokens[kinds.index(2)] if 2 in kinds else None
    tok = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    tok.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds) if k in (2, 3)])
    return tok


def trained_sentencepiece(text):
    """32000 tokens learnt from a part of the text itself."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Metaspace(MARK)
    tok.train_from_iterator([text[:1_500_000]], trainers.BpeTrainer(vocab_size=32000, show_progress=False, limit_alphabet=2000))
    vocab = tok.get_vocab()
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    learnt = sorted(vocab, key=vocab.get)
    kinds = [2, 3, 3] + [6] * 256 + [1] * len(learnt)
    return sentencepiece_json(tokens + learnt, [-float(i) for i in range(len(kinds))], kinds)


def best(work):
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        out = work()
        times.append(time.process_time() - start)
    return min(times), out


def cut(text, size):
    """At line ends, as files would."""
    out, at = [], 0
    while at < len(text):
        end = text.find("\n", at + size) + 1 or len(text)
        out.append(text[at:end])
        at = end
    return out


def compare(name, tool, ours, tok, texts, path):
    with open(path, "w", encoding="utf-8", newline="") as f:
        f.write("".join(t + "\0" for t in texts))
    encode, lists = best(lambda: [e.ids for e in tok.encode_batch_fast(texts, add_special_tokens=False)])
    ids = [i for some in lists for i in some]
    decode, _ = best(lambda: tok.decode_batch(lists, skip_special_tokens=False))
    run = subprocess.run([tool, ours, path, str(REPEATS)], stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    size, n, made, our_encode, our_decode = int(run[0]), int(run[1]), *map(float, run[2:5])
    total = 0
    for i in ids:
        total = (total * 31 + i) & 0xFFFFFFFFFFFFFFFF
    if n != len(ids) or run[5] != f"{total:016x}":
        print(f"{name}: the ids differ ({n} and {len(ids)}): nothing to compare")
        return False
    mb = size / 1e6
    print(f"{name}, {len(texts)} texts: {mb:.1f} MB, {n} ids, made in {made * 1e3:.0f} ms")
    for what, a, b in (("encode", our_encode, encode), ("decode", our_decode, decode)):
        print(f"  {what}: {mb / a:8.1f} MB/s   tokenizers {tokenizers.__version__}: {mb / b:6.1f} MB/s   {b / a:.1f} times as fast")
    return our_encode <= encode and our_decode <= decode


def main():
    tool, model = sys.argv[1:3]
    text, good = mixed_text(MEGABYTES * 1_000_000), True
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "texts")
        rows = [("byte-level BPE, the default model", model, reference.pipeline(model))]
        if len(sys.argv) > 3:
            get = gguf_fields(sys.argv[3])
            rows.append(("SentencePiece", sys.argv[3], sentencepiece_json(get("tokens"), get("scores"), get("token_type"))))
        else:
            tok, ours = trained_sentencepiece(text), os.path.join(folder, "tokenizer.json")
            tok.save(ours)
            rows.append(("SentencePiece", ours, tok))
        for name, ours, tok in rows:
            for texts in ([text], cut(text, 4000)):
                good &= compare(name, tool, ours, tok, texts, path)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
