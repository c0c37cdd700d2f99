#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/families/: what test_tokenizer_families.c compares with.

    .cache/parity/bin/python tests/golden/make_tokenizers.py

    NAME.json        a small tokenizer with the exact pipeline of a family's tokenizer.json, its
                     vocabulary trained here, and the ids and texts that `tokenizers` gives
    texts.json       the texts, shared by all
    spm_*.gguf       SentencePiece vocabularies, trained here by `sentencepiece`, as GGUF files have them
    spm_*.json       and the ids that `sentencepiece` gives

A family is a row of FAMILIES. `variant_*` are no family's: each turns one knob of the format.
"""
import json
import os
import tempfile

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import torture

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer", "families")
MARK = "\u2581"
LLAMA3 = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
          " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
QWEN2 = LLAMA3.replace("\\p{N}{1,3}", "\\p{N}")
TEKKEN = ("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
          "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
          "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
PROSE = """The lighthouse stood on the last rock before the open sea. Every evening, a little before sunset, the
keeper climbed the one hundred and twenty-two steps, wound the clockwork that turned the lens, trimmed the wick and
lit the lamp. I'm sure that you're right, they'll say; we've seen 1234 ships in 2024, and it's 3.14 miles. He'd rather
not. DON'T SHOUT, IT'S LATE. \u00c9t\u00e9 caf\u00e9 na\u00efve \u00fcber stra\u00dfe \u4f60\u597d\u4e16\u754c
\u3053\u3093\u306b\u3061\u306f \u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \U0001F600\U0001F600
def f(x):
    return x + 1

    # a comment

\tif (a && b) { return x->y[3]; }
"""
WHITE = "\t\n\r \x0b\x0c\x85\xa0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000\u180e\u200b\ufeff"
TEXTS = (["", "a", " ", "  ", "   ", "\n", "\n\n", " \n", "a ", " a", "  a  b   c    d", "a\n\n\nb", "a\t\tb", "a \tb",
          "\r\n\r\na\r\n", " \u2581", "\u2581", "\u2581\u2581a \u2581b", "a\u2581 b", "hello world", " hello  world ",
          "<s>", "</s>", "<unk>", "a<s>b", "<s> a </s> b", " <s>", "<s> ", "<0x0A>", "<0x41>A", "<|endoftext|>",
          "x<|endoftext|>y", "x <|endoftext|> y", "<|im_start|>user\nhi<|im_end|>\n", "<start_of_turn>user\nhi<end_of_turn>",
          "<think>\nhm\n</think>", "[INST] hi [/INST]", "<|user|>\n hi<|end|>\n<|assistant|>  \n", "<|extratoken_1|>",
          "<bos>a<eos>", "0 1 12 123 1234 12345 1234567890", "a1b22c333", "x" * 60 + " " + "ab" * 40,
          "hello\u4f60\u597dworld\u3053\u3093", "\U0001F600\U0001F3FD\u200d\U0001F468 e\u0301\u0327a", "\u1e9b\u0323 \ufb01 \u2460 \u00bd",
          "\u0130I \u01c5 \u1e9e \u03a3\u03a3\u03c2", PROSE]
         + ["a" + w + "b" + w + w + "c" for w in WHITE] + [w for w in WHITE]
         + [f"{n * ' '}x{n * ' '}\n{n * chr(9)}y" for n in (2, 3, 5, 16, 17, 33)]
         + ["don't DON'T 'S 're'RE 'll'Ll 'x ''s '", "a/b//c\n/ d./\r\n"])


def texts():
    return TEXTS + torture.FIXED + list(torture.runs((3, 16, 64)))[::2] + list(torture.planes())[::9]


# ---- vocabularies ------------------------------------------------------------------------------

def special(*contents, **options):
    return [AddedToken(c, special=True, **{"normalized": False, **options}) for c in contents]


def plain(*contents, **options):
    return [AddedToken(c, special=False, **{"normalized": True, **options}) for c in contents]


def train(pre, size, alphabet):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre
    tok.train_from_iterator([PROSE] * 20 + torture.FIXED[:16], trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=alphabet, limit_alphabet=len(alphabet) or 100))
    model = json.loads(tok.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(m) for m in model["merges"]]


def byte_vocabulary(pre):
    """All bytes, and what was learnt under the family's own splits."""
    tokens, merges = train(pre, 420, sorted(pre_tokenizers.ByteLevel.alphabet()))
    return dict(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)


