#!/usr/bin/env python3
"""Which layer should LocFT train by default? Measure it: one-fact edits, tried (dry run) at several layers.

    bench/locft_layers.py ENGRAMD MODEL FACTS.jsonl [--facts N] [--layers 3,6,…] [--params '{"lr": 0.001}']

FACTS.jsonl: one object a line with prompt, target_new, target_true, paraphrases[], locality[{prompt}].
Prints per layer the share of facts that took, their paraphrases, unrelated prompts left unchanged, and the
mean divergence there. Facts the model already answers with the new target are passed over.
"""
import argparse
import http.client
import json
import os
import subprocess
import tempfile


def call(address, path, body):
    connection = http.client.HTTPConnection(address, timeout=900)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", "Prefer": "wait=600"})
    reply = connection.getresponse()
    answer = json.loads(reply.read())
    if reply.status >= 400:
        raise SystemExit(f"{path}: {reply.status} {answer}")
    return answer


def read_facts(path, n):
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    step = max(1, len(rows) // n)
    return [{"prompt": r["prompt"], "target_new": r["target_new"].strip(), "target_true": (r.get("target_true") or "").strip() or None,
             "paraphrases": r["paraphrases"][:2], "locality": [{"prompt": p["prompt"]} for p in r["locality"][:2]]}
            for r in rows[::step][:n]]


def mean(values):
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("engramd")
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--facts", type=int, default=10)
    parser.add_argument("--layers", default="3,6,10,14,18,21,24,27")
    parser.add_argument("--params", default="{}")
    args = parser.parse_args()
    facts, params = read_facts(args.data, args.facts), json.loads(args.params)
    with tempfile.TemporaryDirectory(prefix="engramd-layers-") as data:
        daemon = subprocess.Popen([args.engramd, "serve", "--model", args.model, "--data", os.path.join(data, "ledger"),
                                   "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        address = daemon.stdout.readline().strip().split("http://")[1]
        print("layer  efficacy  paraphrase  unchanged      kl  seconds  (means over one-fact edits)")
        try:
            for layer in map(int, args.layers.split(",")):
                after, seconds = [], []
                for fact in facts:
                    edit = call(address, "/v1/edits", {"method": "locft", "mode": "dry_run", "facts": [fact],
                                                       "params": {**params, "layer": layer}})
                    if not edit["facts"][0].get("null_edit"):
                        after.append(edit["facts"][0]["after"])
                        seconds.append(edit["cost"]["seconds"])
                print(f"{layer:5d}  {mean([a['generation']['match'] for a in after]):8.2f}  "
                      f"{mean([a.get('paraphrase', {}).get('match') for a in after]):10.2f}  "
                      f"{mean([a.get('locality', {}).get('unchanged') for a in after]):9.2f}  "
                      f"{mean([a.get('locality', {}).get('kl') for a in after]):6.3f}  {mean(seconds):7.1f}  n={len(after)}", flush=True)
        finally:
            daemon.terminate()
            daemon.wait()


if __name__ == "__main__":
    main()
