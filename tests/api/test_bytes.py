"""Captures as bytes: .npy, .npz and safetensors, read by others (numpy, zipfile, a small reader of
safetensors), equal to the JSON answer; where they may be asked for, and what tells what they are."""
import io
import json
import struct
import zipfile

import numpy as np
import pytest
from helpers import keeps, problem
from reference import safetensors
from test_hooks import IDS

NPY, NPZ, ST = "application/x-npy", "application/x-npz", "application/safetensors"
READS = [{"input": "a", "site": "resid_pre1"}, {"site": "attn_scores0", "head": [1, 2]}, {"input": "b", "site": "z2", "pos": [0, -1]},
         {"input": "a", "site": "resid_pre1", "pos": 3}, {"input": "a", "site": "resid_pre1", "grad_of": {"kind": "loss"}},
         {"input": "a", "site": "scale", "pos": "last"}, {"input": "a", "site": "resid_pre1", "pos": [1, 2], "grad_of": {"kind": "loss"}}]
BODY = {"inputs": [{"id": "a", "ids": IDS}, {"id": "b", "ids": IDS[:5]}], "reads": READS, "top_k": 2}
NAMES = ["a/blocks.1.hook_resid_pre", "a/blocks.0.attn.hook_attn_scores", "b/blocks.0.attn.hook_attn_scores", "b/blocks.2.attn.hook_z",
         "a/blocks.1.hook_resid_pre.2", "a/blocks.1.hook_resid_pre.grad", "a/ln_final.hook_scale", "a/blocks.1.hook_resid_pre.grad.2"]


def fetch(d, accept, body=BODY, **headers):
    a = d.post("/v1/trace", body, {"Accept": accept, **headers})
    assert a.status == 200, a
    return a


def described(d, answer):
    """The run that the answer's Link names: its result, without values."""
    link = answer.headers["Link"]
    assert link.startswith("</v1/runs/run_") and link.endswith('>; rel="describedby"'), link
    run = d.get(link[1:link.index(">")])
    assert run.status == 200, run
    return keeps(d, "GET", "/v1/runs/{run}", run)["result"]


def values(capture):
    """-inf is null in JSON, and only scores have any."""
    return np.array([-np.inf if v is None else v for v in capture["values"]], "<f4").reshape(capture["shape"])


def same(array, capture):
    assert array.dtype == np.float32 and array.flags.c_contiguous
    assert array.tobytes() == values(capture).tobytes() and list(array.shape) == capture["shape"]


@pytest.fixture(scope="module")
def wanted(daemon):
    return keeps(daemon, "POST", "/v1/trace", daemon.post("/v1/trace", BODY))


def without_values(answer):
    """As a description has it: names in place of values."""
    captures = [{k: v for k, v in c.items() if k != "values"} | {"name": n} for c, n in zip(answer["captures"], NAMES, strict=True)]
    return {**answer, "captures": captures, "run": None, "cost": None}


def test_an_npz_is_the_json_answer(daemon, wanted):
    a = fetch(daemon, NPZ)
    assert a.headers["Content-Type"] == NPZ
    with np.load(io.BytesIO(a.body)) as z:
        assert z.files == NAMES + ["answer.json"]
        for name, capture in zip(NAMES, wanted["captures"], strict=True):
            same(z[name], capture)
        answer = json.loads(z["answer.json"])
    assert answer == described(daemon, a)
    assert {**answer, "run": None, "cost": None} == without_values(wanted)
    assert np.isinf(values(wanted["captures"][1])).any()
    archive = zipfile.ZipFile(io.BytesIO(a.body))
    assert archive.testzip() is None and all(i.compress_type == zipfile.ZIP_STORED for i in archive.infolist())
    assert all(i.date_time == (1980, 1, 1, 0, 0, 0) for i in archive.infolist())


def test_safetensors_are_the_json_answer(daemon, wanted):
    a = fetch(daemon, ST)
    assert a.headers["Content-Type"] == ST
    got = safetensors(a.body)
    assert list(got) == NAMES
    for name, capture in zip(NAMES, wanted["captures"], strict=True):
        assert got[name].tobytes() == values(capture).tobytes() and list(got[name].shape) == capture["shape"]
    n = struct.unpack("<Q", a.body[:8])[0]
    meta = json.loads(a.body[8:8 + n])["__metadata__"]
    assert meta["format"] == "engramd.trace.1" and json.loads(meta["answer"]) == described(daemon, a)
    assert n % 8 == 0


@pytest.mark.parametrize("read", READS[:1] + READS[3:])
def test_an_npy_is_one_capture(daemon, read):
    body = {**BODY, "reads": [{**read, "input": "a"}]}
    a = fetch(daemon, NPY, body)
    assert a.headers["Content-Type"] == NPY
    array = np.load(io.BytesIO(a.body))
    same(array, daemon.post("/v1/trace", body).json["captures"][0])
    assert described(daemon, a)["captures"][0]["shape"] == list(array.shape)
    assert len(a.body) == 128 + array.nbytes  # data begin at a multiple of 64


