#!/usr/bin/env python3
"""Patch grids on identical token ids and the same float32 weights: ours, TransformerLens' helpers as shipped, a loop
of nnsight traces as its tutorial has it, and a strong rival written for this (bench/torch_grid.py).

    .cache/parity-tl/bin/python bench/rival_grids.py build/bench_grid MODEL [--threads 2] [--repeats 5] [--cells 24] [--quick]

All layers by 20 tokens of resid_pre, attn_out and mlp_out, and layers by heads of z, with the first difference at
token 1 and at token 14 (counted from 0). Ours and the strong rival: medians over whole grids, seconds and FLOPs with their
two base runs. The peers' cells all cost the same: --cells of them, spread over the grid, are timed once and scaled to the
grid; `timed` says how many (0: all of them). --quick: only the cells of four layers, one repeat, six cells.

FLOPs are analytic: matrix products and attention of the grid, a run of every row and the whole unembedding in each
of the peers' cells. `bound` is our seconds over those of our arithmetic at the SGEMM rate of the same run. The last
column is the largest difference from our values, over the cells that were timed; more than 1e-3 of their range, or
of a logit where that is smaller, and the exit status is 1.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "parity"))
import common  # noqa: E402

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import torch_grid  # noqa: E402
from nnsight import TransformersModel  # noqa: E402
from transformer_lens import patching  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

TOKENS, FIRSTS, ANSWER, FOIL, TOLERANCE = 20, (1, 14), 500, 600, 1e-3
GRIDS = {"resid_pre:pos": "hook_resid_pre:pos", "attn_out:pos": "hook_attn_out:pos", "mlp_out:pos": "hook_mlp_out:pos",
         "z:head": "attn.hook_z:head"}  # ours' spelling


def prompts(vocab, first):
    clean = [(i * 7919 + 13) % (vocab - 2) for i in range(TOKENS)]
    return clean, clean[:first] + [i + 1 for i in clean[first:]]


def timed(work):
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def run_flops(config):
    """One whole run with all its logits."""
    d, m, H, G = config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads
    e = getattr(config, "head_dim", None) or d // H
    layer = TOKENS * 2 * (d * e * (2 * H + 2 * G) + 3 * d * m) + 4 * H * e * TOKENS * TOKENS
    return config.num_hidden_layers * layer + 2 * TOKENS * d * config.vocab_size


# ---- the four ------------------------------------------------------------------------------------------


def ours(args, clean, corrupt, layers):
    """{grid: (seconds, flops, rate, values)} of one process."""
    command = [args.bench_grid, args.model, ",".join(map(str, clean)), ",".join(map(str, corrupt)), str(ANSWER), str(FOIL), *GRIDS.values(),
               "--threads", str(args.threads), "--repeats", str(args.repeats), "--json"]
    if layers is not None:
        command += ["--layers", ",".join(map(str, layers))]
    lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    return {name: (g["seconds"], g["all_flops"], g["rate"], torch.tensor(g["values"])) for name, g in zip(GRIDS, map(json.loads, lines))}


def strong(model, args, clean, corrupt, grid, layers):
    site, axis = grid.split(":")
    runs = [timed(lambda: torch_grid.grid(model, clean, corrupt, ANSWER, FOIL, site, axis, layers)) for _ in range(args.repeats)]
    values, flops = runs[0][1]
    return statistics.median(seconds for seconds, _ in runs), flops, values


@torch.no_grad()
def transformer_lens(bridge, clean, corrupt, grid, cells):
    """(seconds of the cells, seconds of the clean run, values): its generic helper by its index table, which its named
    helpers are partial calls of."""
    site, axis = grid.split(":")
    metric = lambda logits: logits[0, -1, ANSWER] - logits[0, -1, FOIL]
    before, (_, cache) = timed(lambda: bridge.run_with_cache(torch.tensor([clean])))
    setter = patching.layer_head_vector_patch_setter if axis == "head" else patching.layer_pos_patch_setter
    rows = pd.DataFrame(cells, columns=["layer", axis])
    seconds, values = timed(lambda: patching.generic_activation_patch(bridge, torch.tensor([corrupt]), cache, metric, setter, site,
                                                                      index_df=rows))
    return seconds, before, values


def place(block, site):
    """The envoy whose value is the site, and whether it is its input."""
    return {"resid_pre": (block, True), "attn_out": (block.self_attn, False), "mlp_out": (block.mlp, False),
            "z": (block.self_attn.o_proj, True)}[site]


@torch.no_grad()
def nnsight_values(lm, ids, site, layers):
    """The site's values of one run, by layer."""
    kept = {}
    with lm.trace(torch.tensor([ids])):
        for l in layers:
            envoy, enters = place(lm.model.layers[l], site)
            value = envoy.input if enters else envoy.output[0] if site == "attn_out" else envoy.output
            kept[l] = value.clone().save()
    return kept