def mark_vocabulary(head=("<unk>", "<s>", "</s>"), fallback=True, drop=()):
    """A SentencePiece-like one: control tokens, 256 bytes, merges before characters. Few characters have a
    token, so that the rest falls back."""
    tokens, merges = train(pre_tokenizers.Metaspace(prepend_scheme="first"), 330, [])
    tokens = [t for t in tokens if t not in drop and t not in ("\u4f60", "\U0001F600", "\u043f")]
    rows = list(head) + ([f"<0x{b:02X}>" for b in range(256)] if fallback else []) + tokens + [MARK * n for n in (2, 3, 4)]
    kept = dict.fromkeys(rows)
    merges = [m for m in merges if m[0] in kept and m[1] in kept and m[0] + m[1] in kept]
    merges += [(MARK, MARK), (MARK * 2, MARK), (MARK * 2, MARK * 2)]
    return dict(vocab={t: i for i, t in enumerate(kept)}, merges=merges)


def build(model, normalizer, pre, decoder, added, post=None):
    tok = Tokenizer(models.BPE(**model))
    if normalizer:
        tok.normalizer = normalizer
    if pre:
        tok.pre_tokenizer = pre
    tok.decoder = decoder
    if post:
        tok.post_processor = post
    for token in added:
        (tok.add_special_tokens if token.special else tok.add_tokens)([token])
    return tok


def byte_level(added, steps=None, normalizer=None, prefix=False, post=None, **model):
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=steps is None or steps[0] == "digits")
    if steps and steps[0] == "digits":
        steps = [pre_tokenizers.Digits(individual_digits=True)]
    pre = pre_tokenizers.Sequence([*steps, last]) if steps else last
    return build({**byte_vocabulary(pre), **model}, normalizer, pre, decoders.ByteLevel(), added, post)


def isolated(regex):
    return [pre_tokenizers.Split(Regex(regex), "isolated")]


PREPEND = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
REPLACE = normalizers.Replace(" ", MARK)
LLAMA_DECODER = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
GEMMA_DECODER = decoders.Sequence(LLAMA_DECODER[:3])
BOS = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])


def marks(added, normalizer=PREPEND, pre=None, decoder=None, head=("<unk>", "<s>", "</s>"), fallback=True, post=BOS,
          **model):
    options = dict(unk_token="<unk>", fuse_unk=True, byte_fallback=fallback)
    return build({**mark_vocabulary(head, fallback), **options, **model}, normalizer, pre,
                 decoder or decoders.Sequence(LLAMA_DECODER), added, post)


def gemma(extra):
    head = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", *extra)
    post = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 2)])
    return marks(special(*head) + plain("\n\n", MARK * 2, MARK * 3, "<table>", normalized=False), REPLACE,
                 pre_tokenizers.Split(" ", "merged_with_previous"), GEMMA_DECODER, head, post=post)


