"""Every hook of every small model: named in every way, read in its documented shape, written, and what
is refused. The models are all there are: tests/golden/tiny and, one for each family, tests/golden/families."""
import json

import numpy as np
import pytest
from conftest import Daemon
from helpers import keeps, problem
from reference import ROOT, TINY, close, expected, safetensors

FAMILIES = ROOT / "tests" / "golden" / "families"
MODELS = {p.name: p for folder in (TINY, FAMILIES) if folder.exists() for p in sorted(folder.iterdir())
          if (p / "config.json").exists()}
IDS = [37, 36, 211, 133, 156, 159, 188, 10]
MODEL_WIDE = ("hook_tokens", "hook_embed", "hook_pos_embed", "ln_final.hook_scale", "ln_final.hook_normalized",
              "unembed.hook_in", "unembed.hook_out")


def ask(d, reads=(), writes=(), ids=IDS, **more):
    body = {"inputs": [{"id": "a", "ids": ids}], "reads": list(reads), "writes": list(writes), "top_k": 0, **more}
    a = d.post("/v1/trace", body)
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/trace", a)


def array(capture, null=np.nan):
    return np.array([null if v is None else v for v in capture["values"]], np.float64).reshape(capture["shape"])


def logits_of(one):
    """[position][vocabulary], after any soft-cap: what decides."""
    out = np.zeros((len(one["ids"]), len(one["top"][0])))
    for row, top in zip(out, one["top"], strict=True):
        row[[t["id"] for t in top]] = [np.nan if t["logit"] is None else t["logit"] for t in top]
    return out


def logits(d, writes=(), ids=IDS):
    return logits_of(ask(d, writes=writes, ids=ids, top_k=1000, top_pos="all")["inputs"][0])


def hooks(d):
    a = d.get(f"/v1/models/{d.name}/hooks")
    return keeps(d, "GET", "/v1/models/{name}/hooks", a)["hooks"]


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("hooks") / "data", model=MODELS[request.param]).start()
    d.folder = request.param
    yield d
    d.stop()


# ---- all hooks of all models -----------------------------------------------------------------

def test_shapes_are_those_documented(model):
    listed = hooks(model)
    want = [h for h in listed if h["readable"]]
    got = ask(model, [{"site": h["site"]} for h in want])["captures"]
    assert [c["site"] for c in got] == [h["site"] for h in want]
    for c, h in zip(got, want, strict=True):
        assert c["shape"] == [len(IDS) if n is None else n for n in h["size"]], h
        heads = [n for word, n in zip(h["shape"], h["size"]) if word in ("head", "kv_head")]
        assert c["head"] == (list(range(heads[0])) if heads else None), h
        assert np.isfinite(array(c)).all() or h["site"].endswith("attn_scores"), h
    for h in listed:
        if not h["readable"] and not h["layer"]:
            a = model.post("/v1/trace", {"inputs": [{"ids": IDS}], "reads": [{"site": h["site"]}]})
            problem(a, 400, "invalid", "reads[0].site", h["why_not"])
    [tokens] = [c for c in got if c["site"] == "hook_tokens"]
    assert tokens["values"] == IDS


def test_values_are_those_of_the_reference(model):
    folder = MODELS[model.folder]
    facts = json.loads((folder / "expected.json").read_text())
    want = safetensors(folder / "expected.safetensors")
    for i, ids in enumerate(facts["sequences"]):
        names = {h["site"] for h in hooks(model) if h["readable"]}
        sites = [n[3:] for n in want if n.startswith(f"s{i}.") and n[3:] in names]
        for c in ask(model, [{"site": s} for s in sites], ids=ids)["captures"]:
            w = want[f"s{i}.{c['site']}"].reshape(c["shape"])
            got = array(c)
            assert (np.isnan(got) == np.isinf(w)).all(), c["site"]  # -inf where masked: null in JSON
            assert close(np.nan_to_num(got), np.where(np.isinf(w), 0, w)), c["site"]


