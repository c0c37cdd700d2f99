"""TuCo against its definition in numpy, and its identities."""
import numpy as np
import pytest
from helpers import committed, edit, keeps, problem
from reference import Model, expected, safetensors, tuco

IDS = expected("gqa_tied")[0]["sequences"]


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


@pytest.fixture(scope="module")
def edited(daemon, model):
    """(revision, the model in numpy) after one edit of layer 1; main is rolled back again."""
    r = committed(edit(daemon))
    bytes_ = daemon.get(f"/v1/deltas/{r['delta']}", {"Accept": "application/safetensors"}).body
    name = "model.layers.2.mlp.down_proj.weight"
    assert daemon.post("/v1/rollback", {"to": "base"}).status == 201
    return r["revision"], model.edited(name, safetensors(bytes_)[name + ".dense"])


def ask(d, **body):
    a = d.post("/v1/tuco", {"prompts": [{"ids": i} for i in IDS], **body})
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/tuco", a)


@pytest.mark.parametrize("view, against", [("main", "base"), ("base", "base"), ("main", "main")])
def test_a_view_against_itself_is_exactly_0(daemon, view, against):
    a = ask(daemon, view=view, against=against, positions="all")
    for s in a["scores"]:
        assert s["tuco"] == 0 and s["ftc"] == 0 and s["ptc"] > 0
        assert all(layer["ftc"] == 0 for layer in s["by_layer"])
        assert s["by_position"] == [0] * len(s["tokens"])


def test_an_edited_view_against_itself_is_exactly_0(daemon, edited):
    a = ask(daemon, view=edited[0], against=edited[0])
    assert all(s["tuco"] == 0 and s["ftc"] == 0 for s in a["scores"])


def test_the_base_is_measured_as_the_definition_says(daemon, model):
    for score, ids in zip(ask(daemon)["scores"], IDS, strict=True):
        _, ptc, _, layers = tuco(model, model, ids)
        assert np.isclose(score["ptc"], ptc, rtol=1e-4)
        assert np.allclose([x["ptc"] for x in score["by_layer"]], [p for p, _ in layers], rtol=1e-4)
        assert [x["layer"] for x in score["by_layer"]] == [0, 1, 2]


@pytest.mark.parametrize("swap", [False, True])
def test_an_edit_is_measured_as_the_definition_says(daemon, model, edited, swap):
    revision, tuned = edited
    views = ("base", revision) if swap else (revision, "base")
    a = ask(daemon, view=views[0], against=views[1])
    assert a["view"]["revision"] != a["against"]["revision"]
    for score, ids in zip(a["scores"], IDS, strict=True):
        want, ptc, ftc, layers = tuco(*((model, tuned) if swap else (tuned, model)), ids)
        assert 0.01 < score["tuco"] < 1 and np.isclose(score["tuco"], want, rtol=1e-4)
        assert np.isclose(score["ptc"], ptc, rtol=1e-4) and np.isclose(score["ftc"], ftc, rtol=1e-4)
        assert np.isclose(score["tuco"], score["ftc"] / (score["ptc"] + score["ftc"]), rtol=1e-12)
        assert np.allclose([x["ftc"] for x in score["by_layer"]], [f for _, f in layers], rtol=1e-4)
        assert np.allclose([x["ptc"] for x in score["by_layer"]], [p for p, _ in layers], rtol=1e-4)
        # one matrix of layer 2 was changed, and both blocks see the same states
        assert [x["ftc"] == 0 for x in score["by_layer"]] == [True, True, False]


def test_every_position_is_its_own_prefix(daemon, edited):
    ids = IDS[0]
    whole = ask(daemon, view=edited[0], prompts=[{"ids": ids}], positions="all")["scores"][0]
    prefixes = ask(daemon, view=edited[0], prompts=[{"ids": ids[:n]} for n in range(1, 10)])["scores"]
    assert np.allclose(whole["by_position"], [s["tuco"] for s in prefixes], rtol=1e-5)
    assert whole["tuco"] == whole["by_position"][-1]
    assert "by_position" not in prefixes[0]


def test_scores_lie_between_0_and_1(daemon, edited):
    rng = np.random.default_rng(1)
    prompts = [{"ids": [int(x) for x in rng.integers(3, 300, rng.integers(1, 20))]} for _ in range(200)]
    a = ask(daemon, view=edited[0], prompts=prompts)
    assert len(a["scores"]) == 200
    assert all(0 <= s["tuco"] <= 1 for s in a["scores"])


