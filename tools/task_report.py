#!/usr/bin/env python3
"""Does a model do the tasks of recipes/sets at all, and where? Of a daemon that is running.

    tools/task_report.py URL [--model NAME] [--sets DIR] [--facts 12] [--samples 2] [--svg DIR [--prefix WORD]]
                         [--behaviour] [--tasks ioi,facts] [--limit N]

Posts the sets, patches ioi and digit_greater_than (z by layer and head, resid_pre by layer and position,
norm_logit_diff, denoising), asks every fact and traces the first so many that the model knows. Prints what the model
does and the heads that matter with their intervals; --svg draws each grid. Standard library only; each answer is in
the ledger, so a second call costs nothing. --behaviour: only whether the model does the tasks, which takes seconds. docs/tasks.md says what the numbers mean.
"""
import argparse
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request

SETS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "recipes", "sets")
PAIRS, TOP = ("ioi", "digit_greater_than"), 6


class Daemon:
    def __init__(self, url, model):
        self.url, self.model = url.rstrip("/"), {"model": model} if model else {}

    def send(self, method, path, data=None, kind="application/json"):
        request = urllib.request.Request(self.url + path, data, {"Content-Type": kind, "Prefer": "wait=600"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=900) as answer:
                status, reply = answer.status, json.load(answer)
        except urllib.error.HTTPError as e:
            raise SystemExit(f"{path}: {e.code} {e.read().decode(errors='replace')[:400]}") from None
        while status == 202 and reply["state"] not in ("done", "failed", "cancelled"):
            time.sleep(0.5)
            reply = self.send("GET", f"/v1/jobs/{reply['id']}")
        if status != 202:
            return reply
        if reply["state"] != "done":
            raise SystemExit(f"{path}: {reply['state']}: {reply.get('error')}")
        return reply["result"]

    def ask(self, path, **body):
        return self.send("POST", path, json.dumps({**self.model, **body}).encode())


def rows_of(folder, name):
    with open(os.path.join(folder, name + ".ndjson"), "rb") as f:
        data = f.read()
    return data, [json.loads(line) for line in data.splitlines() if line.strip()]


# ---- pictures ------------------------------------------------------------------------------------------


def colour(value, most):
    """Red up, blue down, white nothing; None is grey."""
    if value is None:
        return "#ddd"
    part = round(15 * (1 - min(1, abs(value) / most)))
    return f"#f{part:x}{part:x}" if value > 0 else f"#{part:x}{part:x}f"


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def heat_map(path, title, grid, columns):
    """grid [rows][columns], row 0 at the bottom: layers go up."""
    most = max((abs(v) for row in grid for v in row if v is not None), default=0) or 1
    size, left, top = 14, 30, 24
    high, wide = size * len(grid), size * len(columns)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(left + wide + 10, 320)}" height="{top + high + 96}" '
           f'font-family="sans-serif" font-size="9"><rect width="100%" height="100%" fill="#fff"/>'
           f'<text x="4" y="15" font-size="11">{escape(title)}; ±{most:.2g}</text>'
           f'<rect x="{left - 0.5}" y="{top - 0.5}" width="{wide + 1}" height="{high + 1}" fill="none" stroke="#999"/>'
           f'<g transform="translate({left},{top}) scale({size})">']
    for r, row in enumerate(grid):
        for c, value in enumerate(row):
            if (fill := colour(value, most)) != "#fff":
                out.append(f'<path fill="{fill}" d="M{c} {len(grid) - 1 - r}h1v1h-1z"/>')
    out.append("</g>")
    for r in range(0, len(grid), 5 if len(grid) > 12 else 1):
        out.append(f'<text x="{left - 4}" y="{top + high - size * r - 3}" text-anchor="end">{r}</text>')
    for c, name in enumerate(columns):
        x, y = left + size * c + 9, top + high + 5
        out.append(f'<text transform="translate({x},{y}) rotate(-90)" text-anchor="end">{escape(str(name))}</text>')
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n</svg>\n")


def position_names(results, n):
    """A position's token where all prompts have it, else its number."""
    tokens = [r["tokens"]["clean"] for r in results]
    return [tokens[0][i].strip() or str(i) if len({t[i] for t in tokens}) == 1 else f"[{i}]" for i in range(n)]


# ---- tasks ---------------------------------------------------------------------------------------------


def spread(mean, low, high):
    return f"{mean:+.3f} " + (f"[{low:+.3f}, {high:+.3f}]" if low is not None else "[no interval]")


def ranked(m, kinds):
    """The cells by size of their mean, as lines."""
    cells = [(abs(v), l, c) for l, row in enumerate(m["mean"]) for c, v in enumerate(row) if v is not None]
    for _, l, c in sorted(cells, reverse=True)[:TOP]:
        yield f"    {kinds(l, c)}: {spread(m['mean'][l][c], m['low'][l][c], m['high'][l][c])}"


def say_behaviour(name, g):
    b, n = g["behaviour"], g["means"][0]["n"]
    print(f"{name}: {'does' if b['exhibited'] else 'does not do'} the task: the answer is ahead of the foil in {100 * b['accuracy']:.0f} % "
          f"of {n} clean prompts, by {b['logit_diff']:.2f} logits on average", flush=True)


