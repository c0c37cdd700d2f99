#!/usr/bin/env python3
"""Make tests/golden/causal.json: causal traces (arXiv 2202.05262) of tiny families by the definition.

transformers' own models in float64, hooked where the embedding is made and where blocks and branches end; one
forward for each cell and sample. The noise is drawn again from the words of core/base/random.h (xoshiro256**
seeded by splitmix64) through Box and Muller, so that both sides see the same.

    python3 tests/golden/make_causal.py
"""
import json
import math
import os

import torch
import transformers as hf

HERE = os.path.dirname(os.path.abspath(__file__))
WORD = (1 << 64) - 1
SEED, SAMPLES, WINDOW, FIRST, END = 11, 4, 2, 2, 5
# embedding, blocks, the branches of a block
PLACES = {"gpt2": ("transformer.wte", "transformer.h", "attn", "mlp"),
          "qwen3": ("model.embed_tokens", "model.layers", "self_attn", "mlp"),
          "gemma2": ("model.embed_tokens", "model.layers", "post_attention_layernorm", "post_feedforward_layernorm"),
          "gpt_neox": ("gpt_neox.embed_in", "gpt_neox.layers", "attention", "mlp")}


def words(seed):
    """xoshiro256** (Blackman & Vigna)."""
    def turn(x, k):
        return (x << k | x >> 64 - k) & WORD
    s = []
    for _ in range(4):
        seed = seed + 0x9E3779B97F4A7C15 & WORD
        z = seed
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
        z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
        s.append(z ^ z >> 31)
    while True:
        yield turn(s[1] * 5 & WORD, 7) * 9 & WORD
        t = s[1] << 17 & WORD
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = turn(s[3], 45)


def noise(seed, sd, n):
    w, out = words(seed), []
    while len(out) < n:
        u, v = ((next(w) >> 11) * 2.0 ** -53 for _ in range(2))
        r = sd * math.sqrt(-2 * math.log(1 - u))
        out += [r * math.cos(2 * math.pi * v), r * math.sin(2 * math.pi * v)]
    return torch.tensor(out[:n], dtype=torch.float64)


def first_of(x):
    return x[0] if isinstance(x, tuple) else x


def replaced(out, x):
    return (x, *out[1:]) if isinstance(out, tuple) else x


def trace(name):
    folder = os.path.join(HERE, "families", name)
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    ids = hf.AutoTokenizer.from_pretrained(folder)("Rome is in Italy", add_special_tokens=False)["input_ids"][:9]
    embed, blocks, attn, mlp = PLACES[name]
    embed, blocks = model.get_submodule(embed), model.get_submodule(blocks)
    kinds = {"state": list(blocks), "mlp": [b.get_submodule(mlp) for b in blocks], "attn": [b.get_submodule(attn) for b in blocks]}
    L, n, d = len(blocks), len(ids), embed.weight.shape[1]

    def run(hooks):
        held = [m.register_forward_hook(h) for m, h in hooks]
        with torch.no_grad():
            y = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        for h in held:
            h.remove()
        return torch.softmax(y, -1)

    clean, e = {}, []

    def keeper(key):
        def hook(_m, _i, out):
            clean[key] = first_of(out)[0].clone()
        return hook
    p = run([(m, keeper((k, l))) for k, ms in kinds.items() for l, m in enumerate(ms)]
            + [(embed, lambda _m, _i, out: e.append(out[0].clone()))])
    scale = d ** 0.5 if name == "gemma2" and not hasattr(embed, "embed_scale") else 1.0  # multiplied behind the module
    sd = (e[0][FIRST:END] * scale).std().item()
    answer = int(p.argmax())
    eps = noise(SEED, 3 * sd, SAMPLES * (END - FIRST) * d).view(SAMPLES, END - FIRST, d)

    def mean(kind=None, layers=(), pos=0):
        total = 0.0
        for s in range(SAMPLES):
            def add(_m, _i, out, s=s):
                out = out.clone()
                out[0, FIRST:END] += eps[s] / scale
                return out

            def put(key):
                def hook(_m, _i, out):
                    x = first_of(out).clone()
                    x[0, pos] = clean[key][pos]
                    return replaced(out, x)
                return hook
            total += run([(embed, add)] + [(kinds[kind][l], put((kind, l))) for l in layers])[answer].item()
        return total / SAMPLES

    made = {"model": name, "ids": ids, "first": FIRST, "end": END, "window": WINDOW, "samples": SAMPLES, "seed": SEED, "sd": sd,
            "answer": answer, "high": p[answer].item(), "low": mean()}
    for kind in kinds:
        w = 1 if kind == "state" else WINDOW
        made[kind] = [mean(kind, range(max(0, l - w // 2), min(L, l - (-w // 2))), t) for l in range(L) for t in range(n)]
    return made


if __name__ == "__main__":
    with open(os.path.join(HERE, "causal.json"), "w") as f:
        json.dump({"models": [trace(name) for name in PLACES]}, f, indent=1)
        f.write("\n")
