#!/usr/bin/env python3
"""A real model of another family, end to end: Gemma 3 270M from its K-quant GGUF (tools/models.tsv),
next-token logits and a greedy continuation against transformers reading the same file.
"""
import os
import subprocess
import sys

import common
from texts import TEXTS

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CONTINUED = ["Once upon a time", "The capital of France is", "def fibonacci(n):\n", "Das Wetter ist heute"]
TOKENS = 24


def fetch(default):
    cache = os.environ.get("ENGRAM_CACHE") or os.path.dirname(os.path.abspath(default))
    done = subprocess.run([os.path.join(ROOT, "tools", "model.sh"), cache, "gemma3"], stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1] if done.returncode == 0 else None


def continued(model, ids):
    import torch
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
    return out[0, len(ids):].tolist()


def main():
    args = common.arguments(__doc__).parse_args()
    args.model, args.url = fetch(args.model), None
    if not args.model:
        sys.exit("gemma3: the model could not be fetched")
    tally = common.Tally()
    with common.daemon(args) as client:
        answers = []
        for name, text in TEXTS:
            ids = client.call("POST", "/v1/tokenize", {"input": {"text": text}, "bos": True})["ids"]
            answers.append((f"{name}, {len(ids)} tokens", ids, client.next_token_logits(ids, "base")[0]))
        said = [client.call("POST", "/v1/generate", {"prompt": p, "max_tokens": TOKENS}) for p in CONTINUED]
    model = common.load_reference(args.model, args.threads)
    for name, ids, ours in answers:
        common.compare_logits(tally, name, ours, common.reference_logits(model, ids))
    for prompt, a in zip(CONTINUED, said, strict=True):
        want = continued(model, a["prompt_ids"])
        tally.check(a["ids"] == want[:len(a["ids"])], f"continuation of {prompt!r}: {a['text']!r}")
    tally.finish()


if __name__ == "__main__":
    main()
