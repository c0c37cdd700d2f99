#!/usr/bin/env python3
"""Make tests/golden/fit.json: five updates of parameters in the stream, by PyTorch and transformers.

The models are those of tests/golden/families, in float64. z, the input of attention's output projection, is
replaced on its way in; autograd differentiates; torch's AdamW, its clipping and a linear schedule take five
updates. Kept: the gradient before the first, the losses without and with the penalty, the parameters in the end.

    python3 tests/golden/make_fit.py      versions: tests/parity/requirements.txt
"""
import json
import math
import os

import torch
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
OUT_PROJECTION = {"gpt2": "attn.c_proj", "gpt_neox": "attention.dense", "llama": "self_attn.o_proj",
                  "gemma2": "self_attn.o_proj", "qwen3": "self_attn.o_proj", "phi3": "self_attn.o_proj"}
LR, L1, BETA, UPDATES, CLIP = 0.05, 0.02, 0.5, 5, 1.0


def layers_of(model):
    base = model.base_model
    return base.h if hasattr(base, "h") else base.layers


def start(kind, n):
    wave = torch.tensor([math.sin(1 + i) for i in range(n)], dtype=torch.float64)
    return 0.5 + 0.3 * wave if kind == "mask" else 0.05 * wave


class Stream:
    """A model whose z is changed on its way into the output projections."""

    def __init__(self, name):
        folder = os.path.join(HERE, "families", name)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        for p in self.model.parameters():
            p.requires_grad_(False)
        self.change = lambda layer, z: z
        for l, layer in enumerate(layers_of(self.model)):
            layer.get_submodule(OUT_PROJECTION[name]).register_forward_pre_hook(
                lambda m, args, l=l: (self.change(l, args[0]),) + args[1:])
        with open(os.path.join(folder, "expected.json")) as f:
            self.texts = json.load(f)["sequences"]

    def logits(self, ids, change):
        self.change = change
        return self.model(torch.tensor([ids])).logits[0].double()

    def z(self, ids):
        seen = {}
        self.logits(ids, lambda l, z: seen.setdefault(l, z.detach().clone()))
        return [seen[l] for l in sorted(seen)]


def log_probs(logits, ids, first):
    """Of ids[first:], each by the position before it."""
    return torch.log_softmax(logits, -1)[torch.arange(first - 1, len(ids) - 1), torch.tensor(ids[first:])]


def ce(s, act, reference):
    return sum(-log_probs(s.logits(t, act), t, 3).mean() for t in s.texts) / len(s.texts)


def margin(s, act):
    chosen, rejected = s.texts
    return log_probs(s.logits(chosen, act), chosen, 3).sum() - log_probs(s.logits(rejected, act), rejected, 3).sum()


def dpo(s, act, reference):
    return -torch.nn.functional.logsigmoid(BETA * (margin(s, act) - reference))


def logit_diff(s, act, reference):
    base = s.texts[1]
    last = s.logits(base, act)[-1]
    return -(last[5] - last[9])  # maximised


def run(s, kind, loss):
    z = s.z(s.texts[0][:len(s.texts[1])])
    heads = s.model.config.num_attention_heads
    width = z[0].shape[-1] // heads
    shape = (len(z), heads, 1 if kind == "mask" else width)
    theta = start(kind, math.prod(shape)).view(shape).requires_grad_(True)

    def act(l, x):
        x = x.view(1, -1, heads, width)
        if kind == "scale":
            x = (1 + theta[l]) * x
        elif kind == "offset":
            x = x + theta[l]
        else:
            x = x + theta[l] * (z[l].view(1, -1, heads, width) - x)
        return x.reshape(1, -1, heads * width)

    reference = margin(s, act).detach() if loss is dpo else None
    optimiser = torch.optim.AdamW([theta], lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 - k / UPDATES)
    out = {"losses": [], "totals": []}
    for k in range(UPDATES):
        value = loss(s, act, reference)
        total = value + L1 * theta.abs().sum()
        if k == 0:
            out["grad"] = [float(f"{x:.9g}") for x in torch.autograd.grad(value, theta, retain_graph=True)[0].flatten().tolist()]
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_([theta], CLIP)
        optimiser.step()
        schedule.step()
        if kind == "mask":
            theta.data.clamp_(0, 1)
        out["losses"].append(value.item())
        out["totals"].append(total.item())
    out["theta"] = [float(f"{x:.9g}") for x in theta.detach().flatten().tolist()]
    return out


CASES = {"scale_ce": ("scale", ce), "offset_ce": ("offset", ce), "offset_dpo": ("offset", dpo), "scale_dpo": ("scale", dpo),
         "mask_metric": ("mask", logit_diff)}

if __name__ == "__main__":
    torch.manual_seed(0)
    told = {"lr": LR, "l1": L1, "beta": BETA, "updates": UPDATES, "clip": CLIP, "families": {}}
    for name in OUT_PROJECTION:
        s = Stream(name)
        told["families"][name] = {case: run(s, *how) for case, how in CASES.items()}
        print(name, {c: told["families"][name][c]["losses"] for c in CASES})
    with open(os.path.join(HERE, "fit.json"), "w") as f:
        json.dump(told, f, separators=(",", ":"))
        f.write("\n")
