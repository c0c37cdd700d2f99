"""Text to ids: the committed ids of the tokenizers library, and INPUT in all its forms."""
import json

import pytest
from conftest import Daemon
from helpers import keeps, problem
from reference import TINY, expected

SOURCES = {"gqa_tied": "gqa_tied", "gqa_tied gguf": "gqa_tied/gqa_tied.f16.gguf", "gqa_untied_odd": "gqa_untied_odd",
           "gguf_q": "gguf_q/gguf_q.gguf"}


@pytest.fixture(scope="module", params=SOURCES)
def served(request, tmp_path_factory):
    """(daemon, what is expected of its tokenizer, does the file say to add a beginning)"""
    folder = SOURCES[request.param].split("/")[0]
    d = Daemon(tmp_path_factory.mktemp("tok") / "data", model=TINY / SOURCES[request.param]).start()
    yield d, expected(folder)[0]["tokenizer"], folder in ("gqa_untied_odd", "gguf_q")
    d.stop()


def ask(d, body):
    a = d.post("/v1/tokenize", body)
    assert a.status == 200, a
    return keeps(d, "POST", "/v1/tokenize", a)


def test_ids_are_the_references(served):
    d, want, adds = served
    for case in want["texts"]:
        for body in ({"input": case["text"]}, {"text": case["text"]}, {"input": {"text": case["text"]}}):
            got = ask(d, body)
            assert got["ids"] == case["ids"], case
            assert got["bos_added"] is adds
            assert len(got["tokens"]) == len(got["ids"])


def test_bos_overrules(served):
    d, want, adds = served
    [case] = [c for c in want["texts"] if c["text"].startswith("The capital")]
    bare = case["ids"][1:] if adds else case["ids"]
    for body in ({"text": case["text"], "bos": True}, {"input": {"text": case["text"], "bos": True}}):
        assert ask(d, body)["ids"] == [1] + bare and ask(d, body)["bos_added"] is True
    for body in ({"text": case["text"], "bos": False}, {"input": {"text": case["text"], "bos": False}}):
        assert ask(d, body)["ids"] == bare and ask(d, body)["bos_added"] is False
    assert ask(d, {"text": case["text"], "bos": None})["bos_added"] is adds


def test_ids_stay_as_they_are(served):
    d, _, _ = served
    got = ask(d, {"input": {"ids": [5, 1, 250]}})
    assert got["ids"] == [5, 1, 250] and got["bos_added"] is False
    assert ask(d, {"input": {"ids": [5], "bos": True}})["ids"] == [1, 5]


def test_messages_are_rendered(served):
    d, want, adds = served
    chat = want.get("chat") or expected("gqa_tied")[0]["tokenizer"]["chat"]  # the same template
    got = ask(d, {"input": {"messages": chat["messages"]}})
    assert got["ids"] == chat["ids"] and got["bos_added"] is False  # the template begins with it already
    closed = ask(d, {"input": {"messages": chat["messages"], "add_generation_prompt": False}})["ids"]
    opening = chat["ids"][len(closed):]
    assert chat["ids"] == closed + opening and opening[0] == 1 and len(opening) > 3


def test_special_spellings_are_special_in_text_and_literal_in_messages(served):
    d, want, adds = served
    got = ask(d, {"text": "a<|im_end|>b"})
    assert got["ids"][-2] == 2 and got["tokens"][-2] == "<|im_end|>"
    plain = ask(d, {"input": {"messages": [{"role": "user", "content": "x"}]}})["ids"]
    nasty = ask(d, {"input": {"messages": [{"role": "user", "content": "<|im_end|>x<|im_start|>"}]}})["ids"]
    assert sum(i in (0, 1, 2) for i in nasty) == sum(i in (0, 1, 2) for i in plain)


def test_tokens_show_parts_of_characters_as_replacements(served):
    d, _, adds = served
    got = ask(d, {"text": "\U0001f642"})
    assert len(got["ids"]) - adds == 4 and got["tokens"][adds:] == ["\ufffd"] * 4
    assert "".join(ask(d, {"text": "It is, here"})["tokens"][adds:]) == "It is, here"


@pytest.mark.parametrize("body, field, said", [
    ({}, "input", "input or text"),
    ({"input": "a", "text": "a"}, "text", "beside"),
    ({"input": {}}, "input.text", "text or ids or messages"),
    ({"input": {"text": "a", "ids": [1]}}, "input.ids", "beside"),
    ({"input": ""}, "input", "empty"),
    ({"text": ""}, "text", "empty"),
    ({"input": {"ids": []}}, "input.ids", "empty"),
    ({"input": {"ids": [3, 300]}}, "input.ids[1]", "0 to 299"),
    ({"input": {"ids": [-1]}}, "input.ids[0]", "between 0 and"),
    ({"input": {"ids": [1.5]}}, "input.ids[0]", "integer"),
    ({"input": {"ids": "1"}}, "input.ids", "list"),
    ({"input": {"messages": []}}, "input.messages", "empty"),
    ({"input": {"messages": [{"role": "user"}]}}, "input.messages[0].content", "required"),
    ({"input": {"messages": [{"role": "user", "content": 3}]}}, "input.messages[0].content", "string"),
    ({"input": 7}, "input", "string"),
    ({"input": {"ids": [5] * 257}}, "input.ids", "256"),
    ({"input": "x", "model": "other"}, "model", "gqa_tied"),
])
def test_refusals_name_the_field(daemon, body, field, said):
    a = daemon.post("/v1/tokenize", body)
    problem(a, 404 if field == "model" else 400, field=field, said=said)


def test_invalid_utf8_is_refused(daemon):
    for text in (b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\udc00\\ud800"'):
        problem(daemon.post("/v1/tokenize", b'{"input":' + text + b"}"), 400, "invalid")
    assert daemon.post("/v1/tokenize", b'{"input":"\\ud83d\\ude42"}').json == ask(daemon, {"input": "\U0001f642"})


def test_all_of_unicode_comes_back(daemon):
    """Every token decodes to its bytes, so that the joined pieces are the text (ASCII keeps its own)."""
    text = "".join(chr(c) for c in range(32, 127))
    assert "".join(ask(daemon, {"input": {"text": text}})["tokens"]) == text
    vocabulary = json.loads((TINY / "gqa_tied" / "tokenizer.json").read_text())["model"]["vocab"]
    for spelled, i in list(vocabulary.items())[:50]:
        got = ask(daemon, {"input": {"ids": [i]}})["tokens"]
        assert len(got) == 1 and got[0]
