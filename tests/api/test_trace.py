"""Looking inside one pass: captures against the committed expectations, writes against a second
forward in numpy, and the record of what was asked."""
import json
import pathlib
import re
import shutil
import struct

import numpy as np
import pytest
from conftest import SLOW, Daemon
from helpers import edit, committed, keeps, problem, state
from reference import TINY, Model, close, expected, safetensors, softmax

SOURCES = {"gqa_tied": "gqa_tied", "gqa_tied f32 gguf": "gqa_tied/gqa_tied.f32.gguf",
           "gqa_tied f16 gguf": "gqa_tied/gqa_tied.f16.gguf", "gqa_untied_odd": "gqa_untied_odd",
           "mha_bf16": "mha_bf16", "wide_head": "wide_head", "gguf_q": "gguf_q/gguf_q.gguf"}
CLEAN, OTHER = expected("gqa_tied")[0]["sequences"]
OTHER = OTHER + [50, 60, 70, 80]  # as long as CLEAN
HOOKS = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out",
         "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_pattern", "attn.hook_z",
         "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"]


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


def trace(d, inputs=None, reads=(), writes=(), headers=None, **more):
    inputs = inputs or [{"id": "a", "ids": CLEAN}]
    a = d.post("/v1/trace", {"inputs": inputs, "reads": list(reads), "writes": list(writes), **more}, headers)
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/trace", a)


def array(capture):
    return np.array(capture["values"], np.float64).reshape(capture["shape"])


def all_logits(d, inputs=None, writes=(), **more):
    """[input][position][vocabulary] through top_k, which must then hold every id once."""
    out = []
    for one in trace(d, inputs, writes=writes, top_k=1000, top_pos="all", **more)["inputs"]:
        rows = np.zeros((len(one["ids"]), 300))
        for row, top in zip(rows, one["top"], strict=True):
            assert sorted(t["id"] for t in top) == list(range(300))
            row[[t["id"] for t in top]] = [t["logit"] for t in top]
        out.append(rows)
    return out


# ---- captures --------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SOURCES)
def test_every_hook_of_every_layer_is_as_expected(tmp_path, name):
    folder = SOURCES[name].split("/")[0]
    facts, tensors = expected(folder)
    d = Daemon(tmp_path / "data", model=TINY / SOURCES[name]).start()
    try:
        sites = [f"blocks.{l}.{h}" for l in range(facts["shape"]["L"]) for h in HOOKS]
        assert set(sites) <= {h["site"] for h in d.get(f"/v1/models/{d.name}/hooks").json["hooks"] if h["readable"]}
        inputs = [{"id": f"s{i}", "ids": ids} for i, ids in enumerate(facts["sequences"])]
        a = trace(d, inputs, [{"site": s} for s in sites], top_k=5, top_pos="all")
        assert len(a["captures"]) == 2 * len(sites)
        for c in a["captures"]:
            want = tensors[f"{c['input']}.{c['site']}"]
            assert close(array(c), want), (c["input"], c["site"])
            assert c["pos"] == list(range(len(facts["sequences"][int(c["input"][1])])))
            heads = {"attn.hook_q": "H", "attn.hook_z": "H", "attn.hook_pattern": "H", "attn.hook_k": "G",
                     "attn.hook_v": "G"}.get(c["site"].split(".", 2)[2])
            assert c["head"] == (list(range(facts["shape"][heads])) if heads else None)
        for one in a["inputs"]:
            logits = tensors[f"{one['id']}.logits"].astype(np.float64)
            assert one["bos_added"] is False and len(one["top"]) == len(one["ids"]) == len(one["tokens"])
            for row, top in zip(logits, one["top"], strict=True):
                assert [t["id"] for t in top] == list(np.argsort(-row, kind="stable")[:5])
                assert np.allclose([t["logit"] for t in top], np.sort(row)[::-1][:5], rtol=1e-4, atol=1e-4)
                assert np.allclose([t["prob"] for t in top], np.sort(softmax(row))[::-1][:5], rtol=1e-3)
        digest = facts.get("digest_gguf", {}).get(SOURCES[name].split("/")[-1], facts["digest"])
        assert a["view"] == {"model": d.name, "name": "main", "revision": d.revisions()[0]["revision"],
                             "digest": digest}
    finally:
        d.stop()


