"""Sets of rows: stored once, named, hashed in one canonical form, and read by other routes."""
import hashlib
import json

import pytest

LINES = "application/x-ndjson"
# The order of SetRow, written down here on its own.
ORDER = ["id", "group", "split", "prompt", "text", "clean", "corrupt", "subject", "answer", "foil", "target_new", "target_true",
         "paraphrases", "locality", "train_prompts", "label", "chosen", "rejected", "spans", "meta"]
ROWS = [
    {"id": "fr", "group": "g", "clean": "The cat sat", "corrupt": "The dog sat", "answer": " on", "foil": " in", "subject": "cat", "split": "train"},
    {"id": "it", "corrupt": "A dog ran", "clean": "A cat ran", "answer": " on", "foil": " in", "subject": "cat", "split": "test",
     "spans": {"verb": "ran", "second": {"text": "a", "occurrence": 2}, "start": [0, 1]}},
    {"text": "πθ ü", "label": 3, "meta": {"any": [1, 2.5, None, {"x": "y"}]}},
    {"prompt": "p", "label": True, "chosen": "x", "rejected": "y", "paraphrases": ["a", "b"], "locality": [{"prompt": "z"}], "target_new": "t"},
]


def canonical(rows):
    return "".join(json.dumps({k: r[k] for k in ORDER if k in r}, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows)


def sha(text):
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def send_lines(d, text, name=None, **headers):
    path = "/v1/sets" + (f"?name={name}" if name else "")
    return d.request("POST", path, text if isinstance(text, bytes) else text.encode(), {"Content-Type": LINES, **headers})


def refused(r, status, field, *words):
    assert r.status == status, r
    p = r.json
    assert p.get("field") == field, p
    for w in words:
        assert w in p["detail"], p


def test_a_set_in_both_forms_is_one(daemon):
    d = daemon
    r = d.post("/v1/sets", {"name": "caps", "rows": ROWS})
    assert r.status == 201, r
    s, text = r.json, canonical(ROWS)
    assert s["hash"] == sha(text) and s["rows"] == 4 and s["name"] == "caps" and s["bytes"] == len(text.encode())
    assert s["fields"] == {k: sum(k in x for x in ROWS) for k in ORDER if any(k in x for x in ROWS)}
    assert s["spans"] == ["subject", "verb", "second", "start"] and s["warnings"] == []
    # Other spellings of the same rows: members turned around, white space, escapes, blank lines, CR LF.
    loose = "\r\n\n".join(json.dumps(dict(reversed(list(x.items()))), indent=None) for x in ROWS) + "\n \n"
    again = send_lines(d, loose, "caps")
    assert again.status == 200 and again.json["set"] == s["set"] and again.json["hash"] == s["hash"]
    other = send_lines(d, loose, "another")
    assert other.status == 201 and other.json["set"] != s["set"] and other.json["hash"] == s["hash"]
    got = d.get(f"/v1/sets/{s['set']}", {"Accept": LINES})
    assert got.headers["Content-Type"].startswith(LINES) and got.body.decode() == text
    head = d.get("/v1/sets/caps").json
    assert {k: head[k] for k in ("set", "name", "hash", "rows", "fields", "spans", "bytes")} == {
        k: s[k] for k in ("set", "name", "hash", "rows", "fields", "spans", "bytes")}
    assert head["author"] == "local" and "items" not in head
    page = d.get("/v1/sets/caps?rows=1&from=1&limit=2").json
    assert [canonical([x]) for x in page["items"]] == [canonical([x]) for x in ROWS[1:3]] and page["next"] == 3
    last = d.get("/v1/sets/caps?rows=1&from=3&limit=2").json
    assert len(last["items"]) == 1 and last["next"] is None
    # A name means the newest; the old one is still there by its id.
    new = d.post("/v1/sets", {"name": "caps", "rows": ROWS[:1]})
    assert new.status == 201 and d.get("/v1/sets/caps").json["set"] == new.json["set"]
    assert d.get(f"/v1/sets/{s['set']}").json["rows"] == 4
    assert d.get("/v1/audit/verify").json["ok"]


def test_sets_are_listed_by_pages_and_outlive_the_daemon(start):
    d = start()
    made = [d.post("/v1/sets", {"rows": [{"text": str(i)}]}).json["set"] for i in range(5)]
    first = d.get("/v1/sets?limit=3").json
    second = d.get(f"/v1/sets?limit=3&before={first['next']}").json
    assert [s["set"] for s in first["sets"] + second["sets"]] == made[::-1] and second["next"] is None
    assert all(s["name"] is None for s in first["sets"])
    kept = d.get("/v1/sets").json
    d.stop()
    d = start(data=d.data)
    assert d.get("/v1/sets").json == kept
    assert d.get("/v1/audit/verify").json["ok"]


BAD = {
    "no json": ('{"text":"a"}\n{"text":', "rows[1]", "line 2"),
    "a list": ('[1]', "rows[0]", "line 1"),
    "unknown": ('{"text":"a"}\n\n{"text":"b","anwser":"x"}', "rows[1].anwser", "line 3"),
    "a key twice": ('{"text":"a","text":"b"}', "rows[0]", "line 1"),
    "an id twice": ('{"id":"x","text":"a"}\n{"id":"x","text":"b"}', "rows[1].id", "rows[0]"),
    "no text": ('{"answer":"x"}', "rows[0]", "prompt"),
    "two texts": ('{"text":"x","prompt":"y"}', "rows[0]", "prompt"),
    "half a pair": ('{"clean":"x"}', "rows[0].corrupt", "come together"),
    "half a choice": ('{"prompt":"x","rejected":"y"}', "rows[0].chosen", "come together"),
    "a label that is none": ('{"text":"x","label":1.5}', "rows[0].label", "line 1"),
    "a span that is none": ('{"text":"x","spans":{"a":3}}', "rows[0].spans.a", "text"),
    "an empty range": ('{"text":"x","spans":{"a":[2,2]}}', "rows[0].spans.a", "range"),
    "a reserved span": ('{"text":"x","spans":{"last":"x"}}', "rows[0].spans.last", "built in"),
    "a span of a token": ('{"text":"x","spans":{"a_first":"x"}}', "rows[0].spans.a_first", "_first"),
    "occurrence 0": ('{"text":"x","spans":{"a":{"text":"x","occurrence":0}}}', "rows[0].spans.a", "from 1"),
    "nothing": ("\n \n", "rows", "1 to 1000000"),
    "deep": ('{"text":"x","meta":' + '{"a":' * 80 + "1" + "}" * 81, "rows[0]", "line 1"),
    "not UTF-8": (b'{"text":"\xff"}', "rows[0]", "line 1"),
    "NUL": (b'{"text":"\x00"}', "rows[0]", "line 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_name_line_and_field(daemon, name):
    text, field, word = BAD[name]
    before = daemon.get("/v1/sets").json
    p = send_lines(daemon, text)
    assert p.status == 400, p
    got = p.json
    assert got["field"] == field or (field == "rows[0]" and got["field"].startswith("rows[0]")), got
    assert word in got["detail"] + got["field"], got
    assert daemon.get("/v1/sets").json == before


def test_bad_requests(daemon):
    d = daemon
    refused(d.post("/v1/sets", {"rows": []}), 400, "rows")
    refused(d.post("/v1/sets", {"rows": [{"text": "a"}, {"text": "b", "bad": 1}]}), 400, "rows[1].bad")
    refused(d.post("/v1/sets", {"name": "set_abc", "rows": [{"text": "a"}]}), 400, "name", "id")
    refused(d.post("/v1/sets?name=a", {"name": "b", "rows": [{"text": "a"}]}), 400, "name")
    assert d.request("POST", "/v1/sets", b"{}", {"Content-Type": "text/plain"}).status == 415
    assert d.request("POST", "/v1/trace", b"{}", {"Content-Type": LINES}).status == 415
    assert d.get("/v1/sets/none").status == 404
    assert d.get("/v1/sets/set_0000").status == 404
    assert d.get("/v1/sets/x?rows=2").status == 400


def test_who_may(start):
    d = start(tokens={"rob": ("reader", "r"), "pia": ("prober", "p")})
    body = {"name": "s", "rows": [{"text": "a"}]}
    assert d.post("/v1/sets", body, {"Authorization": "Bearer r"}).status == 403
    made = d.post("/v1/sets", body, {"Authorization": "Bearer p"})
    assert made.status == 201
    head = d.get("/v1/sets/s", {"Authorization": "Bearer r"}).json
    assert head["author"] == "pia" and head["author_verified"] is True


def test_the_same_key_gives_the_same_answer(daemon):
    a = send_lines(daemon, '{"text":"keyed"}', "keyed", **{"Idempotency-Key": "k1"})
    b = send_lines(daemon, '{"text":"keyed"}', "keyed", **{"Idempotency-Key": "k1"})
    assert a.status == 201 and b.status == 201 and a.json == b.json and b.headers["Idempotency-Replayed"] == "true"


def test_a_large_set(daemon):
    rows = [{"id": str(i), "text": "x" * 40, "label": i % 2} for i in range(50000)]
    text = canonical(rows)
    r = send_lines(daemon, text, "large")
    assert r.status == 201 and r.json["rows"] == 50000 and r.json["hash"] == sha(text)
    assert daemon.get("/v1/sets/large?rows=1&from=49999").json["items"] == rows[-1:]


def test_a_line_too_long(daemon):
    p = send_lines(daemon, '{"text":"a"}\n' + json.dumps({"text": "x" * (1 << 20)}))
    assert p.status == 413 and p.json["field"] == "rows[1]", p


def test_a_subject_that_is_not_there_is_warned_of(daemon):
    r = daemon.post("/v1/sets", {"rows": [{"prompt": "a b", "subject": "c"}, {"prompt": "a b", "subject": "b"}]})
    assert r.status == 201 and len(r.json["warnings"]) == 1 and r.json["warnings"][0].startswith("subject-absent: in 1 of 2")


# ---- patch -------------------------------------------------------------------------------------

PAIRS = [{"id": f"r{i}", "clean": {"ids": [5, 7 + i, 9, 11]}, "corrupt": {"ids": [5, 20 + i, 9, 11]}, "answer": 30 + i, "foil": 40}
         for i in range(4)]
PATCH = {"site": "hook_resid_pre", "axes": ["layer"], "metrics": [{"kind": "logit_diff", "answer": 30, "foil": 31}]}


def shorn(r):
    """What the answer says, without which run, view and time it was."""
    return {k: v for k, v in r.json.items() if k not in ("run", "set", "cost", "cached")}


def test_patch_reads_a_set_as_it_reads_pairs(fresh_daemon):
    d = fresh_daemon
    rows = [dict(p, split="train" if i < 3 else "test", subject="ab"[i % 2]) for i, p in enumerate(PAIRS)]
    made = d.post("/v1/sets", {"name": "p", "rows": rows}).json
    pairs = [dict(p, group="ab"[i % 2]) for i, p in enumerate(PAIRS)]
    by_pairs = d.post("/v1/patch", dict(PATCH, pairs=pairs))
    assert by_pairs.status == 200, by_pairs
    by_set = d.post("/v1/patch", dict(PATCH, set="p"))
    assert by_set.status == 200, by_set
    assert by_set.json["set"] == {"id": made["set"], "hash": made["hash"]}
    assert shorn(by_set) == shorn(by_pairs) and "cached" not in by_set.json
    train = d.post("/v1/patch", dict(PATCH, set=made["set"], split="train", limit=2))
    assert [r["pair"] for r in train.json["results"]] == ["r0", "r1"]
    assert shorn(train) == shorn(d.post("/v1/patch", dict(PATCH, pairs=pairs[:2])))
    # The same rows under another name are the same question; other rows under the same name are not.
    same = d.post("/v1/sets", {"name": "q", "rows": rows}).json
    again = d.post("/v1/patch", dict(PATCH, set="q")).json
    assert again["cached"] is True and again["run"] == by_set.json["run"] and again["set"]["id"] == same["set"]
    d.post("/v1/sets", {"name": "q", "rows": rows[:2]})
    other = d.post("/v1/patch", dict(PATCH, set="q"))
    assert "cached" not in other.json and len(other.json["results"]) == 2
    assert d.get("/v1/audit/verify").json["ok"]


def test_patch_refuses(daemon):
    d = daemon
    d.post("/v1/sets", {"name": "bad", "rows": [{"text": "a"}]})
    d.post("/v1/sets", {"name": "ok", "rows": PAIRS})
    d.post("/v1/sets", {"name": "uneven", "rows": [PAIRS[0], {"clean": "a", "corrupt": "a b c"}]})
    refused(d.post("/v1/patch", dict(PATCH, set="none")), 404, "set")
    refused(d.post("/v1/patch", dict(PATCH, set="bad")), 400, "set", "row 0")
    refused(d.post("/v1/patch", dict(PATCH, set="uneven")), 400, "set[1].corrupt")
    refused(d.post("/v1/patch", dict(PATCH, set="ok", split="none")), 400, "split")
    refused(d.post("/v1/patch", dict(PATCH, pairs=PAIRS, split="none")), 400, "split")
    refused(d.post("/v1/patch", dict(PATCH, pairs=PAIRS, limit=1)), 400, "limit")
    assert d.post("/v1/patch", dict(PATCH, pairs=PAIRS, set="ok")).status == 400
    d.post("/v1/sets", {"name": "many", "rows": [dict(PAIRS[0], id=str(i)) for i in range(1025)]})
    assert d.post("/v1/patch", dict(PATCH, set="many")).status in (400, 413)


# ---- spans -------------------------------------------------------------------------------------

def traced(d, pos, **input):
    r = d.post("/v1/trace", {"inputs": [{"id": "a", **input}], "reads": [{"site": "blocks.0.hook_resid_pre", "pos": pos}], "top_k": 0})
    return r


def where(d, pos, **input):
    r = traced(d, pos, **input)
    assert r.status == 200, r
    capture = r.json["reads"][0] if "reads" in r.json else r.json["captures"][0]
    return capture["pos"], r.json["inputs"][0]


def tokens_with(tokens, text, word):
    """By laying the tokens' texts on the text (ASCII alone)."""
    a, at, out = text.index(word), 0, []
    for i, t in enumerate(tokens):
        if at < a + len(word) and at + len(t) > a:
            out.append(i)
        at += len(t)
    assert at == len(text)
    return out


def test_positions_by_a_spans_name(daemon):
    text = "the cat sat on the mat and the cat ran"
    spans = {"beast": "cat", "again": {"text": "cat", "occurrence": 2}, "start": [0, 3]}
    extra = {"text": text, "spans": spans, "subject": "mat"}
    pos, echoed = where(daemon, "beast", **extra)
    tokens = echoed["tokens"]
    assert "".join(tokens) == text
    want = tokens_with(tokens, text, "cat")
    assert pos == want
    assert where(daemon, "beast_first", **extra)[0] == want[:1] and where(daemon, "beast_last", **extra)[0] == want[-1:]
    assert where(daemon, "subject", **extra)[0] == tokens_with(tokens, text, "mat")
    assert where(daemon, "start", **extra)[0] == tokens_with(tokens, text, "the")
    late = text.rindex("cat")
    again = where(daemon, "again", **extra)[0]
    assert again == [i for i in range(len(tokens)) if len("".join(tokens[:i])) < late + 3 and len("".join(tokens[:i + 1])) > late]
    assert again[0] > want[-1]
    assert where(daemon, "last", **extra)[0] == [len(tokens) - 1]
    assert where(daemon, "all", **extra)[0] == list(range(len(tokens)))


def test_spans_of_characters_with_several_bytes(daemon):
    text = "π≈3, naïve 東京 end"
    for span, spans in (("s", {"s": "東京"}), ("s", {"s": [text.index("東"), text.index("京") + 1]})):
        pos, echoed = where(daemon, span, text=text, spans=spans)
        whole = daemon.post("/v1/tokenize", {"input": text}).json["ids"]
        before = daemon.post("/v1/tokenize", {"input": text[:text.index(" 東")]}).json["ids"]
        assert echoed["ids"] == whole and pos[0] >= len(before) and pos[-1] < len(whole) - 1
        assert "end" in "".join(echoed["tokens"][pos[-1] + 1:]) and len(pos) >= 1


def test_bad_spans(daemon):
    d = daemon
    refused(traced(d, "nobody", text="a b", spans={"x": "a"}, subject="b"), 400, "reads[0].pos", "last", "all", "subject", "x")
    refused(traced(d, "subject", text="a b"), 400, "reads[0].pos", "there are last, all")
    refused(traced(d, "subject", text="a b", subject="c"), 400, "reads[0].pos", "occurs 0 times")
    refused(traced(d, "x", text="a b a", spans={"x": {"text": "a", "occurrence": 3}}), 400, "reads[0].pos", "occurs 2 times")
    refused(traced(d, "x", text="a b", spans={"x": [1, 9]}), 400, "reads[0].pos", "ends before character 9")
    refused(traced(d, "x", text="a b", spans={"x": 1}), 400, "inputs[0].spans.x")
    refused(traced(d, "subject", ids=[1, 2], subject="a"), 400, "reads[0].pos", "ids")
    refused(traced(d, "last_first", text="a b"), 400, "reads[0].pos")


def test_writes_take_spans_too(daemon):
    text = "the cat sat"
    body = {"inputs": [{"id": "a", "text": text, "subject": "cat"}], "writes": [
        {"site": "blocks.0.hook_resid_pre", "pos": "subject", "op": "scale", "weight": 0}]}
    by_name = daemon.post("/v1/trace", body)
    assert by_name.status == 200, by_name
    at = tokens_with(by_name.json["inputs"][0]["tokens"], text, "cat")
    body["writes"][0]["pos"] = at
    by_place = daemon.post("/v1/trace", body)
    assert by_place.json["inputs"] == by_name.json["inputs"] and by_place.json["writes"][0]["elements"] == by_name.json["writes"][0]["elements"]
