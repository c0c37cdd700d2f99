"""Regions: members and expressions, held against Python's own sets; canonical forms; and the one that localize makes."""
import hashlib
import json
import random

import pytest


def refused(r, status, field, *words):
    assert r.status == status, r
    p = r.json
    assert p.get("field") == field, p
    for w in words:
        assert w in p["detail"], p


@pytest.fixture(scope="module")
def sizes(daemon):
    m = daemon.get("/v1/models").json["models"][0]
    return m["layers"], m["heads"], m["mlp_width"]


def head(x):
    return {"unit": "head", "members": [{"layer": l, "head": h} for l, h in x]}


def stored(d, expr, name=None):
    r = d.post("/v1/regions", {"expr": expr, **({"name": name} if name else {})})
    assert r.status in (200, 201), r
    return r.json


def check(s, unit, members):
    assert s["unit"] == unit and s["members"] == members, s
    text = json.dumps({"unit": unit, "members": members}, separators=(",", ":"), ensure_ascii=False)
    assert s["hash"] == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_members_are_sorted_and_once(daemon, sizes):
    L, H, m = sizes
    s = stored(daemon, head([(1, 1), (0, 1), (1, 1)]))
    check(s, "head", head([(0, 1), (1, 1)])["members"])
    assert s["size"] == 2 and s["name"] is None
    got = daemon.get(f"/v1/regions/{s['region']}").json
    assert {k: got[k] for k in s} == s
    check(stored(daemon, {"unit": "layer", "members": [{"layer": 1}, {"layer": 0}]}), "layer", [{"layer": 0}, {"layer": 1}])
    check(stored(daemon, {"unit": "neuron", "members": [{"layer": 1, "neuron": m - 1}, {"layer": 0, "neuron": 2}]}), "neuron",
          [{"layer": 0, "neuron": 2}, {"layer": 1, "neuron": m - 1}])
    check(stored(daemon, {"unit": "position", "members": [{"span": "z"}, {"span": "a"}, {"span": "z"}]}), "position", [{"span": "a"}, {"span": "z"}])
    check(stored(daemon, {"unit": "head", "members": []}), "head", [])


def test_algebra(daemon, sizes):
    L, H, _ = sizes
    every = [(l, h) for l in range(L) for h in range(H)]
    rng = random.Random(7)
    for _ in range(12):
        a, b, c = (set(rng.sample(every, rng.randrange(1, len(every)))) for _ in range(3))
        A, B, C = head(a), head(b), head(c)
        for expr, want in (({"union": [A, B, C]}, a | b | c), ({"intersect": [A, B]}, a & b), ({"minus": [A, B]}, a - b),
                           ({"complement": {"union": [A, B]}}, set(every) - a - b), ({"all": "head"}, set(every)),
                           ({"intersect": [{"complement": A}, {"complement": B}]}, set(every) - a - b),
                           ({"complement": {"complement": C}}, c)):
            check(stored(daemon, expr), "head", head(sorted(want))["members"])


def test_tensors_are_bands(daemon):
    name = "model.layers.0.mlp.down_proj.weight"
    one = {"unit": "tensor", "members": [{"tensor": name, "rows": [2, 6], "cols": [1, 3]}]}
    check(stored(daemon, one), "tensor", one["members"])
    two = {"unit": "tensor", "members": [{"tensor": name, "rows": [4, 8], "cols": [2, 5]}]}
    s = stored(daemon, {"union": [one, two]})
    check(s, "tensor", [{"tensor": name, "rows": [2, 4], "cols": [1, 3]}, {"tensor": name, "rows": [4, 6], "cols": [1, 5]},
                        {"tensor": name, "rows": [6, 8], "cols": [2, 5]}])
    assert s["size"] == 2 * 2 + 2 * 4 + 2 * 3
    rows = {"unit": "tensor", "members": [{"tensor": name, "rows": [0, 3]}]}
    check(stored(daemon, rows), "tensor", rows["members"])
    check(stored(daemon, {"union": [rows, {"complement": rows}]}), "tensor", stored(daemon, {"all": "tensor"})["members"])
    check(stored(daemon, {"intersect": [{"unit": "tensor", "members": [{"tensor": name}]}, {"all": "tensor"}]}), "tensor", [{"tensor": name}])
    out = stored(daemon, {"minus": [rows, one]})
    check(out, "tensor", [{"tensor": name, "rows": [0, 2]}, {"tensor": name, "rows": [2, 3], "cols": [0, 1]},
                          {"tensor": name, "rows": [2, 3], "cols": [3, out["members"][2]["cols"][1]]}])


def test_sites(daemon, sizes):
    H = sizes[1]
    z = "blocks.0.attn.hook_z"
    check(stored(daemon, {"unit": "site", "members": [{"site": "z0", "head": 1}, {"site": "resid_pre0"}]}), "site",
          [{"site": "blocks.0.hook_resid_pre"}, {"site": z, "head": 1}])
    check(stored(daemon, {"unit": "site", "members": [{"site": z, "head": h} for h in range(H)]}), "site", [{"site": z}])
    assert {"site": z} in stored(daemon, {"all": "site"})["members"]


