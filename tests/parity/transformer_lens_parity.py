#!/usr/bin/env python3
"""Patch grids and activations as TransformerLens computes them, on identical ids: its grid helpers
(transformer_lens.patching) and run_with_cache over transformers' own modules (TransformerBridge), against
/v1/patch and /v1/trace. Tiny models of six families, whole; the default model on two pairs, three layers.

Grids agree within 1e-3 of their range, or of a logit where the range is smaller; activations within 1e-4 of the
largest of theirs. A second opinion that does not pass through TransformerLens is a plain forward hook of PyTorch
on the block, the attention and the MLP.
"""
import json
import os

import common

import torch
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge

HERE = os.path.dirname(os.path.abspath(__file__))
FAMILIES = os.path.join(HERE, "..", "golden", "families")
TINY = ("gpt2", "llama", "qwen2", "qwen3", "gemma2", "gpt_neox")
GRID, ACTIVATION = 1e-3, 1e-4
GRIDS = [(f"get_act_patch_{s}", f"hook_{s}", ("layer", "pos")) for s in ("resid_pre", "resid_mid", "attn_out", "mlp_out")] + [
    (f"get_act_patch_attn_head_{name}_{axes}", f"attn.hook_{site}", ("layer", "head") + (("pos",) if axes == "by_pos" else ()))
    for name, site in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v"), ("pattern", "pattern")) for axes in ("all_pos", "by_pos")]
HOOKS = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "ln1.hook_scale", "ln2.hook_scale",
         "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_pattern", "attn.hook_z",
         "mlp.hook_pre", "mlp.hook_post"]
TEXTS = (("When Mary and John went to the store, John gave a drink to", "When Mary and John went to the store, Mary gave a drink to",
          " Mary", " John"),
         ("The capital of France is the city of", "The capital of Italy is the city of", " Paris", " Rome"))


def pair_of(vocab):
    clean = [(7 * i * i + 31 * i + 5) % (vocab - 8) + 5 for i in range(7)]
    corrupt = list(clean)
    corrupt[2], corrupt[4] = (clean[2] + 40) % (vocab - 8) + 5, (clean[4] + 90) % (vocab - 8) + 5
    return clean, corrupt, 42, 7


def bridge(path):
    model = common.load_reference(path)
    b = TransformerBridge.boot_transformers(path if os.path.isdir(path) else os.path.dirname(path), hf_model=model, dtype=torch.float32,
                                            tokenizer=common.load_tokenizer(path))
    return b, model


def ask(client, pair, site, axes):
    clean, corrupt, answer, foil = pair
    return client.call("POST", "/v1/patch", {"clean": {"ids": clean}, "corrupt": {"ids": corrupt}, "site": site, "axes": list(axes),
                                             "metric": {"kind": "logit_diff", "answer": answer, "foil": foil}})


def off(ours, theirs):
    return (ours - theirs).abs().max().item() / max(1, (theirs.max() - theirs.min()).item())


class Worst(dict):
    def note(self, suite, value):
        self[suite] = max(self.get(suite, 0), value)
        return value


@torch.no_grad()
def compare_grids(tally, worst, name, client, b, pair):
    clean, corrupt, answer, foil = pair
    metric = lambda logits: logits[0, -1, answer] - logits[0, -1, foil]
    _, cache = b.run_with_cache(torch.tensor([clean]))
    for helper, site, axes in GRIDS:
        if f"blocks.0.{site}" not in cache:
            continue
        theirs = getattr(patching, helper)(b, torch.tensor([corrupt]), cache, metric)
        ours = torch.tensor(ask(client, pair, site, axes)["values"])
        if "by_pos" in helper and theirs.shape != ours.shape:  # theirs [layer, pos, head], and of patterns [layer, head, pos]
            theirs = theirs.transpose(1, 2)
        value = worst.note("grids", off(ours, theirs)) if theirs.shape == ours.shape else float("inf")
        tally.check(value <= GRID, f"{name}, {helper} {list(theirs.shape)}: off by {value:.1e}")
    both = patching.get_act_patch_block_every(b, torch.tensor([corrupt]), cache, metric)
    ours = torch.stack([torch.tensor(ask(client, pair, s, ("layer", "pos"))["values"])
                        for s in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")])
    value = worst.note("grids", off(ours, both))
    tally.check(value <= GRID, f"{name}, get_act_patch_block_every {list(both.shape)}: off by {value:.1e}")


def read(client, ids, sites):
    reply = client.call("POST", "/v1/trace", {"inputs": [{"id": "a", "ids": ids}], "reads": [{"site": s} for s in sites], "top_k": 1})
    return {c["site"]: torch.tensor(c["values"]) for c in reply["captures"]}


@torch.no_grad()
def compare_activations(tally, worst, name, client, b, ids, layers):
    _, cache = b.run_with_cache(torch.tensor([ids]))
    info = client.call("GET", f"/v1/models/{client.call('GET', '/v1/models')['models'][0]['name']}/hooks")
    have = json.dumps(info)
    for hook in HOOKS:
        sites = [s for l in layers if (s := f"blocks.{l}.{hook}") in cache]
        if not sites or hook not in have:
            continue
        got, value = read(client, ids, sites), 0
        for s in sites:
            theirs = cache[s][0].flatten()
            if got[s].numel() != theirs.numel():
                value = float("inf")
            else:
                value = max(value, ((got[s].flatten() - theirs).abs().max() / theirs.abs().max()).item())
        worst.note("activations", value)
        tally.check(value <= ACTIVATION, f"{name}, {hook} in {len(sites)} layers: off by {value:.1e}")


@torch.no_grad()
def compare_hooks(tally, worst, name, client, model, pair, layers, positions):
    """PyTorch alone: the block's input, attention's and the MLP's module output."""
    clean, corrupt, answer, foil = pair
    blocks = next(m for n, m in model.named_modules() if n.endswith(("layers", ".h")) and isinstance(m, torch.nn.ModuleList))
    ours = torch.tensor(ask(client, pair, "hook_resid_pre", ("layer", "pos"))["values"])
    kept = {}

    def run(ids, layer, hook):
        handle = blocks[layer].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            return model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        finally:
            handle.remove()

    def keep(_m, args, kwargs):
        kept["x"] = (args[0] if args else kwargs["hidden_states"]).clone()
    value = 0
    for layer in layers:
        run(clean, layer, keep)
        for p in positions:
            def put(_m, args, kwargs, p=p):
                x = (args[0] if args else kwargs["hidden_states"]).clone()
                x[:, p] = kept["x"][:, p]
                return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})
            y = run(corrupt, layer, put)
            value = max(value, abs((y[answer] - y[foil]).item() - ours[layer][p].item()))
    value = worst.note("PyTorch hooks", value / max(1, (ours.max() - ours.min()).item()))
    tally.check(value <= GRID, f"{name}, hooked by hand, hook_resid_pre {len(layers)} × {len(positions)}: off by {value:.1e}")


