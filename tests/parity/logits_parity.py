#!/usr/bin/env python3
"""Next-token logits of the `base` view against transformers reading the same file, fed the same ids.

The ids come from the daemon's own tokenizer; token parity is another script's subject. The daemon
answers its 1000 highest logits, each is compared, and the reference's first 20 must be among them.

--dump COMMAND compares without HTTP: `COMMAND MODEL` reads one line of ids per input from its
standard input and writes the V float32 logits of the last position of each to its standard output;
--ids FILE then gives the ids, one input a line.
"""
import array
import shlex
import subprocess

import common
from texts import TEXTS


def from_dump(args):
    lines = [line.split() for line in open(args.ids, encoding="ascii") if line.strip()]
    out = subprocess.run(shlex.split(args.dump) + [args.model], stdout=subprocess.PIPE, check=True,
                         input="".join(" ".join(line) + "\n" for line in lines).encode()).stdout
    logits = array.array("f", out)
    vocab = len(logits) // len(lines)
    for n, line in enumerate(lines):
        row = logits[n * vocab:(n + 1) * vocab]
        yield f"line {n + 1}", [int(i) for i in line], dict(enumerate(row))


def from_daemon(args):
    with common.daemon(args) as client:
        for name, text in TEXTS:
            ids = client.call("POST", "/v1/tokenize", {"input": {"text": text}})["ids"]
            yield f"{name}, {len(ids)} tokens", ids, client.next_token_logits(ids, "base")[0]


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--dump", metavar="COMMAND")
    parser.add_argument("--ids", metavar="FILE")
    args = parser.parse_args()
    if not args.model or bool(args.dump) != bool(args.ids):
        parser.error("--model is needed, and --dump and --ids come together")
    tally = common.Tally()
    answers = list(from_dump(args) if args.dump else from_daemon(args))
    model = common.load_reference(args.model, args.threads)
    for name, ids, ours in answers:
        common.compare_logits(tally, name, ours, common.reference_logits(model, ids))
    tally.finish()


if __name__ == "__main__":
    main()
