"""Patterns and detector scores against numpy."""
import io
import json

import numpy as np
import pytest
from helpers import keeps, nothing_moves, problem
from reference import Model, expected

IDS = expected("gqa_tied")[0]["sequences"]


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


def ask(d, **body):
    a = d.post("/v1/attention", body)
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/attention", a)


def masks(ids):
    """{score: mask [destination][source]}, drawn from the definitions."""
    n, t = len(ids), np.array(ids)
    twin = np.tril(t[:, None] == t[None, :], -1)
    behind = np.zeros((n, n), bool)
    behind[:, 1:] = twin[:, :-1]
    first = np.zeros((n, n), bool)
    first[1:, 0] = True
    return {"previous_token": np.eye(n, k=-1, dtype=bool), "first_token": first, "duplicate_token": twin, "induction": behind}


def check_scores(one, patterns, layers, heads, ids):
    for name, mask in masks(ids).items():
        rows = mask.any(1)
        want = [[(p[h] * mask).sum(1)[rows].mean() if rows.any() else np.nan for h in heads] for p in patterns]
        got = np.array(one["scores"][name], float)
        assert got.shape == (len(layers), len(heads)) and np.allclose(got, want, atol=1e-5, equal_nan=True), name
    entropy = [[np.nanmean(-np.nansum(p[h][1:] * np.log(np.where(p[h][1:] > 0, p[h][1:], 1)), 1)) for h in heads] for p in patterns]
    assert np.allclose(one["scores"]["entropy"], entropy, atol=1e-5)


def pattern_of(model, ids):
    seen, _ = model.run(ids)
    return [seen[f"blocks.{l}.attn.hook_pattern"] for l in range(model.L)], [seen[f"blocks.{l}.attn.hook_v"] for l in range(model.L)]


@pytest.mark.parametrize("weighted", [False, True])
def test_patterns_and_scores_of_every_head(daemon, model, weighted):
    repeated = IDS[1] + IDS[1]
    a = ask(daemon, inputs=[{"id": "a", "ids": IDS[0]}, {"id": "b", "ids": repeated}], value_weighted=weighted)
    assert a["layers"] == [0, 1, 2] and a["heads"] == list(range(model.H)) and len(a["patterns"]) == 6
    for i, ids in enumerate((IDS[0], repeated)):
        patterns, v = pattern_of(model, ids)
        check_scores(a["inputs"][i], patterns, range(3), range(model.H), ids)
        for l in range(3):
            p = a["patterns"][i * 3 + l]
            assert p["input"] == "ab"[i] and p["layer"] == l
            got, want = np.reshape(p["values"], p["shape"]), patterns[l]
            if weighted:
                o = model.weight[f"model.layers.{l}.self_attn.o_proj.weight"].reshape(-1, model.H, model.e)
                each = np.repeat(v[l], model.H // model.G, 1)
                want = want * np.linalg.norm(np.einsum("dhe,jhe->hjd", o, each), axis=-1)[:, None, :]
            assert got.shape == (model.H, len(ids), len(ids)) and np.allclose(got, want, atol=1e-5)


def test_chosen_layers_and_heads(daemon, model):
    a = ask(daemon, input={"ids": IDS[0]}, layers=[-1], heads=[1, 3])
    patterns, _ = pattern_of(model, IDS[0])
    (p,) = a["patterns"]
    assert (a["layers"], a["heads"], p["shape"]) == ([2], [1, 3], [2, len(IDS[0]), len(IDS[0])])
    assert np.allclose(np.reshape(p["values"], p["shape"]), patterns[2][[1, 3]], atol=1e-5)
    check_scores(a["inputs"][0], patterns[2:], [2], [1, 3], IDS[0])
    assert ask(daemon, input={"ids": IDS[0]}, patterns=False)["patterns"] == []


def test_random_tokens_twice(daemon, model):
    a = ask(daemon, repeat={"length": 12, "seed": 5})
    ids, (one,) = a["inputs"][0]["ids"], a["inputs"]
    assert len(set(ids)) == 12 and ids[-24:-12] == ids[-12:] and a["seed"] == 5 and a["patterns"] == []
    patterns, _ = pattern_of(model, ids)
    check_scores(one, patterns, range(3), range(model.H), ids)
    T, n = 12, len(ids)
    assert np.allclose(one["scores"]["induction"], [[np.mean([p[h, i, i - T + 1] for i in range(n - T, n)]) for h in range(model.H)]
                                                    for p in patterns], atol=1e-5)
    assert ask(daemon, repeat={"length": 12, "seed": 6})["inputs"][0]["ids"] != ids
    again = ask(daemon, repeat={"length": 12, "seed": 5})
    assert again["cached"] is True and again["inputs"] == a["inputs"]


def test_bytes_are_the_same_patterns(daemon):
    body = {"inputs": [{"id": "a", "ids": IDS[0]}], "layers": [0, 2]}
    a = ask(daemon, **body)
    b = daemon.post("/v1/attention", body, {"Accept": "application/x-npz"})
    assert b.status == 200 and b.headers["content-type"] == "application/x-npz"
    z = np.load(io.BytesIO(b.body))
    told = json.loads(bytes(z["answer.json"]) if not isinstance(z["answer.json"], bytes) else z["answer.json"])
    for p, q in zip(a["patterns"], told["patterns"], strict=True):
        assert np.array_equal(z[q["name"]], np.reshape(p["values"], p["shape"]).astype(np.float32))


def test_inputs_spelled_alike_keep_arrays_of_their_own(daemon):
    body = {"inputs": [{"id": "a b", "ids": [5, 6, 7]}, {"id": "a_b", "ids": [9, 8]}], "patterns": True}
    b = daemon.post("/v1/attention", body, {"Accept": "application/x-npz"})
    z = np.load(io.BytesIO(b.body))
    names = [n for n in z.files if n != "answer.json"]
    assert len(set(names)) == 6 and sorted({z[n].shape[-1] for n in names}) == [2, 3]


@pytest.mark.parametrize("body, status, field, said", [
    ({}, 400, None, "repeat"),
    ({"input": "x", "repeat": {}}, 400, "repeat", "beside"),
    ({"input": "x", "heads": [4]}, 400, "heads", "3"),
    ({"input": "x", "layers": [3]}, 400, "layers", "0..2"),
    ({"input": {"ids": [300]}}, 400, "input.ids[0]", "299"),
    ({"repeat": {"length": 1}}, 400, "repeat.length", "2"),
    ({"repeat": {"length": 130}}, 400, "repeat.length", "256"),
    ({"repeat": {"length": 4000}}, 400, "repeat.length", "ordinary"),
    ({"inputs": [{"id": str(i), "ids": [5] * 250} for i in range(20)]}, 413, "patterns", "values"),
    ({"input": "x", "view": "nowhere"}, 404, "view", "nowhere"),
])
def test_refusals_name_the_field(daemon, body, status, field, said):
    with nothing_moves(daemon):
        problem(daemon.post("/v1/attention", body), status, field=field, said=said)


def test_bytes_of_no_or_many_arrays_are_refused(daemon):
    problem(daemon.post("/v1/attention", {"repeat": {}}, {"Accept": "application/x-npz"}), 400, field="Accept", said="no patterns")
    problem(daemon.post("/v1/attention", {"input": {"ids": [5, 6]}}, {"Accept": "application/x-npy"}), 400, field="Accept", said="3")
