"""Gradients as reads: against PyTorch's of the reference models, against the differences that writes
make, and against each other; what they cost; what is refused."""
import json

import numpy as np
import pytest
from conftest import Daemon
from helpers import committed, edit, keeps, problem
from reference import close, log_softmax, safetensors, softmax
from test_hooks import FAMILIES, IDS, MODELS, array, hooks

PT = {p: f for p, f in MODELS.items() if f.parent == FAMILIES}
ANSWER, FOIL = [45, 7], [100, 200, 33]
METRICS = {
    "logit": {"kind": "logit", "answer": 45}, "logit of a set": {"kind": "logit", "answer": ANSWER},
    "logit_diff": {"kind": "logit_diff", "answer": ANSWER, "foil": FOIL}, "prob": {"kind": "prob", "answer": 45},
    "logprob": {"kind": "logprob", "answer": ANSWER}, "prob_diff": {"kind": "prob_diff", "answer": 45, "foil": FOIL},
    "loss": {"kind": "loss"}, "loss at some": {"kind": "loss", "pos": [2, 5]}, "kl": {"kind": "kl", "ref": {"input": "b"}},
    "earlier": {"kind": "logit_diff", "answer": 45, "foil": 7, "pos": 4}, "mean of several": {"kind": "logprob", "answer": 45, "pos": [1, -1]},
}
INPUTS = [{"id": "a", "ids": IDS}, {"id": "b", "ids": IDS[::-1]}]


def ask(d, reads, inputs=INPUTS, headers=None, **more):
    a = d.post("/v1/trace", {"inputs": inputs, "reads": reads, "top_k": 0, **more}, headers)
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/trace", a)


def by_hand(metric, logits, reference, ids):
    """The metric of [pos][V] logits, by the contract's words."""
    at = metric.get("pos", list(range(len(ids) - 1)) if metric["kind"] == "loss" else [-1])
    lse = lambda row, ids: np.log(np.exp(row[np.atleast_1d(ids)]).sum())
    out = []
    for p in np.atleast_1d(at):
        row, logp, a, f = logits[p], log_softmax(logits[p]), metric.get("answer"), metric.get("foil")
        ref = log_softmax(reference[p])
        out.append({"logit": lambda: lse(row, a), "logit_diff": lambda: lse(row, a) - lse(row, f),
                    "prob": lambda: np.exp(lse(logp, a)), "logprob": lambda: lse(logp, a),
                    "prob_diff": lambda: np.exp(lse(logp, a)) - np.exp(lse(logp, f)),
                    "kl": lambda: (np.exp(ref) * (ref - logp)).sum(), "loss": lambda: -logp[ids[p + 1]]}[metric["kind"]]())
    return np.mean(out)


# ---- against PyTorch -------------------------------------------------------------------------

@pytest.fixture(scope="module", params=PT)
def family(request, tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("grad") / "data", model=PT[request.param]).start()
    d.folder = PT[request.param]
    yield d
    d.stop()


def test_gradients_of_the_loss_are_those_of_pytorch(family):
    facts, want = json.loads((family.folder / "expected.json").read_text()), safetensors(family.folder / "expected.safetensors")
    ids, loss = facts["sequences"][0], facts["loss"]
    metric = {"kind": "loss", "pos": loss["rows"]}
    sites = [h["site"] for h in hooks(family) if h["readable"] and h["site"] != "hook_tokens"]
    got = ask(family, [{"site": s, "grad_of": metric} for s in sites], [{"id": "s0", "ids": ids}])["captures"]
    compared = 0
    for c, site in zip(got, sites, strict=True):
        assert c["site"] == site and np.isclose(c["grad_of"]["value"], loss["value"], rtol=1e-5)
        assert c["grad_of"]["pos"] == loss["rows"] and c["grad_of"]["kind"] == "loss"
        if f"s0.grad.{site}" in want:
            assert close(array(c), want[f"s0.grad.{site}"].reshape(c["shape"])), site
            compared += 1
    assert compared >= (0 if facts["only_logits"] else len(sites) - 3)


# ---- against what writes do ------------------------------------------------------------------

