"""Reading the history: lists, pages, tags, and what is refused."""

import re

import pytest

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def rollback(daemon, n=1):
    for _ in range(n):
        answer = daemon.post("/v1/rollback", {"to": "base", "message": "again"})
        assert answer.status in (200, 201), answer.json


def test_a_ledger_begins_with_the_base(fresh_daemon):
    answer = fresh_daemon.get("/v1/revisions")
    assert answer.status == 200 and answer.json["next"] is None
    [base] = answer.json["revisions"]
    assert base["kind"] == "base" and base["seq"] == 1 and base["parent"] is None
    assert DIGEST.fullmatch(base["digest"])
    assert fresh_daemon.get("/v1/models").json["models"][0]["base_digest"] == base["digest"]
    assert fresh_daemon.get(f"/v1/revisions/{base['revision']}").json == base
    [branch] = fresh_daemon.get("/v1/branches").json["branches"]
    assert branch["branch"] == "main" and branch["head"] == base
    assert fresh_daemon.get("/v1/runs").json["runs"] == []


def test_the_list_is_304_until_the_head_moves(fresh_daemon):
    first = fresh_daemon.get("/v1/revisions")
    tag = {"If-None-Match": first.headers["ETag"]}
    unchanged = fresh_daemon.get("/v1/revisions", headers=tag)
    assert unchanged.status == 304 and unchanged.body == b""
    assert unchanged.headers["ETag"] == first.headers["ETag"]
    assert fresh_daemon.get("/v1/revisions?limit=7", headers=tag).status == 200  # another question
    rollback(fresh_daemon)
    changed = fresh_daemon.get("/v1/revisions", headers=tag)
    assert changed.status == 200 and changed.headers["ETag"] != first.headers["ETag"]
    assert [r["seq"] for r in changed.json["revisions"]] == [2, 1]


def test_pages_join_into_the_whole(fresh_daemon):
    rollback(fresh_daemon, 6)
    whole = fresh_daemon.get("/v1/revisions").json
    assert [r["seq"] for r in whole["revisions"]] == [7, 6, 5, 4, 3, 2, 1] and whole["next"] is None
    joined, path = [], "/v1/revisions?limit=3"
    for _ in range(3):
        page = fresh_daemon.get(path).json
        joined += page["revisions"]
        path = f"/v1/revisions?limit=3&before={page['next']}"
    assert page["next"] is None and joined == whole["revisions"]
    exact = fresh_daemon.get("/v1/revisions?limit=7").json
    assert len(exact["revisions"]) == 7 and exact["next"] is None


def test_empty_parameters_are_absent_ones(daemon):
    assert daemon.get("/v1/runs?kind=&view=&limit=&before=").status == 200
    assert daemon.get("/v1/revisions?before=").json == daemon.get("/v1/revisions").json


@pytest.mark.parametrize("path, field, said", [
    ("/v1/revisions?limit=0", "limit", "between 1 and 200"),
    ("/v1/revisions?limit=201", "limit", "between 1 and 200"),
    ("/v1/revisions?limit=many", "limit", "an integer"),
    ("/v1/revisions?limit=1.5", "limit", "an integer"),
    ("/v1/revisions?before=-3", "before", "between"),
    ("/v1/revisions?limt=3", "limt", 'did you mean "limit"'),
    ("/v1/runs?knid=x", "knid", 'did you mean "kind"'),
    ("/v1/runs?kind=tracing", "kind", "localize"),
    ("/v1/models?x=1", "x", "unknown parameter"),
])
def test_bad_queries_are_named(daemon, path, field, said):
    answer = daemon.get(path)
    assert answer.status == 400 and answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["field"] == field and said in answer.json["detail"]


@pytest.mark.parametrize("path", ["/v1/revisions/rev_none", "/v1/revisions?branch=none", "/v1/runs/run_none",
                                  "/v1/runs?view=none", "/v1/edits/edit_none", "/v1/deltas/delta_none", "/v1/models/none/hooks",
                                  "/v1/revisions?model=none", "/v1/branches?model=none"])
def test_what_is_not_there_is_404(daemon, path):
    answer = daemon.get(path)
    assert answer.status == 404 and answer.json["status"] == 404


def test_runs_are_found_by_kind_and_view(start):
    d = start()
    base = d.revisions()[0]
    run = d.post("/v1/trace", {"inputs": [{"text": "a"}]}).json["run"]
    tuco = d.post("/v1/tuco", {"prompts": ["a"]}).json["run"]
    rollback(d, 1)
    found = lambda **q: [r["run"] for r in d.get("/v1/runs?" + "&".join(f"{k}={v}" for k, v in q.items())).json["runs"]]
    assert found(kind="trace") == [run] and found(kind="tuco") == [tuco] and len(found(kind="rollback")) == 1
    assert found(kind="patch") == found(kind="edit") == []
    for view in ("base", base["revision"], base["digest"]):
        assert found(kind="trace", view=view) == [run], view
    assert found(kind="trace", view="main") == []  # the branch has moved on
    later = d.post("/v1/trace", {"inputs": [{"text": "b"}]}).json["run"]
    assert found(view="main") == [later] and found(kind="tuco", view="main") == []
    assert found(view="sha256:" + "0" * 64) == []
    kinds = {r["kind"] for r in d.get("/v1/runs").json["runs"]}
    doc = d.get("/openapi.json").json["paths"]["/v1/runs"]["get"]["parameters"]
    assert kinds <= set(next(p for p in doc if p["name"] == "kind")["schema"]["enum"])


def test_base_is_no_ordinary_branch_name(daemon):
    assert daemon.get("/v1/revisions?branch=base").status == 404
