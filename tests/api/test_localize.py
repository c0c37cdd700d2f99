"""Localization: the ranking is the patch grid in order, and the control is what random sets do."""
import numpy as np
import pytest
from helpers import keeps, nothing_moves, problem
from reference import Model
from test_patch import ANSWER, CLEAN, CORRUPT, FOIL, loop

METRIC = {"kind": "logit_diff", "answer": ANSWER, "foil": FOIL}


def ask(d, headers=None, **more):
    body = {"method": "patch", "clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": METRIC, **more}
    a = d.post("/v1/localize", body, headers)
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/localize", a)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_heads_are_ranked_by_what_patching_them_does(daemon, direction):
    a = ask(daemon, direction=direction, k=3)
    values, clean, corrupt = loop(Model("gqa_tied"), "attn.hook_z", "logit_diff", direction)
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    effect = (values - base) * np.sign(source - base)  # towards the source counts as positive
    assert sorted((r["layer"], r["head"]) for r in a["ranking"]) == [(l, h) for l in range(3) for h in range(4)]
    for r in a["ranking"]:
        assert abs(r["score"] - effect[r["layer"], r["head"]]) <= 1e-4
    scores = [r["score"] for r in a["ranking"]]
    assert scores == sorted(scores, reverse=True)
    assert a["region"]["unit"] == "head"
    assert a["region"]["members"] == [{k: r[k] for k in ("layer", "head")} for r in a["ranking"][:3]]


def joint(members):
    """The effect of patching all these heads at once, by a full run."""
    m, source, base = Model("gqa_tied"), CLEAN, CORRUPT
    seen = m.run(source)[0]
    change = {}
    for layer in {x["layer"] for x in members}:
        heads, site = [x["head"] for x in members if x["layer"] == layer], f"blocks.{layer}.attn.hook_z"

        def put(x, heads=heads, site=site):
            x[:, heads] = seen[site][:, heads]
            return x
        change[site] = put
    diff = lambda logits: logits[-1][ANSWER] - logits[-1][FOIL]
    towards = np.sign(diff(m.logits(source)) - diff(m.logits(base)))
    return towards * (diff(m.logits(base, change)) - diff(m.logits(base)))


def test_the_region_is_measured_together(daemon):
    a = ask(daemon, k=4)
    assert abs(a["region"]["effect"] - joint(a["region"]["members"])) <= 1e-4


def test_layers_as_units(daemon):
    a = ask(daemon, unit="layer", k=1)
    assert sorted(r["layer"] for r in a["ranking"]) == [0, 1, 2] and "head" not in a["ranking"][0]
    for r in a["ranking"]:
        want = joint([{"layer": r["layer"], "head": h} for h in range(4)])
        assert abs(r["score"] - want) <= 1e-4
    assert a["region"] == {**a["region"], "unit": "layer", "members": [{"layer": a["ranking"][0]["layer"]}]}


def test_the_control_is_drawn_by_the_seed(daemon):
    fresh = {"Cache-Control": "no-cache"}
    a, same, other = (ask(daemon, fresh, k=2, n_control=30, seed=s) for s in (7, 7, 8))
    assert a["control"] == same["control"] != other["control"]
    assert a["ranking"] == other["ranking"]
    c = a["control"]
    assert c["n"] == 30 and c["seed"] == 7 and 0 <= c["percentile"] <= 100 and c["sd"] > 0 and c["kind"]
    # Random sets of 2 of the 10 other heads: their joint effects, all of them, bound what was drawn.
    others = [r for r in a["ranking"][2:]]
    effects = [joint([x, y]) for i, x in enumerate(others) for y in others[:i]]
    assert min(effects) - 1e-4 <= c["mean"] <= max(effects) + 1e-4
    assert abs(c["mean"] - np.mean(effects)) <= 4 * np.std(effects) / np.sqrt(30)


def test_a_region_of_everything_has_no_control(daemon):
    a = ask(daemon, k=12)
    assert len(a["region"]["members"]) == 12 and a["control"]["n"] == 0
    assert any("no-control" in w for w in a["warnings"])
    assert a["control"]["mean"] is None and a["control"]["percentile"] is None


def test_localizing_is_logged(daemon):
    first = ask(daemon, k=5)
    assert ask(daemon, k=5) == {**first, "cached": True}
    run = daemon.get(f"/v1/runs/{first['run']}").json
    assert run["kind"] == "localize" and run["result"] == first and run["seed"] == first["control"]["seed"]


@pytest.mark.parametrize("more, status, field, said", [
    ({"method": None}, 400, "method", "required"),
    ({"method": "guess"}, 400, "method", "patch"),
    ({"method": "fisher"}, 501, "method", "not"),
    ({"unit": "neuron"}, 400, "unit", "head"),
    ({"k": 0}, 400, "k", "1"),
    ({"n_control": 1}, 400, "n_control", "2"),
    ({"corrupt": {"ids": CORRUPT[:5]}}, 400, "corrupt", ("9", "5")),
    ({"metric": {"kind": "logit_diff", "answer": 5, "foil": 5}}, 400, "metric.foil", "5"),
    ({"clean": None, "corrupt": None, "pairs": [{"clean": "a", "corrupt": "b"}]}, 501, "pairs", "not"),
])
def test_refusals_name_the_field(daemon, more, status, field, said):
    body = {"method": "patch", "clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": METRIC, **more}
    with nothing_moves(daemon):
        problem(daemon.post("/v1/localize", body), status, field=field, said=said)
