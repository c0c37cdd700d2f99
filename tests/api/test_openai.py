"""OpenAI's protocol: completions and chats against /v1/generate and against logits worked out here,
streams, log-probabilities as lm-evaluation-harness reads them, refusals in that protocol's words."""
import json
import time
from functools import partial

import numpy as np
import pytest
from conftest import SLOW
from helpers import at_once, beside, committed, edit, fact, keeps, nothing_moves
from reference import Model, expected, log_softmax

GOLDEN = expected("gqa_tied")[0]
IDS = GOLDEN["greedy"]["prompt"]
GREEDY = GOLDEN["greedy"]["ids"]
CHAT = GOLDEN["tokenizer"]["chat"]["messages"]
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Where is the tower?"}]


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


@pytest.fixture(scope="module")
def name(daemon):
    return daemon.name


def complete(d, prompt=None, **more):
    a = d.post(COMPLETIONS, {"prompt": IDS if prompt is None else prompt, "temperature": 0, **more})
    assert a.status == 200, a
    return keeps(d, "POST", COMPLETIONS, a)


def chat(d, messages=HELLO, **more):
    a = d.post(CHATS, {"messages": messages, "temperature": 0, "max_tokens": 12, **more})
    assert a.status == 200, a
    return keeps(d, "POST", CHATS, a)


def generate(d, prompt, n=16, **more):
    a = d.post("/v1/generate", {"prompt": prompt, "max_tokens": n, **more})
    assert a.status == 200, a
    return a.json


