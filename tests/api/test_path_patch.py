"""Path patching over the wire: planted induction, the shapes of answers, the log, refusals. That every sender is what
its four runs give is proven for every family in tests/unit/test_path_patch.c."""
import json

import numpy as np
import pytest
from conftest import ROOT
from helpers import keeps, nothing_moves, problem

PATH = "/v1/path-patch"
PARIS = {"clean": {"ids": [5, 9, 12, 7, 21]}, "corrupt": {"ids": [5, 9, 13, 7, 21]},
         "metric": {"kind": "logit_diff", "answer": 42, "foil": 7}}
PAIRS = {"pairs": [{"id": "a", "clean": {"ids": [5, 9, 12, 7, 21]}, "corrupt": {"ids": [5, 9, 13, 7, 21]}, "group": "x"},
                   {"id": "b", "clean": {"ids": [5, 30, 11, 8]}, "corrupt": {"ids": [5, 31, 11, 8]}, "group": "y"}],
         "metrics": [{"kind": "logit_diff", "answer": 42, "foil": 7}, {"kind": "kl"}]}


def ask(d, **body):
    a = d.post(PATH, body)
    assert a.status == 200, a
    return keeps(d, "POST", PATH, a)


# ---- the planted circuit: a head of layer 0 writes what the key of one of layer 1 reads -------------------------

@pytest.mark.parametrize("name", ["induction_gpt2", "induction_rotary", "induction_gqa", "induction_neox"])
def test_planted_induction(start, name):
    folder = ROOT / "tests/golden/circuits" / name
    t = json.loads((folder / "truth.json").read_text())
    d = start(model=str(folder))
    pair = {"clean": {"ids": t["clean"]}, "corrupt": {"ids": t["corrupt"]},
            "metric": {"kind": "logit_diff", "answer": t["answer"], "foil": t["foil"]}}
    span = t["baseline"]["clean"] - t["baseline"]["corrupt"]
    key = np.array(t["grids"]["denoise"]["attn.hook_k layer,head"])
    z = np.array(t["grids"]["denoise"]["attn.hook_z layer,head"])
    to = [{"layer": 1, "head": int(h), "input": "k"} for h in np.flatnonzero(key[1])]
    for receivers, on in ((to, z * [[1], [0]]), ("logits", z * [[0], [1]]),
                          ([{**r, "input": "q"} for r in to], z * 0)):
        for direction, base in (("denoise", "corrupt"), ("noise", "clean")):
            a = ask(d, **pair, receivers=receivers, direction=direction)
            got = (np.array(a["values"]["heads"]) - t["baseline"][base]) / (span if direction == "denoise" else -span)
            assert np.abs(got - on).max() <= 1e-4, (receivers, direction)
            assert np.abs(np.array(a["values"]["mlps"]) - t["baseline"][base]).max() <= 1e-4
    assert len(to) == 1 and z[0].sum() == 1 and z[1].sum() == 1


# ---- answers -------------------------------------------------------------------------------------------------

def test_the_answer_is_consistent(daemon):
    a = ask(daemon, **PARIS)
    v = a["values"]
    layers, heads = np.array(v["heads"]).shape
    assert len(v["mlps"]) == layers and v["embed"] is not None
    assert a["cost"]["senders"] == a["cost"]["senders_run"] == layers * (heads + 1) + 1
    assert a["checks"]["naive"] < 1e-4 and a["checks"]["naive_senders"] == 3
    assert a["baseline"]["clean"] != a["baseline"]["corrupt"] and len(a["tokens"]["clean"]) == len(a["tokens"]["corrupt"])
    patched = daemon.post("/v1/patch", {**PARIS, "site": "z", "axes": ["layer", "head"]}).json
    assert np.allclose(v["heads"][-1], patched["values"][-1], atol=1e-4)  # behind the last heads there are no paths but these
    assert not np.allclose(v["heads"][0], patched["values"][0], atol=1e-6)
    again = ask(daemon, **PARIS)
    assert again["cached"] and again["values"] == v and again["run"] == a["run"]


def test_a_list_of_senders_is_part_of_all(daemon):
    to = [{"layer": 1, "head": 0, "input": "v"}, {"layer": 1, "head": 0, "input": "q"}, {"layer": 1, "head": 0, "input": "k"}]
    every = ask(daemon, **PARIS, receivers=to, frozen="all", ln="frozen")["values"]
    some = ask(daemon, **PARIS, receivers=to[::-1], frozen="all", ln="frozen",
               senders=[{"layer": 0, "mlp": True}, {"layer": 0, "head": 1}, {"embed": True}])["values"]
    assert some["embed"] == pytest.approx(every["embed"], abs=1e-5) and some["mlps"][0] == pytest.approx(every["mlps"][0], abs=1e-5)
    assert some["heads"][0][1] == pytest.approx(every["heads"][0][1], abs=1e-5)
    assert some["heads"][0][0] is None and some["mlps"][1] is None


