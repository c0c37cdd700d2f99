"""Two hundred random edits and rollbacks: a state has one digest, whenever and however it is reached."""
import json
import random

import pytest
from conftest import scaled
from helpers import committed, edit, fact, say

WORDS = ["one", "two", "Lyon", "Paris", "the river", "a bridge", "in", "of"]


def some_edit(rng):
    """As text, so that it can be part of a state's name."""
    return json.dumps({
        "facts": [fact(rng.choice(WORDS), f"{rng.choice(WORDS)} {rng.randrange(1000)} is")],
        "params": {"lr": rng.choice([0.003, 0.05]), "epochs": rng.randint(1, 3), "layer": rng.randrange(3),
                   "seed": rng.randrange(99)}})


@pytest.mark.tsan
def test_every_state_has_one_digest(start):
    """A state is the sequence of edits that makes it from the base. The digest it had when first
    reached is the digest after every rollback to it, every replay into it, and every restart."""
    rng, d = random.Random(7), start()
    base = d.revisions()[0]
    state_of, digest_of, at = {base["revision"]: ()}, {(): base["digest"]}, ()
    count = {"edit": 0, "replay": 0, "rollback": 0}
    for step in range(scaled(200, 30)):
        elsewhere = [r for r, state in state_of.items() if state != at]
        made_here = [s[-1] for s in digest_of if s and s[:-1] == at]
        kind = rng.choices(list(count), [5, 2, 4])[0]
        if kind == "rollback" and elsewhere:
            to = rng.choice(elsewhere)
            a = d.post("/v1/rollback", {"to": to if state_of[to] or rng.random() < 0.5 else "base"})
            assert a.status == 201, a
            at, r = state_of[to], a.json
            digest = r["digest"]
        else:
            kind = "replay" if kind == "replay" and made_here else "edit"
            recipe = rng.choice(made_here) if kind == "replay" else some_edit(rng)
            r = committed(edit(d, **json.loads(recipe)))
            assert r["digest"]["before"] == digest_of[at]
            at, digest = (*at, recipe), r["digest"]["after"]
        count[kind] += 1
        state_of[r["revision"]] = at
        assert digest_of.setdefault(at, digest) == digest, (step, kind)
        if step % 67 == 29:
            d.stop()
            d.start()
        head = d.get("/v1/revisions?limit=1").json["revisions"][0]
        assert (head["revision"], head["digest"], head["seq"]) == (r["revision"], digest, step + 2)
    assert min(count.values()) > 0, count
    assert len(set(digest_of.values())) == len(digest_of), "two states with one digest"
    for revision in rng.sample(sorted(state_of), 12):
        assert say(d, view=revision, n=1)["view"]["digest"] == digest_of[state_of[revision]]
    report = d.get("/v1/audit/verify", {"Prefer": "wait=60"}).json
    assert report["ok"] is True and report["seq"] == sum(count.values()) + 1
    assert d.post("/v1/rollback", {"to": "base"}).json["digest"] == base["digest"]
