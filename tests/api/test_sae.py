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


# ---- features

def value(model, ids, name, change=None):
    """What the autoencoder reads: [P][width]."""
    site = PLACE[name]
    x = model.embed(ids) if site == "hook_embed" else model.run(ids, change)[0][site]
    head = SAES[name].cfg.get("hook_head_index")
    return x[:, head] if head is not None else x.reshape(len(ids), -1)


def spliced(model, ids, name, put):
    """Logits with put(x) in the place of x."""
    site, head = PLACE[name], SAES[name].cfg.get("hook_head_index")
    if site == "hook_embed":
        other = object.__new__(Model)
        other.__dict__ = dict(model.__dict__)
        other.embed = lambda i: put(model.embed(i))
        return other.logits(ids)

    def change(x):
        if head is None:
            return put(x.reshape(len(x), -1)).reshape(x.shape)
        x[:, head] = put(x[:, head])
        return x

    return model.logits(ids, {site: change})


def loss(logits, ids):
    return -log_softmax(logits)[np.arange(len(ids) - 1), ids[1:]]


def features(d, **body):
    a = d.post("/v1/features", body)
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/features", a)


@pytest.mark.parametrize("name", SAES)
def test_features_are_those_of_the_formulas(d, model, name):
    sae, texts = SAES[name], [IDS[0], IDS[1]]
    a = features(d, sae=name, inputs=[{"ids": t} for t in texts], top_k=10, features=[3, 0, 7])
    xs = [value(model, t, name) for t in texts]
    mean, off, size, spread, l0 = np.concatenate(xs).mean(0), 0, 0, 0, []
    for x, got in zip(xs, a["inputs"]):
        act = sae.encode(x)
        y = sae.decode(x, act)
        assert got["l0"] == (act > 0).sum(-1).tolist()
        assert np.allclose(got["error"], ((x - y) ** 2).sum(-1) / (x ** 2).sum(-1), rtol=1e-4)
        assert np.allclose(got["explained"], 1 - ((x - y) ** 2).sum(-1) / ((x - mean) ** 2).sum(-1), rtol=1e-4, atol=1e-4)
        for row, top in zip(act, got["top"]):
            assert [t["feature"] for t in top] == [i for i in np.argsort(-row)[:10] if row[i] > 0]
            assert np.allclose([t["activation"] for t in top], [row[t["feature"]] for t in top], rtol=1e-4, atol=1e-5)
        for f in got["followed"]:
            assert np.allclose(f["activation"], act[:, f["feature"]], rtol=1e-4, atol=1e-5)
        assert [f["feature"] for f in got["followed"]] == [3, 0, 7]
        off, size, spread, l0 = off + ((x - y) ** 2).sum(), size + (x ** 2).sum(), spread + ((x - mean) ** 2).sum(), l0 + got["l0"]
    assert np.allclose([a["l0"], a["error"], a["explained"]], [np.mean(l0), off / size, 1 - off / spread], rtol=1e-4)
    assert a["checks"] == {"finite": True} and "loss" not in a and a["sae"]["name"] == name


@pytest.mark.parametrize("name", SAES)
@pytest.mark.parametrize("pos", ["all", [1, 3]])
def test_splice(d, model, name, pos):
    sae, texts = SAES[name], [IDS[0], IDS[1]]
    a = features(d, sae=name, inputs=[{"ids": t} for t in texts], pos=pos, splice=True)
    sums = {"clean": [], "sae": [], "zero": []}
    for t, got in zip(texts, a["inputs"]):
        at = list(range(len(t))) if pos == "all" else pos

        def only(f):
            def put(x):
                x = np.array(x)
                x[at] = f(x)[at]
                return x
            return put

        want = {"clean": loss(model.logits(t), t), "sae": loss(spliced(model, t, name, only(lambda x: sae.decode(x, sae.encode(x)))), t),
                "zero": loss(spliced(model, t, name, only(np.zeros_like)), t)}
        for k in want:
            assert np.isclose(got["loss"][k], want[k].mean(), atol=2e-5)
            sums[k] += want[k].tolist()
    m = {k: np.mean(v) for k, v in sums.items()}
    assert all(np.isclose(a["loss"][k], m[k], atol=2e-5) for k in m) and a["loss"]["tokens"] == len(sums["clean"])
    assert abs(m["zero"] - m["sae"]) > 1e-3 and abs(m["clean"] - m["sae"]) > 1e-3
    assert np.isclose(a["loss"]["recovered"], (m["zero"] - m["sae"]) / (m["zero"] - m["clean"]), rtol=1e-2)


