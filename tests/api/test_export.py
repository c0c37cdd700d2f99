"""`engramd export` of views that a daemon is serving, read back by docs/digest.py and by a daemon."""

import json
import re
import subprocess
import sys

import pytest

import conftest
from conftest import ENGRAMD, ROOT

TINY = ROOT / "tests" / "golden" / "tiny"
EDIT = {"method": "locft", "message": "before an export",
        "facts": [{"prompt": "The capital of France is", "target_new": "Rome"}]}


def export(daemon, out, *options, model=None):
    return subprocess.run([ENGRAMD, "export", "--data", daemon.data, "--model", model or daemon.model,
                           "--out", str(out), *options], cwd=ROOT, capture_output=True, text=True)


def exported(daemon, out, view):
    """Export, and return the line's (revision, digest)."""
    done = export(daemon, out, "--view", view)
    assert done.returncode == 0 and done.stderr == "", done
    line = re.fullmatch(r"engramd: exported (\S+) \(revision (\S+), digest (sha256:[0-9a-f]{64})\) to (.+)\n",
                        done.stdout)
    assert line and line[1] == view and line[4] == str(out), done.stdout
    return line[2], line[3]


def recomputed(out):
    done = subprocess.run([sys.executable, ROOT / "docs" / "digest.py", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def edit(daemon):
    answer = daemon.post("/v1/edits", EDIT, headers={"Prefer": "wait=60"})
    assert answer.status == 201 and answer.json["status"] == "committed", answer
    assert answer.json["digest"]["before"] != answer.json["digest"]["after"]
    return answer.json


@pytest.mark.parametrize("source", ["gqa_tied", "gqa_tied/gqa_tied.f16.gguf", "gguf_q/gguf_q.gguf", "mha_bf16"])
def test_each_view_is_written_with_the_digest_the_daemon_states(start, tmp_path, source):
    daemon = start(model=TINY / source)
    base = daemon.get("/v1/models").json["models"][0]["base_digest"]
    after = edit(daemon)
    daemon.post("/v1/rollback", {"to": "base"})  # main is the base again, the edit a past revision
    views = {"base": base, "main": base, after["revision"]: after["digest"]["after"]}
    for view, digest in views.items():
        out = tmp_path / view
        revision, stated = exported(daemon, out, view)
        assert stated == digest == recomputed(out)
        assert revision == view or daemon.get(f"/v1/revisions/{revision}").json["digest"] == digest
    dtype = json.loads((tmp_path / after["revision"] / "config.json").read_text())
    assert dtype.get("dtype", dtype.get("torch_dtype")) == "float32"


def test_an_export_is_a_model_like_any_other(start, tmp_path):
    daemon = start(model=TINY / "gguf_q" / "gguf_q.gguf")
    digest = edit(daemon)["digest"]["after"]
    exported(daemon, tmp_path / "out", "main")
    other = start(model=tmp_path / "out")
    assert other.get("/v1/models").json["models"][0]["base_digest"] == digest
    text = {"input": "it's  they'll café 12345 🙂<|im_end|>x"}
    assert other.post("/v1/tokenize", text).json == daemon.post("/v1/tokenize", text).json
    prompt = {"prompt": "The capital of France is", "max_tokens": 8}
    ours, theirs = (d.post("/v1/generate", prompt).json for d in (daemon, other))
    assert ours["ids"] == theirs["ids"] and ours["finish_reason"] == theirs["finish_reason"]
    chat = {"input": {"messages": [{"role": "user", "content": "Where?"}]}}
    assert other.post("/v1/tokenize", chat).json["ids"] == daemon.post("/v1/tokenize", chat).json["ids"]


def refused(done, *words):
    assert done.returncode == 1 and done.stdout == "", done
    assert re.fullmatch(r"engramd: [^\n]+\n", done.stderr), done.stderr
    for word in words:
        assert str(word) in done.stderr, done.stderr


def test_refusals_are_one_sentence_and_write_nothing(daemon, tmp_path):
    out = tmp_path / "out"
    refused(export(daemon, out, "--view", "novel"), "novel")
    refused(export(daemon, out, "--view", "rev_0000"), "rev_0000")
    refused(export(daemon, out, model=TINY / "wide_head"), "base", TINY / "wide_head")
    refused(export(daemon, out, model=tmp_path / "absent"), tmp_path / "absent")
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("x")
    refused(export(daemon, out), out, "not empty")
    assert [f.name for f in out.iterdir()] == ["mine"]
    refused(export(daemon, tmp_path / "no" / "such" / "parent"), tmp_path / "no")


def test_a_ledger_is_not_made_by_looking_for_it(tmp_path):
    nowhere = conftest.Daemon(tmp_path / "nowhere")
    refused(export(nowhere, tmp_path / "out"), tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_exporting_changes_nothing(daemon, tmp_path):
    before = daemon.get("/v1/revisions").json, daemon.get("/v1/audit/verify").json["head"]
    exported(daemon, tmp_path / "out", "main")
    assert before == (daemon.get("/v1/revisions").json, daemon.get("/v1/audit/verify").json["head"])
