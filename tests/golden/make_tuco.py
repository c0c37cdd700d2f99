#!/usr/bin/env python3
"""Make tests/golden/tuco.json: TuCo and FTC scaling (arXiv 2506.23423) between two tiny models, by transformers.

Of each family below the pretrained model is tests/golden/families/<name>, the fine-tuned one the same with all
weights moved (tests/api/twins.py). transformers' own layers run in float64: a hook behind each layer of the
fine-tuned model runs the pretrained model's layer on the same input, notes what both add, and may put
(1−α)·(x + f_PT) + α·(x + f_FT) in the layer's place. Nothing of the engine is used.

    .cache/parity/bin/python tests/golden/make_tuco.py        versions: tests/parity/requirements.txt
"""
import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers as hf

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "api"))
from twins import moved  # noqa: E402

FAMILIES = ROOT / "tests" / "golden" / "families"
# where the layers are, and which module of one gives attention's addend
NAMES = {"llama": ("model.layers", "self_attn"), "gpt2": ("transformer.h", "attn"),
         "gpt_neox": ("gpt_neox.layers", "attention"), "gemma2": ("model.layers", "post_attention_layernorm")}
ALPHAS = (0.0, 0.75, 1.0, 1.25)
STEPS = 8


def load(path):
    return hf.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation="eager").eval()


def first(out):
    return out[0] if isinstance(out, tuple) else out


class Pair:
    def __init__(self, name, tuned, before):
        self.tuned, self.before = tuned, before
        path, self.attention = NAMES[name]
        self.layers = list(zip(tuned.get_submodule(path), before.get_submodule(path), strict=True))
        self.told, self.alpha, self.heard = [], 1.0, []
        for ft, pt in self.layers:
            ft.register_forward_hook(lambda m, args, kw, out, pt=pt: self.behind(pt, args, kw, out), with_kwargs=True)
            for layer in (ft, pt):
                layer.get_submodule(self.attention).register_forward_hook(lambda m, args, out: self.heard.append(first(out)[0]))

    def behind(self, pt, args, kw, out):
        x, y = args[0] if args else kw["hidden_states"], first(out)
        z = first(pt(*args, **kw))
        self.told.append({"f": ((y - x)[0], (z - x)[0]), "attn": tuple(self.heard)})
        self.heard.clear()
        y = (1 - self.alpha) * z + self.alpha * y
        return (y, *out[1:]) if isinstance(out, tuple) else y

    def run(self, ids, alpha=1.0):
        """(logits [n][V], what each layer's blocks add) of the tuned model with FTC scaled."""
        self.told.clear(), self.heard.clear()
        self.alpha = alpha
        with torch.no_grad():
            logits = self.tuned(torch.tensor([ids]), use_cache=False).logits[0]
        return logits, list(self.told)


def l1(v):
    return v.abs().sum(-1)


def ratio(f, p):
    return (f / (f + p)).tolist()


def final_stream(model, ids, path):
    seen = []
    hook = model.get_submodule(path)[-1].register_forward_hook(lambda m, args, out: seen.append(first(out)[0]))
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    hook.remove()
    return seen[0]


def score(pair, ids):
    told, P, F, layers = pair.run(ids)[1], 0, 0, []
    for t in told:
        (y, z), (ay, az) = t["f"], t["attn"]
        P, F = P + z, F + y - z
        layers.append({"ptc": l1(z)[-1].item(), "ftc": l1(y - z)[-1].item(),
                       "cumulative": {"ptc": l1(P)[-1].item(), "ftc": l1(F)[-1].item(), "beta": ratio(l1(F), l1(P))[-1]},
                       "attn": {"ptc": l1(az)[-1].item(), "ftc": l1(ay - az)[-1].item()},
                       "mlp": {"ptc": l1(z - az)[-1].item(), "ftc": l1((y - ay) - (z - az))[-1].item()}})
    return ratio(l1(F), l1(P)), layers


def greedy(pair, ids, alpha):
    """STEPS tokens, each with the TuCo of the position that says it, without a cache."""
    out, scores = [], []
    for _ in range(STEPS):
        scores.append(score(pair, ids + out)[0][-1])
        out.append(int(pair.run(ids + out, alpha)[0][-1].argmax()))
    return out, scores


def case(name):
    ids = json.loads((FAMILIES / name / "expected.json").read_text())["sequences"]
    with tempfile.TemporaryDirectory() as tmp:
        pair = Pair(name, load(moved(FAMILIES / name, Path(tmp) / "tuned")), load(FAMILIES / name))
        tuned_alone = load(Path(tmp) / "tuned")
    before_alone = load(FAMILIES / name)
    path, out = NAMES[name][0], {"sequences": ids, "scores": [], "scaled": []}
    for s in ids:
        position, layers = score(pair, s)
        x = final_stream(tuned_alone, s, path)[-1]
        y = final_stream(before_alone, s, path)[-1]
        out["scores"].append({"by_position": position, "by_layer": layers, "output_co": ratio(l1(x - y), l1(y))})
    for alpha in ALPHAS:
        said, tucos = greedy(pair, ids[1], alpha)
        logits = pair.run(ids[1], alpha)[0][-1]
        logprob = torch.log_softmax(logits, -1)[said[0]].item()
        out["scaled"].append({"alpha": alpha, "ids": said, "logprob": logprob, "logits": logits[:8].tolist(),
                              **({"tuco": tucos} if alpha == 1 else {})})
    return out


def rounded(v):
    if isinstance(v, float):
        return float(f"{v:.9g}")
    if isinstance(v, dict):
        return {k: rounded(x) for k, x in v.items()}
    return [rounded(x) for x in v] if isinstance(v, list) else v


def main():
    text = json.dumps(rounded({name: case(name) for name in NAMES}), separators=(",", ":"))
    (ROOT / "tests" / "golden" / "tuco.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
