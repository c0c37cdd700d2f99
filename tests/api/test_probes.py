"""Probes: against numpy on the reference's activations, beside their control, kept, applied and added."""
import io
import random

import numpy as np
import pytest
from helpers import edit, keeps, nothing_moves, problem
from reference import Model, safetensors

TOKEN = 42


def rows(n=60, length=6, seed=1, **more):
    """Half of the texts end in the token, three times."""
    rng, out = random.Random(seed), []
    for i in range(n):
        ids = [rng.choice([t for t in range(10, 300) if t != TOKEN]) for _ in range(length)]
        if i % 2:
            ids[-3:] = [TOKEN] * 3
        out.append({"text": {"ids": ids}, "label": bool(i % 2), **more})
    return out


DATA = rows()
LABELS = np.array([r["label"] for r in DATA])


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


def fit(d, status=200, **body):
    a = d.post("/v1/probes", {"data": DATA, "params": {"lambda": 0.1}, **body})
    assert a.status == status, a
    return keeps(d, "POST", "/v1/probes", a)


def get(d, which):
    return keeps_path(d, f"/v1/probes/{which}")


def keeps_path(d, path):
    a = d.get(path)
    assert a.status == 200, a
    return a.json


def features(model, data, site, at=-1):
    seen = [model.run(r["text"]["ids"])[0][site] for r in data]
    return np.array([x.mean(0) if at == "mean" else x[at] for x in seen], np.float64)


def standard(x):
    return (x - x.mean(0)) / x.std(0), x.mean(0), x.std(0)


def ridge(z, y, lam):
    t = np.where(y, 1.0, -1.0)
    w = np.linalg.solve(z.T @ z + lam * len(z) * np.eye(z.shape[1]), z.T @ (t - t.mean()))
    return w, t.mean()


@pytest.mark.parametrize("pos", ["last", "mean"])
def test_what_is_kept_is_numpys(daemon, model, pos):
    a = fit(daemon, kind="ridge", sites=["blocks.1.hook_resid_post"], pos=pos)
    p = get(daemon, a["probe_id"])
    assert p["labels"] == [False, True] and p["pos"] == pos and p["kind"] == "ridge" and p["rows"] == 60
    [w] = p["weights"]
    x = features(model, DATA, "blocks.1.hook_resid_post", -1 if pos == "last" else "mean")
    z, mean, sd = standard(x)
    want, bias = ridge(z, LABELS, 0.1)
    assert np.allclose(w["mean"], mean, atol=1e-4) and np.allclose(w["scale"], sd, rtol=1e-4)
    assert np.allclose(w["w"], want, atol=2e-4) and np.isclose(w["b"][0], bias, atol=1e-9)
    u = np.array(w["w"]) / w["scale"]
    assert np.allclose(w["sigma"], [(x @ (u / np.linalg.norm(u))).std()], rtol=1e-4)
    assert a["kept"][0]["sigma"] == w["sigma"]


def test_the_sweep(daemon):
    a = fit(daemon, data=rows(160), seed=3)
    assert [s["site"] for s in a["sites"]] == [f"blocks.{i}.hook_resid_post" for i in range(3)]
    assert a["majority"] == 0.5 and a["groups"] == 160 and a["folds"] == 5
    assert a["labels"] == [{"label": False, "rows": 80}, {"label": True, "rows": 80}]
    for s in a["sites"]:
        assert s["accuracy"] > 0.8 and s["auroc"] > 0.85 and 0 < s["log_loss"] < 0.6
        assert 0.25 < s["control"] < 0.75 and np.isclose(s["selectivity"], s["accuracy"] - s["control"])
        assert np.isclose(np.mean(s["folds"]), s["accuracy"])
        assert np.isclose(np.std(s["folds"], ddof=1) / np.sqrt(5), s["accuracy_se"])
    best = max(a["sites"], key=lambda s: (s["accuracy"], s["auroc"]))
    assert a["best"] == {"site": best["site"]} == {"site": a["kept"][0]["site"]}


def test_shuffled_labels_are_chance(daemon):
    rng = random.Random(5)
    data = [{**r, "label": rng.random() < 0.5} for r in rows(120, seed=9)]
    a = fit(daemon, data=data, pos="mean", sites=["resid_post1"])
    assert 0.3 < a["sites"][0]["accuracy"] < 0.7