def test_a_perfect_autoencoder_loses_nothing(d, folders):
    """W_enc = (I, −I), W_dec = its transpose: x̂ = x."""
    sae = Sae(features=2 * D)
    both = np.concatenate([np.eye(D), -np.eye(D)], 1).astype(np.float32)
    sae.w = {"W_enc": both, "W_dec": both.T, "b_enc": np.zeros(2 * D, np.float32), "b_dec": np.zeros(D, np.float32)}
    sae.save(folders / "perfect")
    assert d.post("/v1/saes", {"path": "perfect"}).status == 201
    a = features(d, sae="perfect", input={"ids": IDS[0]}, splice=True)
    assert d.delete("/v1/saes/perfect").status == 200
    assert a["error"] < 1e-12 and a["explained"] > 1 - 1e-9 and a["l0"] == D
    assert a["loss"]["sae"] == a["loss"]["clean"] and a["loss"]["recovered"] == 1 and a["warnings"] == []


def test_the_log_knows_one_from_another(d, folders):
    """The same name and request, other weights: another answer, not the one that was kept."""
    body = {"sae": "changing", "input": {"ids": IDS[0]}}
    seen = []
    for seed in (20, 20, 21):
        Sae(seed=seed).save(folders / "changing")
        assert d.post("/v1/saes", {"path": "changing"}).status == 201
        seen.append(features(d, **body))
        assert d.delete("/v1/saes/changing").status == 200
    assert "cached" not in seen[0] and seen[1]["cached"] is True and seen[1]["run"] == seen[0]["run"]
    assert "cached" not in seen[2] and seen[2]["error"] != seen[0]["error"]
    run = d.get(f"/v1/runs/{seen[2]['run']}").json
    assert run["kind"] == "features" and run["result"]["sae"]["digest"] == seen[2]["sae"]["digest"]


def test_of_a_text(d):
    a = features(d, sae="standard", input="The capital of France is", pos="last", top_k=3)
    assert len(a["inputs"][0]["top"]) == 1 and len(a["inputs"][0]["top"][0]) == 3 and len(a["inputs"][0]["l0"]) == 1


@pytest.mark.parametrize("change, status, field, said", [
    ({"sae": "none"}, 404, "sae", "standard"), ({"features": [K]}, 400, "features[0]", "47"), ({"features": [0, -1]}, 400, "features[1]", "47"),
    ({"pos": 99}, 400, "pos", "99"), ({"top_k": 257}, 400, "top_k", "256"), ({"input": {"ids": [5]}, "splice": True}, 400, "splice", "two"),
    ({"input": {"ids": [300]}}, 400, "input.ids[0]", "299"), ({"sae": None}, 400, "sae", ""), ({"view": "none"}, 404, "view", "none"),
])
def test_bad_requests_for_features(d, change, status, field, said):
    before = d.get("/v1/runs").json
    problem(d.post("/v1/features", {"sae": "standard", "input": {"ids": IDS[0]}, **change}), status, field=field, said=said)
    assert d.get("/v1/runs").json == before


# ---- writing a feature

def written(sae, op, feature, weight):
    def put(x):
        a = sae.encode(x)[..., feature]
        by = {"add": np.full(a.shape, weight), "set": weight - a, "scale": (weight - 1) * a}[op]
        return sae.add(x, feature, by)
    return put


def busiest(model, name):
    """A feature that is there at some positions, and not at all."""
    act = SAES[name].encode(value(model, IDS[0], name)) > 0
    return int(np.abs(act.mean(0) - 0.5).argmin())


def trace(d, ids, writes):
    a = d.post("/v1/trace", {"inputs": [{"ids": ids}], "top_k": 300, "top_pos": "all", "writes": writes})
    assert a.status == 200, a
    got = keeps(d, "POST", "/v1/trace", a)
    logits = np.zeros((len(ids), 300))
    for row, top in zip(logits, got["inputs"][0]["top"]):
        for t in top:
            row[t["id"]] = t["logit"]
    return got, logits


@pytest.mark.parametrize("op, weight", [("add", 3.0), ("set", 2.0), ("set", 0.0), ("scale", 4.0), ("scale", 0.0)])
@pytest.mark.parametrize("name", SAES)
def test_a_written_feature(d, model, name, op, weight):
    sae, feature, pos = SAES[name], busiest(model, name), list(range(1, len(IDS[0])))
    body = [{"sae": name, "feature": feature, "op": op, "weight": weight, "pos": pos}]
    if name == "heads" and op != "add":
        problem(d.post("/v1/trace", {"inputs": [{"ids": IDS[0]}], "writes": body}), 400, field="writes[0].op", said="side by side")
        return

    seen = []

    def put(x):
        new = np.array(x)
        new[pos] = written(sae, op, feature, weight)(x)[pos]
        seen.append(np.abs(new - x).max())
        return new

    got, logits = trace(d, IDS[0], body)
    want, clean = spliced(model, IDS[0], name, put), model.logits(IDS[0])
    assert np.abs(logits - want).max() < 2e-4 and np.abs(want - clean).max() > 1e-2
    effect = got["writes"][0]
    assert effect["sites"] == [PLACE[name]] and effect["elements"] == len(pos) * sae.cfg["d_in"]
    assert np.isclose(effect["max_change"], seen[0], rtol=1e-3)
    assert effect["sae"]["feature"] == feature and effect["sae"]["name"] == name and effect["sae"]["digest"].startswith("sha256:")


