"""POST /v1/generate: the committed greedy ids, sampling, ends, streams, writes, many at once."""
import json
from functools import partial

import numpy as np
import pytest
from conftest import Daemon, scaled
from helpers import at_once, committed, edit, keeps, nothing_moves, problem
from reference import TINY, Model, expected, log_softmax, softmax

SOURCES = ["gqa_tied", "gqa_tied/gqa_tied.f32.gguf", "gqa_tied/gqa_tied.f16.gguf", "gqa_untied_odd", "mha_bf16",
           "wide_head", "gguf_q/gguf_q.gguf"]
GREEDY = expected("gqa_tied")[0]["greedy"]
PROMPT = {"ids": GREEDY["prompt"]}


@pytest.fixture(scope="module")
def model():
    return Model("gqa_tied")


@pytest.fixture(scope="module")
def spell():
    """ids → text, by the file's own vocabulary; broken bytes become U+FFFD."""
    vocabulary = json.loads((TINY / "gqa_tied" / "tokenizer.json").read_text())["model"]["vocab"]
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(b): b for b in plain}
    byte_of.update({chr(256 + i): b for i, b in enumerate(sorted(set(range(256)) - set(plain)))})
    piece = {i: bytes(byte_of[c] for c in s) for s, i in vocabulary.items() if i > 2}
    return lambda ids: b"".join(piece[i] for i in ids).decode(errors="replace")


def ask(d, prompt=PROMPT, n=16, **more):
    a = d.post("/v1/generate", {"prompt": prompt, "max_tokens": n, **more})
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/generate", a)


# ---- greedy ----------------------------------------------------------------------------------

@pytest.mark.parametrize("source", SOURCES)
def test_greedy_ids_are_the_references(tmp_path, source):
    d = Daemon(tmp_path / "data", model=TINY / source).start()
    try:
        want = expected(source.split("/")[0])[0]["greedy"]
        a = ask(d, {"ids": want["prompt"]})
        assert a["ids"] == want["ids"] and a["prompt_ids"] == want["prompt"]
        assert a["finish_reason"] == "length" and a["seed"] is None and len(a["tokens"]) == 16
        assert a["usage"] == {"prompt_tokens": 5, "completion_tokens": 16}
    finally:
        d.stop()


def test_text_is_the_continuation_only(daemon, spell):
    a = ask(daemon)
    assert a["text"] == spell(GREEDY["ids"])
    assert a["view"]["name"] == "main" and a["view"]["digest"] == expected("gqa_tied")[0]["digest"]
    assert ask(daemon, n=1)["text"] == spell(GREEDY["ids"][:1])


def test_prompts_in_every_form(daemon):
    text = ask(daemon, "It is", 4)
    assert ask(daemon, {"text": "It is"}, 4) == text
    assert ask(daemon, {"ids": text["prompt_ids"]}, 4) == text
    chat = expected("gqa_tied")[0]["tokenizer"]["chat"]
    told = ask(daemon, {"messages": chat["messages"]}, 4)
    assert told["prompt_ids"] == chat["ids"]
    a = daemon.post("/v1/generate", {"messages": chat["messages"], "max_tokens": 4})
    assert a.status == 200 and a.json == told
    closed = ask(daemon, {"messages": chat["messages"], "add_generation_prompt": False}, 4)
    assert closed["prompt_ids"] == chat["ids"][:len(closed["prompt_ids"])] != chat["ids"]


def test_default_lengths(daemon):
    a = daemon.post("/v1/generate", {"prompt": PROMPT}).json
    assert len(a["ids"]) == 64 and a["ids"][:16] == GREEDY["ids"]


def test_a_full_context_ends_the_text(daemon):
    a = ask(daemon, {"ids": [5 + i % 200 for i in range(250)]}, 64)
    assert a["finish_reason"] == "length" and a["usage"]["prompt_tokens"] == 250
    assert 6 <= a["usage"]["completion_tokens"] <= 7  # the last token needs no place of its own
    problem(daemon.post("/v1/generate", {"prompt": {"ids": [5] * 257}}), 400, field="prompt.ids", said="256")


def test_progress_counts_what_can_be_generated(daemon):
    for n, most in ((1000000, 6), (4, 4)):
        ask(daemon, {"ids": [5 + i % 200 for i in range(250)]}, n)
        job = daemon.get("/v1/jobs?limit=1").json["jobs"][0]
        assert job["progress"] == {"done": most, "total": most, "unit": "tokens"}


# ---- sampling --------------------------------------------------------------------------------

