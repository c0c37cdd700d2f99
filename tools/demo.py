#!/usr/bin/env python3
"""A short story about one fact, told to a real model over HTTP.

    tools/demo.py ENGRAMD MODEL [--stay] [--listen HOST:PORT]

Starts the daemon on a fresh ledger, asks what the model knows, looks inside, edits the fact,
looks again, and takes everything back to the last bit. Standard library only.
"""
import argparse
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

PROMPT = "The Eiffel Tower is located in the city of"
CORRUPT = "The Colosseum is located in the city of"
SUBJECT, OLD, NEW = "Eiffel Tower", "Paris", "Rome"
QUESTION = "In which city is the Eiffel Tower?"
PARAPHRASE = "The Eiffel Tower stands in the city of"
UNRELATED = ["Two plus two equals", "The author of Romeo and Juliet is"]

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
WIDTH = min(shutil.get_terminal_size((100, 24)).columns, 110)


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def bold(text):
    return paint("1", text)


def dim(text):
    return paint("2", text)


def heading(text):
    print(f"\n{bold('── ' + text + ' ')}{dim('─' * max(0, WIDTH - len(text) - 4))}")


def say(text):
    print(textwrap.fill(text, WIDTH))


class Daemon:
    """The running daemon and the few calls the story needs."""

    def __init__(self, binary, model, data, listen):
        self.log = open(os.path.join(data, "engramd.log"), "w", encoding="utf-8")
        self.process = subprocess.Popen(
            [binary, "serve", "--model", model, "--name", "smollm2", "--data", os.path.join(data, "ledger"),
             "--listen", listen], stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline().strip()
        if "http://" not in line:
            self.process.wait()
            sys.exit(f"the daemon did not start; its log is {self.log.name}:\n{open(self.log.name).read()}")
        self.address = line.split("http://")[1]

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.address, timeout=600)
        headers = {"Content-Type": "application/json", "Prefer": "wait=600"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        reply = connection.getresponse()
        answer = json.loads(reply.read())
        connection.close()
        if reply.status >= 400:
            sys.exit(f"{method} {path}: {reply.status} {answer.get('detail')} {answer.get('field', '')}")
        return answer

    def get(self, path):
        return self.call("GET", path)

    def post(self, path, **body):
        return self.call("POST", path, body)

    def continues(self, prompt, tokens=14):
        return self.post("/v1/generate", prompt=prompt, max_tokens=tokens, stop=["\n"])["text"]

    def chat(self, question):
        return self.post("/v1/generate", messages=[{"role": "user", "content": question}],
                         max_tokens=40)["text"].strip()

    def tuco(self, prompts):
        return [s["tuco"] for s in self.post("/v1/tuco", view="main", against="base", prompts=prompts)["scores"]]

    def head(self):
        return self.get("/v1/models")["models"][0]["head"]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def show_says(daemon, prompts):
    for prompt in prompts:
        print(f"  {prompt}{bold(daemon.continues(prompt).rstrip())}")


SHADES = " .:-=+*#%@"


def shade(share):
    """One cell of a heat map: a character, and a background where there are colours."""
    share = min(1.0, max(0.0, share))
    mark = SHADES[round(share * (len(SHADES) - 1))]
    if not COLOUR:
        return mark * 2
    grey = 232 + round(share * 23)
    return f"\033[48;5;{grey}m\033[38;5;{16 if share > 0.6 else 250}m{mark}{mark}\033[0m"


def draw_grid(grid):
    values, clean, corrupt = grid["values"], grid["tokens"]["clean"], grid["tokens"]["corrupt"]
    columns = [max(3, len(a.strip()) + 1, len(b.strip()) + 1) for a, b in zip(clean, corrupt)]
    for layer in range(len(values) - 1, -1, -1):
        cells = "".join(shade(v) + " " * (w - 2) for v, w in zip(values[layer], columns))
        print(f"  layer {layer:2d}  {cells}")
    for name, tokens in (("clean", clean), ("corrupt", corrupt)):
        print(f"  {name:8}  " + "".join(t.strip().ljust(w) for t, w in zip(tokens, columns)))


def tell_grid(daemon):
    grid = daemon.post("/v1/patch", clean=PROMPT, corrupt=CORRUPT, site="hook_resid_pre", axes=["layer", "pos"],
                       metric={"kind": "norm_logit_diff", "answer": " " + OLD, "foil": " " + NEW})
    cost = grid["cost"]
    say(f'Run "{CORRUPT}", put one activation of the original prompt back at a time, and ask how much of '
        f'"{OLD}" over "{NEW}" returns: blank is none of it, {SHADES[-1]} all. {cost["cells"]} cells, one sweep:')
    print()
    draw_grid(grid)
    print(dim(f"\n  {cost['cells_run']} cells run in {cost['seconds']:.2f} s (the others stand before the prompts differ); patched\n"
              f"  with itself it is off by {grid['checks']['identity']:.1e}, fully patched by {grid['checks']['full']:.1e}"))


def tell_heads(daemon):
    found = daemon.post("/v1/localize", method="patch", clean=PROMPT, corrupt=CORRUPT, k=5,
                        metric={"kind": "logit_diff", "answer": " " + OLD, "foil": " " + NEW})
    for one in found["ranking"][:5]:
        print(f"  layer {one['layer']:2d} head {one['head']}   {one['score']:+.2f} logits")
    control = found["control"]
    print(dim(f"\n  together {found['region']['effect']:+.2f}; {control['n']} random sets of five heads: "
              f"{control['mean']:+.2f} ± {control['sd']:.2f}"))


def tell_edit(daemon):
    edit = daemon.post("/v1/edits", view="main", method="locft", message=f"move the {SUBJECT} to {NEW}", author="demo",
                       facts=[{"id": "tower", "prompt": PROMPT, "subject": SUBJECT, "target_new": NEW,
                               "target_true": OLD, "paraphrases": [PARAPHRASE],
                               "locality": [{"prompt": p} for p in UNRELATED]}])
    fact = edit["facts"][0]
    rows = [("says", lambda s: s["generation"]["text"].strip()),
            (f"−log p({NEW}) in nats", lambda s: f"{s['nll_new']:.3f}"),
            (f"−log p({OLD}) in nats", lambda s: f"{s['nll_true']:.3f}"),
            ("match", lambda s: str(s["generation"]["match"])),
            ("paraphrase match", lambda s: f"{s['paraphrase']['match']:.0f}"),
            ("unrelated unchanged", lambda s: f"{s['locality']['unchanged']:.0%}"),
            ("unrelated KL", lambda s: f"{s['locality']['kl']:.4f}")]
    print(f"  {'':24}{'before':24}after")
    for name, of in rows:
        print(f"  {name:24}{of(fact['before']):24}{bold(of(fact['after']))}")
    params, cost = edit["params"], edit["cost"]
    print(dim(f"\n  {edit['method']}: layer {params['layer']}'s down-projection, {cost['steps']} steps, "
              f"{cost['seconds']:.1f} s with all scores; revision {edit['revision']}"))
    return edit


def tell_history(daemon):
    for r in reversed(daemon.get("/v1/revisions")["revisions"]):
        print(f"  {r['seq']:3d}  {r['kind']:9} {r['digest'][7:19]}…  {r['author']:8} {r['message']}")


def story(daemon):
    first = daemon.head()
    heading("What the model knows")
    show_says(daemon, [PROMPT])
    print(f"  {dim('user:')} {QUESTION}\n  {dim('assistant:')} {bold(daemon.chat(QUESTION))}")
    print(dim(f"\n  weights {first['digest']}"))
    heading("Where it knows it")
    tell_grid(daemon)
    heading("Which heads carry it")
    tell_heads(daemon)
    heading("What was changed so far")
    zero = daemon.tuco([PROMPT])[0]
    say(f"  TuCo of main against base, the share of the model's work that is not the base's: {zero:g}")
    assert zero == 0, "a view against itself must score exactly 0"
    heading(f"Edit: the {SUBJECT} moves to {NEW}")
    tell_edit(daemon)
    heading("What it says now")
    show_says(daemon, [PROMPT, PARAPHRASE] + UNRELATED)
    print(f"  {dim('user:')} {QUESTION}\n  {dim('assistant:')} {bold(daemon.chat(QUESTION))}")
    print(dim("\n  (the edit was trained on the plain sentence; the scores above say how far it reaches)"))
    heading("TuCo of the edit: high where it acts, low elsewhere")
    prompts = [PROMPT, PARAPHRASE] + UNRELATED
    scores = daemon.tuco(prompts)
    for prompt, score in zip(prompts, scores):
        print(f"  {score:.4f} {'█' * max(1, round(30 * score / max(scores))):30} {prompt}")
    heading("And back, to the last bit")
    back = daemon.post("/v1/rollback", branch="main", to="base", message="that was a joke", author="demo")
    show_says(daemon, [PROMPT])
    print()
    tell_history(daemon)
    same = back["digest"] == first["digest"]
    verify = daemon.get("/v1/audit/verify")
    print(f"\n  digest now   {back['digest']}\n  digest first {first['digest']}   "
          f"{bold('equal' if same else 'DIFFERENT')}")
    print(f"  verify: {bold('ok' if verify['ok'] else 'NOT OK')}, {verify['rows']} entries, "
          f"{verify['checked']['digests']} digests rebuilt from the base")
    assert same and verify["ok"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("engramd")
    parser.add_argument("model")
    parser.add_argument("--stay", action="store_true", help="leave the daemon running and print its address")
    parser.add_argument("--listen", default=None, help="default: a free port, or 127.0.0.1:8642 with --stay")
    args = parser.parse_args()
    data = tempfile.mkdtemp(prefix="engramd-demo-")
    daemon = Daemon(args.engramd, args.model, data, args.listen or ("127.0.0.1:8642" if args.stay else "127.0.0.1:0"))
    started = time.monotonic()
    try:
        story(daemon)
        print(dim(f"\n  told in {time.monotonic() - started:.0f} s"))
    except BaseException:
        daemon.stop()
        raise
    if args.stay:
        print(f"\nengramd stays at {bold('http://' + daemon.address)} (pid {daemon.process.pid}, ledger in {data})")
        return
    code = daemon.stop()
    shutil.rmtree(data)
    if code != 0:
        sys.exit(f"the daemon ended with {code}")


if __name__ == "__main__":
    main()
