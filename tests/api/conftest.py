"""A running daemon for the tests, and a small HTTP client that hides nothing.

    def test_it(daemon):                       one daemon per test file
        a = daemon.post("/v1/tokenize", {"input": "x"})
        assert a.status == 200 and a.json["ids"]

    def test_alone(fresh_daemon):              a daemon of one's own

    def test_own(start):                       ...with options
        d = start("--request-timeout", "1", tokens={"ann": ("reader", "secret")})

ENGRAMD names the binary (build/engramd), ENGRAMD_MODEL the model (tests/golden/tiny/gqa_tied).
ENGRAM_SCALE scales the counts of the long tests (200 edits, 50 kills…); a slow build takes less.
At the end of each daemon its exit status must be 0 and its stderr free of sanitizer reports.
"""
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGRAMD = os.environ.get("ENGRAMD", str(ROOT / "build" / "engramd"))
MODEL = os.environ.get("ENGRAMD_MODEL", str(ROOT / "tests" / "golden" / "tiny" / "gqa_tied"))
SLOW = float(os.environ.get("ENGRAMD_SLOW", "1"))  # a sanitizer build needs more time
SCALE = float(os.environ.get("ENGRAM_SCALE", "1"))
REPORT = re.compile(r"ERROR: \w*Sanitizer|WARNING: ThreadSanitizer|runtime error:|Assertion .* failed")


def pytest_configure(config):
    config.addinivalue_line("markers", "tsan: several threads of the daemon meet here")


def scaled(count, least=3):
    return max(least, round(count * SCALE))


class Headers(dict):
    """Looked up in any case."""

    def __init__(self, pairs):
        super().__init__((n.lower(), v) for n, v in pairs)

    def __getitem__(self, name):
        return super().__getitem__(name.lower())

    def __contains__(self, name):
        return super().__contains__(name.lower())

    def get(self, name, default=None):
        return super().get(name.lower(), default)


class Answer:
    """Status, headers and body of one response; `json` is None where the body is none."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, Headers(headers), body

    @property
    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


class Daemon:
    def __init__(self, data, *options, model=MODEL, token=None):
        self.data, self.options, self.model, self.token = str(data), options, str(model), token
        self.log_path = self.data + ".log"
        self.process = None

    # ---- life

    def spawn(self):
        self.log = open(self.log_path, "ab")
        argv = [ENGRAMD, "serve", "--model", self.model, "--data", self.data,
                "--listen", "127.0.0.1:0", *self.options]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=self.log, cwd=ROOT)
        return self

    def start(self):
        self.spawn()
        self.ready_line = self.process.stdout.readline().decode()
        m = re.fullmatch(r"engramd: serving (\S+) on http://([\d.]+):(\d+)\n", self.ready_line)
        assert m, f"not ready: {self.ready_line!r}\n{self.stderr()[-2000:]}"
        self.name, self.host, self.port = m[1], m[2], int(m[3])
        self.authority = f"{self.host}:{self.port}"
        self.url = f"http://{self.authority}"
        return self

    def stop(self, timeout=40, expect=0):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.wait(timeout, expect)

    def wait(self, timeout=40, expect=0):
        try:
            status = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the daemon did not stop\n" + self.stderr()[-2000:]) from None
        finally:
            self.process.stdout.close()
            self.log.close()
        found = REPORT.search(self.stderr())
        assert not found, self.stderr()[max(0, found.start() - 200):found.start() + 4000]
        assert status == expect, f"exit status {status}\n{self.stderr()[-2000:]}"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def stderr(self):
        return Path(self.log_path).read_text(errors="replace")

    # ---- requests

    def connect(self, timeout=60):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout * SLOW)

    def request(self, method, path, body=None, headers=None, connection=None, timeout=60):
        """body: an object (sent as JSON), bytes (sent as they are), or None."""
        send = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            send["Content-Type"] = "application/json"
        for name, value in (headers or {}).items():  # None takes a header away
            send.pop(name, None)
            if value is not None:
                send[name] = value
        c = connection or self.connect(timeout)
        try:
            c.request(method, path, body, send)
            r = c.getresponse()
            return Answer(r.status, r.getheaders(), r.read())
        finally:
            if not connection:
                c.close()

    def get(self, path, headers=None, **kw):
        return self.request("GET", path, None, headers, **kw)

    def post(self, path, body=None, headers=None, **kw):
        return self.request("POST", path, {} if body is None else body, headers, **kw)

    def delete(self, path, headers=None, **kw):
        return self.request("DELETE", path, None, headers, **kw)

    def socket(self, timeout=20):
        return socket.create_connection((self.host, self.port), timeout=timeout * SLOW)

    def raw(self, text, timeout=5):
        """Send bytes as they are; everything that came back until close or silence."""
        with self.socket(timeout) as s:
            s.sendall(text if isinstance(text, bytes) else text.encode("latin-1"))
            return read_all(s)

    def events(self, path, body=None, headers=None, method=None, timeout=60):
        """Yield (id, event, data) of a server-sent event stream until it ends."""
        send = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            body = json.dumps(body).encode()
            send["Content-Type"] = "application/json"
        send.update(headers or {})
        c = self.connect(timeout)
        try:
            c.request(method or ("POST" if body else "GET"), path, body, send)
            r = c.getresponse()
            assert r.status == 200, r.read()
            assert r.getheader("Content-Type") == "text/event-stream"
            yield from parse_events(r)
        finally:
            c.close()

    # ---- what most tests want to know

    def digest(self, branch="main"):
        return self.revisions(branch)[0]["digest"]

    def revisions(self, branch="main"):
        a = self.get(f"/v1/revisions?branch={branch}&limit=200")
        assert a.status == 200, a
        return a.json["revisions"]

    def job(self, location):
        a = self.get(location)
        assert a.status == 200, a
        return a.json

    def finished(self, location, timeout=120):
        until = time.monotonic() + timeout * SLOW
        while time.monotonic() < until:
            job = self.job(location)
            if job["state"] in ("done", "failed", "cancelled"):
                return job
            time.sleep(0.02)
        raise AssertionError(f"still {job}")


def parse_events(lines):
    event, data, number = None, [], None
    for line in lines:
        line = line.decode().rstrip("\n")
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("event: "):
            event = line[7:]
        elif line.startswith("data: "):
            data.append(line[6:])
        elif not line and event:
            yield number, event, json.loads("\n".join(data))
            event, data, number = None, [], None


def read_all(s):
    got = b""
    try:
        while chunk := s.recv(65536):
            got += chunk
    except (socket.timeout, ConnectionResetError):
        pass
    return got


def write_tokens(path, tokens):
    """tokens: {name: (role, token)}"""
    lines = [f"{name} {role} {hashlib.sha256(token.encode()).hexdigest()}\n"
             for name, (role, token) in tokens.items()]
    Path(path).write_text("".join(lines))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("engramd") / "data").start()
    yield d
    d.stop()


@pytest.fixture
def start(tmp_path):
    """start(*options, tokens=None, data=None, model=MODEL): started daemons, stopped at the end."""
    running = []

    def begin(*options, tokens=None, data=None, model=MODEL):
        if tokens:
            write_tokens(tmp_path / "tokens", tokens)
            options += ("--token-file", str(tmp_path / "tokens"))
        d = Daemon(data or tmp_path / f"data{len(running)}", *options, model=model)
        if tokens:
            d.token = next(iter(tokens.values()))[1]
        running.append(d.start())
        return d

    yield begin
    for d in running:
        if d.process.poll() is None:
            d.stop()


@pytest.fixture
def fresh_daemon(start):
    return start()
