"""tests/parity/ioi_parity.py on a tiny GPT-2, since the real one is seldom at hand: that it measures what it
says, that its comparison passes on the published numbers and on nothing else, and that without weights it
skips aloud and counts nothing.
"""
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, Daemon

PARITY = ROOT / "tests" / "parity"
TINY = ROOT / "tests" / "golden" / "families" / "gpt2"
sys.path.insert(0, str(PARITY))
import common  # noqa: E402
import ioi_parity as ioi  # noqa: E402


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("ioi") / "data", model=TINY).start()
    yield common.Client(d.url)
    d.stop()


@pytest.fixture(scope="module")
def measured(client):
    """Of eight random pairs of the published shape: 15 ids that differ at two places, the first at 10."""
    rng, pairs = random.Random(5), []
    for _ in range(4):
        a = [1] + [rng.randrange(3, 264) for _ in range(ioi.LENGTH - 1)]
        b = a[:ioi.FIRST] + [a[ioi.FIRST] % 200 + 7] + a[ioi.FIRST + 1:]
        answer, foil = rng.sample(range(3, 264), 2)
        pairs += [(a, b, answer, foil), (b, a, foil, answer)]
    return ioi.Measured(client, pairs)


def test_grids_are_normalised_means_over_the_prompts(client, measured):
    m = measured
    diffs = []
    for which in (0, 1):
        reply = client.call("POST", "/v1/trace", {"inputs": [{"id": f"p{i}", "ids": p[which]} for i, p in enumerate(m.pairs)],
                                                  "top_k": 264, "top_pos": "last"})
        tops = [{t["id"]: t["logit"] for t in i["top"][0]} for i in reply["inputs"]]
        diffs.append(sum(top[p[2]] - top[p[3]] for top, p in zip(tops, m.pairs)) / 8)
    assert abs(m.clean - diffs[0]) <= 1e-4 and abs(m.corrupt - diffs[1]) <= 1e-4
    assert abs(m.clean + m.corrupt) <= 1e-4 and abs(m.clean) > 1e-2  # partners are each other's corrupt prompt
    assert [len(m.resid), len(m.resid[0]), len(m.z), len(m.z[0])] == [2, 15, 2, 4]
    assert all(row[p] == 0 for row in m.resid for p in range(ioi.FIRST))
    assert abs(m.resid[0][ioi.FIRST] - 1) <= 1e-3  # the one place where they differ, at the bottom: all is restored


@pytest.mark.parametrize("site, pos, head", [("hook_resid_pre", ioi.FIRST, None), ("hook_resid_pre", ioi.LAST, None),
                                             ("attn.hook_z", "all", 0), ("attn.hook_z", "all", 3)])
def test_a_cell_by_a_write_is_the_grids_cell(measured, site, pos, head):
    grid = measured.resid if head is None else measured.z
    for layer in range(2):
        assert abs(measured.cell(site, layer, head, pos) - grid[layer][pos if head is None else head]) <= 1e-3


@pytest.mark.parametrize("site, pos, values", ioi.CELLS)
def test_every_site_of_the_published_cells_can_be_written(measured, site, pos, values):
    head = 1 if isinstance(next(iter(values)), tuple) else None
    assert any(abs(measured.cell(site, layer, head, pos)) > 1e-4 for layer in range(2))


def as_published(**changed):
    """What GPT-2 small must give."""
    resid = [[0.0] * ioi.LENGTH for _ in range(12)]
    for pos, column in ioi.RESID.items():
        for layer, value in enumerate(column):
            resid[layer][pos] = value
    z = [[ioi.Z.get((l, h), 0.01) for h in range(12)] for l in range(12)]
    cells = {(site, layer, pos): value for site, pos, values in ioi.CELLS for layer, value in values.items()}
    return SimpleNamespace(**{"clean": ioi.CLEAN, "corrupt": -ioi.CLEAN, "resid": resid, "z": z, "cell": (
        lambda site, layer, head, pos: cells[site, layer if head is None else (layer, head), pos])} | changed)


def compared(m):
    tally = common.Tally()
    ioi.compare_grids(tally, m)
    ioi.compare_cells(tally, m)
    return tally.passed, tally.failed


def test_the_comparison_passes_on_the_published_numbers_alone(capsys):
    count = 2 + 1 + 3 + 2 + len(ioi.CELLS)
    assert compared(as_published()) == (count, 0)
    assert compared(as_published(clean=3.5)) == (count - 1, 1)
    good = as_published()
    for grid, at in (("resid", (3, 4)), ("resid", (8, ioi.FIRST)), ("z", (9, 9)), ("z", (2, 2))):
        broken = [list(row) for row in getattr(good, grid)]
        broken[at[0]][at[1]] += 0.1
        assert compared(as_published(**{grid: broken})) == (count - 1, 1)
    nudged = lambda site, layer, head, pos: good.cell(site, layer, head, pos) + 0.002 * (site == "attn.hook_k")
    assert compared(as_published(cell=nudged)) == (count - 1, 1)
    assert capsys.readouterr().out.count("FAIL") == 6


def script(tmp_path, **env):
    return subprocess.run([sys.executable, str(PARITY / "ioi_parity.py"), "--model", str(tmp_path / "default.gguf"),
                           "--engramd", os.environ.get("ENGRAMD", str(ROOT / "build" / "engramd"))], capture_output=True, text=True,
                          env={k: v for k, v in os.environ.items() if k not in ("ENGRAM_GPT2", "ENGRAM_CACHE")} | env)


def test_without_weights_it_skips_aloud_and_counts_nothing(tmp_path):
    done = script(tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("skipped: GPT-2 small is not here")
    assert done.stdout.endswith("\n0 passed, 0 failed\n")


def test_weights_that_are_not_gpt2_small_are_refused(tmp_path):
    done = script(tmp_path, ENGRAM_GPT2=str(TINY))
    assert done.returncode == 1 and "is not GPT-2 small" in done.stderr and "passed" not in done.stdout
    assert script(tmp_path, ENGRAM_GPT2=str(tmp_path / "nowhere")).returncode == 1
    (tmp_path / "gpt2").symlink_to(TINY)  # found by its place
    assert "is not GPT-2 small" in script(tmp_path).stderr


def test_partners_name_each_other():
    texts = list(ioi.prompts())
    assert texts[0] == ("When John and Mary went to the shops, John gave the bag to", " Mary", " John")
    assert texts[1] == ("When John and Mary went to the shops, Mary gave the bag to", " John", " Mary")
    assert len(texts) == 8 and {a for _, a, _ in texts} == set(ioi.IDS)
