"""Several models in one daemon: each with its own branches, history and digests; loaded and unloaded
while others work; and what comes back after a crash."""
import json
import os
import shutil
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from conftest import ENGRAMD, MODEL, ROOT, SLOW, scaled
from helpers import TOUCH, beside, committed, edit, fact, keeps, problem

TINY = ROOT / "tests" / "golden" / "tiny"
ONE, TWO, THREE = Path(MODEL).name, "two", "gguf_q"
TWO_PATH, THREE_PATH = TINY / "mha_bf16", TINY / "gguf_q" / "gguf_q.gguf"
OTHERS = ("--model", f"{TWO}={TWO_PATH}", "--model", str(THREE_PATH))
ALL = (ONE, TWO, THREE)
PROMPT = "The capital of France is"
SLOW_EDIT = {"lr": 1e-4, "epochs": 1000, "batch": 1, "loss_floor": 0}


@pytest.fixture(scope="module")
def d(tmp_path_factory):
    from conftest import Daemon
    daemon = Daemon(tmp_path_factory.mktemp("models") / "data", *OTHERS).start()
    yield daemon
    daemon.stop()


@pytest.fixture
def models_dir(tmp_path):
    """A directory of models, with things beside it that are not to be reached."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copytree(TWO_PATH, folder / "two")
    shutil.copytree(TINY / "wide_head", folder / "wide_head")
    shutil.copy(THREE_PATH, folder / "q.gguf")
    shutil.copytree(TINY / "wide_head", tmp_path / "secret")
    return folder


@pytest.fixture
def open_daemon(start, models_dir):
    """One model, and more to be had."""
    return start("--models-dir", str(models_dir))


def models(d):
    return {m["name"]: m for m in keeps(d, "GET", "/v1/models", d.get("/v1/models"))["models"]}


def names(d):
    return [m["name"] for m in d.get("/v1/models").json["models"]]


def history(d, model):
    a = d.get(f"/v1/revisions?model={model}&limit=200")
    assert a.status == 200, a
    return a.json["revisions"]


def digest(d, model):
    return history(d, model)[0]["digest"]


def ids(d, model, **more):
    a = d.post("/v1/generate", {"model": model, "prompt": PROMPT, "max_tokens": 6, **more})
    assert a.status == 200, a
    return a.json["ids"]


def load(d, path, headers=None, **more):
    return d.post("/v1/models", {"path": str(path), **more}, headers)


def loaded(d, path, **more):
    a = load(d, path, **more)
    assert a.status == 201, a
    return keeps(d, "POST", "/v1/models", a)


def unload(d, name):
    left = [m for m in names(d) if m != name] or [None]
    a = d.delete(f"/v1/models/{name}")
    assert a.status == 200, a
    assert keeps(d, "DELETE", "/v1/models/{name}", a) == {"id": name, "object": "model", "deleted": True, "default": left[0]}


def verify(data, *paths):
    done = subprocess.run([ENGRAMD, "verify", "--data", data, *(x for p in paths for x in ("--model", str(p)))],
                          capture_output=True, text=True, timeout=120 * SLOW, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def refused(*args):
    done = subprocess.run([ENGRAMD, *map(str, args)], capture_output=True, text=True, timeout=60 * SLOW, cwd=ROOT)
    assert done.returncode != 0 and done.stdout == "", done
    assert done.stderr.startswith("engramd: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# ---- side by side ----------------------------------------------------------------------------

def test_all_are_listed_in_the_order_they_were_given(d):
    assert d.name == ",".join(ALL)
    a = d.get("/v1/models").json
    assert [m["name"] for m in a["models"]] == [m["id"] for m in a["data"]] == list(ALL)
    assert len({m["base_digest"] for m in a["models"]}) == 3
    for m in a["models"]:
        assert m["head"]["digest"] == m["base_digest"] and m["bytes"] >= m["parameters"] / 2
    assert sorted(m["head"]["seq"] for m in a["models"]) == [1, 2, 3]


def test_the_first_answers_where_none_is_named(d):
    for model in ALL:
        a = d.post("/v1/generate", {"prompt": PROMPT, "max_tokens": 1, **({} if model == ONE else {"model": model})})
        assert a.json["view"]["model"] == model
    assert d.get("/v1/revisions").json["revisions"][0]["model"] == ONE
    assert d.get("/v1/branches").json["branches"][0]["model"] == ONE


@pytest.mark.parametrize("model", ALL)
def test_every_look_is_at_the_model_it_names(d, model):
    one, layers = models(d)[model], models(d)[model]["layers"]
    last = f"blocks.{layers - 1}.hook_resid_post"
    a = d.post("/v1/trace", {"model": model, "inputs": [{"text": PROMPT}], "reads": [{"site": last, "pos": "last"}]})
    assert a.status == 200 and a.json["captures"][0]["shape"] == [1, one["width"]]
    assert a.json["view"] == {"model": model, "name": "main", "revision": one["head"]["revision"], "digest": one["base_digest"]}
    again = d.post("/v1/trace", {"model": model, "inputs": [{"text": PROMPT}], "reads": [{"site": last, "pos": "last"}]})
    assert again.json["cached"] and again.json["captures"] == a.json["captures"]
    assert again.json["view"]["model"] == model
    t = d.post("/v1/tuco", {"model": model, "prompts": [PROMPT]}).json
    assert t["scores"][0]["tuco"] == 0 and t["against"]["model"] == model
    assert len(t["scores"][0]["by_layer"]) == layers
    runs = d.get(f"/v1/runs?model={model}").json["runs"]
    assert {r["model"] for r in runs} == {model} and {a.json["run"], t["run"]} <= {r["run"] for r in runs}
    assert d.get(f"/v1/runs/{a.json['run']}").json["model"] == model
    hooks = d.get(f"/v1/models/{model}/hooks").json["hooks"]
    assert max(h.get("layer") or 0 for h in hooks) == layers - 1
    assert d.post("/v1/tokenize", {"model": model, "text": PROMPT}).json["ids"]


def test_an_unknown_model_is_told_the_names(d):
    answers = [d.get("/v1/revisions?model=three"), d.get("/v1/branches?model=three"), d.get("/v1/runs?model=three"),
               d.get("/v1/jobs?model=three"), d.get("/v1/audit/verify?model=three"),
               d.post("/v1/audit/verify", {"model": "three"})]
    for path, body in (("tokenize", {"text": "x"}), ("generate", {"prompt": "x"}), ("trace", {"inputs": [{"text": "x"}]}),
                       ("tuco", {"prompts": ["x"]}), ("rollback", {"to": "base"}),
                       ("edits", {"method": "locft", "facts": [fact()]})):
        answers.append(d.post(f"/v1/{path}", {"model": "three", **body}))
    for a in answers:
        problem(a, 404, "not-found", "model", ("three", *ALL))
    problem(d.get("/v1/models/three/hooks"), 404, "not-found", "name", ALL)
    problem(d.delete("/v1/models/three"), 404, "not-found", "name", ALL)


def test_a_view_of_another_model_is_refused_clearly(d):
    other = models(d)[TWO]["head"]["revision"]
    before = {m: history(d, m) for m in ALL}
    problem(d.post("/v1/generate", {"prompt": "x", "view": other}), 400, "invalid", "view", ("another model", ONE))
    problem(d.post("/v1/tuco", {"prompts": ["x"], "against": other}), 400, "invalid", "against", "another model")
    problem(d.post("/v1/rollback", {"to": other}), 400, "invalid", "to", "another model")
    write = {"site": "blocks.0.hook_resid_pre", "op": "set", "pos": 0, "from": {"input": "0", "view": other}}
    problem(d.post("/v1/trace", {"inputs": [{"text": "x"}], "writes": [write]}), 400, "invalid",
            "writes[0].from.view", "another model")
    assert {m: history(d, m) for m in ALL} == before
    assert d.get(f"/v1/revisions/{other}").json["model"] == TWO


def test_jobs_say_and_are_listed_by_their_model(d):
    for model in ALL:
        ids(d, model)
        jobs = d.get(f"/v1/jobs?model={model}").json["jobs"]
        assert jobs and {j["model"] for j in jobs} == {model}
    assert {j["model"] for j in d.get("/v1/jobs?limit=200").json["jobs"]} >= set(ALL)


# ---- histories -------------------------------------------------------------------------------

def test_two_models_are_edited_independently(start):
    d = start(*OTHERS)
    base = {m: digest(d, m) for m in ALL}
    said = {m: ids(d, m) for m in ALL}
    etag = d.get(f"/v1/revisions?model={ONE}").headers["etag"]
    a = committed(edit(d, model=TWO))
    assert digest(d, TWO) == a["digest"]["after"] != base[TWO]
    assert digest(d, ONE) == base[ONE] and digest(d, THREE) == base[THREE]
    assert ids(d, ONE) == said[ONE] and ids(d, THREE) == said[THREE]
    assert d.get(f"/v1/revisions?model={ONE}", {"If-None-Match": etag}).status == 304
    b = committed(edit(d, fact("Rome"), TOUCH, model=ONE))
    assert d.get(f"/v1/revisions?model={ONE}", {"If-None-Match": etag}).status == 200
    c = committed(edit(d, fact("Oslo"), TOUCH, model=TWO))
    assert (a["seq"], b["seq"], c["seq"]) == (4, 5, 6)  # one sequence over the ledger
    assert [r["seq"] for r in history(d, TWO)] == [6, 4, 2] and [r["seq"] for r in history(d, ONE)] == [5, 1]
    problem(d.post("/v1/rollback", {"to": a["revision"]}), 400, "invalid", "to")
    back = d.post("/v1/rollback", {"model": TWO, "to": "base"})
    assert back.status == 201 and back.json["digest"] == base[TWO] and ids(d, TWO) == said[TWO]
    assert digest(d, ONE) == b["digest"]["after"]
    ahead = d.post("/v1/rollback", {"model": TWO, "to": c["revision"]})
    assert ahead.json["digest"] == c["digest"]["after"]

    heads = {m: history(d, m)[0]["revision"] for m in ALL}
    stale = {"If-Match": f'"{heads[ONE]}"'}
    problem(edit(d, params=TOUCH, headers=stale, model=TWO), 412)
    committed(edit(d, fact("Kyiv"), TOUCH, headers={"If-Match": f'"{heads[TWO]}"'}, model=TWO))

    all_of_them, one = d.get("/v1/audit/verify").json, d.get(f"/v1/audit/verify?model={ONE}").json
    assert all_of_them["ok"] and one["ok"] and one["seq"] == all_of_them["seq"] == 9
    assert all_of_them["replayed"] == list(ALL) and one["replayed"] == [ONE]
    page = d.get("/metrics").body.decode()
    assert "engramd_models 3\n" in page
    assert f'engramd_model_bytes{{model="{THREE}"}} {models(d)[THREE]["bytes"]}\n' in page
    assert f'engramd_head_seq{{model="{ONE}"}} 5\n' in page and f'engramd_head_seq{{model="{TWO}"}} 9\n' in page
    digests = {m: digest(d, m) for m in ALL}
    d.stop()
    done = verify(d.data, MODEL, f"{TWO}={TWO_PATH}", THREE_PATH)
    assert done["seq"] == 9 and done["replayed"] == list(ALL) and "hint" not in done
    assert verify(d.data, TWO_PATH)["replayed"] == [TWO_PATH.name]
    assert verify(d.data)["replayed"] == [] and "--model" in verify(d.data)["hint"]
    d.start()
    assert {m: digest(d, m) for m in ALL} == digests


def test_each_is_exported_from_the_shared_ledger(start, tmp_path):
    d = start(*OTHERS)
    after = committed(edit(d, params=TOUCH, model=TWO))["digest"]["after"]
    for path, want in ((f"{TWO}={TWO_PATH}", after), (MODEL, digest(d, ONE))):
        out = tmp_path / want[7:20]
        done = subprocess.run([ENGRAMD, "export", "--data", d.data, "--model", str(path), "--out", str(out)],
                              capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and want in done.stdout, done
    assert "given 2 times" in refused("export", "--data", d.data, "--model", MODEL, "--model", TWO_PATH,
                                      "--out", tmp_path / "both")


def test_a_key_belongs_to_the_daemon_not_to_a_model(start):
    d, key = start(*OTHERS), {"Idempotency-Key": "k"}
    first = edit(d, params=TOUCH, headers=key, model=TWO)
    committed(first)
    problem(edit(d, params=TOUCH, headers=key, model=ONE), 409, "idempotency-key-reused")
    assert edit(d, params=TOUCH, headers=key, model=TWO).body == first.body
    assert len(history(d, ONE)) == 1 and len(history(d, TWO)) == 2


# ---- the command line ------------------------------------------------------------------------

def test_command_lines_that_cannot_be_served(tmp_path):
    data = ("--data", tmp_path / "d", "--listen", "127.0.0.1:0")
    assert "two models are called two: " in refused("serve", "--model", f"two={MODEL}", "--model", f"two={TWO_PATH}", *data)
    for pair in ((f"{ONE}={TWO_PATH}", MODEL), (MODEL, f"{ONE}={TWO_PATH}"), (MODEL, MODEL)):
        said = refused("serve", "--model", pair[0], "--model", pair[1], *data)
        assert f"both be called {ONE}; write --model NAME=PATH" in said
    assert "NAME=PATH" in refused("serve", "--model", MODEL, "--model", TWO_PATH, "--name", "x", *data)
    assert "both name" in refused("serve", "--model", f"a={MODEL}", "--name", "x", *data)
    assert "NAME=PATH" in refused("serve", "--model", f"={MODEL}", *data)
    assert "--models-dir" in refused("serve", "--model", MODEL, "--models-dir", tmp_path / "none", *data)
    assert "no directory" in refused("serve", "--model", MODEL, "--models-dir", THREE_PATH, *data)
    for name in ("a\tb", "a@main"):
        assert "control characters, / or @" in refused("serve", "--model", f"{name}={MODEL}", *data)
    assert "control characters, / or @" in refused("serve", "--model", MODEL, "--name", "a@main", *data)
    shutil.copytree(MODEL, tmp_path / "twin")
    said = refused("serve", "--model", MODEL, "--model", tmp_path / "twin", *data)
    assert f'served already, as "{ONE}"' in said and "twin" in said
    assert "/nonexistent" in refused("serve", "--model", MODEL, "--model", "/nonexistent", *data)


def test_a_path_may_hold_an_equals_sign(start, tmp_path):
    shutil.copytree(MODEL, tmp_path / "a=b")
    assert start(model=tmp_path / "a=b").name == "a=b"


def test_models_come_from_the_file_or_from_the_line(start, tmp_path):
    conf = tmp_path / "conf"
    conf.write_text(f"model = x={MODEL}\nmodel = {TWO}={TWO_PATH}\n")
    assert start("--config", str(conf)).name == ONE  # the line wins
    ran = subprocess.Popen([ENGRAMD, "serve", "--data", str(tmp_path / "own"), "--listen", "127.0.0.1:0",
                            "--config", str(conf)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        assert ran.stdout.readline().decode().startswith("engramd: serving x,two on ")
    finally:
        ran.terminate()
        assert ran.wait(40 * SLOW) == 0


def test_a_ledger_takes_new_bases_when_it_is_fresh_or_told_to(start, tmp_path):
    d = start(*OTHERS)  # fresh: all three
    d.stop()
    more = ("--model", str(TINY / "wide_head"))
    said = refused("serve", "--model", MODEL, *more, "--data", d.data, "--listen", "127.0.0.1:0")
    assert "--add-model" in said and "wide_head" in said
    d.options = ("--add-model", *more)
    d.start()
    assert names(d) == [ONE, "wide_head"] and history(d, "wide_head")[0]["seq"] == 4


# ---- after a crash ---------------------------------------------------------------------------

def test_killed_while_both_are_edited_and_started_again(start):
    d = start("--model", f"{TWO}={TWO_PATH}")
    for number in range(scaled(6)):
        before = {m: digest(d, m) for m in (ONE, TWO)}
        answers = {}

        def write(model):
            try:
                answers[model] = edit(d, fact("Lyon", f"It is {number}"), TOUCH, model=model)
            except Exception:  # killed before it answered
                pass
        with beside(partial(write, ONE), partial(write, TWO)):
            time.sleep(0.02 * number * SLOW)
            d.kill()
        d.start()
        for m in (ONE, TWO):
            if m in answers:
                assert digest(d, m) == committed(answers[m])["digest"]["after"]
            else:
                assert len({r["digest"] for r in history(d, m)[:2]} | {before[m]}) <= 2
    d.stop()
    verify(d.data, MODEL, TWO_PATH)


def test_started_again_without_one_of_them(start):
    d = start("--model", f"{TWO}={TWO_PATH}")
    a = committed(edit(d, params=TOUCH, model=TWO))
    b = committed(edit(d, params=TOUCH, model=ONE))
    d.kill()
    d.options = ()
    d.start()
    assert names(d) == [ONE] and digest(d, ONE) == b["digest"]["after"]
    problem(d.get(f"/v1/revisions?model={TWO}"), 404, "not-found", "model")
    row = d.get(f"/v1/revisions/{a['revision']}")
    assert row.status == 200 and row.json["digest"] == a["digest"]["after"] and row.json["model"].startswith("model_")
    for asked in (TWO, row.json["model"]):
        known = (f"the ledger knows \"{TWO}\" ({row.json['model']})", "not loaded", ONE)
        problem(d.get(f"/v1/revisions?model={asked}"), 404, "not-found", "model", known)
        problem(d.get(f"/v1/models/{asked}/hooks"), 404, "not-found", "name", known)
        said = d.post("/v1/completions", {"model": f"{asked}@main", "prompt": "x"})
        assert said.status == 404 and known[0] in said.json["error"]["message"], said
    assert "ledger" not in problem(d.get("/v1/revisions?model=three"), 404, "not-found", "model", ONE)["detail"]
    problem(d.post("/v1/generate", {"prompt": "x", "view": a["revision"]}), 400, "invalid", "view", "another model")
    assert d.get("/v1/audit/verify").json["ok"]
    d.stop()
    d.options = ("--model", f"renamed={TWO_PATH}")
    d.start()
    assert digest(d, "renamed") == a["digest"]["after"] and history(d, "renamed")[0]["model"] == "renamed"
    problem(d.get(f"/v1/revisions?model={TWO}"), 404, "not-found", "model", (TWO, 'it is served as renamed'))


# ---- loading ---------------------------------------------------------------------------------

def test_a_model_is_loaded_edited_unloaded_and_comes_back(open_daemon):
    d = open_daemon
    m = loaded(d, "two")
    assert m["name"] == "two" and m["head"]["seq"] == 2 and names(d) == [ONE, "two"]
    assert m == models(d)["two"]
    said = ids(d, "two")
    a = committed(edit(d, model="two"))
    now = ids(d, "two")
    assert now != said
    unload(d, "two")
    assert names(d) == [ONE]
    problem(d.post("/v1/generate", {"model": "two", "prompt": "x"}), 404, "not-found", "model", ONE)
    problem(d.delete("/v1/models/two"), 404, "not-found", "name", ONE)
    assert d.get(f"/v1/revisions/{a['revision']}").json["digest"] == a["digest"]["after"]
    again = loaded(d, "two", name="second time")
    assert again["head"] == {"revision": a["revision"], "seq": 3, "digest": a["digest"]["after"]}
    assert ids(d, "second time") == now and ids(d, "second time", view="base") == said
    assert [r["seq"] for r in history(d, "second%20time")] == [3, 2]
    assert d.get("/v1/audit/verify").json["ok"]
    d.stop()
    d.start()  # what is served is the command line's
    assert names(d) == [ONE]
    verify(d.data, MODEL, TWO_PATH)


def test_a_load_is_a_job(open_daemon):
    d = open_daemon
    a = load(d, "q.gguf", {"Prefer": "wait=0"}, name="q")
    assert a.status in (201, 202), a  # it may be that quick
    where = "/v1/jobs/" + d.get("/v1/jobs").json["jobs"][0]["id"]
    job = d.finished(where)
    assert job["kind"] == "load" and job["state"] == "done" and job["result"]["name"] == "q" and job["model"] is None
    assert job["progress"] == {"done": job["result"]["parameters"], "total": job["result"]["parameters"], "unit": "parameters"}
    events = list(d.events(where + "/events", headers={"Last-Event-ID": "0"}))
    assert [e for _, e, _ in events][-1] == "result"
    key = {"Idempotency-Key": "once"}
    first = load(d, "two", key)
    assert first.status == 201 and load(d, "two", key).body == first.body


def test_a_load_is_told_again_only_while_it_holds(open_daemon):
    """Its answer says what is loaded: the next daemon loads anew under the same key."""
    d, key = open_daemon, {"Idempotency-Key": "once"}
    first = load(d, "two", key)
    assert first.status == 201
    d.stop()
    d.start()
    assert [m["name"] for m in d.get("/v1/models").json["models"]] == [ONE]
    again = load(d, "two", key)
    assert again.status == 201 and "idempotency-replayed" not in again.headers, again
    assert "two" in [m["name"] for m in d.get("/v1/models").json["models"]]


def test_a_cancelled_request_may_be_made_again_under_its_key(open_daemon):
    d, key = open_daemon, {"Idempotency-Key": "taken back", "Prefer": "wait=0"}
    busy = edit(d, headers={"Prefer": "wait=0"}, params={"epochs": 1000, "loss_floor": 0, "lr": 1e-6})
    a = edit(d, headers=key)
    assert busy.status == a.status == 202
    assert d.delete(a.headers["location"]).json["state"] == "cancelled"
    d.delete(busy.headers["location"])
    d.stop()
    d.start()
    again = edit(d, headers={**key, "Prefer": "wait=60"})
    assert again.status == 201, again


def test_every_model_that_is_named_twice_is_refused(open_daemon, models_dir):
    d = open_daemon
    loaded(d, "two")
    shutil.copytree(models_dir / "two", models_dir / "twin")
    before = d.get("/v1/models").json
    problem(load(d, "wide_head", name="two"), 409, "conflict", "name", '"two"')
    problem(load(d, "two", name="other"), 409, "conflict", "path", '"two"')
    problem(load(d, "twin"), 409, "conflict", "path", ('as "two"', "one base has one history"))
    assert d.get("/v1/models").json == before


def test_paths_that_are_not_allowed(open_daemon, models_dir, tmp_path):
    d, secret = open_daemon, tmp_path / "secret"
    os.symlink(secret, models_dir / "link")
    os.symlink("/etc", models_dir / "etc")
    leaky = models_dir / "leaky"
    shutil.copytree(TINY / "wide_head", leaky)
    (leaky / "model.safetensors").unlink()
    os.symlink(secret / "model.safetensors", leaky / "model.safetensors")
    for path in (secret, "../secret", "two/../../secret", "link", "etc", "leaky", "/", "..", ".", "/etc/passwd",
                 tmp_path / "nothing", "../nothing", "/nothing", str(models_dir) + "-beside"):
        problem(load(d, path), 403, "forbidden", "path", "--models-dir")
    os.symlink(models_dir / "wide_head", models_dir / "inside")
    assert loaded(d, "inside")["name"] == "wide_head"  # a link within is only another spelling
    assert loaded(d, models_dir / "two")["name"] == "two"
    problem(load(d, "nothing"), 400, "invalid", "path", "No such file")
    problem(load(d, models_dir / "nothing"), 400, "invalid", "path", "No such file")
    problem(load(d, "x" * 4000), 400, "invalid", "path")
    problem(load(d, "two\0/x"), 400, "invalid")
    problem(load(d, ""), 400, "invalid", "path")
    for name in ("a/b", "", "a\nb", "x" * 128, f"{ONE}@main", "@", "a@"):
        problem(load(d, "q.gguf", name=name), 400, "invalid", "name")
    assert names(d) == [ONE, "wide_head", "two"]


def test_files_that_are_no_models(open_daemon, models_dir):
    d = open_daemon
    (models_dir / "empty").mkdir()
    (models_dir / "cut.gguf").write_bytes(THREE_PATH.read_bytes()[:5000])
    (models_dir / "text.gguf").write_text("once upon a time")
    for path in ("empty", "cut.gguf", "text.gguf"):
        problem(load(d, path), 400, "invalid", "path", path)
        job = d.job("/v1/jobs/" + d.get("/v1/jobs").json["jobs"][0]["id"])
        assert job["state"] == "failed" and job["error"]["field"] == "path" and path in job["error"]["detail"]
    assert names(d) == [ONE] and len(d.get("/v1/revisions?limit=200").json["revisions"]) == 1


def test_without_the_option_only_what_was_given_is_loaded(start, tmp_path):
    d = start(*OTHERS)
    shutil.copytree(TWO_PATH, tmp_path / "twin")
    for path in (TINY / "wide_head", tmp_path / "twin", TWO_PATH / "model.safetensors", TINY, tmp_path / "nothing"):
        problem(load(d, path), 403, "forbidden", "path", "--models-dir")
    problem(load(d, TWO_PATH), 409, "conflict", "path", f'as "{TWO}"')
    first = committed(edit(d, params=TOUCH))
    for gone, default in zip(ALL, (TWO, THREE)):
        unload(d, gone)
        assert d.post("/v1/generate", {"prompt": "x", "max_tokens": 1}).json["view"]["model"] == default
    unload(d, THREE)
    assert loaded(d, os.path.relpath(MODEL, ROOT))["head"]["revision"] == first["revision"]
    loaded(d, TWO_PATH, name=TWO)
    os.symlink(THREE_PATH, tmp_path / "another spelling")
    loaded(d, tmp_path / "another spelling")
    assert names(d) == list(ALL)


def test_what_was_given_may_lie_outside_the_directory(open_daemon):
    d = open_daemon
    loaded(d, "two")
    unload(d, ONE)
    problem(load(d, os.path.relpath(MODEL, ROOT)), 400, "invalid", "path", "No such file")  # from the directory
    loaded(d, MODEL)
    assert names(d) == ["two", ONE]


def test_only_an_admin_loads_and_unloads(start, models_dir):
    tokens = {name: (name, f"secret-{name}") for name in ("admin", "editor", "prober", "reader")}
    d = start("--models-dir", str(models_dir), tokens=tokens)
    for role in ("editor", "prober", "reader"):
        d.token = f"secret-{role}"
        problem(load(d, "two"), 403, "forbidden")
        problem(d.delete(f"/v1/models/{ONE}"), 403, "forbidden")
        assert names(d) == [ONE]
    d.token = "secret-admin"
    loaded(d, "two")
    base = history(d, "two")[0]
    assert base["author"] == "admin" and base["author_verified"] is True
    d.token = "secret-reader"
    assert digest(d, "two") == base["digest"]
    d.token = "secret-admin"
    unload(d, "two")
    d.token = None
    problem(load(d, "two"), 401)


def test_the_last_model_may_go(open_daemon):
    d = open_daemon
    unload(d, ONE)
    assert d.get("/v1/models").json == {"object": "list", "data": [], "models": []}
    for a in (d.post("/v1/generate", {"prompt": "x"}), d.get("/v1/revisions"), edit(d, params=TOUCH)):
        problem(a, 404, "not-found", "model", "no model is loaded")
    ready = d.get("/readyz")
    assert ready.status == 503 and ready.json["checks"]["model"] == "none"
    assert d.get("/v1/audit/verify").json["ok"] and d.get("/").status == 200
    assert "engramd_models 0\n" in d.get("/metrics").body.decode()
    loaded(d, "two")
    assert d.get("/readyz").status == 200 and ids(d, "two") and d.get("/v1/revisions").json["revisions"][0]["model"] == "two"


# ---- while others work -----------------------------------------------------------------------

def long_edit(d, model, seconds=1.5):
    """An edit that runs about that long; its job's address."""
    began = time.monotonic()
    a = edit(d, fact("x y z"), {**SLOW_EDIT, "epochs": 20}, model=model, mode="dry_run")
    assert a.status == 200, a
    epochs = int(max(20, 20 * seconds / (time.monotonic() - began)))
    a = edit(d, fact("x y z"), {**SLOW_EDIT, "epochs": min(epochs, 1000)}, {"Prefer": "wait=0"}, model=model)
    assert a.status == 202, a
    while d.job(a.headers["location"])["state"] == "queued":
        time.sleep(0.005)
    return a.headers["location"]


