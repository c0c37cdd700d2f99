"""A planted induction circuit as a GPT-2 of two layers, whose answers are known by arithmetic.

    python3 tests/golden/make_planted.py        writes tests/golden/planted (numpy only)

d = 32 in four blocks of 8: token, position, previous token, out. Embeddings are one-hot. Layer 0, head 0 attends
from position i to i - 1 and writes that token into `previous`; layer 1, head 0 looks up the token in hand among
`previous` and writes the token found there into `out`, which the unembedding reads. Everything else is zero. All
values are small integers, exact in bfloat16. The tokenizer is that of the family models: ids 8 and up embed to zero.
"""
import json, os, shutil, struct
import numpy as np

D, E, H, V, P, L, A = 32, 8, 4, 264, 8, 2, 4.0
HERE = os.path.dirname(os.path.abspath(__file__))
TOK, POS, PREV, OUT = (slice(8 * i, 8 * i + 8) for i in range(4))
I = np.eye(8)


def block(q, k, v, o):
    """c_attn [d][3d] and c_proj [d][d], input-major, with head 0 as given ([d][e] each, o [e][d])."""
    attn, proj = np.zeros((D, 3 * D)), np.zeros((D, D))
    for part, w in enumerate((q, k, v)):
        attn[:, part * D:part * D + E] = w
    proj[:E] = o
    return attn, proj


def rows(where, w):
    m = np.zeros((D, 8))
    m[where] = w
    return m


def tensors():
    t = {"transformer.wte.weight": np.zeros((V, D)), "transformer.wpe.weight": np.zeros((P, D)), "lm_head.weight": np.zeros((V, D))}
    t["transformer.wte.weight"][:8, TOK] = I
    t["transformer.wpe.weight"][:, POS] = I
    t["lm_head.weight"][:8, OUT] = 5 * I
    layers = [block(rows(POS, A * np.eye(8, k=-1)), rows(POS, A * I), rows(TOK, I), rows(PREV, I).T),
              block(rows(TOK, A * I), rows(PREV, A * I), rows(TOK, I), rows(OUT, I).T)]
    for l, (attn, proj) in enumerate(layers):
        h = f"transformer.h.{l}."
        t |= {h + "attn.c_attn.weight": attn, h + "attn.c_attn.bias": np.zeros(3 * D), h + "attn.c_proj.weight": proj,
              h + "attn.c_proj.bias": np.zeros(D), h + "mlp.c_fc.weight": np.zeros((D, 4)), h + "mlp.c_fc.bias": np.zeros(4),
              h + "mlp.c_proj.weight": np.zeros((4, D)), h + "mlp.c_proj.bias": np.zeros(D)}
        for n in ("ln_1", "ln_2"):
            t |= {h + n + ".weight": np.ones(D), h + n + ".bias": np.zeros(D)}
    return t | {"transformer.ln_f.weight": np.ones(D), "transformer.ln_f.bias": np.zeros(D)}


def main():
    folder = f"{HERE}/planted"
    os.makedirs(folder, exist_ok=True)
    with open(f"{HERE}/families/gpt2/config.json") as f:
        config = json.load(f)
    config |= {"n_embd": D, "n_head": H, "n_layer": L, "n_inner": 4, "n_positions": P, "vocab_size": V, "tie_word_embeddings": False,
               "dtype": "bfloat16"}
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config, f, indent=1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{HERE}/families/gpt2/{name}", folder)
    head, data = {}, b""
    for name, w in tensors().items():
        bits = np.ascontiguousarray(w, "<f4").view("<u4")
        assert not (bits & 0xffff).any(), name
        raw = (bits >> 16).astype("<u2").tobytes()
        head[name] = {"dtype": "BF16", "shape": list(w.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{folder}/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


main()
