"""Run the test suites and sum them up. `make test` calls this; standard library only.

    tools/run_tests.py [--cache DIR] [--make MAKE] [SUITE…]

A suite is a row of SUITES: it is built with its sanitizer, run from the repository's root, and its
tally is read from what it wrote (cmocka's text, pytest's XML, a last line `N passed, N failed`).
What it printed lies in build/test-logs/; here one line per program appears, and the failures. A
program that crashes, hangs or leaves no tally counts as one failure, and so does each report of a
sanitizer and a build that fails. The last line printed is the sum; the exit code follows it.

The tests find what they need in the environment: ENGRAM_BUILD (folder of the binaries), ENGRAMD (the
daemon), ENGRAMD_SLOW (how much longer a test may wait), ENGRAM_MODEL (the default model's file).
"""
import argparse
import collections
import glob
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "test-logs"
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", "--junit-xml")

Tally = collections.namedtuple("Tally", "passed failed skipped")
Suite = collections.namedtuple("Suite", "name sanitizer kind what minutes")
MEMORY, RACES = "address,undefined", "thread"
ALL, THREADED = "test_*", "test_attention test_auth test_job test_kernels test_ledger test_ledger_faults test_ledger_runs test_patch"
SLOWER = {"": "1", MEMORY: "4", RACES: "8"}

SUITES = (
    #     name         sanitizer kind       what                              minutes at most
    Suite("unit",      "",       "cmocka",  ALL,                              5),
    Suite("scripts",   "",       "pytest",  "tests/golden tests/tools",       5),
    Suite("layers",    "",       "make",    "layers",                         5),
    Suite("api",       "",       "pytest",  "tests/api",                      20),
    Suite("asan-unit", MEMORY,   "cmocka",  ALL,                              10),
    Suite("asan-api",  MEMORY,   "pytest",  "tests/api",                      30),
    Suite("tsan-unit", RACES,    "cmocka",  THREADED,                         10),
    Suite("tsan-api",  RACES,    "pytest",  "tests/api",                      30),
)

# What every sanitizer is told: reports go to files, which are counted.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1",
    "LSAN_OPTIONS": f"suppressions={ROOT}/tests/lsan.supp:print_suppressions=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": f"suppressions={ROOT}/tests/tsan.supp:allocator_may_return_null=1",
}


def show(text):
    print(text, flush=True)


def build_folder(suite):
    return ROOT / "build" / ("san-" + suite.sanitizer.replace(",", "-") if suite.sanitizer else "")


def environment(suite, model, label):
    folder = build_folder(suite)
    env = dict(os.environ, ENGRAM_BUILD=str(folder), ENGRAMD=str(folder / "engramd"),
               ENGRAMD_SLOW=SLOWER[suite.sanitizer], PYTHONDONTWRITEBYTECODE="1")
    if model:
        env["ENGRAM_MODEL"] = model
    if suite.sanitizer:
        for name, value in OPTIONS.items():
            env[name] = f"{value}:log_path={LOGS}/{label}.report"
    return env


def run(command, env, log, minutes):
    """Exit status, or a sentence when it did not end by itself. Nothing it started outlives it."""
    with open(log, "wb") as out:
        child = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out,
                                 stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = child.wait(minutes * 60)
        except subprocess.TimeoutExpired:
            return f"still running after {minutes} minutes"
        finally:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
    return status if status >= 0 else f"ended by {signal.Signals(-status).name}"


# ---- tallies: each reads what one kind of program left ----------------------------------------


def cmocka_tally(log, _):
    text = log.read_text(errors="replace")
    if not re.search(r"^\[==========\] .*\d+ test\(s\) run", text, re.M):
        return None  # it ended early; what passed before that does not count
    return Tally(*(sum(map(int, re.findall(rf"^\[  {word} ?\] (\d+) test\(s\)", text, re.M)))
                   for word in ("PASSED ", "FAILED ", "SKIPPED")))


def pytest_tally(_, xml_file):
    try:
        suites = xml.etree.ElementTree.parse(xml_file).getroot().findall("testsuite")
    except (OSError, xml.etree.ElementTree.ParseError):
        return None
    n = {k: sum(int(s.get(k, 0)) for s in suites) for k in ("tests", "failures", "errors", "skipped")}
    failed = n["failures"] + n["errors"]
    return Tally(max(0, n["tests"] - failed - n["skipped"]), failed, n["skipped"])


def last_line_tally(log, _):
    found = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$",
                       log.read_text(errors="replace"), re.M)
    return Tally(*(int(x or 0) for x in found[-1])) if found else None


def commands(suite, make):
    """(label, command, tally) of each program of a suite."""
    if suite.kind == "cmocka":
        for source in sorted(s for what in suite.what.split() for s in ROOT.glob(f"tests/unit/{what}.c")):
            label = f"{suite.name}/{source.stem}"
            yield label, [build_folder(suite) / "unit" / source.stem], cmocka_tally
    elif suite.kind == "pytest":
        yield suite.name, [sys.executable, *PYTEST, LOGS / f"{suite.name}.xml", *suite.what.split()], pytest_tally
    else:
        yield suite.name, [make, "--no-print-directory", suite.what], last_line_tally