def test_the_second_forward_is_the_first(model):
    for name in ("gqa_tied", "gqa_untied_odd", "mha_bf16", "wide_head"):
        facts, tensors = expected(name)
        for i, ids in enumerate(facts["sequences"]):
            seen, logits = Model(name).run(ids)
            assert close(logits, tensors[f"s{i}.logits"], 1e-6)
            assert all(close(v, tensors[f"s{i}.{site}"], 1e-6) for site, v in seen.items())


@pytest.mark.parametrize("pos, want", [
    (0, [0]), (-1, [8]), (-9, [0]), ([3], [3]), ([5, -8, 5, 1], [1, 5]), ("all", list(range(9))), ("last", [8]),
    ({"from": 2, "to": 5}, [2, 3, 4]), ({"from": -3, "to": 9}, [6, 7, 8]), ({"from": 0, "to": -7}, [0, 1]),
    (None, list(range(9))),
])
def test_positions_in_every_form(daemon, pos, want):
    site = "blocks.1.hook_resid_post"
    [c] = trace(daemon, reads=[{"site": site, "pos": pos}])["captures"]
    assert c["pos"] == want and c["shape"] == [len(want), 32]
    assert close(array(c), expected("gqa_tied")[1][f"s0.{site}"][want])
    top = trace(daemon, top_pos=pos if pos is not None else "all")["inputs"][0]["top"]
    assert len(top) == len(want)


@pytest.mark.parametrize("site, heads", [("blocks.0.attn.hook_z", 4), ("blocks.2.attn.hook_q", 4),
                                         ("blocks.1.attn.hook_k", 2), ("blocks.1.attn.hook_v", 2)])
def test_heads_in_every_form(daemon, site, heads):
    whole = expected("gqa_tied")[1][f"s0.{site}"]
    for head, want in ((0, [0]), (heads - 1, [heads - 1]), ([1, 0], [0, 1]), (None, list(range(heads)))):
        [c] = trace(daemon, reads=[{"site": site, "head": head, "pos": [2, 4]}])["captures"]
        assert c["head"] == want and c["shape"] == [2, len(want), 8]
        assert close(array(c), whole[[2, 4]][:, want])
    a = daemon.post("/v1/trace", {"inputs": [{"ids": CLEAN}], "reads": [{"site": site, "head": heads}]})
    problem(a, 400, "invalid", "reads[0].head", f"0..{heads - 1}")


def test_a_pattern_is_head_by_destination_by_source(daemon):
    site = "blocks.1.attn.hook_pattern"
    [c] = trace(daemon, reads=[{"site": site, "head": [1, 3], "pos": [0, -1]}])["captures"]
    assert c["shape"] == [2, 2, 9]
    assert close(array(c), expected("gqa_tied")[1][f"s0.{site}"][[1, 3]][:, [0, 8]])
    assert np.allclose(array(c).sum(-1), 1, atol=1e-6)


def test_numbers_read_back_as_the_same_float32(daemon):
    read = [{"site": f"blocks.{l}.{h}"} for l in range(3) for h in HOOKS]
    body = daemon.post("/v1/trace", {"inputs": [{"id": "a", "ids": CLEAN}], "reads": read}).body
    values = [v for c in json.loads(body)["captures"] for v in c["values"]]
    spelled = [v for c in json.loads(body, parse_float=str)["captures"] for v in c["values"]]
    for v, s in zip(values, spelled, strict=True):
        f = struct.unpack("<f", struct.pack("<f", v))[0]
        assert float(np.float32(f)) == f and np.float32(s) == np.float32(f)
        assert len(str(s).strip("-").replace(".", "").split("e")[0].lstrip("0")) <= 9, s  # no false digits


