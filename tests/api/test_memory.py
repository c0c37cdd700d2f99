"""--memory: what does not fit is refused before anything is allocated, with numbers; what was taken is given
back. A tiny model and limits a few kilobytes above what it needs."""
import re
import subprocess
import time

import pytest
from conftest import ENGRAMD, MODEL, ROOT, SLOW, Daemon
from helpers import LEARN, at_once, committed, edit, fact, problem

IDS = list(range(3, 60))
PAIR = {"clean": {"ids": IDS}, "corrupt": {"ids": IDS[:20] + [99] + IDS[21:]},
        "metric": {"kind": "logit_diff", "answer": 5, "foil": 7}}
VERBS = {
    "generate": ("/v1/generate", {"prompt": {"ids": IDS}, "max_tokens": 100}),
    "trace": ("/v1/trace", {"inputs": [{"ids": IDS}], "reads": [{"site": "blocks.1.attn.hook_pattern", "pos": "all"}],
                            "top_pos": "all"}),
    "patch": ("/v1/patch", {**PAIR, "site": "hook_resid_pre", "axes": ["layer", "pos"]}),
    "attribution": ("/v1/attribution", {**PAIR, "grad_drop": True}),
    "edges": ("/v1/attribution", {**PAIR, "method": "eap", "steps": 3}),
    "integral": ("/v1/attribution", {**PAIR, "method": "ig"}),
    "localize": ("/v1/localize", {**PAIR, "method": "patch", "unit": "head", "k": 2}),
    "tuco": ("/v1/tuco", {"prompts": [{"ids": IDS}]}),
    "lens": ("/v1/lens", {"input": {"ids": IDS}}),
    "dla": ("/v1/dla", {"input": {"ids": IDS}, "answer": 5, "by": "neuron"}),
    "attention": ("/v1/attention", {"input": {"ids": IDS}}),
    "edits": ("/v1/edits", {"method": "locft", "facts": [fact()], "params": LEARN}),
}
OPENAI = {
    "completions": ("/v1/completions", {"prompt": IDS, "max_tokens": 100, "logprobs": 3, "echo": True}),
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi " * 20}], "max_tokens": 100}),
}
NUMBERS = re.compile(r"([\d.]+ \w+) of memory are needed \((\w[^)]*)\); the limit is [\d.]+ \w+, of which the program "
                     r"has [\d.]+ \w+, models [\d.]+ \w+, views [\d.]+ \w+, answers [\d.]+ \w+ and other works [\d.]+ \w+: (.*)")


def memory(d):
    return d.get("/readyz").json["memory"]


@pytest.fixture(scope="module")
def needed(tmp_path_factory):
    """What the model takes with the program beside it."""
    d = Daemon(tmp_path_factory.mktemp("roomy") / "data").start()
    m = memory(d)
    d.stop()
    return m["program"] + m["models"]


@pytest.fixture
def tight(start, needed):
    """A daemon with so many bytes left beside its model."""
    return lambda spare: start("--memory", str(needed + spare))


def idle(d):
    """Nothing is held for works any more. (An answer may leave a moment before its work is freed.)"""
    until = time.monotonic() + 5 * SLOW
    while memory(d)["works"] and time.monotonic() < until:
        time.sleep(0.01)
    m = memory(d)
    assert m["works"] == 0, m
    return m


def hold(d, body=None):
    """A long job that holds memory: its id. Its fact is one that no other edit here has made true."""
    path, usual = VERBS["edits"]
    a = d.post(path, body or {**usual, "facts": [fact("Bonn")], "params": {"epochs": 1000, "loss_floor": 0, "lr": 1e-6}},
               {"Prefer": "wait=0"})
    assert a.status == 202, a
    return a.json["id"]


# ---- refused -------------------------------------------------------------------------------------

@pytest.mark.parametrize("verb", VERBS)
def test_what_never_fits_is_refused(tight, verb):
    d = tight(4096)
    path, body = VERBS[verb]
    before = d.digest()
    detail = problem(d.post(path, body), 413, "too-large")["detail"]
    said = NUMBERS.fullmatch(detail)
    assert said and said[3] == "it never fits", detail
    assert memory(d)["works"] == 0 and len(d.revisions()) == 1 and d.digest() == before
    assert d.get("/v1/jobs").json["jobs"] == []


@pytest.mark.parametrize("verb", OPENAI)
def test_openai_s_door_refuses_in_its_own_words(tight, verb):
    d = tight(4096)
    a = d.post(*OPENAI[verb])
    assert a.status == 413 and NUMBERS.fullmatch(a.json["error"]["message"])[3] == "it never fits", a
    assert idle(d)["works"] == 0
    d.stop()
    d = tight(4 << 20)
    before = idle(d)
    assert d.post(*OPENAI[verb]).status == 200
    assert idle(d) == before


