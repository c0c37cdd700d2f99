#!/usr/bin/env python3
"""Indirect object identification in GPT-2 small, against published numbers: patch grids as people who use
TransformerLens know them, computed by the daemon over HTTP.

The weights are looked for at $ENGRAM_GPT2 (a hub directory or a GGUF file, float32), then in gpt2/ beside the
default model. Where they are not, this says so and counts nothing. --model is not used but for its folder.
tests/api/test_ioi.py proves the script itself on a tiny GPT-2.

Source of the numbers: the stored outputs of TransformerLens' demos/Activation_Patching_in_TL_Demo.ipynb (grids;
demos/Attribution_Patching_Demo.ipynb has the same to 2e-6). Eight prompts, each patched into by its partner;
logit difference, mean over prompts, 0 where nothing is restored and 1 where all is.
"""
import glob
import os
import sys

import common

FORMATS = (("When John and Mary went to the shops,{} gave the bag to", " Mary", " John"),
           ("When Tom and James went to the park,{} gave the ball to", " Tom", " James"),
           ("When Dan and Sid went to the shops,{} gave an apple to", " Dan", " Sid"),
           ("After Martin and Amy went to the park,{} gave a drink to", " Martin", " Amy"))
IDS = {" Mary": 5335, " John": 1757, " Tom": 4186, " James": 3700, " Dan": 6035, " Sid": 15686, " Martin": 5780, " Amy": 14235}
BOS, LENGTH, FIRST, LAST = 50256, 15, 10, 14  # FIRST: the second mention of the subject, where partners differ
CLEAN = 3.5519  # mean logit difference; of the corrupted prompts the same with the other sign

RESID = {
    FIRST: [1.0000, 1.0007, 1.0011, 1.0003, 0.9949, 0.9676, 0.9675, 0.9228, 0.6565, 0.0273, -0.0268, -0.0057],
    11: [0, -0.0002, 0, 0.0009, 0.0054, 0.0313, 0.0310, 0.0513, 0.0239, 0.0314, 0.0210, 0.0143],
    LAST: [0, 0, -0.0006, -0.0009, -0.0016, -0.0010, -0.0006, 0.0170, 0.3187, 0.9384, 1.0048, 0.9914]}
Z = {(10, 7): -0.480, (5, 5): 0.343, (8, 6): 0.319, (11, 10): -0.278, (8, 10): 0.278, (9, 9): 0.264, (7, 9): 0.192,
     (6, 9): 0.130, (7, 3): 0.124, (3, 0): 0.116, (11, 2): -0.114, (10, 0): 0.084, (10, 10): 0.061, (9, 7): 0.058}
REST = 0.05  # every head that is not listed moves less

# One write at a time: (site, position or "all", {layer: value} or {(layer, head): value}).
CELLS = (
    ("hook_attn_out", FIRST, dict(enumerate([0.0355, -0.0030, -0.0019, 0.1546, -0.0054, 0.3521, 0.1199, 0.0133, -0.0015,
                                             -0.0001, -0.0009, 0]))),
    ("hook_attn_out", LAST, dict(enumerate([0, -0.0006, -0.0003, -0.0006, 0.0008, 0.0001, 0.0180, 0.2976, 0.5697, 0.2715,
                                            -0.1930, -0.4062]))),
    ("hook_mlp_out", FIRST, dict(enumerate([0.8508, 0.0089, 0.0135, 0.0019, -0.0198, 0.0965, -0.0159, 0.0104, -0.0125,
                                            -0.0003, 0.0014, 0]))),
    ("attn.hook_z", FIRST, {(5, 5): 0.343, (6, 9): 0.131, (3, 0): 0.116}),
    ("attn.hook_z", LAST, {(10, 7): -0.476, (8, 6): 0.311, (11, 10): -0.278, (8, 10): 0.269, (9, 9): 0.259, (7, 9): 0.186,
                           (7, 3): 0.118}),
    ("attn.hook_q", "all", {(10, 7): -0.513, (5, 5): 0.344, (11, 10): -0.337, (9, 9): 0.279, (6, 9): 0.130, (3, 0): 0.120,
                            (10, 0): 0.098, (11, 2): -0.086, (10, 10): 0.069, (10, 6): 0.052}),
    ("attn.hook_k", "all", {(10, 7): -0.131, (11, 10): -0.114}),
    ("attn.hook_v", "all", {(8, 6): 0.317, (8, 10): 0.273, (7, 9): 0.208, (7, 3): 0.133, (9, 7): 0.069}),
    ("attn.hook_pattern", "all", {(10, 7): -0.505, (5, 5): 0.344, (11, 10): -0.320, (9, 9): 0.277, (6, 9): 0.130,
                                  (3, 0): 0.115, (10, 0): 0.095, (11, 2): -0.078, (10, 10): 0.069, (10, 6): 0.051}),
)
TOLERANCE = 1.5e-3  # 1e-3 of float32 elsewhere, and half a unit of the last digit where three are given


# ---- what is measured ----------------------------------------------------------------------------------

def prompts():
    """[(text, answer, foil)]: partners follow each other, and name the other one."""
    for text, first, second in FORMATS:
        yield text.format(second), first, second
        yield text.format(first), second, first


def pairs(client):
    """[(clean ids, corrupt ids, answer's id, foil's id)]"""
    texts = list(prompts())
    ids = [client.call("POST", "/v1/tokenize", {"input": {"text": text}, "bos": True})["ids"] for text, _, _ in texts]
    return [(ids[i], ids[i ^ 1], IDS[answer], IDS[foil]) for i, (_, answer, foil) in enumerate(texts)]