@pytest.mark.parametrize("name", METRICS)
def test_a_gradient_is_what_a_small_write_does(daemon, name):
    """Central differences along a random direction at each hook, by writes into 2 × as many inputs."""
    metric, rng, eps = METRICS[name], np.random.default_rng(5), 4e-3
    sites = [h["site"] for h in hooks(daemon) if h["writable"]]
    base = ask(daemon, [{"input": "a", "site": s, "grad_of": metric} for s in sites] + [{"input": "a", "site": s} for s in sites]
               + [{"site": "unembed.hook_out"}])["captures"]
    grads, values, (own, other) = base[:len(sites)], base[len(sites):-2], base[-2:]
    value = by_hand(metric, array(own), array(other), IDS)
    inputs, writes, steps = [{"id": "b", "ids": IDS[::-1]}], [], []
    for c, g in zip(values, grads, strict=True):
        there = np.isfinite(array(c))
        v = np.where(there, rng.integers(-1, 2, c["shape"]), 0)
        h = eps * (np.linalg.norm(np.nan_to_num(array(c))) + 1e-3) / np.linalg.norm(v)
        steps.append((v, h))
        for sign in (1, -1):
            writes.append({"input": str(len(inputs)), "site": c["site"], "op": "add", "weight": sign * h, "from": {"values": v.reshape(-1).tolist()}})
            inputs.append({"id": str(len(inputs)), "ids": IDS})
    moved = ask(daemon, [{"site": "unembed.hook_out"}], inputs, writes=writes)["captures"][1:]
    m = [by_hand(metric, array(c), array(other), IDS) for c in moved]
    for i, (site, g, (v, h)) in enumerate(zip(sites, grads, steps, strict=True)):
        assert np.isclose(g["grad_of"]["value"], value, rtol=1e-5, atol=1e-6)
        want, got = (m[2 * i] - m[2 * i + 1]) / (2 * h), (array(g) * v).sum()
        size = np.linalg.norm(array(g)) * np.linalg.norm(v) / np.sqrt(v.size) + 1e-4
        assert abs(want - got) <= 0.02 * size + 0.02 * abs(want) + 2e-6 / h, (site, want, got, size)


def test_gradients_at_the_logits_are_exact(daemon):
    [own, other] = ask(daemon, [{"site": "unembed.hook_out", "pos": "last"}])["captures"]
    y, ref = array(own)[0], array(other)[0]
    p, q = softmax(y), softmax(ref)
    a, f = np.isin(np.arange(300), ANSWER), np.isin(np.arange(300), FOIL)
    sa, sf, pa, pf = softmax(np.where(a, y, -np.inf)), softmax(np.where(f, y, -np.inf)), p[a].sum(), p[f].sum()
    want = {"logit": np.arange(300) == 45, "logit of a set": sa, "logit_diff": sa - sf, "prob": p[45] * ((np.arange(300) == 45) - p),
            "logprob": sa - p, "prob_diff": p[45] * ((np.arange(300) == 45) - p) - pf * (sf - p), "kl": p - q}
    for name, w in want.items():
        [c] = ask(daemon, [{"input": "a", "site": "unembed.hook_out", "grad_of": METRICS[name]}])["captures"]
        assert not np.any(array(c)[:-1]), name
        assert close(array(c)[-1], w, 1e-5), name


# ---- what is read ----------------------------------------------------------------------------

def test_parts_of_a_gradient_are_the_whole_ones(daemon):
    metric = METRICS["logit_diff"]
    reads = [{"site": "z1"}, {"site": "z1", "head": [1, 3], "pos": [2, 5]}, {"site": "pattern1"}, {"site": "pattern1", "head": 2, "pos": -1},
             {"site": "resid_pre2"}, {"site": "resid_pre2", "pos": 7}, {"site": "result0", "head": 1}, {"site": "result0"}]
    got = [array(c) for c in ask(daemon, [{**r, "input": "a", "grad_of": metric} for r in reads])["captures"]]
    assert close(got[1], got[0][[2, 5]][:, [1, 3]], 1e-6) and close(got[3], got[2][[2]][:, [7]], 1e-6)
    assert close(got[5], got[4][[7]], 1e-6) and close(got[6], got[7][:, [1]], 1e-6)
    for head in range(4):  # all heads' results are added up: they have one gradient
        assert close(got[7][:, head], got[7][:, 0], 1e-6)


def test_gradients_beside_values_keep_their_order(daemon):
    metric = METRICS["prob"]
    reads = [{"site": "blocks.*.hook_resid_post", "grad_of": metric, "pos": "last"}, {"site": "embed", "pos": 0},
             {"site": "embed", "pos": 0, "grad_of": METRICS["loss"]}, {"site": "z0", "pos": 1, "grad_of": metric}]
    got = ask(daemon, reads)["captures"]
    want = [(i, f"blocks.{l}.hook_resid_post", "prob") for i in "ab" for l in range(3)] + [(i, "hook_embed", None) for i in "ab"] + \
           [(i, "hook_embed", "loss") for i in "ab"] + [(i, "blocks.0.attn.hook_z", "prob") for i in "ab"]
    assert [(c["input"], c["site"], c.get("grad_of", {}).get("kind")) for c in got] == want
    for c in got:  # each as if asked alone
        r = {"input": c["input"], "site": c["site"], "pos": c["pos"]}
        kind = c.get("grad_of", {}).get("kind")
        [alone] = ask(daemon, [{**r, **({"grad_of": METRICS[kind]} if kind else {})}])["captures"]
        assert np.allclose(c["values"], alone["values"], rtol=1e-4, atol=1e-7), c["site"]