def failure_lines(log):
    """The lines of a log that say what went wrong, few enough to read."""
    lines = log.read_text(errors="replace").splitlines()
    wrong = [s for s in lines if re.match(r"\[  FAILED  \] \w|\[  ERROR   \]|FAILED |ERROR |E  |FAIL|make.*\*\*\*", s)
             or re.search(r"\berror: |: Failure|Assertion|Sanitizer", s)]
    return (wrong or lines)[:40] if wrong else lines[-20:]


def run_one(suite, label, command, tally_of, model):
    flat = label.replace("/", "-")
    log, xml_file = LOGS / f"{flat}.log", LOGS / f"{flat}.xml"
    for old in glob.glob(f"{glob.escape(str(LOGS / flat))}.*"):
        os.unlink(old)
    start = time.monotonic()
    status = run([str(c) for c in command], environment(suite, model, flat), log, suite.minutes)
    tally = tally_of(log, xml_file)
    reports = sorted(glob.glob(f"{glob.escape(str(LOGS / flat))}.report.*"))

    notes = [f"sanitizer report: {os.path.relpath(r, ROOT)}" for r in reports]
    extra = len(reports)
    if tally is None:
        notes.append(f"no tally: {status if isinstance(status, str) else f'exit status {status}'}")
        tally, extra = Tally(0, 0, 0), max(1, extra)
    elif status != 0 and tally.failed + extra == 0:
        notes.append(f"all tests passed, but {status if isinstance(status, str) else f'exit status {status}'}")
        extra = 1
    elif sum(tally) == 0 and not extra:
        notes.append("no test ran")
        extra = 1
    tally = tally._replace(failed=tally.failed + extra)

    show(f"  {label:36} {words(tally):34} {time.monotonic() - start:7.1f} s")
    for note in notes:
        show(f"      {note}")
    for report in reports[:3]:
        for line in pathlib.Path(report).read_text(errors="replace").splitlines()[:25]:
            show(f"      | {line}")
    if tally.failed:
        for line in failure_lines(log):
            show(f"      | {line[:200]}")
        show(f"      log: {log.relative_to(ROOT)}")
    return tally


def words(tally):
    skipped = f", {tally.skipped} skipped" if tally.skipped else ""
    return f"{tally.passed} passed, {tally.failed} failed{skipped}"


def step(title, log_name, command, minutes=20):
    """Something the suites need: its output's last line when it worked, else None."""
    log, start = LOGS / log_name, time.monotonic()
    status = run(command, dict(os.environ), log, minutes)
    show(f"  {title:36} {'done' if status == 0 else 'FAILED':34} {time.monotonic() - start:7.1f} s")
    lines = log.read_text(errors="replace").splitlines()
    if status != 0:
        for line in failure_lines(log):
            show(f"      | {line[:200]}")
        show(f"      log: {log.relative_to(ROOT)}")
        return None
    return lines[-1] if lines else ""


def build(sanitizer, make):
    title = f"build ({sanitizer})" if sanitizer else "build"
    san = [f"SAN={sanitizer}"] if sanitizer else []
    return step(title, f"build-{sanitizer.replace(',', '-') or 'plain'}.log",
                [make, "--no-print-directory", f"-j{os.cpu_count()}", *san, "build", "units"]) is not None


def main():
    names = [s.name for s in SUITES]
    arguments = argparse.ArgumentParser(usage="%(prog)s [--cache DIR] [--make MAKE] [SUITE…]",
                                        epilog="suites: " + " ".join(names))
    arguments.add_argument("--cache", default=".cache")
    arguments.add_argument("--make", default="make")
    arguments.add_argument("suite", nargs="*", choices=[[], *names])
    wanted = arguments.parse_args()
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        os.environ.pop(name, None)  # the suites' make is not part of the caller's
    LOGS.mkdir(parents=True, exist_ok=True)

    start, results = time.monotonic(), []
    model = step("default model", "model.log", ["tools/model.sh", wanted.cache])
    if model is None:
        results.append(Tally(0, 1, 0))
    built = {}
    for suite in SUITES:
        if wanted.suite and suite.name not in wanted.suite:
            continue
        if suite.sanitizer not in built:
            built[suite.sanitizer] = build(suite.sanitizer, wanted.make)
            if not built[suite.sanitizer]:
                results.append(Tally(0, 1, 0))
        if built[suite.sanitizer]:
            results += [run_one(suite, *c, model) for c in commands(suite, wanted.make)]

    total = Tally(*(sum(r[i] for r in results) for i in range(3))) if results else Tally(0, 0, 0)
    show(f"\n{time.monotonic() - start:.0f} s in all; logs in {LOGS.relative_to(ROOT)}/\n")
    show(words(total))
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main())
