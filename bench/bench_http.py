#!/usr/bin/env python3
"""What a user of the daemon waits for: start, memory, an edit, a rollback, a poll and a reply while it
computes. One daemon, one run, standard library only.

    bench/bench_http.py ENGRAMD MODEL
"""
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

FACT = {"prompt": "The Eiffel Tower is located in the city of", "target_new": "Rome", "target_true": "Paris",
        "paraphrases": ["Visitors who want to see the Eiffel Tower travel to"],
        "locality": [{"prompt": "The capital of Japan is"}, {"prompt": "Water freezes at"}]}
SUBJECTS = ["Colosseum", "Louvre Museum", "Brandenburg Gate", "Trevi Fountain", "Sistine Chapel", "Roman Forum",
            "Space Needle", "Golden Gate Bridge", "Big Ben clock", "Sydney Opera House", "Red Fort", "Blue Mosque"]


def connect(address):
    return http.client.HTTPConnection(address, timeout=600)


def call(connection, method, path, body=None, **headers):
    connection.request(method, path, json.dumps(body) if body is not None else None,
                       {"Content-Type": "application/json", "Prefer": "wait=600", **headers})
    reply = connection.getresponse()
    text = reply.read()
    return reply.status, dict(reply.getheaders()), json.loads(text) if text else None


def timed(work, *args, **more):
    start = time.perf_counter()
    answer = work(*args, **more)
    return time.perf_counter() - start, answer


def resident_mb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def server_ms(connection, route):
    """Mean server time of a route's 304 answers, from the daemon's own metrics."""
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    total = count = 0.0
    for line in text.splitlines():
        if line.startswith("engramd_http_request_seconds_") and f'route="{route}"' in line:
            if "_sum" in line:
                total += float(line.rsplit(" ", 1)[1])
            elif "_count" in line:
                count += float(line.rsplit(" ", 1)[1])
    return total, count


def poll_while(address, busy):
    """Poll the history with its ETag while `busy` runs; round trips in ms and server time."""
    c = connect(address)
    _, headers, _ = call(c, "GET", "/v1/revisions")
    etag, trips = headers["ETag"], []
    total0, count0 = server_ms(c, "/v1/revisions")
    while busy.is_alive():
        seconds, (status, _, _) = timed(call, c, "GET", "/v1/revisions", **{"If-None-Match": etag})
        if status == 304:
            trips.append(1e3 * seconds)
        time.sleep(0.02)
    total1, count1 = server_ms(c, "/v1/revisions")
    return trips, 1e3 * (total1 - total0) / max(1, count1 - count0)


def first_token(address):
    """Seconds until the first event of a streamed generation."""
    c = connect(address)
    start = time.perf_counter()
    c.request("POST", "/v1/generate", json.dumps({"prompt": "Hello", "max_tokens": 4, "stream": True}),
              {"Content-Type": "application/json"})
    reply = c.getresponse()
    while b"event: token" not in reply.readline():
        pass
    seconds = time.perf_counter() - start
    reply.read()
    return seconds


def main():
    binary, model = sys.argv[1:3]
    with tempfile.TemporaryDirectory(prefix="engramd-bench-") as data:
        start = time.perf_counter()
        daemon = subprocess.Popen([binary, "serve", "--model", model, "--data", os.path.join(data, "ledger"),
                                   "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        address = daemon.stdout.readline().strip().split("http://")[1]
        print(f"ready after {time.perf_counter() - start:.2f} s on a fresh ledger (limit 4)")
        try:
            measure(address, daemon.pid)
        finally:
            daemon.terminate()
            daemon.wait()


def measure(address, pid):
    c = connect(address)
    call(c, "POST", "/v1/generate", {"prompt": "Once", "max_tokens": 16})
    print(f"resident {resident_mb(pid):.0f} MB (limit 900)")
    seconds, (_, _, edit) = timed(call, c, "POST", "/v1/edits", {"method": "locft", "facts": [FACT]})
    print(f"one-fact locft edit with scores: {seconds:.2f} s (limit 10), of which training {edit['cost']['train_seconds']:.2f} s, "
          f"{edit['cost']['steps']} steps, match {edit['facts'][0]['after']['generation']['match']}")
    rollbacks = []
    for target in ("base", edit["revision"]) * 4:
        seconds, (status, _, _) = timed(call, c, "POST", "/v1/rollback", {"to": target})
        assert status == 201
        rollbacks.append(1e3 * seconds)
    print(f"rollback: median {statistics.median(rollbacks):.0f} ms, most {max(rollbacks):.0f} (limit 100 plus the rebuild)")
    facts = [dict(FACT, id=s, prompt=f"The {s} is located in the city of") for s in SUBJECTS]
    busy = threading.Thread(target=call, args=(connect(address), "POST", "/v1/edits", {"method": "locft", "facts": facts}))
    busy.start()
    time.sleep(1)
    waits = [first_token(address) for _ in range(5)]
    trips, server = poll_while(address, busy)
    busy.join()
    print(f"generate arriving during a long edit: first token after {1e3 * statistics.median(waits):.0f} ms median, "
          f"{1e3 * max(waits):.0f} most (limit 500)")
    print(f"history poll answered 304 while computing: server {server:.3f} ms mean (limit 1), round trip median "
          f"{statistics.median(trips):.2f} ms over {len(trips)} polls")
    print(f"resident after all that {resident_mb(pid):.0f} MB")


if __name__ == "__main__":
    main()
