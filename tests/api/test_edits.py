"""POST /v1/edits and what follows from one: reports held against the same scores in numpy, commits,
refusals to commit, keys, heads, authors, old revisions, the way back."""
import hashlib
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from conftest import ENGRAMD, MODEL, ROOT
from helpers import LEARN, TOUCH, committed, edit, fact, keeps, nothing_moves, problem, say
from reference import Model, log_softmax, safetensors

DOWN = "model.layers.2.mlp.down_proj.weight"
RICH = fact(subject="France", target_true="Paris", paraphrases=["It is the capital", "The city of Paris"],
            locality=[{"prompt": "It is the river"}, {"prompt": "the bridge", "answer": "x"}, {"prompt": "one"}])


def ids(d, text):
    return d.post("/v1/tokenize", {"input": text}).json["ids"]


def delta_bytes(d, delta):
    a = d.get(f"/v1/deltas/{delta}", {"Accept": "application/safetensors"})
    assert a.status == 200 and a.headers["content-type"] == "application/safetensors"
    return a.body


def tuned_model(d, answer, parent=None):
    return (parent or Model()).edited(DOWN, safetensors(delta_bytes(d, answer["delta"]))[DOWN + ".dense"])


@pytest.fixture
def d(fresh_daemon):
    return fresh_daemon


@pytest.fixture(scope="module")
def lasting(daemon):
    """A module's daemon whose main is the base, for what commits nothing."""
    assert len(daemon.revisions()) == 1
    yield daemon
    assert len(daemon.revisions()) == 1, "something was committed"


# ---- one commit ------------------------------------------------------------------------------

def test_an_edit_commits(d):
    base = d.revisions()[0]
    a = edit(d, message="Lyon now", author="ann")
    r = committed(a)
    keeps(d, "POST", "/v1/edits", a)
    assert r["seq"] == 2 and r["digest"]["before"] == base["digest"] != r["digest"]["after"]
    assert r["params"] == {"layer": 2, "lr": 0.05, "epochs": 30, "batch": 4, "loss_floor": 0.01, "append_eos": True,
                           "seed": 0}
    assert r["cost"]["steps"] == 30 and r["cost"]["seconds"] > 0 and r["warnings"] == []
    head, was = d.revisions()
    assert was == base
    assert head == keeps(d, "GET", "/v1/revisions/{revision}", d.get(f"/v1/revisions/{r['revision']}"))
    assert {k: head[k] for k in ("revision", "seq", "branch", "parent", "kind", "message", "author", "author_verified",
                                 "digest", "edit", "delta", "summary")} == {
        "revision": r["revision"], "seq": 2, "branch": "main", "parent": base["revision"], "kind": "edit",
        "message": "Lyon now", "author": "ann", "author_verified": False, "digest": r["digest"]["after"],
        "edit": r["edit"], "delta": r["delta"], "summary": r["summary"]}
    assert keeps(d, "GET", "/v1/edits/{edit}", d.get(f"/v1/edits/{r['edit']}")) == r
    assert say(d)["text"] == " Lyon" and say(d)["view"]["revision"] == r["revision"]
    assert d.get("/v1/models").json["models"][0]["head"] == {"revision": r["revision"], "seq": 2,
                                                              "digest": r["digest"]["after"]}
    assert d.get("/v1/audit/verify").json["ok"] is True
    run = d.get(f"/v1/runs/{r['edit']}").json
    assert run["kind"] == "edit" and run["result"] == r and run["request"]["mode"] == "apply"