def test_values_written_are_values_read(daemon):
    """Every float32 survives the way in and out."""
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2**32, 400, dtype=np.uint32)
    v = bits.view("<f4")
    v = v[np.isfinite(v)][:32 * 9]
    site = "blocks.2.hook_resid_post"
    a = trace(daemon, reads=[{"site": site}], top_k=0,
              writes=[{"site": site, "from": {"values": [float(x) for x in v]}}])
    assert np.array(a["captures"][0]["values"], "<f4").tobytes() == v.tobytes()
    assert a["writes"][0]["elements"] == 288


# ---- inputs ----------------------------------------------------------------------------------

def test_inputs_in_every_form(daemon):
    text = "The capital of France is"
    a = trace(daemon, [text, {"text": text, "bos": True}, {"id": "m", "messages": [{"role": "user", "content": "Hi"}]},
                       {"ids": CLEAN}], [{"input": "m", "site": "blocks.0.hook_resid_pre", "pos": "last"}])
    ids = [i["id"] for i in a["inputs"]]
    assert ids == ["0", "1", "m", "3"]
    told = daemon.post("/v1/tokenize", {"input": text}).json
    assert {k: a["inputs"][0][k] for k in told} == told
    assert a["inputs"][1]["ids"] == [1] + told["ids"] and a["inputs"][1]["bos_added"] is True
    assert a["inputs"][2]["ids"][0] == 1 and a["inputs"][2]["bos_added"] is False
    assert [c["input"] for c in a["captures"]] == ["m"]


def test_inputs_of_one_request_do_not_touch_each_other(daemon):
    alone = all_logits(daemon)[0]
    [a, b, c] = all_logits(daemon, [{"id": "x", "ids": OTHER[:3]}, {"id": "y", "ids": CLEAN}, {"id": "z", "ids": [7]}])
    assert close(b, alone, 1e-5) and a.shape == (3, 300) and c.shape == (1, 300)


def test_no_top_is_no_top(daemon):
    assert trace(daemon, top_k=0)["inputs"][0]["top"] == [[]]
    assert len(trace(daemon, top_k=1000)["inputs"][0]["top"][0]) == 300


# ---- writes ----------------------------------------------------------------------------------

def put(at, value):
    def change(x):
        x[at] = value
        return x
    return change


VECTOR = [((i * 37) % 19 - 9) / 8 for i in range(32)]