def error(answer, status, code=None, param=None, said=""):
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json) == ["error"], answer
    body = answer.json["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    assert body["param"] == param and body["code"] == code and said in body["message"], body
    return body


def stream(d, path, body):
    """(the chunks, did [DONE] end them); every line is data, and every chunk valid by itself."""
    c = d.connect()
    try:
        c.request("POST", path, json.dumps({**body, "stream": True}).encode(), {"Content-Type": "application/json"})
        r = c.getresponse()
        assert r.status == 200 and r.getheader("Content-Type") == "text/event-stream"
        lines = [line.decode() for line in r.read().split(b"\n") if line]  # strict UTF-8
    finally:
        c.close()
    assert all(line.startswith("data: ") for line in lines), lines
    datas = [line[len("data: "):] for line in lines]
    assert datas.count("[DONE]") == 1 and datas[-1] == "[DONE]"
    return [json.loads(x) for x in datas[:-1]]


def joined(lists):
    """Members that are lists, appended over the parts."""
    out = {}
    for part in lists:
        for key, value in part.items():
            if isinstance(value, list):
                out.setdefault(key, []).extend(value)
    return out


def near(got, want):
    if isinstance(got, dict):
        return got.keys() == want.keys() and all(near(got[k], want[k]) for k in got)
    if isinstance(got, list):
        return len(got) == len(want) and all(near(a, b) for a, b in zip(got, want))
    return abs(got - want) < 1e-4 if isinstance(got, float) else got == want


# ---- prompts ---------------------------------------------------------------------------------

def test_a_completion_is_what_generate_says(daemon, name):
    want = generate(daemon, "It is", 9)
    a = complete(daemon, "It is", max_tokens=9, model=name)
    assert a["object"] == "text_completion" and a["model"] == name and abs(a["created"] - time.time()) < 100
    assert a["choices"] == [{"index": 0, "text": want["text"], "logprobs": None, "finish_reason": "length"}]
    n = len(want["prompt_ids"])
    assert a["usage"] == {"prompt_tokens": n, "completion_tokens": 9, "total_tokens": n + 9}
    assert a["view"] == want["view"] and a["system_fingerprint"] == want["view"]["digest"]


def test_prompts_in_all_four_forms(daemon):
    texts = ["It is", "The river is long and", "a"]
    ids = [daemon.post("/v1/tokenize", {"input": t}).json["ids"] for t in texts]
    want = [generate(daemon, t, 7)["text"] for t in texts]
    for many in (texts, ids):
        a = complete(daemon, many, max_tokens=7)
        assert [c["text"] for c in a["choices"]] == want and [c["index"] for c in a["choices"]] == [0, 1, 2]
        assert a["usage"]["prompt_tokens"] == sum(map(len, ids)) and a["usage"]["completion_tokens"] == 21
        for one, text in zip(many, want):
            assert complete(daemon, one, max_tokens=7)["choices"][0]["text"] == text


def test_the_protocols_own_defaults(daemon):
    # Temperature is 1, so that some end early by an end token that came up; none runs past 16.
    answers = [daemon.post(COMPLETIONS, {"prompt": IDS, "seed": seed}).json for seed in range(24)]
    lengths = [a["usage"]["completion_tokens"] for a in answers]
    assert max(lengths) == 16
    for a, length in zip(answers, lengths):
        assert a["choices"][0]["finish_reason"] == ("length" if length == 16 else "stop")
    assert len({a["choices"][0]["text"] for a in answers}) > 1
    unseeded = {daemon.post(COMPLETIONS, {"prompt": IDS}).json["choices"][0]["text"] for _ in range(12)}
    assert len(unseeded) > 1
    a = daemon.post(CHATS, {"messages": HELLO, "temperature": 0}).json
    assert a["usage"]["total_tokens"] >= 256  # as far as the context goes


def test_echo(daemon):
    want = generate(daemon, "It is", 5)["text"]
    assert complete(daemon, "It is", max_tokens=5, echo=True)["choices"][0]["text"] == "It is" + want
    a = complete(daemon, ["It is", "Caf\u00e9 \U0001f600"], max_tokens=0, echo=True)
    assert [c["text"] for c in a["choices"]] == ["It is", "Caf\u00e9 \U0001f600"]
    assert a["usage"]["completion_tokens"] == 0 and a["choices"][0]["finish_reason"] == "length"
    ids = daemon.post("/v1/tokenize", {"input": "<|im_start|>It is"}).json["ids"]
    assert complete(daemon, ids, max_tokens=0, echo=True)["choices"][0]["text"] == "<|im_start|>It is"


def test_several_continuations(daemon):
    a = complete(daemon, ["It is", "The river"], n=3, max_tokens=6)
    texts = [c["text"] for c in a["choices"]]
    assert texts[0] == texts[1] == texts[2] != texts[3] == texts[4] == texts[5]
    ids = [len(daemon.post("/v1/tokenize", {"input": t}).json["ids"]) for t in ("It is", "The river")]
    assert a["usage"] == {"prompt_tokens": sum(ids), "completion_tokens": 36, "total_tokens": sum(ids) + 36}
    a = complete(daemon, n=4, max_tokens=12, temperature=1.5, seed=40)
    assert len({c["text"] for c in a["choices"]}) > 1
    for i, c in enumerate(a["choices"]):
        assert c["text"] == generate(daemon, {"ids": IDS}, 12, temperature=1.5, seed=40 + i)["text"]
    assert complete(daemon, n=2, best_of=2, max_tokens=1)["choices"][1]["index"] == 1


def test_stops_and_ends(daemon):
    whole = complete(daemon, max_tokens=16)["choices"][0]["text"]
    stop = next(c for c in whole[3:] if c.isascii() and whole.index(c) >= 3)
    for how in (stop, [stop], ["\u2603 never", stop]):
        c = complete(daemon, max_tokens=16, stop=how, logprobs=0)["choices"][0]
        assert c["text"] == whole[:whole.index(stop)] and c["finish_reason"] == "stop"
        assert max(c["logprobs"]["text_offset"]) < len(c["text"])  # none of the stop's tokens


def test_top_k_and_top_p(daemon):
    want = generate(daemon, {"ids": IDS}, 8)["text"]
    for how in ({"top_k": 1}, {"top_p": 0}):
        assert complete(daemon, temperature=3, max_tokens=8, **how)["choices"][0]["text"] == want


# ---- log-probabilities -------------------------------------------------------------------------

def check_choice(model, choice, prompt, first, n_top, vocabulary):
    """token_logprobs and top_logprobs against the reference, from token `first` of prompt on."""
    p = choice["logprobs"]
    named = [vocabulary[t] for t in p["tokens"]]
    ids = (prompt[:first] if first else []) + named
    logits = log_softmax(model.logits(ids))
    for i, id in enumerate(named):
        place = first + i
        if place == 0:
            assert p["token_logprobs"][0] is None and p["top_logprobs"][0] is None
            continue
        row = logits[place - 1]
        assert abs(p["token_logprobs"][i] - row[id]) < 1e-4
        top = p["top_logprobs"][i]
        assert p["tokens"][i] in top and n_top <= len(top) <= n_top + 1
        for token, value in top.items():
            assert abs(value - row[vocabulary[token]]) < 1e-4
        if n_top:
            best = sorted(top.values(), reverse=True)[:n_top]
            assert np.allclose(best, np.sort(row)[::-1][:n_top], atol=1e-4)
    return ids


@pytest.fixture(scope="module")
def vocabulary(daemon):
    """The names of all tokens, as the daemon gives them: by echoing each."""
    a = complete(daemon, [[i] for i in range(300)], max_tokens=0, echo=True, logprobs=0)
    names = {c["logprobs"]["tokens"][0]: i for i, c in enumerate(a["choices"])}
    assert len(names) == 300 and "<|im_end|>" in names and any(n.startswith("bytes:\\x") for n in names)
    return names


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_prompts_scored_in_a_batch(daemon, model, vocabulary, max_tokens):
    rng = np.random.default_rng(4)
    prompts = [[int(i) for i in rng.integers(3, 300, n)] for n in (1, 2, 7, 70, 200, 180, 33, 64, 65)]
    a = complete(daemon, prompts, max_tokens=max_tokens, echo=True, logprobs=2)
    for prompt, choice in zip(prompts, a["choices"]):
        ids = check_choice(model, choice, prompt, 0, 2, vocabulary)
        assert ids[:len(prompt)] == prompt and len(ids) - len(prompt) <= max_tokens
        alone = complete(daemon, prompt, max_tokens=max_tokens, echo=True, logprobs=2)["choices"][0]
        assert near(alone, {**choice, "index": 0})


def test_generated_tokens_scored(daemon, model, vocabulary):
    for n_top in (0, 3, 20):
        for how in ({}, {"temperature": 1.2, "seed": 3}):
            c = complete(daemon, max_tokens=10, logprobs=n_top, **how)["choices"][0]
            check_choice(model, c, IDS, len(IDS), n_top, vocabulary)
    greedy = complete(daemon, max_tokens=10, logprobs=1)["choices"][0]["logprobs"]
    assert [vocabulary[t] for t in greedy["tokens"]] == GREEDY[:10]


def test_what_the_harness_reads(daemon, model):
    """loglikelihood of lm-evaluation-harness: token lists, echo, one token more, logprobs 1."""
    context, ends = IDS, [GREEDY[:3], GREEDY[:2] + [GREEDY[2] + 1], [7]]
    a = complete(daemon, [context + e for e in ends], max_tokens=1, echo=True, logprobs=1, seed=1234)
    for choice, end, greedy in zip(a["choices"], ends, (True, False, GREEDY[0] == 7)):
        p = choice["logprobs"]
        assert len(p["token_logprobs"]) == len(context) + len(end) + 1
        got, top = p["token_logprobs"][len(context):-1], p["top_logprobs"][len(context):-1]
        logits = log_softmax(model.logits(context + end))
        want = sum(logits[len(context) + i - 1][id] for i, id in enumerate(end))
        assert abs(sum(got) - want) < 1e-4
        assert all(x == max(t.values()) for x, t in zip(got, top)) == greedy


def test_offsets_count_characters(daemon):
    text = "Caf\u00e9 it is \U0001f600!"
    c = complete(daemon, text, max_tokens=6, echo=True, logprobs=0)["choices"][0]
    p = c["logprobs"]
    assert p["text_offset"][0] == 0 and p["text_offset"] == sorted(p["text_offset"])
    for token, at in zip(p["tokens"], p["text_offset"]):
        if not token.startswith("bytes:"):
            assert c["text"][at:at + len(token)] == token
    assert [c["text"][i] for i in (0, 3)] == ["C", "\u00e9"]
    bare = complete(daemon, text, max_tokens=6, logprobs=0)["choices"][0]["logprobs"]
    n = len(p["tokens"]) - len(bare["tokens"])
    assert p["tokens"][n:] == bare["tokens"] and [x - len(text) for x in p["text_offset"][n:]] == bare["text_offset"]


def test_chat_log_probabilities(daemon, model):
    ids = daemon.post("/v1/generate", {"messages": HELLO, "max_tokens": 1}).json["prompt_ids"]
    c = chat(daemon, logprobs=True, top_logprobs=3)["choices"][0]
    assert b"".join(bytes(t["bytes"]) for t in c["logprobs"]["content"]).decode(errors="replace") == c["message"]["content"]
    said = generate(daemon, {"ids": ids}, 12)["ids"]
    logits = log_softmax(model.logits(ids + said))
    for i, t in enumerate(c["logprobs"]["content"]):
        row = logits[len(ids) + i - 1]
        assert abs(t["logprob"] - row[said[i]]) < 1e-4
        assert np.allclose([x["logprob"] for x in t["top_logprobs"]], np.sort(row)[::-1][:3], atol=1e-4)
    assert chat(daemon)["choices"][0]["logprobs"] is None
    assert chat(daemon, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


# ---- chats -------------------------------------------------------------------------------------

def test_a_chat_is_what_generate_says(daemon, name):
    want = daemon.post("/v1/generate", {"messages": CHAT, "max_tokens": 12}).json
    a = chat(daemon, CHAT, model=name + "@main")
    assert a["object"] == "chat.completion" and a["model"] == name + "@main"
    assert a["choices"] == [{"index": 0, "message": {"role": "assistant", "content": want["text"], "refusal": None},
                             "logprobs": None, "finish_reason": want["finish_reason"]}]
    assert a["usage"]["prompt_tokens"] == len(want["prompt_ids"])


def test_messages_in_other_words(daemon):
    def usual(messages, **more):
        return chat(daemon, messages, **more)["choices"][0]["message"]["content"]
    want = usual(HELLO)
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "the tower?"}]
    assert usual([{"role": "user", "content": parts, "name": "ann"}]) == want
    assert usual(HELLO, max_tokens=None, max_completion_tokens=12) == want
    assert usual(HELLO, response_format={"type": "text"}, tools=[], tool_choice="none", user="ann", store=True,
                 logit_bias={}, presence_penalty=0, metadata={"a": "b"}, modalities=["text"]) == want
    system = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert usual(system) == usual([{"role": "developer", "content": "Be brief."}, *HELLO]) != want
    assert [c["message"]["content"] for c in chat(daemon, n=2)["choices"]] == [want, want]


