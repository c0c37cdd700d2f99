"""The runner's sums: a crash, a hang, a report and an empty run are failures, never silence."""
import importlib.util
import pathlib
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("run_tests", ROOT / "tools/run_tests.py")
runner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runner)

CMOCKA = """[==========] Running 4 test(s).
[ RUN      ] a
[       OK ] a
[==========] 4 test(s) run.
[  PASSED  ] 2 test(s).
[  SKIPPED ] 1 test(s), listed below:
[  SKIPPED ] b
[  FAILED  ] 1 test(s), listed below:
[  FAILED  ] c

 1 FAILED TEST(S)
"""
CRASHED = "[==========] Running 3 test(s).\n[ RUN      ] a\n[       OK ] a\n[ RUN      ] b\n"
GREEN = "[==========] 2 test(s) run.\n[  PASSED  ] 2 test(s).\n"


@pytest.fixture
def one(tmp_path, monkeypatch, capsys):
    """one(shell text, tally, sanitizer): the tally of a program that does this."""
    monkeypatch.setattr(runner, "LOGS", tmp_path)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    def run(text, tally=runner.cmocka_tally, sanitizer="", minutes=1):
        suite = runner.Suite("it", sanitizer, "", "", minutes)
        return runner.run_one(suite, "it/x", ["/bin/sh", "-c", text], tally, None)
    return run


def says(text, status=0):
    return f"cat <<'END'\n{text}\nEND\nexit {status}"


@pytest.mark.parametrize("script, expected", [
    (says(GREEN), (2, 0, 0)),
    (says(CMOCKA, 1), (2, 1, 1)),
    (says(CRASHED, 1), (0, 1, 0)),
    (says(CRASHED) + "; kill -SEGV $$", (0, 1, 0)),
    (says(GREEN, 1), (2, 1, 0)),  # passed, then ended badly
    ("true", (0, 1, 0)),
    (says(GREEN.replace("2", "0")), (0, 1, 0)),  # ran nothing
])
def test_cmocka(one, script, expected):
    assert one(script) == expected


def test_a_program_that_hangs_is_one_failure_and_leaves_nothing(one, tmp_path):
    assert one("sleep 60 & echo $! > child; sleep 60", minutes=0.01) == (0, 1, 0)
    stat = pathlib.Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    for _ in range(100):  # a killed process takes a moment to be gone
        try:
            if stat.read_text().split()[2] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.05)
    raise AssertionError("a child outlived the runner")


def test_every_sanitizer_report_counts(one):
    report = f"echo 'WARNING: ThreadSanitizer' > it-x.report.17; echo > it-x.report.18; {says(GREEN)}"
    assert one(report, sanitizer="thread") == (2, 2, 0)
    assert one(says(GREEN), sanitizer="thread") == (2, 0, 0)  # those of the run before are gone


def test_pytest(one):
    xml = '<testsuites><testsuite tests="7" failures="1" errors="1" skipped="2"/></testsuites>'
    assert one(f"echo '{xml}' > it-x.xml; exit 1", runner.pytest_tally) == (3, 2, 2)
    assert one("echo '7 passed'; exit 2", runner.pytest_tally) == (0, 1, 0)
    assert one(f"echo '{xml[:30]}' > it-x.xml", runner.pytest_tally) == (0, 1, 0)


def test_make(one):
    assert one("echo '26 passed, 0 failed'", runner.last_line_tally) == (26, 0, 0)
    assert one("echo '9 passed, 2 failed, 1 skipped'; exit 1", runner.last_line_tally) == (9, 2, 1)
    assert one("exit 2", runner.last_line_tally) == (0, 1, 0)


def test_a_failed_build_and_an_empty_choice_are_no_success(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(runner, "step", lambda *a, **k: "model")
    monkeypatch.setattr(runner, "build", lambda *a: False)
    monkeypatch.setattr(sys, "argv", ["run_tests.py", "unit"])
    assert runner.main() == 1
    assert capsys.readouterr().out.endswith("\n0 passed, 1 failed\n")
