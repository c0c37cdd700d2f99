"""Models whose tokenizer puts a space before every text, as SentencePiece's do: what continues a prompt (an
edit's targets, the answers and foils of a metric) gets none of its own."""
import json
import shutil
import string

import pytest
from helpers import committed, edit, fact, say
from reference import TINY

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "split": False}
PREFIXES = {  # (normalizer, pre_tokenizer)
    "prepend": ({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, REPLACE]}, None),
    "first": (None, {**METASPACE, "prepend_scheme": "first"}),
    "always": (None, {**METASPACE, "prepend_scheme": "always"}),
}


def write_model(to, normalizer, pre_tokenizer):
    shutil.copytree(TINY / "gqa_tied", to, ignore=shutil.ignore_patterns("*.gguf", "expected*", "*tokenizer*"))
    tokens = ["<unk>", "<s>", "</s>", "▁", *string.ascii_letters, *string.digits, *string.punctuation]
    merges = [("▁", c) for c in string.ascii_letters] + [("▁b", "r"), ("▁br", "i")]
    vocab = {t: i for i, t in enumerate(tokens + ["".join(m) for m in merges])}
    special = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i in range(3)]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    (to / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": special, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": None, "decoder": {"type": "Sequence", "decoders": [replace, {"type": "Fuse"}, *strip]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": False, "vocab": vocab,
                  "merges": [list(m) for m in merges]}}))
    (to / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}))
    return to, vocab


@pytest.fixture(params=PREFIXES)
def served(request, start, tmp_path):
    model, vocab = write_model(tmp_path / "model", *PREFIXES[request.param])
    return start(model=model), vocab


def ids(d, text, **more):
    return d.post("/v1/tokenize", {"input": {"text": text, **more}}).json["ids"]


def test_a_target_is_what_it_is_behind_its_prompt(served):
    d, vocab = served
    assert ids(d, "a b", bos=False) == [vocab["▁a"], vocab["▁b"]]
    prompt = ids(d, "a b a")
    a = committed(edit(d, [fact("b", "a b a", target_true="bri", paraphrases=["x"])]))
    [told] = a["facts"]
    assert told["target_ids"] == [vocab["▁b"]]
    assert prompt + told["target_ids"] == ids(d, "a b a b")
    assert told["after"]["generation"] == {"text": " b", "match": 1, "prefix_match": 1, "stopped_by": "end-of-generation"}
    assert say(d, "a b a")["ids"][:1] == told["target_ids"]


def test_a_target_behind_white_space_continues_it(served):
    d, vocab = served
    [told] = edit(d, [fact("b", "a b ")], mode="dry_run").json["facts"]
    assert told["target_ids"] == [vocab["b"]]


def test_answers_and_foils_are_what_they_are_behind_the_prompt(served):
    d, vocab = served

    def tokens(answer, foil):
        a = d.post("/v1/patch", {"clean": "a b a", "corrupt": "a c a", "site": "hook_resid_pre", "axes": ["layer", "pos"],
                                 "metric": {"kind": "logit_diff", "answer": answer, "foil": foil}})
        assert a.status == 200, a
        return a.json["answer"]["id"], a.json["foil"]["id"], [w.split(":")[0] for w in a.json["warnings"]]

    assert tokens(" a", " b") == (vocab["▁a"], vocab["▁b"], [])
    assert tokens(" a", "b") == (vocab["▁a"], vocab["b"], [])
    assert tokens(" bri", " xy") == (vocab["▁bri"], vocab["▁x"], ["first-token"])