def one_each(d, writes, reads=()):
    """Each write into an input of its own, in one request: (logits, effect, capture of reads[i]) of each,
    and the logits of an input that nobody touches."""
    inputs = [{"id": str(i), "ids": IDS} for i in range(len(writes) + 1)]
    a = ask(d, [{**r, "input": str(i)} for i, r in enumerate(reads)] + [{"site": "unembed.hook_out"}],
            [{**w, "input": str(i)} for i, w in enumerate(writes)], inputs=inputs)
    rows = [array(c) for c in a["captures"][len(reads):]]
    return rows[:-1], a["writes"], a["captures"][:len(reads)], rows[-1]


def seen_entries(site, scores):
    """Which entries of a hook exist: of scores and patterns those that are not masked."""
    layer = site.rsplit(".", 1)[0]
    return np.isfinite(scores[layer]) if "pattern" in site or "scores" in site else True


def masks(d):
    got = ask(d, [{"site": "blocks.*.attn.hook_attn_scores"}])["captures"]
    return {c["site"].rsplit(".", 1)[0]: array(c) for c in got}


def test_a_hook_set_to_its_own_value_changes_nothing(model):
    written = [h["site"] for h in hooks(model) if h["writable"]]
    reads, scores = ask(model, [{"site": s} for s in written])["captures"], masks(model)
    values = [[0 if v is None else v for v in c["values"]] for c in reads]  # masked scores are not written
    writes = [{"site": s, "from": {"values": v}} for s, v in zip(written, values, strict=True)]
    sources = [{"site": s, "from": {"input": str(len(written))}} for s in written]
    for some in (writes, sources):
        got, effects, _, plain = one_each(model, some)
        for site, c, now, w in zip(written, reads, got, effects, strict=True):
            assert w["sites"] == [site]
            assert w["elements"] == np.broadcast_to(seen_entries(site, scores), c["shape"]).sum(), site
            assert w["max_change"] <= 1e-4 * (1 + np.nanmax(np.abs(array(c)))), site
            assert close(now, plain, 1e-4), site


def test_zero_changes_the_logits(model):
    """A norm's scale is doubled, at one position: a division by zero would prove little, and where another
    norm follows, halving all values would change nothing."""
    written = [h["site"] for h in hooks(model) if h["writable"]]
    scale = [s.endswith("hook_scale") for s in written]
    writes = [{"site": s, **({"op": "scale", "weight": 2, "pos": 3} if k else {"from": "zero"})} for s, k in zip(written, scale, strict=True)]
    before = ask(model, [{"site": s} for s in written])["captures"]
    got, effects, after, plain = one_each(model, writes, [{"site": s} for s in written])
    for site, k, w, was, seen, now in zip(written, scale, effects, before, after, got, strict=True):
        assert np.isfinite(now).all() and not close(now, plain, 1e-4), site
        want, moved = array(was, 0), np.abs(array(was, 0))
        if k:
            want[3], moved = 2 * want[3], moved[3]
        else:
            want[:] = 0
        assert np.allclose(array(seen, 0), want, rtol=1e-5, atol=1e-6), site  # a read sees what was written
        assert np.isclose(w["max_change"], moved.max(), rtol=1e-4), site


def test_heads_are_written_one_by_one(model):
    written = [h for h in hooks(model) if h["writable"] and {"head", "kv_head"} & set(h["shape"])]
    heads = [h["size"][0] or h["size"][1] for h in written]
    before, scores = ask(model, [{"site": h["site"]} for h in written])["captures"], masks(model)
    writes = [{"site": h["site"], "head": n - 1, "pos": [2, -1], "from": "zero"} for h, n in zip(written, heads, strict=True)]
    _, effects, after, _ = one_each(model, writes, [{"site": h["site"]} for h in written])
    for h, n, was, now, w in zip(written, heads, before, after, effects, strict=True):
        at = [2, len(IDS) - 1]
        where = np.s_[n - 1, at] if h["size"][0] else np.s_[at, n - 1]
        want = array(was, 0)
        assert w["max_change"] == pytest.approx(np.abs(want[where]).max(), rel=1e-4, abs=1e-6), h["site"]
        want[where] = 0
        assert np.allclose(array(now, 0), want, atol=1e-5), h["site"]
        assert w["elements"] == np.broadcast_to(seen_entries(h["site"], scores), was["shape"])[where].sum() > 0, h["site"]


