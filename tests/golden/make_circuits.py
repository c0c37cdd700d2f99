#!/usr/bin/env python3
"""Make the models in tests/golden/circuits/: tiny transformers whose circuits are known because they were
written by hand, and the whole truth about every cell of every patch grid over them.

A model is a program over named features of the residual stream: which features a token has, which heads match
which features and copy which, which neurons fire on what. The program is laid out as weights of a family; the
circuit is stated beside it by hand. Then PyTorch runs transformers' own implementation in float64 once per cell
of every grid, and unless these runs give just the stated cells, nothing is written.

    .cache/parity/bin/python tests/golden/make_circuits.py [name ...]      versions: tests/parity/requirements.txt
"""
import itertools
import json
import math
import os
import shutil
import sys
from dataclasses import dataclass, field

import torch
import transformers as hf
from safetensors.torch import save_file
from transformers import AttentionInterface

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "circuits")
D = 24          # features; a LayerNorm family holds each twice, f and -f, so that its mean is 0 everywhere
STRONG = 256.0  # a match; before the norms' scales, some hundred units of score: a softmax that is 0 and 1


@dataclass
class Head:
    match: list = field(default_factory=list)  # ({feature of the query}, {feature of the key}, strength)
    copy: dict = field(default_factory=dict)   # feature of the source: feature written
    prev: bool = False                         # one step back: constants, rotated one step apart
    gain: float = 0.5


@dataclass
class Neuron:
    reads: dict    # {feature: weight}; "one" is a bias
    writes: dict


@dataclass
class Program:
    family: str
    why: str
    tokens: dict                       # name: [features] or {feature: value}; the first is BOS
    layers: list                       # ([Head] by head, [Neuron])
    clean: str
    corrupt: str
    answer: str
    foil: str
    truth: dict                        # {site: {cell: effect}}; see `stated`
    says: dict = field(default_factory=dict)       # token: feature that the unembedding reads for it
    positions: list = field(default_factory=list)  # of GPT-2: features by position
    noise: dict = field(default_factory=dict)      # what differs when noising
    zero: dict = field(default_factory=dict)       # {head: effect} of zeroing it in the clean run
    joint: list = field(default_factory=list)      # several heads at once
    kv_heads: int = 0


# ---- programs as weights ---------------------------------------------------------------------------------

class Layout:
    def __init__(self, p):
        self.p, self.at = p, {}
        self.H = max(len(heads) for heads, _ in p.layers)
        self.G = p.kv_heads or self.H
        self.mirror = p.family != "llama"
        self.d = 2 * D if self.mirror else D
        self.e = self.d // self.H if self.mirror else 16
        self.m = max([4] + [len(neurons) for _, neurons in p.layers])
        self.theta = 1e30  # all pairs but the first stand still
        self.pair = (0, 1) if p.family == "gpt_neox" else (0, self.e // 2)

    def feature(self, name):
        i = self.at.setdefault(name, len(self.at))
        assert i < D, f"more than {D} features"
        return i

    def vector(self, features):
        x = torch.zeros(D)
        for name, value in (features.items() if isinstance(features, dict) else [(f, 1) for f in features]):
            x[self.feature(name)] = value
        return x

    def reads(self, w):   # [n, D] as it multiplies the stream
        return torch.cat([w, torch.zeros_like(w)], 1) if self.mirror else w

    def writes(self, w):  # [D, n] as it is added to the stream
        return torch.cat([w, -w], 0) if self.mirror else w

    def head(self, h):
        q, k, v, o = (torch.zeros(self.e, D) for _ in range(4))
        free = [r for r in range(self.e) if r not in self.pair]
        if h.prev:
            i, j = self.pair
            one = self.feature("one")
            q[i, one], q[j, one], k[i, one] = 32 * math.cos(1), -32 * math.sin(1), 32
        for r, (query, key, strength) in zip(free, h.match, strict=False):
            q[r], k[r] = math.copysign(16, strength) * self.vector(query), abs(strength) / 16 * self.vector(key)
        assert len(h.match) <= len(free) and len(h.copy) <= self.e
        for r, (source, target) in enumerate(h.copy.items()):
            v[r, self.feature(source)], o[r, self.feature(target)] = 1, h.gain
        return q, k, v, o.T

    def layer(self, heads, neurons):
        """Matrices as nn.Linear has them: q [H e, d], k and v [G e, d], o [d, H e], in and out of the MLP."""
        heads = heads + [Head()] * (self.H - len(heads))
        qs, ks, vs, os_ = zip(*map(self.head, heads), strict=True)
        share = self.H // self.G
        shared = lambda xs: torch.cat([sum(xs[g * share:(g + 1) * share]) for g in range(self.G)])
        w_in, w_out = torch.zeros(self.m, D), torch.zeros(D, self.m)
        for r, n in enumerate(neurons):
            w_in[r], w_out[:, r] = 64 * self.vector(n.reads), self.vector(n.writes) / 64
        return (*map(self.reads, (torch.cat(qs), shared(ks), shared(vs))), self.writes(torch.cat(os_, 1)),
                self.reads(w_in), self.writes(w_out))


def config_of(p, w):
    V, L = len(p.tokens), len(p.layers)
    ends = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0, tie_word_embeddings=False)
    if p.family == "gpt2":
        return hf.GPT2Config(vocab_size=V, n_positions=16, n_embd=w.d, n_layer=L, n_head=w.H, n_inner=w.m, **ends)
    sizes = dict(vocab_size=V, hidden_size=w.d, intermediate_size=w.m, num_hidden_layers=L, num_attention_heads=w.H,
                 max_position_embeddings=16, **ends)
    if p.family == "gpt_neox":
        return hf.GPTNeoXConfig(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 10000.0,
                                                          "partial_rotary_factor": 2 / w.e})
    return hf.LlamaConfig(**sizes, num_key_value_heads=w.G, head_dim=w.e,
                          rope_parameters={"rope_type": "default", "rope_theta": w.theta})