def tiny(tally, worst, args):
    for family in TINY:
        args.model = os.path.join(FAMILIES, family)
        with common.daemon(args) as client:
            pair = pair_of(client.call("GET", "/v1/models")["models"][0]["vocab"])
            plain = common.load_reference(args.model)
            layers = range(plain.config.num_hidden_layers)
            compare_hooks(tally, worst, family, client, plain, pair, layers, range(len(pair[0])))
            b, _ = bridge(args.model)
            compare_activations(tally, worst, family, client, b, pair[0], layers)
            compare_grids(tally, worst, family, client, b, pair)


@torch.no_grad()
def default(tally, worst, args):
    """A whole grid of theirs takes minutes here: the layers are a few rows, by the index table they take."""
    import pandas as pd
    with common.daemon(args) as client:
        plain = common.load_reference(args.model)
        layers = (0, plain.config.num_hidden_layers // 2, plain.config.num_hidden_layers - 1)
        pairs = []
        for clean, corrupt, answer, foil in TEXTS:
            ids = [client.call("POST", "/v1/tokenize", {"input": {"text": t}})["ids"] for t in (clean, corrupt, answer, foil)]
            pairs.append((ids[0], ids[1], ids[2][0], ids[3][0]))
        for i, pair in enumerate(pairs):
            compare_hooks(tally, worst, f"default, pair {i}", client, plain, pair, layers, range(len(pair[0]) - 3, len(pair[0])))
        b, _ = bridge(args.model)
        for i, pair in enumerate(pairs):
            clean, corrupt, answer, foil = pair
            compare_activations(tally, worst, f"default, pair {i}", client, b, clean, layers)
            _, cache = b.run_with_cache(torch.tensor([clean]))
            metric = lambda y: y[0, -1, answer] - y[0, -1, foil]
            for act, site in (("resid_pre", "hook_resid_pre"), ("attn_out", "hook_attn_out"), ("mlp_out", "hook_mlp_out")):
                ours = torch.tensor(ask(client, pair, site, ("layer", "pos"))["values"])
                rows = pd.DataFrame([(l, p) for l in layers for p in range(len(clean) - 2, len(clean))], columns=["layer", "pos"])
                theirs = patching.generic_activation_patch(b, torch.tensor([corrupt]), cache, metric,
                                                           patching.layer_pos_patch_setter, act, index_df=rows)
                value = worst.note("default model", (torch.stack([ours[l][p] for l, p in rows.values]) - theirs).abs().max().item() /
                                   max(1, (ours.max() - ours.min()).item()))
                tally.check(value <= GRID, f"default, pair {i}, {site}, {len(rows)} cells: off by {value:.1e}")
            ours = torch.tensor(ask(client, pair, "attn.hook_z", ("layer", "head"))["values"])
            rows = pd.DataFrame([(l, h) for l in layers for h in (0, ours.shape[1] - 1)], columns=["layer", "head"])
            theirs = patching.generic_activation_patch(b, torch.tensor([corrupt]), cache, metric,
                                                       patching.layer_head_vector_patch_setter, "z", index_df=rows)
            value = worst.note("default model", (torch.stack([ours[l][h] for l, h in rows.values]) - theirs).abs().max().item() /
                               max(1, (ours.max() - ours.min()).item()))
            tally.check(value <= GRID, f"default, pair {i}, attn.hook_z, {len(rows)} cells: off by {value:.1e}")


def main():
    args = common.arguments(__doc__).parse_args()
    tally, worst, default_model, args.url = common.Tally(), Worst(), args.model, None
    tiny(tally, worst, args)
    args.model = default_model
    if default_model:
        default(tally, worst, args)
    for suite, value in worst.items():
        print(f"worst of {suite}: {value:.1e}")
    tally.finish()


if __name__ == "__main__":
    main()