def test_a_metric_says_what_it_was(daemon):
    body = ask(daemon, [{"input": "a", "site": "z0", "pos": 0, "grad_of": {"kind": "logit_diff", "answer": " Paris is far", "foil": [5, 6]}}] * 2)
    g = body["captures"][0]["grad_of"]
    ids = daemon.post("/v1/tokenize", {"text": " Paris is far", "bos": False}).json["ids"]
    assert g["answer"]["id"] == ids[0] and [f["id"] for f in g["foil"]] == [5, 6] and g["pos"] == [7]
    assert len(body["warnings"]) == 1 and "first-token" in body["warnings"][0]  # said twice, warned about once


def test_kl_with_another_view_and_place(start):
    d = start()
    rev = committed(edit(d))["revision"]
    site = {"site": "resid_pre1", "input": "a"}
    [g] = ask(d, [{**site, "grad_of": {"kind": "kl", "ref": {"view": "base"}}}])["captures"]
    [here], [base] = (ask(d, [{"site": "unembed.hook_out", "input": "a"}], view=v)["captures"] for v in ("main", "base"))
    p, q = log_softmax(array(here)[-1]), log_softmax(array(base)[-1])
    assert np.isclose(g["grad_of"]["value"], (np.exp(q) * (q - p)).sum(), rtol=1e-4) and g["grad_of"]["value"] > 1e-3
    assert g["grad_of"]["ref"]["view"]["name"] == "base" and np.any(g["values"])
    same = ask(d, [{**site, "grad_of": {"kind": "kl", "ref": {"view": rev}}}])["captures"][0]
    assert abs(same["grad_of"]["value"]) < 1e-9 and np.abs(same["values"]).max() < 1e-5
    metric = {"kind": "kl", "pos": [1, 3], "ref": {"input": "b", "pos": [0, 6]}}
    [there] = ask(d, [{**site, "grad_of": metric}])["captures"]
    [b] = ask(d, [{"site": "unembed.hook_out", "input": "b"}])["captures"]
    logp, logq = log_softmax(array(here)[[1, 3]]), log_softmax(array(b)[[0, 6]])
    assert np.isclose(there["grad_of"]["value"], (np.exp(logq) * (logq - logp)).sum(-1).mean(), rtol=1e-4)
    assert not np.any(array(there)[4:]) and np.any(array(there)[3])
    d.post("/v1/rollback", {"to": "base"})  # the branch moves: not answered from the log
    [after] = ask(d, [{**site, "grad_of": {"kind": "kl", "ref": {"view": "main"}}}], view=rev)["captures"]
    assert np.isclose(after["grad_of"]["value"], g["grad_of"]["value"], rtol=1e-4)


# ---- cost ------------------------------------------------------------------------------------

def test_nothing_below_the_lowest_site_is_run_backward(daemon):
    n, metric = len(IDS), {"kind": "logit", "answer": 45}
    cases = {"blocks.2.hook_resid_post": 1, "blocks.2.hook_resid_pre": 1, "blocks.1.mlp.hook_post": 2, "blocks.0.attn.hook_q": 3,
             "hook_embed": 3, "unembed.hook_out": 0, "ln_final.hook_scale": 0}
    for site, layers in cases.items():
        cost = ask(daemon, [{"input": "a", "site": site, "grad_of": metric}])["cost"]
        assert cost["backward"] == layers * n and cost["forward"] == 3 * 2 * n + 3 * n and cost["unit"] == "token-layers", site
    both = ask(daemon, [{"input": "a", "site": s, "grad_of": metric} for s in ("resid_pre2", "resid_pre1")])["cost"]
    assert both["backward"] == 2 * n  # one pass for both
    two = ask(daemon, [{"input": "a", "site": "resid_pre2", "grad_of": m} for m in (metric, METRICS["kl"])])["cost"]
    assert two["backward"] == 2 * n and two["forward"] == (6 + 3 + 3 + 3) * n  # the reference is run too
    assert "cost" not in ask(daemon, [{"site": "resid_pre2"}])


def test_progress_ends_where_it_said(daemon):
    read = [{"site": f"resid_pre{l}", "grad_of": m} for l in range(3) for m in (METRICS["kl"], METRICS["loss"])]
    a = daemon.post("/v1/trace", {"inputs": INPUTS, "reads": read}, {"Prefer": "wait=0", "Cache-Control": "no-cache"})
    job = daemon.finished(a.headers["Location"]) if a.status == 202 else None
    if job:
        assert job["state"] == "done" and job["progress"]["done"] == job["progress"]["total"]
        assert job["progress"]["total"] == job["result"]["cost"]["forward"] + job["result"]["cost"]["backward"]


