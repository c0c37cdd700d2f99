"""What a tiny model computes, written out in float64 numpy from the formulas, with any change made
to its stream. test_trace.py holds it against the committed expectations before other tests trust it
for what those files cannot contain: writes, patch grids, TuCo, scores of edited weights.
"""
import json
import struct
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "golden" / "tiny"
TOLERANCE = 1e-4  # per tensor in the Euclidean norm; tests/golden/tiny/README.md says why


def safetensors(data):
    """{name: array} of a safetensors file's bytes (or path); BF16 and F16 widen to float32."""
    data = data if isinstance(data, bytes) else Path(data).read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    head, out = json.loads(data[8:8 + n]), {}
    for name, t in head.items():
        if name == "__metadata__":
            continue
        raw = data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            flat = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            flat = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[t["dtype"]]).astype("<f4")
        out[name] = flat.reshape(t["shape"])
    return out


def expected(model):
    """(expected.json, expected.safetensors) of a tiny model."""
    return json.loads((TINY / model / "expected.json").read_text()), safetensors(TINY / model / "expected.safetensors")


def close(a, b, tolerance=TOLERANCE):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    off, size = np.linalg.norm(a - b), np.linalg.norm(b)
    return off <= tolerance * size + 1e-12


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class Model:
    """A hub-style directory, perhaps with some tensors replaced."""

    def __init__(self, name="gqa_tied", **replaced):
        where = TINY / name
        self.config = c = json.loads((where / "config.json").read_text())
        self.weight = {}
        for file in sorted(where.glob("model*.safetensors")):
            self.weight.update({n: w.astype(np.float64) for n, w in safetensors(file).items()})
        self.L, self.H, self.G = c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"]
        self.e = c.get("head_dim") or c["hidden_size"] // self.H
        self.eps = c["rms_norm_eps"]
        self.theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]

    def edited(self, tensor, delta):
        """Base plus a dense delta, rounded to float32 as the engine's rebuild is."""
        other = object.__new__(Model)
        other.__dict__ = {**self.__dict__, "weight": dict(self.weight)}
        other.weight[tensor] = (self.weight[tensor].astype(np.float32) + delta).astype(np.float64)
        return other

    def norm(self, x, gain):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weight[gain]

    def rotate(self, x):
        P, half = x.shape[0], self.e // 2
        angle = np.arange(P)[:, None] * self.theta ** (-np.arange(half) / half)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def block(self, l, x, hook=lambda site, value: value):
        """The stream leaving block l, which x [P][d] enters. hook may replace any value."""
        w = lambda name: self.weight[f"model.layers.{l}.{name}.weight"]
        at = lambda site, value: hook(f"blocks.{l}.{site}", value)
        P, H, G, e = len(x), self.H, self.G, self.e
        x = at("hook_resid_pre", x)
        n = self.norm(x, f"model.layers.{l}.input_layernorm.weight")
        q = at("attn.hook_q", (n @ w("self_attn.q_proj").T).reshape(P, H, e))
        k = at("attn.hook_k", (n @ w("self_attn.k_proj").T).reshape(P, G, e))
        v = at("attn.hook_v", (n @ w("self_attn.v_proj").T).reshape(P, G, e))
        q, k = self.rotate(q), np.repeat(self.rotate(k), H // G, 1)
        score = np.einsum("phe,khe->hpk", q, k) / np.sqrt(e)
        score[:, np.triu(np.ones((P, P), bool), 1)] = -np.inf
        pattern = at("attn.hook_pattern", softmax(score))
        z = at("attn.hook_z", np.einsum("hpk,khe->phe", pattern, np.repeat(v, H // G, 1)))
        out = at("hook_attn_out", z.reshape(P, H * e) @ w("self_attn.o_proj").T)
        mid = at("hook_resid_mid", x + out)
        n = self.norm(mid, f"model.layers.{l}.post_attention_layernorm.weight")
        gate = at("mlp.hook_pre", n @ w("mlp.gate_proj").T)
        up = at("mlp.hook_pre_linear", n @ w("mlp.up_proj").T)
        post = at("mlp.hook_post", gate / (1 + np.exp(-gate)) * up)
        return at("hook_resid_post", mid + at("hook_mlp_out", post @ w("mlp.down_proj").T))

    def embed(self, ids):
        return self.weight["model.embed_tokens.weight"][ids]

    def unembed(self, x):
        head = self.weight.get("lm_head.weight")
        if self.config["tie_word_embeddings"]:
            head = self.weight["model.embed_tokens.weight"]
        return self.norm(x, "model.norm.weight") @ head.T

    def run(self, ids, change=None):
        """({site: value}, logits [P][V]); change = {site: f(value) → value}."""
        seen, change = {}, change or {}

        def hook(site, value):
            seen[site] = np.array(change[site](value.copy()) if site in change else value)
            return seen[site]

        x = self.embed(ids)
        for l in range(self.L):
            x = self.block(l, x, hook)
        return seen, self.unembed(x)

    def logits(self, ids, change=None):
        return self.run(ids, change)[1]

    def greedy(self, ids, n, ends=(2,)):
        """At most n ids by argmax; an end token is the last."""
        ids, out = list(ids), []
        while len(out) < n and (not out or out[-1] not in ends):
            out.append(int(self.logits(ids + out)[-1].argmax()))
        return out


def tuco(tuned, before, ids):
    """(tuco, Σ‖PTC‖₁, Σ‖FTC‖₁, per layer) at the last token, by the contract's words."""
    x, P, F, layers = tuned.embed(ids), 0, 0, []
    for l in range(tuned.L):
        y = tuned.block(l, x)
        ptc = (before.block(l, x) - x)[-1]
        ftc = (y - x)[-1] - ptc
        P, F, x = P + ptc, F + ftc, y
        layers.append((np.abs(ptc).sum(), np.abs(ftc).sum()))
    p, f = np.abs(P).sum(), np.abs(F).sum()
    return f / (p + f), p, f, layers