def test_inputs_in_every_form(daemon):
    a = ask(daemon, prompts=["It is", {"text": "It is", "bos": True}, {"messages": [{"role": "user", "content": "x"}]}])
    assert a["scores"][0]["tokens"] == ["It", " is"] and len(a["scores"][1]["tokens"]) == 3


def test_tuco_is_logged_with_both_views(daemon, edited):
    first = ask(daemon, view=edited[0])
    assert ask(daemon, view=edited[0])["cached"] is True
    assert "cached" not in ask(daemon, view="base", against=edited[0], prompts=["cache"])
    assert "cached" not in ask(daemon, view="base", against="base", prompts=["cache"])
    run = daemon.get(f"/v1/runs/{first['run']}").json
    assert run["result"]["scores"] == first["scores"] and run["request"]["against"] == "base"


@pytest.mark.parametrize("body, status, field, said", [
    ({"prompts": []}, 400, "prompts", "empty"),
    ({}, 400, "prompts", "required"),
    ({"prompts": ["x"], "against": "nowhere"}, 404, "against", "nowhere"),
    ({"prompts": ["x"], "view": "rev_nowhere"}, 404, "view", "nowhere"),
    ({"prompts": ["x"], "positions": "first"}, 400, "positions", "last"),
    ({"prompts": ["x", {"ids": [300]}]}, 400, "prompts[1].ids[0]", "299"),
    ({"prompts": [{"ids": [5] * 257}]}, 400, "prompts[0].ids", "256"),
])
def test_refusals_name_the_field(daemon, body, status, field, said):
    problem(daemon.post("/v1/tuco", body), status, field=field, said=said)


def test_positions_may_be_listed(daemon, edited):
    ids = IDS[0]
    whole = ask(daemon, view=edited[0], prompts=[{"ids": ids}], positions="all")["scores"][0]
    some = ask(daemon, view=edited[0], prompts=[{"ids": ids}], positions=[-1, 3, 0, 3])["scores"][0]
    assert some["positions"] == [0, 3, len(ids) - 1] and "positions" not in whole
    assert np.allclose(some["by_position"], [whole["by_position"][p] for p in some["positions"]], rtol=0, atol=1e-6)
    assert np.isclose(some["tuco"], whole["tuco"], rtol=0, atol=1e-6)
    first = ask(daemon, view=edited[0], prompts=[{"ids": ids}], positions=[2])["scores"][0]  # the score is the last's
    assert first["positions"] == [2] and len(first["by_position"]) == 1
    assert np.isclose(first["tuco"], whole["tuco"], rtol=0, atol=1e-6)


def test_parts_and_sums_fit_their_layers(daemon, edited):
    a = ask(daemon, view=edited[0], detail="sublayer")
    assert a["checks"]["identity"] < 1e-5 and a["cost"]["rows"] == sum(map(len, IDS)) * 3 and a["cost"]["seconds"] >= 0
    for s in a["scores"]:
        for layer in s["by_layer"]:
            parts = layer["attn"]["ftc"] + layer["mlp"]["ftc"]
            assert layer["ftc"] <= parts * (1 + 1e-9)
            assert layer["ptc"] <= (layer["attn"]["ptc"] + layer["mlp"]["ptc"]) * (1 + 1e-9)
        last = s["by_layer"][-1]["cumulative"]
        assert last == {"ptc": s["ptc"], "ftc": s["ftc"], "beta": s["tuco"]}
        assert s["beta_max"] == max(layer["cumulative"]["beta"] for layer in s["by_layer"])
        # a down-projection was changed: no attention differs, and all of F is that MLP's
        assert all(layer["attn"]["ftc"] == 0 for layer in s["by_layer"])
        assert s["by_layer"][2]["mlp"]["ftc"] == pytest.approx(s["ftc"], rel=1e-9)
    plain = ask(daemon, view=edited[0])["scores"][0]
    assert "attn" not in plain["by_layer"][0] and "output_co" not in plain


def test_output_co_is_of_two_runs(daemon, model, edited):
    a = ask(daemon, view=edited[0], output_co=True)
    for s, ids in zip(a["scores"], IDS, strict=True):
        x, y = edited[1].embed(ids), model.embed(ids)
        for layer in range(model.L):
            x, y = edited[1].block(layer, x), model.block(layer, y)
        d, p = np.abs(x - y)[-1].sum(), np.abs(y)[-1].sum()
        assert np.isclose(s["output_co"], d / (d + p), rtol=1e-4) and s["output_co"] > 0.001
    same = ask(daemon, view="base", output_co=True)
    assert all(s["output_co"] == 0 for s in same["scores"])


