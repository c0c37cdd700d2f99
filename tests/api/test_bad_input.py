"""The contract's paragraph "Bad input" as a table. Each case is refused with a problem that names the
field and what is allowed, and moves nothing: no revision, no digest of any view."""
import json

import pytest
from helpers import TOUCH, committed, edit, fact, nothing_moves, problem, say

MESSAGE = {"role": "user", "content": "x"}
TRACE = {"inputs": [{"id": "a", "ids": [5, 6, 7]}]}
PATCH = {"clean": {"ids": [5, 6, 7]}, "corrupt": {"ids": [5, 9, 7]}, "site": "hook_resid_pre", "axes": ["layer", "pos"],
         "metric": {"kind": "logit_diff", "answer": 10, "foil": 11}}
LOCALIZE = {"method": "patch", **{k: PATCH[k] for k in ("clean", "corrupt", "metric")}}
ATTRIBUTION = {k: PATCH[k] for k in ("clean", "corrupt", "metric")}
TUCO = {"prompts": ["It is"]}
EDIT = {"method": "locft", "facts": [fact()], "params": TOUCH}
ROLLBACK = {"to": "base"}
GENERATE = {"prompt": "It is", "max_tokens": 2}
GOOD = {"/v1/tokenize": {"input": "It is"}, "/v1/generate": GENERATE, "/v1/trace": TRACE, "/v1/patch": PATCH,
        "/v1/attribution": ATTRIBUTION,
        "/v1/localize": LOCALIZE, "/v1/tuco": TUCO, "/v1/edits": EDIT, "/v1/rollback": ROLLBACK}
LONG = [5] * 257
READ = {"site": "blocks.0.attn.hook_z"}


@pytest.fixture(scope="module")
def d(daemon):
    """With a history, so that there is something to move."""
    daemon.old = committed(edit(daemon))["revision"]
    assert daemon.post("/v1/rollback", {"to": "base"}).status == 201
    committed(edit(daemon, fact("one", "It is")))
    views = ["main", "base", *(r["revision"] for r in daemon.revisions())]
    said = {v: say(daemon, view=v) for v in views}
    yield daemon
    assert {v: say(daemon, view=v) for v in views} == said
    assert daemon.get("/v1/audit/verify").json["ok"] is True


def refused(d, path, body, status, field, said):
    with nothing_moves(d):
        answer = d.post(path, body)
    assert 400 <= answer.status < 500 or answer.status == status
    problem(answer, status, field=field, said=said)


def test_the_bodies_below_are_good_but_for_their_fault(d):
    with nothing_moves(d):
        for path, body in GOOD.items():
            if path == "/v1/edits":
                body = {**body, "mode": "dry_run"}
            if path != "/v1/rollback":
                assert d.post(path, body).status == 200, path


# ---- any body --------------------------------------------------------------------------------

def deep(levels):
    """Nested that deep in all, the body's own object included."""
    return b'{"x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


NOT_JSON = {
    "nothing": b"", "white space": b"  \n", "cut short": b'{"input":', "no object": b"[]", "a text": b'"x"', "null": b"null",
    "two values": b"{} {}", "a trailing comma": b'{"a":1,}', "single quotes": b"{'a':1}", "a bare name": b"{a:1}",
    "a comment": b'{"a":1 /* x */}', "NaN": b'{"a":NaN}', "Infinity": b'{"a":Infinity}', "a leading zero": b'{"a":01}',
    "a plus": b'{"a":+1}', "no digits": b'{"a":1.}', "hexadecimal": b'{"a":0x10}', "out of double": b'{"a":1e999}',
    "a raw control": b'{"a":"\x01"}', "a raw line end": b'{"a":"\n"}', "a bad escape": b'{"a":"\\q"}',
    "a lone surrogate": b'{"a":"\\ud800"}', "a broken surrogate": b'{"a":"\\ud800\\u0041"}', "NUL in text": b'{"a":"\\u0000"}',
    "NUL": b'{"a":1}\x00', "a byte order mark": b"\xef\xbb\xbf{}", "invalid UTF-8": b'{"a":"\xff"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}', "a surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "UTF-8 cut short": b'{"a":"\xe2\x82"}', "past Unicode": b'{"a":"\xf4\x90\x80\x80"}', "UTF-16": '{"a":1}'.encode("utf-16"),
    "65 levels": deep(65), "60000 levels": deep(60000), "a key twice": b'{"a":1,"a":1}',
    "a key twice, spelled otherwise": b'{"a":1,"\\u0061":2}', "a key twice, inside": b'{"x":{"a":[{"b":1,"b":2}]}}',
}


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_no_json_object_is_refused(d, path, name):
    with nothing_moves(d):
        answer = d.post(path, NOT_JSON[name])
    problem(answer, 400, "invalid")