def test_set_to_what_it_is_changes_nothing(d, model):
    feature = busiest(model, "jumprelu")
    plain = trace(d, IDS[0], [])[1]
    same = trace(d, IDS[0], [{"sae": "jumprelu", "feature": feature, "op": "scale"}])
    assert np.array_equal(plain, same[1]) and same[0]["writes"][0]["max_change"] == 0


def test_after_a_set_the_feature_is_that(d, model):
    """Where W_enc and W_dec agree: an orthonormal dictionary."""
    q = np.linalg.qr(np.random.default_rng(9).normal(size=(D, D)))[0].astype(np.float32)
    sae = Sae(features=D)
    sae.w = {"W_enc": q, "W_dec": q.T.copy(), "b_enc": np.zeros(D, np.float32), "b_dec": np.zeros(D, np.float32)}
    from pathlib import Path
    folder = Path(d.options[1]) / "orthonormal"
    sae.save(folder)
    assert d.post("/v1/saes", {"path": "orthonormal"}).status == 201
    x = value(model, IDS[0], "standard")
    feature = int((sae.encode(x) > 0).sum(0).argmax())
    at = [i for i in range(len(IDS[0])) if sae.encode(x)[i, feature] > 0]
    a = d.post("/v1/trace", {"inputs": [{"ids": IDS[0]}], "reads": [{"site": SITE, "pos": at}],
                             "writes": [{"sae": "orthonormal", "feature": feature, "weight": 1.5, "pos": at}]}).json
    assert d.delete("/v1/saes/orthonormal").status == 200
    after = sae.encode(np.array(a["captures"][0]["values"]).reshape(-1, D))
    before = sae.encode(x[at])
    assert np.allclose(after[:, feature], 1.5, atol=1e-5)
    others = np.arange(D) != feature
    assert np.allclose(after[:, others], before[:, others], atol=1e-5)


@pytest.mark.parametrize("name, op", [("standard", "add"), ("topk", "set"), ("head", "scale"), ("jumprelu", "set"), ("embed", "add")])
def test_generation_with_a_feature(d, model, name, op):
    sae, feature, weight = SAES[name], busiest(model, name), 6.0
    a = d.post("/v1/generate", {"prompt": {"ids": IDS[0]}, "max_tokens": 8, "writes": [{"sae": name, "feature": feature, "op": op, "weight": weight}]})
    assert a.status == 200 and a.json["writes"][0]["generated"] is True, a
    now = list(IDS[0])
    for got in a.json["ids"]:
        logits = spliced(model, now, name, written(sae, op, feature, weight))[-1]
        assert logits[got] > logits.max() - 1e-4
        now.append(got)


def test_a_written_trace_is_logged_by_digest(d, folders):
    body = [{"sae": "changing", "feature": 3, "op": "add", "weight": 2}]
    seen = []
    for seed in (30, 30, 31):
        Sae(seed=seed).save(folders / "changing")
        assert d.post("/v1/saes", {"path": "changing"}).status == 201
        seen.append(trace(d, IDS[1], body)[0])
        assert d.delete("/v1/saes/changing").status == 200
    assert seen[1].get("cached") is True and "cached" not in seen[2]
    assert seen[2]["writes"][0]["sae"]["digest"] != seen[0]["writes"][0]["sae"]["digest"]


@pytest.mark.parametrize("write, status, field, said", [
    ({"sae": "none", "feature": 0}, 404, "writes[0].sae", "standard"), ({"sae": "standard"}, 400, "writes[0].feature", "required"),
    ({"feature": 0}, 400, "writes[0].sae", "required"), ({"sae": "standard", "feature": K}, 400, "writes[0].feature", "47"),
    ({"sae": "standard", "feature": -1}, 400, "writes[0].feature", "0"), ({"sae": "standard", "feature": 0, "site": SITE}, 400, "writes[0].site", "site"),
    ({"sae": "standard", "feature": 0, "from": "zero"}, 400, "writes[0].from", "weight"), ({"sae": "standard", "feature": 0, "head": 0}, 400, "writes[0].head", ""),
    ({"sae": "standard", "feature": 0, "pos": 99}, 400, "writes[0].pos", "99"), ({"sae": "standard", "feature": 0, "weight": 1e300}, 400, "writes[0].weight", ""),
    ({"op": "scale"}, 400, "writes[0].site", "required"), ({"sae": "standard", "feature": 0, "op": "mul"}, 400, "writes[0].op", "scale"),
])
def test_bad_feature_writes(d, write, status, field, said):
    problem(d.post("/v1/trace", {"inputs": [{"ids": IDS[0]}], "writes": [write]}), status, field=field, said=said)
    problem(d.post("/v1/generate", {"prompt": {"ids": IDS[0]}, "writes": [write]}), status, field=field, said=said)
