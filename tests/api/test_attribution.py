"""Attribution grids: against gradients and activations that traces read, against the patch grid they estimate,
and what the contract says about answers, audits and refusals."""
import io
import json
import zipfile

import numpy as np
import pytest
from helpers import keeps, nothing_moves, problem
from test_patch import ANSWER, CLEAN, CORRUPT, FOIL, several

LD = {"kind": "logit_diff", "answer": ANSWER, "foil": FOIL}
NO_AUDIT = {"top": 0, "random": 0}


def ask(d, **more):
    body = {"clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": LD, **more}
    a = d.post("/v1/attribution", {k: v for k, v in body.items() if v is not None})
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/attribution", a)


def by_trace(d, site, source, base):
    """(change · gradient) [layer][pos][…] of a site, from reads."""
    sites = [f"blocks.{l}.{site}" for l in range(3)]
    reads = [{"input": i, "site": s} for i in "sb" for s in sites] + [{"input": "b", "site": s, "grad_of": LD} for s in sites]
    a = d.post("/v1/trace", {"inputs": [{"id": "s", "ids": source}, {"id": "b", "ids": base}], "reads": reads})
    assert a.status == 200, a
    x = [np.array(c["values"]).reshape(c["shape"]) for c in a.json["captures"]]
    return np.array([(x[l] - x[3 + l]) * x[6 + l] for l in range(3)])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("site", ["attn.hook_z", "attn.hook_v", "attn.hook_k", "mlp.hook_post"])
def test_estimates_are_change_times_gradient(daemon, site, direction):
    source, base = (CLEAN, CORRUPT) if direction == "denoise" else (CORRUPT, CLEAN)
    want = by_trace(daemon, site, source, base).sum(-1)
    heads = site.startswith("attn")
    g = ask(daemon, site=site, direction=direction, qk_fix=False, axes=["layer"] + ["head"] * heads + ["pos"], audit=NO_AUDIT)
    want = want.transpose(0, 2, 1) if heads else want
    assert np.abs(np.array(g["values"]) - want).max() <= 1e-5 and np.abs(want).max() > 0.01
    assert g["estimates"] == f"M(patched) - M({'corrupt' if direction == 'denoise' else 'clean'})" and "audit" not in g
    assert g["skipped"]["pos"] == [0, 1, 2] and not np.array(g["values"])[..., :3].any()
    summed = ask(daemon, site=site, direction=direction, qk_fix=False, axes=["layer"], audit=NO_AUDIT)
    assert np.allclose(summed["values"], want.reshape(3, -1).sum(1), atol=1e-5)


def test_the_audit_is_the_patch_grid(daemon):
    g = ask(daemon, audit={"top": 2, "random": 3}, seed=5)
    body = {"clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": LD, "site": "attn.hook_z", "axes": ["layer", "head"]}
    exact = np.array((p := daemon.post("/v1/patch", body).json)["values"]) - p["baseline"]["corrupt"]
    cells, values = g["audit"]["cells"], np.array(g["values"])
    assert g["baseline"] == p["baseline"] and g["audit"]["seed"] == 5 and g["audit"]["metric"] == "logit_diff"
    assert [c["picked"] for c in cells] == ["top"] * 2 + ["random"] * 3 and len({(c["layer"], c["head"]) for c in cells}) == 5
    assert sorted(np.abs(values).ravel())[-2:] == sorted(abs(c["estimate"]) for c in cells[:2])
    for c in cells:
        assert abs(c["exact"] - exact[c["layer"]][c["head"]]) <= 1e-4 and c["estimate"] == values[c["layer"]][c["head"]]
    assert np.isclose(g["audit"]["worst_under_estimate"], max(abs(c["exact"]) - abs(c["estimate"]) for c in cells))
    rank = [np.argsort(np.argsort([c[k] for c in cells])) for k in ("estimate", "exact")]
    assert np.isclose(g["audit"]["spearman"], np.corrcoef(*rank)[0, 1]) and g["audit"]["checks"]["full"] <= 1e-4
    top = sum(abs(c["exact"]) for c in cells[:2])
    rest = np.mean([abs(c["exact"]) for c in cells[2:]]) * (values.size - 2)
    assert np.isclose(g["audit"]["top_share"], top / (top + rest))
    assert g["cost"]["audited_cells"] == 5 and 0 < g["cost"]["checks_seconds"] < g["cost"]["seconds"]
    assert g["cost"]["forward"] == 2 * 9 * 3 and g["cost"]["backward"] == 9 * 3