LLAMA_SPECIAL = ("<unk>", "<s>", "</s>")
IM = special("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    "gpt2": lambda: byte_level(special("<|endoftext|>", normalized=True)),
    "gpt_neox": lambda: byte_level(special("<|endoftext|>", "<|padding|>") + plain(*(" " * n for n in range(24, 1, -1))),
                                   normalizer=normalizers.NFC()),
    "gptj": lambda: byte_level(special("<|endoftext|>", normalized=True) + plain("<|extratoken_1|>", "<|extratoken_2|>")),
    "llama1": lambda: marks(special(*LLAMA_SPECIAL, normalized=True)),
    "llama2": lambda: marks(special(*LLAMA_SPECIAL)),
    "llama3": lambda: byte_level(special("<|begin_of_text|>", "<|eot_id|>"), isolated(LLAMA3), ignore_merges=True,
                                 post=processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                                           processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 420)])])),
    "tinyllama": lambda: marks(special(*LLAMA_SPECIAL), decoder=decoders.Sequence(LLAMA_DECODER)),
    "yi": lambda: marks(special("<unk>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"), REPLACE,
                        decoder=GEMMA_DECODER, head=("<unk>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
                        post=None),
    "smollm2": lambda: byte_level(IM, ["digits"]),
    "mistral": lambda: marks(special(*LLAMA_SPECIAL)),
    "mistral_v3": lambda: marks(special(*LLAMA_SPECIAL, "[INST]", "[/INST]"), None,
                                pre_tokenizers.Metaspace(MARK, "first", False), head=(*LLAMA_SPECIAL, "[INST]", "[/INST]")),
    "mistral_nemo": lambda: byte_level(special("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), isolated(TEKKEN), ignore_merges=True),
    "qwen2": lambda: byte_level(IM, isolated(QWEN2), normalizers.NFC()),
    "qwen3": lambda: byte_level(IM + plain("<tool_call>", "</tool_call>", "<think>", "</think>", normalized=False),
                                isolated(QWEN2), normalizers.NFC()),
    "gemma2": lambda: gemma(()),
    "gemma3": lambda: gemma(("<start_of_image>",)),
    "olmo2": lambda: byte_level(special("<|endoftext|>", "<|endofprompt|>"), [pre_tokenizers.Split(Regex(LLAMA3), "removed", invert=True)]),
    "phi3": lambda: marks(special("<unk>", "<s>", "<|endoftext|>") + special("<|assistant|>", "<|end|>", "<|user|>", rstrip=True)
                          + plain("</s>", normalized=False, rstrip=True)),
}

PLAIN_DECODER = decoders.Fuse()
METASPACE = dict(normalizer=None, decoder=decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]))
ADDED = plain("ab", single_word=True, normalized=False) + plain("<x>", lstrip=True) + plain("\u00e9t", "Caf\u00e9", rstrip=True)
VARIANTS = {
    "always": lambda: marks([], pre=pre_tokenizers.Metaspace(MARK, "always", True), **METASPACE),
    "never": lambda: marks([], pre=pre_tokenizers.Metaspace(MARK, "never", True), normalizer=None,
                           decoder=decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(MARK, "never")])),
    "first": lambda: marks(special("<s>") + plain("hello", normalized=True), pre=pre_tokenizers.Metaspace(MARK, "first", True), **METASPACE),
    "nfkc_lower": lambda: marks(ADDED, normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), REPLACE])),
    "nfd_strip": lambda: marks(ADDED, normalizers.Sequence([normalizers.NFD(), normalizers.Strip(), PREPEND])),
    "nfkd_regex": lambda: marks(special(*LLAMA_SPECIAL, normalized=True) + ADDED, normalizers.Sequence(
        [normalizers.NFKD(), normalizers.Replace(Regex("\\s+"), " "), normalizers.Replace(Regex(" {2,}"), " "),
         normalizers.Strip(left=False), REPLACE])),
    "unknown": lambda: marks([], fallback=False),
    "unknown_apart": lambda: marks([], fallback=False, fuse_unk=False),
    "dropped": lambda: marks([], fallback=False, unk_token=None),
    "whole_words": lambda: marks([], pre=pre_tokenizers.Metaspace(MARK, "first", False), ignore_merges=True, **METASPACE),
    "prefix": lambda: byte_level(special("<|endoftext|>"), prefix=True),
    "digit_runs": lambda: byte_level([], [pre_tokenizers.Digits(), *isolated(LLAMA3)], prefix=True),
    **{f"{where}_{behavior}": (lambda p=p, b=behavior, i=invert: marks([], REPLACE, pre_tokenizers.Split(p, b, i), GEMMA_DECODER))
       for where, p, invert in (("text", "l", False), ("inverted", "l", True), ("pattern", Regex("\\p{N}{1,3}"), False))
       for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")},
}


# ---- goldens -----------------------------------------------------------------------------------

def row(tok, text, odd):
    """[ids, ids with special spellings parsed (null where the same), the way back, the way back without special
    tokens (null where the same)]. Some added tokens `tokenizers` does not give back as they were: the letters of a
    byte-level one it takes for the byte alphabet's, and one that is matched after normalisation it spells
    normalised, and then no longer knows as special. There is nothing to compare: false."""
    out = []
    for literal in (True, False):
        tok.encode_special_tokens = literal
        out.append(tok.encode(text, add_special_tokens=False).ids)
    back, short = (tok.decode(out[1], skip_special_tokens=skip) for skip in (False, True))
    if odd & set(out[1]):
        back = short = False
    return [out[0], None if out[1] == out[0] else out[1], back, None if short == back else short]


