"""Means and differences of means as sources, against numpy's runs and against the same vector given as values."""
import numpy as np
import pytest
from helpers import problem
from reference import Model, expected

IDS = expected("gqa_tied")[0]["sequences"]
PLUS, MINUS = [IDS[0][:5], IDS[1]], [IDS[0][3:9], IDS[0][::-1], IDS[1][:2]]
SITES = ["hook_resid_post", "hook_mlp_out", "attn.hook_z", "attn.hook_k"]


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


def ids(texts):
    return [{"ids": t} for t in texts]


def mean(model, texts, site, take):
    return np.mean([take(model.run(t)[0][site]) for t in texts], axis=0)


def last(x):
    return x[-1]


def average(x):
    return x.mean(0)


def same(a, b):
    """As close as a vector's rounding allows."""
    top = [{t["id"]: t["logit"] for t in x["inputs"][0]["top"][0]} for x in (a, b)]
    assert all(abs(top[0][i] - top[1][i]) < 1e-4 for i in top[0])


def trace(d, write):
    a = d.post("/v1/trace", {"inputs": [{"ids": IDS[0]}], "top_k": 300, "writes": [write]})
    assert a.status == 200, a
    return a.json


@pytest.mark.parametrize("pos, take", [("last", last), ("mean", average)])
@pytest.mark.parametrize("site", SITES)
def test_a_difference_is_that_of_the_means(daemon, model, site, pos, take):
    site = f"blocks.1.{site}"
    v = mean(model, PLUS, site, take) - mean(model, MINUS, site, take)
    write = {"site": site, "op": "add", "weight": 3}
    a = trace(daemon, {**write, "from": {"difference": {"plus": ids(PLUS), "minus": ids(MINUS), "pos": pos}}})
    assert np.isclose(a["writes"][0]["norms"][0], np.linalg.norm(v), rtol=1e-4)
    same(a, trace(daemon, {**write, "from": {"values": v.ravel().tolist()}}))
    assert not np.allclose(model.logits(IDS[0])[-1][a["inputs"][0]["top"][0][0]["id"]], a["inputs"][0]["top"][0][0]["logit"], atol=1e-2)


@pytest.mark.parametrize("pos, take", [({}, last), ({"pos": "all"}, average), ({"pos": [0, 1]}, lambda x: x[:2].mean(0))])
def test_a_mean_over_inputs(daemon, model, pos, take):
    site = "blocks.0.hook_attn_out"
    v = mean(model, MINUS, site, take)
    write = {"site": site, "pos": [2, 4]}
    a = trace(daemon, {**write, "from": {"mean_of": ids(MINUS), **pos}})
    assert np.isclose(a["writes"][0]["norms"][0], np.linalg.norm(v), rtol=1e-4) and a["writes"][0]["elements"] == 2 * v.size
    same(a, trace(daemon, {**write, "from": {"values": v.tolist()}}))


def test_the_mean_of_a_text_alone_is_itself(daemon):
    write = {"site": "blocks.1.hook_resid_mid", "pos": "last"}
    plain = daemon.post("/v1/trace", {"inputs": [{"ids": IDS[0]}], "top_k": 300}).json
    a = trace(daemon, {**write, "from": {"mean_of": ids([IDS[0]])}})
    assert a["inputs"][0]["top"] == plain["inputs"][0]["top"] and a["writes"][0]["max_change"] == 0


def test_some_heads_and_several_layers(daemon, model):
    write = {"site": "blocks.*.attn.hook_z", "head": [0, 2], "op": "add"}
    a = trace(daemon, {**write, "from": {"difference": {"plus": ids(PLUS), "minus": ids(MINUS)}}})
    want = [np.linalg.norm((mean(model, PLUS, s, last) - mean(model, MINUS, s, last))[[0, 2]])
            for s in (f"blocks.{l}.attn.hook_z" for l in range(3))]
    assert np.allclose(a["writes"][0]["norms"], want, rtol=1e-4)


def test_generation_is_steered_at_every_token(daemon, model):
    site = "blocks.1.hook_resid_post"
    v = mean(model, PLUS, site, last) - mean(model, MINUS, site, last)
    seen = []
    for source in ({"difference": {"plus": ids(PLUS), "minus": ids(MINUS)}}, {"values": v.tolist()}):
        a = daemon.post("/v1/generate", {"prompt": {"ids": IDS[0]}, "max_tokens": 8,
                                         "writes": [{"site": site, "op": "add", "weight": 2, "from": source}]})
        assert a.status == 200 and a.json["writes"][0]["generated"] is True, a
        seen.append(a.json)
    assert seen[0]["ids"] == seen[1]["ids"] and "norms" not in seen[1]["writes"][0]
    now = list(IDS[0])
    for got in seen[0]["ids"]:
        assert got == int(model.logits(now, {site: lambda x: x + 2 * v})[-1].argmax())
        now.append(got)


def test_of_another_view(daemon):
    write = {"site": "blocks.1.hook_resid_post", "from": {"mean_of": ids(PLUS), "view": "base"}}
    assert trace(daemon, write)["writes"][0]["norms"] == trace(daemon, {**write, "from": {"mean_of": ids(PLUS)}})["writes"][0]["norms"]


@pytest.mark.parametrize("source, field, said", [
    ({"mean_of": []}, "writes[0].from.mean_of", "empty"),
    ({"mean_of": ["x", {"ids": [300]}]}, "writes[0].from.mean_of[1].ids[0]", "299"),
    ({"mean_of": ["x"], "pos": 5}, "writes[0].from.pos", "5"),
    ({"mean_of": ["x"], "site": "blocks.0.hook_mlp_out"}, "writes[0].from.site", "where it is written"),
    ({"mean_of": ["x"], "head": 0}, "writes[0].from.head", "where it is written"),
    ({"mean_of": ["x"], "values": [1]}, None, "beside"),
    ({"difference": {"plus": ["x"]}}, "writes[0].from.difference.minus", "required"),
    ({"difference": {"plus": ["x"], "minus": []}}, "writes[0].from.difference.minus", "empty"),
    ({"difference": {"plus": ["x"], "minus": [{"ids": [300]}]}}, "writes[0].from.difference.minus[0].ids[0]", "299"),
    ({"difference": {"plus": ["x"], "minus": ["y"], "pos": "first"}}, "writes[0].from.difference.pos", "last"),
    ({"difference": {"plus": ["x"], "minus": ["y"]}, "pos": "last"}, "writes[0].from.pos", "difference.pos"),
])
def test_refusals_name_the_field(daemon, source, field, said):
    body = {"writes": [{"site": "blocks.0.hook_mlp_out", "from": source}]}
    problem(daemon.post("/v1/trace", {"inputs": [{"ids": IDS[0]}], **body}), 400, field=field, said=said)
    problem(daemon.post("/v1/generate", {"prompt": {"ids": IDS[0]}, **body}), 400, field=field, said=said)


def test_a_pattern_has_no_mean(daemon):
    body = {"writes": [{"site": "blocks.0.attn.hook_pattern", "from": {"mean_of": ["x"]}}]}
    problem(daemon.post("/v1/trace", {"inputs": [{"ids": IDS[0]}], **body}), 400, field="writes[0].from", said="no mean")