# ---- streams -----------------------------------------------------------------------------------

def test_a_streamed_completion_adds_up(daemon):
    seen = 0
    for seed in range(6):
        body = {"prompt": ["It is", "The river"], "n": 2, "max_tokens": 40, "temperature": 2.5, "seed": seed, "echo": True,
                "logprobs": 2}
        whole = daemon.post(COMPLETIONS, body).json
        chunks = stream(daemon, COMPLETIONS, body)
        for want in whole["choices"]:
            mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == want["index"]]
            assert "".join(c["text"] for c in mine) == want["text"]
            assert near(joined(c["logprobs"] for c in mine), want["logprobs"])
            assert [c["finish_reason"] for c in mine[:-1]] == [None] * (len(mine) - 1)
            assert mine[-1]["finish_reason"] == want["finish_reason"]
            seen += len(mine)
        assert [c["view"] for c in chunks if c["choices"][0]["finish_reason"]] == [whole["view"]] * 4
        assert sum("view" in c for c in chunks) == 4
        assert len({c["id"] for c in chunks}) == 1 and all(c["object"] == "text_completion" for c in chunks)
    assert seen > 100


def test_a_streamed_chat_adds_up(daemon):
    body = {"messages": HELLO, "n": 2, "max_tokens": 30, "temperature": 2, "seed": 5, "logprobs": True, "top_logprobs": 1}
    whole = daemon.post(CHATS, body).json
    chunks = stream(daemon, CHATS, {**body, "stream_options": {"include_usage": True}})
    usage = chunks.pop()
    assert usage["choices"] == [] and usage["usage"] == whole["usage"]
    assert all(c["usage"] is None and c["object"] == "chat.completion.chunk" for c in chunks)
    assert [c["view"] for c in chunks if c["choices"][0]["finish_reason"]] == [whole["view"]] * 2
    assert sum("view" in c for c in chunks) == 2
    for want in whole["choices"]:
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == want["index"]]
        assert mine[0]["delta"]["role"] == "assistant" and not mine[0]["delta"]["content"]
        assert mine[-1]["delta"] == {} and mine[-1]["finish_reason"] == want["finish_reason"]
        assert "".join(c["delta"].get("content", "") for c in mine) == want["message"]["content"]
        assert near(joined(c["logprobs"] for c in mine if c["logprobs"]), {"content": want["logprobs"]["content"]})