def test_normalised_is_the_difference_over_its_span(daemon):
    plain, over = ask(daemon, audit=NO_AUDIT), ask(daemon, audit=NO_AUDIT, metric={**LD, "kind": "norm_logit_diff"})
    span = plain["baseline"]["clean"] - plain["baseline"]["corrupt"]
    assert np.allclose(np.array(over["values"]) * span, plain["values"], atol=1e-6)
    assert over["baseline"]["clean"] == 1 and over["baseline"]["corrupt"] == 0


def test_sites_pairs_and_metrics_are_those_of_single_requests(daemon):
    pairs = several()
    metrics = [LD, {"kind": "kl"}]
    sites = ["attn.hook_z", "attn.hook_k"]
    whole = ask(daemon, clean=None, corrupt=None, metric=None, pairs=pairs, metrics=metrics, site=sites, grad_drop=True, audit={"top": 1, "random": 1})
    assert [s["site"] for s in whole["sites"]] == sites and "qk_fix" not in whole["sites"][0] and whole["sites"][1]["qk_fix"]
    for site in whole["sites"]:
        values = np.array([r["values"] for r in site["results"]])
        for i, r in enumerate(site["results"]):
            p = pairs[i // 2]
            metric = {**metrics[i % 2], **({k: p[k] for k in ("answer", "foil") if k in p} if i % 2 == 0 else {})}
            one = ask(daemon, clean=p["clean"], corrupt=p["corrupt"], metric=metric, site=site["site"], grad_drop=True, audit=NO_AUDIT)
            assert np.allclose(one["values"], r["values"], atol=1e-6) and np.allclose(one["grad_drop"], r["grad_drop"], atol=1e-6)
            assert (np.array(r["grad_drop"]) >= 0).all()
        for m, mean in enumerate(site["means"]):
            assert np.allclose(mean["mean"], values[m::2].mean(0), atol=1e-7)
            assert (np.array(mean["low"]) <= np.array(mean["high"])).all()
        assert len(site["audit"]["cells"]) == 2


def test_attributions_are_logged(daemon):
    first = ask(daemon, seed=77)
    again = ask(daemon, seed=77)
    assert again["cached"] and again["values"] == first["values"] and again["run"] == first["run"]
    run = daemon.get(f"/v1/runs/{first['run']}").json
    assert run["result"] == first and run["kind"] == "attribution"
    assert first["run"] in [r["run"] for r in daemon.get("/v1/runs?kind=attribution").json["runs"]]


def test_prompts_that_are_the_same_say_so(daemon):
    g = ask(daemon, corrupt={"ids": CLEAN})
    assert not np.array(g["values"]).any() and g["audit"]["cells"] == [] and g["audit"]["spearman"] is None
    assert any(w.startswith("same-prompts") for w in g["warnings"])


# ---- integrated gradients --------------------------------------------------------------------------------------

def path(d, **more):
    return ask(d, **{"method": "ig", **more})


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_one_left_step_is_change_times_gradient(daemon, direction):
    to, start = (CLEAN, CORRUPT) if direction == "denoise" else (CORRUPT, CLEAN)
    reads = [{"input": i, "site": "hook_embed"} for i in "sb"] + [{"input": "b", "site": "hook_embed", "grad_of": LD}]
    a = daemon.post("/v1/trace", {"inputs": [{"id": "s", "ids": to}, {"id": "b", "ids": start}], "reads": reads}).json
    x, y, slope = [np.array(c["values"]).reshape(c["shape"]) for c in a["captures"]]
    g = path(daemon, direction=direction, rule="left", steps=1, max_steps=1)
    assert np.allclose(g["values"], ((x - y) * slope).sum(-1), atol=1e-5) and np.isclose(sum(g["values"]), g["total"])
    assert g["steps"] == 1 and g["rule"] == "left" and np.flatnonzero(g["values"]).tolist() == [3, 7]


def test_a_path_adds_up_to_the_change(daemon):
    g, p = path(daemon), daemon.post("/v1/patch", {"clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": LD,
                                                   "site": "attn.hook_z", "axes": ["layer", "head"]}).json
    change = p["baseline"]["clean"] - p["baseline"]["corrupt"]
    assert g["complete"] and abs(g["residual"]) <= 0.01 * abs(change) and np.isclose(g["total"] - g["residual"], change, atol=1e-4)
    assert all(np.isclose(g["baseline"][k], p["baseline"][k], atol=1e-4) for k in ("clean", "corrupt")) and g["rule"] == "midpoint"
    over = path(daemon, metric={**LD, "kind": "norm_logit_diff"})
    assert np.allclose(np.array(over["values"]) * change, g["values"], atol=1e-4) and over["baseline"] == {"clean": 1, "corrupt": 0}


def test_a_path_that_stops_early_says_so(daemon):
    g = path(daemon, rule="right", steps=1, max_steps=1)
    assert g["steps"] == 1 and not g["complete"] and any(w.startswith("incomplete") for w in g["warnings"])
    exact = path(daemon, rule="gauss", steps=32, max_steps=32)
    assert abs(exact["residual"]) < abs(g["residual"])


def test_an_input_alone_begins_at_zero(daemon):
    g = path(daemon, clean=None, corrupt=None, input={"ids": CLEAN}, steps=64, max_steps=64)
    clean = path(daemon)["baseline"]["clean"]
    assert np.isclose(g["baseline"]["clean"], clean, atol=1e-4) and "corrupt" not in g["tokens"] and np.array(g["values"]).all()
    assert np.isclose(g["total"] - g["residual"], g["baseline"]["clean"] - g["baseline"]["corrupt"], atol=1e-5)


def test_paths_of_pairs_are_those_of_single_requests(daemon):
    pairs, metrics = several(), [LD, {**LD, "kind": "prob"}]
    metrics[1].pop("foil")
    whole = path(daemon, clean=None, corrupt=None, metric=None, pairs=pairs, metrics=metrics)
    assert len(whole["results"]) == len(pairs) * 2
    for i, r in enumerate(whole["results"]):
        p, m = pairs[i // 2], metrics[i % 2]
        one = path(daemon, clean=p["clean"], corrupt=p["corrupt"], metric={**m, **{k: p[k] for k in ("answer", "foil") if k in p and k in m}})
        assert np.allclose(one["values"], r["values"], atol=1e-6) and one["steps"] == r["steps"] and r["metric"] == m["kind"]


# ---- edges ---------------------------------------------------------------------------------------------------------

def edges(d, **more):
    return ask(d, **{"method": "eap", **more})


def table(g):
    return {(e["from"], e["to"]): e["score"] for e in g["edges"]}


def matrix(d, **more):
    """(scores [writers][readers], the answer) as bytes."""
    body = {"clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": LD, "method": "eap", **more}
    a = d.post("/v1/attribution", {k: v for k, v in body.items() if v is not None}, {"Accept": "application/x-npz"})
    assert a.status == 200, a
    z = np.load(io.BytesIO(a.body))
    answer = json.loads(bytes(zipfile.ZipFile(io.BytesIO(a.body)).read("answer.json")))
    return z[answer["name"]], answer


def test_edges_add_up_to_their_writers_and_readers(daemon):
    x, g = matrix(daemon)
    writers, readers = g["axes"]["writers"], g["axes"]["readers"]
    assert x.shape == (len(writers), len(readers)) and writers[0] == "embed" and readers[-1] == "logits"
    assert np.allclose(g["sums"], x.sum(1), atol=1e-6) and np.abs(x).max() > 0.01
    heads = np.array(ask(daemon, site="attn.hook_z", audit=NO_AUDIT)["values"])
    mlps = np.array(ask(daemon, site="hook_mlp_out", axes=["layer"], audit=NO_AUDIT)["values"])
    for l in range(heads.shape[0]):
        assert np.isclose(x[writers.index(f"L{l}.mlp")].sum(), mlps[l], atol=1e-5)
        for h in range(heads.shape[1]):
            assert np.isclose(x[writers.index(f"L{l}H{h}")].sum(), heads[l, h], atol=1e-5)
    final = by_trace(daemon, "hook_resid_post", CLEAN, CORRUPT)[-1].sum()
    assert np.isclose(x[:, -1].sum(), final, atol=1e-5)
    mlp_in = by_trace(daemon, "hook_mlp_in", CLEAN, CORRUPT).reshape(3, -1).sum(1)
    assert np.allclose([x[:, readers.index(f"L{l}.mlp")].sum() for l in range(3)], mlp_in, atol=1e-5)


def test_the_largest_edges_are_told(daemon):
    x, bytes_answer = matrix(daemon)
    g = edges(daemon, top_k=7)
    assert len(g["edges"]) == 7 and g["steps"] == 1 and "rule" not in g and "name" not in g
    assert np.allclose([abs(e["score"]) for e in g["edges"]], sorted(np.abs(x).ravel())[:-8:-1], atol=1e-6)
    for (u, v), score in table(g).items():
        assert np.isclose(x[g["axes"]["writers"].index(u), g["axes"]["readers"].index(v)], score, atol=1e-6)
    assert edges(daemon, top_k=7)["cached"] and g["baseline"] == ask(daemon, audit=NO_AUDIT)["baseline"]


def test_edges_along_a_path(daemon):
    one, path_of = matrix(daemon, steps=1)[0], matrix(daemon, steps=4, rule="gauss")[0]
    assert np.abs(one - path_of).max() > 1e-4
    assert np.allclose(matrix(daemon, steps=1, rule="right")[0], one, atol=1e-6)  # one step is the gradient at the base
    back = matrix(daemon, steps=4, rule="gauss", direction="noise")[0]            # the same points, the changes reversed
    assert np.allclose(back, -path_of, atol=1e-4)
    assert edges(daemon, steps=4)["rule"] == "midpoint"


def test_edges_of_pairs_are_means(daemon):
    pairs = several()
    x, _ = matrix(daemon, clean=None, corrupt=None, metric=None, pairs=pairs, metrics=[LD])
    singles = []
    for p in pairs:
        metric = {**LD, **{k: p[k] for k in ("answer", "foil") if k in p}}
        singles.append(matrix(daemon, clean=p["clean"], corrupt=p["corrupt"], metric=metric)[0])
    assert np.allclose(x, np.mean(singles, 0), atol=1e-6)
    g = edges(daemon, clean=None, corrupt=None, metric=None, pairs=pairs, metrics=[LD], top_k=5, seed=3)
    assert len(g["results"]) == len(pairs) and g["intervals"]["seed"] == 3
    assert all(e["low"] <= e["score"] + 1e-6 and e["score"] <= e["high"] + 1e-6 for e in g["edges"])


def test_edges_of_prompts_that_are_the_same(daemon):
    g = edges(daemon, corrupt={"ids": CLEAN})
    assert g["edges"] == [] and not any(g["sums"]) and any(w.startswith("same-prompts") for w in g["warnings"])


@pytest.mark.parametrize("accept, method, field", [("application/x-npz", "atp", "Accept"), ("application/x-npz", "ig", "Accept")])
def test_bytes_are_of_edges(daemon, accept, method, field):
    with nothing_moves(daemon):
        a = daemon.post("/v1/attribution", {"clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": LD, "method": method}, {"Accept": accept})
    problem(a, 400, field=field, said="eap")


@pytest.mark.parametrize("method", ["atp", "ig", "eap"])
def test_dry_runs_tell_the_cost(daemon, method):
    with nothing_moves(daemon):
        a = daemon.post("/v1/attribution", {"clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": LD, "method": method, "dry_run": True}).json
        assert a["dry_run"] and all(a["cost"][k] > 0 for k in ("rows", "flops", "seconds", "bytes"))
    done = ask(daemon, method=method)
    if method == "atp":
        assert a["cost"]["rows"] >= done["cost"]["forward"] + done["cost"]["backward"] and a["cost"]["cells_run"] == done["cost"]["audited_cells"]
    elif method == "ig":
        assert a["cost"]["rows"] >= done["cost"]["rows"]
    else:
        assert a["cost"]["rows"] == done["cost"]["rows"]


IG, EAP = {"method": "ig"}, {"method": "eap"}
REFUSED = {
    "edges by two metrics": ({**EAP, "metric": None, "metrics": [LD, {"kind": "kl"}]}, 400, "metrics", "one"),
    "an audit of edges": ({**EAP, "audit": {}}, 400, "audit", "atp"),
    "no edges": ({**EAP, "top_k": 0}, 400, "top_k", "10000"),
    "top edges of atp": ({"top_k": 3}, 400, "top_k", "eap"),
    "most steps of eap": ({**EAP, "max_steps": 3}, 400, "max_steps", "ig"),
    "kl along a path": ({**IG, "metric": {"kind": "kl"}}, 400, "metric.kind", "compare"),
    "an audit of a path": ({**IG, "audit": {}}, 400, "audit", "residual"),
    "drops of a path": ({**IG, "grad_drop": True}, 400, "grad_drop", "atp"),
    "no steps": ({**IG, "steps": 0}, 400, "steps", "1"),
    "an unknown rule": ({**IG, "rule": "simpson"}, 400, "rule", "gauss"),
    "an input besides": ({**IG, "input": "a"}, 400, "input", "beside"),
    "steps of atp": ({"steps": 3}, 400, "steps", "ig"),
    "unequal lengths": ({"corrupt": {"ids": CORRUPT[:8]}}, 400, "corrupt", ("9", "8")),
    "no foil": ({"metric": {"kind": "logit_diff", "answer": 3}}, 400, "metric.foil", "needs"),
    "unknown site": ({"site": "hook_embed"}, 400, "site", "hook_resid_pre"),
    "site twice": ({"site": ["attn.hook_z", "attn.hook_z"]}, 400, "site", "twice"),
    "heads of a plain site": ({"site": ["attn.hook_z", "hook_mlp_out"]}, 400, "axes", "no heads"),
    "unknown axis": ({"axes": ["layer", "channel"]}, 400, "axes[1]", "pos"),
    "an axis of another site": ({"axes": ["layer", "neuron"]}, 400, "axes", "head"),
    "unknown method": ({"method": "luck"}, 400, "method", "atp"),
    "an audit of nothing known": ({"audit": {"bottom": 3}}, 400, "audit.bottom", "top"),
    "an audit too large": ({"audit": {"top": 100000}}, 400, "audit.top", "1000"),
    "pairs beside the single form": ({"pairs": [{"clean": "a", "corrupt": "b"}]}, 400, "pairs", "beside"),
    "unknown view": ({"view": "nowhere"}, 404, "view", "nowhere"),
}


def test_an_input_alone_is_refused_where_there_must_be_two(daemon):
    for more, field in ({"metric": LD}, "input"), ({**IG, "metric": {**LD, "kind": "norm_logit_diff"}}, "metric.kind"), \
                       ({**IG, "metric": LD, "direction": "noise"}, "direction"):
        with nothing_moves(daemon):
            a = daemon.post("/v1/attribution", {"input": {"ids": CLEAN}, **more})
        problem(a, 400, field=field)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_field(daemon, name):
    more, status, field, said = REFUSED[name]
    with nothing_moves(daemon):
        a = daemon.post("/v1/attribution", {"clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": LD, **more})
    problem(a, status, field=field, said=said)


@pytest.mark.parametrize("method", ["atp", "eap", "ig"])
def test_a_metric_without_a_gradient_is_refused(daemon, method):
    width = daemon.get("/v1/models").json["models"][0]["width"]
    metric = {"kind": "projection", "direction": [1.0] * width}
    body = {"method": method, "clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": metric}
    problem(daemon.post("/v1/attribution", body), 400, field="metric.kind", said="no gradient")
    listed = {**{k: v for k, v in body.items() if k != "metric"}, "metrics": [{"kind": "prob", "answer": 3}, metric]}
    problem(daemon.post("/v1/attribution", listed), 400, field="metrics[1].kind" if method != "eap" else None)