def test_a_duplicate_is_named(d):
    refused(d, "/v1/edits", json.dumps(EDIT)[:-1].encode() + b',"method":"locft"}', 400, "method", "twice")
    body = json.dumps(EDIT).replace('"lr"', '"epochs": 2, "lr"').encode()
    refused(d, "/v1/edits", body, 400, "epochs", "twice")


def test_64_levels_are_read(d):
    answer = d.post("/v1/tokenize", deep(64))
    problem(answer, 400, "invalid", "x", "unknown field")  # it was read, and then its one field was unknown


@pytest.mark.parametrize("path", GOOD)
def test_unknown_fields_are_named(d, path):
    refused(d, path, {**GOOD[path], "surprise": 1}, 400, "surprise", "unknown field")


@pytest.mark.parametrize("path", GOOD)
def test_bodies_over_the_limit_are_refused(d, path):
    size = 9 << 20 if path == "/v1/edits" else 5 << 20
    with nothing_moves(d):
        try:
            answer = d.post(path, b'{"x":"' + b"a" * size + b'"}')
        except (BrokenPipeError, ConnectionResetError):
            return  # told, and hung up, before all was sent
    problem(answer, 413, "body-too-large")


@pytest.mark.parametrize("path", GOOD)
def test_a_model_nobody_serves(d, path):
    refused(d, path, {**GOOD[path], "model": "gpt-17"}, 404, "model", "gqa_tied")


# ---- one fault in a good body ----------------------------------------------------------------

def with_(body, **more):
    return {**body, **more}


def reads(**read):
    return with_(TRACE, reads=[{**READ, **read}])


def writes(**write):
    return with_(TRACE, writes=[{"site": "blocks.0.attn.hook_z", "from": "zero", **write}])


def metric(**more):
    return with_(PATCH, metric={**PATCH["metric"], **more})


def facts(**more):
    return with_(EDIT, facts=[{**fact(), **more}])