@torch.no_grad()
def build(p):
    w = Layout(p)
    model = hf.AutoModelForCausalLM.from_config(config_of(p, w)).float()
    for name, x in model.named_parameters():
        x.zero_()
        if x.dim() == 1 and name.endswith("weight"):
            x.fill_(1)
    column = lambda rows: w.writes(torch.stack([w.vector(f) for f in rows]).T).T
    model.get_input_embeddings().weight.copy_(column(p.tokens.values()))
    head = torch.zeros(len(p.tokens), D)
    for i, t in enumerate(p.tokens):
        if f := p.says.get(t, f"out_{t}" if f"out_{t}" in w_out(p) else None):
            head[i, w.feature(f)] = 4
    layers = layers_of(model)
    for layer, (heads, neurons) in zip(layers, p.layers, strict=True):
        q, k, v, o, w_in, w_out_ = w.layer(heads, neurons)
        if p.family == "gpt2":
            layer.attn.c_attn.weight.copy_(torch.cat([q, k, v]).T)
            layer.attn.c_proj.weight.copy_(o.T)
            layer.mlp.c_fc.weight.copy_(w_in.T)
            layer.mlp.c_proj.weight.copy_(w_out_.T)
        elif p.family == "gpt_neox":
            woven = torch.stack([x.view(w.H, w.e, w.d) for x in (q, k, v)], 1)
            layer.attention.query_key_value.weight.copy_(woven.reshape(3 * w.d, w.d))
            layer.attention.dense.weight.copy_(o)
            layer.mlp.dense_h_to_4h.weight.copy_(w_in)
            layer.mlp.dense_4h_to_h.weight.copy_(w_out_)
        else:
            a = layer.self_attn
            for to, x in ((a.q_proj, q), (a.k_proj, k), (a.v_proj, v), (a.o_proj, o), (layer.mlp.gate_proj, w_in),
                          (layer.mlp.down_proj, w_out_)):
                to.weight.copy_(x)
            layer.mlp.up_proj.weight[:] = w.vector(["one"])
    if p.positions:
        model.transformer.wpe.weight[:len(p.positions)] = column(p.positions)
    model.get_output_embeddings().weight.copy_(w.reads(head))
    return model


def w_out(p):
    """Every feature that something writes."""
    heads = {f for hs, _ in p.layers for h in hs for f in h.copy.values()}
    return heads | {f for _, ns in p.layers for n in ns for f in n.writes}


# ---- one run per cell --------------------------------------------------------------------------------------

STATE = {}


def attention(module, q, k, v, _mask, scaling=None, **_):
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    n = q.shape[2]
    scores = scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf)
    pattern = at("attn.hook_pattern", module.layer_idx, scores.softmax(-1)[0].transpose(0, 1)).transpose(0, 1)[None]
    return (pattern @ v).transpose(1, 2), pattern


AttentionInterface.register("told", attention)


def at(site, layer, x):
    """x [P, …]: kept, and changed where the cell says. A pattern is [destination, head, source]."""
    STATE["seen"][site, layer] = x.detach().clone()
    for where, head, pos, value in STATE["put"]:
        if where == (site, layer):
            x = x.clone()
            index = (slice(None) if pos is None else pos,) + (() if head is None else (head,))
            x[index] = value[index] if torch.is_tensor(value) else value
    return x