def test_a_seed_repeats(daemon):
    a = ask(daemon, temperature=1.5, seed=11)
    assert ask(daemon, temperature=1.5, seed=11) == a and a["seed"] == 11
    assert ask(daemon, temperature=1.5, seed=12)["ids"] != a["ids"]
    assert ask(daemon, temperature=1.5, seed=2**53 - 1)["seed"] == 2**53 - 1
    drawn = [ask(daemon, temperature=1.5) for _ in range(4)]
    assert len({x["seed"] for x in drawn}) == 4 and len({tuple(x["ids"]) for x in drawn}) > 1
    assert ask(daemon, temperature=1.5, seed=drawn[0]["seed"])["ids"] == drawn[0]["ids"]


def test_choosing_from_one_is_greedy(daemon):
    for how in ({"top_k": 1, "temperature": 3}, {"top_p": 0, "temperature": 3}, {"temperature": 1e-4}):
        assert ask(daemon, **how, seed=5)["ids"] == GREEDY["ids"], how


def test_first_tokens_are_distributed_as_the_softmax(daemon, model):
    logits = model.logits(GREEDY["prompt"])[-1]
    order = np.argsort(-logits)
    count = scaled(300)
    for how, keep in (({"temperature": 2.0}, order), ({"temperature": 2.0, "top_k": 4}, order[:4])):
        p = np.zeros(300)
        p[keep] = softmax(logits[keep] / 2.0)
        seen = np.zeros(300)
        for seed in range(count):
            seen[ask(daemon, n=1, seed=seed, **how)["ids"][0]] += 1
        assert seen[p == 0].sum() == 0
        # Pearson's statistic over the likely tokens and the rest; a fair draw stays under 50 bins' bound
        bins = [i for i in keep if p[i] * count >= 5]
        rest = count - seen[bins].sum(), count * (1 - p[bins].sum())
        chi = ((seen[bins] - count * p[bins]) ** 2 / (count * p[bins])).sum() + (rest[0] - rest[1]) ** 2 / max(rest[1], 1)
        assert chi < len(bins) + 1 + 5 * np.sqrt(2 * (len(bins) + 1)), how


def test_top_p_keeps_the_smallest_set_that_reaches_it(daemon, model):
    logits = model.logits(GREEDY["prompt"])[-1]
    order = np.argsort(-logits)
    n = int(np.searchsorted(np.cumsum(softmax(logits)[order]), 0.6)) + 1
    got = {ask(daemon, n=1, seed=s, temperature=1, top_p=0.6)["ids"][0] for s in range(scaled(60, 30))}
    assert got <= set(int(i) for i in order[:n]) and len(got) > 1


# ---- ends ------------------------------------------------------------------------------------

def test_stop_strings_end_before_themselves(daemon, spell):
    whole = ask(daemon)["text"]
    for k in (1, 3, 7, len(whole) - 2):
        stop = whole[k:k + 2]
        if "\ufffd" in stop:
            continue
        a = ask(daemon, stop=["never said", stop])
        assert a["finish_reason"] == "stop" and a["text"] == whole[:whole.index(stop)], (stop, a["text"])
        assert a["ids"] == GREEDY["ids"][:len(a["ids"])] and stop in spell(a["ids"])
        assert stop not in spell(a["ids"][:-1])  # it ended as soon as it could
    a = ask(daemon, stop=["never said"])
    assert a["finish_reason"] == "length" and a["text"] == whole


def test_the_first_stop_in_the_text_wins(daemon):
    whole = ask(daemon)["text"]
    good = [c for c in whole if c.isprintable() and c != "\ufffd"]
    a = ask(daemon, stop=[good[-1], good[0]])
    assert a["text"] == whole[:min(whole.index(good[0]), whole.index(good[-1]))]


def test_an_end_token_ends_the_text(fresh_daemon):
    r = committed(edit(fresh_daemon))
    assert r["facts"][0]["after"]["generation"]["stopped_by"] == "end-of-generation"
    a = ask(fresh_daemon, "The capital of France is")
    assert a["text"] == " Lyon" and a["finish_reason"] == "stop"
    assert a["ids"] == r["facts"][0]["target_ids"] + [2] and a["tokens"][-1] == "<|im_end|>"
    assert a["usage"]["completion_tokens"] == 6 and a["view"]["digest"] == r["digest"]["after"]
    assert a["view"]["revision"] == r["revision"]


# ---- streams ---------------------------------------------------------------------------------

@pytest.mark.parametrize("how", [{}, {"temperature": 1.5, "seed": 3}, {"stop": ["::"]}, {"stop": ["n one"]}, {"max_tokens": 1}])
@pytest.mark.parametrize("prompt", [PROMPT, "The capital of France is"], ids=["ids", "text"])
def test_a_stream_says_the_same(daemon, prompt, how):
    body = {"prompt": prompt, "max_tokens": 24, **how}
    plain = daemon.post("/v1/generate", body).json
    events = list(daemon.events("/v1/generate", {**body, "stream": True}))
    assert [k for _, k, _ in events] == ["token"] * (len(events) - 1) + ["done"]
    numbers = [n for n, _, _ in events]
    assert numbers == sorted(set(numbers))
    assert events[-1][2] == plain
    assert [e["id"] for _, k, e in events if k == "token"] == plain["ids"]
    said = "".join(e["text"] for _, k, e in events if k == "token")
    assert plain["text"].startswith(said)  # a last, unfinished piece comes with `done`
    assert len(plain["text"]) - len(said) <= 8
    assert all(e["logprob"] <= 0 for _, k, e in events if k == "token")


