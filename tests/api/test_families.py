"""One life of every family's tiny model, as a hub directory and as GGUF: looked into, edited, verified, rolled
back, exported. tests/golden/families says what each model is; a folder there is in this test by itself.
"""
import importlib.util
import json
import re
import subprocess

import numpy as np
import pytest
from conftest import ENGRAMD, ROOT
from helpers import LEARN, committed, keeps, problem
from reference import log_softmax, safetensors

FAMILIES = ROOT / "tests" / "golden" / "families"
TSAN = {"gpt2", "gpt_neox", "gemma2_packed/twin.gguf"}  # input-major, parallel, packed: the ways a pass can go
TOKENS = 6

spec = importlib.util.spec_from_file_location("digest", ROOT / "docs" / "digest.py")
digest_py = importlib.util.module_from_spec(spec)
spec.loader.exec_module(digest_py)


def sources():
    for folder in sorted(p for p in FAMILIES.iterdir() if p.is_dir()):
        for name in (folder.name, f"{folder.name}/twin.gguf"):
            if (FAMILIES / name).exists():
                yield pytest.param(name, marks=[pytest.mark.tsan] if name in TSAN else [])


def ask(d, route, body):
    a = d.post(route, body)
    assert a.status == 200, a
    return keeps(d, "POST", route, a)


def logits(top):
    """[V] of a trace's whole top list."""
    out = np.full(len(top), np.nan)
    for t in top:
        out[t["id"]] = t["logit"]
    assert not np.isnan(out).any()
    return out


def trace(d, inputs, **more):
    """Logits [V] of each input's last position; nothing is cached between inputs."""
    a = ask(d, "/v1/trace", {"inputs": [{"id": f"i{k}", "ids": ids} for k, ids in enumerate(inputs)], "top_k": d.vocab, **more})
    return [logits(i["top"][0]) for i in a["inputs"]]


def generate(d, prompt, **more):
    return ask(d, "/v1/generate", {"prompt": {"ids": prompt}, "max_tokens": TOKENS, **more})


def test_there_is_a_model_of_every_family():
    rows = re.findall(r"^FAMILY\((\w+)", (ROOT / "core" / "arch.def").read_text(), re.M)
    assert len(rows) >= 11 and all((FAMILIES / name).is_dir() for name in rows)


def looks(d, golden, prompt):
    """The golden logits, through the contract; greedy decoding is the argmax of whole passes."""
    want = safetensors(golden / "expected.safetensors")["s1.logits"][-1]
    (got,) = trace(d, [prompt])
    assert np.linalg.norm(got - want) <= 1e-4 * np.linalg.norm(want)
    said = generate(d, prompt)
    steps = trace(d, [prompt + said["ids"][:k] for k in range(len(said["ids"]))])
    assert said["ids"] == [int(x.argmax()) for x in steps]
    assert len(said["ids"]) == TOKENS or said["finish_reason"] == "stop"
    return said["ids"]


def patches(d, clean):
    """Both grids; in each layer the cell that moves most is what a trace with that write says."""
    corrupt = clean[:3] + [clean[3] % 200 + 5] + clean[4:7] + [clean[7] % 200 + 9] + clean[8:]
    answer, foil = 42, 7
    pair = [{"id": "clean", "ids": clean}, {"id": "corrupt", "ids": corrupt}]
    for site, axes in (("hook_resid_pre", ["layer", "pos"]), ("attn.hook_z", ["layer", "head"])):
        g = ask(d, "/v1/patch", {"clean": {"ids": clean}, "corrupt": {"ids": corrupt}, "site": site, "axes": axes,
                                 "metric": {"kind": "logit_diff", "answer": answer, "foil": foil}})
        values = np.array(g["values"])
        assert values.shape == (d.layers, len(clean) if axes[1] == "pos" else d.heads)
        assert g["checks"]["identity"] <= 1e-4 and g["checks"]["full"] <= 1e-4
        moved = np.abs(values - g["baseline"]["corrupt"])
        assert moved.max() > 1e-2, "this grid shows nothing"
        for layer in range(d.layers):
            cell = int(moved[layer].argmax())
            where = {"pos": cell} if axes[1] == "pos" else {"pos": "all", "head": cell}
            a = ask(d, "/v1/trace", {"inputs": pair, "top_k": d.vocab, "writes": [
                {"input": "corrupt", "site": f"blocks.{layer}.{site}", **where, "op": "set", "from": {"input": "clean"}}]})
            y = logits(a["inputs"][1]["top"][0])
            assert abs(values[layer, cell] - (y[answer] - y[foil])) <= 1e-4