def test_a_stream_says_nothing_of_a_stop(daemon):
    whole = complete(daemon, max_tokens=16)["choices"][0]["text"]
    at = next(i for i in range(3, len(whole)) if "\ufffd" not in whole[i:i + 2])
    stop = whole[at:at + 2]
    cut = whole[:whole.index(stop)]
    chunks = stream(daemon, COMPLETIONS, {"prompt": IDS, "temperature": 0, "max_tokens": 16, "stop": stop})
    assert "".join(c["choices"][0]["text"] for c in chunks) == cut and "usage" not in chunks[0]
    empty = stream(daemon, COMPLETIONS, {"prompt": "It is", "max_tokens": 0, "echo": True})
    assert [c["choices"][0]["text"] for c in empty] == ["It is"]


# ---- views -------------------------------------------------------------------------------------

def test_any_revision_by_name(start):
    d = start()
    before = complete(d)["choices"][0]["text"]
    base = d.revisions()[0]["revision"]
    done = committed(edit(d, fact(prompt={"ids": IDS}, target="Lyon")))
    said = {view: complete(d, model=f"{d.name}{view}") for view in ("", "@main", "@base", "@" + base, "@" + done["revision"])}
    text = {view: a["choices"][0]["text"] for view, a in said.items()}
    assert text["@base"] == text["@" + base] == before
    assert text[""] == text["@main"] == text["@" + done["revision"]] != before
    assert said["@base"]["system_fingerprint"] != said[""]["system_fingerprint"] == done["digest"]["after"]
    assert said["@base"]["view"]["revision"] == base
    for which in (d.name, d.name + "@base", d.name + "@" + done["revision"]):
        a = d.get("/v1/models/" + which)
        assert a.status == 200 and a.json["id"] == which and a.json["object"] == "model", a
        keeps(d, "GET", "/v1/models/{name}", a)
    listed, alone = keeps(d, "GET", "/v1/models", d.get("/v1/models"))["data"], d.get("/v1/models/" + d.name).json
    assert listed == [{k: v for k, v in alone.items() if k != "view"}] and listed[0]["owned_by"] == "engramd"
    assert abs(listed[0]["created"] - time.time()) < 100
    for which in ("nobody", d.name + "@nowhere", d.name + "@", "@main", "nobody@main", d.name + "@rev_" + "0" * 24):
        error(d.get("/v1/models/" + which), 404, "model_not_found", "model", which)
        for path, body in ((COMPLETIONS, {"prompt": "x"}), (CHATS, {"messages": HELLO})):
            error(d.post(path, {**body, "model": which}), 404, "model_not_found", "model", "not served")


