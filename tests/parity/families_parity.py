#!/usr/bin/env python3
"""Every family's tiny model, exported by the daemon and loaded by transformers: the logits must be those
of tests/golden/families, and docs/digest.py must find the digest the daemon states. Each model is read as
a hub directory and, where there is one, as GGUF, whose config.json the daemon makes up. --model is not
used.
"""
import json
import os
import subprocess
import sys
import tempfile

import common

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden", "families")
DIGEST = os.path.join(HERE, "..", "..", "docs", "digest.py")
TOLERANCE = 1e-5  # of the norm; transformers in float32 is off by 6e-7


def sources():
    for name in sorted(os.listdir(GOLDEN)):
        folder = os.path.join(GOLDEN, name)
        if os.path.isdir(folder):
            yield name, folder, folder
            if os.path.exists(folder + "/twin.gguf"):
                yield name + " as GGUF", folder, folder + "/twin.gguf"


def worst_logits(folder, out, threads):
    import torch
    from safetensors.torch import load_file
    want, worst = load_file(folder + "/expected.safetensors"), 0.0
    model = common.load_reference(out, threads)
    for s, ids in enumerate(json.load(open(folder + "/expected.json"))["sequences"]):
        with torch.no_grad():
            got = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        worst = max(worst, ((got - want[f"s{s}.logits"]).norm() / want[f"s{s}.logits"].norm()).item())
    return worst


def main():
    args = common.arguments(__doc__).parse_args()
    tally = common.Tally()
    for name, folder, args.model in sources():
        with tempfile.TemporaryDirectory(prefix="engramd-export-") as scratch:
            data, out = scratch + "/data", scratch + "/out"
            with common.daemon(args, data) as client:
                digest = client.call("POST", "/v1/trace", {"view": "base", "inputs": [{"id": "a", "ids": [3]}],
                                                           "top_k": 1, "top_pos": "last"})["view"]["digest"]
            subprocess.run([args.engramd, "export", "--data", data, "--model", args.model, "--view", "base",
                            "--out", out], check=True, stdout=subprocess.DEVNULL)
            found = subprocess.run([sys.executable, DIGEST, out], capture_output=True, text=True).stdout.strip()
            worst = worst_logits(folder, out, args.threads)
            tally.check(worst <= TOLERANCE and found == digest,
                        f"{name}: logits off by {worst:.1e}" + ("" if found == digest else f", digest {found}, not {digest}"))
    tally.finish()


if __name__ == "__main__":
    main()
