"""Localization: the ranking is the patch grid in order, and the control is what random sets do."""
import numpy as np
import pytest
from helpers import keeps, nothing_moves, problem
from reference import Model
from test_patch import ANSWER, CLEAN, CORRUPT, FOIL, loop

METRIC = {"kind": "logit_diff", "answer": ANSWER, "foil": FOIL}


def ask(d, headers=None, **more):
    body = {"method": "patch", "clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": METRIC, **more}
    body = {k: v for k, v in body.items() if v is not None}
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


def joint(members, source=CLEAN, base=CORRUPT, zero=False):
    """The effect of patching (or zeroing) all these heads at once, by a full run."""
    m = Model("gqa_tied")
    seen = m.run(source)[0]
    change = {}
    for layer in {x["layer"] for x in members}:
        heads, site = [x["head"] for x in members if x["layer"] == layer], f"blocks.{layer}.attn.hook_z"

        def put(x, heads=heads, site=site):
            x[:, heads] = 0 if zero else seen[site][:, heads]
            return x
        change[site] = put
    diff = lambda logits: logits[-1][ANSWER] - logits[-1][FOIL]
    if zero:
        return abs(diff(m.logits(base, change)) - diff(m.logits(base)))
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
    ({"clean": None, "corrupt": None, "pairs": [{"clean": {"ids": [5, 6]}, "corrupt": {"ids": [5]}}]}, 400, "pairs[0].corrupt", ("2", "1")),
    ({"metric": None, "metrics": [METRIC]}, 501, "metrics", "not"),
    ({"halves": True}, 400, "halves", ("1", "4")),
    ({"method": []}, 400, "method", "empty"),
    ({"method": ["patch", "patch"]}, 400, "method", "twice"),
    ({"method": ["patch", "ablation"], "save": "best"}, 400, "save", "one method"),
    ({"split": "test"}, 400, "split", "set"),
    ({"n_control": 10001}, 400, "n_control", "10000"),
])
def test_refusals_name_the_field(daemon, more, status, field, said):
    body = {"method": "patch", "clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "metric": METRIC, **more}
    body = {k: v for k, v in body.items() if v is not None}
    with nothing_moves(daemon):
        problem(daemon.post("/v1/localize", body), status, field=field, said=said)


# ---- several pairs ------------------------------------------------------------------------------------------

HEADS = [{"layer": l, "head": h} for l in range(3) for h in range(4)]


def several(n=8, groups=4):
    """Pairs of different lengths, in groups."""
    random, out = np.random.default_rng(5), []
    for i in range(n):
        ids = random.integers(3, 250, 6 + i % 3).tolist()
        other = list(ids)
        other[1 + i % 3] = int(ids[1 + i % 3] % 250 + 3)
        out.append({"id": f"p{i}", "group": f"g{i % groups}", "clean": {"ids": ids}, "corrupt": {"ids": other}})
    return out


def of_pairs(d, headers=None, **more):
    return ask(d, headers, **{"clean": None, "corrupt": None, "pairs": several(), "n_control": 5, "k": 3, **more})


def effects(members, rows, zero=False):
    """Joint effects on those pairs."""
    p = several()
    way = ("corrupt", "clean") if zero else ("clean", "corrupt")
    return np.array([joint(members, p[i][way[0]]["ids"], p[i][way[1]]["ids"], zero) for i in rows])


@pytest.mark.parametrize("method", ["patch", "ablation"])
def test_units_are_ranked_on_one_half_and_the_region_measured_on_the_other(daemon, method):
    a = of_pairs(daemon, method=method, seed=3)
    h, zero = a["halves"], method == "ablation"
    rank, measure = h["rank"]["rows"], h["measure"]["rows"]
    assert h["split"] and sorted(rank + measure) == list(range(8)) and not {i % 4 for i in rank} & {i % 4 for i in measure}
    assert (h["rank"]["pairs"], h["rank"]["groups"], h["measure"]["groups"]) == (4, 2, 2)
    want = {(u["layer"], u["head"]): effects([u], rank, zero).mean() for u in HEADS}
    other = {(u["layer"], u["head"]): effects([u], measure, zero).mean() for u in HEADS}
    for r in a["ranking"]:
        assert abs(r["score"] - want[r["layer"], r["head"]]) <= 1e-4
        low, high = r["ci"]
        assert low <= r["score"] <= high
    scores = [r["score"] for r in a["ranking"]]
    assert scores == sorted(scores, reverse=True)
    order = [np.argsort(np.argsort([x[k] for k in sorted(x)])) for x in (want, other)]
    assert abs(h["spearman"] - np.corrcoef(*order)[0, 1]) <= 1e-9
    on_b = effects(a["region"]["members"], measure, zero)
    assert abs(a["region"]["effect"] - on_b.mean()) <= 1e-4
    low, high = a["region"]["ci"]
    assert low <= a["region"]["effect"] <= high and high > low
    if zero:
        assert "faithfulness" not in a["region"]
    else:
        span = np.abs([gap(i) for i in measure])
        assert abs(a["region"]["faithfulness"]["value"] - on_b.sum() / span.sum()) <= 1e-4
    c = a["control"]
    assert c["n"] == 5 and c["ci"][0] <= c["mean"] <= c["ci"][1] and c["seed"] == 3
    assert c["percentile"] in (0, 20, 40, 60, 80, 100)
    assert max(a["checks"]["identity"], a["checks"]["full"] or 0) <= 1e-4
    assert a["cost"]["joint_runs"] == 6 * 4


def gap(i):
    """Between the two runs of pair i."""
    m, p = Model("gqa_tied"), several()[i]
    diff = lambda ids: m.logits(ids)[-1][ANSWER] - m.logits(ids)[-1][FOIL]
    return diff(p["clean"]["ids"]) - diff(p["corrupt"]["ids"])


def test_without_halves_all_pairs_serve_twice(daemon):
    a = of_pairs(daemon, halves=False)
    h = a["halves"]
    assert not h["split"] and h["rank"] == h["measure"] and h["rank"]["pairs"] == 8 and "spearman" not in h
    assert any("one-use" in w for w in a["warnings"])
    assert abs(a["region"]["effect"] - effects(a["region"]["members"], range(8)).mean()) <= 1e-4
    few = of_pairs(daemon, pairs=several(6, 3))
    assert not few["halves"]["split"] and any("one-use" in w for w in few["warnings"])


def test_the_control_of_pairs_is_all_other_heads(daemon):
    """Six of twelve: there is one other set."""
    a = of_pairs(daemon, k=6, n_control=2)
    rest = [{k: r[k] for k in ("layer", "head")} for r in a["ranking"][6:]]
    want = effects(rest, a["halves"]["measure"]["rows"]).mean()
    c = a["control"]
    assert abs(c["mean"] - want) <= 1e-4 and c["sd"] <= 1e-6 and c["percentile"] == (100 if a["region"]["effect"] > c["mean"] else 0)


def test_attribution_ranks_by_the_mean_signed_estimate(daemon):
    a = of_pairs(daemon, method="attribution")
    total = {}
    for i in a["halves"]["rank"]["rows"]:
        p = several()[i]
        g = daemon.post("/v1/attribution", {"clean": p["clean"], "corrupt": p["corrupt"], "metric": METRIC, "site": "attn.hook_z",
                                            "axes": ["layer", "head"], "audit": {"top": 0, "random": 0}}).json
        for u in HEADS:
            key = u["layer"], u["head"]
            total[key] = total.get(key, 0) + g["values"][u["layer"]][u["head"]] * np.sign(gap(i)) / 4
    for r in a["ranking"]:
        assert abs(r["score"] - total[r["layer"], r["head"]]) <= 1e-5
    assert abs(a["region"]["effect"] - effects(a["region"]["members"], a["halves"]["measure"]["rows"]).mean()) <= 1e-4


def test_the_defaults_of_several_pairs(daemon):
    a = of_pairs(daemon, n_control=None, k=None)
    assert a["control"]["n"] == 0 and any("no-control" in w for w in a["warnings"])  # 10 of 12
    assert of_pairs(daemon, n_control=None)["control"]["n"] == 200 and ask(daemon, k=3)["control"]["n"] == 20


def test_several_methods_are_compared(daemon):
    methods = ["patch", "attribution", "ablation"]
    a = of_pairs(daemon, method=methods)
    assert [r["method"] for r in a["results"]] == methods and "ranking" not in a
    one = {m: of_pairs(daemon, method=m) for m in methods}
    for r in a["results"]:
        assert {k: r[k] for k in ("ranking", "region", "control", "halves")} == {k: one[r["method"]][k] for k in ("ranking", "region", "control", "halves")}
    assert [x["methods"] for x in a["agreement"]] == [["patch", "attribution"], ["patch", "ablation"], ["attribution", "ablation"]]
    for x in a["agreement"]:
        ranks, regions = [], []
        for m in x["methods"]:
            score = {(r["layer"], r["head"]): r["score"] for r in one[m]["ranking"]}
            ranks.append(np.argsort(np.argsort([score[k] for k in sorted(score)])))
            regions.append({(u["layer"], u["head"]) for u in one[m]["region"]["members"]})
        assert abs(x["spearman"] - np.corrcoef(*ranks)[0, 1]) <= 1e-9
        assert x["top_k"] == pytest.approx(len(regions[0] & regions[1]) / 3)


def test_rows_of_a_set_are_pairs(daemon):
    rows = [{"id": p["id"], "group": p["group"], "clean": p["clean"], "corrupt": p["corrupt"]} for p in several()]
    made = daemon.post("/v1/sets", {"name": "localize-pairs", "rows": rows})
    assert made.status in (200, 201), made
    a, b = of_pairs(daemon, pairs=None, set="localize-pairs"), of_pairs(daemon)
    assert (a["ranking"], a["region"], a["control"]) == (b["ranking"], b["region"], b["control"])


def test_methods_are_listed_with_their_source(daemon):
    listed = {m["method"]: m for m in daemon.get("/v1/methods").json["methods"] if m["verb"] == "localize"}
    assert {"patch", "attribution", "ablation", "attention_drift"} <= set(listed)
    assert all(m["summary"] and m["source"].startswith("arXiv") for m in listed.values())


def drift(i):
    """Of pair i, [layer][head]: the mean total variation of the rows of its two patterns."""
    m, p = Model("gqa_tied"), several()[i]
    clean, corrupt = m.run(p["clean"]["ids"])[0], m.run(p["corrupt"]["ids"])[0]
    site = "blocks.{}.attn.hook_pattern".format
    return np.array([(np.abs(clean[site(l)] - corrupt[site(l)]).sum(-1) / 2).mean(-1) for l in range(3)])


@pytest.mark.parametrize("unit", ["head", "layer"])
def test_drift_ranks_by_how_far_attention_moves(daemon, unit):
    a = of_pairs(daemon, method="attention_drift", unit=unit, k=1)
    h = a["halves"]
    by = {half: np.mean([drift(i) for i in h[half]["rows"]], 0) for half in ("rank", "measure")}
    if unit == "layer":
        by = {half: d.mean(-1, keepdims=True) for half, d in by.items()}
    for r in a["ranking"]:
        assert abs(r["score"] - by["rank"][r["layer"], r.get("head", 0)]) <= 1e-5 and r["ci"][0] <= r["score"] <= r["ci"][1]
    scores = [r["score"] for r in a["ranking"]]
    assert len(scores) == by["rank"].size and scores == sorted(scores, reverse=True) and scores[0] > 0.01
    order = [np.argsort(np.argsort(by[half].ravel())) for half in ("rank", "measure")]
    assert abs(h["spearman"] - np.corrcoef(*order)[0, 1]) <= 1e-9
    layer = a["region"]["members"][0]["layer"]
    heads = [a["region"]["members"][0]] if unit == "head" else [{"layer": layer, "head": x} for x in range(4)]
    on_b = effects(heads, h["measure"]["rows"])
    assert abs(a["region"]["effect"] - on_b.mean()) <= 1e-4
    span = np.abs([gap(i) for i in h["measure"]["rows"]])
    assert abs(a["region"]["faithfulness"]["value"] - on_b.sum() / span.sum()) <= 1e-4
    assert a["control"]["n"] == 5 and "patched" in a["control"]["kind"]
    other = of_pairs(daemon, method="attention_drift", unit=unit, k=1, direction="noise")
    assert [r["score"] for r in other["ranking"]] == pytest.approx(scores, abs=1e-6) and other["region"]["effect"] != a["region"]["effect"]


# ---- methods that learn ---------------------------------------------------------------------------------------

def test_a_mask_says_which_heads_are_the_region(daemon):
    a = of_pairs(daemon, method="dcm", params={"steps": 60, "l1": 0.02}, n_control=20)
    scores = [r["score"] for r in a["ranking"]]
    assert all(0 <= s <= 1 for s in scores) and scores == sorted(scores, reverse=True)
    chosen = [{k: r[k] for k in ("layer", "head")} for r in a["ranking"] if r["score"] > 0.5]
    assert a["region"]["members"] == chosen and 0 < len(chosen) < 12
    on_b = effects(chosen, a["halves"]["measure"]["rows"])
    assert abs(a["region"]["effect"] - on_b.mean()) <= 1e-4
    span = np.abs([gap(i) for i in a["halves"]["measure"]["rows"]])
    assert abs(a["region"]["faithfulness"]["value"] - on_b.sum() / span.sum()) <= 1e-4
    assert a["params"] == {"lr": 0.05, "l1": 0.02, "steps": 60, "batch": 32} and len(a["losses"]) == 60
    # All masks are 1 at first: the loss is the metric of all heads taken from the source, turned towards it.
    first = np.mean([-np.sign(gap(i)) * everything(i) for i in a["halves"]["rank"]["rows"]])
    assert abs(a["losses"][0] - first) <= 1e-4


def everything(i):
    """The metric of pair i's corrupt run with every head's z from the clean one."""
    p, m = several()[i], Model("gqa_tied")
    seen = m.run(p["clean"]["ids"])[0]
    change = {f"blocks.{l}.attn.hook_z": (lambda x, l=l: seen[f"blocks.{l}.attn.hook_z"]) for l in range(3)}
    y = m.logits(p["corrupt"]["ids"], change)[-1]
    return y[ANSWER] - y[FOIL]


def test_a_heavy_penalty_leaves_no_region(daemon):
    a = of_pairs(daemon, method="dcm", params={"steps": 60, "l1": 100})
    assert a["region"]["members"] == [] and abs(a["region"]["effect"]) <= 1e-5 and a["control"]["n"] == 0
    assert max(r["score"] for r in a["ranking"]) == 0 and any("empty-region" in w for w in a["warnings"])


def rows(n=8, kind="sft", groups=4):
    random, out = np.random.default_rng(6), []
    words = ["ab", "the cat", "of", "in it", "was so"]
    for i in range(n):
        row = {"group": f"g{i % groups}", "prompt": {"ids": random.integers(3, 250, 4 + i % 3).tolist()}}
        out.append({**row, "answer": words[i % 5]} if kind == "sft" else {**row, "chosen": words[i % 5], "rejected": words[(i + 2) % 5]})
    return out


def learn(d, data, headers=None, **more):
    body = {"method": "head_scale", "data": data, "k": 3, "n_control": 6, "params": {"epochs": 4, "lr": 0.05}, **more}
    a = d.post("/v1/localize", {k: v for k, v in body.items() if v is not None}, headers)
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/localize", a)


def answer_ids(d, row, member="answer"):
    """Behind a prompt of ids: a space, and no token for the beginning."""
    a = d.post("/v1/tokenize", {"text": " " + row[member], "bos": False})
    return a.json["ids"]


def nll(ids, target):
    y = Model("gqa_tied").logits(ids + target)
    logp = y - np.log(np.exp(y - y.max(-1, keepdims=True)).sum(-1, keepdims=True)) - y.max(-1, keepdims=True)
    return -np.mean([logp[len(ids) - 1 + i][t] for i, t in enumerate(target)])


def test_scales_are_trained_on_one_half_and_judged_on_the_other(daemon):
    a = learn(daemon, rows(), params={"epochs": 4, "lr": 0.05, "init_std": 0})
    h = a["halves"]
    assert h["split"] and sorted(h["rank"]["rows"] + h["measure"]["rows"]) == list(range(8))
    # Without noise the first loss is the model's own.
    want = np.mean([nll(rows()[i]["prompt"]["ids"], answer_ids(daemon, rows()[i])) for i in h["rank"]["rows"]])
    assert abs(a["losses"][0] - want) <= 1e-4
    assert len(a["losses"]) == 4 and a["losses"][-1] < a["losses"][0]
    scores = [r["score"] for r in a["ranking"]]
    assert len(scores) == 12 and scores == sorted(scores, reverse=True) and scores[-1] > 0 and "ci" not in a["ranking"][0]
    assert a["region"]["members"] == [{k: r[k] for k in ("layer", "head")} for r in a["ranking"][:3]]
    assert "faithfulness" not in a["region"] and "scales" in a["control"]["kind"] and a["control"]["n"] == 6
    assert a["params"] == {"lr": 0.05, "l1": 1e-3, "epochs": 4, "batch": 8, "init_std": 0, "dpo_beta": 0.5}


def test_scales_of_all_heads_lower_the_loss_they_were_trained_on(daemon):
    a = learn(daemon, rows(), k=12, halves=False, params={"epochs": 20, "lr": 0.02, "init_std": 0, "l1": 0})
    gained = a["losses"][0] - a["losses"][-1]
    assert gained > 0.05 and a["region"]["effect"] > 0.9 * gained  # one update more than the last loss
    assert a["region"]["effect"] < gained + 0.05
    still = learn(daemon, rows(), k=12, halves=False, params={"epochs": 1, "lr": 1e-8, "init_std": 0})
    assert abs(still["region"]["effect"]) <= 1e-5


def test_couples_are_learned_by_preference(daemon):
    a = learn(daemon, rows(kind="dpo"), loss="dpo", halves=False, k=12)
    assert abs(a["losses"][0] - np.log(2)) <= 1e-6 and a["losses"][-1] < a["losses"][0]
    assert 0 < a["region"]["effect"] < np.log(2)


def test_rows_of_a_set_are_data(daemon):
    made = daemon.post("/v1/sets", {"name": "localize-data", "rows": rows()})
    assert made.status in (200, 201), made
    a, b = learn(daemon, None, set="localize-data"), learn(daemon, rows())
    assert (a["ranking"], a["region"], a["control"]) == (b["ranking"], b["region"], b["control"])


@pytest.mark.parametrize("more, field, said", [
    ({"metric": METRIC}, "metric", "loss"),
    ({"unit": "layer"}, "unit", "heads"),
    ({"loss": "dpo"}, "data[0]", "chosen"),
    ({"params": {"steps": 3}}, "params.steps", "/v1/methods"),
    ({"params": {"epochs": 0}}, "params.epochs", "1"),
    ({"params": {"lr": "much"}}, "params.lr", "number"),
    ({"method": ["head_scale", "patch"]}, "method", "apart"),
    ({"method": "patch"}, "data", "pairs"),
    ({"data": []}, "data", "empty"),
    ({"data": [{"prompt": "a", "answer": ""}]}, "data[0].answer", ""),
    ({"data": rows(3) + rows(1, "dpo")}, "data[3]", "answer"),
    ({"method": "attention_drift"}, "data", "pairs"),
    ({"method": ["attention_drift", "head_scale"]}, "method", "apart"),
    ({"data": None, "clean": "a", "corrupt": "b"}, "data", "set"),
    ({"halves": True, "data": rows(3)}, "halves", "3"),
])
def test_bad_data_is_refused(daemon, more, field, said):
    body = {"method": "head_scale", "data": rows(), **more}
    with nothing_moves(daemon):
        problem(daemon.post("/v1/localize", {k: v for k, v in body.items() if v is not None}), 400, field=field, said=said)


def test_a_mask_needs_a_slope(daemon):
    for kind in ("kl", "norm_logit_diff"):
        body = {"method": "dcm", "pairs": several(), "metric": {**METRIC, "kind": kind} if kind != "kl" else {"kind": "kl"}}
        problem(daemon.post("/v1/localize", body), 400, field="metric.kind", said=kind)