def test_streamed_log_probabilities(daemon, model):
    events = [e for _, k, e in daemon.events("/v1/generate", {"prompt": PROMPT, "max_tokens": 8, "stream": True})
              if k == "token"]
    logits = model.logits(GREEDY["prompt"] + GREEDY["ids"][:8])
    for i, e in enumerate(events):
        assert abs(e["logprob"] - log_softmax(logits[4 + i])[e["id"]]) < 1e-4


def test_a_stream_takes_no_key(daemon):
    body = {"prompt": "a", "max_tokens": 2, "stream": True}
    for _ in range(2):
        a = daemon.post("/v1/generate", body, {"Idempotency-Key": "streamed"})
        assert a.status == 400 and a.json["field"] == "Idempotency-Key" and "not kept" in a.json["detail"], a
    assert daemon.post("/v1/generate", body).headers["Content-Type"] == "text/event-stream"


def test_a_refused_stream_is_an_ordinary_problem(daemon):
    a = daemon.post("/v1/generate", {"prompt": "x", "stream": True, "view": "nowhere"})
    problem(a, 404, "not-found", "view")


# ---- writes ----------------------------------------------------------------------------------

def test_a_write_at_all_positions_includes_generated_ones(daemon, model):
    site = "blocks.1.hook_mlp_out"
    change = {site: lambda x: -1.5 * x}
    want = []
    for _ in range(10):
        want.append(int(model.logits(GREEDY["prompt"] + want, change)[-1].argmax()))
    for pos in ({}, {"pos": "all"}):
        assert ask(daemon, n=10, writes=[{"site": site, "op": "scale", "weight": -1.5, **pos}])["ids"] == want
    assert want != GREEDY["ids"][:10]


def test_a_write_at_prompt_positions_stays_there(daemon, model):
    site, vector = "blocks.0.hook_resid_post", [((i * 7) % 5 - 2) * 2.0 for i in range(32)]

    def put(x):
        x[[1, 4]] += vector
        return x
    want = []
    for _ in range(10):
        want.append(int(model.logits(GREEDY["prompt"] + want, {site: put})[-1].argmax()))
    write = {"site": site, "op": "add", "from": {"values": vector}}
    for pos in ([1, 4], [-4, "last"]):
        if "last" in pos:
            writes = [{**write, "pos": -4}, {**write, "pos": "last"}]
        else:
            writes = [{**write, "pos": pos}]
        assert ask(daemon, n=10, writes=writes)["ids"] == want
    assert want != GREEDY["ids"][:10]
    problem(daemon.post("/v1/generate", {"prompt": PROMPT, "writes": [{**write, "pos": 5}]}), 400,
            field="writes[0].pos", said="-5..4")


def test_a_write_from_another_text(daemon, model):
    ids = daemon.post("/v1/tokenize", {"input": "It is the river"}).json["ids"]
    site = "blocks.1.attn.hook_z"
    value = model.run(ids)[0][site][-1, 2]

    def put(x):
        x[4, 2] = value
        return x
    want = []
    for _ in range(8):
        want.append(int(model.logits(GREEDY["prompt"] + want, {site: put})[-1].argmax()))
    write = {"site": site, "pos": -1, "head": 2, "from": {"input": "It is the river", "pos": -1}}
    assert ask(daemon, n=8, writes=[write])["ids"] == want
    streamed = list(daemon.events("/v1/generate", {"prompt": PROMPT, "max_tokens": 8, "writes": [write], "stream": True}))
    assert streamed[-1][2]["ids"] == want


@pytest.mark.parametrize("prompt", [[5], [5, 80, 31]])
def test_what_is_written_at_generated_positions(daemon, model, prompt):
    """One source for all positions goes on; a source for each ends with the prompt, however short that is."""
    site, source = "blocks.1.hook_resid_post", "712"[:len(prompt)]  # a token each
    states, n = model.run(daemon.post("/v1/tokenize", {"input": source}).json["ids"])[0][site], 6

    def said(write, put, generated):
        want = []
        for _ in range(n):
            want.append(int(model.logits(prompt + want, {write["site"]: put})[-1].argmax()))
        a = ask(daemon, {"ids": prompt}, n, writes=[write])
        assert a["ids"] == want and a["writes"][0]["generated"] is generated
        return want

    def paired(x):
        x[:len(prompt)] += 3 * states
        return x
    write = {"site": site, "op": "add", "weight": 3.0, "from": {"input": source}}
    apart = said(write, paired, False)
    same = said({**write, "from": {**write["from"], "pos": -1}}, lambda x: x + 3 * states[-1], True)
    assert apart != same
    vector = {**write, "from": {"values": states[-1].tolist()}}
    assert said(vector, lambda x: x + 3 * states[-1], True) == same
    said({**vector, "pos": 0}, lambda x: np.concatenate([x[:1] + 3 * states[-1], x[1:]]), False)
    rows = np.full((4, len(prompt), len(prompt)), 0.25)

    def flat(x):
        x[:, :len(prompt), :len(prompt)] = np.tril(rows)
        return x
    pattern = {"site": "blocks.0.attn.hook_pattern", "op": "set", "from": {"values": rows.ravel().tolist()}}
    said(pattern, flat, False)


