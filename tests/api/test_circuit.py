"""Circuit checks over the wire: planted circuits, M of every named set by writes of a trace, the log, regions, refusals.
That every set is what its plain run gives is proven for several families in tests/unit/test_circuit.c."""
import json

import numpy as np
import pytest
from conftest import ROOT
from helpers import keeps, nothing_moves, problem

CIRCUIT = "/v1/circuit"
CIRCUITS = ROOT / "tests" / "golden" / "circuits"
NAMES = sorted(p.name for p in CIRCUITS.iterdir() if p.is_dir())
PARIS = {"clean": {"ids": [5, 9, 12, 7, 21]}, "corrupt": {"ids": [5, 9, 13, 7, 21]},
         "metric": {"kind": "logit_diff", "answer": 42, "foil": 7}}
SOME = {"heads": [{"layer": 1, "head": 0}, {"layer": 0, "head": 1}]}


def ask(d, **body):
    a = d.post(CIRCUIT, body)
    assert a.status == 200, a
    return keeps(d, "POST", CIRCUIT, a)


# ---- planted circuits: the stated one is the whole of the model, and its members do what the truth says ------------

def stated(t, site):
    """Cells with an effect in either direction."""
    return sum(np.abs(np.array(t["grids"][w][site])) for w in ("denoise", "noise")) > 0


@pytest.mark.parametrize("name", NAMES)
def test_planted(start, name):
    t = json.loads((CIRCUITS / name / "truth.json").read_text())
    d = start(model=str(CIRCUITS / name))
    on = stated(t, "attn.hook_z layer,head")
    # an MLP's output at any position, from the grid by position
    mlps = stated(t, "hook_mlp_out layer,pos").any(axis=1)
    heads = [{"layer": int(l), "head": int(h)} for l, h in np.argwhere(on)]
    body = {"clean": {"ids": t["clean"]}, "corrupt": {"ids": t["corrupt"]}, "samples": 4, "n_control": 8,
            "metric": {"kind": "logit_diff", "answer": t["answer"], "foil": t["foil"]}}
    looked = 0
    for direction, base, other in (("noise", "clean", "corrupt"), ("denoise", "corrupt", "clean")):
        effect = np.array(t["grids"][direction]["attn.hook_z layer,head"])
        for with_mlps in (False, True):
            circuit = {"heads": heads, **({"mlps": [int(x) for x in np.flatnonzero(mlps)]} if with_mlps else {})}
            if not any(circuit.values()):
                continue
            a = d.post(CIRCUIT, {**body, "direction": direction, "circuit": circuit})
            if a.status == 422:  # what is named carries nothing: the facts are not in heads
                assert not on.any() and not with_mlps
                continue
            assert a.status == 200, a
            a = keeps(d, "POST", CIRCUIT, a)
            looked += 1
            m, span = a["metric"], a["metric"]["full"] - a["metric"]["none"]
            assert m["full"] == pytest.approx(t["baseline"][base], abs=1e-4)
            assert a["faithfulness"]["value"] == pytest.approx(1, abs=1e-4)
            assert a["completeness"]["max"] <= 1e-4 and a["checks"]["unablated"] <= 1e-4
            assert max(a["control"].get("ci", [1])) <= 1 + 1e-4 or name in ("backup", "or_gate", "and_gate")
            for v in a["minimality"]:
                if "head" in v:
                    want = effect[v["layer"], v["head"]] * (t["baseline"][base] - t["baseline"][other]) / span
                    assert v["value"] == pytest.approx(want, abs=1e-4), v
    assert looked


@pytest.mark.parametrize("name", ["induction_gpt2", "induction_gqa", "induction_neox"])
def test_half_a_planted_circuit_is_not_faithful(start, name):
    t = json.loads((CIRCUITS / name / "truth.json").read_text())
    d = start(model=str(CIRCUITS / name))
    on = np.argwhere(stated(t, "attn.hook_z layer,head"))
    a = ask(d, clean={"ids": t["clean"]}, corrupt={"ids": t["corrupt"]}, circuit={"heads": [{"layer": int(on[0][0]), "head": int(on[0][1])}]},
            metric={"kind": "logit_diff", "answer": t["answer"], "foil": t["foil"]})
    assert abs(a["faithfulness"]["value"]) <= 1e-4 and a["minimality"][0]["value"] == pytest.approx(0, abs=1e-4)


