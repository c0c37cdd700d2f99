"""The transport: framing, names, paths, limits, tokens, waiting, events, draining.

The malformed requests are those the packaged HTTP library lets through or answers wrongly; each
must end in one clean refusal and, where the framing is in doubt, a closed connection.
"""
import json
import re
import signal
import socket
import subprocess
import time

import pytest
from conftest import ENGRAMD, MODEL, ROOT, SLOW, Daemon, parse_events, read_all, write_tokens
from helpers import TOUCH, at_once, beside, edit

ROUTES = json.loads((ROOT / "schema" / "routes.json").read_text())
LEVELS = ["reader", "prober", "editor", "admin"]


def refusal(route, answer, status, kind):
    """A problem, or what the route's dialect has in its place."""
    if "dialect" not in route:
        return problem(answer, status, kind)
    assert answer.status == status and answer.json.keys() == {"error"}, answer


def problem(answer, status, kind=None, field=None):
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json
    assert body["status"] == status
    assert {"type", "title", "detail"} <= body.keys()
    if kind:
        assert body["type"] == kind, body
    if field:
        assert body["field"] == field, body
    return body


_unique = iter(range(1, 10**6))
_prompts = [json.dumps({"ids": [(i * 7) % 250 + 10 for i in range(140 + k % 100)]}) for k in range(1000)]
_size = 50  # prompts of slow work; calibrate makes it last


