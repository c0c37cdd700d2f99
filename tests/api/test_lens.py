"""The logit lens against numpy: each layer's stream through the final norm and the unembedding."""
import numpy as np
import pytest
from helpers import keeps, nothing_moves, problem
from reference import Model, expected, log_softmax

IDS = expected("gqa_tied")[0]["sequences"]
HOOK = {"resid_post": "hook_resid_post", "resid_mid": "hook_resid_mid", "resid_pre": "hook_resid_pre",
        "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


def ask(d, **body):
    a = d.post("/v1/lens", body)
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/lens", a)


def check(model, one, layers, at, ids, tokens):
    seen, logits = model.run(ids)
    final = log_softmax(logits)
    for i, layer in enumerate(layers):
        y = model.unembed(seen[f"blocks.{layer}.{HOOK[at]}"])
        p = log_softmax(y)
        for k, pos in enumerate(one["pos"]):
            assert np.isclose(one["entropy"][i][k], -(np.exp(p[pos]) * p[pos]).sum(), atol=1e-4)
            assert np.isclose(one["kl"][i][k], (np.exp(final[pos]) * (final[pos] - p[pos])).sum(), atol=1e-4)
            top = one["top"][i][k]
            assert [t["id"] for t in top] == list(np.argsort(-y[pos], kind="stable")[:len(top)])
            assert np.allclose([t["logit"] for t in top], [y[pos][t["id"]] for t in top], atol=1e-4)
            assert np.allclose([t["prob"] for t in top], [np.exp(p[pos][t["id"]]) for t in top], atol=1e-5)
            for t, f in zip(tokens, one["followed"], strict=True):
                assert f["id"] == t and f["rank"][i][k] == 1 + (y[pos] > y[pos][t]).sum()
                assert np.isclose(f["logit"][i][k], y[pos][t], atol=1e-4)
                assert np.isclose(f["logprob"][i][k], p[pos][t], atol=1e-4)


@pytest.mark.parametrize("at", HOOK)
def test_every_layer_is_what_numpy_unembeds(daemon, model, at):
    a = ask(daemon, inputs=[{"id": "a", "ids": IDS[0]}, {"id": "b", "ids": IDS[1]}], at=at, tokens=[42, 7], top_k=4)
    assert a["at"] == at and a["layers"] == [0, 1, 2] and [x["id"] for x in a["inputs"]] == ["a", "b"]
    for one, ids in zip(a["inputs"], IDS, strict=True):
        assert one["pos"] == list(range(len(ids))) and len(one["top"][0][0]) == 4
        check(model, one, range(3), at, ids, [42, 7])
    assert a["checks"]["last"] == (0 if at == "resid_post" else None)


def test_chosen_layers_and_positions(daemon, model):
    a = ask(daemon, input={"ids": IDS[0]}, layers=[-1, 0], pos=[-1, 2])
    assert a["layers"] == [0, 2] and a["inputs"][0]["pos"] == [2, len(IDS[0]) - 1]
    check(model, a["inputs"][0], [0, 2], "resid_post", IDS[0], [])
    assert a["cost"]["unembedded"] == 6


def test_the_last_layer_is_the_model_bit_for_bit(daemon):
    ids = [(7 * i + 3) % 300 for i in range(80)]
    a = ask(daemon, input={"ids": ids}, layers=[-1], top_k=5)
    t = daemon.post("/v1/trace", {"inputs": [{"ids": ids}], "top_pos": "all", "top_k": 5}).json
    for lens, trace in zip(a["inputs"][0]["top"][0], t["inputs"][0]["top"], strict=True):
        assert [(x["id"], x["logit"]) for x in lens] == [(x["id"], x["logit"]) for x in trace]
        assert np.allclose([x["prob"] for x in lens], [x["prob"] for x in trace], rtol=1e-12)
    assert a["inputs"][0]["kl"] == [[0] * 80]


def test_a_text_and_a_text_to_follow(daemon):
    a = ask(daemon, input="It is", pos="last", tokens=[" is"])
    one = a["inputs"][0]
    assert one["tokens"] == ["It", " is"] and one["followed"][0]["token"] == " is" and np.shape(one["followed"][0]["rank"]) == (3, 1)


def test_it_is_logged(daemon):
    a = ask(daemon, input={"ids": IDS[1]}, pos="last")
    again = ask(daemon, input={"ids": IDS[1]}, pos="last")
    assert again["cached"] is True and again["inputs"] == a["inputs"]
    assert daemon.get("/v1/runs?kind=lens").json["runs"]
    assert daemon.get(f"/v1/runs/{a['run']}").json["result"]["inputs"] == a["inputs"]


@pytest.mark.parametrize("body, status, field, said", [
    ({}, 400, None, "inputs"),
    ({"input": "x", "inputs": ["x"]}, 400, None, "input"),
    ({"inputs": []}, 400, "inputs", "empty"),
    ({"inputs": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, 400, "inputs[1]", "id"),
    ({"input": {"ids": [300]}}, 400, "input.ids[0]", "299"),
    ({"input": "x", "layers": [3]}, 400, "layers", "0..2"),
    ({"input": "x", "layers": [-4]}, 400, "layers", "-4"),
    ({"input": "x", "at": "z"}, 400, "at", "resid_post"),
    ({"input": "x", "pos": 9}, 400, "pos", "9"),
    ({"input": "x", "top_k": 65}, 400, "top_k", "64"),
    ({"input": "x", "tokens": [1, 300]}, 400, "tokens[1]", "299"),
    ({"input": "x", "view": "nowhere"}, 404, "view", "nowhere"),
    ({"inputs": [{"id": str(i), "ids": [5] * 250} for i in range(30)], "top_k": 64}, 413, "pos", "numbers"),
])
def test_refusals_name_the_field(daemon, body, status, field, said):
    with nothing_moves(daemon):
        problem(daemon.post("/v1/lens", body), status, field=field, said=said)