def test_short_names_mean_their_sites(model):
    there = [h for h in hooks(model) if h["readable"]]
    got = ask(model, [{"site": h["short"], "pos": 0} for h in there])["captures"]
    assert [c["site"] for c in got] == [h["site"] for h in there]


# ---- names -----------------------------------------------------------------------------------

NAMES = [
    ("z1", "blocks.1.attn.hook_z"), ("k2", "blocks.2.attn.hook_k"), ("pattern0", "blocks.0.attn.hook_pattern"),
    ("pre1", "blocks.1.mlp.hook_pre"), ("scale1ln1", "blocks.1.ln1.hook_scale"), ("resid_pre2", "blocks.2.hook_resid_pre"),
    ("mlp_out0", "blocks.0.hook_mlp_out"), ("attn_scores1", "blocks.1.attn.hook_attn_scores"), ("rot_q2", "blocks.2.attn.hook_rot_q"),
    ("embed", "hook_embed"), ("scale", "ln_final.hook_scale"), ("normalized", "ln_final.hook_normalized"), ("tokens", "hook_tokens"),
    ("attn2", "blocks.2.attn.hook_pattern"), ("attn_logits0", "blocks.0.attn.hook_attn_scores"), ("key1", "blocks.1.attn.hook_k"),
    ("query1", "blocks.1.attn.hook_q"), ("value1", "blocks.1.attn.hook_v"), ("mlp_pre1", "blocks.1.mlp.hook_pre"), ("mlp_post1", "blocks.1.mlp.hook_post"),
    (["resid_pre", 2], "blocks.2.hook_resid_pre"), (["scale", 1, "ln1"], "blocks.1.ln1.hook_scale"), (["k", 2, "a"], "blocks.2.attn.hook_k"),
    (["z", 0, "attn"], "blocks.0.attn.hook_z"), (["pre", 0, "m"], "blocks.0.mlp.hook_pre"), (["post", 0, "mlp"], "blocks.0.mlp.hook_post"),
    (["mlp_out", 1, "b"], "blocks.1.hook_mlp_out"), (["attn_out", 1, "block"], "blocks.1.hook_attn_out"), (["hook_z", 2], "blocks.2.attn.hook_z"),
    (["attn.hook_z", 2], "blocks.2.attn.hook_z"), (["embed"], "hook_embed"), (["z1"], "blocks.1.attn.hook_z"), (["query", 1.0], "blocks.1.attn.hook_q"),
]


@pytest.mark.parametrize("typed, full", NAMES, ids=[str(n[0]) for n in NAMES])
def test_a_name_is_answered_in_full(daemon, typed, full):
    body = ask(daemon, [{"site": typed, "pos": 0}])
    assert [c["site"] for c in body["captures"]] == [full]
    if full == "hook_tokens":
        return
    [w] = ask(daemon, writes=[{"site": typed, "op": "scale", "weight": 3}])["writes"]
    assert w["sites"] == [full] and w["elements"] > 0 and w["max_change"] > 0
    source = ask(daemon, writes=[{"site": full, "from": {"input": "a", "site": typed}}])["writes"]
    assert source[0]["max_change"] < 1e-5


@pytest.mark.parametrize("typed, said", [
    ("z3", "0..2"), ("z-1", "counted from 0"), ("blocks.-1.hook_resid_pre", "counted from 0"), (["resid_pre", -1], "counted from 0"),
    (["resid_pre", 3], "0..2"), ("z", "write \"z1\""), ("scale1", "scale1ln1"), (["scale", 1], "scale1ln1"), ("resid_prw1", "blocks.1.hook_resid_pre"),
    ("attn_in1", "hook_q_input"), ("pos_embed", "rotary"), (["q_normed", 1], "does not normalise"), (["z", "1"], "a word, a layer and a module"),
    ([1, "z"], "a word, a layer and a module"), ([], "empty"), (["z", 1, "attn", "x"], "3"), (["z", 1, 2], "a word, a layer and a module"), (["z*", 1], "unknown site"),
    ("blocks.0.hook_q", "blocks.0.attn.hook_q"),
])
def test_a_wrong_name_is_refused(daemon, typed, said):
    for body, field in (({"reads": [{"site": typed}]}, "reads[0].site"), ({"writes": [{"site": typed, "from": "zero"}]}, "writes[0].site"),
                        ({"writes": [{"site": "z1", "from": {"input": "a", "site": typed}}]}, "writes[0].from.site")):
        a = daemon.post("/v1/trace", {"inputs": [{"id": "a", "ids": IDS}], **body})
        assert problem(a, 400, "invalid", said=said)["field"].startswith(field), a


