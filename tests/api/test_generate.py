"""The generator refuses a contract that contradicts itself or the code. It is run here on altered
copies of schema/."""

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GENERATE = pathlib.Path(os.environ.get("ENGRAM_BUILD", ROOT / "build")) / "schema/generate"


def generate(tmp_path, change=None):
    routes = json.loads((ROOT / "schema/routes.json").read_text())
    types = json.loads((ROOT / "schema/types.json").read_text())
    if change:
        change(routes, types)
    (tmp_path / "routes.json").write_text(json.dumps(routes))
    (tmp_path / "types.json").write_text(json.dumps(types))
    return subprocess.run([GENERATE, tmp_path, "0", ROOT / "server/api/handlers.h", tmp_path / "types.json",
                           tmp_path / "routes.json"], capture_output=True, text=True)


def find(routes, method, path):
    return next(r for r in routes if (r["method"], r["path"]) == (method, path))


CHANGES = {
    "no such": lambda r, t: find(r, "GET", "/v1/runs").update(handler="api_nothing"),
    "no such work": lambda r, t: find(r, "POST", "/v1/edits").update(handler="api_runs"),
    "twice": lambda r, t: r.append({**find(r, "GET", "/v1/runs/{run}"), "path": "/v1/runs/{id}"}),
    "no response shape": lambda r, t: find(r, "GET", "/v1/runs").pop("answers"),
    "there is no type \"Nothere\"": lambda r, t: find(r, "POST", "/v1/edits").update(body="Nothere"),
    "the same JSON type": lambda r, t: t["Pos"]["type"].append("number"),
    "unknown word": lambda r, t: t["Edit"]["fields"]["view"].update(defualt="main"),
    "required, with a default": lambda r, t: t["Edit"]["fields"]["view"].update(required=True),
    "a type of answers inside a request": lambda r, t: t["Edit"]["fields"].update(x={"type": "Job"}),
    "bounds belong to the type": lambda r, t: t["Edit"]["fields"]["view"].update(max=3),
    "dialect \"klingon\"": lambda r, t: find(r, "POST", "/v1/generate").update(dialect="klingon"),
    "exactly names": lambda r, t: t["Patch"]["exactly"].append(["clean", "nothing"]),
}


def test_the_contract_as_it_is(tmp_path):
    done = generate(tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "openapi.json").read_text())["openapi"] == "3.1.0"


@pytest.mark.parametrize("said", CHANGES)
def test_contradictions_are_refused(tmp_path, said):
    done = generate(tmp_path, CHANGES[said])
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