def limits(d, context):
    """Up to the last position the model has, and not one further (learned positions are a table)."""
    full = [5 + k % 7 for k in range(context)]
    assert len(trace(d, [full])) == 1 and len(generate(d, full[:-2])["ids"]) <= 3
    said = generate(d, full[:-2], max_tokens=50)
    assert said["ids"] and said["finish_reason"] in ("length", "stop")
    for route, body in (("/v1/generate", {"prompt": {"ids": full + [5]}}),
                        ("/v1/trace", {"inputs": [{"id": "i", "ids": full + [5]}]}),
                        ("/v1/tuco", {"prompts": [{"ids": full + [5]}]}),
                        ("/v1/edits", {"method": "locft", "facts": [{"prompt": {"ids": full}, "target_new": "Rome"}]})):
        problem(d.post(route, body), 400, said=str(context))


def tuco(d, prompt, **more):
    return ask(d, "/v1/tuco", {"prompts": [{"ids": prompt}], **more})["scores"][0]


def edits(d, prompt, base):
    """Learn a fact; what the ledger says of it is what the model does."""
    (before,) = trace(d, [prompt])
    made = committed(d.post("/v1/edits", {"method": "locft", "params": LEARN, "facts": [
        {"prompt": {"ids": prompt}, "target_new": "Rome", "locality": [{"prompt": {"ids": prompt[:3]}}]}]}))
    fact, digest = made["facts"][0], made["digest"]
    assert digest["before"] == base != digest["after"] == d.digest()
    assert fact["after"]["nll_new"] < 0.8 * fact["before"]["nll_new"]  # post-norms and soft-caps leave it a little
    ids = fact["target_ids"]
    for view, scores in (("base", fact["before"]), (made["revision"], fact["after"])):
        steps = trace(d, [prompt + ids[:k] for k in range(len(ids))], view=view)
        nll = -np.mean([log_softmax(x)[i] for x, i in zip(steps, ids, strict=True)])
        assert abs(nll - scores["nll_new"]) <= 1e-4 * max(1, nll)
    if fact["after"]["tf_exact"]:
        assert generate(d, prompt)["ids"][:len(ids)] == ids
    s = tuco(d, prompt)
    assert s["tuco"] > 0 and [x["ftc"] > 0 for x in s["by_layer"]] == [l == made["params"]["layer"] for l in range(d.layers)]
    (again,) = trace(d, [prompt], view="base")
    assert np.array_equal(again, before)
    return made["revision"], digest["after"]


def exported(d, out, view, digest):
    done = subprocess.run([ENGRAMD, "export", "--data", d.data, "--model", d.model, "--view", view, "--out", str(out)],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and digest in done.stdout, done
    assert digest_py.digest(digest_py.read(str(out))) == digest


@pytest.mark.parametrize("source", sources())
def test_a_model_of_each_family_lives_its_life(start, tmp_path, source):
    golden = FAMILIES / source.split("/")[0]
    facts = json.loads((golden / "expected.json").read_text())
    long, short = facts["sequences"]
    d = start(model=FAMILIES / source)
    (model,) = d.get("/v1/models").json["models"]
    assert model["family"] == facts["family"]
    d.vocab, d.layers, d.heads, base = model["vocab"], model["layers"], model["heads"], model["base_digest"]
    assert d.digest() == base
    said = looks(d, golden, short)
    patches(d, long)
    limits(d, model["context"])
    s = tuco(d, long)
    assert s["tuco"] == 0 and s["ftc"] == 0 and s["ptc"] > 0
    revision, edited = edits(d, short, base)
    assert d.get("/v1/audit/verify").json["ok"] is True
    back = d.post("/v1/rollback", {"to": "base"})
    assert back.status == 201 and back.json["digest"] == base == d.digest()
    assert generate(d, short)["ids"] == said
    assert d.get("/v1/audit/verify").json["ok"] is True
    exported(d, tmp_path / "base", "main", base)
    exported(d, tmp_path / "edited", revision, edited)
