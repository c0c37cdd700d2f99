#!/usr/bin/env python3
"""An exported view, opened by others: transformers must load it and compute what the daemon does.

With --engramd: serves --model on an empty ledger, makes one small edit, reads logits of `main`, stops
the daemon, exports `main` and `base`, and compares both. With --url and --export DIR: compares DIR with
--view of a running daemon. Either way docs/digest.py must find in the files the digest the daemon
states, and the exported tokenizer must give the daemon's ids.
"""
import os
import subprocess
import sys
import tempfile

import common
from texts import TEXTS

DIGEST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "digest.py")
EDIT = {"method": "locft", "message": "parity",
        "facts": [{"prompt": "The capital of France is", "subject": "France", "target_new": "Rome"}]}


def ask(client, view):
    """What the daemon says of a view: [(name, text, ids, logits)], digest."""
    rows = []
    for name, text in TEXTS:
        ids = client.call("POST", "/v1/tokenize", {"input": {"text": text, "bos": False}})["ids"]
        logits, used = client.next_token_logits(ids, view)
        rows.append((name, text, ids, logits))
    return rows, used["digest"]


def compare(tally, folder, view, rows, digest, threads):
    from transformers import AutoTokenizer
    found = subprocess.run([sys.executable, DIGEST, folder], capture_output=True, text=True)
    tally.check(found.stdout.strip() == digest,
                f"{view}: docs/digest.py says {found.stdout.strip() or found.stderr.strip()}, the daemon {digest}")
    model, tokenizer = common.load_reference(folder, threads), AutoTokenizer.from_pretrained(folder)
    for name, text, ids, ours in rows:
        theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
        if theirs != ids:
            tally.check(False, f"{view}, {name}: the exported tokenizer gives {theirs[:12]}, the daemon {ids[:12]}")
        common.compare_logits(tally, f"{view}, {name}", ours, common.reference_logits(model, ids))


def whole_way(tally, args):
    with tempfile.TemporaryDirectory(prefix="engramd-export-") as scratch:
        data = scratch + "/data"
        with common.daemon(args, data) as client:
            edit = client.call("POST", "/v1/edits", EDIT)
            tally.check(edit["status"] == "committed" and edit["digest"]["before"] != edit["digest"]["after"],
                        f"an edit: {edit['status']}")
            asked = {view: ask(client, view) for view in ("main", "base")}
        tally.check(asked["main"][0] != asked["base"][0], "the edit changed the logits")
        for view, (rows, digest) in asked.items():
            out = f"{scratch}/{view}"
            subprocess.run([args.engramd, "export", "--data", data, "--model", args.model, "--view", view,
                            "--out", out], check=True)
            compare(tally, out, view, rows, digest, args.threads)


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--export", metavar="DIR")
    parser.add_argument("--view", default="main")
    args = parser.parse_args()
    tally = common.Tally()
    if args.export:
        with common.daemon(args) as client:
            rows, digest = ask(client, args.view)
        compare(tally, args.export, args.view, rows, digest, args.threads)
    elif args.engramd and args.model and not args.url:
        whole_way(tally, args)
    else:
        parser.error("give --engramd and --model, or --url and --export")
    tally.finish()


if __name__ == "__main__":
    main()