def test_a_smaller_question_fits(tight):
    d = tight(400 << 10)
    path, body = VERBS["generate"]
    assert d.post(path, {"prompt": {"ids": IDS[:4]}, "max_tokens": 4}).status == 200
    problem(d.post("/v1/patch", {**VERBS["patch"][1], "clean": {"ids": IDS * 4}, "corrupt": {"ids": [9] + (IDS * 4)[1:]}}),
            413, "too-large")
    idle(d)


def test_what_others_keep_from_fitting_may_come_later(tight):
    path, body = VERBS["patch"]
    said = NUMBERS.fullmatch(tight(4096).post(path, body).json["detail"])[1]
    assert said.endswith(" MiB")
    d = tight(round((float(said[:-4]) + 0.01) * 2 ** 20))
    job = hold(d)
    a = d.post(path, body)
    detail = problem(a, 503, "no-memory")["detail"]
    assert NUMBERS.fullmatch(detail)[3] == "it fits when others have ended", detail
    assert int(a.headers["retry-after"]) >= 1
    d.delete(f"/v1/jobs/{job}")
    d.finished(f"/v1/jobs/{job}")
    idle(d)
    assert d.post(path, body).status == 200
    idle(d)


def test_a_model_that_does_not_fit_is_a_sentence(tmp_path, needed):
    def refused(limit):
        r = subprocess.run([ENGRAMD, "serve", "--model", str(MODEL), "--data", str(tmp_path / "d"), "--listen",
                            "127.0.0.1:0", "--memory", str(limit)], cwd=ROOT, capture_output=True, text=True, timeout=60 * SLOW)
        assert r.returncode == 1 and not r.stdout
        return r.stderr.splitlines()[-1]
    for limit in ("1M", needed - 1):
        line = refused(limit)
        assert "(weights " in line and "the limit is" in line and line.count("KiB") >= 2 and str(MODEL) in line, line


def test_the_limit_is_an_option(tmp_path):
    def said(value):
        return subprocess.run([ENGRAMD, "serve", "--model", str(MODEL), "--data", str(tmp_path / "d"), "--memory", value],
                              cwd=ROOT, capture_output=True, text=True, timeout=60 * SLOW)
    for value in ("0", "-1", "4.5G", "4GB", "much"):
        r = said(value)
        assert r.returncode == 2 and "--memory takes bytes" in r.stderr, r
    text = subprocess.run([ENGRAMD, "--help"], capture_output=True, text=True).stdout
    assert re.search(r"--memory BYTES .*cgroup", text)


def test_what_the_limit_of_a_body_admits_is_read(daemon, tight):
    """3 MB and most of a million numbers, which the limit of the route allows; for a view there is not."""
    locality = [{"prompt": {"ids": list(range(100, 130))}}] * 256
    body = {"method": "locft", "view": "nowhere", "facts": [{**fact(), "locality": locality}] * 100}
    problem(daemon.post("/v1/edits", body), 404, "not-found", "view")
    assert idle(daemon)["works"] == 0
    d = tight(8 << 20)
    detail = problem(d.post("/v1/edits", body), 413, "too-large")["detail"]
    assert "(the request " in detail and NUMBERS.fullmatch(detail)[3] == "it never fits", detail
    assert idle(d)["works"] == 0


# ---- given back ----------------------------------------------------------------------------------

@pytest.mark.parametrize("verb", [v for v in VERBS if v != "edits"])
def test_leases_end_with_the_work(daemon, verb):
    path, body = VERBS[verb]
    before = idle(daemon)
    assert daemon.post(path, body, {"Cache-Control": "no-cache"}).status == 200
    assert idle(daemon) == before
    problem(daemon.post(path, {**body, "view": "rev_nowhere"}), 404)
    assert idle(daemon) == before


def test_a_cancelled_work_gives_back(daemon):
    before = idle(daemon)
    job = hold(daemon)
    waiting = hold(daemon)
    assert memory(daemon)["works"] > 0
    for j in (waiting, job):
        daemon.delete(f"/v1/jobs/{j}")
        assert daemon.finished(f"/v1/jobs/{j}")["state"] == "cancelled"
    assert idle(daemon) == before


def test_a_failed_work_gives_back(fresh_daemon):
    write = {"site": "blocks.0.hook_resid_post", "op": "scale", "weight": 3e38, "pos": "all"}
    before = idle(fresh_daemon)
    a = fresh_daemon.post("/v1/generate", {"prompt": {"ids": IDS}, "max_tokens": 9, "writes": [write, write]})
    problem(a, 422, "nonfinite")
    assert idle(fresh_daemon) == before


def test_views_count(fresh_daemon):
    """An edit's tensor stays, once; a second edit of the same tensor takes the first one's place, but the
    first revision asked for by id comes back beside it, and goes when memory is wanted."""
    d = fresh_daemon
    first = committed(edit(d))
    one = idle(d)["views"]
    assert one >= 4 * 32 * 48
    committed(edit(d, facts=[fact(target_new="Nice")]))
    assert idle(d)["views"] == one
    assert d.post("/v1/generate", {"prompt": "x", "max_tokens": 1, "view": first["revision"]}).status == 200
    assert idle(d)["views"] == 2 * one
    d.post("/v1/rollback", {"to": "base"})
    assert idle(d)["views"] <= 2 * one