def pairs_task(d, name, draw, behaviour, some):
    if behaviour:
        g = d.ask("/v1/patch", set=name, **some, site="hook_resid_post", axes=["layer"], metrics=[{"kind": "norm_logit_diff"}])
        say_behaviour(name, g)
        return
    grids = {}
    for site, axis in (("attn.hook_z", "head"), ("hook_resid_pre", "pos")):
        grids[axis] = d.ask("/v1/patch", set=name, **some, site=site, axes=["layer", axis], metrics=[{"kind": "norm_logit_diff"}])
    say_behaviour(name, grids["head"])
    heads, resid = grids["head"]["means"][0], grids["pos"]["means"][0]
    names = position_names(grids["pos"]["results"], len(resid["mean"][0]))
    print("  heads (z, share of the logit difference that comes back, 95 % over groups):")
    print(*ranked(heads, lambda l, h: f"L{l}H{h}"), sep="\n")
    print("  positions (resid_pre), the layers where half is back or half is left:")
    for p, word in enumerate(names):
        column = [row[p] for row in resid["mean"]]
        if max(column) >= 0.5:
            print(f"    {p} {word}: {sum(v >= 0.5 for v in column)} layers, {min(l for l, v in enumerate(column) if v >= 0.5)} to "
                  f"{max(l for l, v in enumerate(column) if v >= 0.5)}")
    for axis, g in grids.items():
        print(f"  {axis}: {g['cost']['seconds']:.0f} s, {g['cost'].get('cells_run', 0)} cells; checks " + json.dumps(g["checks"]))
        for w in g["warnings"]:
            print("  warning:", w if isinstance(w, str) else json.dumps(w)[:200])
    draw(f"{name}-heads", f"{name}: z by head", heads["mean"], range(len(heads["mean"][0])))
    draw(f"{name}-positions", f"{name}: resid_pre by position", resid["mean"], names)


def known(d, rows):
    """The rows whose greedy next token is the answer's."""
    said, some = [], 16  # a reading of the whole vocabulary is limited
    for i in range(0, len(rows), some):
        reply = d.ask("/v1/trace", inputs=[{"id": r["id"], "text": r["prompt"]} for r in rows[i : i + some]], reads=[], top_k=1,
                      top_pos="last")
        said += [answer["top"][0][0]["token"] for answer in reply["inputs"]]
    return [r for r, text in zip(rows, said) if text == r["answer"]]


def facts_task(d, rows, most, samples, draw):
    knows = known(d, rows)
    print(f"facts: says the answer to {len(knows)} of {len(rows)}: "
          + ", ".join(f"{g} {sum(r['group'] == g for r in knows)} of {sum(r['group'] == g for r in rows)}"
                      for g in dict.fromkeys(r["group"] for r in rows)))
    # Of each group in turn, so that the mean is not of capitals alone.
    turns = sorted(range(len(knows)), key=lambda i: (sum(k["group"] == knows[i]["group"] for k in knows[:i]), i))
    chosen = [knows[i] for i in turns[:most]]
    if not chosen:
        return
    g = d.ask("/v1/causal-trace", facts=[{k: r[k] for k in ("id", "prompt", "subject", "answer")} for r in chosen],
              noise={"samples": samples})
    m = g["means"]
    print(f"  causal trace of {g['traced']}: p(answer) {m['high']['mean']:.3f}, with noise at the subject {m['low']['mean']:.3f}; checks "
          f"{json.dumps(g['checks'])}; {g['cost']['seconds']:.0f} s")
    for kind, roles in m["indirect_effect"].items():
        roles = {role: r for role, r in roles.items() if r}
        for role, r in roles.items():
            l = max(range(len(r["mean"])), key=lambda i: r["mean"][i])
            edges = [r[e][l] if r[e] else None for e in ("low", "high")]
            print(f"    {kind}, {role} ({r['n']} facts): most at layer {l}, {spread(r['mean'][l], *edges)}")
        draw(f"facts-{kind}", f"facts: {kind} put back", [list(c) for c in zip(*(r["mean"] for r in roles.values()))], roles)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("url")
    p.add_argument("--model")
    p.add_argument("--sets", default=SETS)
    p.add_argument("--facts", type=int, default=12, help="trace so many at most")
    p.add_argument("--samples", type=int, default=2, help="of noise")
    p.add_argument("--svg", metavar="DIR")
    p.add_argument("--tasks", default=",".join((*PAIRS, "facts")))
    p.add_argument("--limit", type=int, help="the first so many rows of sets of pairs")
    p.add_argument("--behaviour", action="store_true", help="no grids, no traces")
    p.add_argument("--prefix", default="", help="of the pictures' names")
    args = p.parse_args()
    d = Daemon(args.url, args.model)

    def draw(name, title, grid, columns):
        if args.svg:
            heat_map(os.path.join(args.svg, f"{args.prefix}{name}.svg"), title, grid, list(columns))
    if args.svg:
        os.makedirs(args.svg, exist_ok=True)
    for name in args.tasks.split(","):
        data, rows = rows_of(args.sets, name)
        made = d.send("POST", "/v1/sets?" + urllib.parse.urlencode({"name": name}), data, "application/x-ndjson")
        print(f"{name}: {made['rows']} rows, {made['hash'].split(':')[-1][:12]}", flush=True)
        if name in PAIRS:
            pairs_task(d, name, draw, args.behaviour, {"limit": args.limit} if args.limit else {})
        else:
            facts_task(d, rows, 0 if args.behaviour else args.facts, args.samples, draw)


if __name__ == "__main__":
    main()