def test_names(fresh_daemon):
    d = fresh_daemon
    first = d.post("/v1/regions", {"name": "early", "expr": head([(0, 0)])})
    assert first.status == 201
    again = d.post("/v1/regions", {"name": "early", "expr": {"union": [head([(0, 0)]), head([])]}})
    assert again.status == 200 and again.json == first.json
    new = d.post("/v1/regions", {"name": "early", "expr": {"union": [{"region": "early"}, head([(1, 0)])]}})
    assert new.status == 201
    check(d.get("/v1/regions/early").json, "head", head([(0, 0), (1, 0)])["members"])
    check(stored(d, {"minus": [{"region": "early"}, {"region": first.json["region"]}]}), "head", head([(1, 0)])["members"])
    page = d.get("/v1/regions?limit=2").json
    rest = d.get(f"/v1/regions?limit=2&before={page['next']}").json
    assert [r["region"] for r in page["regions"] + rest["regions"]][1:] == [new.json["region"], first.json["region"]]
    assert rest["next"] is None and all("members" not in r for r in page["regions"])
    assert d.get("/v1/audit/verify").json["ok"]


BAD = {
    "no form": ({}, "expr", "unit"),
    "two forms": ({"all": "head", "union": []}, "expr", "union"),
    "no unit": ({"unit": "word", "members": []}, "expr.unit", "layer"),
    "no list": ({"unit": "head", "members": {}}, "expr.members", "list"),
    "a layer too many": (head([(0, 0), (99, 0)]), "expr.members[1].layer", "0 to"),
    "a head that is none": ({"unit": "head", "members": [{"layer": 0}]}, "expr.members[0].head", "integer"),
    "unknown": ({"unit": "layer", "members": [{"layer": 0, "head": 1}]}, "expr.members[0]", "head"),
    "other units": ({"union": [{"all": "head"}, {"all": "layer"}]}, "expr.union[1]", "layer"),
    "nothing to unite": ({"union": []}, "expr.union", "one"),
    "three to subtract": ({"minus": [{"all": "head"}] * 3}, "expr.minus", "two"),
    "no name": ({"complement": {"region": "nobody"}}, "expr.complement.region", "nobody"),
    "all positions": ({"all": "position"}, "expr.all", "names"),
    "no tensor": ({"unit": "tensor", "members": [{"tensor": "x"}]}, "expr.members[0].tensor", "no tensor"),
    "an empty range": ({"unit": "tensor", "members": [{"tensor": "model.norm.weight", "cols": [3, 3]}]}, "expr.members[0].cols", "within"),
    "no site": ({"unit": "site", "members": [{"site": "nowhere0"}]}, "expr.members[0].site", ""),
    "no heads": ({"unit": "site", "members": [{"site": "resid_pre0", "head": 0}]}, "expr.members[0].head", "no heads"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_expressions(daemon, name):
    expr, field, word = BAD[name]
    before = daemon.get("/v1/regions").json
    r = daemon.post("/v1/regions", {"expr": expr})
    refused(r, 404 if name == "no name" else 400, field, word)
    assert daemon.get("/v1/regions").json == before


def test_bad_names(daemon):
    refused(daemon.post("/v1/regions", {"name": "region_abc", "expr": {"all": "head"}}), 400, "name", "id")
    assert daemon.get("/v1/regions/none").status == 404
    assert daemon.post("/v1/regions", {}).status == 400


LOCALIZE = {"method": "patch", "clean": {"ids": [5, 7, 9]}, "corrupt": {"ids": [5, 8, 9]}, "metric": {"kind": "logit_diff", "answer": 30, "foil": 31},
            "k": 2, "n_control": 2}


def test_localize_saves_its_region_with_its_run(fresh_daemon):
    d = fresh_daemon
    r = d.post("/v1/localize", dict(LOCALIZE, save="best"))
    assert r.status == 200, r
    kept = d.get("/v1/regions/best").json
    assert kept["region"] == r.json["region_id"] and kept["run"] == r.json["run"]
    check(kept, "head", sorted(r.json["region"]["members"], key=lambda u: (u["layer"], u["head"])))
    again = d.post("/v1/localize", dict(LOCALIZE, save="best")).json
    assert again["cached"] is True and again["region_id"] == kept["region"]
    assert "region_id" not in d.post("/v1/localize", LOCALIZE).json
    layers = d.post("/v1/localize", dict(LOCALIZE, save="layers", unit="layer", k=1)).json
    check(d.get("/v1/regions/layers").json, "layer", layers["region"]["members"])
    refused(d.post("/v1/localize", dict(LOCALIZE, save="region_x")), 400, "save", "id")
    assert d.get("/v1/audit/verify").json["ok"]