@pytest.mark.parametrize("accept, want", [
    ("application/zip", NPZ), ("application/npz", NPZ), ("application/npy", None), ("application/vnd.safetensors", ST), ("APPLICATION/X-SAFETENSORS", ST),
    ("application/json", "application/json"), ("*/*", "application/json"), ("", "application/json"), ("text/html", "application/json"),
    (f"application/json;q=0.5, {NPZ}", NPZ), (f"{NPZ};q=0.2, application/json;q=0.8", "application/json"), (f"{ST}, {NPZ}", ST),
    (f"{NPZ};q=0.9,{ST}; q=1.0", ST), (f"{NPZ};q=0, */*", "application/json"), (f"{NPZ}, */*;q=0.1", NPZ), ("application/*", "application/json"),
])
def test_accept_chooses(daemon, accept, want):
    a = daemon.post("/v1/trace", BODY, {"Accept": accept})
    if want is None:
        problem(a, 400, "invalid", "Accept", "holds one array")
    else:
        assert a.status == 200 and a.headers["Content-Type"] == want


def test_an_npy_of_several_is_refused(daemon):
    for reads in ([], READS):
        problem(daemon.post("/v1/trace", {**BODY, "reads": reads}, {"Accept": NPY}), 400, "invalid", "Accept", ["one array", NPZ])


def test_no_captures_are_an_empty_archive(daemon):
    with np.load(io.BytesIO(fetch(daemon, NPZ, {**BODY, "reads": []}).body)) as z:
        assert z.files == ["answer.json"]
    assert safetensors(fetch(daemon, ST, {**BODY, "reads": []}).body) == {}


def test_names_are_safe_in_a_file_system(daemon):
    ids = ["..", "../../etc/passwd", ".hidden", "ä ö", "a/b", "a_b", "x" * 127, "C:\\x"]
    body = {"inputs": [{"id": i, "ids": IDS[:2]} for i in ids], "reads": [{"site": "embed"}], "top_k": 0}
    a = fetch(daemon, NPZ, body)
    with zipfile.ZipFile(io.BytesIO(a.body)) as z:
        names = z.namelist()
    assert len(set(names)) == len(ids) + 1
    for name in names[:-1]:
        folder, file = name.split("/")
        assert folder and not folder.startswith(".") and set(folder) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        assert file.startswith("hook_embed")
    assert [n.split("/")[0] for n in names[4:6]] == ["a_b", "a_b"] and names[5].endswith("hook_embed.2.npy")
    assert [c["input"] for c in described(daemon, a)["captures"]] == ids


def test_bytes_hold_more_than_json(daemon):
    inputs = [{"ids": [5 + i] * 250} for i in range(20)]
    body = {"inputs": inputs, "reads": [{"site": "blocks.*.attn.hook_pattern"}], "top_k": 0}  # 15 million values
    a = daemon.post("/v1/trace", body)
    problem(a, 413, "too-large", "reads", ["at most", NPZ, NPY, ST])
    got = safetensors(fetch(daemon, ST, body, Prefer="wait=600").body)
    assert len(got) == 60 and sum(v.size for v in got.values()) == 20 * 3 * 4 * 250 * 250
    assert np.allclose(got["7/blocks.1.attn.hook_pattern"].sum(-1), 1, atol=1e-5)
    too_many = {**body, "inputs": [{"ids": [5] * 256}] * 90}
    problem(daemon.post("/v1/trace", too_many, {"Accept": ST}), 413, "too-large", "reads", "at most")


def test_bytes_of_a_job(daemon):
    """Told its address at first, the caller fetches them there; the job itself is JSON."""
    a = daemon.post("/v1/trace", {**BODY, "top_k": 3}, {"Accept": NPZ, "Prefer": "wait=0"})
    if a.status == 202:
        at = a.headers["Location"]
        job = daemon.finished(at)
        assert job["state"] == "done" and [c["name"] for c in job["result"]["captures"]] == NAMES
        a = daemon.get(at, {"Accept": NPZ})
        assert daemon.get(at, {"Accept": ST}).json["id"] == job["id"]  # not the kind that was asked for
        assert daemon.get(at).headers["Content-Type"] == "application/json"
    assert a.status == 200 and a.headers["Content-Type"] == NPZ
    with np.load(io.BytesIO(a.body)) as z:
        assert z.files == NAMES + ["answer.json"]


def test_bytes_are_always_run(daemon):
    body = {**BODY, "top_k": 1}
    first, again = fetch(daemon, NPZ, body), fetch(daemon, NPZ, body)
    assert first.headers["Link"] != again.headers["Link"]
    assert "cached" not in daemon.post("/v1/trace", body).json  # a description without values is no answer
    assert daemon.post("/v1/trace", body).json["cached"] is True
    assert "cached" not in described(daemon, fetch(daemon, NPZ, body))


def test_a_key_and_bytes_do_not_go_together(daemon):
    problem(daemon.post("/v1/trace", BODY, {"Accept": ST, "Idempotency-Key": "one"}), 400, "invalid", "Idempotency-Key", "not kept")


def test_problems_stay_json(daemon):
    a = daemon.post("/v1/trace", {**BODY, "reads": [{"site": "nowhere"}]}, {"Accept": NPZ})
    problem(a, 400, "invalid", "reads[0].site")
    assert daemon.post("/v1/trace", BODY, {"Accept": NPZ, "Prefer": "wait=0"}).status in (200, 202)


def test_generation_is_json_whatever_is_accepted(daemon):
    a = daemon.post("/v1/generate", {"prompt": {"ids": IDS}, "max_tokens": 1}, {"Accept": NPZ})
    assert a.status == 200 and a.headers["Content-Type"] == "application/json"
