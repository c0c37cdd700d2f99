#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/: what test_tokenizer.c compares with.

    python3 tests/golden/make_tokenizer.py MODEL.gguf

    tiny.json    a small tokenizer.json, trained here, with every kind of added token
    model.json   texts and their ids by the default model's tokenizer
    cases.json   texts and their ids by the small one

Ids come from `tokenizers`, conversations from jinja2 with the options that transformers uses.
"""
import json
import os
import random
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import tokenizer_reference as reference
import torture

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer")
LLAMA3 = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
          " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")

DEFAULT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
CONVERSATIONS = [
    [("user", "Hello")],
    [("system", "You speak French."), ("user", "Hello\n\nthere"), ("assistant", " Bonjour "), ("user", "")],
    [("user", "\n leading\nand trailing \n"), ("user", "caf\u00e9 \U0001F600 e\u0301"), ("system", "late")],
]


# Characters younger than PCRE2's tables inside words, learnt as merges across their borders: a wrong
# class cuts the word and the merge does not happen.
YOUNG = ["z\U0001DF25q", "5\U00010D406", "z\u1C89q", "?\u1C89q", "z\U00031350q", "  \u180E", "z\u180Eq",
         "?\U0001CCF0q", "z\U00011DE0q"]
UNMERGED = "\u0120xyzzy"  # a token that no merge makes: ignore_merges finds it


def tiny():
    """Trained on the torture texts; bytes 0x04 and 0xF1..0xFF have no token, as in real files."""
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set("\u0104" + "".join(map(chr, range(0xF1, 0x100)))))
    trainer = trainers.BpeTrainer(
        vocab_size=480, show_progress=False, initial_alphabet=alphabet,
        special_tokens=[AddedToken(t, special=True, normalized=False)
                        for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    texts = [t for t in torture.FIXED if "\U00040000" not in t and "\x04" not in t] * 3
    tok.train_from_iterator(texts + YOUNG * 40, trainer)
    saved = json.loads(tok.to_str())
    saved["model"]["vocab"][UNMERGED] = len(saved["model"]["vocab"])
    tok = Tokenizer.from_str(json.dumps(saved))
    tok.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    tok.add_tokens([AddedToken("<right>", normalized=False, rstrip=True),
                    AddedToken("wordy", normalized=False, single_word=True),
                    AddedToken("wordy!", normalized=False), AddedToken("\n ", normalized=False),
                    AddedToken("start|>", normalized=False), AddedToken("caf\u00e9", normalized=True),
                    AddedToken("<both>", normalized=True, lstrip=True, rstrip=True)])
    return tok


ADDED = ["wordy", "wordy!", "a", "_", " ", "  ", "\n", "<mask>", "<right>", "<both>", "caf\u00e9", "cafe\u0301", "<",
         "<|im_end|>", "<|im_start|>", "\n ", "\u00a0", "\u3000", "1", "\u05b0", "\U0001F600", "-", "\u0897"]


def added_texts(n):
    rng = random.Random(11)
    return ["".join(rng.choice(ADDED) for _ in range(rng.randint(1, 10))) for _ in range(n)]


def mark_texts(n):
    """Combining marks in orders that NFC changes, also young ones that it must leave alone."""
    rng = random.Random(12)
    pool = [0x61, 0x65, 0x301, 0x315, 0x323, 0x327, 0x338, 0x898, 0x8CA, 0x1ABF, 0x1AC0, 0x7FD, 0x10EFD, 0x11F41,
            0x1E4EC, 0x11935, 0x11930, 0xAC00, 0x11A7, 0x11A8, 0x1100, 0x1161, 0x212B, 0x344]
    return ["".join(chr(rng.choice(pool)) for _ in range(rng.randint(2, 8))) for _ in range(n)]


def write(name, value):
    with open(os.path.join(FOLDER, name), "w", encoding="ascii", newline="\n") as f:
        if isinstance(value, dict):
            rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in value.items())
            f.write("{\n" + rows + "\n}\n")
        else:
            f.write("[\n" + ",\n".join(json.dumps(v, separators=(",", ":")) for v in value) + "\n]\n")


def cases(tok, texts):
    """Rows of text, ids, ids with special spellings parsed (left out where the same), text again
    (left out where decoding gives the text back). The reference decodes the letters of an added
    token as if they were the byte alphabet's, so a token that is not ASCII proves nothing there:
    `decoded` is null."""
    odd = {i for i, t in tok.get_added_tokens_decoder().items() if not t.content.isascii()}
    plain, special = reference.ids(tok, texts), reference.ids(tok, texts, special=True)
    rows = []
    for text, a, b in zip(texts, plain, special):
        row = {"text": text, "ids": a}
        if a != b:
            row["special"] = b
        back = tok.decode(b, skip_special_tokens=False)
        if odd & set(b):
            row["decoded"] = None
        elif back != text:
            row["decoded"] = back
        rows.append(row)
    return rows


def render(text, conversation, add):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": r, "content": c} for r, c in conversation]
    return env.from_string(text).render(messages=messages, add_generation_prompt=add)


def model_chat(tok, text):
    """Conversations without special spellings: then the ids are those of the rendered text."""
    out = []
    for conversation in CONVERSATIONS:
        rendered = render(text, conversation, True)
        out.append({"messages": conversation, "text": rendered, "ids": reference.ids(tok, [rendered], True)[0]})
    return out


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    os.makedirs(FOLDER, exist_ok=True)
    small, model = tiny(), reference.pipeline(sys.argv[1])
    assert reference.chat_template(sys.argv[1]) == DEFAULT_TEMPLATE
    with open(os.path.join(FOLDER, "tiny.json"), "w", encoding="ascii", newline="\n") as f:
        json.dump(json.loads(small.to_str()), f, indent=0, separators=(",", ":"))
        f.write("\n")
    texts = torture.FIXED + list(torture.runs()) + list(torture.planes()) + list(torture.class_texts())
    write("model.json", {"cases": cases(model, texts), "chat": model_chat(model, DEFAULT_TEMPLATE)})
    few = torture.FIXED + list(torture.planes())[::4] + list(torture.class_texts())[::5]
    write("cases.json", {"cases": cases(small, few + added_texts(300) + mark_texts(120) + YOUNG
                                   + ["a xyzzy xyzzyx", "<right>\n \n  x"])})


main()