# ---- against writes of a trace -----------------------------------------------------------------------------------

def by_writes(d, out, zero=False):
    """The metric of the clean prompt with these (layer, head), or layers of MLPs, ablated."""
    way = {"op": "scale", "weight": 0.0} if zero else {"op": "set", "from": {"input": "corrupt"}}
    writes = [{"input": "clean", "pos": "all", **way,
               **({"site": f"blocks.{u[0]}.attn.hook_z", "head": u[1]} if isinstance(u, tuple) else {"site": f"blocks.{u}.hook_mlp_out"})}
              for u in out]
    a = d.post("/v1/trace", {"inputs": [{"id": k, **PARIS[k]} for k in ("clean", "corrupt")], "writes": writes, "top_k": 300})
    assert a.status == 200, a
    y = {x["id"]: x["logit"] for x in a.json["inputs"][0]["top"][0]}
    return y[42] - y[7]


def shape(d):
    m = d.get("/v1/models").json["models"][0]
    return m["layers"], m["heads"]


@pytest.mark.parametrize("ablate", ["resample", "zero"])
@pytest.mark.parametrize("mlps", [None, [1]])
def test_every_number_is_a_run_with_writes(daemon, ablate, mlps):
    layers, heads = shape(daemon)
    every = [(l, h) for l in range(layers) for h in range(heads)] + (list(range(layers)) if mlps else [])
    inside = [(0, 1), (1, 0)] + (mlps or [])

    def F(kept):
        return (by_writes(daemon, [u for u in every if u not in kept], ablate == "zero") - none) / (full - none)
    full, none = by_writes(daemon, []), by_writes(daemon, every, ablate == "zero")
    a = ask(daemon, **PARIS, circuit={**SOME, **({"mlps": mlps} if mlps else {})}, ablate=ablate, samples=6, n_control=5, seed=4)
    close = {"abs": 2e-4 * (1 + abs(a["faithfulness"]["value"])) / abs(full - none)}
    assert a["metric"]["full"] == pytest.approx(full, abs=1e-4) and a["metric"]["none"] == pytest.approx(none, abs=1e-4)
    assert a["faithfulness"]["value"] == pytest.approx(F(inside), **close) and "ci" not in a["faithfulness"]
    assert [v["value"] for v in a["minimality"]] == [pytest.approx(F(inside) - F([u for u in inside if u != v]), **close) for v in inside]
    k = [(h["layer"], h["head"]) for h in a["completeness"]["worst"]["heads"]] + a["completeness"]["worst"].get("mlps", [])
    c, m = F([u for u in inside if u not in k]), F([u for u in every if u not in k])
    assert a["completeness"]["max"] == pytest.approx(abs(c - m), abs=2 * close["abs"]) and a["completeness"]["circuit"] == pytest.approx(c, **close)
    assert 0 <= a["completeness"]["mean"] <= a["completeness"]["max"] and a["completeness"]["n"] == 6
    assert a["of"] == {"heads": layers * heads, "mlps": layers if mlps else 0} and a["control"]["n"] == 5
    assert a["cost"]["sets"] == 3 + len(inside) + 2 * 6 + 5 and a["control"]["seed"] == 4


# ---- answers -------------------------------------------------------------------------------------------------------

