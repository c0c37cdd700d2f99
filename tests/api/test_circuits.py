"""Methods against models whose circuits are known by construction (tests/golden/circuits): the cells of the circuit
have their effect, and all others none. A method is one row of EXACT or of APPROXIMATE."""
import itertools
import json

import numpy as np
import pytest

from conftest import ROOT, Daemon
from helpers import keeps

CIRCUITS = ROOT / "tests" / "golden" / "circuits"
NAMES = sorted(p.name for p in CIRCUITS.iterdir() if p.is_dir())
TRUTH = {n: json.loads((CIRCUITS / n / "truth.json").read_text()) for n in NAMES}
VOCABULARY = {n: json.loads((CIRCUITS / n / "config.json").read_text())["vocab_size"] for n in NAMES}
SILENT = 1e-5   # of the difference between the two runs, where nothing may happen
CLOSE = 1e-4    # where something does: the model is float32 here and float64 there
DIRECTIONS = ("denoise", "noise")


@pytest.fixture(scope="module")
def d(tmp_path_factory):
    """One daemon for all of them."""
    daemon = Daemon(tmp_path_factory.mktemp("circuits") / "data", "--models-dir", str(CIRCUITS), model=CIRCUITS / NAMES[0]).start()
    try:
        for name in NAMES[1:]:
            a = daemon.post("/v1/models", {"path": name})
            assert a.status == 201, a
        yield daemon
    finally:
        daemon.stop()


def request(name, **more):
    t = TRUTH[name]
    return {"model": name, "clean": {"ids": t["clean"]}, "corrupt": {"ids": t["corrupt"]},
            "metric": {"kind": "logit_diff", "answer": t["answer"], "foil": t["foil"]}, **more}


def ask(d, route, body):
    a = d.post(route, body)
    assert a.status == 200, a
    return keeps(d, "POST", route, a)


def ends(name, direction):
    """The metric of the run that is changed, and of the one that values come from."""
    b = TRUTH[name]["baseline"]
    return (b["corrupt"], b["clean"]) if direction == "denoise" else (b["clean"], b["corrupt"])


def effects(values, name, direction):
    base, source = ends(name, direction)
    return (np.array(values) - base) / (source - base)


def agree(got, want):
    want = np.array(want)
    assert got.shape == want.shape
    assert np.abs(got[want == 0]).max(initial=0) <= SILENT
    assert np.abs(got - want).max() <= CLOSE


# ---- exact methods: (d, name, direction) gives nothing but passes ---------------------------------------------

def patch_grids(d, name, direction):
    for key, want in TRUTH[name]["grids"][direction].items():
        site, axes = key.split()
        g = ask(d, "/v1/patch", request(name, site=site, axes=axes.split(","), direction=direction))
        agree(effects(g["values"], name, direction), want)
        for run in ("clean", "corrupt"):
            assert abs(g["baseline"][run] - TRUTH[name]["baseline"][run]) <= CLOSE


def localize(d, name, direction):
    """The ranking is the heads' own effects; the region's effect is that of all of them together."""
    want = TRUTH[name]["grids"][direction]["attn.hook_z layer,head"]
    a = ask(d, "/v1/localize", request(name, method="patch", direction=direction, k=1))
    base, source = ends(name, direction)
    got = np.full_like(np.array(want), np.nan, float)
    for r in a["ranking"]:
        got[r["layer"], r["head"]] = r["score"] / abs(source - base)
    agree(got, want)


def zeroed(d, name, _direction):
    """Heads of the clean run, set to zero one by one."""
    want = np.zeros_like(np.array(TRUTH[name]["grids"]["noise"]["attn.hook_z layer,head"]))
    for z in TRUTH[name]["zero"]:
        want[tuple(z["heads"][0])] = z["effect"]
    g = ask(d, "/v1/patch", request(name, site="attn.hook_z", axes=["layer", "head"], direction="noise", **{"from": "zero"}))
    agree(effects(g["values"], name, "noise"), want)


def joint(d, name, direction):
    """Several heads at once, as writes of one run."""
    t = TRUTH[name]
    for j in t["joint"]:
        into = "corrupt" if j["kind"] == "denoise" else "clean"
        way = {"zero": {"op": "scale", "weight": 0.0}, "noise": {"op": "set", "from": {"input": "corrupt"}},
               "denoise": {"op": "set", "from": {"input": "clean"}}}[j["kind"]]
        writes = [{"input": into, "site": f"blocks.{l}.attn.hook_z", "pos": "all", "head": h, **way} for l, h in j["heads"]]
        a = ask(d, "/v1/trace", {"model": name, "inputs": [{"id": k, "ids": t[k]} for k in ("clean", "corrupt")],
                                 "writes": writes, "top_k": 7})
        y = {x["id"]: x["logit"] for x in a["inputs"][into == "corrupt"]["top"][0]}
        got = effects(y[t["answer"]] - y[t["foil"]], name, "denoise" if into == "corrupt" else "noise")
        assert abs(got - j["effect"]) <= CLOSE, j