# ---- refusals ----------------------------------------------------------------------------------

P, M = {"prompt": "x"}, {"messages": HELLO}


def message(**members):
    return {"messages": [{"role": "user", "content": "x", **members}]}


@pytest.mark.parametrize("path, body, code, param", [
    (COMPLETIONS, {}, None, "prompt"),
    (COMPLETIONS, {"prompt": ""}, None, "prompt"),
    (COMPLETIONS, {"prompt": []}, None, "prompt"),
    (COMPLETIONS, {"prompt": [[]]}, None, "prompt[0]"),
    (COMPLETIONS, {"prompt": ["x", ""]}, None, "prompt[1]"),
    (COMPLETIONS, {"prompt": ["x", [5]]}, None, "prompt[1]"),
    (COMPLETIONS, {"prompt": [5, "x"]}, None, "prompt[1]"),
    (COMPLETIONS, {"prompt": [5, 300]}, None, "prompt[1]"),
    (COMPLETIONS, {"prompt": [[5], [6, -1]]}, None, "prompt[1][1]"),
    (COMPLETIONS, {"prompt": [[5], [300]]}, None, "prompt[1][0]"),
    (COMPLETIONS, {"prompt": [5] * 257}, "context_length_exceeded", "prompt"),
    (COMPLETIONS, {"prompt": [[5], [5] * 257]}, "context_length_exceeded", "prompt[1]"),
    (COMPLETIONS, {"prompt": "river " * 300}, "context_length_exceeded", "prompt"),
    (COMPLETIONS, {"prompt": ["x"] * 2049}, None, "prompt"),
    (COMPLETIONS, {"prompt": ["x"] * 64, "n": 65}, None, "n"),
    (COMPLETIONS, {"prompt": ["x y z" * 40] * 600, "echo": True, "logprobs": 20}, None, "logprobs"),
    (COMPLETIONS, {**P, "max_tokens": 0}, None, "max_tokens"),
    (COMPLETIONS, {**P, "max_tokens": -1}, None, "max_tokens"),
    (COMPLETIONS, {**P, "n": 0}, None, "n"),
    (COMPLETIONS, {**P, "logprobs": 21}, None, "logprobs"),
    (COMPLETIONS, {**P, "logprobs": True}, None, "logprobs"),
    (COMPLETIONS, {**P, "temperature": -1}, None, "temperature"),
    (COMPLETIONS, {**P, "stop": ["a"] * 17}, None, "stop"),
    (COMPLETIONS, {**P, "suffix": "y"}, "unsupported_parameter", "suffix"),
    (COMPLETIONS, {**P, "best_of": 3}, "unsupported_parameter", "best_of"),
    (COMPLETIONS, {**P, "best_of": 1, "n": 2}, None, "best_of"),
    (COMPLETIONS, {**P, "logit_bias": {"5": 1}}, "unsupported_parameter", "logit_bias"),
    (COMPLETIONS, {**P, "presence_penalty": 0.5}, "unsupported_parameter", "presence_penalty"),
    (COMPLETIONS, {**P, "frequency_penalty": -1}, "unsupported_parameter", "frequency_penalty"),
    (COMPLETIONS, {**P, "stream_options": {"include_usage": True}}, None, "stream_options"),
    (COMPLETIONS, {**P, "stream": True, "stream_options": {"usage": True}}, None, "stream_options.usage"),
    (COMPLETIONS, {**P, "repetition_penalty": 1.1}, None, "repetition_penalty"),
    (COMPLETIONS, {**P, "view": "base"}, None, "view"),
    (CHATS, {}, None, "messages"),
    (CHATS, {"messages": []}, None, "messages"),
    (CHATS, message(content=None), None, "messages[0].content"),
    (CHATS, message(content=[]), None, "messages[0].content"),
    (CHATS, message(content="river " * 300), "context_length_exceeded", "messages"),
    (CHATS, message(content=[{"type": "image_url", "image_url": {"url": "data:"}}]), "unsupported_parameter",
     "messages[0].content[0].text"),
    (CHATS, message(content=[{"type": "text"}]), None, "messages[0].content[0].text"),
    (CHATS, message(role="tool"), "unsupported_parameter", "messages[0].role"),
    (CHATS, message(tool_calls=[{"id": "a"}]), "unsupported_parameter", "messages[0].tool_calls"),
    (CHATS, {**M, "tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
    (CHATS, {**M, "tool_choice": "required"}, "unsupported_parameter", "tool_choice"),
    (CHATS, {**M, "functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
    (CHATS, {**M, "response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
    (CHATS, {**M, "modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
    (CHATS, {**M, "audio": {"voice": "x"}}, "unsupported_parameter", "audio"),
    (CHATS, {**M, "prediction": {}}, "unsupported_parameter", "prediction"),
    (CHATS, {**M, "top_logprobs": 2}, None, "top_logprobs"),
    (CHATS, {**M, "max_tokens": 2, "max_completion_tokens": 3}, None, "max_tokens"),
    (CHATS, {**M, "max_tokens": 0}, None, "max_tokens"),
])
def test_refusals_name_the_parameter(daemon, path, body, code, param):
    body = error(daemon.post(path, body), 400, code, param, param)
    assert body["type"] == "invalid_request_error"


def test_every_refusal_is_in_the_protocols_words(daemon):
    for path in (COMPLETIONS, CHATS):
        error(daemon.get(path), 405)
        error(daemon.post(path, b"{bad"), 400, said="JSON")
        error(daemon.post(path, b"[]"), 400, said="object")
        error(daemon.post(path, P, {"Content-Type": "text/plain"}), 415)
        error(daemon.post(path, P, {"Host": "elsewhere"}), 421)
        error(daemon.post(path, P, {"Origin": "http://elsewhere"}), 403)
        error(daemon.post(path + "?a=1", P), 400, param="a")
        error(daemon.post(path, P if path == COMPLETIONS else M, {"Idempotency-Key": "x" * 300}), 400, param="Idempotency-Key")
        raw = daemon.raw(f"POST {path} HTTP/1.1\r\nHost: {daemon.authority}\r\nContent-Type: application/json\r\n"
                         "Content-Length: 99999999\r\n\r\n")
        assert b" 413 " in raw.split(b"\r\n")[0] and b'{"error":{' in raw
        raw = daemon.raw(f"POST {path} HTTP/1.1\r\nHost: {daemon.authority}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert b" 411 " in raw.split(b"\r\n")[0] and b'{"error":{' in raw
    assert daemon.post("/v1/completion", P).headers["content-type"] == "application/problem+json"
    with nothing_moves(daemon):
        complete(daemon)
    assert not {"completion", "chat"} & {r["kind"] for r in daemon.get("/v1/runs").json["runs"]}


def test_tokens_and_roles(start):
    d = start(tokens={"ann": ("prober", "sk-ann"), "rob": ("reader", "sk-rob")})
    assert d.post(COMPLETIONS, P).status == 200 and d.post(CHATS, M).status == 200
    for wrong in (None, "Bearer nonsense", "Bearer "):
        for path in (COMPLETIONS, CHATS, "/v1/models/" + d.name):
            a = d.request("GET" if "models" in path else "POST", path, None if "models" in path else P, {"Authorization": wrong})
            error(a, 401, "invalid_api_key")
            assert a.headers["WWW-Authenticate"].startswith("Bearer")
    d.token = "sk-rob"
    assert error(d.post(COMPLETIONS, P), 403, "insufficient_permissions")["type"] == "permission_error"
    assert d.get("/v1/models/" + d.name).status == 200


# ---- waiting, leaving, crowds --------------------------------------------------------------------

LONG = {"prompt": [[5 + i % 290] for i in range(1500)], "max_tokens": 250, "temperature": 1}


def job_of(d, kind="completion"):
    until = time.monotonic() + 20 * SLOW
    while time.monotonic() < until:
        jobs = [j for j in d.get("/v1/jobs").json["jobs"] if j["kind"] == kind and j["state"] in ("queued", "running")]
        if jobs:
            return jobs[0]["id"]
        time.sleep(0.02)
    raise AssertionError("no such job began")


def test_a_stream_takes_no_key(daemon):
    """Kept is the answer; a client that streams could not read it in place of its events."""
    key = {"Idempotency-Key": "streamed"}
    for path, body in ((COMPLETIONS, P), ("/v1/chat/completions", M)):
        error(daemon.post(path, {**body, "stream": True}, key), 400, param="Idempotency-Key", said="a stream is not kept")
        assert daemon.post(path, {**body, "stream": True}).headers["Content-Type"] == "text/event-stream"


def test_there_is_no_202(daemon):
    for how in ({"Prefer": "wait=0"}, {"Prefer": "respond-async"}, {"Prefer": "wait=0", "Idempotency-Key": "once"}):
        a = daemon.post(COMPLETIONS, {"prompt": IDS, "temperature": 0, "max_tokens": 200}, how)
        assert a.status == 200 and a.json["usage"]["completion_tokens"] > 16, a
    again = daemon.post(COMPLETIONS, {"prompt": IDS, "temperature": 0, "max_tokens": 200}, how)
    assert again.json == a.json and again.headers["Idempotency-Replayed"] == "true"
    error(daemon.post(COMPLETIONS, P, how), 409)


@pytest.mark.parametrize("streaming", [False, True])
def test_who_leaves_takes_the_work_along(daemon, streaming):
    body = json.dumps({**LONG, "stream": streaming}).encode()
    with daemon.socket() as s:
        s.sendall(f"POST {COMPLETIONS} HTTP/1.1\r\nHost: {daemon.authority}\r\nContent-Type: application/json\r\n"
                  f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        job = job_of(daemon)
        assert daemon.post("/v1/generate", {"prompt": IDS and "It is", "max_tokens": 2}).status == 200  # meanwhile
    ended = daemon.finished(f"/v1/jobs/{job}")
    assert ended["state"] == "cancelled" and ended["error"]["type"] == "cancelled"


def test_a_cancelled_job_says_so(daemon):
    for streaming in (False, True):
        got = {}

        def ask():
            body = json.dumps({**LONG, "stream": streaming}).encode()
            c = daemon.connect()
            c.request("POST", COMPLETIONS, body, {"Content-Type": "application/json"})
            r = c.getresponse()
            got.update(status=r.status, body=r.read())
            c.close()
        with beside(ask):
            assert daemon.delete("/v1/jobs/" + job_of(daemon)).status in (200, 202)
        assert got["status"] == (200 if streaming else 409)
        last = got["body"].strip().split(b"\n\n")[-1].removeprefix(b"data: ")
        assert json.loads(last)["error"]["message"].startswith("cancelled")
        assert b"[DONE]" not in got["body"]


def test_a_share_is_limited(start):
    d = start(tokens={"ann": ("prober", "sk-ann")})
    body = json.dumps(LONG).encode()
    head = (f"POST {COMPLETIONS} HTTP/1.1\r\nHost: {d.authority}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer sk-ann\r\nContent-Length: {len(body)}\r\n\r\n").encode()
    waiting = []
    try:
        for _ in range(96):
            waiting.append(d.socket())
            waiting[-1].sendall(head + body)
        until = time.monotonic() + 30 * SLOW
        while len(d.get("/v1/jobs?limit=200").json["jobs"]) < 96 and time.monotonic() < until:
            time.sleep(0.02)
        a = d.post(COMPLETIONS, P)
        error(a, 429, "rate_limit_exceeded", said="ann")
        assert int(a.headers["Retry-After"]) >= 1
    finally:
        for s in waiting:
            s.close()
    while any(j["state"] in ("queued", "running") for j in d.get("/v1/jobs?limit=200").json["jobs"]):
        time.sleep(0.05)


@pytest.mark.tsan
def test_many_at_once(daemon):
    want = [complete(daemon, [10 + i, 200 - i], max_tokens=12, seed=i, temperature=1, n=2)["choices"] for i in range(6)]
    wrong = []

    def ask(i):
        body = {"prompt": [10 + i, 200 - i], "max_tokens": 12, "seed": i, "temperature": 1, "n": 2}
        for _ in range(5):
            if daemon.post(COMPLETIONS, body).json["choices"] != want[i]:
                wrong.append(i)
            texts = ["", ""]
            for c in stream(daemon, COMPLETIONS, body):
                texts[c["choices"][0]["index"]] += c["choices"][0]["text"]
            if texts != [c["text"] for c in want[i]]:
                wrong.append(i)
    at_once(*(partial(ask, i) for i in range(6)))
    assert not wrong