@pytest.mark.parametrize("body, field, said", [
    ({"positions": [9999]}, "positions", "9999"),
    ({"positions": []}, "positions", ""),
    ({"positions": ["last"]}, "positions[0]", ""),
    ({"detail": "head"}, "detail", "sublayer"),
    ({"output_co": 1}, "output_co", ""),
])
def test_details_are_refused_by_name(daemon, body, field, said):
    problem(daemon.post("/v1/tuco", {"prompts": ["x"], **body}), 400, field=field, said=said)


def test_controls_are_seeded_and_around_their_draws(daemon, edited):
    how = {"random_delta": 8, "length_matched": True, "seed": 3}
    a = ask(daemon, view=edited[0], controls=how)
    plain = ask(daemon, view=edited[0])
    assert [s["tuco"] for s in a["scores"]] == [s["tuco"] for s in plain["scores"]] and "control" not in plain["scores"][0]
    for s in a["scores"]:
        assert {k: v["n"] for k, v in s["control"].items()} == {"random_delta": 8, "random_tokens": 20, "repeated_token": 20}
        for spread in s["control"].values():
            assert 0 < spread["mean"] < 1 and 0 < spread["sd"] < 0.5 and 0 <= spread["percentile"] <= 100
    again = daemon.post("/v1/tuco", {"prompts": [{"ids": i} for i in IDS], "view": edited[0], "controls": how},
                        {"Cache-Control": "no-cache"}).json
    assert [s["control"] for s in again["scores"]] == [s["control"] for s in a["scores"]]
    other = ask(daemon, view=edited[0], controls={**how, "seed": 4})
    assert other["scores"][0]["control"] != a["scores"][0]["control"]


def test_random_deltas_have_the_norm_of_the_difference(daemon, model, edited):
    """Their TuCo is what numpy's own noise of that norm gives, on average."""
    name = "model.layers.2.mlp.down_proj.weight"
    delta = edited[1].weight[name] - model.weight[name]
    rng, ids = np.random.default_rng(5), IDS[0]
    mine = []
    for _ in range(40):
        noise = rng.standard_normal(delta.shape)
        mine.append(tuco(model.edited(name, noise * np.linalg.norm(delta) / np.linalg.norm(noise)), model, ids)[0])
    got = ask(daemon, view=edited[0], prompts=[{"ids": ids}], controls={"random_delta": 40})["scores"][0]["control"]["random_delta"]
    error = np.hypot(np.std(mine) / 40 ** 0.5, got["sd"] / 40 ** 0.5)
    assert abs(got["mean"] - np.mean(mine)) < 4 * error and error < 0.2 * got["mean"]


@pytest.mark.parametrize("controls, status, field", [
    ({"random_delta": 2}, 422, "controls.random_delta"), ({"random_delta": -1}, 400, "controls.random_delta"),
    ({"length_matched": "yes"}, 400, "controls.length_matched"), ({"seed": -1}, 400, "controls.seed")])
def test_controls_are_refused_by_name(daemon, controls, status, field):
    problem(daemon.post("/v1/tuco", {"prompts": ["x"], "view": "base", "controls": controls}), status, field=field)


def test_auc_between_two_labels(daemon, edited):
    rng = np.random.default_rng(9)
    prompts = [{"ids": [int(x) for x in rng.integers(3, 300, 1 + i % 7)]} for i in range(60)]
    labels = ["b" if i % 7 < 3 else "a" for i in range(60)]
    a = ask(daemon, view=edited[0], prompts=prompts, labels=labels)
    score, is_b = np.array([s["tuco"] for s in a["scores"]]), np.array([x == "b" for x in labels])

    def auc(score, member):
        pairs = score[member][:, None] - score[~member][None, :]
        return np.mean((pairs > 0) + 0.5 * (pairs == 0))

    got = a["auc"]
    assert (got["higher"], got["lower"], got["n"]) == ("b", "a", 60)
    assert got["value"] == pytest.approx(auc(score, is_b), abs=1e-12)
    draws = []
    for _ in range(2000):
        at = rng.integers(0, 60, 60)
        draws.append(auc(score[at], is_b[at]))
    assert np.allclose([got["low"], got["high"]], np.percentile(draws, [2.5, 97.5]), atol=0.03)
    assert "auc" not in ask(daemon, view=edited[0], prompts=prompts[:2])


@pytest.mark.parametrize("labels, said", [(["a"] * 2, "same"), (["a", "b", "b"], "3 labels"), (["a", 1], "")])
def test_labels_are_refused_by_name(daemon, labels, said):
    a = daemon.post("/v1/tuco", {"prompts": ["x", "y"], "labels": labels})
    assert a.status == 400 and a.json["field"].startswith("labels") and said in a.json["detail"], a
