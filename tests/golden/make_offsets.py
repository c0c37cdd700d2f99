"""Named parts of texts and the tokens that have a character of them, by the reference's own offset mapping.

    .cache/parity/bin/python tests/golden/make_offsets.py

Writes tests/golden/tokenizer/offsets.json: for every family's tokenizer of tests/golden/tokenizer/families the texts below,
spans in bytes, and [first, last + 1) in the ids without special tokens. Spans begin and end in letters: whether a
token's leading space is in its offsets differs between pipelines, and a space that a tokenizer puts before the text is, to the
reference, the text's first character.
"""
import json
from pathlib import Path

from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
FAMILIES = ["gpt2", "gpt_neox", "gptj", "llama1", "llama2", "llama3", "smollm2", "tinyllama", "yi", "mistral", "mistral_v3", "mistral_nemo",
            "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "phi3"]
TEXTS = [("The Eiffel Tower is in the city of Paris, and Paris is large", ["Eiffel Tower", "Paris", "The", "large", "is in"]),
         ("  two  spaces\nand lines", ["two", "spaces\nand", "lines"]),
         ("Zürich, naïve café: 東京 は Привет 🙂 end", ["Zürich", "naïve", "東京", "京", "Привет", "🙂", "end"]),
         ("I'm 12345 don't", ["I'm", "234", "don't"])]


def main():
    out = []
    for name in FAMILIES:
        tok = Tokenizer.from_str(json.dumps(json.loads((HERE / f"tokenizer/families/{name}.json").read_text())["tokenizer"]))
        for text, spans in TEXTS:
            e = tok.encode(text, add_special_tokens=False)
            rows = []
            for s in spans:
                a = text.index(s)
                b = a + len(s)
                hit = [i for i, (f, t) in enumerate(e.offsets) if f < b and t > a and e.tokens[i] != "▁"]
                rows.append([len(text[:a].encode()), len(text[:b].encode()), hit[0], hit[-1] + 1])
            out.append({"family": name, "text": text, "ids": e.ids, "spans": rows})
    lines = ",\n".join(json.dumps(x, ensure_ascii=False, separators=(",", ":")) for x in out)
    (HERE / "tokenizer/offsets.json").write_text("[\n" + lines + "\n]\n")


main()
