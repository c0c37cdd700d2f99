"""Patch grids against the loop of full runs that they replace, in numpy; the identities of the metrics;
and what the contract says about cells, answers and refusals."""
import numpy as np
import pytest
from helpers import committed, edit, keeps, nothing_moves, problem
from reference import Model, expected, log_softmax, safetensors

FIRST, SECOND = expected("gqa_tied")[0]["sequences"]
CLEAN = FIRST                                      # 9 tokens
CORRUPT = FIRST[:3] + [31] + FIRST[4:7] + [90, FIRST[8]]  # differs at 3 and 7
ANSWER, FOIL = 246, 144


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


def ask(d, site="hook_resid_pre", kind="logit_diff", headers=None, **more):
    axes = ["layer", "pos"] if site == "hook_resid_pre" else ["layer", "head"]
    metric = {"kind": kind, **({"answer": ANSWER} if kind not in ("kl", "projection") else {}),
              **({"foil": FOIL} if "diff" in kind else {}), **more.pop("metric", {})}
    body = {"clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "site": site, "axes": axes, "metric": metric, **more}
    return d.post("/v1/patch", body, headers)


def grid(d, *a, **k):
    answer = ask(d, *a, **k)
    assert answer.status == 200, answer
    return keeps(d, "POST", "/v1/patch", answer)


def metric_of(kind, logits, reference, clean=0, corrupt=0, answers=(ANSWER,), foils=(FOIL,)):
    lse = lambda ids: np.log(np.exp(logits[list(ids)]).sum())
    p = log_softmax(logits)
    if kind == "kl":
        ref = log_softmax(reference)
        return (np.exp(ref) * (ref - p)).sum()
    if kind == "prob":
        return np.exp(p[list(answers)]).sum()
    if kind == "logprob":
        return np.log(np.exp(p[list(answers)]).sum())
    diff = lse(answers) - lse(foils)
    return (diff - corrupt) / (clean - corrupt) if kind == "norm_logit_diff" else diff


def loop(model, site, kind, direction, pos=-1, clean=CLEAN, corrupt=CORRUPT, **ids):
    """(values, clean's metric, corrupt's): one full run per cell."""
    runs = {"clean": model.run(clean), "corrupt": model.run(corrupt)}
    source, base = ("clean", "corrupt") if direction == "denoise" else ("corrupt", "clean")
    into = corrupt if base == "corrupt" else clean
    ref = runs[source][1][pos]  # clean when denoising, corrupt when noising
    diff = {n: metric_of("logit_diff", r[1][pos], None, **ids) for n, r in runs.items()}
    score = lambda logits: metric_of(kind, logits[pos], ref, diff["clean"], diff["corrupt"], **ids)
    out = np.zeros((model.L, len(clean) if site == "hook_resid_pre" else model.H))
    for l in range(out.shape[0]):
        for j in range(out.shape[1]):
            name, at = f"blocks.{l}.{site}", np.s_[j] if site == "hook_resid_pre" else np.s_[:, j]

            def put(x, name=name, at=at):
                x[at] = runs[source][0][name][at]
                return x
            out[l, j] = score(model.logits(into, {name: put}))
    return out, score(runs["clean"][1]), score(runs["corrupt"][1])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("site", ["hook_resid_pre", "attn.hook_z"])
@pytest.mark.parametrize("kind", ["logit_diff", "norm_logit_diff", "prob", "logprob", "kl"])
def test_a_sweep_is_the_loop_of_full_runs(daemon, model, site, kind, direction):
    g = grid(daemon, site, kind, direction=direction)
    want, clean, corrupt = loop(model, site, kind, direction)
    assert np.abs(np.array(g["values"]) - want).max() <= 1e-4
    assert abs(g["baseline"]["clean"] - clean) <= 1e-4 and abs(g["baseline"]["corrupt"] - corrupt) <= 1e-4
    assert g["checks"]["identity"] == 0 or g["checks"]["identity"] <= 1e-4
    assert g["checks"]["full"] <= 1e-4
    assert np.ptp(want) > (0.05 if kind == "prob" else 0.5), "this grid shows nothing"


def test_the_shape_of_an_answer(daemon):
    g = grid(daemon)
    assert g["axes"] == {"layer": [0, 1, 2], "pos": list(range(9))} and list(g["axes"]) == ["layer", "pos"]
    assert g["answer"]["id"] == ANSWER and g["foil"]["id"] == FOIL and g["answer"]["token"]
    told = daemon.post("/v1/tokenize", {"input": {"ids": CORRUPT}}).json["tokens"]
    assert g["tokens"]["corrupt"] == told and len(g["tokens"]["clean"]) == 9
    assert g["warnings"] == [] and g["cost"]["cells"] == 27 and g["cost"]["seconds"] > 0
    z = grid(daemon, "attn.hook_z")
    assert z["axes"] == {"layer": [0, 1, 2], "head": [0, 1, 2, 3]} and z["skipped"] == {"pos": []}
    assert z["cost"]["cells"] == 12 == z["cost"]["cells_run"]


@pytest.mark.parametrize("direction, base", [("denoise", "corrupt"), ("noise", "clean")])
def test_skipped_cells_hold_the_base_runs_metric(daemon, direction, base):
    g = grid(daemon, direction=direction)
    assert g["skipped"] == {"pos": [0, 1, 2]}
    assert g["cost"]["cells_run"] == 3 * 6
    for row in g["values"]:
        assert row[:3] == [g["baseline"][base]] * 3
    early = grid(daemon, direction=direction, metric={"pos": 5})
    assert early["skipped"] == {"pos": [0, 1, 2, 6, 7, 8]}
    for row in early["values"]:
        assert [row[i] for i in (0, 1, 2, 6, 7, 8)] == [early["baseline"][base]] * 6


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_first_layer_at_the_only_difference_is_the_source(daemon, direction):
    one = FIRST[:3] + [31] + FIRST[4:]
    g = grid(daemon, direction=direction, corrupt={"ids": one})
    source = "clean" if direction == "denoise" else "corrupt"
    assert abs(g["values"][0][3] - g["baseline"][source]) <= 1e-5


def test_normalised_is_0_at_corrupt_and_1_at_clean(daemon):
    for direction in ("denoise", "noise"):
        g = grid(daemon, kind="norm_logit_diff", direction=direction)
        assert abs(g["baseline"]["clean"] - 1) < 1e-9 and abs(g["baseline"]["corrupt"]) < 1e-9
        d = grid(daemon, kind="logit_diff", direction=direction)
        lo, hi = d["baseline"]["corrupt"], d["baseline"]["clean"]
        assert np.allclose(np.array(g["values"]), (np.array(d["values"]) - lo) / (hi - lo), atol=1e-5)


def test_metrics_at_another_position(daemon, model):
    for pos in (4, -3):
        g = grid(daemon, metric={"pos": pos})
        want, _, _ = loop(model, "hook_resid_pre", "logit_diff", "denoise", pos if pos >= 0 else 9 + pos)
        assert np.abs(np.array(g["values"]) - want).max() <= 1e-4


def test_lists_are_reduced_by_log_sum_exp(daemon, model):
    for kind in ("logit_diff", "prob", "logprob"):
        g = grid(daemon, kind=kind, metric={"answer": [5, 246], **({"foil": [144, 7, 8]} if kind == "logit_diff" else {})})
        want, _, _ = loop(model, "hook_resid_pre", kind, "denoise", answers=(5, 246), foils=(144, 7, 8))
        assert np.abs(np.array(g["values"]) - want).max() <= 1e-4
        assert [a["id"] for a in g["answer"]] == [5, 246]


def test_a_text_of_several_tokens_is_scored_by_its_first(daemon):
    ids = daemon.post("/v1/tokenize", {"input": " Lyon"}).json["ids"]
    g = grid(daemon, metric={"answer": " Lyon"})
    [warning] = [w for w in g["warnings"] if w.startswith("first-token")]
    assert g["answer"]["id"] == ids[0] and str(ids[0]) in warning and "Lyon" in warning
    assert g["values"] == grid(daemon, metric={"answer": ids[0]})["values"]


def test_prompts_that_are_the_same_say_so(daemon):
    g = grid(daemon, corrupt={"ids": CLEAN})
    assert g["cost"]["cells_run"] == 0 and any("same" in w for w in g["warnings"])
    assert {v for row in g["values"] for v in row} == {g["baseline"]["clean"]}
    problem(ask(daemon, kind="norm_logit_diff", corrupt={"ids": CLEAN}), 422)


def test_old_revisions_can_be_patched(start, model):
    d = start()
    r = committed(edit(d))
    delta = safetensors(d.get(f"/v1/deltas/{r['delta']}", {"Accept": "application/safetensors"}).body)
    tuned = model.edited("model.layers.2.mlp.down_proj.weight", delta["model.layers.2.mlp.down_proj.weight.dense"])
    d.post("/v1/rollback", {"to": "base"})
    for view, m in ((r["revision"], tuned), ("main", model), ("base", model)):
        want, _, _ = loop(m, "hook_resid_pre", "logit_diff", "denoise")
        assert np.abs(np.array(grid(d, view=view)["values"]) - want).max() <= 2e-4


def test_grids_are_logged(daemon):
    once = {"metric": {"answer": 77}}
    first = grid(daemon, "attn.hook_z", "prob", **once)
    again = grid(daemon, "attn.hook_z", "prob", **once)
    assert again == {**first, "cached": True}
    fresh = grid(daemon, "attn.hook_z", "prob", **once, headers={"Cache-Control": "no-cache"})
    assert fresh["run"] != first["run"] and fresh["values"] == first["values"] and "cached" not in fresh
    run = daemon.get(f"/v1/runs/{first['run']}").json
    assert run["result"] == first and run["kind"] == "patch"
    assert run["request"]["direction"] == "denoise" and run["request"]["metric"]["pos"] == "last"


# ---- several pairs, several metrics -------------------------------------------------------------

def several(n=4, length=7, seed=8):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        clean = rng.integers(5, 290, length)
        corrupt = clean.copy()
        corrupt[1 + i % 3] = (corrupt[1 + i % 3] + 11) % 290
        answer, foil = (int(x) for x in rng.choice(280, 2, replace=False))
        out.append({"id": f"p{i}", "clean": {"ids": clean.tolist()}, "corrupt": {"ids": corrupt.tolist()}, "answer": answer, "foil": foil,
                    "group": f"g{i // 2}"})
    return out


@pytest.mark.parametrize("site, axes", [("hook_resid_mid", ["layer", "pos"]), ("attn.hook_v", ["layer", "head"]),
                                        ("attn.hook_pattern", ["layer", "head", "pos"]), ("mlp.hook_post", ["layer"])])
def test_one_sweep_answers_what_single_grids_answer(daemon, site, axes):
    pairs, metrics = several(), [{"kind": "logit_diff"}, {"kind": "norm_logit_diff"}, {"kind": "kl"}]
    body = {"pairs": pairs, "metrics": metrics, "site": site, "axes": axes, "seed": 4}
    a = daemon.post("/v1/patch", body)
    assert a.status == 200, a
    g = keeps(daemon, "POST", "/v1/patch", a)
    assert list(g["axes"]) == axes and [(r["pair"], r["metric"]) for r in g["results"]] == [
        (p["id"], m["kind"]) for p in pairs for m in metrics]
    values = {}
    for r in g["results"]:
        pair = next(p for p in pairs if p["id"] == r["pair"])
        one = daemon.post("/v1/patch", {"clean": pair["clean"], "corrupt": pair["corrupt"], "site": site, "axes": axes,
                                        "metric": {"kind": r["metric"], "answer": pair["answer"], "foil": pair["foil"]}}).json
        assert np.shape(r["values"]) == np.shape(one["values"])
        scale = abs(one["baseline"]["clean"] - one["baseline"]["corrupt"]) if r["metric"] == "logit_diff" else 1
        assert np.abs(np.array(r["values"]) - np.array(one["values"])).max() <= 2e-3 and scale > 0
        assert {k: r[k] for k in ("tokens", "skipped", "answer", "foil") if k in r} == {
            k: one[k] for k in ("tokens", "skipped", "answer", "foil") if k in r}
        values.setdefault(r["metric"], []).append((np.array(r["values"]), r["baseline"]))
    for m in g["means"]:
        all_of = np.array([v for v, _ in values[m["metric"]]])
        mean, low, high = (np.array(m[k]) for k in ("mean", "low", "high"))
        assert m["n"] == len(pairs) and np.allclose(mean, all_of.mean(0), atol=1e-9)
        assert (low <= mean + 1e-12).all() and (mean <= high + 1e-12).all()
        # two groups: a draw is one of them twice, or both
        extremes = np.sort([all_of[:2].mean(0), all_of[2:].mean(0)], axis=0)
        assert np.allclose(low, extremes[0], atol=1e-9) and np.allclose(high, extremes[1], atol=1e-9)
    spans = np.array([b["clean"] - b["corrupt"] for _, b in values["logit_diff"]])
    ratio = np.array(next(m for m in g["means"] if m["metric"] == "norm_logit_diff")["ratio_of_means"]["mean"])
    gains = sum((v - b["corrupt"]) for v, b in values["logit_diff"])
    assert np.allclose(ratio, gains / spans.sum(), atol=1e-6)
    assert g["intervals"] == {"level": 0.95, "groups": 2, "draws": 2000, "seed": 4}
    clean = np.array([b["clean"] for _, b in values["logit_diff"]])
    assert np.isclose(g["behaviour"]["accuracy"], (clean > 0).mean()) and np.isclose(g["behaviour"]["logit_diff"], clean.mean())
    assert g["behaviour"]["exhibited"] == (g["behaviour"]["accuracy"] >= 0.75 and g["behaviour"]["logit_diff"] >= 0.5)
    assert g["behaviour"]["exhibited"] or any(w.startswith("not-exhibited") for w in g["warnings"])


def test_intervals_are_those_of_the_seed(daemon):
    body = {"pairs": several(6), "metric": {"kind": "logit_diff"}, "site": "attn.hook_z", "axes": ["layer", "head"]}
    for p in body["pairs"]:
        del p["group"]  # each a group of its own
    fresh = {"Cache-Control": "no-cache"}
    a, b, c = (daemon.post("/v1/patch", {**body, "seed": seed}, fresh).json for seed in (1, 1, 2))
    assert a["means"] == b["means"] and a["means"][0]["low"] != c["means"][0]["low"] and a["means"][0]["mean"] == c["means"][0]["mean"]
    assert a["intervals"]["groups"] == 6


def test_windows_zero_and_another_view(start, model):
    """A window is one run with several writes; zero and another view are what a trace writes from there."""
    d = start()
    r = committed(edit(d))

    def traced(layers, into, **source):
        body = {"view": "base", "inputs": [{"id": "into", "ids": into}, {"id": "other", "ids": CLEAN}], "top_pos": "last", "top_k": 300,
                "writes": [{"input": "into", "site": f"blocks.{l}.hook_mlp_out", **source} for l in layers]}
        a = d.post("/v1/trace", body)
        assert a.status == 200, a
        logit = {t["id"]: t["logit"] for t in a.json["inputs"][0]["top"][0]}
        return logit[ANSWER] - logit[FOIL]

    def cells(**more):
        body = {"view": "base", "clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "site": "hook_mlp_out", "axes": ["layer"],
                "metric": {"kind": "logit_diff", "answer": ANSWER, "foil": FOIL}, **more}
        a = d.post("/v1/patch", body)
        assert a.status == 200, a
        return keeps(d, "POST", "/v1/patch", a)
    g = cells(window={"before": 1})
    want = [traced(range(max(0, l - 1), l + 1), CORRUPT, **{"from": {"input": "other"}}) for l in range(3)]
    assert np.abs(np.array(g["values"]) - want).max() <= 1e-4
    g = cells(**{"from": "zero"})
    want = [traced([l], CORRUPT, **{"from": "zero"}) for l in range(3)]
    assert np.abs(np.array(g["values"]) - want).max() <= 1e-4 and g["checks"]["full"] is None and "against" not in g
    g = cells(**{"from": {"view": r["revision"]}}, corrupt={"ids": CLEAN})
    want = [traced([l], CLEAN, **{"from": {"input": "other", "view": r["revision"]}}) for l in range(3)]
    assert np.abs(np.array(g["values"]) - want).max() <= 1e-4 and g["against"]["revision"] == r["revision"]
    assert len(set(np.round(g["values"], 6))) > 1 and not any(w.startswith("same") for w in g["warnings"])
    again = cells(**{"from": {"view": r["revision"]}}, corrupt={"ids": CLEAN})
    assert again["cached"] and again["values"] == g["values"] and again["against"] == g["against"]
    problem(d.post("/v1/patch", {"clean": "a", "corrupt": "b", "site": "hook_mlp_out", "axes": ["layer"], "metric": {"kind": "kl"},
                                 "from": {"view": "nowhere"}}), 404, field="from.view", said="nowhere")


PAIRS = {"clean": None, "corrupt": None}
REFUSED = {
    "unequal lengths": ({"corrupt": {"ids": CORRUPT[:8]}}, 400, "corrupt", ("9", "8")),
    "no foil": ({"metric": {"foil": None}}, 400, "metric.foil", "needs"),
    "no answer": ({"metric": {"answer": None}}, 400, "metric.answer", "needs"),
    "answer is foil": ({"metric": {"foil": ANSWER}}, 400, "metric.foil", str(ANSWER)),
    "answer among foils": ({"metric": {"foil": [1, ANSWER]}}, 400, "metric.foil", str(ANSWER)),
    "answer outside": ({"metric": {"answer": 300}}, 400, "metric.answer", "0..299"),
    "answer twice": ({"metric": {"kind": "prob", "answer": [ANSWER, 1, ANSWER]}}, 400, "metric.answer", "same token"),
    "position outside": ({"metric": {"pos": 9}}, 400, "metric.pos", "-9..8"),
    "several positions": ({"metric": {"pos": [1, 2]}}, 400, "metric.pos", "one position"),
    "unknown metric": ({"metric": {"kind": "accuracy"}}, 400, "metric.kind", "kl"),
    "unknown site": ({"site": "hook_embed", "axes": ["layer", "pos"]}, 400, "site", "hook_resid_pre"),
    "axis twice": ({"axes": ["layer", "layer"]}, 400, "axes", "twice"),
    "unknown axis": ({"axes": ["layer", "channel"]}, 400, "axes[1]", "pos"),
    "unknown direction": ({"direction": "sideways"}, 400, "direction", "denoise"),
    "neurons of a site with heads": ({"site": "attn.hook_result", "axes": ["layer", "neuron"]}, 400, "axes", "head"),
    "axes of another site": ({"axes": ["layer", "head"]}, 400, "axes", "no heads"),
    "layer is not first": ({"axes": ["pos", "layer"]}, 400, "axes", "first"),
    "axes in another order": ({"site": "attn.hook_z", "axes": ["layer", "pos", "head"]}, 400, "axes", "behind"),
    "pairs beside the single form": ({"pairs": [{"clean": "a", "corrupt": "b"}]}, 400, "pairs", "beside"),
    "a pair of two lengths": ({**PAIRS, "pairs": [{"clean": {"ids": [5, 6]}, "corrupt": {"ids": [5]}}]}, 400, "pairs[0].corrupt", ("2", "1")),
    "pairs of several lengths by position": ({**PAIRS, "pairs": [{"clean": {"ids": [5, 6]}, "corrupt": {"ids": [5, 7]}},
                                                                 {"clean": {"ids": [5]}, "corrupt": {"ids": [7]}}]}, 400, "pairs", "first 2"),
    "a pair's answer is its foil": ({**PAIRS, "pairs": [{"clean": {"ids": [5]}, "corrupt": {"ids": [7]}, "answer": 3, "foil": 3}]}, 400,
                                    "pairs[0].foil", "3"),
    "metrics at two positions": ({"metric": None, "metrics": [{"kind": "kl"}, {"kind": "kl", "pos": 2}]}, 400, "metrics[1].pos", "one position"),
    "multi": ({"metric": {"multi": "sequence"}}, 501, "metric.multi", "not"),
    "unknown view": ({"view": "nowhere"}, 404, "view", "nowhere"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_field(daemon, name):
    more, status, field, said = REFUSED[name]
    body = {"clean": {"ids": CLEAN}, "corrupt": {"ids": CORRUPT}, "site": "hook_resid_pre", "axes": ["layer", "pos"],
            "metric": {"kind": "logit_diff", "answer": ANSWER, "foil": FOIL}}
    for key, value in more.items():
        body[key] = {**body[key], **value} if key == "metric" and value else value
    with nothing_moves(daemon):
        a = daemon.post("/v1/patch", body)
    problem(a, status, field=field, said=said)


def test_a_dry_run_says_what_it_costs_and_leaves_no_row(daemon):
    before = daemon.get("/v1/runs").json["runs"]
    told = grid(daemon, dry_run=True, direction="noise")
    assert told["dry_run"] is True and "values" not in told and "run" not in told
    assert daemon.get("/v1/runs").json["runs"] == before
    done = grid(daemon, direction="noise", headers={"Cache-Control": "no-cache"})
    for member in ("cells", "cells_run", "rows"):
        assert told["cost"][member] == done["cost"][member]
    assert told["cost"]["flops"] > done["cost"]["flops"]  # the runs and metrics as well
    assert 0 < told["cost"]["seconds"] < 10 and told["cost"]["bytes"] > 1 << 16


def test_cells_are_recomputed_by_whole_runs(daemon):
    checks = grid(daemon, headers={"Cache-Control": "no-cache"})["checks"]
    assert 1 <= checks["naive_cells"] <= 3 and 0 <= checks["naive"] < 1e-4
    none = grid(daemon, check_cells=0)
    assert none["checks"]["naive"] is None and none["checks"]["naive_cells"] == 0
    assert none["cost"]["checks_seconds"] == 0


def test_neurons_by_block_are_patched_side_by_side(daemon, model):
    """A block of 10 of 24 neurons (the last has 4), at one position: one full run per cell, in numpy."""
    site, block, pos = "mlp.hook_post", 10, 7
    got = grid(daemon, site=site, axes=["layer", "neuron", "pos"], block=block)
    source, base = model.run(CLEAN)[0], model.run(CORRUPT)[1][-1]
    width = source[f"blocks.0.{site}"].shape[-1]
    assert got["axes"]["neuron"] == list(range(0, width, block)) and width % block
    moved = 0
    for l in got["axes"]["layer"]:
        for i, first in enumerate(got["axes"]["neuron"]):
            name = f"blocks.{l}.{site}"

            def put(x, name=name, first=first):
                x = x.copy()
                x[pos, first:first + block] = source[name][pos, first:first + block]
                return x
            want = metric_of("logit_diff", model.run(CORRUPT, {name: put})[1][-1], None)
            assert got["values"][l][i][pos] == pytest.approx(want, abs=1e-4)
            moved += abs(want - metric_of("logit_diff", base, None)) > 1e-3
    assert moved > 3


def test_a_site_may_be_named_by_its_word(daemon):
    for word, spelling in (("z", "attn.hook_z"), ("resid_pre", "hook_resid_pre"), ("mlp_post", "mlp.hook_post")):
        axes = ["layer", "head"] if word == "z" else ["layer", "pos"]
        short, full = (grid(daemon, site=s, axes=axes, headers={"Cache-Control": "no-cache"}) for s in (word, spelling))
        assert short["values"] == full["values"]


def cells(d, model, want, site="attn.hook_z", **more):
    """Compare a layer × head grid with one full run per cell; want(name, head, base's value) is what is put in."""
    got = grid(d, site=site, axes=["layer", "head"], **more)
    base, moved = model.run(CORRUPT), 0
    for l in got["axes"]["layer"]:
        for h in got["axes"]["head"]:
            name = f"blocks.{l}.{site}"

            def put(x, name=name, h=h):
                x = x.copy()
                x[:, h] = want(name, h, base[0][name])
                return x
            expect = metric_of("logit_diff", model.run(CORRUPT, {name: put})[1][-1], None)
            assert got["values"][l][h] == pytest.approx(expect, abs=1e-4)
            moved += abs(expect - metric_of("logit_diff", base[1][-1], None)) > 1e-3
    assert moved > 3 and got["checks"]["naive"] < 1e-4 and got["checks"]["full"] is None
    return got


MEAN_OF = [FIRST[:5], SECOND]


def site_mean(model, name):
    return np.concatenate([model.run(ids)[0][name] for ids in MEAN_OF]).mean(0)


def test_a_mean_over_prompts_is_put_in(daemon, model):
    cells(daemon, model, lambda name, h, base: site_mean(model, name)[h], **{"from": {"mean_of": [{"ids": i} for i in MEAN_OF]}})
    rows = [{"text": {"ids": i}} for i in MEAN_OF]
    assert daemon.post("/v1/sets", {"name": "means", "rows": rows}).status in (200, 201)
    cells(daemon, model, lambda name, h, base: site_mean(model, name)[h], **{"from": {"mean_of": {"set": "means"}}})


def test_only_a_subspace_is_put_in(daemon, model):
    clean = model.run(CLEAN)[0]
    e = clean["blocks.0.attn.hook_z"].shape[-1]
    rows = np.random.default_rng(3).normal(size=(2, e))
    q = np.linalg.qr(rows.T)[0]
    cells(daemon, model, lambda name, h, base: base[:, h] + (clean[name][:, h] - base[:, h]) @ q @ q.T,
          **{"from": {"subspace": rows.tolist()}})


def test_noise_is_drawn_by_seed(daemon):
    base = grid(daemon, site="z")["baseline"]["corrupt"]
    draw = lambda sd, seed: np.array(grid(daemon, site="z", seed=seed, **{"from": {"noise": {"sd": sd}}})["values"])
    assert np.abs(draw(0, 1) - base).max() < 1e-5
    one, again, other = draw(1, 1), draw(1, 1), draw(1, 2)
    assert (one == again).all() and np.abs(one - other).max() > 1e-3
    small = np.abs(draw(0.01, 1) - base).mean()
    assert 30 < np.abs(one - base).mean() / small < 300  # about linear


def test_a_projection_is_read_off_the_final_stream(daemon, model):
    d = model.run(CLEAN)[0][f"blocks.{model.L - 1}.hook_resid_post"]
    direction = np.random.default_rng(4).normal(size=d.shape[-1])
    got = grid(daemon, site="hook_resid_pre", kind="projection", metric={"direction": direction.tolist()})
    assert got["baseline"]["clean"] == pytest.approx(d[-1] @ direction, abs=1e-4)
    source, moved = model.run(CLEAN)[0], 0
    for l in range(model.L):
        for p in (3, 7, 8):
            name = f"blocks.{l}.hook_resid_pre"

            def put(x, name=name, p=p):
                x = x.copy()
                x[p] = source[name][p]
                return x
            want = model.run(CORRUPT, {name: put})[0][f"blocks.{model.L - 1}.hook_resid_post"][-1] @ direction
            assert got["values"][l][p] == pytest.approx(want, abs=1e-4)
            moved += abs(want - got["baseline"]["corrupt"]) > 1e-3
    assert moved > 3
    problem(ask(daemon, kind="projection", metric={"direction": [1, 2]}), 400, field="metric.direction", said="numbers")
    problem(ask(daemon, kind="projection"), 400, field="metric.direction", said="needs")


SOURCES = {
    "two sources": ({"from": {"view": "base", "noise": {}}}, 400, "from.noise", "beside"),
    "a mean over nothing": ({"from": {"mean_of": []}}, 400, "from.mean_of", "empty"),
    "a set that is not there": ({"from": {"mean_of": {"set": "nowhere"}}}, 404, "from.mean_of.set", "nowhere"),
    "rows of another width": ({"from": {"subspace": [[1, 2]]}}, 400, "from.subspace", "has"),
    "rows that depend on each other": ({"from": {"subspace": [[1.0] * 8, [2.0] * 8]}}, 400, "from.subspace", "independent"),
    "noise over a window": ({"from": {"noise": {}}, "window": {"before": 1}}, 400, "window", "one layer"),
    "the mean of a pattern": ({"site": "pattern", "from": {"mean_of": ["a"]}}, 400, "from", "wide"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_sources_that_are_none(daemon, model, case):
    change, status, field, said = SOURCES[case]
    with nothing_moves(daemon):
        problem(ask(daemon, **{"site": "attn.hook_z", **change}), status, field=field, said=said)
