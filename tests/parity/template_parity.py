#!/usr/bin/env python3
"""Chat templates against Jinja2, live: real ones, on random conversations.

    template_parity.py --templates FOLDER [--render TOOL] [--seeds N]

FOLDER holds *.jinja files; without it (as in `make parity`) those of two packages are fetched into
the cache: llama-cpp-python's source (models/templates of llama.cpp) and trl. TOOL is
tests/tools/render_main.c, built. The reference is the environment that transformers compiles chat
templates in, with strftime_now as ours has it: absent, or telling one given day.

A template is equal when every conversation comes out the same, byte for byte, or is refused by
both; raise_exception must give the same sentence. It is refused when ours says, in a sentence, that
it does not have something. A difference, or an output where Jinja2 raises an error, is a failure.
Then expressions put together at random (tests/golden/make_chat.py), from a new seed each time.
In a second run what people wrote is in letters that no template has: exactly those must come out
as not the template's own.
"""
import argparse
import glob
import json
import os
import random
import subprocess
import sys
import tarfile
import zipfile

import jinja2
from transformers.utils import chat_template_utils

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
from common import Tally  # noqa: E402
import make_chat  # noqa: E402

PACKAGES = [("llama-cpp-python==0.3.36", "--no-binary"), ("trl==1.16.0", "--only-binary")]
DATE = "2025-03-09"
PIECES = ["Hello", " ", "\n", "\n\n", "\t", "  x ", "caf\u00e9", "\U0001F600", "\u00a0", "e\u0301", "'", '"', "\\", "{{ x }}",
          "{% if %}", "<think>", "</think>", "<think>\nso\n</think>\n\n", "<|im_end|>", "<|im_start|>", "[INST]",
          "[/INST]", "<s>", "</s>", "<|end|>", "<|eot_id|>", "<start_of_turn>", "<tool_call>", "</tool_call>",
          "<tool_response>", "</tool_response>", "###", "0", "3.5", "{\"a\": 1}", "a|b", "%s", "&<>", "/no_think",
          "/think", "You are", "\u3000", "\u2028", "x" * 50]
ALIEN = "\u1200\u1210\u1220\u1230\u1240"


def content(rng, alien):
    if alien:
        return "".join(rng.choice(ALIEN) for _ in range(rng.randint(1, 12)))
    return "".join(rng.choice(PIECES) for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 8])))


def conversation(rng, alien=False):
    roles = ["system"] if rng.random() < 0.4 else []
    for _ in range(rng.randint(0 if rng.random() < 0.1 else 1, 4)):
        roles += ["user", "assistant"]
    if rng.random() < 0.7 and roles:
        roles.pop()
    if rng.random() < 0.2:
        roles.insert(rng.randrange(len(roles) + 1), rng.choice(["user", "assistant", "system", "tool", "developer", "x<|y"]))
    messages = [{"role": r, "content": content(rng, alien)} for r in roles]
    return {"messages": messages, "add_generation_prompt": rng.random() < 0.6, "bos_token": "<s>", "eos_token": "</s>",
            **({"date": DATE} if rng.random() < 0.5 else {})}


class Reference:
    def __init__(self, text):
        import datetime
        env = chat_template_utils._compile_jinja_template(text).environment
        day = datetime.datetime.fromisoformat(DATE)
        env.globals["strftime_now"] = day.strftime
        self.dated = env.from_string(text)
        env = env.overlay()
        env.globals = {k: v for k, v in env.globals.items() if k != "strftime_now"}
        self.undated = env.from_string(text)

    def __call__(self, q):
        template = self.dated if "date" in q else self.undated
        given = {k: v for k, v in q.items() if k not in ("date", "template")}
        try:
            return template.render(tools=None, documents=None, **given), None
        except Exception as e:
            return None, e


def ours(tool, requests):
    lines = "".join(json.dumps(q) + "\n" for q in requests)
    out = subprocess.run([tool], input=lines, capture_output=True, text=True, check=True).stdout
    # U+2028 and the like end a line for str.splitlines
    answers = [json.loads(line) for line in out.split("\n") if line]
    assert len(answers) == len(requests)
    return answers


def raised(e):
    """The sentence of raise_exception, or None for another error."""
    return str(e) if type(e) is jinja2.exceptions.TemplateError else None


def verdict(want, error, got):
    """equal, refused or a complaint."""
    if error is None:
        if "error" in got:
            refused = got["error"] == "unsupported"
            return "refused: " + got["says"] if refused else "we fail: " + got["says"]
        return "equal" if got["text"] == want else f"we give {got['text'][-300:]!r}\n  not {want[-300:]!r}"
    if "error" not in got:
        return f"we render what Jinja2 refuses: {error!r}"
    if raised(error) is not None and raised(error) not in got["says"] and got["error"] == "invalid":
        return f"we say {got['says']!r}, not {error!r}"
    return "equal"


