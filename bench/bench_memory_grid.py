#!/usr/bin/env python3
"""The daemon's peak resident memory while a patch grid runs, beside the plan that "dry_run" gives.

    bench/bench_memory_grid.py ENGRAMD MODEL

A fresh daemon for each grid, one small trace first. The peak is the growth of VmHWM, set back (5 into clear_refs)
just before the request, over VmRSS at that moment. Target: within 10 % of the plan. What
the allocator and BLAS's own buffers take beside is in the peak and not in the plan.
"""
import os
import subprocess
import sys
import tempfile

from bench_http import call, connect

GRIDS = (("hook_resid_pre", ["layer", "pos"], 20), ("hook_mlp_out", ["layer", "pos"], 64), ("attn.hook_z", ["layer", "head"], 64))


def status(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def start(binary, model, data):
    daemon = subprocess.Popen([binary, "serve", "--model", model, "--data", data, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    return daemon, daemon.stdout.readline().strip().split("http://")[1]


def ask(c, body):
    code, _, reply = call(c, "POST", "/v1/patch", body)
    if code != 200:
        raise SystemExit(f"/v1/patch: {code} {reply}")
    return reply


def measure(c, pid, site, axes, n):
    clean = [(i * 7919 + 13) % 30000 for i in range(n)]
    body = {"clean": {"ids": clean}, "corrupt": {"ids": [clean[0]] + [i + 1 for i in clean[1:]]}, "site": site, "axes": axes,
            "metric": {"kind": "logit_diff", "answer": 500, "foil": 600}, "check_cells": 0}
    call(c, "POST", "/v1/trace", {"inputs": [{"id": "a", "ids": clean[:4]}], "reads": [], "top_k": 1})
    plan = ask(c, {**body, "dry_run": True})["cost"]["bytes"]
    before = status(pid, "VmRSS")
    with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as f:
        f.write("5")
    seconds = ask(c, body)["cost"]["seconds"]
    peak = status(pid, "VmHWM") - before
    print(f"{site} by {' and '.join(axes)}, {n} tokens: peak {peak / 1e6:.0f} MB over {before / 1e6:.0f}, plan {plan / 1e6:.0f} MB: "
          f"{100 * peak / plan:.0f} % of it (target within 10 %; {seconds:.1f} s)", flush=True)


def main():
    binary, model = sys.argv[1:3]
    for site, axes, n in GRIDS:
        with tempfile.TemporaryDirectory(prefix="engramd-bench-") as data:
            daemon, address = start(binary, model, os.path.join(data, "ledger"))
            try:
                measure(connect(address), daemon.pid, site, axes, n)
            finally:
                daemon.terminate()
                daemon.wait()


if __name__ == "__main__":
    main()