@pytest.mark.tsan
def test_a_job_finishes_on_the_model_that_was_unloaded(open_daemon):
    d = open_daemon
    for seconds in (1.5, 5, 20):
        loaded(d, "two")
        where = long_edit(d, "two", seconds)
        unload(d, "two")
        problem(edit(d, params=TOUCH, model="two"), 404, "not-found", "model")
        if d.job(where)["state"] == "running":
            break
    job = d.finished(where)
    assert job["state"] == "done" and job["result"]["status"] == "committed" and job["model"] == "two", job
    assert loaded(d, "two")["head"]["revision"] == job["result"]["revision"]


@pytest.mark.tsan
def test_a_job_of_before_may_not_commit_past_the_model_loaded_anew(open_daemon):
    d = open_daemon
    name = loaded(d, "two")["name"]
    for seconds in (3, 10, 30):  # until the edit outlasts the loading, on however busy a machine
        where = long_edit(d, name, seconds)
        before = history(d, name)
        unload(d, name)
        loaded(d, "two", name="anew")  # beside the running edit
        if d.job(where)["state"] == "running":
            break
        name = "anew"
    job = d.finished(where)
    assert job["state"] == "failed" and job["error"]["type"] == "branch-moved", job
    assert [r["revision"] for r in history(d, "anew")] == [r["revision"] for r in before]
    a = committed(edit(d, params=TOUCH, model="anew"))
    assert digest(d, "anew") == a["digest"]["after"]
    d.stop()
    verify(d.data, MODEL, TWO_PATH)