def layers_of(model):
    return model.model.layers if hasattr(model, "model") else model.base_model.layers if hasattr(
        model.base_model, "layers") else model.transformer.h


def heads_of(x, n):
    return x.reshape(x.shape[0], n, -1)


def hook(model, H, G):
    """Every site of every layer, on the modules of transformers."""
    first = lambda out: out[0] if isinstance(out, tuple) else out
    put = lambda out, x: (x[None], *out[1:]) if isinstance(out, tuple) else x[None]

    def out_of(module, site, l, n=None):
        def f(_m, _i, out):
            x = first(out)[0]
            return put(out, at(site, l, heads_of(x, n) if n else x).reshape(x.shape))
        module.register_forward_hook(f)

    def into(module, site, l, n=None):
        def f(_m, args):
            x = args[0][0]
            return (at(site, l, heads_of(x, n) if n else x).reshape(x.shape)[None], *args[1:])
        module.register_forward_pre_hook(f)

    for l, layer in enumerate(layers_of(model)):
        a = getattr(layer, "self_attn", None) or getattr(layer, "attn", None) or layer.attention
        into(layer, "hook_resid_pre", l)
        out_of(a, "hook_attn_out", l)
        out_of(layer.mlp, "hook_mlp_out", l)
        out_of(layer, "hook_resid_post", l)
        into(getattr(a, "o_proj", None) or getattr(a, "c_proj", None) or a.dense, "attn.hook_z", l, H)
        if hasattr(a, "q_proj"):
            for m, s, n in ((a.q_proj, "q", H), (a.k_proj, "k", G), (a.v_proj, "v", G)):
                out_of(m, f"attn.hook_{s}", l, n)
        else:
            fused = getattr(a, "c_attn", None) or a.query_key_value
            woven = not hasattr(a, "c_attn")

            def f(_m, _i, out, l=l, woven=woven):
                x = out[0]
                x = x.view(len(x), H, 3, -1).transpose(1, 2) if woven else x.view(len(x), 3, H, -1)
                x = torch.stack([at(f"attn.hook_{s}", l, x[:, i]) for i, s in enumerate("qkv")], 1)
                return (x.transpose(1, 2) if woven else x).reshape(out.shape)
            fused.register_forward_hook(f)


@torch.no_grad()
def run(model, ids, put=()):
    STATE.update(seen={}, put=put)
    return model(torch.tensor([ids]), use_cache=False).logits[0, -1], STATE["seen"]


STREAM = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
HEADS = ("attn.hook_z", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_pattern")


def grids():
    """(name in truth.json, site, axes)"""
    for s in STREAM:
        yield f"{s} layer,pos", s, "lp"
    for s in HEADS:
        yield f"{s} layer,head", s, "lh"
        yield f"{s} layer,head,pos", s, "lhp"


def loop(model, source, base, metric, L, counts, P):
    """{grid: nested list of metrics}, every cell by a run of its own."""
    _, seen = run(model, source)
    out = {}
    for name, site, axes in grids():
        n = counts[site] if "h" in axes else 1
        def cell(l, h, p, site=site):
            return metric(run(model, base, [((site, l), h, p, seen[site, l])])[0])
        if axes == "lp":
            out[name] = [[cell(l, None, p) for p in range(P)] for l in range(L)]
        elif axes == "lh":
            out[name] = [[cell(l, h, None) for h in range(n)] for l in range(L)]
        else:
            out[name] = [[[cell(l, h, p) for p in range(P)] for h in range(n)] for l in range(L)]
    return out


def flat(grid, at=()):
    if not isinstance(grid, list):
        yield at, grid
        return
    for i, x in enumerate(grid):
        yield from flat(x, (*at, i))


def clear(x, digits=7):
    return [clear(y, digits) for y in x] if isinstance(x, list) else round(x, digits) + 0.0


def effects(grid, base, source):
    return [effects(x, base, source) for x in grid] if isinstance(grid, list) else (grid - base) / (source - base)


# ---- what is written ------------------------------------------------------------------------------------------

def tokenizer(words):
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": 0, "content": words[0], "single_word": False, "lstrip": False, "rstrip": False,
                              "normalized": False, "special": True}],
            "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {w: i for i, w in enumerate(words)}, "merges": []}}


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, separators=(",", ":"))
        f.write("\n")


