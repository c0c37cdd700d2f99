"""Readers and one writer at the same time: nobody sees half an edit, nobody waits for a whole one."""
import threading
from functools import partial

import pytest
from conftest import scaled
from helpers import LEARN, at_once, beside, committed, edit, fact, say, state

PROMPT = "The capital of France is"
LONG = {"lr": 1e-6, "epochs": 1000, "batch": 1, "loss_floor": 0}


def long_edit(d):
    a = edit(d, [fact("x y z", f"It is {i}") for i in range(40)], LONG, {"Prefer": "wait=0"})
    assert a.status == 202, a
    return a.headers["location"]


@pytest.mark.tsan
def test_each_answer_is_that_of_one_revision(fresh_daemon):
    d, answers, stop = fresh_daemon, [], threading.Event()
    streamed = {"prompt": PROMPT, "max_tokens": 12, "stream": True}

    def reader(k):
        while not stop.is_set():
            if k % 2:
                answers.append(list(d.events("/v1/generate", streamed))[-1][2])
            else:
                answers.append(say(d, PROMPT, n=12))
    with beside(*(partial(reader, k) for k in range(8))):
        try:
            edits = [committed(edit(d, fact(f"answer {'abcdefghijklmnopqrst'[i]}"), LEARN)) for i in range(scaled(20, 5))]
        finally:
            stop.set()
    # Now nothing else runs: what each revision says, and no two the same.
    alone = {r["revision"]: say(d, PROMPT, r["revision"], n=12) for r in d.revisions()}
    said = [tuple(a["ids"]) for a in alone.values()]
    assert len(set(said)) == len(said) == len(edits) + 1
    for a in answers:
        want = alone[a["view"]["revision"]]
        assert {**a, "view": None} == {**want, "view": None}
        assert a["view"]["digest"] == want["view"]["digest"] and a["view"]["name"] == "main"
    seen = {a["view"]["revision"] for a in answers}
    assert len(seen) >= 3 and len(answers) > len(edits), "the readers came too late"


@pytest.mark.tsan
def test_a_reader_is_served_between_the_steps_of_an_edit(fresh_daemon):
    d = fresh_daemon
    before = state(d)
    job = long_edit(d)
    for _ in range(3):
        assert say(d, PROMPT)["text"] and d.job(job)["state"] == "running"
    trace = d.post("/v1/trace", {"inputs": [PROMPT], "reads": [{"site": "blocks.1.attn.hook_z"}]})
    assert trace.status == 200 and d.job(job)["state"] == "running"
    assert d.post("/v1/tuco", {"prompts": [PROMPT]}).json["scores"][0]["tuco"] == 0
    assert list(d.events("/v1/generate", {"prompt": PROMPT, "max_tokens": 3, "stream": True}))[-1][1] == "done"
    assert d.job(job)["state"] == "running", "the edit was too short to tell"
    assert d.get("/v1/revisions", {"If-None-Match": d.get("/v1/revisions").headers["etag"]}).status == 304
    assert d.delete(job).status in (200, 202)
    assert d.finished(job)["state"] == "cancelled"
    assert state(d) == before


@pytest.mark.tsan
def test_long_answers_do_not_wait_for_the_edit_either(fresh_daemon):
    """Longer than what is served at a time between two steps."""
    d = fresh_daemon
    job = long_edit(d)
    prompts = [{"ids": [10 + (i * 7 + k) % 200 for i in range(200)]} for k in range(30)]
    answers = []
    with beside(*[lambda: answers.append(say(d, PROMPT, n=240))] * 2):
        tuco = d.post("/v1/tuco", {"prompts": prompts, "positions": "all"})
        assert tuco.status == 200 and len(tuco.json["scores"]) == 30
    assert d.job(job)["state"] == "running", "the edit was too short to tell"
    assert len(answers) == 2 and answers[0] == answers[1]
    assert d.delete(job).status in (200, 202)
    assert d.finished(job)["state"] == "cancelled"
    assert say(d, PROMPT, n=240) == answers[0]


@pytest.mark.tsan
def test_writers_that_come_together_are_served_one_after_another(fresh_daemon):
    d, got = fresh_daemon, []
    at_once(*(lambda i=i: got.append(edit(d, fact(f"number {i}", f"It is {i}"), {"lr": 0.01, "epochs": 3})) for i in range(8)))
    done = sorted((committed(a) for a in got), key=lambda r: r["seq"])
    assert [r["seq"] for r in done] == list(range(2, 10))
    for one, next_ in zip(done, done[1:]):
        assert next_["digest"]["before"] == one["digest"]["after"]
    assert d.get("/v1/audit/verify").json["ok"] is True


@pytest.mark.tsan
def test_a_pinned_view_outlives_its_branch(fresh_daemon):
    """Streams that began before a rollback end on the view they began with."""
    d = fresh_daemon
    r = committed(edit(d))
    want = say(d, "It is", n=200)
    results = []

    def stream():
        results.append(list(d.events("/v1/generate", {"prompt": "It is", "max_tokens": 200, "stream": True}))[-1][2])
    with beside(*[stream] * 4):
        for to in ("base", r["revision"], "base"):
            assert d.post("/v1/rollback", {"to": to}).status == 201
    other = say(d, "It is", n=200)
    for a in results:
        assert a["ids"] == (want if a["view"]["digest"] == want["view"]["digest"] else other)["ids"]