def test_senders_behind_all_receivers_have_the_base_metric(daemon):
    a = ask(daemon, **PARIS, receivers=[{"layer": 0, "head": 0, "input": "k"}])
    assert all(x == a["baseline"]["corrupt"] for row in a["values"]["heads"] for x in row)
    assert all(x == a["baseline"]["corrupt"] for x in a["values"]["mlps"]) and a["values"]["embed"] != a["baseline"]["corrupt"]
    assert a["cost"]["senders_run"] == 1 and a["checks"]["naive_senders"] == 1


def test_pairs_and_metrics(daemon):
    a = ask(daemon, **PAIRS)
    assert [(r["pair"], r["metric"]) for r in a["results"]] == [(p, m) for p in "ab" for m in ("logit_diff", "kl")]
    alone = ask(daemon, **PARIS)
    assert np.allclose(a["results"][0]["values"]["heads"], alone["values"]["heads"], atol=1e-5)
    for m, mean in enumerate(a["means"]):
        of = np.array([r["values"]["heads"] for r in a["results"][m::2]])
        assert np.allclose(mean["mean"]["heads"], of.mean(0), atol=1e-6) and mean["n"] == 2
        assert (np.array(mean["low"]["heads"]) <= np.array(mean["high"]["heads"])).all()
    assert a["intervals"]["groups"] == 2


def test_a_dry_run_tells_the_cost(daemon):
    a = ask(daemon, **PARIS, dry_run=True, receivers=[{"layer": 1, "head": 0, "input": "k"}])
    assert a["dry_run"] and a["cost"]["cells"] > a["cost"]["cells_run"] > 0 and a["cost"]["bytes"] > 0


# ---- refusals ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, field", [
    ({"senders": [{"layer": 999, "head": 0}]}, "senders[0].layer"),
    ({"senders": [{"layer": 0, "head": 0}, {"layer": 0, "head": 999}]}, "senders[1].head"),
    ({"senders": [{"layer": 0}]}, "senders[0]"),
    ({"senders": [{"head": 0}]}, "senders[0].layer"),
    ({"senders": [{"layer": 0, "head": 0, "mlp": True}]}, "senders[0]"),
    ({"senders": [{"layer": 0, "embed": True}]}, "senders[0]"),
    ({"senders": [{"embed": True}, {"embed": True}]}, "senders"),
    ({"senders": []}, "senders"),
    ({"receivers": [{"layer": 999, "head": 0, "input": "q"}]}, "receivers[0].layer"),
    ({"receivers": [{"layer": 0, "head": 999, "input": "v"}]}, "receivers[0].head"),
    ({"receivers": [{"layer": 0, "head": 0, "input": "z"}]}, "receivers[0].input"),
    ({"receivers": [{"layer": 0, "head": 0, "input": "q"}] * 2}, "receivers"),
    ({"receivers": [{"layer": 0, "head": 0}]}, "receivers[0].input"),
    ({"frozen": "some"}, "frozen"), ({"ln": "none"}, "ln"), ({"check_senders": 17}, "check_senders"),
    ({"corrupt": "The capital of"}, "corrupt"),
])
def test_refusals_name_the_field(daemon, change, field):
    with nothing_moves(daemon):
        problem(daemon.post(PATH, {**PARIS, **change}), 400, field=field)


def test_key_receivers_count_key_heads(start):
    d = start(model=str(ROOT / "tests/golden/circuits/induction_gqa"))
    t = json.loads((ROOT / "tests/golden/circuits/induction_gqa/truth.json").read_text())
    body = {"clean": {"ids": t["clean"]}, "corrupt": {"ids": t["corrupt"]},
            "metric": {"kind": "logit_diff", "answer": t["answer"], "foil": t["foil"]}}
    ask(d, **body, receivers=[{"layer": 1, "head": 3, "input": "q"}])
    problem(d.post(PATH, {**body, "receivers": [{"layer": 1, "head": 2, "input": "k"}]}), 400, field="receivers[0].head")


def test_a_family_without_the_norm_is_refused(start):
    d = start(model=str(ROOT / "tests/golden/families/olmo2"))
    body = {"clean": {"ids": [1, 2, 3]}, "corrupt": {"ids": [1, 4, 3]}, "metric": {"kind": "logit", "answer": 5}, "ln": "frozen"}
    problem(d.post(PATH, {**body, "receivers": [{"layer": 1, "head": 0, "input": "q"}]}), 400, field="ln", said="after its branches")
    assert ask(d, **body)["checks"]["naive"] < 1e-4


def test_a_projection_behind_a_frozen_norm_is_that_of_the_stream(daemon):
    """The final norm scales what comes behind the stream: a projection on it is the same, frozen or not."""
    width = daemon.get("/v1/models").json["models"][0]["width"]
    metric = {"kind": "projection", "direction": [(i % 5) - 2.0 for i in range(width)]}
    exact, frozen = (ask(daemon, **{**PARIS, "metric": metric, "ln": ln}) for ln in ("exact", "frozen"))
    assert np.allclose(frozen["values"]["heads"], exact["values"]["heads"], atol=1e-5)
    assert np.ptp(exact["values"]["heads"]) > 1e-3