def write(name, value):
    with open(os.path.join(FOLDER, name), "w", encoding="ascii", newline="\n") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: " + (json.dumps(v, separators=(",", ":")) if k != "rows" else
                "[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in v) + "\n]") for k, v in value.items()) + "\n}\n")


def golden(name, tok):
    odd = set()
    if isinstance(tok.decoder, decoders.ByteLevel):
        odd = {i for i, t in tok.get_added_tokens_decoder().items() if not t.content.isascii()}
    if tok.normalizer:
        odd |= {i for i, t in tok.get_added_tokens_decoder().items()
                if t.normalized and tok.normalizer.normalize_str(t.content) != t.content}
    bos = tok.encode("", add_special_tokens=True).ids
    rows = [row(tok, t, odd) for t in (texts() if not name.startswith("variant") else TEXTS + torture.FIXED)]
    write(name + ".json", {"tokenizer": json.loads(tok.to_str()), "bos": bos[0] if bos else None, "rows": rows})


# ---- SentencePiece -----------------------------------------------------------------------------

SPM = {  # name: trainer options, GGUF's add_space_prefix, general.architecture
    "spm_llama": (dict(byte_fallback=True), True, "llama"),
    "spm_gemma": (dict(byte_fallback=True, add_dummy_prefix=False,
                       user_defined_symbols=[MARK * n for n in (2, 3, 4, 7)] + ["\n", "\n\n", "<table>"]), False, "gemma2"),
    "spm_sparse": (dict(byte_fallback=True, character_coverage=0.98), True, "llama"),
}


def train_spm(options):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "text")
        with open(path, "w", encoding="utf-8") as f:
            f.write("\n".join([PROSE] * 4 + [t for t in torture.FIXED[:30] if "\x01" not in t]))
        sentencepiece.SentencePieceTrainer.train(
            input=path, model_prefix=path, model_type="bpe", vocab_size=470, normalization_rule_name="identity",
            remove_extra_whitespaces=False, split_by_whitespace=True, allow_whitespace_only_pieces=True, minloglevel=2,
            **{"add_dummy_prefix": True, **options})
        return sentencepiece.SentencePieceProcessor(model_file=path + ".model")


def spm_kind(sp, i):
    kind = gguf.TokenType
    if sp.is_unknown(i):
        return kind.UNKNOWN
    if sp.is_control(i):
        return kind.CONTROL
    return kind.BYTE if sp.is_byte(i) else kind.NORMAL


def golden_spm(name, options, prefix, family):
    sp = train_spm(options)
    user = options.get("user_defined_symbols", [])
    assert all(sp.get_score(sp.piece_to_id(u)) == 0 for u in user)
    tokens = [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
    kinds = [gguf.TokenType.USER_DEFINED if t in user else spm_kind(sp, i) for i, t in enumerate(tokens)]
    # As converters write them: user-defined tokens with spaces.
    spelled = [t.replace(MARK, " ") if k == gguf.TokenType.USER_DEFINED else t for t, k in zip(tokens, kinds)]
    w = gguf.GGUFWriter(os.path.join(FOLDER, name + ".gguf"), family)
    w.add_tokenizer_model("llama")
    w.add_token_list(spelled)
    w.add_token_scores([sp.get_score(i) for i in range(len(tokens))])
    w.add_token_types(kinds)
    w.add_bos_token_id(sp.bos_id())
    w.add_eos_token_id(sp.eos_id())
    w.add_unk_token_id(sp.unk_id())
    if not prefix:
        w.add_add_space_prefix(False)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()
    write(name + ".json", {"rows": [[sp.encode(t), False, sp.decode(sp.encode(t)), None] for t in texts()]})


def main():
    os.makedirs(FOLDER, exist_ok=True)
    write("texts.json", {"families": texts(), "variants": TEXTS + torture.FIXED})
    for name, make in FAMILIES.items():
        golden(name, make())
    for name, make in VARIANTS.items():
        golden("variant_" + name, make())
    for name, row_ in SPM.items():
        golden_spm(name, *row_)
    print(len(texts()), "texts,", len(FAMILIES), "families,", len(VARIANTS), "variants,", len(SPM), "SentencePiece")


if __name__ == "__main__":
    main()
