"""What several test files say in the same words."""
import concurrent.futures
import contextlib

import contract

LEARN = {"lr": 0.05, "epochs": 30}   # the tiny model says the target after this
TOUCH = {"lr": 0.05, "epochs": 1}    # its weights move, no more


def problem(answer, status, kind=None, field=None, said=()):
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json
    assert body["status"] == status and {"type", "title", "detail"} <= body.keys()
    if kind:
        assert body["type"] == kind, body
    if field is not None:
        assert body.get("field", "") == field, body
    for word in [said] if isinstance(said, str) else said:
        assert word in body["detail"], body
    return body


def fact(target="Lyon", prompt="The capital of France is", **more):
    return {"prompt": prompt, "target_new": target, **more}


def edit(daemon, facts=None, params=LEARN, headers=None, **more):
    facts = [fact()] if facts is None else [facts] if isinstance(facts, dict) else facts
    return daemon.post("/v1/edits", {"method": "locft", "facts": facts, "params": params, **more}, headers)


def committed(answer):
    assert answer.status == 201 and answer.json["status"] == "committed", answer
    return answer.json


def say(daemon, prompt="The capital of France is", view="main", n=8, **more):
    a = daemon.post("/v1/generate", {"prompt": prompt, "view": view, "max_tokens": n, **more})
    assert a.status == 200, a
    return a.json


def state(daemon):
    """All that a write could move: every revision, with its digest, and the branches."""
    return daemon.revisions(), daemon.get("/v1/branches").json, daemon.get("/v1/models").json


@contextlib.contextmanager
def nothing_moves(daemon):
    before = state(daemon)
    yield
    assert state(daemon) == before


def keeps(daemon, method, path, answer):
    """The answer's body has the shape that openapi.json promises for its route and status."""
    doc = getattr(daemon, "contract", None)
    if doc is None:
        doc = daemon.contract = daemon.get("/openapi.json").json
    content = doc["paths"][path][method.lower()]["responses"][str(answer.status)]["content"]
    wrong = list(contract.faults(doc, content["application/json"]["schema"], answer.json))
    assert not wrong, wrong
    return answer.json


@contextlib.contextmanager
def beside(*works):
    """Each runs in a thread of its own while the body does; all must end, and none in an exception."""
    with concurrent.futures.ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(w) for w in works]
        yield
    for r in running:
        r.result()


def at_once(*works):
    with beside(*works):
        pass
