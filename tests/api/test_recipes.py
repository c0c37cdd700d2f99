"""Recipes: plans over the verbs, validated whole, run as their steps, recorded step by step."""
import copy
import json
import time
from pathlib import Path

import pytest
from conftest import ROOT
from helpers import TOUCH, committed, edit, fact, keeps, nothing_moves, problem

A, B = {"ids": [1, 70, 80, 90, 100]}, {"ids": [1, 70, 81, 90, 100]}
PAIRS = [{"id": "a", "clean": A, "corrupt": B, "answer": 70, "foil": 81}, {"id": "b", "clean": B, "corrupt": A, "answer": 81, "foil": 70}]
TASK = {"clean": A, "corrupt": B, "answer": 70, "foil": 81}
DATA = [{"prompt": A, "answer": "of the"}, {"prompt": B, "answer": "in it"}]
SHRUNK = {  # parameters that fit a model of some letters
    "attention_layers": {"pairs": PAIRS, "k": 2, "n_control": 2},
    "attribution_vs_patching": {"pairs": PAIRS[:1], "top": 2, "random": 2},
    "cmap": {"prompt": A, "answer": 70, "foil": 81},
    "finetuning_drift": {"prompts": [A]},
    "head_attention_survey": {"prompt": A, "answer": 70, "foil": 81, "length": 4, "k": 2},
    "ioi_circuit": {"pairs": PAIRS, "k": 2, "n_control": 2},
    "lofit_select": {**TASK, "k": 2, "n_control": 2, "other": [{**TASK, "clean": B, "corrupt": A}], "data": DATA, "other_data": DATA[::-1], "epochs": 2},
    "rome_causal_tracing": {"facts": [{"prompt": "The capital of France is", "subject": "France"}], "samples": 1},
    "tuco_report": {"prompts": [A], "length_matched": False},
}
FILES = {p.stem: json.loads(p.read_text()) for p in Path(ROOT, "recipes").glob("*.json")}

LENS = {"id": "lens", "verb": "lens", "request": {"input": A, "pos": "last", "top_k": 1}}
DLA = {"id": "dla", "verb": "dla", "request": {"input": A, "answer": 70, "by": "head"}}


def plan(*steps, **more):
    return {"recipe": "mine", "steps": copy.deepcopy(list(steps)), **more}


def ask(d, recipe, params=None, **more):
    return d.post("/v1/recipes", {"recipe": recipe, "params": params or {}, **more})


def ran(d, recipe, params=None, **more):
    a = ask(d, recipe, params, **more)
    assert a.status == 200, a.body
    return keeps(d, "POST", "/v1/recipes", a)


def runs(d, kind=""):
    return d.get("/v1/runs?limit=200" + (f"&kind={kind}" if kind else "")).json["runs"]


def refuse(d, recipe, field, said=(), status=400, params=None, **more):
    before = len(runs(d))
    p = problem(ask(d, recipe, params, **more), status, field=field, said=said)
    assert len(runs(d)) == before
    return p


# ---- the built-in ones