def slow_body():
    """A second or so of work on the tiny model, never the same twice."""
    n = next(_unique)
    first = json.dumps({"ids": [n % 200 + 10, n // 200 % 200 + 10]})
    return f'{{"positions":"all","prompts":[{",".join([first] + _prompts[:_size])}]}}'.encode()


@pytest.fixture(scope="module", autouse=True)
def calibrate(daemon):
    """Grow the slow work until this build on this machine needs a second for it."""
    global _size
    while _size < len(_prompts):
        began = time.monotonic()
        assert daemon.post("/v1/tuco", slow_body(), {"Prefer": "wait=300"}, timeout=300).status == 200
        took = time.monotonic() - began
        if took > 0.8:
            return
        _size = min(len(_prompts), int(_size * min(8, 1.2 / took)))


def start_slow(d, **headers):
    a = d.post("/v1/tuco", slow_body(), {"Prefer": "wait=0", **headers})
    assert a.status == 202, a
    return a.headers["location"]


def crowd(d, count=3):
    """Wait until so many jobs are live, some of them running: seconds of work lie ahead."""
    until = time.monotonic() + 60 * SLOW
    while time.monotonic() < until:
        states = [j["state"] for j in d.get("/v1/jobs?limit=200").json["jobs"]]
        if "running" in states and states.count("running") + states.count("queued") >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"no crowd: {states}")


# ---- framing ---------------------------------------------------------------------------------

SMUGGLED = "GET /healthz?smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"
FRAMING = {
    "length and chunked": ("POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                           "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400),
    "two lengths": ("POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                    "Content-Length: 2\r\nContent-Length: 80\r\n\r\n{{}}" + SMUGGLED, 400),
    "gzip, chunked": ("POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
    "unknown coding": ("POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: magic\r\n\r\n", 400),
    "two hosts": ("GET /healthz HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n", 400),
    "no host": ("GET /healthz HTTP/1.1\r\n\r\n", 400),
    "no host, old": ("GET /healthz HTTP/1.0\r\n\r\n", 400),
    "space in a name": ("GET /healthz HTTP/1.1\r\nHost: {host}\r\nX Y: 1\r\n\r\n", 400),
    "two authorizations": ("GET /healthz HTTP/1.1\r\nHost: {host}\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
    "two content types": ("POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                          "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}", 400),
    "chunked only": ("POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                     "Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n" + SMUGGLED, 411),
    "nul in the path": ("GET /healthz%00/x HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
    "control in the path": ("GET /healthz%0d%0aX:1 HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
    "bad escape": ("GET /v1/runs/%zz HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
    "invalid utf-8": ("GET /v1/runs/%ff HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
    "not a path": ("GET healthz HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
    "asterisk": ("OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
    "length not a number": ("POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Length: +2\r\n\r\n{{}}", 400),
    "length negative": ("POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Length: -2\r\n\r\n{{}}", 400),
    "length beyond 64 bits": ("POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999999999999999\r\n\r\n", (400, 413)),
}


@pytest.mark.parametrize("name", FRAMING)
def test_malformed_requests_get_one_refusal_and_a_closed_connection(daemon, name):
    text, expected = FRAMING[name]
    got = daemon.raw(text.format(host=daemon.authority))
    m = re.match(rb"HTTP/1\.[01] (\d{3}) ", got)
    assert m, got
    assert int(m[1]) in (expected if isinstance(expected, tuple) else (expected,)), got
    heads = re.findall(rb"HTTP/1\.[01] (\d{3}) ", got)
    # The library answers a malformed length itself, with the head of its page twice.
    assert len(heads) == 1 or (name.startswith("length ") and set(heads) <= {b"400", b"413"}), \
        "a hidden request was served"
    assert daemon.get("/healthz").status == 200


def test_well_formed_requests_share_a_connection(daemon):
    one = f"GET /healthz HTTP/1.1\r\nHost: {daemon.authority}\r\n"
    got = daemon.raw(one + "\r\n" + one + "Connection: close\r\n\r\n")
    assert len(re.findall(rb"HTTP/1\.1 200 ", got)) == 2, got


def test_a_body_nobody_asked_for_is_read_and_ignored(daemon):
    get = f"GET /healthz HTTP/1.1\r\nHost: {daemon.authority}\r\n"
    got = daemon.raw(get + "Content-Length: 10\r\n\r\n0123456789" + get + "Connection: close\r\n\r\n")
    assert len(re.findall(rb"HTTP/1\.1 200 ", got)) == 2, got


# ---- names -----------------------------------------------------------------------------------

OPEN_OR_READ = [r for r in ROUTES if r["method"] == "GET" and "{" not in r["path"] and r["serves"] == "sync"]


@pytest.mark.parametrize("route", OPEN_OR_READ, ids=lambda r: r["path"])
def test_a_foreign_host_is_refused_everywhere(daemon, route):
    a = daemon.get(route["path"], {"Host": f"evil.example:{daemon.port}"})
    problem(a, 421, "misdirected")


def test_every_own_name_is_answered_and_no_other_port(daemon):
    for name in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        assert daemon.get("/healthz", {"Host": f"{name}:{daemon.port}"}).status == 200
        problem(daemon.get("/healthz", {"Host": f"{name}:{daemon.port + 1}"}), 421)
        problem(daemon.get("/healthz", {"Host": name}), 421)


def test_a_configured_host_is_answered(start):
    d = start("--host", "models.example")
    assert d.get("/healthz", {"Host": "models.example"}).status == 200
    problem(d.get("/healthz", {"Host": "other.example"}), 421)


def test_other_sites_may_not_post(daemon):
    body = {"input": "x"}
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
                    {"Origin": "http://evil.example"}, {"Origin": "null"},
                    {"Origin": f"http://127.0.0.1:{daemon.port + 1}"}):
        problem(daemon.post("/v1/tokenize", body, headers), 403, "cross-site")
        problem(daemon.delete("/v1/jobs/job_x", headers), 403, "cross-site")
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"},
                    {"Origin": f"http://{daemon.authority}"}):
        assert daemon.post("/v1/tokenize", body, headers).status == 200
    assert daemon.get("/v1/revisions", {"Sec-Fetch-Site": "cross-site"}).status == 200


def test_every_answer_is_marked_for_browsers(daemon):
    for a in (daemon.get("/healthz"), daemon.get("/nothing"), daemon.get("/")):
        assert a.headers["x-content-type-options"] == "nosniff"
        assert a.headers["referrer-policy"] == "no-referrer"
        assert a.headers["cross-origin-resource-policy"] == "same-origin"
        assert re.fullmatch(r"req_\w+", a.headers["x-request-id"])
        assert "access-control-allow-origin" not in a.headers
    assert "frame-ancestors 'none'" in daemon.get("/").headers["content-security-policy"]


# ---- routes and methods ----------------------------------------------------------------------

def test_unknown_paths_are_404(daemon):
    for path in ("/nothing", "/v1", "/v1/", "/v1/revisions/", "//v1/revisions", "/v1/revisions/x/y/z",
                 "/v1%2frevisions", "/V1/revisions", "/1/2/3/4/5/6/7/8/9/10"):
        problem(daemon.get(path), 404)


def test_a_decoded_slash_stays_inside_its_segment(daemon):
    a = daemon.get("/v1/runs/run_a%2fb")
    problem(a, 404, "not-found")  # the route was found, the run was not


def test_other_methods_hear_what_is_allowed(daemon):
    for method, path, allow in (("PUT", "/healthz", {"GET", "HEAD"}),
                                ("DELETE", "/v1/edits", {"POST"}),
                                ("OPTIONS", "/v1/tokenize", {"POST"}),
                                ("POST", "/v1/jobs/job_x", {"GET", "HEAD", "DELETE"})):
        a = daemon.request(method, path)
        problem(a, 405, "method-not-allowed")
        assert set(a.headers["allow"].split(", ")) == allow


def test_head_is_get_without_a_body(daemon):
    got, head = daemon.get("/v1/revisions"), daemon.request("HEAD", "/v1/revisions")
    assert head.status == 200 and head.body == b""
    assert head.headers["content-length"] == str(len(got.body))
    assert head.headers["etag"] == got.headers["etag"]


@pytest.mark.parametrize("route", [r for r in ROUTES if r["serves"] == "later"],
                         ids=lambda r: r["method"] + r["path"])
def test_what_comes_later_says_so(daemon, route):
    path = re.sub(r"\{\w+\}", "x", route["path"])
    problem(daemon.request(route["method"], path, {} if route["method"] == "POST" else None), 501)


# ---- bodies, queries, limits -----------------------------------------------------------------

def test_bodies_are_json_objects(daemon):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None):
        problem(daemon.post("/v1/tokenize", b'{"input":"x"}', {"Content-Type": kind}), 415)
    assert daemon.post("/v1/tokenize", b'{"input":"x"}',
                       {"Content-Type": "application/json; charset=utf-8"}).status == 200
    deep = b'{"input":' + b"[" * 100 + b"]" * 100 + b"}"
    for body in (b"{", b"[]", b'"x"', b"null", b'{"input":"x"} x', b'{"input":"x","input":"y"}', deep,
                 b'{"input":"\xff"}', b'{"input":"\\u0000"}', b'{"input":01}', b'\xef\xbb\xbf{"input":"x"}'):
        problem(daemon.post("/v1/tokenize", body), 400, "invalid")


def test_unknown_fields_and_parameters_are_named(daemon):
    problem(daemon.post("/v1/tokenize", {"input": "x", "inptu": 1}), 400, "invalid", "inptu")
    problem(daemon.get("/v1/revisions?limti=3"), 400, "invalid", "limti")
    problem(daemon.get("/v1/revisions?limit=1&limit=2"), 400, "invalid", "limit")
    problem(daemon.get("/v1/revisions?limit=0"), 400, "invalid", "limit")
    problem(daemon.get("/v1/revisions?limit=x"), 400, "invalid", "limit")
    problem(daemon.get("/healthz?x=1"), 400, "invalid", "x")
    assert daemon.get("/healthz?").status == 200


def test_too_large_is_said_before_it_is_read(daemon):
    head = (f"POST /v1/tokenize HTTP/1.1\r\nHost: {daemon.authority}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {1 << 30}\r\n\r\n")
    got = daemon.raw(head)
    assert got.startswith(b"HTTP/1.1 413 "), got
    assert b"body-too-large" in got


def test_the_head_is_bounded(daemon):
    host = f"Host: {daemon.authority}\r\n"
    got = daemon.raw("GET /healthz HTTP/1.1\r\n" + host + "X: " + "a" * 60000 + "\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 431 ", got) or got == b"", got[:200]
    got = daemon.raw("GET /" + "a" * 60000 + " HTTP/1.1\r\n" + host + "\r\n")
    assert re.match(rb"HTTP/1\.1 41[46] ", got) or got == b"", got[:200]
    assert daemon.get("/healthz").status == 200


def test_a_dripping_client_is_cut_off(start):
    d = start("--request-timeout", "1")

    def drip(first, byte):
        with d.socket() as s:
            s.sendall(first.encode())
            began = time.monotonic()
            s.settimeout(0.2)
            while time.monotonic() - began < 20 * SLOW:
                try:
                    s.sendall(byte.encode())
                    if s.recv(1000) == b"":
                        return time.monotonic() - began
                except socket.timeout:
                    pass
                except OSError:
                    return time.monotonic() - began
        return None

    head = drip(f"GET /healthz HTTP/1.1\r\nHost: {d.authority}\r\nX: ", "a")
    assert head is not None and head < 4 * SLOW
    body = drip(f"POST /v1/tokenize HTTP/1.1\r\nHost: {d.authority}\r\nContent-Type: application/json\r\n"
                "Content-Length: 100000\r\n\r\n", " ")
    assert body is not None and body < 6 * SLOW
    # who waits for an answer is not dripping
    job = start_slow(d)
    a = d.get(job + "/events", timeout=60)
    assert a.status == 200 and b"event: result" in a.body


def test_an_unchanged_answer_is_304_and_quick(daemon):
    first = daemon.get("/v1/revisions")
    tag = first.headers["etag"]
    for given in (tag, f"W/{tag}", f'"x", {tag}', f'"a,b" , W/{tag},"x"', "*", " * "):
        a = daemon.get("/v1/revisions", {"If-None-Match": given})
        assert a.status == 304 and a.body == b"" and a.headers["etag"] == tag
    for given in ('"x"', f"x{tag}", f'"x{tag}', f'"x", *', tag.strip('"'), f'"x" {tag}', '"', ""):
        assert daemon.get("/v1/revisions", {"If-None-Match": given}).status == 200, given
    page = daemon.get("/metrics").body.decode()
    m = re.search(r'engramd_http_request_seconds_count\{route="/v1/revisions",method="GET",status="304"\} (\d+)', page)
    assert m and int(m[1]) >= 4


# ---- tokens and roles ------------------------------------------------------------------------

TOKENS = {level: (level, f"secret-{level}") for level in LEVELS}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    where = tmp_path_factory.mktemp("tokens")
    write_tokens(where / "tokens", TOKENS)
    d = Daemon(where / "data", "--token-file", str(where / "tokens")).start()
    yield d
    d.stop()


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r["method"] + r["path"])
def test_roles_matrix(guarded, route):
    path = re.sub(r"\{\w+\}", "x", route["path"])
    body = {} if route["method"] == "POST" else None
    open_to_all = route["role"] == "open"
    for who in [None, "unknown", *LEVELS]:
        headers = {"Authorization": f"Bearer secret-{who}"} if who else {}
        a = guarded.request(route["method"], path, body, headers)
        if open_to_all:
            assert a.status not in (401, 403), (who, a)
        elif who not in LEVELS:
            refusal(route, a, 401, "unauthorized")
            assert a.headers["www-authenticate"].startswith("Bearer")
        elif LEVELS.index(who) < LEVELS.index(route["role"]):
            refusal(route, a, 403, "forbidden")
        else:
            assert a.status not in (401, 403), (who, a)


def test_only_bearer_and_only_the_exact_token(guarded):
    for value in ("Basic c2VjcmV0", "secret-admin", "Bearer", "Bearer secret-admi", "Bearer secret-adminn",
                  "Bearer secret-admin extra"):
        problem(guarded.get("/v1/revisions", {"Authorization": value}), 401)
    assert guarded.get("/v1/revisions", {"Authorization": "bearer secret-reader"}).status == 200


def test_hangup_reads_the_tokens_anew(start, tmp_path):
    d = start(tokens={"ann": ("reader", "one")})
    assert d.get("/v1/revisions").status == 200
    write_tokens(tmp_path / "tokens", {"bob": ("reader", "two")})
    d.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + 5 * SLOW
    while d.get("/v1/revisions", {"Authorization": "Bearer two"}).status != 200:
        assert time.monotonic() < until
        time.sleep(0.05)
    problem(d.get("/v1/revisions"), 401)


def test_tokens_appear_nowhere(guarded):
    guarded.get("/v1/revisions", {"Authorization": "Bearer secret-admin"})
    assert "secret-admin" not in guarded.stderr()
    page = guarded.get("/metrics", {"Authorization": "Bearer secret-admin"}).body
    assert b"secret" not in page and b"admin" not in page


def test_a_job_is_cancelled_by_its_owner_or_an_admin(start):
    d = start(tokens={"ann": ("prober", "a"), "bob": ("prober", "b"), "eve": ("admin", "e")})
    job = start_slow(d)
    problem(d.delete(job, {"Authorization": "Bearer b"}), 403, "forbidden")
    assert d.delete(job, {"Authorization": "Bearer e"}).status in (200, 202)
    assert d.finished(job)["state"] in ("cancelled", "done")


# ---- jobs ------------------------------------------------------------------------------------

def test_waiting_and_not_waiting_give_the_same_body(daemon):
    body = slow_body()
    told = daemon.post("/v1/tuco", body, {"Prefer": "wait=0"})
    assert told.status == 202
    job = told.json
    assert told.headers["location"] == "/v1/jobs/" + job["id"]
    assert job["state"] in ("queued", "running") and job["kind"] == "tuco"
    assert job["progress"].keys() >= {"done", "total", "unit"}
    done = daemon.finished(told.headers["location"])
    assert done["state"] == "done" and "error" not in done
    listed = [j for j in daemon.get("/v1/jobs").json["jobs"] if j["id"] == job["id"]]
    assert len(listed) == 1 and "result" not in listed[0]
    waited = daemon.post("/v1/tuco", body, {"Prefer": "wait=120"}, timeout=120)
    assert waited.status == 200
    assert waited.json.get("scores") == done["result"].get("scores")
    assert daemon.post("/v1/tuco", slow_body(), {"Prefer": "respond-async"}).status == 202


def test_events_tell_a_job_from_queue_to_result(daemon):
    job = start_slow(daemon)
    events = list(daemon.events(job + "/events"))
    numbers = [n for n, _, _ in events]
    assert numbers == sorted(set(numbers))
    states = [data["state"] for _, event, data in events if event == "state"]
    assert states == [s for s in ("queued", "running", "committing", "done") if s in states]
    assert states[-1] == "done"
    assert events[-1][1] == "result" and events[-1][2] == daemon.job(job)["result"]
    late = list(daemon.events(job + "/events", headers={"Last-Event-ID": str(numbers[-3])}))
    assert [n for n, _, _ in late] == numbers[-2:]
    assert daemon.get(job + "/events", {"Last-Event-ID": str(numbers[-1])}).status == 204
    lost = list(daemon.events(job + "/events", headers={"Last-Event-ID": "100000"}))
    assert [event for _, event, _ in lost] == ["reset"]
    problem(daemon.get("/v1/jobs/job_x/events"), 404)


def test_events_of_a_job_that_only_the_ledger_knows(start, tmp_path):
    d = start(data=tmp_path / "data")
    job = edit(d, params=TOUCH, headers={"Prefer": "wait=0"}).headers["location"]
    done = d.finished(job)
    d.stop()
    d = start(data=tmp_path / "data")
    path = job + "/events"
    assert list(d.events(path)) == [(1, "state", {"state": "done"}), (2, "result", done["result"])]
    assert d.get(path).body.startswith(b"retry: ")
    assert list(d.events(path, headers={"Last-Event-ID": "1"})) == [(2, "result", done["result"])]
    for seen in ("2", "57"):  # its own last, or one of those it had while it ran
        a = d.get(path, {"Last-Event-ID": seen})
        assert a.status == 204 and a.body == b""


def test_a_job_can_be_cancelled(daemon):
    running, waiting = start_slow(daemon), start_slow(daemon)
    assert daemon.delete(waiting).status in (200, 202)  # it may have had its first step
    ended = daemon.finished(waiting)
    assert ended["state"] == "cancelled" and ended["error"]["type"] == "cancelled"
    events = list(daemon.events(waiting + "/events"))
    assert events[-1][1] == "error"
    assert daemon.delete(running).status in (200, 202)
    assert daemon.finished(running)["state"] in ("cancelled", "done")
    assert daemon.delete(waiting).status == 200  # again: it is
    problem(daemon.delete("/v1/jobs/job_x"), 404)
    done = daemon.post("/v1/generate", {"prompt": "a", "max_tokens": 1})
    assert done.status == 200
    newest = daemon.get("/v1/jobs?limit=1").json["jobs"]
    assert len(newest) == 1
    problem(daemon.delete("/v1/jobs/" + newest[0]["id"]), 409, "too-late")


def test_short_questions_do_not_wait_for_long_work(daemon):
    jobs = [start_slow(daemon) for _ in range(4)]
    began = time.monotonic()
    a = daemon.post("/v1/generate", {"prompt": "a", "max_tokens": 2})
    took = time.monotonic() - began
    assert a.status == 200
    assert daemon.job(jobs[-1])["state"] in ("queued", "running"), "the long work was too short to tell"
    assert took < 2 * SLOW
    assert daemon.get("/healthz").status == 200
    for job in jobs:
        daemon.delete(job)
    for job in jobs:
        daemon.finished(job)


def test_generation_streams_tokens_then_done(daemon):
    body = {"prompt": "hello", "max_tokens": 6, "stream": True}
    events = list(daemon.events("/v1/generate", body))
    kinds = [event for _, event, _ in events]
    assert kinds[-1] == "done" and set(kinds[:-1]) <= {"token"} and len(kinds) > 1
    plain = daemon.post("/v1/generate", {**body, "stream": False})
    assert plain.json["text"] == events[-1][2]["text"]
    page = daemon.get("/metrics").body.decode()
    assert "engramd_event_streams 0\n" in page


def test_an_abandoned_stream_is_noticed(daemon):
    job = start_slow(daemon)
    with daemon.socket() as s:
        s.sendall(f"GET {job}/events HTTP/1.1\r\nHost: {daemon.authority}\r\n\r\n".encode())
        s.recv(1000)
        assert "engramd_event_streams 1\n" in daemon.get("/metrics").body.decode()
    daemon.delete(job)
    until = time.monotonic() + 10 * SLOW
    while "engramd_event_streams 0\n" not in daemon.get("/metrics").body.decode():
        assert time.monotonic() < until
        time.sleep(0.05)
    daemon.finished(job)


def test_streams_are_capped(daemon):
    jobs = [start_slow(daemon) for _ in range(3)]
    open_ones = []
    try:
        for _ in range(64):
            s = daemon.socket()
            s.sendall(f"GET {jobs[-1]}/events HTTP/1.1\r\nHost: {daemon.authority}\r\n\r\n".encode())
            assert s.recv(1000).startswith(b"HTTP/1.1 200 ")
            open_ones.append(s)
        a = daemon.get(jobs[-1] + "/events")
        problem(a, 503, "busy")
        assert int(a.headers["retry-after"]) >= 1
        assert daemon.get("/healthz").status == 200
    finally:
        for s in open_ones:
            s.close()
        for job in jobs:
            daemon.delete(job)
    for job in jobs:
        daemon.finished(job)


def test_a_full_queue_says_when_to_come_back(start):
    d = start()
    jobs, refused = [], None
    for _ in range(300):
        a = d.post("/v1/tuco", slow_body(), {"Prefer": "wait=0"})
        if a.status != 202:
            refused = a
            break
        jobs.append(a.headers["location"])
    assert refused and len(jobs) >= 32
    problem(refused, 503, "busy")
    assert int(refused.headers["retry-after"]) >= 1
    assert d.get("/v1/revisions").status == 200
    for job in reversed(jobs):
        d.delete(job)


LENGTHY = {"method": "locft", "facts": [{"prompt": f"The sky is {i}", "target_new": "green"} for i in range(40)],
           "mode": "dry_run", "params": {"epochs": 1000, "batch": 1, "loss_floor": 0, "lr": 1e-6}}


def lengthy(d):
    """A long job that runs for seconds, or until it is cancelled."""
    a = d.post("/v1/edits", LENGTHY, {"Prefer": "wait=0"})
    assert a.status == 202, a
    return a.headers["location"]


PATCH = {"clean": {"ids": [3, 4, 5]}, "corrupt": {"ids": [3, 9, 5]}, "site": "hook_resid_pre", "axes": ["layer", "pos"],
         "metric": {"kind": "logprob", "answer": 7}}  # long, if not by much


def test_a_check_that_waits_is_not_asked_for_twice(start):
    d = start(tokens={"ann": ("reader", "a"), "eve": ("admin", "e")})
    as_ann, as_eve = {"Authorization": "Bearer a"}, {"Authorization": "Bearer e"}
    d.token = "e"
    first = d.get("/v1/audit/verify").json
    job = lengthy(d)
    for _ in range(100):  # the last result, and one check under way
        a = d.get("/v1/audit/verify", {"Prefer": "wait=0", **as_ann})
        assert a.status == 200 and a.json == first, a
    places = {d.get(f"/v1/audit/verify?model={d.name}", {"Prefer": "wait=0", **as_ann}).headers["location"] for _ in range(100)}
    assert len(places) == 1 and None not in places  # about this model alone there is no last result
    kinds = [j["kind"] for j in d.get("/v1/jobs?limit=200").json["jobs"] if j["state"] == "queued"]
    assert kinds == ["verify"] * 2
    a = d.post("/v1/audit/verify", {}, {"Prefer": "wait=0", **as_eve})
    assert a.status == 202 and a.headers["location"] not in places  # POST starts one
    d.delete(job)
    for place in (*places, a.headers["location"]):
        assert d.finished(place)["result"]["ok"]


def test_a_full_house_gives_the_last_check(start):
    d = start(tokens={"ann": ("prober", "a"), "eve": ("admin", "e")})
    d.token = "e"
    first = d.get("/v1/audit/verify").json
    job = lengthy(d)
    d.token = "a"
    while (a := d.post("/v1/patch", PATCH, {"Prefer": "wait=0"})).status == 202:
        pass
    detail = problem(a, 429, "over-share")["detail"]
    assert detail == "ann has 16 long jobs waiting"
    a = d.get("/v1/audit/verify")
    assert a.status == 200 and a.json == first
    d.token = "e"
    assert d.post("/v1/patch", PATCH, {"Prefer": "wait=0"}).status == 202
    d.delete(job)


def test_who_is_told_early_is_told_of_a_durable_job(start):
    """More wait than may: the rest hear of their job at once, and no sooner than the ledger has."""
    d = start()
    for _ in range(30):
        lengthy(d)
    ask = f"GET /v1/audit/verify HTTP/1.1\r\nHost: {d.authority}\r\nPrefer: wait=600\r\n\r\n".encode()
    waiters = []
    while True:  # until nobody else may wait
        while len(waiters) % 10 or len(waiters) < 130:  # MAX_WAITERS, server/exchange.h
            waiters.append(d.socket())
            waiters[-1].sendall(ask)
        began = time.monotonic()
        a = d.post("/v1/patch", PATCH, {"Prefer": "wait=1"})
        assert a.status == 202
        if time.monotonic() - began < 0.9:
            break
        waiters.append(d.socket())
        waiters[-1].sendall(ask)
    d.kill()
    for s in waiters:
        s.close()
    d.start()
    job = d.job(a.headers["location"])
    assert job["state"] == "failed" and job["error"]["type"] == "interrupted"


def ask_slowly(d, s, path, body, key=None):
    """A request whose answer is waited for on the socket; its job's address, once it runs or waits."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    before = {j["id"] for j in d.get("/v1/jobs?limit=200").json["jobs"]}
    head = [f"POST {path} HTTP/1.1", f"Host: {d.authority}", "Content-Type: application/json", f"Content-Length: {len(body)}",
            "Prefer: wait=60"] + [f"Idempotency-Key: {key}"] * bool(key)
    s.sendall("".join(line + "\r\n" for line in [*head, ""]).encode() + body)
    until = time.monotonic() + 20 * SLOW
    while time.monotonic() < until:
        if new := [j for j in d.get("/v1/jobs?limit=200").json["jobs"] if j["id"] not in before]:
            return "/v1/jobs/" + new[0]["id"]
        time.sleep(0.01)
    raise AssertionError("no job began")


@pytest.mark.parametrize("behind", [False, True])
def test_who_leaves_takes_a_look_along(daemon, behind):
    """Nobody was told of the job: running or waiting, it goes."""
    first = lengthy(daemon) if behind else None
    path, body = ("/v1/patch", PATCH) if behind else ("/v1/tuco", slow_body())
    with daemon.socket() as s:
        job = ask_slowly(daemon, s, path, body)
    left = time.monotonic()
    ended = daemon.finished(job)
    assert time.monotonic() - left < 1 * SLOW
    assert ended["state"] == "cancelled" and ended["error"]["type"] == "cancelled"
    if first:
        daemon.delete(first)


@pytest.mark.parametrize("path", ["/v1/tuco", "/v1/completions"])
def test_who_leaves_with_a_key_may_come_back(daemon, path):
    key = f"back-{next(_unique)}"
    body = slow_body() if path == "/v1/tuco" else {"prompt": [[5 + i] for i in range(250)], "max_tokens": 250}
    with daemon.socket() as s:
        job = ask_slowly(daemon, s, path, body, key)
    done = daemon.finished(job)
    assert done["state"] == "done"
    again = daemon.post(path, body, {"Idempotency-Key": key})
    assert again.headers["Idempotency-Replayed"] == "true" and again.json == done["result"]


def test_who_leaves_an_edit_finds_it_done(daemon):
    with daemon.socket() as s:
        job = ask_slowly(daemon, s, "/v1/edits", LENGTHY)
    time.sleep(1)  # the daemon looks four times a second
    assert daemon.job(job)["state"] == "running"
    daemon.delete(job)
    daemon.finished(job)


def test_a_check_goes_on_for_the_others(start):
    """Who finds it under way waits for the same."""
    d, got = start(), []
    path = f"/v1/audit/verify?model={d.name}"
    job = lengthy(d)
    with d.socket() as s:
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: {d.authority}\r\n\r\n".encode())
        crowd(d, 2)
    with beside(lambda: got.append(d.get(path, {"Prefer": "wait=60"}))):
        time.sleep(1)
        d.delete(job)
    assert got[0].status == 200 and got[0].json["ok"], got


def test_half_a_close_is_told_of_a_durable_job(start):
    """Where its client may come back for it; others have left."""
    d = start()
    lengthy(d)
    with d.socket() as s:
        job = ask_slowly(d, s, "/v1/patch", PATCH)
        s.shutdown(socket.SHUT_WR)
        assert read_all(s).startswith(b"HTTP/1.1 409 ")
    assert d.finished(job)["state"] == "cancelled"
    with d.socket() as s:
        ask_slowly(d, s, "/v1/patch", PATCH, "mine")
        s.shutdown(socket.SHUT_WR)
        said = read_all(s)
    d.kill()
    d.start()
    assert said.startswith(b"HTTP/1.1 202 ")
    place = re.search(rb"Location: (\S+)", said)[1].decode()
    assert d.job(place)["error"]["type"] == "interrupted"


# ---- idempotency -----------------------------------------------------------------------------

def test_a_key_is_done_once(daemon):
    key = {"Idempotency-Key": f"k{time.time_ns()}"}
    body = {"prompt": "x", "max_tokens": 3, "temperature": 1.0}  # sampled: done twice would differ
    first = daemon.post("/v1/generate", body, key)
    again = daemon.post("/v1/generate", body, key)
    assert first.status == again.status == 200
    assert again.body == first.body
    assert again.headers["idempotency-replayed"] == "true"
    problem(daemon.post("/v1/generate", {**body, "max_tokens": 4}, key), 409, "idempotency-key-reused")
    other_route = daemon.post("/v1/trace", {"inputs": [{"id": "a", "text": "x"}]}, key)
    assert other_route.status == 200 and "idempotency-replayed" not in other_route.headers
    problem(daemon.post("/v1/generate", body, {"Idempotency-Key": "k" * 300}), 400, "invalid", "Idempotency-Key")


def test_a_key_whose_job_runs_names_that_job(daemon):
    key = {"Idempotency-Key": f"k{time.time_ns()}", "Prefer": "wait=0"}
    body = slow_body()
    first = daemon.post("/v1/tuco", body, key)
    again = daemon.post("/v1/tuco", body, {**key, "Prefer": "wait=60"})
    assert first.status == 202 and again.status == 202
    assert again.headers["location"] == first.headers["location"]
    problem(daemon.post("/v1/tuco", slow_body(), key), 409)
    job = daemon.finished(first.headers["location"])
    after = daemon.post("/v1/tuco", body, key)
    assert after.status == 200 and after.json == job["result"]


def test_concurrent_same_keys_run_one_job(daemon):
    key = {"Idempotency-Key": f"k{time.time_ns()}", "Prefer": "wait=0"}
    body, got = slow_body(), []
    before = [j["kind"] for j in daemon.get("/v1/jobs?limit=200").json["jobs"]].count("tuco")
    at_once(*[lambda: got.append(daemon.post("/v1/tuco", body, key))] * 8)
    told = {a.headers["location"] for a in got if a.status == 202}
    assert len(told) == 1
    daemon.finished(told.pop())
    assert all(a.status == 202 or a.headers["idempotency-replayed"] == "true" for a in got)
    kinds = [j["kind"] for j in daemon.get("/v1/jobs?limit=200").json["jobs"]]
    assert kinds.count("tuco") == before + 1


def test_a_kept_answer_survives_a_restart(start):
    d = start()
    key = {"Idempotency-Key": "over-the-night"}
    body = {"prompt": "x", "max_tokens": 3, "temperature": 1.0}
    first = d.post("/v1/generate", body, key)
    assert first.status == 200
    d.stop()
    d.start()
    again = d.post("/v1/generate", body, key)
    assert again.status == 200 and again.body == first.body
    problem(d.post("/v1/generate", {**body, "max_tokens": 4}, key), 409)


def test_an_unfinished_job_is_interrupted_after_a_crash(start):
    d = start()
    start_slow(d)
    job = start_slow(d)
    d.kill()
    d.start()
    after = d.job(job)
    assert after["state"] == "failed" and after["error"]["type"] == "interrupted"
    events = list(d.events(job + "/events"))
    assert events[-1][1] == "error" and events[-1][2]["type"] == "interrupted"
    assert job.rsplit("/", 1)[1] in [j["id"] for j in d.get("/v1/jobs").json["jobs"]]
    problem(d.delete(job), 409, "too-late")


def test_a_commit_under_a_key_is_made_once(start):
    d = start()
    key = {"Idempotency-Key": "once"}
    first = d.post("/v1/rollback", {"to": "base"}, key)
    assert first.status in (200, 201), first
    again = d.post("/v1/rollback", {"to": "base"}, key)
    assert (again.status, again.body) == (first.status, first.body)
    d.stop()
    d.start()
    again = d.post("/v1/rollback", {"to": "base"}, key)
    assert (again.status, again.body) == (first.status, first.body)
    assert [r["kind"] for r in d.revisions()] == ["rollback", "base"]
    problem(d.post("/v1/rollback", {"to": "base", "message": "x"}, key), 409, "idempotency-key-reused")


def test_if_match_guards_a_write(start):
    d = start()
    base = d.revisions()[0]["revision"]
    problem(d.post("/v1/rollback", {"to": "base"}, {"If-Match": '"rev_other"'}), 412, "precondition-failed")
    problem(d.post("/v1/rollback", {"to": "base"}, {"If-Match": base}), 400, "invalid", "If-Match")
    assert len(d.revisions()) == 1
    key = {"Idempotency-Key": "guarded", "If-Match": f'"{base}"'}
    done = d.post("/v1/rollback", {"to": "base"}, key)
    assert done.status in (200, 201)
    assert d.post("/v1/rollback", {"to": "base"}, key).body == done.body  # moved by itself: no 412
    problem(d.post("/v1/rollback", {"to": "base"}, {"If-Match": f'"{base}"'}), 412)
    assert len(d.revisions()) == 2
    assert d.post("/v1/rollback", {"to": "base"}, {"If-Match": "*"}).status in (200, 201)


def test_an_accepted_write_that_waits_is_kept_or_interrupted(start):
    d = start()
    start_slow(d)
    a = d.post("/v1/rollback", {"to": "base"}, {"Prefer": "wait=0"})
    assert a.status in (200, 201, 202)
    d.kill()
    d.start()
    n = len(d.revisions())
    if a.status == 202:
        job = d.job(a.headers["location"])
        assert job["state"] == ("done" if n == 2 else "failed")
        assert n == 2 or job["error"]["type"] == "interrupted"
    else:
        assert n == 2


# ---- drain -----------------------------------------------------------------------------------

def test_terminate_answers_who_waits_and_exits_0(start):
    d = start()
    got = []
    body = slow_body()
    wait = {"Prefer": "wait=60"}
    kept = d.connect()
    assert d.get("/readyz", connection=kept).status == 200
    with beside(lambda: got.append(d.post("/v1/tuco", body, wait)),
                *[lambda: got.append(d.post("/v1/tuco", slow_body(), wait))] * 10):
        crowd(d)
        d.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        late = d.post("/v1/generate", {"prompt": "a"}, connection=kept)
        assert late.status == 503 and late.headers["connection"] == "close"
    kept.close()
    d.wait()
    assert len(got) == 11
    assert {a.status for a in got} <= {200, 503}
    assert any(a.status == 200 for a in got), "the running job may finish"
    assert any(a.status == 503 and a.json["type"] == "interrupted" for a in got)
    assert '"event":"stopped"' in d.stderr()


def test_streams_end_with_the_daemon(start):
    d = start("--drain-timeout", "1")
    jobs = [start_slow(d) for _ in range(2)]
    with d.socket() as s:
        s.sendall(f"GET {jobs[1]}/events HTTP/1.1\r\nHost: {d.authority}\r\n\r\n".encode())
        s.recv(1000)
        d.process.send_signal(signal.SIGTERM)
        rest = read_all(s)
    assert b"event: error" in rest and b"interrupted" in rest
    d.wait()


def test_new_clients_are_told_of_the_drain(start):
    d = start("--drain-timeout", "600")
    for _ in range(8):
        start_slow(d)
    crowd(d)
    d.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    refused = d.post("/v1/generate", {"prompt": "a"})
    assert refused.status == 503 and refused.json["type"] == "draining"
    assert d.get("/v1/revisions").status == 200 and d.get("/readyz").status == 503
    d.process.send_signal(signal.SIGINT)
    d.wait(timeout=20)


def test_a_second_signal_cancels(start):
    d = start("--drain-timeout", "600")
    for _ in range(8):
        start_slow(d)
    crowd(d)
    began = time.monotonic()
    d.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    d.process.send_signal(signal.SIGINT)
    d.wait(timeout=20)
    assert time.monotonic() - began < 20 * SLOW


# ---- command line ----------------------------------------------------------------------------

def run(*args, timeout=60):
    return subprocess.run([ENGRAMD, *args], capture_output=True, text=True, timeout=timeout * SLOW, cwd=ROOT)


def refused(*args):
    r = run(*args)
    assert r.returncode != 0 and r.stdout == ""
    assert r.stderr.startswith("engramd: ") and r.stderr.count("\n") == 1, r.stderr
    return r.stderr


def test_version_and_help():
    version = run("--version")
    assert version.returncode == 0
    assert version.stdout == f"engramd {(ROOT / 'VERSION').read_text().strip()}\n"
    text = run("--help")
    assert text.returncode == 0
    for word in ("serve", "verify", "export", "--model", "--data", "--listen", "--token-file", "--threads",
                 "--add-model", "--config", "--out"):
        assert word in text.stdout
    for command, own, other in (("serve", "--listen", "--view"), ("verify", "--data", "--listen"), ("export", "--out", "--listen")):
        part = run(command, "--help")
        assert part.returncode == 0 and part.stdout in text.stdout and part.stdout.startswith(f"  engramd {command}: ")
        assert own in part.stdout and other not in part.stdout and part.stdout.count("engramd ") == 1


def test_bad_command_lines_are_one_sentence(tmp_path):
    data = str(tmp_path / "d")
    assert "unknown command" in refused("dance")
    assert "unknown option" in refused("serve", "--modle", "x")
    assert "--data" in refused("serve", "--model", MODEL)
    assert "--model" in refused("serve", "--data", data)
    assert "0 to 1024" in refused("serve", "--model", MODEL, "--data", data, "--threads", "-1")
    assert "twice" in refused("serve", "--model", MODEL, "--data", data, "--data", data)
    assert "not an option" in refused("verify", "--data", data, "--listen", "127.0.0.1:0")
    assert "HOST:PORT" in refused("serve", "--model", MODEL, "--data", data, "--listen", "nowhere")
    assert "token-file" in refused("serve", "--model", MODEL, "--data", data, "--listen", "0.0.0.0:0")
    assert "/nonexistent" in refused("serve", "--model", "/nonexistent", "--data", data, "--listen", "127.0.0.1:0")


def test_a_config_file_gives_defaults(start, tmp_path):
    conf = tmp_path / "conf"
    conf.write_text("# comment\nname = from-file\nthreads=1\n\nlog-level = debug\n")
    assert start("--config", str(conf)).name == "from-file"
    assert start("--config", str(conf), "--name", "from-line").name == "from-line"
    conf.write_text("nmae = x\n")
    assert "line 1" in refused("serve", "--model", MODEL, "--data", str(tmp_path / "d"), "--config", str(conf))


def test_one_daemon_per_ledger(start):
    d = start()
    refused("serve", "--model", MODEL, "--data", d.data, "--listen", "127.0.0.1:0")


def test_another_base_needs_to_be_asked_for(start, tmp_path):
    other = str(ROOT / "tests" / "golden" / "tiny" / "gqa_untied_odd")
    data = tmp_path / "shared"
    start(data=data).stop()
    assert "--add-model" in refused("serve", "--model", other, "--data", str(data), "--listen", "127.0.0.1:0")
    d = start("--add-model", data=data, model=other)
    assert len(d.revisions()) == 1
    d.stop()
    start(data=data).stop()


def test_verify_reports_and_exits_0(start):
    d = start()
    d.stop()
    for extra in ([], ["--model", MODEL]):
        r = run("verify", "--data", d.data, *extra)
        assert r.returncode == 0, r.stderr
        assert json.loads(r.stdout)["ok"] is True


def test_a_directory_without_a_ledger(tmp_path):
    for data in (tmp_path, tmp_path / "absent"):
        said = f"engramd: there is no ledger in {data}\n"
        assert refused("verify", "--data", str(data)) == said
        assert refused("export", "--data", str(data), "--model", MODEL, "--out", str(tmp_path / "out")) == said
        assert run("verify", "--data", str(data)).returncode == 2


def test_metrics_are_prometheus_text(daemon):
    a = daemon.get("/metrics")
    assert a.headers["content-type"].startswith("text/plain; version=0.0.4")
    line = re.compile(r'(# (HELP|TYPE) \w+ .*|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [-+\d.eInf]+)')
    for text in a.body.decode().splitlines():
        assert line.fullmatch(text), text
    names = set(re.findall(r"^# TYPE (\w+) ", a.body.decode(), re.M))
    assert {"engramd_http_request_seconds", "engramd_commit_seconds", "engramd_jobs", "engramd_queue_long",
            "engramd_event_streams", "engramd_resident_bytes", "engramd_head_seq"} <= names


def test_the_log_is_json_lines(daemon):
    daemon.get("/v1/revisions")
    lines = [json.loads(line) for line in daemon.stderr().splitlines()]
    requests = [x for x in lines if x["event"] == "request"]
    assert requests and all({"time", "level", "id", "by", "method", "route", "status", "ms", "bytes"} <= x.keys()
                            for x in requests)