@pytest.mark.tsan
def test_loading_and_unloading_while_requests_run(open_daemon):
    d, over, wrong = open_daemon, threading.Event(), []
    ours = ids(d, ONE)
    theirs = {"two": loaded(d, "two") and ids(d, "two")}
    unload(d, "two")

    def ask(model, allowed):
        while not over.is_set():
            a = d.post("/v1/generate", {"model": model, "prompt": PROMPT, "max_tokens": 6})
            if a.status not in allowed or (a.status == 200 and a.json["ids"] != (theirs.get(model) or ours)):
                wrong.append((model, a))

    def read():
        while not over.is_set():
            for path, allowed in (("/v1/models", (200,)), ("/v1/revisions?model=two", (200, 404)), ("/v1/jobs", (200,)),
                                  (f"/v1/revisions?model={ONE}", (200,)), ("/v1/audit/verify", (200, 202)),
                                  ("/metrics", (200,)), ("/v1/models/two/hooks", (200, 404))):
                a = d.get(path)
                if a.status not in allowed:
                    wrong.append((path, a))

    with beside(partial(ask, ONE, (200,)), partial(ask, "two", (200, 404)), partial(ask, "two", (200, 404)), read):
        try:
            for _ in range(scaled(12)):
                loaded(d, "two")
                time.sleep(0.05)
                unload(d, "two")
        finally:
            over.set()
    assert not wrong, wrong[:3]
    assert len(loaded(d, "two") and history(d, "two")) == 1


