"""TuCo between two models, against transformers (tests/golden/make_tuco.py): every family there, by layer, part and
position; what is refused and what is warned of; and both models are held while a job needs them."""
import json

import numpy as np
import pytest

from conftest import MODEL, ROOT, Daemon
from helpers import keeps, problem
from twins import moved

FAMILIES = ROOT / "tests" / "golden" / "families"
GOLDEN = json.loads((ROOT / "tests" / "golden" / "tuco.json").read_text())
CLOSE = 1e-4


@pytest.fixture(scope="module", params=sorted(GOLDEN))
def pair(request, tmp_path_factory):
    """(a daemon that serves `tuned` and `before`, the expectations)"""
    where = tmp_path_factory.mktemp("tuco")
    tuned = moved(FAMILIES / request.param, where / "model")
    d = Daemon(where / "data", "--model", f"before={FAMILIES / request.param}", model=f"tuned={tuned}").start()
    yield d, GOLDEN[request.param]
    d.stop()


def ask(d, prompts, **body):
    a = d.post("/v1/tuco", {"prompts": [{"ids": i} for i in prompts], "against": {"model": "before"}, **body})
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/tuco", a)


def near(got, want):
    return np.allclose(got, want, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("positions", ["all", "last", [0, -1]])
def test_two_models_are_measured_as_transformers_does(pair, positions):
    d, golden = pair
    a = ask(d, golden["sequences"], positions=positions, detail="sublayer", output_co=True)
    assert a["view"]["model"] == "tuned" and a["against"]["model"] == "before" and a["against"]["name"] == "main"
    assert a["warnings"] == [] and a["checks"]["identity"] < 1e-5
    for got, want, ids in zip(a["scores"], golden["scores"], golden["sequences"], strict=True):
        assert near(got["tuco"], want["by_position"][-1]) and near(got["output_co"], want["output_co"])
        assert len(got["by_layer"]) == len(want["by_layer"])
        for mine, theirs in zip(got["by_layer"], want["by_layer"]):
            assert near([mine["ptc"], mine["ftc"]], [theirs["ptc"], theirs["ftc"]])
            for part in ("attn", "mlp", "cumulative"):
                assert mine[part].keys() == theirs[part].keys()
                assert near(list(mine[part].values()), [theirs[part][k] for k in mine[part]]), part
        assert near(got["beta_max"], max(x["cumulative"]["beta"] for x in want["by_layer"]))
        assert ("sequence_beta_max" in got) == (positions == "all")
        if positions == "all":
            assert near(got["by_position"], want["by_position"])
        elif positions != "last":
            assert got["positions"] == [0, len(ids) - 1]
            assert near(got["by_position"], [want["by_position"][0], want["by_position"][-1]])


def test_the_log_knows_which_model_it_was(pair):
    d, golden = pair
    ids = golden["sequences"][:1]
    first = ask(d, ids, positions=[-1])
    assert ask(d, ids, positions=[-1])["cached"] is True
    own = ask(d, ids, positions=[-1], against="base")
    assert "cached" not in own and own["scores"][0]["tuco"] == 0
    run = d.get(f"/v1/runs/{first['run']}").json
    assert run["request"]["against"] == {"model": "before", "view": "main"}
    assert run["result"]["against"]["model"] == "before" and run["result"]["scores"] == first["scores"]


def test_its_own_model_by_name_is_a_view(pair):
    d, golden = pair
    a = ask(d, golden["sequences"][:1], against={"model": "tuned", "view": "base"})
    assert a["scores"][0]["tuco"] == 0 and a["against"]["model"] == "tuned"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Models that do not fit each other, and one whose tokenizer and template are others."""
    where = tmp_path_factory.mktemp("mixed")
    other = moved(MODEL, where / "other")
    config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ messages[0].content }}!"}))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    one, two = [t for t, i in vocab.items() if i in (70, 71)]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    d = Daemon(where / "data", "--model", f"other={other}", "--model", f"gpt2={FAMILIES / 'gpt2'}", "--model",
               f"wide={ROOT / 'tests/golden/tiny/wide_head'}", model=f"mine={MODEL}").start()
    yield d
    d.stop()


def test_what_differs_is_warned_of(mixed):
    a = ask(mixed, [[5, 6, 7]], against={"model": "other"})
    assert [w.split(":")[0] for w in a["warnings"]] == ["tokenizers-differ", "templates-differ"]
    assert 0.01 < a["scores"][0]["tuco"] < 1


@pytest.mark.parametrize("against, status, field, said", [
    ({"model": "gpt2"}, 400, "against.model", "family"),
    ({"model": "wide"}, 400, "against.model", "wide differ in"),
    ({"model": "nobody"}, 404, "against.model", "nobody"),
    ({"model": "other", "view": "nowhere"}, 404, "against.view", "nowhere"),
    ({"view": "base"}, 400, "against.model", "required"),
    ({"model": "other", "view": 3}, 400, "against.view", "string"),
    (7, 400, "against", ""),
])
def test_models_that_do_not_fit_are_refused(mixed, against, status, field, said):
    problem(mixed.post("/v1/tuco", {"prompts": ["x"], "against": against}), status, field=field, said=said)


def test_a_model_unloaded_meanwhile_is_held_by_the_job(start, tmp_path):
    """The job goes on with both models; the next request does not find the one taken out."""
    other = moved(MODEL, tmp_path / "other")
    d = start("--model", f"other={other}", model=f"mine={MODEL}")
    prompts = [{"ids": [3 + (i * 7 + k) % 290 for k in range(200)]} for i in range(300)]
    body = {"prompts": prompts, "against": {"model": "other"}, "output_co": True}
    a = d.post("/v1/tuco", body, {"Prefer": "wait=0", "Idempotency-Key": "k"})
    assert a.status in (200, 202), a
    assert d.delete("/v1/models/other").status == 200
    problem(d.post("/v1/tuco", {"prompts": ["x"], "against": {"model": "other"}}), 404, field="against.model", said="other")
    if a.status == 202:
        job = d.finished(a.headers["location"])
        assert job["state"] == "done", job



# ---- generation -------------------------------------------------------------------------------------------


def scaled(d, ids, **body):
    a = d.post("/v1/generate", {"prompt": {"ids": ids}, "max_tokens": 8, "model": "tuned", **body})
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/generate", a)


def test_scaled_text_is_that_of_transformers(pair):
    d, golden = pair
    ids = golden["sequences"][1]
    for want in golden["scaled"]:
        a = scaled(d, ids, against={"model": "before"}, ftc_alpha=want["alpha"])
        assert a["ids"] == want["ids"] and a["ftc_alpha"] == want["alpha"] and a["against"]["model"] == "before"
    plain = scaled(d, ids)
    one = scaled(d, ids, against={"model": "before"}, ftc_alpha=1)
    assert one["ids"] == plain["ids"] and "ftc_alpha" not in plain


def test_scaled_streams_say_the_same(pair):
    d, golden = pair
    ids, want = golden["sequences"][1], golden["scaled"][1]
    body = {"prompt": {"ids": ids}, "max_tokens": 8, "against": {"model": "before"}, "ftc_alpha": want["alpha"], "stream": True}
    events = list(d.events("/v1/generate", body))
    tokens = [data for _, event, data in events if event == "token"]
    assert [t["id"] for t in tokens] == want["ids"]
    assert abs(tokens[0]["logprob"] - want["logprob"]) < CLOSE
    assert events[-1][1] == "done" and events[-1][2]["ftc_alpha"] == want["alpha"]


def test_at_one_probabilities_are_equal_to_the_bit(pair):
    d, golden = pair
    body = {"prompt": {"ids": golden["sequences"][0]}, "max_tokens": 8, "stream": True}
    said = [[(data["id"], data["logprob"]) for _, event, data in d.events("/v1/generate", {**body, **more}) if event == "token"]
            for more in ({}, {"against": {"model": "before"}}, {"against": {"model": "before"}, "ftc_alpha": 1})]
    assert said[0] == said[1] == said[2]


def test_each_generated_token_has_its_tuco(pair):
    d, golden = pair
    want = next(s for s in golden["scaled"] if s["alpha"] == 1)
    a = ask(d, golden["sequences"][1:], generate={"max_tokens": 8})
    s = a["scores"][0]
    assert s["generated"]["ids"] == want["ids"] and near(s["generated"]["tuco"], want["tuco"])
    assert s["generated"]["tuco"][0] == pytest.approx(s["tuco"], abs=1e-6)
    # with caches and without: a longer prompt's own score
    for k in (1, 4):
        longer = ask(d, [golden["sequences"][1] + want["ids"][:k]])["scores"][0]
        assert s["generated"]["tuco"][k] == pytest.approx(longer["tuco"], abs=1e-6)
    assert s["generated"]["finish_reason"] == "length" and len(s["generated"]["tokens"]) == 8 and "seed" not in a


def test_prompts_generate_as_if_alone(pair):
    d, golden = pair
    how = {"max_tokens": 6, "temperature": 1, "seed": 7}
    both = ask(d, golden["sequences"], generate=how)
    assert both["seed"] == 7
    for ids, s in zip(golden["sequences"], both["scores"], strict=True):
        alone = ask(d, [ids], generate=how)["scores"][0]["generated"]
        assert alone["ids"] == s["generated"]["ids"] and np.allclose(alone["tuco"], s["generated"]["tuco"], atol=1e-6)
    assert "seed" in ask(d, golden["sequences"], generate={"temperature": 1, "max_tokens": 1})


@pytest.mark.parametrize("body, status, field, said", [
    ({"ftc_alpha": -0.1, "against": "base"}, 400, "ftc_alpha", "0"),
    ({"ftc_alpha": 0.5}, 400, "against", "which"),
    ({"ftc_alpha": 0.5, "against": "nowhere"}, 404, "against", "nowhere"),
    ({"against": {"model": "gpt2"}}, 400, "against.model", "family"),
    ({"against": "base", "writes": [{"site": "blocks.0.hook_mlp_out", "op": "scale", "weight": 0}]}, 400, "writes", "against"),
])
def test_scaling_is_refused_by_name(mixed, body, status, field, said):
    problem(mixed.post("/v1/generate", {"prompt": "x", **body}), status, field=field, said=said)


@pytest.mark.parametrize("generate, field", [({"max_tokens": 0}, "generate.max_tokens"), ({"temperature": -1}, "generate.temperature"),
                                             (3, "generate")])
def test_generating_is_refused_by_name(mixed, generate, field):
    problem(mixed.post("/v1/tuco", {"prompts": ["x"], "generate": generate}), 400, field=field)
