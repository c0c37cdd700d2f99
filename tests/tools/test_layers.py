"""tools/layers.sh turns red for every kind of trespass: each is planted in one copy of the tree."""
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("ENGRAM_BUILD", ROOT / "build"))
CODE = ("core", "probes", "edits", "ledger", "server", "schema", "tests/unit/support")

PLANTED = {  # what is appended to which file, and what the proof says then
    "up": ("core/kernel/kv.c", '#include "probes/trace.h"', "core/kernel/kv.c includes probes/trace.h"),
    "back": ("probes/trace.c", '#include "edits/editor.h"', "probes/trace.c includes edits/editor.h"),
    "side": ("ledger/db.c", '#include "probes/trace.h"', "ledger/db.c includes probes/trace.h"),
    "dots": ("ledger/db.c", '#include "../core/kernel/kv.h"', "ledger/db.c includes ../core/kernel/kv.h"),
    "tests": ("edits/locft.c", '#include "tests/unit/support/golden.h"',
              "edits/locft.c includes tests/unit/support/golden.h"),
    "clock": ("core/kernel/kv.c", " # include  <time.h>", "core/kernel/kv.c includes time.h"),
    "stranger": ("server/log.c", "#include <zlib.h>", "server/log.c includes zlib.h"),
    "second door": ("server/log.c", "#include <uv.h>", "included by: server/log.c server/loop.c"),
    "header": ("ledger/sha.h", "struct none x;", "ledger/sha.h: "),
}
LOUD = """#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int seen = 1;
static _Thread_local int often;
int loud(void);
int loud(void)
{
    printf("%d", seen += often++);
    if (getenv("QUIET")) exit(1);
    return (int)time(0);
}
"""
HEARD = ("calls printf", "calls getenv", "calls exit", "calls time", ".data 4 bytes", ".tbss 4 bytes")


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    for folder in CODE:
        shutil.copytree(ROOT / folder, tree / folder)
    build = tree / "build"
    shutil.copytree(BUILD / "gen", build / "gen")
    for library in BUILD.glob("lib*.a"):
        shutil.copy(library, build)
    for name, line, _ in PLANTED.values():
        with open(tree / name, "a") as f:
            f.write(f"\n{line}\n")
    (tree / "loud.c").write_text(LOUD)
    subprocess.run(["cc", "-c", "loud.c"], cwd=tree, check=True)
    subprocess.run(["ar", "rcs", "build/libcore.a", "loud.o"], cwd=tree, check=True)
    return subprocess.run([ROOT / "tools/layers.sh", build, tree], capture_output=True, text=True)


def test_the_proof_is_red(proof):
    assert proof.returncode == 1 and not proof.stdout.rstrip().endswith(" 0 failed")


@pytest.mark.parametrize("planted", PLANTED)
def test_a_trespass_is_found(proof, planted):
    assert PLANTED[planted][2] in proof.stdout, proof.stdout


@pytest.mark.parametrize("heard", HEARD)
def test_an_engine_that_prints_and_remembers_is_found(proof, heard):
    assert f"loud.o {heard}" in proof.stdout, proof.stdout


def test_what_is_in_order_stays_green(proof):
    for line in ("sqlite3.h has one door", "core/: each of", "libprobes.a knows no HTTP"):
        assert f"ok      {line}" in proof.stdout, proof.stdout