WRITES = {  # what is asked, and the same change made by hand; seen are OTHER's own values
    "set values at one position": (
        {"site": "blocks.1.hook_resid_pre", "pos": 4, "from": {"values": VECTOR}},
        lambda seen: put(4, VECTOR)),
    "set one vector at several positions": (
        {"site": "blocks.0.hook_mlp_out", "pos": [2, -1], "from": {"values": VECTOR}},
        lambda seen: put([2, 8], VECTOR)),
    "set half way": (
        {"site": "blocks.1.hook_resid_mid", "pos": 4, "op": "set", "weight": 0.5, "from": {"values": VECTOR}},
        lambda seen: lambda x: np.where(np.arange(9)[:, None] == 4, 0.5 * x + 0.5 * np.array(VECTOR), x)),
    "add": (
        {"site": "blocks.2.hook_resid_pre", "pos": "last", "op": "add", "weight": -1.5, "from": {"values": VECTOR}},
        lambda seen: lambda x: x + np.where(np.arange(9)[:, None] == 8, -1.5 * np.array(VECTOR), 0)),
    "scale": (
        {"site": "blocks.0.hook_attn_out", "op": "scale", "weight": 0.25},
        lambda seen: lambda x: 0.25 * x),
    "scale one head": (
        {"site": "blocks.1.attn.hook_z", "head": 2, "op": "scale", "weight": 0},
        lambda seen: put(np.s_[:, 2], 0)),
    "zero heads": (
        {"site": "blocks.0.attn.hook_z", "head": [0, 3], "pos": {"from": 1, "to": 4}, "from": "zero"},
        lambda seen: put(np.s_[1:4, [0, 3]], 0)),
    "zero neurons": (
        {"site": "blocks.1.mlp.hook_post", "pos": "all", "from": "zero"},
        lambda seen: lambda x: 0 * x),
    "gate": (
        {"site": "blocks.0.mlp.hook_pre", "pos": 3, "op": "scale", "weight": -2},
        lambda seen: lambda x: np.where(np.arange(9)[:, None] == 3, -2 * x, x)),
    "up": (
        {"site": "blocks.2.mlp.hook_pre_linear", "op": "scale", "weight": 3},
        lambda seen: lambda x: 3 * x),
    "another input": (
        {"site": "blocks.1.hook_resid_pre", "pos": 8, "from": {"input": "b"}},
        lambda seen: put(8, seen["blocks.1.hook_resid_pre"][8])),
    "another input at another place": (
        {"site": "blocks.0.hook_resid_post", "pos": [6, 7], "from": {"input": "b", "site": "blocks.2.hook_mlp_out", "pos": [0, 3]}},
        lambda seen: put([6, 7], seen["blocks.2.hook_mlp_out"][[0, 3]])),
    "one source position for all": (
        {"site": "blocks.0.hook_resid_post", "pos": [6, 7], "from": {"input": "b", "pos": -2}},
        lambda seen: put([6, 7], seen["blocks.0.hook_resid_post"][7])),
    "a head from another head": (
        {"site": "blocks.2.attn.hook_z", "head": 1, "from": {"input": "b", "head": 3}},
        lambda seen: put(np.s_[:, 1], seen["blocks.2.attn.hook_z"][:, 3])),
    "q": (
        {"site": "blocks.0.attn.hook_q", "head": 3, "pos": 5, "from": {"input": "b"}},
        lambda seen: put(np.s_[5, 3], seen["blocks.0.attn.hook_q"][5, 3])),
    "k, before rotary": (
        {"site": "blocks.1.attn.hook_k", "head": 1, "pos": 5, "from": {"input": "b", "pos": 2}},
        lambda seen: put(np.s_[5, 1], seen["blocks.1.attn.hook_k"][2, 1])),
    "v": (
        {"site": "blocks.1.attn.hook_v", "head": [0, 1], "pos": 2, "op": "add", "weight": 2, "from": {"input": "b"}},
        lambda seen: lambda x: x + np.where(np.arange(9)[:, None, None] == 2, 2 * seen["blocks.1.attn.hook_v"], 0)),
    "pattern": (
        {"site": "blocks.1.attn.hook_pattern", "head": 2, "from": {"input": "b"}},
        lambda seen: put(2, seen["blocks.1.attn.hook_pattern"][2])),
    "the whole last stream": (
        {"site": "blocks.2.hook_resid_post", "from": {"input": "b"}},
        lambda seen: lambda x: seen["blocks.2.hook_resid_post"]),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_do_what_the_formula_says(daemon, model, name):
    write, change = WRITES[name]
    seen = model.run(OTHER)[0]
    change = change(seen)
    want_seen, want = model.run(CLEAN, {write["site"]: change})
    body = dict(inputs=[{"id": "a", "ids": CLEAN}, {"id": "b", "ids": OTHER}],
                writes=[{**write, "input": "a"}])
    got = all_logits(daemon, **body)
    assert close(got[0], want), name
    assert close(got[1], model.logits(OTHER)), "the source itself was changed"
    assert not close(got[0], model.logits(CLEAN), 1e-3), "the write had no effect"
    a = trace(daemon, body["inputs"], [{"input": "a", "site": write["site"]}], body["writes"])
    assert close(array(a["captures"][0]), want_seen[write["site"]])
    [w] = a["writes"]
    before = model.run(CLEAN)[0][write["site"]]
    assert np.isclose(w["max_change"], np.abs(want_seen[write["site"]] - before).max(), rtol=1e-3, atol=1e-5)
    assert w["elements"] >= (np.abs(want_seen[write["site"]] - before) > 0).sum()


def test_writes_stack_in_order(daemon, model):
    site = "blocks.1.hook_resid_pre"
    writes = [{"site": site, "pos": 2, "from": {"values": VECTOR}}, {"site": site, "pos": 2, "op": "scale", "weight": 2},
              {"site": "blocks.2.hook_mlp_out", "from": "zero"}]
    want = model.logits(CLEAN, {site: put(2, 2 * np.array(VECTOR)), "blocks.2.hook_mlp_out": lambda x: 0 * x})
    assert close(all_logits(daemon, writes=writes)[0], want)
    assert [w["elements"] for w in trace(daemon, writes=writes)["writes"]] == [32, 32, 9 * 32]


def test_a_write_without_input_goes_into_all(daemon, model):
    write = {"site": "blocks.0.hook_mlp_out", "from": "zero"}
    got = all_logits(daemon, [{"ids": CLEAN}, {"ids": OTHER}], [write])
    for logits, ids in zip(got, (CLEAN, OTHER), strict=True):
        assert close(logits, model.logits(ids, {"blocks.0.hook_mlp_out": lambda x: 0 * x}))


def test_values_of_another_view(start, model):
    d = start()
    r = committed(edit(d))
    delta = safetensors(d.get(f"/v1/deltas/{r['delta']}", {"Accept": "application/safetensors"}).body)
    [part] = d.get(f"/v1/deltas/{r['delta']}").json["parts"]
    tuned = model.edited(part["tensor"], delta[part["tensor"] + ".dense"])
    site = "blocks.2.hook_mlp_out"
    assert close(all_logits(d)[0], tuned.logits(CLEAN))
    assert close(all_logits(d, view="base")[0], model.logits(CLEAN))
    write = {"site": site, "pos": "last", "from": {"input": "a", "view": "base"}}
    want = tuned.logits(CLEAN, {site: put(8, model.run(CLEAN)[0][site][8])})
    assert close(all_logits(d, writes=[write])[0], want)
    # The edit lies in this layer's MLP only: its own output, put into the base, makes the edited model.
    write = {"site": site, "from": {"input": "a", "view": r["revision"]}}
    assert close(all_logits(d, writes=[write], view="base")[0], tuned.logits(CLEAN))
    # The branch moves, its name stays: a source is never answered from the log under another state.
    d.post("/v1/rollback", {"to": "base"})
    write = {"site": site, "from": {"input": "a", "view": "main"}}
    assert close(all_logits(d, writes=[write], view="base")[0], model.logits(CLEAN))


@pytest.mark.parametrize("write, field, said", [
    ({"site": "blocks.0.hook_mlp_out", "pos": {"from": 3, "to": 3}, "from": "zero"}, "writes[0].pos", "range is empty"),
    ({"site": "blocks.0.hook_mlp_out", "pos": [], "from": "zero"}, "writes[0].pos", "empty"),
    ({"site": "blocks.0.attn.hook_z", "head": [], "from": "zero"}, "writes[0].head", "empty"),
    ({"input": "nobody", "site": "blocks.0.hook_mlp_out", "from": "zero"}, "writes[0].input", "nobody"),
    ({"site": "blocks.0.hook_mlp_out", "from": {"input": "nobody"}}, "writes[0].from.input", "nobody"),
    ({"site": "blocks.0.hook_mlp_out", "from": {"input": "a", "view": "nowhere"}}, "writes[0].from.view", "nowhere"),
    ({"site": "blocks.0.hook_mlp_out", "from": {"input": "a", "site": "blocks.0.mlp.hook_post"}}, "writes[0].from", "48"),
    ({"site": "blocks.0.hook_mlp_out", "from": {"input": "a", "pos": [0, 1]}}, "writes[0].from.pos", "2 positions"),
    ({"site": "blocks.0.hook_mlp_out", "pos": [7, 6], "from": {"values": 64 * [0]}}, "writes[0].pos", "ascending"),
    ({"site": "blocks.0.hook_mlp_out", "pos": [6, 7], "from": {"input": "a", "pos": [3, -9]}}, "writes[0].from.pos", "ascending"),
    ({"site": "blocks.0.attn.hook_z", "head": [0, 0], "from": {"input": "a"}}, "writes[0].head", "ascending"),
    ({"site": "blocks.0.hook_mlp_out", "from": {"input": "a", "pos": 9}}, "writes[0].from.pos", "-9..8"),
    ({"site": "blocks.0.hook_mlp_out", "from": {"values": [1, 2]}}, "writes[0].from.values", "32"),
    ({"site": "blocks.0.hook_mlp_out", "from": {"values": [1e39] + 31 * [0]}}, "writes[0].from.values", "float32"),
    ({"site": "blocks.0.hook_mlp_out", "op": "scale", "weight": 1e39}, "writes[0].weight", "float32"),
    ({"site": "blocks.0.hook_mlp_out", "op": "scale", "from": "zero"}, "writes[0].from", "scale"),
    ({"site": "blocks.0.hook_mlp_out"}, "writes[0].from", "need a source"),
    ({"site": "blocks.0.hook_mlp_out", "from": "nothing"}, "writes[0].from", "zero"),
    ({"site": "blocks.3.hook_mlp_out", "from": "zero"}, "writes[0].site", "0..2"),
])
def test_writes_that_cannot_be_are_refused(daemon, write, field, said):
    a = daemon.post("/v1/trace", {"inputs": [{"id": "a", "ids": CLEAN}], "writes": [write]})
    problem(a, 400, "invalid", field, said) if a.status == 400 else problem(a, 404, "not-found", field, said)


def test_what_is_no_number_is_not_ranked(daemon):
    huge = [{"site": "resid_pre2", "pos": [3, 4], "op": "scale", "weight": 1e38}]
    ask = dict(inputs=[{"id": "good", "ids": CLEAN}, {"id": "bad", "ids": CLEAN}], top_pos=[2, 3, 4], writes=[{**huge[0], "input": "bad"}])
    a = trace(daemon, **ask)
    good, bad = (i["top"] for i in a["inputs"])
    assert [len(t) for t in good] == [5, 5, 5] and [len(t) for t in bad] == [5, 0, 0] and bad[0] == good[0]
    [warning] = a["warnings"]
    assert warning.startswith("nonfinite: ") and "input bad" in warning and "position 3" in warning and "of 2" in warning
    read = [{"input": "bad", "site": s} for s in ("resid_pre0", "attn_scores0", "resid_post2")]
    a = trace(daemon, **ask, reads=read)  # scores are -inf where masked, as they should be
    assert [None in c["values"] for c in a["captures"]] == [False, True, True]
    [captured] = [w for w in a["warnings"] if "capture" in w]
    assert captured.startswith("nonfinite: bad/blocks.2.hook_resid_post (the first of 1 ")
    fine = trace(daemon, inputs=[{"id": "a", "ids": CLEAN}], reads=[{"site": "attn_scores0"}])
    assert fine["warnings"] == []


# ---- the record ------------------------------------------------------------------------------

def test_the_same_question_is_answered_from_the_log(daemon):
    ask = dict(inputs=[{"id": "log", "ids": CLEAN[:7]}], reads=[{"site": "blocks.0.attn.hook_z", "pos": -1}])
    first = trace(daemon, **ask)
    assert "cached" not in first
    again = trace(daemon, **ask)
    assert again == {**first, "cached": True}
    by_id = trace(daemon, **ask, view=first["view"]["revision"])  # the same weights under another name
    assert by_id["cached"] is True and by_id["run"] == first["run"]
    assert by_id["view"]["name"] == first["view"]["revision"]
    spelled = trace(daemon, **ask, top_k=5, top_pos="last")  # defaults spelled out are the same question
    assert spelled["cached"] is True
    fresh = trace(daemon, **ask, headers={"Cache-Control": "no-cache"})
    assert "cached" not in fresh and fresh["run"] != first["run"]
    assert fresh == {**first, "run": fresh["run"]}
    assert "cached" not in trace(daemon, **ask, top_k=4)


def another_eps(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": config["rms_norm_eps"] * 1000}))


def another_tokenizer(model):
    t = json.loads((model / "tokenizer.json").read_text())
    t["model"]["merges"] = t["model"]["merges"][:3]
    (model / "tokenizer.json").write_text(json.dumps(t))


def another_eps_in_gguf(model):
    raw, key = model.read_bytes(), b"llama.attention.layer_norm_rms_epsilon"
    at = raw.index(key) + len(key) + 4  # behind the value's type
    model.write_bytes(raw[:at] + struct.pack("<f", 1000 * struct.unpack_from("<f", raw, at)[0]) + raw[at + 4:])


@pytest.mark.parametrize("file, change", [("gqa_tied", another_eps), ("gqa_tied", another_tokenizer),
                                          ("gqa_tied/gqa_tied.f32.gguf", another_eps_in_gguf)])
def test_what_is_no_weight_is_another_question(start, tmp_path, file, change):
    """The digest is of weights; constants and tokenizer make the answer too."""
    model = tmp_path / "model"
    (shutil.copytree if (TINY / file).is_dir() else shutil.copy)(TINY / file, model)

    def ask():
        d = start(model=model, data=tmp_path / "data")
        a = trace(d, inputs=[{"text": "The capital of France is"}])
        d.stop()
        return a

    first, again = ask(), ask()
    assert "cached" not in first and again == {**first, "cached": True}
    change(model)
    other = ask()
    assert "cached" not in other and other["view"]["digest"] == first["view"]["digest"]
    assert other["inputs"] != first["inputs"]


def test_a_run_holds_request_and_result(daemon):
    a = trace(daemon, reads=[{"site": "blocks.2.attn.hook_z", "head": 1}], top_k=3)
    got = daemon.get(f"/v1/runs/{a['run']}")
    run = keeps(daemon, "GET", "/v1/runs/{run}", got) if got.status == 200 else pytest.fail(repr(got))
    assert run["result"] == a and run["kind"] == "trace" and run["run"] == a["run"]
    asked = run["request"]
    assert asked["view"] == "main" and asked["top_pos"] == "last" and asked["top_k"] == 3  # resolved
    assert asked["reads"] == [{"site": "blocks.2.attn.hook_z", "pos": "all", "head": 1}]
    assert run["view_digest"] == a["view"]["digest"] and run["revision"] == a["view"]["revision"]
    assert run["engine"].startswith("engramd ") and run["kernel"] and run["threads"] >= 1
    assert run["seconds"] > 0 and run["author"] == "local" and run["author_verified"] is False
    listed = daemon.get("/v1/runs?kind=trace&limit=1").json["runs"]
    assert [r["run"] for r in listed] == [a["run"]] and "result" not in listed[0]
    assert daemon.get("/v1/runs?kind=patch").json["runs"] == []


def test_looking_changes_nothing(daemon):
    before = state(daemon)
    trace(daemon, writes=[{"site": "blocks.0.hook_mlp_out", "from": "zero"}])
    assert state(daemon) == before


def test_captures_are_bounded(daemon):
    inputs = [{"ids": [5] * 256} for _ in range(1024)]
    a = daemon.post("/v1/trace", {"inputs": inputs, "reads": [{"site": f"blocks.{l}.attn.hook_pattern"} for l in range(3)]})
    problem(a, 413, field="reads", said="at most")


@pytest.mark.parametrize("what", ["reads", "writes"])
def test_lists_of_places_are_bounded(daemon, what):
    """Few bytes name many places: refused while counting, not after all of them were laid out."""
    inputs = [{"id": "a", "ids": [5] * 256}] + [{"ids": [5] * 256} for _ in range(1023)]
    one = {"site": "blocks.0.hook_resid_pre", **({"from": {"input": "a"}} if what == "writes" else {})}
    a = daemon.post("/v1/trace", {"inputs": inputs, what: [one] * 4096})
    problem(a, 413, field=what, said="at most")
    if SLOW == 1:  # a sanitizer's own memory would be counted too
        status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text(encoding="ascii")
        assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 1_500_000, "the places were laid out before they were counted"