def misplaced(got):
    """Where the origin of a letter is told wrong, or None."""
    data = got["text"].encode()
    foreign = [False] * len(data)
    for a, b in got["foreign"]:
        foreign[a:b] = [True] * (b - a)
    at = 0
    for c in got["text"]:
        if foreign[at] != (c in ALIEN):
            return f"{c!r} at byte {at} of {got['text']!r}"
        at += len(c.encode())
    return None


def check(tally, tool, name, text, seeds, totals):
    rng = random.Random(name)
    try:
        reference = Reference(text)
    except Exception as e:
        got = ours(tool, [{"template": text, "messages": [], "add_generation_prompt": False}])[0]
        totals["neither"] += 1
        tally.check("error" in got, f"{name}: Jinja2 refuses it ({e}), and so do we")
        return
    plain = [conversation(rng) for _ in range(seeds)]
    alien = [conversation(rng, True) for _ in range(seeds // 4)]
    answers = ours(tool, [dict(q, template=text) for q in plain + alien])
    results = [verdict(*reference(q), got) for q, got in zip(plain + alien, answers)]
    rendered = sum(r == "equal" and "text" in got for r, got in zip(results, answers))
    wrong = [r for r in results if r != "equal" and not r.startswith("refused")]
    wrong += [m for q, got in zip(alien, answers[len(plain):]) if "text" in got and all(
        m["role"] != "x<|y" for m in q["messages"]) for m in [misplaced(got)] if m]
    refused = [r for r in results if r.startswith("refused")]
    totals["refused" if refused else "equal" if rendered else "neither"] += 1
    say = f"{name}: {rendered} of {len(results)} rendered, equal"
    if refused:
        say = f"{name}: {rendered} equal, {len(refused)} {max(set(refused), key=refused.count)}"
    elif not rendered:
        say = f"{name}: Jinja2 renders none of {len(results)} conversations, and neither do we"
    tally.check(not wrong, say if not wrong else f"{name}: {wrong[0]}")


def check_expressions(tally, tool, seed, n):
    make = make_chat.Expressions(seed)
    texts = [make.template() for _ in range(n)]
    messages = [{"role": r, "content": c} for r, c in make_chat.TALK]
    answers = ours(tool, [{"template": t, "messages": messages, "bos_token": "<s>", "eos_token": "</s>"} for t in texts])
    wrong = refused = rendered = 0
    for text, got in zip(texts, answers):
        want, _ = make_chat.render(text, make_chat.TALK)
        wrong += "text" in got and got["text"] != want
        refused += "text" not in got and want is not None
        rendered += "text" in got
        if "text" in got and got["text"] != want:
            print(f"{text}\n  gives {got['text']!r}\n  not   {want!r}")
    tally.check(not wrong and refused * 5 < rendered,
                f"random expressions, seed {seed}: {rendered} of {n} equal, {refused} refused, {wrong} wrong")


def fetch(cache):
    folder = os.path.join(cache, "templates")
    if os.path.isdir(folder):
        return folder
    made = folder + ".new"
    os.makedirs(made, exist_ok=True)
    for package, kind in PACKAGES:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", kind, package.split("==")[0], package,
                        "-d", made], check=True)
    for archive in sorted(glob.glob(made + "/*.tar.gz") + glob.glob(made + "/*.whl")):
        source = os.path.basename(archive).split("-")[0].split("_")[0]
        if archive.endswith(".whl"):
            with zipfile.ZipFile(archive) as z:
                found = [(n, z.read(n)) for n in z.namelist() if n.endswith(".jinja")]
        else:
            with tarfile.open(archive) as t:
                found = [(m.name, t.extractfile(m).read()) for m in t if m.name.endswith(".jinja")]
        for name, data in found:
            with open(os.path.join(made, f"{source}-{os.path.basename(name)}"), "wb") as f:
                f.write(data)
        os.remove(archive)
    os.rename(made, folder)
    return folder


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model")
    p.add_argument("--engramd", default=os.path.join(ROOT, "build", "engramd"))
    p.add_argument("--templates")
    p.add_argument("--render")
    p.add_argument("--seeds", type=int, default=100, help="conversations a template")
    args = p.parse_args()
    tool = args.render or os.path.join(os.path.dirname(args.engramd), "render")
    folder = args.templates or fetch(os.path.join(ROOT, ".cache"))
    tally, totals = Tally(), {"equal": 0, "refused": 0, "neither": 0}
    for path in sorted(glob.glob(os.path.join(folder, "*.jinja"))):
        with open(path, encoding="utf-8", newline="") as f:
            check(tally, tool, os.path.basename(path)[:-6], f.read(), args.seeds, totals)
    check_expressions(tally, tool, random.randrange(1 << 32), 3000)
    print(", ".join(f"{n} {what}" for what, n in totals.items()))
    tally.finish()


main()