def test_what_is_read_only_is_not_written(daemon):
    a = daemon.post("/v1/trace", {"inputs": [{"ids": IDS}], "writes": [{"site": "tokens", "from": "zero"}]})
    problem(a, 400, "invalid", "writes[0].site", "hook_tokens is read-only")


# ---- patterns --------------------------------------------------------------------------------

@pytest.mark.parametrize("pattern, want", [
    ("blocks.*.hook_resid_post", [f"blocks.{l}.hook_resid_post" for l in range(3)]),
    ("blocks.[0-1].attn.hook_z", ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]),
    ("blocks.2.attn.hook_[qkv]", [f"blocks.2.attn.hook_{x}" for x in "qkv"]),
    ("blocks.?.ln1.*", [f"blocks.{l}.ln1.hook_{x}" for l in range(3) for x in ("scale", "normalized")]),
    ("*hook_scale", [f"blocks.{l}.ln{n}.hook_scale" for l in range(3) for n in (1, 2)] + ["ln_final.hook_scale"]),
    ("hook_*", ["hook_tokens", "hook_embed"]),
])
def test_a_pattern_reads_all_it_matches_in_order(daemon, pattern, want):
    got = ask(daemon, [{"site": pattern, "pos": "last"}])["captures"]
    assert [c["site"] for c in got] == want
    assert got == ask(daemon, [{"site": s, "pos": "last"} for s in want])["captures"]


def test_patterns_of_several_inputs(daemon):
    got = ask(daemon, [{"site": "blocks.*.hook_mlp_out"}], inputs=[{"id": "x", "ids": IDS}, {"id": "y", "ids": IDS[:3]}])["captures"]
    assert [(c["input"], c["site"]) for c in got] == [(i, f"blocks.{l}.hook_mlp_out") for i in "xy" for l in range(3)]


def test_a_pattern_writes_what_it_matches_and_says_so(daemon):
    sites = [f"blocks.{l}.hook_mlp_out" for l in range(3)]
    a = ask(daemon, [{"site": "blocks.*.hook_mlp_out"}], [{"site": "blocks.*.hook_mlp_out", "from": "zero"}, {"site": "embed", "op": "scale", "weight": 1}])
    assert [w["sites"] for w in a["writes"]] == [sites, ["hook_embed"]]
    assert a["writes"][0]["elements"] == 3 * len(IDS) * 32 and a["writes"][1]["max_change"] == 0
    assert all(not np.any(c["values"]) for c in a["captures"])
    assert close(logits(daemon, [{"site": "blocks.*.hook_mlp_out", "from": "zero"}]), logits(daemon, [{"site": s, "from": "zero"} for s in sites]), 1e-6)
    [w] = ask(daemon, writes=[{"site": "hook_*", "op": "scale", "weight": 2}])["writes"]
    assert w["sites"] == ["hook_embed"]  # token ids are read-only: not written, not an error
    two = ask(daemon, writes=[{"site": "blocks.*.hook_attn_out", "from": "zero"}], inputs=[{"id": "x", "ids": IDS}, {"id": "y", "ids": IDS[:3]}])
    assert two["writes"] == [{"sites": [f"blocks.{l}.hook_attn_out" for l in range(3)], "elements": 3 * (len(IDS) + 3) * 32,
                              "max_change": two["writes"][0]["max_change"]}]