def by_writes(d, name, direction, sender):
    """Runs C and D for the logits, as writes of one run: every q, k and v of the base, and the sender's output."""
    t, into, other = TRUTH[name], *(("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt"))
    layers = len(t["grids"][direction]["attn.hook_z layer,head"])
    # a value read from an input that is written to is its own without the writes
    writes = [{"input": into, "site": f"blocks.{l}.attn.hook_{x}", "pos": "all", "op": "set", "from": {"input": into}}
              for l in range(layers) for x in "qkv"]
    place = {"site": f"blocks.{sender['layer']}.attn.hook_z", "head": sender["head"]} if "head" in sender else \
        {"site": f"blocks.{sender['layer']}.hook_mlp_out"}
    writes.append({"input": into, "pos": "all", "op": "set", "from": {"input": other}, **place})
    a = ask(d, "/v1/trace", {"model": name, "inputs": [{"id": k, "ids": t[k]} for k in ("clean", "corrupt")], "writes": writes, "top_k": VOCABULARY[name]})
    y = {x["id"]: x["logit"] for x in a["inputs"][into == "corrupt"]["top"][0]}
    return y[t["answer"]] - y[t["foil"]]


def paths(d, name, direction):
    """To the logits: each head and MLP by writes of a whole run; in the last layer a head's direct effect is all it has."""
    a = ask(d, "/v1/path-patch", request(name, direction=direction))
    heads, mlps = np.array(a["values"]["heads"]), a["values"]["mlps"]
    agree(effects(heads[-1], name, direction), TRUTH[name]["grids"][direction]["attn.hook_z layer,head"][-1])
    for layer, row in enumerate(heads):
        assert abs(mlps[layer] - by_writes(d, name, direction, {"layer": layer})) <= CLOSE
        for head in (0, len(row) - 1):
            assert abs(row[head] - by_writes(d, name, direction, {"layer": layer, "head": head})) <= CLOSE
    assert a["checks"]["naive"] <= CLOSE and a["checks"]["naive_senders"] == 3


EXACT = (patch_grids, localize, zeroed, joint, paths)

# ---- approximate methods: (name, scores of (d, name, direction), grid of the truth, least ROC-AUC or None) -------
# A bound stands only where the method's definition gives one; else the figure is printed.

def localized(method, **params):
    def scores(d, name, direction):
        a = ask(d, "/v1/localize", request(name, method=method, direction=direction, k=1, params=params))
        out = np.zeros_like(np.array(TRUTH[name]["grids"][direction]["attn.hook_z layer,head"]))
        for r in a["ranking"]:
            out[r["layer"], r["head"]] = r["score"]
        return out
    return scores


APPROXIMATE = (
    ("attribution", localized("attribution"), "attn.hook_z layer,head", None),
    ("dcm", localized("dcm", steps=40), "attn.hook_z layer,head", None),
)


def auc(scores, members):
    """Probability that a member of the circuit is ranked before another cell; ties count half."""
    scores, members = np.abs(np.ravel(scores)), np.ravel(members)
    a, b = scores[members], scores[~members]
    return ((a[:, None] > b).mean() + (a[:, None] == b).mean() / 2) if len(a) and len(b) else None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("method", EXACT, ids=lambda m: m.__name__)
def test_an_exact_method_finds_the_circuit_and_nothing_else(d, method, direction, name):
    method(d, name, direction)


@pytest.mark.parametrize("method, direction, name", itertools.product(APPROXIMATE, DIRECTIONS, NAMES))
def test_an_approximate_method_ranks_the_circuit_first(d, method, direction, name):
    label, scores, grid, least = method
    members = np.array(TRUTH[name]["grids"][direction][grid]) != 0
    value = auc(scores(d, name, direction), members)
    print(f"{label}, {name}, {direction}: ROC-AUC {value}")
    assert least is None or value is None or value >= least


def test_the_truth_has_something_to_find():
    assert len(NAMES) >= 12
    for t in TRUTH.values():
        z = [np.array(t["grids"][x]["hook_resid_pre layer,pos"]) for x in DIRECTIONS]
        assert any((g != 0).any() for g in z) and all((g == 0).any() for g in z)


def test_a_ranking_is_judged():
    members = np.array([True, False, True, False])
    assert auc([3, 1, -2, 0], members) == 1 and auc([0, 1, 0, 1], members) == 0 and auc([1, 1, 1, 1], members) == 0.5