def test_every_file_is_listed_with_its_plan(daemon):
    listed = keeps(daemon, "GET", "/v1/recipes", daemon.get("/v1/recipes"))["recipes"]
    assert [r["name"] for r in listed if r["built_in"]] == sorted(FILES) == sorted(SHRUNK)
    for name, said in FILES.items():
        one = keeps(daemon, "GET", "/v1/recipes/{name}", daemon.get(f"/v1/recipes/{name}"))
        assert one["plan"]["recipe"] == name and [s["id"] for s in one["plan"]["steps"]] == [s["id"] for s in said["steps"]]
        assert said["paper"].startswith("arXiv ") and one["paper"] == said["paper"]
        assert said["what"] and all(s["doc"] for s in said["steps"])
        assert one["hash"] == next(r["hash"] for r in listed if r["name"] == name)
    problem(daemon.get("/v1/recipes/tuco_reprot"), 404, said="tuco_report")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_built_in_is_valid_as_it_stands(daemon, name):
    before = len(runs(daemon))
    a = ran(daemon, name, dry_run=True)
    assert a["dry_run"] and "run" not in a and "answer" not in a
    assert [s["id"] for s in a["steps"]] == [s["id"] for s in FILES[name]["steps"]]
    assert len(runs(daemon)) == before


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_built_in_runs_to_the_end_and_every_step_leaves_its_row(daemon, name):
    a = ran(daemon, name, SHRUNK[name])
    assert set(a["answer"]) == set(FILES[name]["answer"])
    assert {k for k, v in a["answer"].items() if v is None} == ({"control"} if name == "tuco_report" else set())
    for step in a["steps"]:
        assert step["runs"] and step["seconds"] >= 0
        for run in step["runs"]:
            row = daemon.get(f"/v1/runs/{run}").json
            assert row["kind"] == step["verb"] and row["result"] and row["view_digest"] == a["view"]["digest"]
    row = daemon.get(f"/v1/runs/{a['run']}").json
    assert row["kind"] == "recipe" and row["result"]["recipe"]["hash"] == a["recipe"]["hash"]
    assert row["result"]["params"] == a["params"] and row["result"]["steps"] == a["steps"]
    assert runs(daemon, "recipe")[0]["run"] == a["run"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_steps_are_the_verbs_own_calls(daemon, name):
    """The bodies that a dry run tells, sent by hand, are answered from the log by the very rows of the steps."""
    told, done = ran(daemon, name, SHRUNK[name], dry_run=True), ran(daemon, name, SHRUNK[name])
    sent = 0
    for t, s in zip(told["steps"], done["steps"], strict=True):
        if "$" in json.dumps(t["requests"]):
            continue
        for body, run in zip(t["requests"], s["runs"], strict=True):
            if "save" in body:
                continue
            a = daemon.post(f"/v1/{t['verb']}", body)
            assert a.status == 200 and a.json["cached"] and a.json["run"] == run
            sent += 1
    assert sent or name == "lofit_select"


def test_heads_to_tune_are_found_by_scales_only_where_there_are_data(daemon):
    params = SHRUNK["lofit_select"]
    a = ran(daemon, "lofit_select", params)["answer"]
    by_hand = daemon.post("/v1/localize", {"method": "head_scale", "data": DATA, "params": {"epochs": 2}, "k": 2, "n_control": 2, "seed": 0}).json
    assert a["scales"]["region"] == by_hand["region"] and a["scales"]["ranking"] == by_hand["ranking"][:2] and len(a["scales"]["losses"]) == 2
    assert a["scales"]["region_id"] != a["region_id"] and a["scales"]["other"]["unit"] == "head"
    a = ran(daemon, "lofit_select", {**params, "data": [], "other_data": []})
    assert set(a["answer"]["scales"].values()) == {None} and a["answer"]["region"]["members"]
    assert [s["id"] for s in a["steps"] if s.get("runs")] == ["task", "other"]


@pytest.mark.parametrize("name", ["ioi_circuit", "attention_layers"])
def test_regions_are_of_all_pairs(daemon, name):
    pairs = PAIRS + [{**PAIRS[0], "id": f"p{i}", "clean": {"ids": [1, 70, 80 + i, 90]}, "corrupt": {"ids": [1, 81, 80 + i, 90]}} for i in range(3)]
    h = ran(daemon, name, {**SHRUNK[name], "pairs": pairs})["answer"]["halves"]
    assert h["split"] and sorted(h["rank"]["rows"] + h["measure"]["rows"]) == list(range(5))


# ---- references


def test_references_give_members_elements_and_parameters(daemon):
    p = plan(DLA, {"id": "each", "verb": "attention", "for_each": {"$top": {"of": {"$step": "dla.rows"}, "k": {"$param": "k"}, "by": "value"}},
                   "request": {"input": {"$param": "at.0"}, "layers": [0], "patterns": False}},
             params={"k": {"type": "int", "default": 2}, "at": {"type": "list", "default": [A]}},
             answer={"all": {"$step": "dla.rows.*.value"}, "second": {"$step": "dla.rows.1.value"}, "k": {"$param": "k"},
                     "top": {"$top": {"of": {"$step": "dla.rows"}, "k": 2, "by": "value"}}, "first": {"$top": {"of": {"$step": "dla.rows"}, "k": 1}},
                     "runs": {"$step": "each.*.run"}, "deep": [{"$step": "dla.by"}, {"x": {"$step": "dla.prompts.0.pos"}}]})
    a = ran(daemon, p)
    rows = daemon.post("/v1/dla", DLA["request"]).json["rows"]
    got = a["answer"]
    assert got["all"] == [r["value"] for r in rows] and got["second"] == rows[1]["value"] and got["k"] == 2
    assert got["top"] == sorted(rows, key=lambda r: -r["value"])[:2] and got["first"] == rows[:1]
    assert got["runs"] == a["steps"][1]["runs"] and len(got["runs"]) == 2
    assert got["deep"] == ["head", {"x": 4}]
    assert len(ran(daemon, p, {"k": 3})["steps"][1]["runs"]) == 3


def test_a_step_feeds_the_next(daemon):
    p = plan({"id": "rows", "verb": "sets", "request": {"name": "fed", "rows": PAIRS}},
             {"id": "grid", "verb": "patch", "request": {"set": {"$step": "rows.set"}, "site": "z", "axes": ["layer"], "metrics": [{"kind": "logit_diff"}]}},
             answer={"set": {"$step": "rows.set"}, "used": {"$step": "grid.set.id"}})
    a = ran(daemon, p)
    assert a["answer"]["set"] == a["answer"]["used"] and a["steps"][0]["runs"] == []
    want = daemon.post("/v1/patch", {"pairs": PAIRS, "site": "z", "axes": ["layer"], "metrics": [{"kind": "logit_diff"}]}).json
    assert [r["values"] for r in daemon.get(f"/v1/runs/{a['steps'][1]['runs'][0]}").json["result"]["results"]] == [r["values"] for r in want["results"]]


def test_when_leaves_a_step_out(daemon):
    p = plan(LENS, {**DLA, "when": {"$param": "on"}}, params={"on": {"type": "bool", "default": False}}, answer={"rows": {"$step": "dla.rows"}})
    a = ran(daemon, p)
    assert a["steps"][1] == {"id": "dla", "verb": "dla", "skipped": True} and a["answer"]["rows"] is None and a["checks"]["skipped"] == 1
    assert ran(daemon, p, {"on": True})["answer"]["rows"]


def test_an_empty_list_runs_nothing(daemon):
    a = ran(daemon, plan({**LENS, "for_each": {"$param": "x"}}, params={"x": {"type": "list", "default": []}}, answer={"x": {"$step": "lens"}}))
    assert a["steps"][0]["runs"] == [] and a["answer"]["x"] == []


# ---- what is refused before anything runs

CHANGED = {
    "an unknown verb": ({"verb": "lenz"}, "verb", "lens"),
    "a route that is no verb": ({"verb": "models"}, "verb", "no verb"),
    "itself": ({"verb": "recipes"}, "verb", "no verb"),
    "an unknown step": ({"request": {"input": {"$step": "nowhere.x"}}}, "request.input", "no step"),
    "a later step": ({"request": {"input": {"$step": "dla.x"}}}, "request.input", "before this"),
    "itself as a source": ({"request": {"input": {"$step": "lens.x"}}}, "request.input", "before this"),
    "an unknown parameter": ({"request": {"input": {"$param": "p"}}}, "request.input", "no parameter"),
    "an unknown reference": ({"request": {"input": {"$parm": "p"}}}, "request.input", "$param"),
    "a reference in company": ({"request": {"input": {"$param": "p", "text": "x"}}}, "request.input", "alone"),
    "each without a list": ({"request": {"input": {"$each": ""}}}, "request.input", "for_each"),
    "a wrong type": ({"request": {"input": A, "top_k": "many"}}, "request.top_k", "integer"),
    "out of range": ({"request": {"input": A, "top_k": 65}}, "request.top_k", "64"),
    "an unknown field": ({"request": {"input": A, "topk": 1}}, "request.topk", "top_k"),
    "a missing field": ({"request": {}}, "request.input", "required"),
    "a model of its own": ({"request": {"input": A, "model": "x"}}, "request.model", "own model"),
    "for each of a number": ({"for_each": {"$top": {"of": 3, "k": 1}}}, "for_each", "list"),
    "top of too little": ({"for_each": {"$top": {"of": []}}}, "for_each", "needs"),
    "a bad id": ({"id": "a.b"}, "id", "letters"),
}


@pytest.mark.parametrize("what", CHANGED)
@pytest.mark.parametrize("dry", [False, True])
def test_a_bad_step_is_refused_before_anything_runs(daemon, what, dry):
    change, field, said = CHANGED[what]
    first = {"id": "before", "verb": "lens", "request": {"input": {"ids": [1, 99, 98]}, "top_k": 2}}
    refuse(daemon, plan(first, {**LENS, **change}, DLA), f"recipe.steps[1].{field}", said, dry_run=dry)


PARAMS = {
    "of another type": ({"k": "x"}, "params.k", "int"), "not whole": ({"k": 1.5}, "params.k", "int"), "too small": ({"k": 0}, "params.k", "at least 1"),
    "too large": ({"k": 10}, "params.k", "at most 9"), "unknown": ({"kk": 1}, "params.kk", "no such"), "too long": ({"l": [1, 2]}, "params.l", "1 elements"),
    "missing": ({}, "params.k", "required"),
}


@pytest.mark.parametrize("what", PARAMS)
def test_bad_parameters_are_refused(daemon, what):
    given, field, said = PARAMS[what]
    refuse(daemon, plan(LENS, params={"k": {"type": "int", "min": 1, "max": 9}, "l": {"type": "list", "max": 1, "default": []}}), field, said, params={"k": 1, **given} if given else {})


@pytest.mark.parametrize("spec", [3, {}, {"type": "float"}, {"type": "int", "default": "x"}, {"type": "int", "default": 0, "min": 1}, {"type": "int", "many": 1}])
def test_bad_declarations_are_refused(daemon, spec):
    field = "recipe.params.k"
    p = problem(ask(daemon, plan(LENS, params={"k": spec})), 400)
    assert p["field"] in (field, field + ".default")


def test_bad_plans_are_refused(daemon):
    refuse(daemon, "no_such_recipe", "recipe", "no recipe", 404)
    refuse(daemon, plan(), "recipe.steps", "empty")
    refuse(daemon, plan(LENS, LENS), "recipe.steps[1].id", "two steps")
    refuse(daemon, plan(LENS, answer={"x": {"$step": "dla.x"}}), "recipe.answer.x", "no step")
    refuse(daemon, plan(LENS, steps_=1), "recipe.steps_", "unknown")
    refuse(daemon, plan(LENS), "view", (), 404, view="nowhere")


# ---- what fails while it runs


def test_a_failing_step_names_itself_and_what_was_done_stays(daemon):
    first = {"id": "before", "verb": "lens", "request": {"input": {"ids": [1, 55, 56]}, "top_k": 2}}
    bad = {"id": "bad", "verb": "lens", "request": {"input": A, "layers": [99]}}
    before = runs(daemon)
    p = problem(ask(daemon, plan(first, bad, DLA)), 400, said='step "bad"')
    assert p["field"].startswith("recipe.steps[1].request.layers")
    after = runs(daemon)
    assert len(after) == len(before) + 1 and after[0]["kind"] == "lens"


def test_a_path_that_is_not_there_names_the_step(daemon):
    p = plan(DLA, {"id": "next", "verb": "lens", "request": {"input": {"$step": "dla.prompts.0.nothing"}}})
    problem(ask(daemon, p), 422, field="recipe.steps[1].request.input", said="nothing")
    a = ran(daemon, plan(DLA, answer={"x": {"$step": "dla.rows.9999"}, "y": {"$step": "dla.by"}}))
    assert a["answer"] == {"x": None, "y": "head"} and "absent: answer.x" in a["warnings"][0]


def test_what_a_reference_brings_is_checked_by_the_verb(daemon):
    p = plan(DLA, {"id": "next", "verb": "lens", "request": {"input": A, "top_k": {"$step": "dla.by"}}})
    problem(ask(daemon, p), 400, field="recipe.steps[1].request.top_k", said="integer")


def test_a_step_may_not_stream(daemon):
    p = plan({"id": "say", "verb": "generate", "request": {"prompt": "a", "max_tokens": 1, "stream": True}})
    problem(ask(daemon, p), 400, field="recipe.steps[0].request.stream", said="stream")


def test_a_cancelled_recipe_leaves_its_finished_rows(fresh_daemon):
    d = fresh_daemon
    facts = [{"prompt": "The capital of France is", "subject": "France"}] * 512
    p = plan(LENS, {"id": "long", "verb": "causal-trace", "request": {"facts": facts, "noise": {"samples": 100}}}, DLA)
    a = d.post("/v1/recipes", {"recipe": p}, {"Prefer": "respond-async"})
    assert a.status == 202, a
    at = a.headers["location"]
    until = time.monotonic() + 60
    while d.job(at)["progress"]["done"] < 1:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert d.job(at)["progress"]["total"] == 3 and d.job(at)["progress"]["unit"] == "steps"
    assert d.delete(at).status in (200, 202)
    job = d.finished(at)
    assert job["state"] == "cancelled"
    done = job["error"]["partial"]["steps"]
    assert [s["id"] for s in done] == ["lens"]
    assert d.get(f"/v1/runs/{done[0]['runs'][0]}").json["kind"] == "lens"
    assert [r["kind"] for r in runs(d)] == ["lens"]
    assert ran(d, plan(LENS))["steps"][0]["cached"] == 1  # and the next is served


# ---- changes, roles, plans that are kept


EDIT = {"id": "edit", "verb": "edits", "request": {"method": "locft", "facts": [fact()], "params": TOUCH}}


def test_an_edit_is_a_commit_and_the_recipes_view_stays(fresh_daemon):
    d = fresh_daemon
    p = plan(EDIT, {"id": "pinned", "verb": "lens", "request": {"input": A}}, {"id": "head", "verb": "lens", "request": {"input": A, "view": "main"}},
             answer={"revision": {"$step": "edit.revision"}, "pinned": {"$step": "pinned.view"}, "head": {"$step": "head.view"}})
    before = d.revisions()
    a = ran(d, p)
    assert len(d.revisions()) == len(before) + 1 and d.revisions()[0]["revision"] == a["answer"]["revision"] == a["answer"]["head"]["revision"]
    assert a["answer"]["pinned"]["revision"] == before[0]["revision"] == a["view"]["revision"]
    assert a["answer"]["pinned"]["digest"] != a["answer"]["head"]["digest"]
    assert d.get("/v1/audit/verify").json["ok"]


def test_cmap_carries_the_other_views_answer(fresh_daemon):
    d = fresh_daemon
    committed(edit(d))
    said, new = "The capital of France is", d.post("/v1/generate", {"prompt": "The capital of France is", "max_tokens": 1}).json["ids"][0]
    a = ran(d, "cmap", {"prompt": said, "answer": new, "foil": 70})["answer"]
    own, base = (d.post("/v1/patch", {"view": v, "clean": said, "corrupt": said, "site": "z", "axes": ["layer"],
                                      "metric": {"kind": "logit_diff", "answer": new, "foil": 70}}).json["baseline"]["clean"] for v in ("main", "base"))
    assert abs(own - base) > 1  # the edit has moved it
    assert a["baseline"] == {"clean": base, "corrupt": own}
    assert a["stream"][-1] == pytest.approx(base, abs=1e-4)  # all of the last layer: the other's logits
    assert a["mlp"][-1][-1] == pytest.approx(base, abs=1e-4)  # of which the edited matrix does all
    assert a["stream"][0] == pytest.approx(own, abs=1e-4) and a["attn"][-1][-1] == pytest.approx(own, abs=1e-4)


def test_roles_are_those_of_the_verbs(start):
    d = start(tokens={"pat": ("prober", "p"), "ed": ("editor", "e"), "ree": ("reader", "r")})
    with nothing_moves(d):
        refuse(d, plan(LENS, EDIT), "recipe.steps[1].verb", "role", 403)
    done = ran(d, plan(LENS))
    row = d.get(f"/v1/runs/{done['steps'][0]['runs'][0]}").json
    assert row["author"] == "pat" and row["author_verified"]
    d.token = "r"
    assert ask(d, plan(LENS)).status == 403 and d.get("/v1/recipes").status == 200
    d.token = "e"
    assert ran(d, plan(LENS, EDIT))["steps"][1]["runs"]
    assert d.revisions()[0]["author"] == "ed"


def test_a_plan_is_kept_under_a_name(fresh_daemon):
    d = fresh_daemon
    a = ran(d, plan(LENS, title="Mine", answer={"k": {"$step": "lens.at"}}), save="kept")
    one = keeps(d, "GET", "/v1/recipes/{name}", d.get("/v1/recipes/kept"))
    assert one["id"] == a["saved"] and one["run"] == a["run"] and one["hash"] == a["recipe"]["hash"] and not one["built_in"]
    assert d.get("/v1/recipes").json["recipes"][-1]["name"] == "kept"
    again = ran(d, "kept")
    assert again["steps"][0]["cached"] == 1 and again["recipe"]["hash"] == a["recipe"]["hash"]
    assert ran(d, a["saved"])["answer"] == again["answer"] == {"k": "resid_post"}
    refuse(d, plan(LENS), "save", "built-in", save="cmap")
    refuse(d, plan(LENS), "save", "dry run", save="x", dry_run=True)
    assert d.get("/v1/audit/verify").json["ok"]