@pytest.mark.parametrize("body, status, field, said", [
    ({"reads": [{"site": "blocks.9.*"}]}, 400, "reads[0].site", "no site of this model matches"),
    ({"reads": [{"site": "z*"}]}, 400, "reads[0].site", "no site"),
    ({"reads": [{"site": "blocks.*.hook_attn_in"}]}, 400, "reads[0].site", "no site"),
    ({"writes": [{"site": "*_tokens", "from": "zero"}]}, 400, "writes[0].site", "that can be written"),
    ({"writes": [{"site": "blocks.*.hook_foo", "from": "zero"}]}, 400, "writes[0].site", "no site"),
    ({"writes": [{"site": "z0", "from": {"input": "a", "site": "blocks.*.attn.hook_z"}}]}, 400, "writes[0].from.site", "one site"),
    ({"reads": [{"site": "blocks.*", "head": 0}]}, 400, "reads[0].head", "has no heads"),
    ({"reads": [{"site": "*"}] * 65}, 413, "reads", "patterns"),
    ({"writes": [{"site": "blocks.0.*", "from": {"values": [0] * 32}}]}, 400, "writes[0].from.values", "wanted"),
    ({"writes": [{"site": "blocks.*", "from": "zero"}]}, 400, "writes", "blocks.0.ln1.hook_normalized and blocks.0.hook_q_input"),
])
def test_patterns_that_cannot_be_are_refused(daemon, body, status, field, said):
    problem(daemon.post("/v1/trace", {"inputs": [{"id": "a", "ids": IDS}], **body}), status, None, field, said)


def test_writes_of_one_norm_and_of_a_copy_through_another_meet_only_in_a_layer(daemon):
    def both(norm_layer, copy_layer, copy_input="a"):
        return daemon.post("/v1/trace", {"inputs": [{"id": "a", "ids": IDS}, {"id": "b", "ids": IDS}], "writes": [
            {"site": f"scale{norm_layer}ln1", "input": "a", "op": "scale", "weight": 2},
            {"site": f"q_input{copy_layer}", "input": copy_input, "op": "scale", "weight": 2}]})
    problem(both(1, 1), 400, None, "writes", "blocks.1.ln1.hook_scale and blocks.1.hook_q_input")
    assert both(1, 2).status == 200 and both(1, 1, "b").status == 200


def test_a_pattern_made_to_take_long_does_not(daemon):
    import time
    since = time.monotonic()
    for pattern in ("*?" * 63, "*a" * 63, "*[a-z]" * 21, "**" * 63 + "x"):
        a = daemon.post("/v1/trace", {"inputs": [{"ids": [5]}], "reads": [{"site": pattern[:127]}] * 64})
        assert a.status in (200, 400, 413), a
    assert time.monotonic() - since < 20


# ---- the ends of the model -------------------------------------------------------------------

def test_positions_between_are_unembedded_when_asked(daemon):
    """Only positions of top_pos, and those that somebody reads or writes, come to the unembedding."""
    want = {c["site"]: array(c) for c in ask(daemon, [{"site": s} for s in MODEL_WIDE if "pos_embed" not in s])["captures"]}
    reads = [{"site": "unembed.hook_out", "pos": [1, 4]}, {"site": "ln_final.hook_scale", "pos": 2},
             {"site": "normalized", "pos": [0, -1]}, {"site": "unembed.hook_in", "pos": [4]}]
    for top in ("last", [3], [0, 5], {"from": 2, "to": 6}, "all"):
        a = ask(daemon, reads, top_pos=top, top_k=3)
        for c in a["captures"]:
            assert close(array(c), want[c["site"]][c["pos"]], 1e-6), (top, c["site"])
        for pos, row in zip(a["inputs"][0]["top_pos"], a["inputs"][0]["top"], strict=True):
            assert [t["id"] for t in row] == list(np.argsort(-want["unembed.hook_out"][pos], kind="stable")[:3])
    long = [(7 * i) % 290 + 3 for i in range(200)]  # more rows than are unembedded at once
    [c] = ask(daemon, [{"site": "unembed.hook_out", "head": None}], ids=long, top_pos=[100, 150])["captures"]
    [part] = ask(daemon, [{"site": "unembed.hook_out", "pos": [63, 64, 65, 199]}], ids=long)["captures"]
    assert c["shape"] == [200, 300] and close(array(part), array(c)[[63, 64, 65, 199]], 1e-6)