def test_writes_that_cannot_be_are_refused(daemon):
    for write, field in (({"site": "blocks.9.hook_mlp_out", "from": "zero"}, "writes[0].site"),
                         ({"site": "blocks.0.attn.hook_z", "head": 4, "from": "zero"}, "writes[0].head"),
                         ({"site": "blocks.0.hook_mlp_out"}, "writes[0].from"),
                         ({"site": "blocks.0.hook_mlp_out", "from": {"input": "x", "view": "no"}}, "writes[0].from.view")):
        a = daemon.post("/v1/generate", {"prompt": PROMPT, "writes": [write]})
        problem(a, 404 if field.endswith("view") else 400, field=field)


# ---- many at once ----------------------------------------------------------------------------

@pytest.mark.tsan
def test_logits_that_are_no_numbers_say_so(daemon):
    a = daemon.post("/v1/generate", {"prompt": "hello", "max_tokens": 4, "writes": [
        {"site": "blocks.2.hook_resid_post", "op": "scale", "weight": 1e38}]})
    problem(a, 422, "nonfinite", said="not finite")


def test_many_at_once_say_what_each_says_alone(daemon):
    prompts = [{"ids": [10 + i, 200 - i, 30 + 7 * i]} for i in range(8)]
    alone = [ask(daemon, p, 20, temperature=0.8, seed=i) for i, p in enumerate(prompts)]
    wrong = []

    def reader(i):
        for _ in range(scaled(10)):
            for how in ({}, {"stream": True}):
                body = {"prompt": prompts[i], "max_tokens": 20, "temperature": 0.8, "seed": i, **how}
                if how:
                    got = list(daemon.events("/v1/generate", body))[-1][2]
                else:
                    got = daemon.post("/v1/generate", body).json
                if got != alone[i]:
                    wrong.append((i, got))
    at_once(*(partial(reader, i) for i in range(8)))
    assert not wrong


def test_generating_changes_nothing(daemon):
    with nothing_moves(daemon):
        ask(daemon, writes=[{"site": "blocks.0.hook_mlp_out", "from": "zero"}])
    kinds = [r["kind"] for r in daemon.get("/v1/runs").json["runs"]]
    assert "generate" not in kinds  # a conversation is nobody's record


@pytest.mark.parametrize("body, status, field, said", [
    ({}, 400, "prompt", "prompt or messages"),
    ({"prompt": ""}, 400, "prompt", "empty"),
    ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, 400, "messages", "beside"),
    ({"messages": []}, 400, "messages", "empty"),
    ({"prompt": "x", "max_tokens": 0}, 400, "max_tokens", "1"),
    ({"prompt": "x", "max_tokens": 1.5}, 400, "max_tokens", "integer"),
    ({"prompt": "x", "temperature": -0.1}, 400, "temperature", "0"),
    ({"prompt": "x", "temperature": 101}, 400, "temperature", "100"),
    ({"prompt": "x", "top_p": 1.5}, 400, "top_p", "1"),
    ({"prompt": "x", "top_k": 0}, 400, "top_k", "1"),
    ({"prompt": "x", "seed": -1}, 400, "seed", "0"),
    ({"prompt": "x", "seed": 2**53}, 400, "seed", str(2**53 - 1)),
    ({"prompt": "x", "stop": "."}, 400, "stop", "list"),
    ({"prompt": "x", "stop": [""]}, 400, "stop[0]", "empty"),
    ({"prompt": "x", "stop": ["a"] * 17}, 400, "stop", "16"),
    ({"prompt": "x", "stream": "yes"}, 400, "stream", "true or false"),
    ({"prompt": "x", "view": "nowhere"}, 404, "view", "nowhere"),
    ({"prompt": "x", "model": "nobody"}, 404, "model", "nobody"),
    ({"prompt": "x", "max_token": 3}, 400, "max_token", "max_tokens"),
])
def test_refusals_name_the_field(daemon, body, status, field, said):
    problem(daemon.post("/v1/generate", body), status, field=field, said=said)