@torch.no_grad()
def nnsight_cell(lm, ids, site, layer, at, value):
    """One trace: the site's part `at` set, the metric at the end."""
    envoy, enters = place(lm.model.layers[layer], site)
    with lm.trace(torch.tensor([ids])):
        if enters:
            envoy.input[at] = value[at]
        elif site == "attn_out":
            envoy.output[0][at] = value[at]
        else:
            envoy.output[at] = value[at]
        logits = lm.lm_head.output[0, -1]
        metric = (logits[ANSWER] - logits[FOIL]).save()
    return metric


def nnsight(lm, clean, corrupt, grid, cells):
    site, axis = grid.split(":")
    e = lm.config.hidden_size // lm.config.num_attention_heads
    before, kept = timed(lambda: nnsight_values(lm, clean, site, sorted({l for l, _ in cells})))
    # A head's place is a range of o_proj's input.
    where = (lambda j: (0, slice(None), slice(j * e, (j + 1) * e))) if axis == "head" else (lambda j: (0, j))
    seconds, values = timed(lambda: [nnsight_cell(lm, corrupt, site, l, where(j), kept[l]) for l, j in cells])
    return seconds, before, torch.stack([torch.as_tensor(v) for v in values])


# ---- side by side --------------------------------------------------------------------------------------


class Table:
    def __init__(self):
        self.agrees = True

    def row(self, who, seconds, flops, own, off=None, note=""):
        self.agrees &= off is None or off <= TOLERANCE
        print(f"  {who:<28} {seconds:9.3f} s {flops / 1e9:10.1f} GFLOP {seconds / own:8.1f} x ours"
              + ("" if off is None else f"   off by {off:.1e}") + note, flush=True)


def compare(table, args, own, grid, model, peers, clean, corrupt, layers):
    seconds, flops, rate, values = own
    rows = list(range(len(values))) if layers is None else layers
    columns = values.shape[1]
    print(f"{grid.replace(':', ' by layer and ')}, {len(rows)} x {columns} cells, first difference at token "
          f"{next(i for i in range(TOKENS) if clean[i] != corrupt[i])}:")
    scale = max(1, (values[rows].max() - values[rows].min()).item())
    table.row("ours", seconds, flops, seconds, None, f"   {seconds / (flops / rate):.2f} x bound ({rate / 1e9:.0f} GFLOP/s)")
    took, work, theirs = strong(model, args, clean, corrupt, grid, layers)
    table.row("PyTorch, written for this", took, work, seconds, (theirs - values[rows]).abs().max().item() / scale)
    every = [(l, j) for l in rows for j in range(columns)]
    some = every if not args.cells else every[::max(1, len(every) // args.cells)][: args.cells]
    for name, peer in peers:
        took, before, theirs = peer(clean, corrupt, grid, some)
        off = (theirs - torch.stack([values[l, j] for l, j in some])).abs().max().item() / scale
        table.row(name, before + took * len(every) / len(some), (len(every) + 1) * run_flops(model.config), seconds, off,
                  f"   ({len(some)} cells timed)")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bench_grid")
    p.add_argument("model")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--cells", type=int, default=24)
    p.add_argument("--quick", action="store_true")
    args = p.parse_args()
    if args.quick:
        args.repeats, args.cells = 1, 6
    model, tokenizer = common.load_reference(args.model, args.threads), common.load_tokenizer(args.model)
    n = model.config.num_hidden_layers
    layers = [0, n // 3, 2 * n // 3, n - 1] if args.quick else None
    lm = TransformersModel(model, tokenizer=tokenizer, task="text-generation")
    bridge = TransformerBridge.boot_transformers(os.path.dirname(args.model) or ".", dtype=torch.float32, tokenizer=tokenizer,
                                                 hf_model=common.load_reference(args.model))
    peers = (("TransformerLens", lambda *a: transformer_lens(bridge, *a)), ("nnsight", lambda *a: nnsight(lm, *a)))
    table = Table()
    for first in FIRSTS:
        clean, corrupt = prompts(model.config.vocab_size, first)
        torch_grid.grid(model, clean, corrupt, ANSWER, FOIL, "resid_pre", "pos", [0])
        for _, peer in peers:  # the first call of each pays for what it makes once
            peer(clean, corrupt, "resid_pre:pos", [(0, 0)])
        own = ours(args, clean, corrupt, layers)
        for grid in GRIDS:
            compare(table, args, own[grid], grid, model, peers, clean, corrupt, layers)
    if not table.agrees:
        sys.exit("values differ by more than 1e-3")


if __name__ == "__main__":
    main()