def test_writes_at_the_ends(daemon):
    plain = logits(daemon)
    values = [((i * 7) % 11 - 5) / 4 for i in range(300)]
    a = ask(daemon, [{"site": "unembed.hook_out"}], [{"site": "unembed.hook_out", "pos": [2, 5], "from": {"values": values}}])
    want = plain.copy()
    want[[2, 5]] = values
    assert close(array(a["captures"][0]), want, 1e-6) and a["writes"][0]["elements"] == 600
    assert close(logits(daemon, [{"site": "unembed.hook_out", "pos": [2, 5], "from": {"values": values}}]), want, 1e-6)
    assert close(logits(daemon, [{"site": "scale", "pos": 3, "op": "scale", "weight": 2}])[3], plain[3] / 2, 1e-5)
    # from another input's final norm, and from a position nobody asked the logits of
    other = [{"id": "a", "ids": IDS}, {"id": "b", "ids": IDS[::-1]}]
    b = ask(daemon, [{"input": "a", "site": "unembed.hook_out", "pos": "last"}, {"input": "b", "site": "unembed.hook_out", "pos": 1}],
            [{"input": "a", "site": "unembed.hook_in", "pos": "last", "from": {"input": "b", "pos": 1}}], inputs=other)
    assert close(b["captures"][0]["values"], b["captures"][1]["values"], 1e-6)


# ---- generate --------------------------------------------------------------------------------

def generate(d, writes, n=6, **more):
    a = d.post("/v1/generate", {"prompt": {"ids": IDS}, "max_tokens": n, "writes": writes, **more})
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/generate", a)


def test_generation_says_what_it_wrote(daemon):
    assert generate(daemon, [])["writes"] == []
    g = generate(daemon, [{"site": "resid_pre1", "op": "scale", "weight": 1}, {"site": "blocks.*.hook_mlp_out", "pos": [0, 1], "op": "scale", "weight": 1}])
    rows = len(IDS) + len(g["ids"]) - 1  # the last token is not run
    assert g["writes"] == [{"sites": ["blocks.1.hook_resid_pre"], "elements": rows * 32, "max_change": 0, "generated": True},
                           {"sites": [f"blocks.{l}.hook_mlp_out" for l in range(3)], "elements": 3 * 2 * 32, "max_change": 0, "generated": False}]


def test_generation_with_logits_written(daemon):
    bias = [0.0] * 300
    bias[77] = 1000.0
    g = generate(daemon, [{"site": "unembed.hook_out", "op": "add", "from": {"values": bias}}])
    assert g["ids"] == [77] * 6 and g["writes"][0]["elements"] == 6 * 300
    first = generate(daemon, [{"site": "unembed.hook_out", "pos": "last", "op": "add", "from": {"values": bias}}])
    assert first["ids"][0] == 77 and first["ids"] != [77] * 6 and first["writes"][0]["elements"] == 300
    a = daemon.post("/v1/generate", {"prompt": {"ids": IDS}, "writes": [{"site": "unembed.hook_out", "pos": 2, "from": "zero"}]})
    problem(a, 400, "invalid", "writes[0].pos", "only the last position")


@pytest.mark.parametrize("write", [
    {"site": "hook_embed", "op": "scale", "weight": 0.5}, {"site": "normalized", "op": "scale", "weight": -1}, {"site": "scale1ln2", "op": "scale", "weight": 3},
    {"site": "blocks.*.attn.hook_pattern", "from": "zero"}, {"site": "attn_scores1", "op": "scale", "weight": 0}, {"site": "result0", "head": 1, "from": "zero"},
    {"site": "rot_k2", "op": "scale", "weight": -2}, {"site": "q_input1", "head": 3, "from": "zero"}, {"site": "blocks.*.hook_mlp_in", "op": "scale", "weight": 2},
], ids=lambda w: w["site"])
def test_generation_is_what_traces_with_the_same_write_say(daemon, write):
    ids = list(IDS)
    for _ in range(4):
        ids.append(int(logits(daemon, [write], ids)[-1].argmax()))
    assert generate(daemon, [write], 4)["ids"] == ids[len(IDS):]