def make(name, p, model=None):
    model = model or build(p)
    half = {k: x.half() for k, x in model.state_dict().items()}
    model.load_state_dict({k: x.float() for k, x in half.items()})
    model = model.double().eval()
    model.set_attn_implementation("told")
    words = list(p.tokens)
    ids = {k: [words.index(t) for t in getattr(p, k).split()] for k in ("clean", "corrupt")}
    a, f = words.index(p.answer), words.index(p.foil)
    metric = lambda y: float(y[a] - y[f])
    c = model.config
    H = c.num_attention_heads
    G = getattr(c, "num_key_value_heads", None) or H
    L, P = len(p.layers), len(ids["clean"])
    counts = dict.fromkeys(STREAM, 1) | dict.fromkeys(HEADS, H) | {"attn.hook_k": G, "attn.hook_v": G}
    hook(model, H, G)
    base = {k: metric(run(model, ids[k])[0]) for k in ids}
    truth = {"why": p.why, "family": p.family, "clean": ids["clean"], "corrupt": ids["corrupt"], "answer": a, "foil": f,
             "baseline": base, "grids": {}}
    for direction in ("denoise", "noise"):
        src, dst = ("clean", "corrupt") if direction == "denoise" else ("corrupt", "clean")
        raw = loop(model, ids[src], ids[dst], metric, L, counts, P)
        grid = {k: clear(effects(g, base[dst], base[src])) for k, g in raw.items()}
        judge(name, direction, grid, p.truth | (p.noise if direction == "noise" else {}))
        truth["grids"][direction] = grid
    truth["zero"] = []
    for l, h in itertools.product(range(L), range(H)):
        y = metric(run(model, ids["clean"], [(("attn.hook_z", l), h, None, 0.0)])[0])
        truth["zero"].append({"heads": [[l, h]], "effect": clear((y - base["clean"]) / (base["corrupt"] - base["clean"]))})
    for z in truth["zero"]:
        want = p.zero.get(tuple(z["heads"][0]))
        if want is not None and abs(z["effect"] - want) > 1e-6:
            sys.exit(f"{name}: zeroing {z['heads']} has effect {z['effect']}, not {want}")
    truth["joint"] = []
    for kind, heads, want in p.joint:
        _, seen = run(model, ids["corrupt" if kind == "noise" else "clean"])
        into = "corrupt" if kind == "denoise" else "clean"
        put = [(("attn.hook_z", l), h, None, 0.0 if kind == "zero" else seen["attn.hook_z", l]) for l, h in heads]
        y = metric(run(model, ids[into], put)[0])
        other = "clean" if into == "corrupt" else "corrupt"
        got = (y - base[into]) / (base[other] - base[into])
        if abs(got - want) > 1e-6:
            sys.exit(f"{name}: {kind} of {heads} together has effect {got}, not {want}")
        truth["joint"].append({"kind": kind, "heads": heads, "effect": want})
    save(name, model, half, words, truth)
    print(f"{name}: clean {base['clean']:.6f}, corrupt {base['corrupt']:.6f}, "
          f"{sum(x != 0 for g in truth['grids']['denoise'].values() for _, x in flat(g))} cells")


def judge(name, direction, grid, stated):
    """Grids that are stated have just the stated cells; "differs" is any effect but none."""
    for key, cells in stated.items():
        found = dict(flat(grid[key]))
        for cell, value in found.items():
            want = cells.get(cell, 0)
            if abs(value) < 1e-3 if want == "differs" else abs(value - want) > 1e-6:
                sys.exit(f"{name}, {direction}, {key}: cell {cell} has effect {value}, not {want}")
        assert not set(cells) - set(found), (name, key, cells)


def save(name, model, half, words, truth):
    folder = f"{OUT}/{name}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    neox = model.config.model_type == "gpt_neox"  # whose files name the unembedding so
    save_file({"embed_out.weight" if neox and k == "lm_head.weight" else k: x.contiguous() for k, x in half.items()}, f"{folder}/model.safetensors", metadata={"format": "pt"})
    c = model.config.to_diff_dict() | {"architectures": [type(model).__name__], "model_type": model.config.model_type,
                                       "dtype": "float16", "tie_word_embeddings": False}
    for k in ("transformers_version", "_attn_implementation"):
        c.pop(k, None)
    write_json(f"{folder}/config.json", c)
    write_json(f"{folder}/tokenizer.json", tokenizer(words))
    write_json(f"{folder}/truth.json", truth)
    size = sum(os.path.getsize(f"{folder}/{x}") for x in os.listdir(folder))
    assert size <= 61440, (name, size)


if __name__ == "__main__":
    from circuit_programs import PROGRAMS, planted
    from make_circuits import make  # the module that the programs know, not this script
    for which in sys.argv[1:] or [*PROGRAMS, "induction_gpt2"]:
        make(which, *(planted() if which == "induction_gpt2" else (PROGRAMS[which],)))
