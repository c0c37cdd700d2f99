"""kill -9 at random moments: what was acknowledged stays, what was not is there whole or not at all,
and the key of a request settles which."""
import json
import random
import subprocess
import threading
import time

from conftest import ENGRAMD, MODEL, ROOT, SLOW, scaled
from helpers import edit, fact


def verify(d):
    done = subprocess.run([ENGRAMD, "verify", "--data", d.data, "--model", MODEL], capture_output=True, text=True,
                          timeout=120 * SLOW, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"] is True


class Write:
    """One keyed write, whose outcome is known beforehand."""

    def __init__(self, d, rng, number):
        self.d, self.key = d, {"Idempotency-Key": f"round-{number}"}
        self.before, self.answer = d.digest(), None
        self.count = len(d.get("/v1/revisions?limit=200").json["revisions"])
        began = time.monotonic()
        self.body = {"method": "locft", "facts": [fact(f"{rng.choice(['one', 'two', 'Lyon'])} {number}", f"It is {number}")],
                     "params": {"lr": 0.02, "epochs": rng.choice([1, 5, 40])}}
        dry = d.post("/v1/edits", {**self.body, "mode": "dry_run"})
        assert dry.status == 200, dry
        self.after = dry.json["digest"]["after"]
        self.takes = time.monotonic() - began
        assert self.after != self.before

    def send(self):
        try:
            self.answer = self.d.post("/v1/edits", self.body, self.key)
        except OSError:
            pass  # killed before it answered
        except Exception as e:  # http.client's own, for an answer cut short
            assert "Incomplete" in type(e).__name__ or "BadStatus" in type(e).__name__, e


def check_jobs(d):
    for job in d.get("/v1/jobs?limit=200").json["jobs"]:
        full = d.job("/v1/jobs/" + job["id"])
        assert full["state"] == "done" and "result" in full or (
            full["state"] == "failed" and full["error"]["type"] == "interrupted"), full


def test_killed_at_random_moments(start):
    rng, d = random.Random(11), start()
    seen = {"before": 0, "after, unacknowledged": 0, "acknowledged": 0}
    rounds = scaled(50, 5)
    for number in range(rounds):
        w = Write(d, rng, number)
        t = threading.Thread(target=w.send)
        # Most moments lie between the request and a little after its answer, many near the commit.
        moment = rng.uniform(0, 1.3) if number % 2 else rng.uniform(0.8, 1.4)
        t.start()
        time.sleep(moment * w.takes)
        d.kill()
        t.join()
        acknowledged = w.answer is not None
        assert not acknowledged or w.answer.status == 201, w.answer
        if number % 10 == 9:
            verify(d)  # as the crash left it
        d.start()
        digest = d.digest()
        assert digest in (w.before, w.after), "neither the state before nor the one after"
        if acknowledged:
            assert digest == w.after, "an acknowledged edit is lost"
        seen["acknowledged" if acknowledged else "before" if digest == w.before else "after, unacknowledged"] += 1
        check_jobs(d)
        again = d.post("/v1/edits", w.body, w.key)
        assert again.status == 201 and again.json["digest"] == {"before": w.before, "after": w.after}, again
        assert not acknowledged or again.body == w.answer.body
        assert (again.headers.get("idempotency-replayed") == "true") == (digest == w.after)
        assert d.post("/v1/edits", w.body, w.key).body == again.body
        revisions = d.get("/v1/revisions?limit=200").json["revisions"]
        assert len(revisions) == w.count + 1 and revisions[0]["revision"] == again.json["revision"]
        assert d.digest() == w.after
    d.stop()
    verify(d)
    assert rounds < 50 or min(seen["before"], seen["acknowledged"]) >= 5, seen


def test_killed_while_rolling_back(start):
    rng, d = random.Random(3), start()
    base = d.revisions()[0]
    for number in range(scaled(10)):
        r = edit(d, fact("one", f"It is {number}"), {"lr": 0.02, "epochs": 1}).json
        answer, key = [], {"Idempotency-Key": f"back-{number}"}

        def back(answer=answer, key=key):
            try:
                answer.append(d.post("/v1/rollback", {"to": "base"}, key))
            except Exception:
                pass
        t = threading.Thread(target=back)
        t.start()
        time.sleep(rng.uniform(0, 0.03) * SLOW)
        d.kill()
        t.join()
        d.start()
        assert d.digest() in (base["digest"], r["digest"]["after"])
        if answer:
            assert answer[0].status == 201 and d.digest() == base["digest"]
        again = d.post("/v1/rollback", {"to": "base"}, key)
        assert again.status == 201 and d.digest() == base["digest"]
        assert not answer or again.body == answer[0].body
    d.stop()
    verify(d)


def test_a_waiting_and_a_running_edit_are_interrupted(start):
    d = start()
    slow = {"lr": 1e-6, "epochs": 1000, "batch": 1, "loss_floor": 0}
    facts = [fact("x y z", f"It is {i}") for i in range(40)]
    before = d.revisions()
    jobs = [edit(d, facts, slow, {"Prefer": "wait=0", "Idempotency-Key": f"k{i}"}) for i in range(3)]
    assert all(a.status == 202 for a in jobs)
    d.kill()
    d.start()
    assert d.revisions() == before
    for a in jobs:
        job = d.job(a.headers["location"])
        assert job["state"] == "failed" and job["error"]["type"] == "interrupted"
    # nothing re-runs by itself; the key is free for the same request again
    a = edit(d, facts, {**slow, "epochs": 1}, {"Idempotency-Key": "k0"})
    assert a.status in (201, 409), a
    check_jobs(d)
    d.stop()
    verify(d)
