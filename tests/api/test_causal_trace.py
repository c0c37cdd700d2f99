"""Causal traces over the wire: PyTorch's numbers (tests/golden/make_causal.py), roles, averages, refusals."""
import json

import numpy as np
import pytest
from conftest import ROOT
from helpers import keeps, nothing_moves, problem

PATH = "/v1/causal-trace"
GOLDEN = {m["model"]: m for m in json.loads((ROOT / "tests/golden/causal.json").read_text())["models"]}
ROLES = ["first_subject", "middle_subject", "last_subject", "first_after", "further", "last"]
PARIS = {"prompt": "The capital of France is", "subject": "France"}


def ask(d, facts, **body):
    a = d.post(PATH, {"facts": facts, **body})
    assert a.status == 200, a
    return keeps(d, "POST", PATH, a)


@pytest.mark.parametrize("name", ["gpt2"])
def test_scores_are_those_of_pytorch(start, name):
    m = GOLDEN[name]
    d = start(model=str(ROOT / "tests/golden/families" / name))
    tokens = d.post("/v1/trace", {"inputs": [{"id": "a", "ids": m["ids"]}]}).json["inputs"][0]["tokens"]
    subject = "".join(tokens[m["first"]:m["end"]])
    a = ask(d, [{"prompt": {"ids": m["ids"]}, "subject": subject}], window=m["window"],
            noise={"samples": m["samples"], "seed": m["seed"]})
    r = a["results"][0]
    assert r["subject"] == {"from": m["first"], "to": m["end"]} and r["answer"]["id"] == m["answer"]
    assert np.isclose(a["noise"]["sd"], 3 * m["sd"], rtol=1e-6)
    assert np.isclose(r["high"], m["high"], atol=1e-5) and np.isclose(r["low"], m["low"], atol=1e-5)
    for kind in ("state", "mlp", "attn"):
        assert np.allclose(np.ravel(r["scores"][kind]), m[kind], atol=1e-5)


def test_the_answer_is_consistent(daemon):
    facts = [PARIS | {"id": "fr"}, {"prompt": "Rome is in Italy, and", "subject": "Rome is"}]
    a = ask(daemon, facts, noise={"samples": 3, "seed": 5}, window=2)
    assert a["traced"] == 2 and a["dropped"] == 0 and [r["fact"] for r in a["results"]] == ["fr", 1]
    layers = len(a["results"][0]["scores"]["state"])
    assert a["windows"]["state"] == [[i, i + 1] for i in range(layers)]
    assert a["windows"]["mlp"] == [[max(0, i - 1), min(layers, i + 1)] for i in range(layers)]
    assert a["checks"]["restored"] < 1e-5 and a["checks"]["identity"] < 1e-5
    assert a["cost"]["cells"] > a["cost"]["cells_run"] > 0
    effects = {}
    for r in a["results"]:
        lo, hi, n = r["subject"]["from"], r["subject"]["to"], len(r["tokens"])
        assert np.isclose(r["total_effect"], r["high"] - r["low"])
        assert "".join(r["tokens"][lo:hi]).strip() in ("France", "Rome is")
        for pos in range(lo, n):
            inside = "last_subject" if pos == hi - 1 else "first_subject" if pos == lo else "middle_subject"
            role = inside if pos < hi else "last" if pos == n - 1 else "first_after" if pos == hi else "further"
            effects.setdefault(role, {}).setdefault(r["fact"], []).append([row[pos] - r["low"] for row in r["scores"]["mlp"]])
        for rows in r["scores"].values():
            assert all(x == r["low"] for row in rows for x in row[:lo])
    for role in ROLES:
        got = a["means"]["indirect_effect"]["mlp"][role]
        if role not in effects:
            assert got is None
            continue
        want = np.mean([np.mean(x, axis=0) for x in effects[role].values()], axis=0)
        assert got["n"] == len(effects[role]) and np.allclose(got["mean"], want, atol=1e-12)
    assert np.isclose(a["means"]["total_effect"]["mean"], np.mean([r["total_effect"] for r in a["results"]]))
    assert ask(daemon, facts, noise={"samples": 3, "seed": 5}, window=2)["cached"]


def test_noise_of_nothing_takes_nothing_away(daemon):
    r = ask(daemon, [PARIS], noise_sd=0, kinds=["attn"])["results"][0]
    assert list(r["scores"]) == ["attn"] and np.allclose(r["scores"]["attn"], r["high"], atol=1e-6)


def test_a_fact_the_model_does_not_know_is_dropped(daemon):
    said = ask(daemon, [PARIS], noise={"samples": 1})["results"][0]["answer"]["id"]
    wrong = PARIS | {"answer": said - 1 if said else 1}
    a = ask(daemon, [wrong, PARIS | {"answer": said}], noise={"samples": 1})
    assert a["dropped"] == 1 and a["traced"] == 1 and "facts-dropped" in json.dumps(a["warnings"])
    assert "answer" in a["results"][0]["dropped"] and "scores" not in a["results"][0] and a["results"][0]["said"]["id"] == said
    assert a["means"]["high"]["mean"] == a["results"][1]["high"] and a["means"]["high"]["low"] is None
    kept = ask(daemon, [wrong], noise={"samples": 1}, expect_answer=False)["results"][0]
    assert kept["answer"]["id"] == wrong["answer"] and kept["high"] < a["results"][1]["high"] and "scores" in kept


@pytest.mark.parametrize("body, field", [
    ({"facts": []}, "facts"),
    ({"facts": [{"prompt": "The capital"}]}, "facts[0].subject"),
    ({"facts": [PARIS, PARIS | {"subject": "Spain"}]}, "facts[1].subject"),
    ({"facts": [PARIS | {"answer": 99999999}]}, "facts[0].answer"),
    ({"facts": [PARIS], "kinds": ["mlp", "mlp"]}, "kinds"),
    ({"facts": [PARIS], "kinds": ["z"]}, "kinds[0]"),
    ({"facts": [PARIS], "window": 0}, "window"),
    ({"facts": [PARIS], "noise": {"samples": 0}}, "noise.samples"),
    ({"facts": [PARIS], "noise_sd": -1}, "noise_sd"),
])
def test_bad_requests_name_the_field(daemon, body, field):
    with nothing_moves(daemon):
        problem(daemon.post(PATH, body), 400, field=field)
