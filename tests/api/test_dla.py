"""Direct logit attribution against numpy, and its sum against the logits."""
import numpy as np
import pytest
from helpers import keeps, nothing_moves, problem
from reference import ROOT, Model, expected

IDS = expected("gqa_tied")[0]["sequences"]
A, F = 42, 7


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


def ask(d, **body):
    a = d.post("/v1/dla", body)
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/dla", a)


def want(model, ids, by, foil, pos=-1):
    """{(kind, layer, unit): value} of every row."""
    seen, _ = model.run(ids)
    x = seen[f"blocks.{model.L - 1}.hook_resid_post"][pos]
    head = model.weight["model.embed_tokens.weight"]
    u = head[A] - (head[F] if foil else 0)
    v = u * model.weight["model.norm.weight"] / np.sqrt((x * x).mean() + model.eps)
    out = {("embed", None, None): model.embed(ids)[pos] @ v}
    for l in range(model.L):
        attn, mlp = (seen[f"blocks.{l}.{h}"][pos] @ v for h in ("hook_attn_out", "hook_mlp_out"))
        o = model.weight[f"model.layers.{l}.self_attn.o_proj.weight"].reshape(-1, model.H, model.e)
        down = model.weight[f"model.layers.{l}.mlp.down_proj.weight"]
        if by == "layer":
            out["layer", l, None] = attn + mlp
            continue
        if by == "head":
            out.update({("head", l, h): v @ o[:, h] @ seen[f"blocks.{l}.attn.hook_z"][pos, h] for h in range(model.H)})
        else:
            out["attn", l, None] = attn
        if by == "neuron":
            each = (v @ down) * seen_post(model, seen, l)[pos]
            out.update({("neuron", l, j): each[j] for j in range(len(each))})
        else:
            out["mlp", l, None] = mlp
    return out


def seen_post(model, seen, l):
    gate, up = seen[f"blocks.{l}.mlp.hook_pre"], seen[f"blocks.{l}.mlp.hook_pre_linear"]
    return gate / (1 + np.exp(-gate)) * up


def key(row):
    return row["kind"], row.get("layer"), row.get("head", row.get("neuron"))


@pytest.mark.parametrize("foil", [False, True])
@pytest.mark.parametrize("by", ["component", "head", "layer", "neuron"])
def test_rows_are_the_definition_s(daemon, model, by, foil):
    more = {"foil": F} if foil else {}
    a = ask(daemon, input={"ids": IDS[0]}, answer=A, by=by, top_k=100000, **more)
    rows = {key(r): r["value"] for r in a["rows"]}
    w = want(model, IDS[0], by, foil)
    assert rows.keys() == w.keys() and a["rest"] == {"n": 0, "value": 0}
    assert np.allclose([rows[k] for k in w], list(w.values()), atol=1e-5)
    y = model.logits(IDS[0])[-1]
    (p,) = a["prompts"]
    assert np.isclose(p["total"], y[A] - (y[F] if foil else 0), atol=1e-4)
    assert a["checks"]["sum"] == abs(p["sum"] - p["total"]) < 1e-5
    assert np.isclose(sum(rows.values()), p["sum"], atol=1e-12)


def test_the_largest_rows_and_the_rest(daemon):
    a = ask(daemon, input={"ids": IDS[0]}, answer=A, foil=F, by="neuron", pos=3)
    sizes = [abs(r["value"]) for r in a["rows"]]
    assert len(sizes) == 20 and sizes == sorted(sizes, reverse=True) and a["prompts"][0]["pos"] == 3
    assert np.isclose(sum(r["value"] for r in a["rows"]) + a["rest"]["value"], a["prompts"][0]["sum"], atol=1e-9)
    whole = ask(daemon, input={"ids": IDS[0]}, answer=A, foil=F, by="neuron", pos=3, top_k=100000)
    assert [key(r) for r in whole["rows"][:20]] == [key(r) for r in a["rows"]]


def test_several_prompts_are_means_over_groups(daemon, model):
    prompts = [{"id": "a", "group": "x", "input": {"ids": IDS[0]}}, {"id": "b", "group": "x", "input": {"ids": IDS[1]}},
               {"id": "c", "group": "y", "input": {"ids": IDS[1][:4]}, "answer": A, "foil": F}]
    a = ask(daemon, prompts=prompts, answer=A, foil=F, by="head", seed=3)
    assert [p["id"] for p in a["prompts"]] == ["a", "b", "c"] and a["intervals"]["groups"] == 2 and a["intervals"]["seed"] == 3
    w = [want(model, ids, "head", True) for ids in (IDS[0], IDS[1], IDS[1][:4])]
    for r in a["rows"]:
        assert np.allclose(r["values"], [x[key(r)] for x in w], atol=1e-5)
        assert np.isclose(r["value"], np.mean(r["values"])) and r["low"] <= r["value"] <= r["high"]
        groups = np.mean(r["values"][:2]), r["values"][2]
        assert np.isclose(r["low"], min(groups)) and np.isclose(r["high"], max(groups))
    alone = ask(daemon, prompts=prompts[:2], answer=A, by="layer")
    assert all(r["low"] is None and r["high"] is None for r in alone["rows"])  # one group


def test_texts_and_the_log(daemon):
    a = ask(daemon, input="It is", answer=" is", top_k=2)
    assert a["prompts"][0]["answer"]["token"] == " is" and len(a["rows"]) == 2
    again = ask(daemon, input="It is", answer=" is", top_k=2)
    assert again["cached"] is True and again["rows"] == a["rows"]


def test_what_a_family_s_norms_and_biases_mean_for_rows_is_said(start):
    for family, by, said in (("gemma2", "head", ["post-norm", "soft-cap"]), ("gpt2", "head", ["value-bias"]), ("llama", "neuron", []),
                             ("gpt2", "component", [])):
        d = start(model=ROOT / "tests" / "golden" / "families" / family)
        a = ask(d, input={"ids": [5, 6, 7]}, answer=A, by=by)
        assert [w.split(":")[0] for w in a["warnings"]] == said and a["checks"]["sum"] < 1e-5


@pytest.mark.parametrize("body, status, field, said", [
    ({"answer": 1}, 400, None, "prompts"),
    ({"input": "x"}, 400, "answer", "required"),
    ({"prompts": [{"input": "x", "answer": 1}, {"input": "x"}]}, 400, "prompts[1].answer", "required"),
    ({"input": "x", "answer": 300}, 400, "answer", "299"),
    ({"input": "x", "answer": 5, "foil": 5}, 400, "foil", "same token"),
    ({"input": "x", "answer": [5, 6]}, 400, "answer", ()),
    ({"input": "x", "answer": 5, "by": "token"}, 400, "by", "component"),
    ({"input": "x", "answer": 5, "pos": 7}, 400, "pos", "7"),
    ({"input": {"ids": [5, 6]}, "answer": 5, "pos": "all"}, 400, "pos", "one position"),
    ({"input": {"ids": [300]}, "answer": 5}, 400, "input.ids[0]", "299"),
    ({"prompts": [{"input": {"ids": [1]}}, {"input": {"ids": [300]}}], "answer": 5}, 400, "prompts[1].input.ids[0]", "299"),
    ({"input": "x", "answer": 5, "view": "nowhere"}, 404, "view", "nowhere"),
])
def test_refusals_name_the_field(daemon, body, status, field, said):
    with nothing_moves(daemon):
        problem(daemon.post("/v1/dla", body), status, field=field, said=said)