def test_the_same_gradient_is_answered_from_the_log(daemon):
    reads = [{"input": "a", "site": "z1", "pos": 1, "grad_of": METRICS["logprob"]}]
    first = ask(daemon, reads)
    assert ask(daemon, reads) == {**first, "cached": True}
    other = ask(daemon, [{**reads[0], "grad_of": METRICS["prob"]}])
    assert "cached" not in other and other["captures"][0]["values"] != first["captures"][0]["values"]


# ---- refusals --------------------------------------------------------------------------------

@pytest.mark.parametrize("read, field, said", [
    ({"grad_of": {"kind": "norm_logit_diff", "answer": 4, "foil": 5}}, ".grad_of.kind", "no gradient of its own"),
    ({"grad_of": {"kind": "rank", "answer": 4}}, ".grad_of.kind", "logit_diff"),
    ({"grad_of": {"answer": 4}}, ".grad_of.kind", "required"),
    ({"grad_of": "logit"}, ".grad_of", ""),
    ({"grad_of": {"kind": "logit"}}, ".grad_of.answer", "needs it"),
    ({"grad_of": {"kind": "logit_diff", "answer": 4}}, ".grad_of.foil", "needs it"),
    ({"grad_of": {"kind": "logit_diff", "answer": 4, "foil": 4}}, ".grad_of.foil", "same token"),
    ({"grad_of": {"kind": "logit", "answer": 300}}, ".grad_of.answer", "0..299"),
    ({"grad_of": {"kind": "logit", "answer": 4, "pos": 8}}, ".grad_of.pos", "-8..7"),
    ({"grad_of": {"kind": "kl"}}, ".grad_of.ref", "give the ref"),
    ({"grad_of": {"kind": "kl", "ref": {"pos": 1}}}, ".grad_of.ref", "give the ref"),
    ({"grad_of": {"kind": "kl", "ref": {"input": "c"}}}, ".grad_of.ref.input", "no input"),
    ({"grad_of": {"kind": "kl", "pos": [1, 2], "ref": {"input": "b", "pos": 1}}}, ".grad_of.ref.pos", "1 positions, the metric at 2"),
    ({"grad_of": {"kind": "logit", "answer": 4, "ref": {"input": "b"}}}, ".grad_of.ref", "only kl"),
    ({"grad_of": {"kind": "loss", "answer": 4}}, ".grad_of.answer", "own next tokens"),
    ({"grad_of": {"kind": "loss", "pos": "last"}}, ".grad_of.pos", "nothing follows"),
    ({"site": "tokens", "grad_of": {"kind": "loss"}}, ".grad_of", "no gradient here"),
])
def test_gradients_that_cannot_be_are_refused(daemon, read, field, said):
    body = {"inputs": INPUTS, "reads": [{"site": "z0"}, {"site": "z0", "input": "a", **read}]}
    problem(daemon.post("/v1/trace", body), 400, "invalid", "reads[1]" + field, said)


def test_gradients_are_of_the_unwritten_run(daemon):
    body = {"inputs": INPUTS, "reads": [{"site": "z0"}, {"site": "z0", "grad_of": {"kind": "loss"}}], "writes": [{"site": "z0", "from": "zero"}]}
    problem(daemon.post("/v1/trace", body), 400, "invalid", "reads[1].grad_of", "without writes")


def test_other_refusals(daemon):
    a = daemon.post("/v1/trace", {"inputs": [{"ids": [5]}], "reads": [{"site": "z0", "grad_of": {"kind": "loss"}}]})
    problem(a, 400, "invalid", "reads[0].grad_of.pos", "no next token")
    a = daemon.post("/v1/trace", {"inputs": [{"ids": [5, 6]}], "reads": [{"site": "z0", "grad_of": {"kind": "kl", "ref": {"view": "nowhere"}}}]})
    problem(a, 404, None, "reads[0].grad_of.ref.view", "nowhere")
    reads = [{"site": "z0", "pos": 0, "grad_of": {"kind": "logit", "answer": i}} for i in range(65)]
    problem(daemon.post("/v1/trace", {"inputs": [{"ids": [5, 6]}], "reads": reads}), 413, None, "reads[64].grad_of", "at most 64")
    a = daemon.post("/v1/trace", {"inputs": [{"ids": [5, 6]}], "reads": [{"site": "z0", "grad_of": {"kind": "logit", "answer": 4, "multi": "sequence"}}]})
    problem(a, 501, None, "reads[0].grad_of.multi")


def test_expectations_cover_every_family():
    assert {"gemma2", "gemma3", "gpt2", "gpt_neox", "gptj", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"} <= set(PT) or not FAMILIES.exists()
