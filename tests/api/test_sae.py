"""Sparse autoencoders: loaded, read, spliced and written, against numpy on the tiny model."""
import hashlib
import json
import shutil
import struct

import numpy as np
import pytest

from conftest import MODEL, ROOT
from helpers import keeps, problem
from reference import Model, expected, log_softmax, safetensors

GOLDEN = ROOT / "tests" / "golden" / "saes"
IDS = expected("gqa_tied")[0]["sequences"]
D, K = 32, 48
SITE = "blocks.1.hook_resid_post"


def write_file(path, tensors):
    head, data = {}, b""
    for name, t in tensors.items():
        raw = np.asarray(t, "<f4").tobytes()
        head[name] = {"dtype": "F32", "shape": list(np.shape(t)), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Sae:
    """The formulas of docs/sae.md in float64."""

    def __init__(self, kind="standard", width=D, features=K, seed=0, **cfg):
        r = np.random.default_rng(seed)
        draw = lambda *shape: (r.normal(size=shape) * 0.4).astype(np.float32)
        self.kind, self.cfg = kind, {"architecture": kind, "d_in": width, "d_sae": features, "apply_b_dec_to_input": True,
                                     "normalize_activations": "none", "metadata": {"hook_name": SITE}, **cfg}
        self.w = {"W_enc": draw(width, features), "W_dec": draw(features, width), "b_dec": draw(width)}
        if kind == "gated":
            self.w |= {"b_gate": draw(features), "b_mag": draw(features), "r_mag": draw(features)}
        else:
            self.w |= {"b_enc": draw(features)}
        if kind == "jumprelu":
            self.w |= {"threshold": abs(draw(features))}
        self.norm = self.cfg["normalize_activations"]

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cfg.json").write_text(json.dumps(self.cfg))
        write_file(folder / "sae_weights.safetensors", self.w)
        return self

    def frame(self, x):
        """(μ, s, 1/s') of rows."""
        if self.norm == "none":
            return 0, 1, 1
        mu, sd = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
        return mu, 1 / (sd + 1e-5), sd

    def encode(self, x):
        w = {n: t.astype(np.float64) for n, t in self.w.items()}
        mu, s, _ = self.frame(x)
        u = ((x - mu) * s - w["b_dec"] * self.cfg["apply_b_dec_to_input"]) @ w["W_enc"]
        if self.kind == "gated":
            return (u + w["b_gate"] > 0) * np.maximum(0, np.exp(w["r_mag"]) * u + w["b_mag"])
        u = u + w["b_enc"]
        if self.kind == "topk":
            least = -np.sort(-u)[..., [self.cfg["k"] - 1]]
            return np.maximum(0, u) * (u >= least)
        return np.maximum(0, u) * (u > w["threshold"] if self.kind == "jumprelu" else 1)

    def decode(self, x, a):
        mu, _, out = self.frame(x)
        return (a @ self.w["W_dec"] + self.w["b_dec"]) * out + mu

    def add(self, x, feature, by):
        return x + np.asarray(by)[..., None] * self.frame(x)[2] * self.w["W_dec"][feature]


SAES = {"standard": Sae(seed=1), "jumprelu": Sae("jumprelu", seed=2, normalize_activations="layer_norm"),
        "topk": Sae("topk", seed=3, k=6), "gated": Sae("gated", seed=4, apply_b_dec_to_input=False),
        "neurons": Sae(width=48, seed=5, hook_name="blocks.2.mlp.hook_post"), "heads": Sae(seed=6, hook_name="blocks.0.attn.hook_z"),
        "head": Sae(width=8, seed=7, hook_name="blocks.0.attn.hook_z", hook_head_index=2), "embed": Sae(seed=8, hook_name="hook_embed")}
PLACE = {name: s.cfg.get("hook_name", SITE) for name, s in SAES.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    at = tmp_path_factory.mktemp("saes")
    for name, sae in SAES.items():
        sae.save(at / name)
    return at


@pytest.fixture(scope="module")
def d(tmp_path_factory, folders):
    from conftest import Daemon
    daemon = Daemon(tmp_path_factory.mktemp("sae") / "data", "--models-dir", str(folders)).start()
    for name in SAES:
        a = daemon.post("/v1/saes", {"path": name})
        assert a.status == 201, a
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


# ---- loading

def test_list(d, folders):
    a = keeps(d, "GET", "/v1/saes", d.get("/v1/saes"))
    assert [s["name"] for s in a["saes"]] == list(SAES)
    for s in a["saes"]:
        cfg = SAES[s["name"]].cfg
        assert s["architecture"] == cfg["architecture"] and s["site"] == PLACE[s["name"]] and s["head"] == cfg.get("hook_head_index")
        assert (s["width"], s["features"], s["k"]) == (cfg["d_in"], cfg["d_sae"], cfg.get("k"))
        for key, file in (("digest", "sae_weights.safetensors"), ("cfg_digest", "cfg.json")):
            assert s[key] == "sha256:" + hashlib.sha256((folders / s["name"] / file).read_bytes()).hexdigest()


def test_load_again_elsewhere_and_unload(d):
    a = d.post("/v1/saes", {"path": "standard", "name": "other", "site": "blocks.0.hook_mlp_out"})
    assert a.status == 201 and keeps(d, "POST", "/v1/saes", a)["site"] == "blocks.0.hook_mlp_out"
    problem(d.post("/v1/saes", {"path": "topk", "name": "other"}), 409, field="name")
    a = d.request("DELETE", "/v1/saes/other")
    assert a.status == 200 and keeps(d, "DELETE", "/v1/saes/{name}", a)["deleted"] is True
    problem(d.request("DELETE", "/v1/saes/other"), 404, field="name", said="standard")
    assert len(d.get("/v1/saes").json["saes"]) == len(SAES)


def test_memory_is_counted_and_given_back(d):
    held = lambda: [m for m in d.get("/metrics").body.decode().splitlines() if m.startswith("engramd_memory") and "models" in m]
    before = held()
    assert before
    assert d.post("/v1/saes", {"path": "standard", "name": "counted"}).status == 201
    assert held() != before
    assert d.request("DELETE", "/v1/saes/counted").status == 200
    assert held() == before


@pytest.mark.parametrize("change, field, said", [
    ({"path": "nothing"}, "path", "cannot be opened"), ({"path": "/etc"}, "path", ""), ({"path": 5}, "path", ""), ({}, "path", "required"),
    ({"path": "standard", "site": "blocks.9.hook_resid_post"}, "site", "0"), ({"path": "standard", "site": "blocks.0.mlp.hook_post"}, "site", "48"),
    ({"path": "standard", "site": "blocks.0.attn.hook_pattern"}, "site", "pattern"), ({"path": "standard", "name": "a/b"}, "name", ""),
])
def test_bad_requests_to_load(d, change, field, said):
    before = d.get("/v1/saes").json
    a = d.post("/v1/saes", {"name": "new", **change} if "path" in change else change)
    assert a.status in (400, 403, 422), a
    problem(a, a.status, field=field, said=said)
    assert d.get("/v1/saes").json == before


@pytest.mark.parametrize("how, said", [
    ("no cfg", "cfg.json"), ("no weights", "sae_weights.safetensors"), ("cut", "sae_weights.safetensors"), ("kind", "batchtopk"), ("norm", "factor"),
    ("width", "d_in"), ("hook", "hook_name"), ("shape", "W_dec"), ("nan", "not finite"), ("missing", "b_enc"), ("extra", "b_more"),
])
def test_bad_folders(d, folders, how, said):
    at, sae = folders / "bad", Sae(seed=1)
    shutil.rmtree(at, ignore_errors=True)
    if how == "shape":
        sae.w["W_dec"] = sae.w["W_dec"].T
    if how == "nan":
        sae.w["W_enc"][3, 4] = np.nan
    if how == "missing":
        del sae.w["b_enc"]
    if how == "extra":
        sae.w["b_more"] = sae.w["b_enc"]
    sae.cfg |= {"kind": {"architecture": "batchtopk"}, "norm": {"normalize_activations": "expected_average_only_in"},
                "width": {"d_in": 31}, "hook": {"metadata": {}}}.get(how, {})
    sae.save(at)
    if how == "no cfg":
        (at / "cfg.json").unlink()
    if how == "no weights":
        (at / "sae_weights.safetensors").unlink()
    if how == "cut":
        file = at / "sae_weights.safetensors"
        file.write_bytes(file.read_bytes()[:-5])
    problem(d.post("/v1/saes", {"path": "bad", "name": "bad"}), 400, field="path", said=said)
    assert len(d.get("/v1/saes").json["saes"]) == len(SAES)


def test_without_a_models_dir(daemon):
    problem(daemon.post("/v1/saes", {"path": str(GOLDEN / "topk")}), 403, field="path")
