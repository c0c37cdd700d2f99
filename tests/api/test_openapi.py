"""openapi.json is the contract that the daemon really serves."""

import json
import pathlib
import re

import contract
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROUTES = json.loads((ROOT / "schema/routes.json").read_text())
OPENAI = {(r["method"], r["path"]) for r in ROUTES if r.get("dialect") == "openai"}
TYPES = json.loads((ROOT / "schema/types.json").read_text())


@pytest.fixture(scope="module")
def doc(daemon):
    return daemon.get("/openapi.json").json


def nodes(value):
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from nodes(child)


def operations(doc):
    for path, item in doc["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def test_it_names_exactly_the_served_routes(doc):
    served = {(r["method"], r["path"]) for r in ROUTES if r["serves"] != "later"}
    assert {(m, p) for m, p, _ in operations(doc)} == served
    assert doc["openapi"].startswith("3.1.")


def test_every_reference_resolves(doc):
    references = {n["$ref"] for n in nodes(doc) if isinstance(n, dict) and "$ref" in n}
    assert references
    for reference in references:
        assert isinstance(contract.resolve(doc, {"$ref": reference}), dict)


def test_operations_are_complete(doc):
    ids = [o["operationId"] for _, _, o in operations(doc)]
    assert len(set(ids)) == len(ids)
    for method, path, operation in operations(doc):
        declared = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert declared == set(re.findall(r"\{(\w+)\}", path)), path
        assert any(s.startswith("2") for s in operation["responses"]), path
        for status, answer in operation["responses"].items():
            if status[0] in "45":
                said = contract.resolve(doc, answer)["content"]
                assert set(said) == {"application/json" if (method, path) in OPENAI else "application/problem+json"}


def test_what_comes_later_is_left_out(doc):
    later = {(t, name) for t, shape in TYPES.items() for name, f in shape.get("fields", {}).items()
             if f.get("later")}
    assert later >= {("Localize", "multi"), ("Localize", "metrics"), ("Metric", "multi")}
    shown = {(t, name) for t, schema in doc["components"]["schemas"].items()
             for name in schema.get("properties", {})}
    assert not later & shown


def test_later_routes_answer_501(daemon):
    for r in ROUTES:
        if r["serves"] == "later":
            path = re.sub(r"\{\w+\}", "x", r["path"])
            answer = daemon.request(r["method"], path, {} if r["method"] == "POST" else None)
            assert answer.status == 501, path
            assert answer.headers["Content-Type"] == "application/problem+json"


def test_examples_keep_the_contract(doc):
    examples = [(p, o["requestBody"]["content"]["application/json"]) for _, p, o in operations(doc)
                if "requestBody" in o]
    assert any("example" in body for _, body in examples)
    for path, body in examples:
        if "example" in body:
            assert not list(contract.faults(doc, body["schema"], body["example"])), path


@pytest.mark.parametrize("path", ["/v1/models", "/v1/methods", "/v1/revisions", "/v1/branches",
                                  "/v1/runs", "/v1/jobs", "/healthz", "/readyz"])
def test_answers_keep_the_contract(daemon, doc, path):
    answer = daemon.get(path)
    content = doc["paths"][path]["get"]["responses"][str(answer.status)]["content"]
    assert not list(contract.faults(doc, content["application/json"]["schema"], answer.json))


def test_hooks_keep_the_contract(daemon, doc):
    name = daemon.get("/v1/models").json["models"][0]["name"]
    answer = daemon.get(f"/v1/models/{name}/hooks").json
    schema = {"$ref": "#/components/schemas/HookList"}
    assert not list(contract.faults(doc, schema, answer))
    sites = [h["site"] for h in answer["hooks"]]
    assert "blocks.0.attn.hook_z" in sites and len(set(sites)) == len(sites)


def test_the_checker_can_fail(doc):
    edit = {"$ref": "#/components/schemas/Edit"}
    fact = {"prompt": "a", "target_new": "b"}
    assert not list(contract.faults(doc, edit, {"method": "locft", "facts": [fact]}))
    for bad in [{}, {"method": "locft", "facts": []}, {"method": "x", "facts": [fact]},
                {"method": "locft", "facts": [{**fact, "prompt": {"text": "a", "ids": [1]}}]},
                {"method": "locft", "facts": [{**fact, "target": "b"}]}]:
        assert list(contract.faults(doc, edit, bad)), bad


def test_unchanged_files_are_304(daemon):
    for path in ["/openapi.json", "/", "/app.js", "/style.css"]:
        first = daemon.get(path)
        tag = first.headers["ETag"]
        assert first.status == 200 and tag.startswith('"')
        assert daemon.get(path, headers={"If-None-Match": tag}).status == 304
        assert daemon.get(path, headers={"If-None-Match": '"other"'}).status == 200


def test_the_page_asks_no_other_host(daemon):
    page = daemon.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for path in ["/", "/app.js", "/style.css"]:
        text = daemon.get(path).body.decode()
        text = text.replace("http://www.w3.org/2000/svg", "")  # a name, never fetched
        assert "://" not in text and "innerHTML" not in text, path