CASES = {
    # wrong types
    "tokenize a number": ("/v1/tokenize", {"input": 5}, 400, "input", "string"),
    "generate, tokens as text": ("/v1/generate", with_(GENERATE, max_tokens="8"), 400, "max_tokens", "integer"),
    "generate, half a token": ("/v1/generate", with_(GENERATE, max_tokens=8.5), 400, "max_tokens", "integer"),
    "generate, stream as number": ("/v1/generate", with_(GENERATE, stream=1), 400, "stream", "true or false"),
    "generate, messages as object": ("/v1/generate", {"messages": MESSAGE}, 400, "messages", "list"),
    "trace, inputs as object": ("/v1/trace", {"inputs": {"a": "x"}}, 400, "inputs", "list"),
    "trace, site as number": ("/v1/trace", reads(site=3), 400, "reads[0].site", "string"),
    "trace, pos as number with a fraction": ("/v1/trace", reads(pos=0.5), 400, "reads[0].pos", "integer"),
    "trace, pos as true": ("/v1/trace", reads(pos=True), 400, "reads[0].pos", "integer"),
    "trace, head as text": ("/v1/trace", reads(head="0"), 400, "reads[0].head", "integer"),
    "trace, values as text": ("/v1/trace", writes(**{"from": {"values": ["1"]}}), 400, "writes[0].from.values[0]", "number"),
    "patch, axes as text": ("/v1/patch", with_(PATCH, axes="layer,pos"), 400, "axes", "list"),
    "patch, metric as text": ("/v1/patch", with_(PATCH, metric="kl"), 400, "metric", "object"),
    "attribution, method as list": ("/v1/attribution", with_(ATTRIBUTION, method=["atp"]), 400, "method", "string"),
    "attribution, steps as text": ("/v1/attribution", with_(ATTRIBUTION, method="ig", steps="3"), 400, "steps", "integer"),
    "attribution, an audit's unknown part": ("/v1/attribution", with_(ATTRIBUTION, audit={"tops": 1}), 400, "audit.tops", "top"),
    "attribution of an empty prompt": ("/v1/attribution", with_(ATTRIBUTION, clean=""), 400, "clean", "empty"),
    "edges, top_k out of range": ("/v1/attribution", with_(ATTRIBUTION, method="eap", top_k=10001), 400, "top_k", "10000"),
    "edit, facts as object": ("/v1/edits", with_(EDIT, facts=fact()), 400, "facts", "list"),
    "edit, params as list": ("/v1/edits", with_(EDIT, params=[]), 400, "params", "object"),
    "edit, target as list": ("/v1/edits", facts(target_new=["a"]), 400, "facts[0].target_new", "string"),
    "edit, gates as number": ("/v1/edits", with_(EDIT, gates=1), 400, "gates", "object"),
    "rollback to a number": ("/v1/rollback", {"to": 1}, 400, "to", "string"),
    # unknown fields inside
    "trace, in a read": ("/v1/trace", reads(poss=1), 400, "reads[0].poss", "pos"),
    "trace, in a range": ("/v1/trace", reads(pos={"from": 0, "to": 1, "by": 1}), 400, "reads[0].pos.by", "unknown"),
    "patch, in the metric": ("/v1/patch", metric(anser=1), 400, "metric.anser", "answer"),
    "edit, in a fact": ("/v1/edits", facts(taget_new="x"), 400, "facts[0].taget_new", "target_new"),
    "edit, in a locality prompt": ("/v1/edits", facts(locality=[{"promt": "x"}]), 400, "facts[0].locality[0].promt", "prompt"),
    "edit, among the parameters": ("/v1/edits", with_(EDIT, params={"lrr": 1}), 400, "params.lrr", "/v1/methods"),
    "edit, among the gates": ("/v1/edits", with_(EDIT, gates={"tf": 1}), 400, "gates.tf", "tf_exact"),
    # numbers out of range
    "generate 0 tokens": ("/v1/generate", with_(GENERATE, max_tokens=0), 400, "max_tokens", "between 1 and"),
    "generate, cold": ("/v1/generate", with_(GENERATE, temperature=-1), 400, "temperature", "between 0 and 100"),
    "generate, top_p": ("/v1/generate", with_(GENERATE, top_p=1.01), 400, "top_p", "between 0 and 1"),
    "generate, top_k": ("/v1/generate", with_(GENERATE, top_k=0), 400, "top_k", "between 1 and"),
    "generate, seed": ("/v1/generate", with_(GENERATE, seed=2**53), 400, "seed", str(2**53 - 1)),
    "generate, a huge seed": ("/v1/generate", with_(GENERATE, seed=10**30), 400, "seed", None),
    "trace, top_k": ("/v1/trace", with_(TRACE, top_k=1001), 400, "top_k", "1000"),
    "trace, a token": ("/v1/trace", {"inputs": [{"ids": [5, 300]}]}, 400, "inputs[0].ids[1]", "299"),
    "trace, a negative token": ("/v1/trace", {"inputs": [{"ids": [-1]}]}, 400, "inputs[0].ids[0]", "0"),
    "trace, a value past float32": ("/v1/trace", writes(op="add", **{"from": {"values": [1e300] * 32}}), 400,
                                    "writes[0].from.values", "float32"),
    "trace, too many inputs": ("/v1/trace", {"inputs": ["x"] * 1025}, 400, "inputs", "1024"),
    "localize, k": ("/v1/localize", with_(LOCALIZE, k=0), 400, "k", "between 1 and"),
    "localize, control": ("/v1/localize", with_(LOCALIZE, n_control=1), 400, "n_control", "between 2 and"),
    "tuco, too many": ("/v1/tuco", {"prompts": ["x"] * 1025}, 400, "prompts", "1024"),
    "edit, lr": ("/v1/edits", with_(EDIT, params={"lr": 1.5}), 400, "params.lr", ("1e-07", "to 1")),
    "edit, epochs": ("/v1/edits", with_(EDIT, params={"epochs": 0}), 400, "params.epochs", ("from 1", "1000")),
    "edit, batch": ("/v1/edits", with_(EDIT, params={"batch": 1001}), 400, "params.batch", "1000"),
    "edit, gate": ("/v1/edits", with_(EDIT, gates={"efficacy": -0.1}), 400, "gates.efficacy", "from 0 to 1"),
    "edit, message": ("/v1/edits", with_(EDIT, message="x" * 2001), 400, "message", "2000"),
    # empty
    "tokenize nothing": ("/v1/tokenize", {"input": ""}, 400, "input", "empty"),
    "generate from nothing": ("/v1/generate", {"prompt": ""}, 400, "prompt", "empty"),
    "generate from no ids": ("/v1/generate", {"prompt": {"ids": []}}, 400, "prompt.ids", "empty"),
    "generate from no messages": ("/v1/generate", {"messages": []}, 400, "messages", "empty"),
    "generate, an empty stop": ("/v1/generate", with_(GENERATE, stop=[""]), 400, "stop[0]", "empty"),
    "trace no inputs": ("/v1/trace", {"inputs": []}, 400, "inputs", "empty"),
    "tuco no prompts": ("/v1/tuco", {"prompts": []}, 400, "prompts", "empty"),
    "edit no facts": ("/v1/edits", with_(EDIT, facts=[]), 400, "facts", "empty"),
    "edit, empty prompt": ("/v1/edits", facts(prompt=""), 400, "facts[0].prompt", "empty"),
    "edit, empty target": ("/v1/edits", facts(target_new=""), 400, "facts[0].target_new", "empty"),
    "edit, blank target": ("/v1/edits", facts(target_new=" \t\u3000\n"), 400, "facts[0].target_new", "empty"),
    "edit, empty old target": ("/v1/edits", facts(target_true="\n"), 400, "facts[0].target_true", "empty"),
    "edit, empty paraphrase": ("/v1/edits", facts(paraphrases=["x", ""]), 400, "facts[0].paraphrases[1]", "empty"),
    "patch an empty prompt": ("/v1/patch", with_(PATCH, clean=""), 400, "clean", "empty"),
    "patch, empty answer": ("/v1/patch", metric(answer=""), 400, "metric.answer", "empty"),
    "patch, no answers": ("/v1/patch", metric(answer=[]), 400, "metric.answer", "empty"),
    # required
    "tokenize what": ("/v1/tokenize", {}, 400, "input", "required"),
    "generate what": ("/v1/generate", {}, 400, "prompt", "required"),
    "trace what": ("/v1/trace", {}, 400, "inputs", "required"),
    "patch what": ("/v1/patch", {k: v for k, v in PATCH.items() if k != "clean"}, 400, "clean", "required"),
    "patch where": ("/v1/patch", {k: v for k, v in PATCH.items() if k != "site"}, 400, "site", "required"),
    "patch along what": ("/v1/patch", {k: v for k, v in PATCH.items() if k != "axes"}, 400, "axes", "required"),
    "patch to what end": ("/v1/patch", {k: v for k, v in PATCH.items() if k != "metric"}, 400, "metric", "required"),
    "metric of which kind": ("/v1/patch", with_(PATCH, metric={"answer": 1}), 400, "metric.kind", "required"),
    "localize how": ("/v1/localize", {k: v for k, v in LOCALIZE.items() if k != "method"}, 400, "method", "required"),
    "tuco of what": ("/v1/tuco", {}, 400, "prompts", "required"),
    "edit how": ("/v1/edits", {"facts": [fact()]}, 400, "method", "required"),
    "edit what": ("/v1/edits", {"method": "locft"}, 400, "facts", "required"),
    "edit, no target": ("/v1/edits", {"method": "locft", "facts": [{"prompt": "x"}]}, 400, "facts[0].target_new", "required"),
    "rollback to what": ("/v1/rollback", {}, 400, "to", "required"),
    # unknown site, layer, head, method
    "read an unknown site": ("/v1/trace", reads(site="blocks.0.attn.hook_w"), 400, "reads[0].site", "/v1/models/{name}/hooks"),
    "read a half-remembered site": ("/v1/trace", reads(site="blocks.0.hook_z"), 400, "reads[0].site", "attn.hook_z"),
    "read no site": ("/v1/trace", reads(site="embedd"), 400, "reads[0].site", "hook_embed"),
    "read a site with a zero too much": ("/v1/trace", reads(site="blocks.01.hook_mlp_out"), 400, "reads[0].site", "blocks.1."),
    "write an unknown site": ("/v1/trace", writes(site="blocks.0.hook_x"), 400, "writes[0].site", "hook_x"),
    "read an unknown layer": ("/v1/trace", reads(site="blocks.3.attn.hook_z"), 400, "reads[0].site", "0..2"),
    "write an unknown layer": ("/v1/generate", with_(GENERATE, writes=[{"site": "blocks.9.hook_mlp_out", "from": "zero"}]),
                               400, "writes[0].site", "0..2"),
    "edit an unknown layer": ("/v1/edits", with_(EDIT, params={"layer": 3}), 400, "params.layer", "0..2"),
    "read an unknown head": ("/v1/trace", reads(head=4), 400, "reads[0].head", "0..3"),
    "read an unknown key head": ("/v1/trace", reads(site="blocks.0.attn.hook_k", head=2), 400, "reads[0].head", "0..1"),
    "read a negative head": ("/v1/trace", reads(head=-1), 400, "reads[0].head", "0"),
    "read a head where there is none": ("/v1/trace", reads(site="blocks.0.hook_mlp_out", head=0), 400, "reads[0].head", "no heads"),
    "patch an unknown site": ("/v1/patch", with_(PATCH, site="hook_embed"), 400, "site", "hook_resid_pre"),
    "localize by an unknown method": ("/v1/localize", with_(LOCALIZE, method="luck"), 400, "method", "patch"),
    "edit by an unknown method": ("/v1/edits", with_(EDIT, method="surgery"), 400, "method", "locft"),
    "an unknown metric": ("/v1/patch", metric(kind="f1"), 400, "metric.kind", "norm_logit_diff"),
    "an unknown op": ("/v1/trace", writes(op="mul"), 400, "writes[0].op", "scale"),
    "an unknown input": ("/v1/trace", reads(input="b"), 400, "reads[0].input", "b"),
    "a twice used id": ("/v1/trace", {"inputs": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, 400, "inputs[1]", "a"),
    "an unknown role": ("/v1/tuco", with_(TUCO, positions="first"), 400, "positions", "all"),
    # positions outside
    "read past the end": ("/v1/trace", reads(pos=3), 400, "reads[0].pos", ("-3..2", "3 tokens")),
    "read before the beginning": ("/v1/trace", reads(pos=-4), 400, "reads[0].pos", "-3..2"),
    "read one of several": ("/v1/trace", reads(pos=[0, 1, 99]), 400, "reads[0].pos", "-3..2"),
    "read a far position": ("/v1/trace", reads(pos=2**62), 400, "reads[0].pos", None),
    "read a range past the end": ("/v1/trace", reads(pos={"from": 1, "to": 4}), 400, "reads[0].pos", "0..3"),
    "read an empty range": ("/v1/trace", reads(pos={"from": 2, "to": 2}), 400, "reads[0].pos", "empty"),
    "read half a range": ("/v1/trace", reads(pos={"from": 2}), 400, "reads[0].pos.to", "required"),
    "read the first": ("/v1/trace", reads(pos="first"), 400, "reads[0].pos", "last"),
    "top past the end": ("/v1/trace", with_(TRACE, top_pos=3), 400, "top_pos", "-3..2"),
    "write past the end": ("/v1/trace", writes(pos=3), 400, "writes[0].pos", "-3..2"),
    "write past the prompt": ("/v1/generate", with_(GENERATE, writes=[{"site": "blocks.0.hook_mlp_out", "pos": 2, "from": "zero"}]),
                              400, "writes[0].pos", "-2..1"),
    "measure past the end": ("/v1/patch", metric(pos=3), 400, "metric.pos", "-3..2"),
    # longer than the context
    "tokenize too much": ("/v1/tokenize", {"input": {"ids": LONG}}, 400, "input.ids", "256"),
    "generate from too much": ("/v1/generate", {"prompt": {"ids": LONG}}, 400, "prompt.ids", "256"),
    "generate from a long text": ("/v1/generate", {"prompt": "x" * 1000}, 400, "prompt", "256"),
    "generate from a long chat": ("/v1/generate", {"messages": [{"role": "user", "content": "x" * 1000}]}, 400, "messages", "256"),
    "trace too much": ("/v1/trace", {"inputs": [{"ids": LONG}]}, 400, "inputs[0].ids", "256"),
    "patch too much": ("/v1/patch", with_(PATCH, clean={"ids": LONG}), 400, "clean.ids", "256"),
    "tuco too much": ("/v1/tuco", {"prompts": [{"ids": LONG}]}, 400, "prompts[0].ids", "256"),
    "edit too long a prompt": ("/v1/edits", facts(prompt={"ids": LONG}), 400, "facts[0].prompt.ids", "256"),
    "edit no room for the target": ("/v1/edits", facts(prompt={"ids": [5] * 253}), 400, "facts[0].prompt", "256"),
    "edit, long paraphrase": ("/v1/edits", facts(paraphrases=[{"ids": LONG}]), 400, "facts[0].paraphrases[0].ids", "256"),
    "edit, long locality": ("/v1/edits", facts(locality=[{"prompt": {"ids": LONG}}]), 400, "facts[0].locality[0].prompt.ids", "256"),
    # facts
    "subject absent": ("/v1/edits", facts(subject="Spain"), 400, "facts[0].subject", "Spain"),
    "subject in other letters": ("/v1/edits", facts(subject="france"), 400, "facts[0].subject", "france"),
    "ids twice": ("/v1/edits", with_(EDIT, facts=[fact(id="x"), fact(id="x")]), 400, "facts[1].id", "x"),
    # answers
    "answer is foil": ("/v1/patch", metric(foil=10), 400, "metric.foil", "10"),
    "answer is foil, as text": ("/v1/patch", metric(answer=" the", foil=" the"), 400, "metric.foil", "same token"),
    "answer and foil begin alike": ("/v1/patch", metric(answer=" Lyon", foil=" Lima"), 400, "metric.foil", "same token"),
    "answer among foils": ("/v1/localize", with_(LOCALIZE, metric={**PATCH["metric"], "foil": [3, 10]}), 400, "metric.foil", "10"),
    "no such answer": ("/v1/patch", metric(answer=300), 400, "metric.answer", "299"),
    "unequal prompts": ("/v1/patch", with_(PATCH, corrupt={"ids": [1, 2]}), 400, "corrupt", ("3", "2")),
    # views
    "generate on no view": ("/v1/generate", with_(GENERATE, view="nowhere"), 404, "view", "nowhere"),
    "generate on no revision": ("/v1/generate", with_(GENERATE, view="rev_none"), 404, "view", "rev_none"),
    "generate on an empty view": ("/v1/generate", with_(GENERATE, view=""), 400, "view", "empty"),
    "trace on no view": ("/v1/trace", with_(TRACE, view="nowhere"), 404, "view", "nowhere"),
    "trace from no view": ("/v1/trace", writes(**{"from": {"input": "a", "view": "nowhere"}}), 404, "writes[0].from.view", "nowhere"),
    "patch on no view": ("/v1/patch", with_(PATCH, view="nowhere"), 404, "view", "nowhere"),
    "localize on no view": ("/v1/localize", with_(LOCALIZE, view="nowhere"), 404, "view", "nowhere"),
    "tuco on no view": ("/v1/tuco", with_(TUCO, view="nowhere"), 404, "view", "nowhere"),
    "tuco against no view": ("/v1/tuco", with_(TUCO, against="nowhere"), 404, "against", "nowhere"),
    "edit no branch": ("/v1/edits", with_(EDIT, view="nowhere"), 404, "view", "nowhere"),
    "edit the base": ("/v1/edits", with_(EDIT, view="base"), 400, "view", "branch"),
    "rollback no branch": ("/v1/rollback", with_(ROLLBACK, branch="nowhere"), 404, "branch", "nowhere"),
    "rollback to nowhere": ("/v1/rollback", {"to": "rev_none"}, 404, "to", "rev_none"),
    "rollback to a branch": ("/v1/rollback", {"to": "main"}, 400, "to", "branch"),
    # later
    "multi": ("/v1/patch", metric(multi="sequence"), 501, "metric.multi", "not"),
    "a site of no layer": ("/v1/patch", with_(PATCH, site="hook_embed"), 400, "site", "hook_resid_pre"),
    "three axes in another order": ("/v1/patch", with_(PATCH, site="attn.hook_z", axes=["layer", "pos", "head"]), 400, "axes", "behind"),
    "a later method": ("/v1/localize", with_(LOCALIZE, method="gradient"), 501, "method", "not"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_fault_is_refused(d, name):
    path, body, status, field, said = CASES[name]
    refused(d, path, body, status, field, said or "")


def test_a_revision_cannot_be_written_to(d):
    refused(d, "/v1/edits", with_(EDIT, view=d.old), 400, "view", "branch")
    refused(d, "/v1/rollback", with_(ROLLBACK, branch=d.old), 404, "branch", d.old)


@pytest.mark.parametrize("path", ["/v1/branches", "/v1/train", "/v1/batches", "/v1/deltas", "/v1/measure"])
def test_later_routes(d, path):
    refused(d, path, {"name": "x"}, 501, None, "")


def test_later_revert(d):
    refused(d, f"/v1/revisions/{d.old}/revert", {"branch": "main"}, 501, None, "")


@pytest.mark.parametrize("headers, field", [
    ({"If-Match": "rev"}, "If-Match"), ({"If-Match": '""'}, "If-Match"), ({"Idempotency-Key": ""}, "Idempotency-Key"),
    ({"Idempotency-Key": "k" * 256}, "Idempotency-Key"),
])
def test_bad_headers_of_writes(d, headers, field):
    with nothing_moves(d):
        problem(d.post("/v1/edits", EDIT, headers), 400, "invalid", field)
