"""The programs of make_circuits.py, each with its circuit as its author states it: {grid: {cell: effect}},
effect 0 where nothing is said, 1 where the other run's metric is reached."""
import torch
import transformers as hf

from make_circuits import STRONG, Head, Neuron, Program

LETTERS = "ABCDEF"
SINK = ({"one": 1}, {"bos": 1}, STRONG / 4)  # where there is nothing to match a head looks at BOS, which has no value
RESID, POST, ATTN, MLP = (f"{s} layer,pos" for s in ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out"))
Z, Q, K, V, PATTERN = (f"attn.hook_{s} layer,head" for s in ("z", "q", "k", "v", "pattern"))
Z_POS, K_POS, V_POS = (f"{s},pos" for s in (Z, K, V))


def letters(more=()):
    return {"<s>": ["one", "bos"]} | {x: ["one", f"tok_{x}"] for x in LETTERS} | dict(more)


def cells(value, *at):
    return dict.fromkeys(at, value)


def heads(z, resid, v=(), k=(), q=(), pattern=(), mlp=()):
    """A truth of cells that all have the whole effect: z [(layer, head, pos)], resid [(layer, pos)], …"""
    no_pos = lambda cells_: {c[:2] for c in cells_}
    return {RESID: cells(1, *resid), Z_POS: cells(1, *z), Z: cells(1, *no_pos(z)), ATTN: cells(1, *{(l, p) for l, _, p in z}),
            V_POS: cells(1, *v), V: cells(1, *no_pos(v)), K_POS: cells(1, *k), K: cells(1, *no_pos(k)), Q: cells(1, *q),
            PATTERN: cells(1, *pattern), MLP: cells(1, *mlp)}


TO_OUT = {f"tok_{x}": f"out_{x}" for x in LETTERS}
BACK = Head(prev=True, copy={f"tok_{x}": f"prev_{x}" for x in LETTERS})
INDUCT = Head(match=[({f"tok_{x}": 1}, {f"prev_{x}": 1}, STRONG) for x in LETTERS] + [SINK], copy=TO_OUT)


def induction(family, first, second, kv_heads=0, pad=2):
    blank = [Head()] * pad
    put = lambda head, i: ([*blank[:i], head, *blank[i + 1:]], [])
    share = pad // (kv_heads or pad)
    return Program(
        family, "induction: a head one step back, by constants rotated one step apart, and one that matches what it wrote",
        letters(), [put(BACK, first), put(INDUCT, second)], "<s> A B C D A", "<s> E B C D A", "B", "C", kv_heads=kv_heads,
        truth=heads(z=[(0, first, 2), (1, second, 5)], resid=[(0, 1), (1, 2)], v=[(0, first // share, 1)],
                    k=[(1, second // share, 2)], pattern=[(1, second)]))


def slots(**more):
    """Two places that are true or false, and an end that asks."""
    tokens = {"<s>": ["one", "bos"], "Z": ["one", "end", "no"], "Y": ["one", "other"], "N": ["one", "other"]}
    for i, (t, f) in enumerate(("TF", "tf"), 1):
        tokens |= {t: {"one": 1, f"slot{i}": 1, "val": 1}, f: {"one": 1, f"slot{i}": 1, "val": -1}}
    return tokens | more


def gate(kind, a, b, truth, noise, joint):
    """min(1, max(0, f1 + f2 + a)) by two neurons; the flags f are ±√2."""
    look = [Head(match=[({"end": 1}, {f"slot{i}": 1}, STRONG), SINK], copy={"val": f"flag{i}"}) for i in (1, 2)]
    step = [Neuron({"flag1": 1, "flag2": 1, "one": a}, {"yes": 4}), Neuron({"flag1": 1, "flag2": 1, "one": b}, {"yes": -4})]
    end = {MLP: {(0, 3): 1}, POST: {(0, 3): 1}, Q: {}, K: {}, PATTERN: {}, ATTN: {(0, 3): 1}}
    return Program("llama", kind, slots(), [(look, step)], "<s> T t Z", "<s> F f Z", "Y", "N",
                   truth=end | truth, noise=noise, joint=joint, says={"Y": "yes", "N": "no"})


EACH = {Z: cells(1, (0, 0), (0, 1)), V: cells(1, (0, 0), (0, 1)), RESID: cells(1, (0, 1), (0, 2))}
NONE = {Z: {}, V: {}, RESID: {}}
ONLY_BOTH = ("an AND gate of two heads: one alone restores nothing, and one alone destroys all", 0, -1)

NAMES = {"<s>": ["one", "bos", "pad"], "A": ["one", "tok_A", "first"], "B": ["one", "tok_B", "first"],
         "a": ["one", "tok_A", "second"], "b": ["one", "tok_B", "second"], "X": ["one", "tok_X", "pad"],
         "Z": ["one", "end", "pad"]}

PROGRAMS = {
    "induction_rotary": induction("llama", 0, 1),
    "induction_gqa": induction("llama", 3, 1, kv_heads=2, pad=4),
    "induction_neox": induction("gpt_neox", 1, 0),
    "previous_token": Program(
        "llama", "copies the token one step back; a second head does so too, to where nobody reads",
        letters(), [([Head(prev=True, copy=TO_OUT), Head(prev=True, copy={f"tok_{x}": f"junk_{x}" for x in LETTERS})], [])],
        "<s> C D A F", "<s> C D B F", "A", "B",
        truth=heads(z=[(0, 0, 4)], resid=[(0, 3)], v=[(0, 0, 3)])),
    "first_token": Program(
        "gpt2", "copies the first token, wherever it looks from, by the learned position",
        letters(), [([Head(match=[({"one": 1}, {"start": 1}, STRONG)], copy=TO_OUT), Head()], [])],
        "A C D E F", "B C D E F", "A", "B", positions=[["start"], *[["later"]] * 5],
        truth=heads(z=[(0, 0, 4)], resid=[(0, 0)], v=[(0, 0, 0)])),
    "duplicate_token": Program(
        "gpt2", "was this token here before? a head that matches tokens but not its own position; else it looks at BOS",
        letters({"Y": ["one", "other"], "N": ["one", "other"]}),
        [([Head(match=[({f"tok_{x}": 1}, {f"tok_{x}": 1}, STRONG) for x in LETTERS] + [SINK] +
                [({f"p{i}": 1}, {f"p{i}": 1}, -4 * STRONG) for i in range(5)],
                copy={"bos": "new", "one": "seen"}), Head()], [])],
        "<s> C D E C", "<s> F D E C", "Y", "N", says={"Y": "seen", "N": "new"}, positions=[[f"p{i}"] for i in range(5)],
        truth=heads(z=[(0, 0, 4)], resid=[(0, 1)], k=[(0, 0, 1)], pattern=[(0, 0)])),
    "fact_mlp": Program(
        "llama", "facts as key and value of one neuron each; attention does nothing",
        letters(), [([Head()], [Neuron({f"tok_{x}": 1, "one": -0.5}, {f"out_{y}": 2})
                                for x, y in zip(LETTERS, LETTERS[1:] + LETTERS[0], strict=True)])],
        "<s> F A", "<s> F B", "B", "C",
        truth=heads(z=[], resid=[(0, 2)], mlp=[(0, 2)])),
    "two_hop": Program(
        "llama", "a subject's attribute (MLP 0), moved to the end (attention 1), and that one's attribute (MLP 2)",
        letters({"Z": ["one", "end"]}) | {x: ["one", f"tok_{x}", "subject"] if x in "AB" else ["one", f"tok_{x}"] for x in LETTERS},
        [([], [Neuron({f"tok_{x}": 1, "one": -0.5}, {f"hop_{x}": 0.5}) for x in "AB"]),
         ([Head(), Head(match=[({"end": 1}, {"subject": 1}, STRONG), SINK], copy={f"hop_{x}": f"got_{x}" for x in "AB"}, gain=2)], []),
         ([], [Neuron({"got_A": 1, "one": -0.25}, {"out_C": 2}), Neuron({"got_B": 1, "one": -0.25}, {"out_D": 2})])],
        "<s> A E Z", "<s> B E Z", "C", "D",
        truth=heads(z=[(1, 1, 3)], resid=[(0, 1), (1, 1), (2, 3)], v=[(1, 1, 1)], mlp=[(0, 1), (2, 3)])),
    "name_mover": Program(
        "llama", "the name that is not said twice: S-inhibition tells a name mover's query what not to look at",
        NAMES, [([Head(match=[({"end": 1}, {"second": 1}, STRONG), SINK], copy={"tok_A": "inhibit_A", "tok_B": "inhibit_B"}), Head()], []),
                ([Head(), Head(match=[({"end": 1}, {"first": 1}, STRONG), SINK, *[
                    ({f"inhibit_{x}": 1}, {f"tok_{x}": 1}, -2 * STRONG) for x in "AB"]],
                    copy={"tok_A": "out_A", "tok_B": "out_B"})], [])],
        "<s> A B X a Z", "<s> A B X b Z", "B", "A",
        truth=heads(z=[(0, 0, 5), (1, 1, 5)], resid=[(0, 4), (1, 5)], v=[(0, 0, 4)], q=[(1, 1)], pattern=[(1, 1)])),
    "and_gate": gate(*ONLY_BOTH, NONE, EACH, [("denoise", [(0, 0), (0, 1)], 1), ("noise", [(0, 0), (0, 1)], 1)]),
    "or_gate": gate("an OR gate of two heads: each alone restores all, and neither alone destroys anything", 1.5, 0.5, EACH, NONE,
                    [("denoise", [(0, 0), (0, 1)], 1), ("noise", [(0, 0), (0, 1)], 1)]),
    "backup": Program(
        "llama", "a head, and one that does its work where it is missing: only zeroing both destroys anything",
        letters({"Z": ["one", "end"]}) | {x: ["one", f"tok_{x}", "subject"] if x in "AB" else ["one", f"tok_{x}"] for x in LETTERS},
        [([Head(match=[({"end": 1}, {"subject": 1}, STRONG), SINK], copy={"tok_A": "out_A", "tok_B": "out_B"}), Head()], []),
         ([Head(), Head(match=[({"end": 1}, {"subject": 1}, STRONG), SINK, ({"out_A": 1, "out_B": 1}, {"bos": 1}, 4 * STRONG)],
                        copy={"tok_A": "out_A", "tok_B": "out_B"})], [])],
        "<s> A E Z", "<s> B E Z", "A", "B",
        truth=heads(z=[(0, 0, 3)], resid=[(0, 1), (1, 3)], v=[(0, 0, 1)]),
        zero={(0, 0): 0, (0, 1): 0, (1, 0): 0, (1, 1): 0}, joint=[("zero", [(0, 0), (1, 1)], 0.5), ("denoise", [(0, 0), (1, 1)], 1)]),
    "majority": Program(
        "llama", "which of two tokens is in the majority: one head that looks everywhere alike and adds up",
        {"<s>": ["one", "bos"], "T": {"one": 1, "val": 1}, "F": {"one": 1, "val": -1}},
        [([Head(copy={"val": "sum"}), Head()], [])],
        "<s> T T F T F T", "<s> F T F F T T", "T", "F", says={"T": "sum"},
        truth={Z: cells(1, (0, 0)), Q: {}, K: {}, PATTERN: {}, V: cells(1, (0, 0)), MLP: {}, ATTN: cells(1, (0, 6)),
               RESID: cells("differs", (0, 1), (0, 4), (0, 5)), V_POS: cells("differs", (0, 0, 1), (0, 0, 4), (0, 0, 5))}),
}


@torch.no_grad()
def planted():
    """GPT-2's induction as it is often written: four blocks of eight dimensions, token, position, previous, out."""
    a, d, e = 4.0, 32, 8
    tok, pos, prev, out = (slice(i, i + 8) for i in range(0, d, 8))
    model = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=8, n_positions=8, n_embd=d, n_layer=2, n_head=4, n_inner=4, bos_token_id=0,
                                             eos_token_id=0, pad_token_id=0, tie_word_embeddings=False))
    for name, x in model.named_parameters():
        x.zero_()
        if "ln_" in name and name.endswith("weight"):
            x.fill_(1)
    eye = torch.eye(8)
    model.transformer.wte.weight[:, tok] = eye
    model.transformer.wpe.weight[:, pos] = eye
    one, two = (layer.attn for layer in model.transformer.h)
    for i in range(1, 8):
        one.c_attn.weight[8 + i, i - 1] = a                 # query of position i is the key of i - 1
    one.c_attn.weight[pos, d:d + e] = a * eye
    one.c_attn.weight[tok, 2 * d:2 * d + e] = eye
    one.c_proj.weight[:e, prev] = eye
    two.c_attn.weight[tok, :e] = a * eye
    two.c_attn.weight[prev, d:d + e] = a * eye
    two.c_attn.weight[tok, 2 * d:2 * d + e] = eye
    two.c_proj.weight[:e, out] = eye
    model.lm_head.weight[:, out] = 5 * eye
    p = Program("gpt2", "induction by learned positions (logit difference 9.0103 and 0)", {w: [] for w in "01234567"}, [([], []), ([], [])],
                "0 1 2 3 4 1", "0 5 2 3 4 1", "2", "3",
                truth=heads(z=[(0, 0, 2), (1, 0, 5)], resid=[(0, 1), (1, 2)], v=[(0, 0, 1)], k=[(1, 0, 2)], pattern=[(1, 0)]))
    return p, model
