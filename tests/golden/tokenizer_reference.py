"""The reference tokenizer: a `tokenizers` pipeline with a model file's own vocabulary.

Not transformers' way of loading GGUF, which drops the pre-tokenizer.
"""
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


def build(vocab, merges, special, steps, normalizer=None, **model):
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, **model))
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tok


def pipeline(path):
    """Of a GGUF file whose pre-tokenizer is smollm."""
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    assert get("pre") == "smollm", get("pre")
    tokens, merges, kinds = get("tokens"), get("merges"), get("token_type")
    return build({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges],
                 [t for t, k in zip(tokens, kinds) if k == 3],
                 [pre_tokenizers.Digits(individual_digits=True),
                  pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


def chat_template(path):
    from gguf import GGUFReader
    return GGUFReader(path).fields["tokenizer.chat_template"].contents()


def ids(tok, texts, special=False):
    """special: spellings of special tokens become those tokens."""
    tok.encode_special_tokens = not special
    return [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)]
