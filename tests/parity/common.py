"""What the parity scripts share: their arguments, a running daemon, a tally.

A script is called with --model PATH and either --url URL (a daemon that serves it) or --engramd
BINARY (it starts its own, on an empty ledger). It prints a line per comparison, then
`N passed, N failed` alone on a line, and exits 0 only if something passed and nothing failed.
"""
import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

LOGIT_TOLERANCE = 2e-3
TOP_K = 1000


def arguments(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", metavar="PATH", help="GGUF file or hub-style directory that the daemon serves")
    p.add_argument("--url", help="base URL of a daemon already serving it")
    p.add_argument("--engramd", metavar="BINARY", help="start this daemon instead")
    p.add_argument("--threads", type=int, default=0, help="compute threads, of torch and of a daemon started here")
    return p


class Tally:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, ok, what):
        self.passed += bool(ok)
        self.failed += not ok
        print(("ok    " if ok else "FAIL  ") + what, flush=True)
        return ok

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(0 if self.passed and not self.failed else 1)


class Client:
    def __init__(self, url):
        self.url = url.rstrip("/")

    def call(self, method, path, body=None):
        headers = {"Prefer": "wait=600"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        req = urllib.request.Request(self.url + path, method=method, headers=headers,
                                     data=None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(req, timeout=900) as answer:
                status, reply = answer.status, json.load(answer)
        except urllib.error.HTTPError as e:
            raise SystemExit(f"{method} {path}: {e.code} {e.read().decode(errors='replace')[:500]}") from None
        return self.wait(reply) if status == 202 else reply

    def wait(self, job):
        while job["state"] not in ("done", "failed", "cancelled"):
            time.sleep(0.2)
            job = self.call("GET", f"/v1/jobs/{job['id']}")
        if job["state"] != "done":
            raise SystemExit(f"job {job['id']} {job['state']}: {job.get('error')}")
        return job["result"]

    def next_token_logits(self, ids, view):
        """({token id: logit} for the most likely next tokens, the view that was really read)."""
        reply = self.call("POST", "/v1/trace", {"view": view, "inputs": [{"id": "a", "ids": ids}],
                                                "top_k": TOP_K, "top_pos": "last"})
        assert reply["inputs"][0]["ids"] == ids, "the daemon echoed other ids"
        return {t["id"]: t["logit"] for t in reply["inputs"][0]["top"][0]}, reply.get("view")


@contextlib.contextmanager
def daemon(args, data=None):
    """A Client: of --url, or of a daemon started here on `data` (default: a fresh folder)."""
    if args.url:
        yield Client(args.url)
        return
    if not args.engramd or not args.model:
        raise SystemExit("give --url, or --engramd and --model")
    with tempfile.TemporaryDirectory(prefix="engramd-parity-") as scratch:
        threads = ["--threads", str(args.threads)] if args.threads else []
        process = subprocess.Popen(
            [args.engramd, "serve", "--model", args.model, "--data", data or scratch + "/data",
             "--listen", "127.0.0.1:0", *threads], stdout=subprocess.PIPE, text=True)
        try:
            ready = process.stdout.readline()
            found = re.search(r"serving .+ on (http://\S+)", ready)
            if not found:
                raise SystemExit(f"the daemon did not start: {ready!r}, exit status {process.wait(10)}")
            yield Client(found.group(1))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if process.returncode:
            raise SystemExit(f"the daemon exited with {process.returncode}")


def load_reference(path, threads=0):
    """The model as transformers reads it: float32, dequantised, eager attention."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig
    if threads:
        torch.set_num_threads(threads)
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    if os.path.isfile(path):
        folder, name = os.path.split(os.path.abspath(path))
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, **options,
                                                     quantization_config=GgufConfig(dequantize=True))
    else:
        model = AutoModelForCausalLM.from_pretrained(path, **options)
    assert all(p.dtype == torch.float32 for p in model.parameters()), "not dequantised"
    return model.eval()


def load_tokenizer(path):
    from transformers import AutoTokenizer
    if not os.path.isfile(path):
        return AutoTokenizer.from_pretrained(path)
    folder, name = os.path.split(os.path.abspath(path))
    return AutoTokenizer.from_pretrained(folder, gguf_file=name)


def reference_logits(model, ids):
    import torch
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1].tolist()


def compare_logits(tally, name, ours, theirs):
    """ours: {id: logit}, as many as the daemon gives; theirs: a list over the whole vocabulary."""
    order = sorted(range(len(theirs)), key=lambda i: -theirs[i])
    worst = max((abs(value - theirs[i]) for i, value in ours.items()), default=float("inf"))
    # The leaders of the reference must be among what we were given, or nothing was compared.
    missing = [i for i in order[:20] if i not in ours]
    gap = theirs[order[0]] - theirs[order[1]]
    best = max(ours, key=ours.get, default=None)
    agree = best == order[0] or gap <= 2 * LOGIT_TOLERANCE
    return tally.check(worst <= LOGIT_TOLERANCE and not missing and agree,
                       f"{name}: {len(ours)} logits, largest difference {worst:.2e}"
                       + (f", missing {missing}" if missing else "") + ("" if agree else ", other best token"))