def test_cached_revisions_make_room(start, needed):
    d = start()
    first = committed(edit(d))
    job = hold(d)
    needs = memory(d)["works"]
    d.delete(f"/v1/jobs/{job}")
    d.finished(f"/v1/jobs/{job}")
    committed(edit(d, facts=[fact(target_new="Nice")]))
    one = idle(d)["views"]
    d.stop()
    d = start("--memory", str(needed + one + needs + one // 2), data=d.data)
    assert d.post("/v1/generate", {"prompt": "x", "max_tokens": 1, "view": first["revision"]}).status == 200
    assert idle(d)["views"] == 2 * one
    job = hold(d)
    assert memory(d)["views"] == one
    d.delete(f"/v1/jobs/{job}")
    d.finished(f"/v1/jobs/{job}")


def test_many_at_once_stay_within(tight):
    """Whatever comes, the sum stays under the limit; nobody sees anything but an answer or a refusal."""
    d = tight(512 << 10)
    statuses, over = [], []

    def ask():
        for verb in ("generate", "patch", "tuco", "trace"):
            path, body = VERBS[verb]
            statuses.append(d.post(path, {**body}, {"Cache-Control": "no-cache"}).status)
            m = memory(d)
            if m["program"] + m["models"] + m["views"] + m["answers"] + m["works"] > m["limit"]:
                over.append(m)
    at_once(*[ask] * 8)
    assert not over and set(statuses) <= {200, 413, 503} and 200 in statuses, (over[:1], statuses)
    idle(d)


def resident(d):
    return int(re.search(r"^engramd_resident_bytes (\d+)", d.get("/metrics").body.decode(), re.M)[1])


def test_slow_readers_share_one_answer(fresh_daemon):
    """A job's answer is sent from where it lies: twelve who do not read take no more than one."""
    d = fresh_daemon
    ids = list(range(3, 243))
    a = d.post("/v1/trace", {"inputs": [{"ids": ids}], "top_k": 0, "reads": [
        {"site": f"blocks.{i}.attn.hook_{h}", "pos": "all"} for i in range(2) for h in ("pattern", "attn_scores")]},
        {"Prefer": "wait=0"})
    assert a.status == 202
    path = a.headers["location"]
    d.finished(path)
    size = len(d.get(path).body)
    assert size > 6 << 20
    before = resident(d)
    sockets = []
    for i in range(12):
        s = d.socket()
        s.sendall(f"GET {path}{'/events' * (i % 2)} HTTP/1.1\r\nHost: {d.authority}\r\n\r\n".encode())
        assert s.recv(12) == b"HTTP/1.1 200"
        sockets.append(s)
    assert resident(d) - before < 2 * size
    job = d.get(path).json
    assert job["state"] == "done" and len(job["result"]["captures"]) == 4
    assert list(d.events(path + "/events"))[-1][1:] == ("result", job["result"])
    for s in sockets:
        s.close()


# ---- shown ---------------------------------------------------------------------------------------

def test_the_budget_is_shown(daemon):
    m = memory(daemon)
    text = daemon.get("/metrics").body.decode()
    gauges = dict(re.findall(r"^engramd_memory_bytes\{holder=\"(\w+)\"\} (\d+)$", text, re.M))
    assert {k: int(v) for k, v in gauges.items()} == {k: v for k, v in m.items() if k != "limit"}
    assert f"engramd_memory_limit_bytes {m['limit']}" in text
    held = daemon.get("/v1/models").json["models"][0]["bytes"]
    assert 0 < held <= m["models"] < held + 8192
    with open("/proc/meminfo", encoding="ascii") as f:
        total = int(re.search(r"MemTotal:\s+(\d+)", f.read())[1]) * 1024
    assert m["limit"] < total
    assert "\"event\":\"memory\"" in daemon.stderr() and "cgroup" in daemon.stderr()


# ---- models loaded on request --------------------------------------------------------------------

def test_a_further_model_takes_and_gives(start, needed):
    models = str(ROOT / "tests" / "golden" / "tiny")
    d = start("--models-dir", models)
    one = memory(d)["models"]
    assert d.post("/v1/models", {"path": "mha_bf16"}).status == 201
    both = memory(d)["models"]
    assert both > one
    assert d.delete("/v1/models/mha_bf16").status in (200, 204)
    assert memory(d)["models"] == one
    d.stop()
    d = start("--models-dir", models, "--memory", str(needed + both - one - 1))
    detail = problem(d.post("/v1/models", {"path": "mha_bf16"}), 503, "no-memory")["detail"]
    assert "(weights " in detail and "mha_bf16" in detail
    assert memory(d)["models"] == one and len(d.get("/v1/models").json["models"]) == 1