def mean(grids):
    """Element by element of nested lists."""
    return [mean(parts) for parts in zip(*grids)] if isinstance(grids[0], (list, tuple)) else sum(grids) / len(grids)


class Measured:
    """All values normalised: 0 the corrupted prompts' mean logit difference, 1 the clean ones'."""

    def __init__(self, client, pairs):
        self.client, self.pairs = client, pairs
        answers = [[self.patch(pair, site, axis) for pair in pairs]
                   for site, axis in (("hook_resid_pre", "pos"), ("attn.hook_z", "head"))]
        self.clean, self.corrupt = (mean([a["baseline"][name] for a in answers[0]]) for name in ("clean", "corrupt"))
        self.resid, self.z = (self.normalised(mean([a["values"] for a in grid])) for grid in answers)

    def normalised(self, value):
        if isinstance(value, list):
            return [self.normalised(part) for part in value]
        return (value - self.corrupt) / (self.clean - self.corrupt)

    def patch(self, pair, site, axis):
        clean, corrupt, answer, foil = pair
        return self.client.call("POST", "/v1/patch", {
            "view": "base", "clean": {"ids": clean}, "corrupt": {"ids": corrupt}, "site": site, "axes": ["layer", axis],
            "direction": "denoise", "metric": {"kind": "logit_diff", "answer": answer, "foil": foil}})

    def cell(self, site, layer, head, pos):
        """One place patched in all prompts, as runs with a write."""
        inputs, writes = [], []
        where = {"site": f"blocks.{layer}.{site}", "pos": pos} | ({} if head is None else {"head": head})
        for i, (clean, corrupt, _, _) in enumerate(self.pairs):
            inputs += [{"id": f"clean{i}", "ids": clean}, {"id": f"corrupt{i}", "ids": corrupt}]
            writes.append({"input": f"corrupt{i}", "op": "set", "from": {"input": f"clean{i}"}, **where})
        reply = self.client.call("POST", "/v1/trace", {"view": "base", "inputs": inputs, "writes": writes,
                                                       "top_k": common.TOP_K, "top_pos": "last"})
        tops = [{t["id"]: t["logit"] for t in i["top"][0]} for i in reply["inputs"][1::2]]
        return self.normalised(mean([top[answer] - top[foil] for top, (_, _, answer, foil) in zip(tops, self.pairs)]))


# ---- and what is published ------------------------------------------------------------------------------

def compare_grids(tally, m):
    for name, value, want in (("clean", m.clean, CLEAN), ("corrupted", m.corrupt, -CLEAN)):
        tally.check(abs(value - want) <= 0.01, f"mean logit difference of the {name} prompts {value:.4f}, published {want}")
    before = max(abs(row[p]) for row in m.resid for p in range(FIRST))
    tally.check(before == 0, f"before the prompts differ the grid is 0 (largest {before:.1e})")
    for pos, want in RESID.items():
        off = max(abs(row[pos] - w) for row, w in zip(m.resid, want, strict=True))
        tally.check(off <= TOLERANCE, f"hook_resid_pre at position {pos}, all layers: off by {off:.1e}")
    off, head = max((abs(m.z[l][h] - want), (l, h)) for (l, h), want in Z.items())
    tally.check(off <= TOLERANCE, f"attn.hook_z, {len(Z)} heads: off by {off:.1e} at {head}")
    rest, head = max((abs(v), (l, h)) for l, row in enumerate(m.z) for h, v in enumerate(row) if (l, h) not in Z)
    tally.check(rest < REST + TOLERANCE, f"attn.hook_z, all other heads: at most {rest:.3f}, {head}")


def compare_cells(tally, m, cells=CELLS):
    for site, pos, values in cells:
        worst, where = 0, None
        for key, want in values.items():
            layer, head = key if isinstance(key, tuple) else (key, None)
            off = abs(m.cell(site, layer, head, pos) - want)
            worst, where = max((worst, where), (off, key), key=lambda pair: pair[0])
        tally.check(worst <= TOLERANCE, f"{site} at {pos}, {len(values)} places: off by {worst:.1e}"
                    + ("" if where is None else f" at {where}"))


def weights(model):
    """Where GPT-2 small is, or None."""
    named = os.environ.get("ENGRAM_GPT2")
    if named:
        if not os.path.exists(named):
            sys.exit(f"ENGRAM_GPT2: there is no {named}")
        return named
    folder = os.path.join(os.environ.get("ENGRAM_CACHE") or os.path.dirname(os.path.abspath(model or "x")), "gpt2")
    if os.path.exists(os.path.join(folder, "config.json")):
        return folder
    return next(iter(sorted(glob.glob(os.path.join(folder, "*.gguf")))), None)


def main():
    args = common.arguments(__doc__).parse_args()
    args.model, args.url = weights(args.model), None
    if args.model is None:
        print("skipped: GPT-2 small is not here (ENGRAM_GPT2, or gpt2/ beside the default model); nothing was compared")
        print("0 passed, 0 failed")
        return
    tally = common.Tally()
    with common.daemon(args) as client:
        (model,) = client.call("GET", "/v1/models")["models"]
        small = [model[k] for k in ("family", "layers", "heads", "width", "vocab")]
        if small != ["gpt2", 12, 12, 768, 50257]:
            sys.exit(f"{args.model} is not GPT-2 small: {small}")
        eight = pairs(client)
        tally.check(all(len(ids) == LENGTH and ids[0] == BOS for ids, _, _, _ in eight), f"prompts of {LENGTH} tokens with BOS")
        measured = Measured(client, eight)
        compare_grids(tally, measured)
        compare_cells(tally, measured)
    tally.finish()


if __name__ == "__main__":
    main()