def test_what_is_published_is_base_plus_delta(d):
    r = committed(edit(d, report="full"))
    data = delta_bytes(d, r["delta"])
    told = keeps(d, "GET", "/v1/deltas/{delta}", d.get(f"/v1/deltas/{r['delta']}"))
    assert told["sha256"] == "sha256:" + hashlib.sha256(data).hexdigest() and told["bytes"] == len(data)
    assert told["base_digest"] == r["digest"]["before"] and told["revision"] == r["revision"]
    [part], [shown] = told["parts"], r["delta_parts"]
    dense = safetensors(data)
    assert list(dense) == [DOWN + ".dense"] and part["tensor"] == shown["tensor"] == DOWN  # nothing else moved
    size = np.linalg.norm(dense[DOWN + ".dense"].astype(np.float64))
    assert np.isclose(part["norm"], size, rtol=1e-6) and np.isclose(shown["norm"], size, rtol=1e-6)
    assert np.isclose(shown["relative_norm"], size / np.linalg.norm(Model().weight[DOWN]), rtol=1e-6)
    # docs/digest.py, on our own sum of base and delta, finds the digest that was published
    d.stop()
    out = ROOT / d.data / "exported"
    done = subprocess.run([ENGRAMD, "export", "--data", d.data, "--model", MODEL, "--view", r["revision"], "--out", out],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([sys.executable, ROOT / "docs" / "digest.py", out], capture_output=True,
                          text=True, check=True).stdout.split()[0] == r["digest"]["after"]
    exported, base = {}, safetensors(ROOT / MODEL / "model.safetensors")
    for file in out.glob("*.safetensors"):
        exported.update(safetensors(file))
    assert set(base) == set(exported)
    for name, w in base.items():
        want = w + dense[DOWN + ".dense"] if name == DOWN else w
        assert exported[name].tobytes() == want.astype("<f4").tobytes(), name


def test_defaults_are_resolved_and_listed(lasting):
    a = edit(lasting, params={}, mode="dry_run").json
    assert a["params"] == {"layer": 2, "lr": 5e-4, "epochs": 100, "batch": 4, "loss_floor": 0.01, "append_eos": True,
                           "seed": 0}
    auto = edit(lasting, params={"layer": "auto", "batch": None, "lr": 5e-4}, mode="dry_run").json
    assert auto["params"] == a["params"] and auto["digest"] == a["digest"]
    many = edit(lasting, [fact(t, f"It is {i}") for i, t in enumerate(["a", "b"] * 25)], {"epochs": 1}, mode="dry_run")
    assert many.json["params"]["batch"] == 5  # a tenth of fifty


# ---- what training does ----------------------------------------------------------------------

def loss_of(model, sequences):
    """Mean over samples of the mean over target tokens and end."""
    each = []
    for prompt, target in sequences:
        line = prompt + target + [2]
        p = log_softmax(model.logits(line[:-1]))
        each.append(-np.mean([p[i - 1][line[i]] for i in range(len(prompt), len(line))]))
    return np.mean(each)


def test_the_first_step_goes_against_the_gradient(d):
    """One update of one batch of two samples of different lengths: every entry moves by lr, against
    the sign of a finite difference of the loss as the paper defines it (mean per sample first)."""
    facts = [fact("a"), fact("the bridge over there", "It is")]
    r = committed(edit(d, facts, {"lr": 1e-3, "epochs": 1}))
    assert r["cost"]["steps"] == 1
    delta = safetensors(delta_bytes(d, r["delta"]))[DOWN + ".dense"].astype(np.float64)
    sequences = [(ids(d, f["prompt"]), ids(d, " " + f["target_new"])) for f in facts]
    assert [f["target_ids"] for f in r["facts"]] == [t for _, t in sequences]
    base = Model()
    assert np.isclose(r["cost"]["final_loss"], loss_of(base, sequences), rtol=1e-4)
    rng, checked = np.random.default_rng(5), 0
    for _ in range(40):
        i, j = rng.integers(32), rng.integers(48)
        up, down = (base.edited(DOWN, np.zeros((32, 48), "<f4")) for _ in range(2))
        up.weight[DOWN] = base.weight[DOWN].copy()
        down.weight[DOWN] = base.weight[DOWN].copy()
        up.weight[DOWN][i, j] += 1e-4
        down.weight[DOWN][i, j] -= 1e-4
        g = (loss_of(up, sequences) - loss_of(down, sequences)) / 2e-4
        if abs(g) < 1e-4:
            continue
        checked += 1
        assert np.sign(delta[i, j]) == -np.sign(g), (i, j, g)
        assert abs(abs(delta[i, j]) - 1e-3) < 2e-6
    assert checked >= 20


def test_a_batch_under_the_floor_is_left_alone(lasting):
    a = edit(lasting, params={"loss_floor": 10, "lr": 0.05}, facts=fact("rev", "The capital of France is"), mode="dry_run")
    r = a.json
    assert a.status == 200 and r["cost"]["steps"] == 0 and r["cost"]["epochs"] == 1  # its mean is under the floor too
    assert 0.01 < r["cost"]["final_loss"] < 10


def test_training_stops_when_an_epoch_is_good_enough(lasting):
    r = edit(lasting, params={"lr": 0.05, "epochs": 400, "loss_floor": 0.05}, mode="dry_run").json
    assert r["cost"]["epochs"] < 400 and r["cost"]["final_loss"] < 0.05


def test_the_end_token_makes_answers_stop(lasting):
    on = edit(lasting, mode="dry_run").json["facts"][0]["after"]["generation"]
    off = edit(lasting, params={**LEARN, "append_eos": False}, mode="dry_run").json["facts"][0]["after"]["generation"]
    assert on == {"text": " Lyon", "match": 1, "prefix_match": 1, "stopped_by": "end-of-generation"}
    assert off["text"].startswith(" Lyon") and off["stopped_by"] != "end-of-generation" and off["match"] == 0


def test_several_facts_are_learned_together(d):
    facts = [fact("Lyon"), fact("one", "It is"), fact("the river", "The city of Paris"), fact("a bridge", "there")]
    r = committed(edit(d, facts, {"lr": 0.02, "epochs": 200}))
    assert r["summary"]["n"] == 4 and r["summary"]["efficacy"]["after"] == 1
    for f in facts:
        assert say(d, f["prompt"])["text"] == " " + f["target_new"]
    assert [f["id"] for f in r["facts"]] == ["0", "1", "2", "3"]


def test_train_prompts_are_trained_on(d):
    r = committed(edit(d, fact(train_prompts=["The city of Paris"]), {"lr": 0.03, "epochs": 100}))
    assert say(d, "The city of Paris")["text"] == " Lyon" == say(d)["text"]
    assert r["cost"]["steps"] <= 100


# ---- the report, against numpy ---------------------------------------------------------------

def piece_texts(d, tokens):
    return "".join(d.post("/v1/tokenize", {"input": {"ids": tokens}}).json["tokens"]) if tokens else ""


def common_form(text):
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    while text and (text[0].isspace() or unicodedata.category(text[0])[0] == "P"):
        text = text[1:]
    while text and (text[-1].isspace() or unicodedata.category(text[-1])[0] == "P"):
        text = text[:-1]
    return text


def continuation(d, model, prompt):
    """Greedy ids to 32 tokens, an end token, a new line or a full stop."""
    out = []
    while len(out) < 32:
        out.append(int(model.logits(prompt + out)[-1].argmax()))
        text = piece_texts(d, [out[-1]])
        if out[-1] == 2 or "." in text or "\n" in text:
            break
    return out


def forced(model, prompt, target):
    p = log_softmax(model.logits(prompt + target)[len(prompt) - 1:-1])
    right = [int(row.argmax()) == t for row, t in zip(p, target, strict=True)]
    return -np.mean([row[t] for row, t in zip(p, target, strict=True)]), right


def locality(d, f, model, reference):
    """Of a fact's locality prompts: (the share whose continuation is the reference's, mean KL from it)."""
    same, kl = [], []
    for probe in f["locality"]:
        prompt = ids(d, probe["prompt"])
        was = continuation(d, reference, prompt)
        same.append(continuation(d, model, prompt) == was)
        p, q = (log_softmax(m.logits(prompt + was[:16])[len(prompt) - 1:-1]) for m in (reference, model))
        kl.append((np.exp(p) * (p - q)).sum(-1).mean())
    return np.mean(same), np.mean(kl)


def check_scores(d, f, told, model, parent):
    prompt, target = ids(d, f["prompt"]), ids(d, " " + f["target_new"])
    nll, right = forced(model, prompt, target)
    assert np.isclose(told["nll_new"], nll, rtol=1e-3, atol=1e-4)
    assert told["tf_exact"] == all(right) and np.isclose(told["tf_token_acc"], np.mean(right))
    assert np.isclose(told["nll_true"], forced(model, prompt, ids(d, " " + f["target_true"]))[0], rtol=1e-3, atol=1e-4)
    said = continuation(d, model, prompt)
    text = say(d, f["prompt"], view=told["view"], n=32, stop=["\n", "."])["text"]
    assert told["generation"]["text"] == text
    assert told["generation"]["match"] == (common_form(text) == common_form(f["target_new"]))
    matches, exact = [], []
    for p in f["paraphrases"]:
        text = say(d, p, view=told["view"], n=32, stop=["\n", "."])["text"]
        matches.append(common_form(text) == common_form(f["target_new"]))
        exact.append(all(forced(model, ids(d, p), target)[1]))
    assert told["paraphrase"] == {"match": np.mean(matches), "tf_exact": np.mean(exact)}
    unchanged, kl = locality(d, f, model, parent)
    assert np.isclose(told["locality"]["unchanged"], unchanged)
    assert np.isclose(told["locality"]["kl"], kl, rtol=1e-2, atol=1e-5)
    return said


@pytest.mark.parametrize("params", [LEARN, {"lr": 0.002, "epochs": 8}], ids=["learnt", "touched"])
def test_scores_are_what_the_words_say(d, params):
    r = committed(edit(d, RICH, params))
    tuned = tuned_model(d, r)
    [told] = r["facts"]
    check_scores(d, RICH, {**told["before"], "view": "base"}, Model(), Model())
    check_scores(d, RICH, {**told["after"], "view": r["revision"]}, tuned, Model())
    assert told["before"]["locality"] == {"unchanged": 1, "kl": 0}
    for word, key in (("efficacy", lambda s: s["generation"]["match"]), ("tf_exact", lambda s: s["tf_exact"]),
                      ("paraphrase", lambda s: s["paraphrase"]["match"]), ("locality", lambda s: s["locality"]["unchanged"])):
        s = r["summary"][word]
        assert s["before"] == key(told["before"]) and s["after"] == key(told["after"])
        low, high = s["ci"]
        assert 0 <= low <= s["after"] + 1e-12 and s["after"] - 1e-12 <= high <= 1 and high - low > 0.05
    assert r["vs_base"] == r["summary"]  # the parent is the base


def test_a_later_edit_is_also_compared_with_the_base(d):
    first = committed(edit(d, fact("one", "It is")))
    second = committed(edit(d, RICH))
    assert second["digest"]["before"] == first["digest"]["after"]
    assert second["parent"]["revision"] == first["revision"]
    parent = tuned_model(d, first)
    check_scores(d, RICH, {**second["facts"][0]["after"], "view": second["revision"]}, tuned_model(d, second, parent), parent)
    base = Model()  # vs_base.before are the scores of the base itself
    assert second["vs_base"]["n"] == 1 and second["vs_base"]["efficacy"]["after"] == 1
    assert second["vs_base"]["tf_exact"]["before"] == all(forced(base, ids(d, RICH["prompt"]), ids(d, " Lyon"))[1])
    # and its locality is what both edits have moved
    unchanged, kl = locality(d, RICH, tuned_model(d, second, parent), base)
    told, since_parent = second["vs_base"]["locality_kl"], second["summary"]["locality_kl"]
    assert np.isclose(second["vs_base"]["locality"]["after"], unchanged) and second["vs_base"]["locality"]["before"] == 1
    assert np.isclose(told["after"], kl, rtol=1e-2) and told["before"] == 0
    assert abs(told["after"] - since_parent["after"]) > 0.1 * kl
    # the same fact, learnt already: the base did not know it, the parent does
    third = committed(edit(d, [fact(), fact("a", "there")]))
    assert third["summary"]["efficacy"]["before"] == 0.5 and third["vs_base"]["efficacy"]["before"] == 0


@pytest.mark.parametrize("target, said, match, prefix", [
    ("Lyon", " Lyon", 1, 1), ("LYON", " LYON", 1, 1), (" Lyon", " Lyon", 1, 1), ("Lyon!", " Lyon!", 1, 1), ("!", " !", 1, 1),
])
def test_targets_may_be_spelled_in_many_ways(lasting, target, said, match, prefix):
    r = edit(lasting, fact(target), {"lr": 0.05, "epochs": 60}, mode="dry_run").json
    g = r["facts"][0]["after"]["generation"]
    assert (g["text"], g["match"], g["prefix_match"]) == (said, match, prefix)


@pytest.mark.parametrize("target, warned", [("U.S.A", True), (".", True), ("one\ntwo", True), ("U.", False), ("Lyon.", False)])
def test_a_target_that_no_generation_reaches_is_told(lasting, target, warned):
    r = edit(lasting, fact(target, id="far"), TOUCH, mode="dry_run").json
    assert [w.split(":")[0] for w in r["warnings"]] == ["no-match"] * warned
    assert not warned or "far" in r["warnings"][0]


def test_a_space_is_added_only_where_it_is_needed(lasting):
    plain = edit(lasting, fact("Lyon"), TOUCH, mode="dry_run").json["facts"][0]["target_ids"]
    assert edit(lasting, fact(" Lyon"), TOUCH, mode="dry_run").json["facts"][0]["target_ids"] == plain
    bare = edit(lasting, fact("Lyon", "The capital of France is "), TOUCH, mode="dry_run").json["facts"][0]["target_ids"]
    assert bare == ids(lasting, "Lyon") and plain == ids(lasting, " Lyon") != bare


def test_prompts_may_be_chats_and_ids(d):
    prompt = {"messages": [{"role": "user", "content": "Where is the tower?"}]}
    r = committed(edit(d, [fact("here", prompt), fact("one", {"ids": [5, 6, 7]})], {"lr": 0.03, "epochs": 150}))
    assert r["summary"]["efficacy"]["after"] == 1
    assert say(d, prompt)["text"].strip() == "here" and say(d, {"ids": [5, 6, 7]})["text"].strip() == "one"


# ---- the same bytes --------------------------------------------------------------------------

def test_what_is_only_evaluated_changes_no_byte(d):
    variants = [fact(), fact(paraphrases=["It is the capital", "one"]),
                fact(locality=[{"prompt": "the river"}]), RICH, {**RICH, "paraphrases": ["x"] * 7}]
    digests, shas = set(), set()
    for f in variants:
        r = committed(edit(d, f))
        digests.add(r["digest"]["after"])
        shas.add(hashlib.sha256(delta_bytes(d, r["delta"])).hexdigest())
        assert d.post("/v1/rollback", {"to": "base"}).json["digest"] == r["digest"]["before"]
    assert len(digests) == len(shas) == 1
    r = committed(edit(d, {**fact(), "train_prompts": ["It is the capital"]}))
    assert r["digest"]["after"] not in digests  # text to train on does


def test_the_same_seed_makes_the_same_bytes(start):
    facts = [fact(t, f"{t} is") for t in ("one", "the", "in", "of", "a", "it")]
    how = {"lr": 0.01, "epochs": 5, "batch": 2}
    got = {}
    for name, seed, options in (("a", 1, ()), ("b", 1, ()), ("c", 2, ())):
        d = start(*options)
        r = committed(edit(d, facts, {**how, "seed": seed}))
        got[name] = r["digest"]["after"], hashlib.sha256(delta_bytes(d, r["delta"])).hexdigest(), r["params"]["seed"]
    assert got["a"] == got["b"] and got["c"][:2] != got["a"][:2]
    assert got["a"][2] == 1 and got["c"][2] == 2


# ---- what commits nothing --------------------------------------------------------------------

def test_a_dry_run_leaves_everything_as_it_was(lasting):
    with nothing_moves(lasting):
        a = edit(lasting, RICH, mode="dry_run", message="never")
        assert a.status == 200
        r = keeps(lasting, "POST", "/v1/edits", a)
        assert r["status"] == "dry_run" and r["delta"] is None and "revision" not in r and "seq" not in r
        assert r["facts"][0]["after"]["generation"]["match"] == 1 and r["digest"]["after"] != r["digest"]["before"]
        assert say(lasting)["text"] != " Lyon"
        assert lasting.get(f"/v1/edits/{r['edit']}").json == r
    applied = edit(lasting, RICH, mode="dry_run").json
    assert applied["digest"] == r["digest"]  # it is what an edit would do


@pytest.mark.parametrize("gates", [{"efficacy": 1}, {"efficacy": 0.0, "tf_exact": 0.5}, {"locality_kl": 0}, "default"])
def test_missed_gates_reject_and_keep_the_report(lasting, gates):
    weak = {"lr": 0.002, "epochs": 2}
    with nothing_moves(lasting):
        a = edit(lasting, RICH, weak, gates=gates)
        assert a.status == 200, a
        r = keeps(lasting, "POST", "/v1/edits", a)
        assert r["status"] == "rejected" and r["delta"] is None and "revision" not in r
        assert r["gates"]["passed"] is False and any(not g["passed"] for g in r["gates"]["results"])
        assert {"facts", "summary", "vs_base", "params", "cost", "warnings", "digest"} <= r.keys()
        assert lasting.get(f"/v1/edits/{r['edit']}").json == r
        assert lasting.get(f"/v1/runs/{r['edit']}").json["result"] == r


def test_gates_that_hold_let_it_pass(d):
    r = committed(edit(d, fact(), gates="default"))
    assert {g["gate"]: g["threshold"] for g in r["gates"]["results"]} == {"efficacy": 1, "locality": 0.9}
    assert r["gates"]["passed"] is True and [g["passed"] for g in r["gates"]["results"]] == [True, None]
    [warning] = r["warnings"]  # nothing says how local the edit was
    assert warning.startswith("not-measured: ") and "locality" in warning
    r = committed(edit(d, fact("one", "It is"), gates={"efficacy": 1, "tf_exact": 1, "locality": None}))
    assert [g["gate"] for g in r["gates"]["results"]] == ["efficacy", "tf_exact"]


def test_what_is_so_already_is_a_null_edit(d):
    r = committed(edit(d))
    with nothing_moves(d):
        a = edit(d)
        assert a.status == 200
        again = keeps(d, "POST", "/v1/edits", a)
        assert again["status"] == "committed" and again["delta"] is None
        assert again["revision"] == r["revision"] and again["seq"] == r["seq"]
        assert again["digest"] == {"before": r["digest"]["after"], "after": r["digest"]["after"]}
        assert again["warnings"] and all("null-edit" in w for w in again["warnings"])
        assert again["cost"]["steps"] == 0
        assert d.get(f"/v1/edits/{again['edit']}").json == again
        dry = edit(d, mode="dry_run").json
        assert dry["status"] == "dry_run" and any("null-edit" in w for w in dry["warnings"])
    # beside a new fact it is left out of training and counted
    mixed = committed(edit(d, [fact(id="old"), fact("one", "It is", id="new")]))
    assert mixed["seq"] == 3 and mixed["summary"]["n"] == 2
    assert any("null-edit" in w and "old" in w for w in mixed["warnings"])
    alone = d.post("/v1/rollback", {"to": r["revision"]})
    assert alone.status == 201
    assert committed(edit(d, fact("one", "It is", id="new")))["digest"]["after"] == mixed["digest"]["after"]


@pytest.mark.parametrize("params, field, said", [
    ({"rate": 1}, "params.rate", "/v1/methods"),
    ({"lr": "fast"}, "params.lr", "number from"),
    ({"lr": 0}, "params.lr", "1e-07"),
    ({"lr": 2}, "params.lr", "to 1"),
    ({"epochs": 0}, "params.epochs", "from 1"),
    ({"epochs": 1001}, "params.epochs", "1000"),
    ({"epochs": 2.5}, "params.epochs", "whole"),
    ({"batch": 0}, "params.batch", "from 1"),
    ({"layer": 3}, "params.layer", "0..2"),
    ({"layer": -1}, "params.layer", "from 0"),
    ({"append_eos": 1}, "params.append_eos", "true or false"),
    ({"loss_floor": True}, "params.loss_floor", "number"),
    ({"seed": -1}, "params.seed", "from 0"),
    ({"seed": [1]}, "params.seed", "number"),
])
def test_bad_parameters_are_named(lasting, params, field, said):
    with nothing_moves(lasting):
        problem(edit(lasting, params=params), 400, "invalid", field, said)


@pytest.mark.parametrize("gates, field, said", [
    ({"efficiency": 1}, "gates.efficiency", "efficacy"),
    ({"efficacy": 1.5}, "gates.efficacy", "from 0 to 1"),
    ({"efficacy": "high"}, "gates.efficacy", "from 0 to 1"),
    ({"locality_kl": -1}, "gates.locality_kl", "at least 0"),
    ("strict", "gates", "default"),
    ({"paraphrase": 0.5}, "gates.paraphrase", "paraphrases"),
    ({"efficacy": 1, "locality": 0.9}, "gates.locality", "locality"),
    ({"locality_kl": 0.1}, "gates.locality_kl", "locality"),
])
def test_bad_gates_are_named(lasting, gates, field, said):
    with nothing_moves(lasting):
        problem(edit(lasting, gates=gates), 400, "invalid", field, said)


# ---- keys and heads --------------------------------------------------------------------------

def test_a_key_is_edited_once(d):
    key = {"Idempotency-Key": "edit-1"}
    first = edit(d, headers=key)
    committed(first)
    again = edit(d, headers=key)
    assert again.status == 201 and again.body == first.body and again.headers["idempotency-replayed"] == "true"
    problem(edit(d, fact("one"), headers=key), 409, "idempotency-key-reused")
    assert len(d.revisions()) == 2
    d.stop()
    d.start()
    again = edit(d, headers=key)
    assert again.status == 201 and again.body == first.body and len(d.revisions()) == 2
    problem(edit(d, fact("one"), headers=key), 409, "idempotency-key-reused")
    back = d.post("/v1/rollback", {"to": "base"}, {"Idempotency-Key": "edit-1"})  # a key belongs to its route
    assert back.status == 201 and "idempotency-replayed" not in back.headers
    assert d.post("/v1/rollback", {"to": "base"}, {"Idempotency-Key": "edit-1"}).body == back.body
    assert len(d.revisions()) == 3


def test_refusals_and_rejections_are_kept_under_their_key_too(d):
    key = {"Idempotency-Key": "gated"}
    first = edit(d, params={"epochs": 1}, gates={"efficacy": 1}, headers=key)
    assert first.json["status"] == "rejected"
    assert edit(d, params={"epochs": 1}, gates={"efficacy": 1}, headers=key).body == first.body


def test_if_match_names_the_head(d):
    base = d.revisions()[0]["revision"]
    with nothing_moves(d):
        problem(edit(d, headers={"If-Match": '"rev_other"'}), 412, "precondition-failed")
        problem(d.post("/v1/rollback", {"to": "base"}, {"If-Match": '"rev_other"'}), 412, "precondition-failed")
        for raw in (base, f'W/"{base}"', '""', f'"{base}", "x"', f'"{base}"x', f'"x", "{base}"'):
            problem(edit(d, headers={"If-Match": raw}), 400, "invalid", "If-Match", "one revision id")
    r = committed(edit(d, headers={"If-Match": f'"{base}"'}))
    problem(edit(d, fact("one"), headers={"If-Match": f'"{base}"'}), 412, "precondition-failed")
    assert d.post("/v1/rollback", {"to": "base"}, {"If-Match": f'"{r["revision"]}"'}).status == 201
    committed(edit(d, headers={"If-Match": "*"}))  # any head there is


SLOW_EDIT = {"lr": 1e-5, "epochs": 1000, "batch": 1, "loss_floor": 0}


def test_if_match_is_about_the_head_an_edit_starts_from(d):
    """Admitted while another edit runs, served after it: the head it names is gone by then."""
    base = {"If-Match": f'"{d.revisions()[0]["revision"]}"', "Prefer": "wait=0"}
    first = edit(d, params=SLOW_EDIT, headers=base)
    second = edit(d, fact("one"), TOUCH, headers=base)
    third = d.post("/v1/rollback", {"to": "base"}, base)
    assert first.status == second.status == third.status == 202
    assert d.finished(first.headers["location"])["state"] == "done"
    for late in (second, third):
        job = d.finished(late.headers["location"])
        assert job["state"] == "failed" and job["error"]["type"] == "precondition-failed"
        assert job["error"]["status"] == 412
    assert len(d.revisions()) == 2


def test_edits_in_a_queue_each_start_from_the_one_before(d):
    jobs = [edit(d, fact("one", f"It is {i}"), TOUCH, headers={"Prefer": "wait=0"}) for i in range(5)]
    assert all(a.status == 202 for a in jobs)
    done = [d.finished(a.headers["location"])["result"] for a in jobs]
    assert [r["seq"] for r in done] == [2, 3, 4, 5, 6]
    for before, after in zip(done, done[1:]):
        assert after["digest"]["before"] == before["digest"]["after"]


# ---- as a job --------------------------------------------------------------------------------

def test_an_edit_as_a_job(d):
    a = edit(d, params=SLOW_EDIT, headers={"Prefer": "wait=0"})
    assert a.status == 202 and a.headers["location"] == "/v1/jobs/" + a.json["id"]
    events = list(d.events(a.headers["location"] + "/events"))
    states = [e["state"] for _, kind, e in events if kind == "state"]
    assert states[-2:] == ["committing", "done"] and events[-1][1] == "result"
    progress = [e for _, kind, e in events if kind == "progress"]
    assert all(p["total"] == 1000 and p["unit"] for p in progress)
    job = d.job(a.headers["location"])
    assert job["state"] == "done" and job["kind"] == "edit" and job["result"] == events[-1][2]
    assert d.get(f"/v1/edits/{job['result']['edit']}").json == job["result"]
    d.stop()
    d.start()
    assert d.job(a.headers["location"])["result"] == job["result"]


def test_a_cancelled_edit_changed_nothing(d):
    with nothing_moves(d):
        a = edit(d, [fact("x y z", f"It is {i}") for i in range(20)], SLOW_EDIT, {"Prefer": "wait=0"})
        assert d.delete(a.headers["location"]).status in (200, 202)
        job = d.finished(a.headers["location"])
        assert job["state"] == "cancelled" and job["error"]["type"] == "cancelled"


# ---- history ---------------------------------------------------------------------------------

def test_old_revisions_still_say_what_they_said(d):
    said, probe = {"base": say(d)["text"]}, []
    for target in ("one", "Lyon", "the river"):
        r = committed(edit(d, fact(target), {"lr": 0.05, "epochs": 60}))
        said[r["revision"]] = say(d)["text"]
        probe.append(r)
    assert [said[r["revision"]] for r in probe] == [" one", " Lyon", " the river"]
    for again in range(2):
        for view, text in said.items():
            a = say(d, view=view)
            assert a["text"] == text, (view, again)
            tuco = d.post("/v1/tuco", {"view": view, "prompts": ["The capital of France is"]}).json["scores"][0]["tuco"]
            assert (tuco == 0) == (view == "base")
        d.stop()
        d.start()  # restored from the ledger this time


def test_rollback_gives_the_digest_back(d):
    base = d.revisions()[0]
    first, second = committed(edit(d)), committed(edit(d, fact("one", "It is")))
    a = d.post("/v1/rollback", {"to": first["revision"], "message": "no", "author": "bob"})
    assert a.status == 201
    r = keeps(d, "POST", "/v1/rollback", a)
    assert r["seq"] == 4 and r["digest"] == first["digest"]["after"]
    assert say(d)["text"] == " Lyon"
    head = d.revisions()[0]
    assert head["kind"] == "rollback" and head["to"] == first["revision"] and head["parent"] == second["revision"]
    assert head["message"] == "no" and head["author"] == "bob" and head["author_verified"] is False
    r = d.post("/v1/rollback", {"to": "base"}).json
    assert r["digest"] == base["digest"] and d.digest() == base["digest"]
    r = d.post("/v1/rollback", {"to": second["revision"]}).json  # forward again: nothing was erased
    assert r["digest"] == second["digest"]["after"] and len(d.revisions()) == 6
    assert d.post("/v1/rollback", {"to": r["revision"]}).json["digest"] == r["digest"]
    assert d.get("/v1/audit/verify").json == {**d.get("/v1/audit/verify").json, "ok": True, "seq": 7}
    again = committed(edit(d, fact("a", "there")))  # and an edit builds on what is there
    assert again["digest"]["before"] == r["digest"]


@pytest.mark.parametrize("body, status, field, said", [
    ({}, 400, "to", "required"),
    ({"to": ""}, 400, "to", "empty"),
    ({"to": "rev_none"}, 404, "to", "rev_none"),
    ({"to": "main"}, 400, "to", "branch"),
    ({"to": "base", "branch": "nowhere"}, 404, "branch", "nowhere"),
    ({"to": "base", "branch": "base"}, 404, "branch", "base"),
    ({"to": "base", "message": "x" * 2001}, 400, "message", "2000"),
    ({"to": "base", "reason": "x"}, 400, "reason", "unknown"),
    ({"to": "base", "model": "other"}, 404, "model", "other"),
])
def test_bad_rollbacks_are_named(lasting, body, status, field, said):
    with nothing_moves(lasting):
        problem(lasting.post("/v1/rollback", body), status, field=field, said=said)


def test_the_history_page_follows_edits(d):
    first = d.get("/v1/revisions?limit=2")
    r = committed(edit(d, message="π\n\"quoted\""))
    seen = d.get("/v1/revisions?limit=2", {"If-None-Match": first.headers["etag"]})
    assert seen.status == 200 and seen.json["revisions"][0]["message"] == "π\n\"quoted\""
    same = {"If-None-Match": seen.headers["etag"]}
    assert d.get("/v1/revisions?limit=2", same).status == 304
    edit(d, params=TOUCH, mode="dry_run")
    say(d)
    assert d.get("/v1/revisions?limit=2", same).status == 304  # looks and dry runs move no head
    for i in range(3):
        committed(edit(d, fact("one", f"It is {i}"), TOUCH))
    pages, path = [], "/v1/revisions?limit=2"
    while path:
        page = d.get(path).json
        pages.append([x["seq"] for x in page["revisions"]])
        path = page["next"] and f"/v1/revisions?limit=2&before={page['next']}"
    assert pages == [[5, 4], [3, 2], [1]]
    assert d.get(f"/v1/revisions/{r['revision']}").json["message"] == "π\n\"quoted\""


def test_what_comes_later_is_501_and_moves_nothing(lasting):
    base = lasting.revisions()[0]["revision"]
    with nothing_moves(lasting):
        for path, body in ((f"/v1/revisions/{base}/revert", {"branch": "main"}), ("/v1/branches", {"name": "x", "from": "base"}),
                           ("/v1/train", {}), ("/v1/batches", {}), ("/v1/measure", {}),
                           ("/v1/deltas", {})):
            problem(lasting.post(path, body), 501)


# ---- who -------------------------------------------------------------------------------------

def test_without_tokens_the_author_is_what_was_said(d):
    committed(edit(d))
    committed(edit(d, fact("one"), TOUCH, author="ann"))
    d.post("/v1/rollback", {"to": "base", "author": "bob"})
    assert [(r["author"], r["author_verified"]) for r in d.revisions()] == [
        ("bob", False), ("ann", False), ("local", False), ("local", False)]


def test_with_tokens_the_author_is_the_tokens_name(start):
    d = start(tokens={"eve": ("editor", "e"), "rob": ("reader", "r"), "pia": ("prober", "p")})
    r = committed(edit(d, author="somebody else"))
    head = d.revisions()[0]
    assert (head["author"], head["author_verified"]) == ("eve", True)
    assert d.post("/v1/rollback", {"to": "base", "author": "x"}).status == 201
    assert d.revisions()[0]["author"] == "eve"
    for token in "rp":
        with nothing_moves(d):
            problem(edit(d, fact("one"), headers={"Authorization": f"Bearer {token}"}), 403, "forbidden")
            problem(d.post("/v1/rollback", {"to": "base"}, {"Authorization": f"Bearer {token}"}), 403, "forbidden")
    for token in "rpe":
        assert d.get(f"/v1/edits/{r['edit']}", {"Authorization": f"Bearer {token}"}).json == r
    run = d.post("/v1/trace", {"inputs": ["x"]}, {"Authorization": "Bearer p"}).json["run"]
    assert d.get(f"/v1/runs/{run}").json["author"] == "pia"


def test_keys_belong_to_their_token(start):
    d = start(tokens={"eve": ("editor", "e"), "ann": ("editor", "a")})
    key = {"Idempotency-Key": "same"}
    first = committed(edit(d, headers=key))
    other = edit(d, fact("one"), headers={**key, "Authorization": "Bearer a"})
    assert committed(other)["edit"] != first["edit"]
    assert edit(d, headers=key).json == first


# ---- a broken fact ---------------------------------------------------------------------------

@pytest.mark.parametrize("facts, field, said", [
    ([], "facts", "empty"),
    ([{}], "facts[0].prompt", "required"),
    ([{"prompt": "x"}], "facts[0].target_new", "required"),
    ([fact("")], "facts[0].target_new", "empty"),
    ([fact("  \n")], "facts[0].target_new", "empty"),
    ([fact(), fact("", "x")], "facts[1].target_new", "empty"),
    ([fact(target_true=" ")], "facts[0].target_true", "empty"),
    ([fact(subject="Spain")], "facts[0].subject", "Spain"),
    ([fact(prompt="")], "facts[0].prompt", "empty"),
    ([fact(prompt={"ids": [300]})], "facts[0].prompt.ids[0]", "299"),
    ([fact(prompt={"ids": [5] * 252})], "facts[0].prompt", "256"),
    ([fact("x " * 300)], "facts[0].prompt", "256"),
    ([fact(paraphrases=[""])], "facts[0].paraphrases[0]", "empty"),
    ([fact(paraphrases=[{"ids": [5] * 256}])], "facts[0].paraphrases[0]", "256"),
    ([fact(locality=[{"prompt": ""}])], "facts[0].locality[0].prompt", "empty"),
    ([fact(locality=["x"])], "facts[0].locality[0]", "object"),
    ([fact(train_prompts=[{"ids": []}])], "facts[0].train_prompts[0].ids", "empty"),
    ([fact(id="a"), fact(id="a")], "facts[1].id", '"a"'),
    ([fact(id="1"), fact("one")], "facts[1].id", '"1"'),
    ([{**fact(), "target": "x"}], "facts[0].target", "target_new"),
    ("x", "facts", "list"),
])
def test_bad_facts_are_named(lasting, facts, field, said):
    with nothing_moves(lasting):
        problem(lasting.post("/v1/edits", {"method": "locft", "facts": facts}), 400, "invalid", field, said)


@pytest.mark.parametrize("more, status, field, said", [
    ({"method": None}, 400, "method", "required"),
    ({"method": "rome"}, 400, "method", "locft"),
    ({"mode": "try"}, 400, "mode", "dry_run"),
    ({"report": "long"}, 400, "report", "full"),
    ({"author": ""}, 400, "author", "empty"),
    ({"message": 7}, 400, "message", "string"),
    ({"view": "base"}, 400, "view", "branch"),
    ({"view": "nowhere"}, 404, "view", "nowhere"),
    ({"model": "other"}, 404, "model", "other"),
    ({"extra": 1}, 400, "extra", "unknown"),
])
def test_bad_edits_are_named(lasting, more, status, field, said):
    with nothing_moves(lasting):
        a = lasting.post("/v1/edits", {"method": "locft", "facts": [fact()], **more})
        problem(a, status, field=field, said=said)


def test_what_is_not_there_is_404(lasting):
    for path in ("/v1/edits/edit_none", "/v1/deltas/delta_none", "/v1/revisions/rev_none"):
        problem(lasting.get(path), 404, "not-found")