def test_a_group_lies_in_one_fold(daemon):
    """Ten copies of each text: by row that is remembered, by group it is not known."""
    rng = random.Random(2)
    base = [{"text": {"ids": [rng.randrange(10, 300) for _ in range(5)]}, "label": bool(i % 2)} for i in range(12)]
    copies = [dict(r) for r in base for _ in range(5)]
    grouped = [{**r, "group": str(i // 5)} for i, r in enumerate(copies)]
    by_row, by_group = (fit(daemon, data=x, sites=["resid_post2"], folds=4) for x in (copies, grouped))
    assert by_row["sites"][0]["accuracy"] == 1 and by_group["sites"][0]["accuracy"] < 0.9
    assert by_group["groups"] == 12 and by_row["groups"] == 60


@pytest.mark.parametrize("kind, params", [("logistic", {}), ("mass_mean", {}), ("mass_mean", {"whiten": True, "lambda": 0.1}),
                                          ("mlp", {"hidden": 8, "epochs": 50}), ("sparse", {"k": 4}), ("ridge", {"standardize": False})])
def test_every_kind_is_kept_and_applied(daemon, kind, params):
    a = fit(daemon, kind=kind, params=params, pos="mean", sites=["resid_post0"])
    assert (a["sites"][0]["log_loss"] is None) == (kind in ("ridge", "mass_mean") and not params.get("whiten"))
    r = daemon.post(f"/v1/probes/{a['probe_id']}/apply", {"inputs": [dict(x["text"], id=str(i)) for i, x in enumerate(DATA)]})
    assert r.status == 200, r
    assert all(("prob" in x["members"][0]) == (a["sites"][0]["log_loss"] is not None) for x in r.json["inputs"])
    said = [x["members"][0]["label"] for x in r.json["inputs"]]
    assert np.mean([s == [bool(y)] for s, y in zip(said, LABELS)]) > 0.75


def test_applied_is_numpys(daemon, model):
    a = fit(daemon, sites=["resid_post1"], name="applied")
    [w] = get(daemon, "applied")["weights"]
    body = {"inputs": [dict(r["text"], id=str(i)) for i, r in enumerate(DATA[:4])], "pos": "all"}
    r = daemon.post("/v1/probes/applied/apply", body)
    said = r.json
    assert r.status == 200 and said["probe"]["id"] == a["probe_id"] and said["labels"] == [False, True] and said["warnings"] == []
    for row, one in zip(DATA, said["inputs"]):
        x = model.run(row["text"]["ids"])[0]["blocks.1.hook_resid_post"]
        s = ((x - w["mean"]) / w["scale"]) @ np.array(w["w"]) + w["b"][0]
        [m] = one["members"]
        assert one["pos"] == list(range(6)) and m["site"] == "blocks.1.hook_resid_post"
        assert np.allclose(np.ravel(m["scores"]), s, atol=1e-3) and m["label"] == [bool(v) for v in s > 0]
        assert np.allclose([p[1] for p in m["prob"]], 1 / (1 + np.exp(-s)), atol=1e-3)
    again = daemon.post("/v1/probes/applied/apply", body).json
    assert again["cached"] is True and again["inputs"] == said["inputs"]
    last = daemon.post("/v1/probes/applied/apply", {"input": DATA[0]["text"]}).json
    assert last["inputs"][0]["pos"] == [5]
    other = fit(daemon, sites=["resid_post1"], name="applied", params={"lambda": 1})
    moved = daemon.post("/v1/probes/applied/apply", body).json
    assert "cached" not in moved and moved["probe"]["id"] == other["probe_id"]


def test_three_labels(daemon):
    data = [{**r, "label": ["a", "b", "c"][i % 3]} for i, r in enumerate(DATA)]
    a = fit(daemon, data=data, sites=["resid_post0"])
    assert [x["label"] for x in a["labels"]] == ["a", "b", "c"]
    r = daemon.post(f"/v1/probes/{a['probe_id']}/apply", {"input": DATA[0]["text"]}).json["inputs"][0]["members"][0]
    assert len(r["scores"][0]) == 3 and np.isclose(sum(r["prob"][0]), 1) and r["label"][0] in "abc"
    write = {"site": "resid_post0", "op": "add", "from": {"probe": a["probe_id"]}}
    problem(daemon.post("/v1/trace", {"inputs": [DATA[0]["text"]], "writes": [write]}), 400, field="writes[0].from.label", said="3 labels")
    write["from"]["label"] = "b"
    assert daemon.post("/v1/trace", {"inputs": [DATA[0]["text"]], "writes": [write]}).status == 200


def test_heads_one_by_one_and_their_directions(daemon, model):
    a = fit(daemon, sites=["blocks.*.attn.hook_z"], kind="mass_mean", keep=4, pos="last", name="truth")
    H = len(a["sites"]) // 3
    assert [(s["site"], s["head"]) for s in a["sites"]] == [(f"blocks.{l}.attn.hook_z", h) for l in range(3) for h in range(H)]
    ranked = sorted(a["sites"], key=lambda s: (-s["accuracy"], -s["auroc"]))
    assert [k["site"] + str(k["head"]) for k in a["kept"]] == [s["site"] + str(s["head"]) for s in ranked[:4]]
    weights = get(daemon, "truth")["weights"]
    text = DATA[0]["text"]
    read = [{"site": "blocks.*.attn.hook_z"}]
    plain = daemon.post("/v1/trace", {"inputs": [text], "reads": read}).json["captures"]
    for scale in ("sigma", "unit"):
        write = {"site": "blocks.*.attn.hook_z", "pos": "last", "op": "add", "weight": 15, "from": {"probe": "truth", "scale": scale}}
        first = min(int(w["site"].split(".")[1]) for w in weights)
        r = daemon.post("/v1/trace", {"inputs": [text], "reads": read, "writes": [write]})
        assert r.status == 200, r
        for layer in range(first + 1):
            was, now = (np.reshape(c[layer]["values"], c[layer]["shape"]) for c in (plain, r.json["captures"]))
            want = np.zeros_like(was)
            for w in (w for w in weights if w["site"] == f"blocks.{layer}.attn.hook_z"):
                u = np.array(w["w"]) / w["scale"]
                want[-1, w["head"]] = 15 * u / np.linalg.norm(u) * (w["sigma"][0] if scale == "sigma" else 1)
            assert np.allclose(now - was, want, atol=1e-4)
    g = daemon.post("/v1/generate", {"prompt": text, "max_tokens": 3, "writes": [{**write, "pos": "all"}]})
    assert g.status == 200, g
    whole = fit(daemon, sites=["z0"], heads=False)
    assert "head" not in whole["sites"][0] and len(get(daemon, whole["probe_id"])["weights"][0]["w"]) == H * len(weights[0]["w"])


def test_those_asked_for_are_kept(daemon):
    a = fit(daemon, sites=["blocks.*.attn.hook_z", "resid_post2"], keep=[{"site": "z1", "head": 1}, {"site": "resid_post2"}])
    assert [{k: x[k] for k in ("site", "head") if k in x} for x in a["kept"]] == [{"site": "blocks.1.attn.hook_z", "head": 1},
                                                                               {"site": "blocks.2.hook_resid_post"}]


def test_rows_of_a_set_and_spans(daemon):
    lines = [{"prompt": f"The {w} is it", "label": i % 2, "group": str(i // 2), "spans": {"thing": w}}
             for i, w in enumerate(["cat", "dog", "sun", "moon", "car", "road", "cup", "tea"])]
    assert daemon.post("/v1/sets", {"name": "things", "rows": lines}).status == 201
    a = daemon.post("/v1/probes", {"set": "things", "pos": "thing", "folds": 2, "sites": ["resid_post0"]})
    assert a.status == 200, a
    assert a.json["set"]["id"].startswith("set_") and a.json["groups"] == 4
    assert [x["label"] for x in a.json["labels"]] == [0, 1]


def test_it_is_logged_listed_and_outlives_a_restart(start, tmp_path):
    d = start(data=tmp_path / "data")
    a = fit(d, sites=["resid_post0"], name="kept")
    again = fit(d, sites=["resid_post0"], name="kept")
    assert again["cached"] is True and again["probe_id"] == a["probe_id"]
    [one] = d.get("/v1/probes").json["probes"]
    assert one["probe"] == a["probe_id"] and one["name"] == "kept" and one["run"] == a["run"] and "weights" not in one
    assert one["members"][0]["accuracy"] == a["sites"][0]["accuracy"]
    before = get(d, "kept")
    assert d.get(f"/v1/runs/{a['run']}").json["result"]["sites"] == a["sites"] and d.get("/v1/runs?kind=probes").json["runs"]
    assert d.get("/v1/audit/verify").json["ok"]
    d.stop()
    d = start(data=tmp_path / "data")
    assert get(d, "kept") == before
    said = d.post("/v1/probes/kept/apply", {"input": DATA[1]["text"]})
    assert said.status == 200 and said.json["warnings"] == []
    edit(d)
    [warning] = d.post("/v1/probes/kept/apply", {"input": DATA[1]["text"]}).json["warnings"]
    assert warning.startswith("other-view")


def test_bytes(daemon):
    a = fit(daemon, sites=["resid_post0"], kind="mlp", params={"hidden": 4, "epochs": 5})
    [w] = get(daemon, a["probe_id"])["weights"]
    path = f"/v1/probes/{a['probe_id']}"
    st = safetensors(daemon.get(path, headers={"Accept": "application/safetensors"}).body)
    npz = np.load(io.BytesIO(daemon.get(path, headers={"Accept": "application/x-npz"}).body))
    for name, shape in (("mean", (-1,)), ("scale", (-1,)), ("w", (-1,)), ("b", (-1,)), ("w1", (4, -1)), ("b1", (-1,)), ("sigma", (-1,))):
        want = np.reshape(np.array(w[name], np.float64), shape)
        for got in (st, npz):
            assert np.allclose(got[f"blocks.0.hook_resid_post/{name}"], want, rtol=1e-6, equal_nan=True), name


BAD = {
    "nothing": ({"data": None}, 400, None, "data"),
    "one label": ({"data": [{**r, "label": 1} for r in DATA]}, 400, "data", "same label"),
    "no label": ({"data": [{"text": "x"}] * 4}, 400, "data[0].label", ""),
    "text and prompt": ({"data": [{**DATA[0], "prompt": "x"}] * 2}, 400, "data[0].prompt", "beside"),
    "too many labels": ({"data": [{**DATA[0], "label": i} for i in range(70)]}, 400, "data", "64"),
    "bad id": ({"data": [DATA[0], {"text": {"ids": [300]}, "label": True}]}, 400, "data[1].text.ids[0]", "299"),
    "no such span": ({"pos": "verb"}, 400, "pos", "verb"),
    "outside": ({"pos": 6}, 400, "pos", "6"),
    "no site": ({"sites": ["nowhere0"]}, 400, "sites[0]", ""),
    "no match": ({"sites": ["resid_post0", "blocks.*.nothing"]}, 400, "sites[1]", "matches"),
    "the pattern": ({"sites": ["blocks.0.attn.hook_pattern"]}, 400, "sites[0]", "width"),
    "kind": ({"kind": "oracle"}, 400, "kind", "logistic"),
    "lambda": ({"params": {"lambda": -1}}, 400, "params.lambda", ""),
    "no lambda": ({"params": {"lambda": 0}}, 400, "params.lambda", "above 0"),
    "lr": ({"kind": "mlp", "params": {"lr": 0}}, 400, "params.lr", "above 0"),
    "folds": ({"folds": 1}, 400, "folds", "2"),
    "groups": ({"data": [{**r, "group": str(i % 3)} for i, r in enumerate(DATA)]}, 422, "folds", "3 groups"),
    "keep another": ({"keep": [{"site": "z0", "head": 0}]}, 400, "keep[0].site", "not among"),
    "keep which head": ({"sites": ["z0"], "keep": [{"site": "z0"}]}, 400, "keep[0].head", "which head"),
    "keep no head": ({"sites": ["z0"], "keep": [{"site": "z0", "head": 99}]}, 400, "keep[0].head", "0.."),
    "an id": ({"name": "probe_1"}, 400, "name", "id"),
    "split": ({"split": "train"}, 400, "split", "set"),
    "set": ({"data": None, "set": "nobody"}, 404, "set", "nobody"),
    "view": ({"view": "nowhere"}, 404, "view", "nowhere"),
}


@pytest.mark.parametrize("name", BAD)
def test_refusals_name_the_field(daemon, name):
    change, status, field, said = BAD[name]
    body = {k: v for k, v in {"data": DATA, **change}.items() if v is not None}
    before = daemon.get("/v1/probes").json
    with nothing_moves(daemon):
        problem(daemon.post("/v1/probes", body), status, field=field, said=said)
    assert daemon.get("/v1/probes").json == before


def test_refusals_of_what_is_stored(daemon):
    a = fit(daemon, sites=["z0"], keep=[{"site": "z0", "head": 1}])
    mlp = fit(daemon, sites=["resid_post0"], kind="mlp", params={"hidden": 2, "epochs": 2})
    which = a["probe_id"]
    problem(daemon.get("/v1/probes/nobody"), 404)
    problem(daemon.post("/v1/probes/nobody/apply", {"input": "x"}), 404)
    problem(daemon.post(f"/v1/probes/{which}/apply", {"input": "x", "pos": "verb"}), 400, field="pos")
    problem(daemon.post(f"/v1/probes/{which}/apply", {"input": "x", "pos": 99}), 400, field="pos")
    problem(daemon.get(f"/v1/probes/{which}", headers={"Accept": "application/x-npy"}), 400, field="Accept")

    def write(site, op="add", **source):
        return daemon.post("/v1/trace", {"inputs": ["x"], "writes": [{"site": site, "op": op, "from": source}]})
    problem(write("z0", probe="nobody"), 404, field="writes[0].from.probe")
    problem(write("z1", probe=which), 400, field="writes[0].from.probe", said="no readout")
    problem(write("z0", op="set", probe=which), 400, field="writes[0].from", said="added")
    problem(write("z0", probe=which, label="x"), 400, field="writes[0].from.label", said="label")
    problem(write("z0", probe=which, scale="big"), 400, field="writes[0].from.scale")
    problem(write("resid_post0", probe=mlp["probe_id"]), 400, field="writes[0].from.probe", said="mlp")