def test_memory_comes_back(open_daemon, models_dir):
    d = open_daemon
    def resident():
        page = d.get("/metrics").body.decode()
        return float(next(line.split()[1] for line in page.splitlines() if line.startswith("engramd_resident_bytes")))
    size = loaded(d, "two")["bytes"]
    unload(d, "two")
    before = resident()
    rounds = max(20, int(40e6 / size))  # more than forty megabytes, were they kept
    for _ in range(min(rounds, 60)):
        loaded(d, "two")
        unload(d, "two")
    assert SLOW > 1 or resident() - before < min(rounds, 60) * size / 2 + 16e6


LARGE = pytest.mark.skipif("ENGRAM_MODEL" not in os.environ, reason="needs the default model's file")


@LARGE
def test_others_answer_while_a_large_model_is_read(start):
    large = Path(os.environ["ENGRAM_MODEL"]).resolve()
    d = start("--models-dir", str(large.parent))
    ids(d, ONE)
    a = load(d, large, {"Prefer": "wait=0"}, name="large")
    assert a.status == 202
    answered = seen = 0
    while (job := d.job(a.headers["location"]))["state"] in ("queued", "running"):
        ids(d, ONE)
        assert names(d)[0] == ONE
        answered += 1
        seen += 0 < job["progress"]["done"] < (job["progress"]["total"] or 0)
    assert job["state"] == "done", job
    assert answered >= 3 and seen >= 1
    assert names(d) == [ONE, "large"] and ids(d, "large", max_tokens=1)


@LARGE
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_ended_while_a_model_is_read(start, end):
    large = Path(os.environ["ENGRAM_MODEL"]).resolve()
    d = start("--models-dir", str(large.parent))
    first = load(d, large, {"Prefer": "wait=0"}, name="large")
    second = load(d, large, {"Prefer": "wait=0"}, name="waits")
    assert first.status == second.status == 202
    while d.job(first.headers["location"])["state"] == "queued":
        time.sleep(0.005)
    getattr(d, end)()
    d.start()
    assert names(d) == [ONE]
    for a in (first, second):
        job = d.job(a.headers["location"])
        assert job["state"] == "done" or job["error"]["type"] == "interrupted", job
    assert job["state"] == "failed"
    d.stop()
    verify(d.data, MODEL)