def test_pairs_dry_run_and_the_log(daemon):
    body = {"pairs": [{"clean": PARIS["clean"], "corrupt": PARIS["corrupt"], "group": "x"},
                      {"clean": {"ids": [5, 30, 11, 8]}, "corrupt": {"ids": [5, 31, 11, 8]}, "group": "y"}],
            "metric": PARIS["metric"], "circuit": SOME, "samples": 3, "n_control": 4}
    dry = ask(daemon, **body, dry_run=True)
    assert dry["dry_run"] and dry["cost"]["cells"] == 2 * (3 + 2 + 6 + 4)
    a = ask(daemon, **body)
    one = [ask(daemon, **{**PARIS, "clean": p["clean"], "corrupt": p["corrupt"]}, circuit=SOME) for p in body["pairs"]]
    for k in ("full", "none", "circuit"):
        assert a["metric"][k] == pytest.approx(np.mean([x["metric"][k] for x in one]), abs=1e-5)
    assert a["pairs"] == a["groups"] == 2 and a["faithfulness"]["ci"][0] <= a["faithfulness"]["value"] <= a["faithfulness"]["ci"][1]
    assert a["cost"]["rows"] == dry["cost"]["rows"]
    again = ask(daemon, **body)
    assert again["cached"] and again["run"] == a["run"] and again["control"] == a["control"]
    assert ask(daemon, **body, seed=1)["run"] != a["run"]


def test_regions(daemon):
    expr = {"unit": "head", "members": SOME["heads"]}
    name = daemon.post("/v1/regions", {"name": "circuit-one", "expr": expr})
    assert name.status == 201, name
    want = ask(daemon, **PARIS, circuit=SOME)
    for circuit in ("circuit-one", name.json["region"], expr, {"region": "circuit-one"}):
        a = ask(daemon, **PARIS, circuit=circuit)
        assert a["members"] == want["members"] and a["faithfulness"] == want["faithfulness"] and a["control"] == want["control"]
    assert daemon.post("/v1/regions", {"name": "circuit-one", "expr": {"complement": {"region": "circuit-one"}}}).status == 201
    a = ask(daemon, **PARIS, circuit="circuit-one")  # the name means another one now
    assert "cached" not in a or not a["cached"]
    assert a["members"] != want["members"]


# ---- refusals ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, field", [
    ({"circuit": {"heads": [{"layer": 99, "head": 0}]}}, "circuit.heads[0].layer"),
    ({"circuit": {"heads": [{"layer": 0, "head": 0}, {"layer": 0, "head": 99}]}}, "circuit.heads[1].head"),
    ({"circuit": {"heads": [{"layer": 0, "head": 0.5}]}}, "circuit.heads[0].head"),
    ({"circuit": {"heads": [{"layer": 0}]}}, "circuit.heads[0]"),
    ({"circuit": {"heads": [{"layer": 0, "head": 0}] * 2}}, "circuit.heads[1]"),
    ({"circuit": {"heads": 3}}, "circuit.heads"),
    ({"circuit": {"heads": [], "mlps": [-1]}}, "circuit.mlps[0]"),
    ({"circuit": {"heads": [], "mlps": [1, 1]}}, "circuit.mlps[1]"),
    ({"circuit": {"heads": [], "mlps": []}}, "circuit"),
    ({"circuit": {**SOME, "neurons": []}}, "circuit"),
    ({"circuit": {}}, "circuit"),
    ({"circuit": {"unit": "layer", "members": [{"layer": 0}]}}, "circuit"),
    ({"circuit": 3}, "circuit"),
    ({"ablate": "mean"}, "ablate"),
    ({"ablate": "zero", "direction": "denoise"}, "direction"),
    ({"samples": -1}, "samples"),
    ({"n_control": 10001}, "n_control"),
    ({"corrupt": {"ids": [5, 9]}}, "corrupt"),
])
def test_refused(daemon, change, field):
    with nothing_moves(daemon):
        problem(daemon.post(CIRCUIT, {**PARIS, "circuit": SOME, **change}), 400, field=field)


def test_refused_otherwise(daemon):
    with nothing_moves(daemon):
        problem(daemon.post(CIRCUIT, PARIS), 400, field="circuit")
        problem(daemon.post(CIRCUIT, {**PARIS, "circuit": "no-such-region"}), 404)
        same = {**PARIS, "corrupt": PARIS["clean"], "circuit": SOME}
        problem(daemon.post(CIRCUIT, same), 422, said="nothing")
