#!/usr/bin/env python3
"""Make the tiny reference models in tests/golden/families/ and what they must compute.

For each family of core/arch.def a random model of some twenty thousand parameters. transformers' own
implementation runs it in float64 and gives logits, the activations its modules show, and the gradients
of one loss with respect to all weights. A second forward, written out below from the formulas, must
agree in all of these to 1e-10; it has every hook of core/hook.def, which no implementation shows, and
from it come the expected values and gradients. Only then is anything written.

    python3 tests/golden/make_families.py [name ...]      versions: tests/parity/requirements.txt
"""
import contextlib
import copy
import importlib
import json
import math
import os
import shutil
import sys
from dataclasses import dataclass, field

import gguf
import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import make_tiny as tiny
from make_tiny import BOS, EOS, SPECIAL, loss_of, relative, same, write_json

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
Q = gguf.GGMLQuantizationType
VOCAB = 264
LENGTHS = (12, 7)  # positions of the two sequences; windows are 4 or 5


@dataclass
class Case:
    name: str           # of the folder
    family: str         # our word
    config: object
    seed: int
    dtype: torch.dtype = torch.float32
    shard: str = "1GB"
    twin: object = None       # element type of a GGUF twin's matrices
    only_logits: bool = False  # a variant: nothing but logits is kept
    held: bool = False         # as the text model of one that sees; its config.json is the text_config
    bare: bool = False         # names without the family's prefix, as some checkpoints have them
    changes: dict = field(default_factory=dict)  # of config.json, as older files spell it; None deletes
    packed: bool = False       # weights are what the twin's packed blocks hold
    vocab: int = VOCAB         # for make_tiny.make_tokenizer
    add_bos: bool = False


SIZES = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS)
SIZES_MHA = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"} | {"num_attention_heads": 3}
SIZES_GPT = dict(vocab_size=VOCAB, n_embd=24, n_layer=2, n_head=4, n_positions=32, bos_token_id=BOS, eos_token_id=EOS)
ROPE = {"rope_type": "default", "rope_theta": 100.0}
# wavelengths 6.3, 16.7, 44, 118: left alone, blended, slowed, slowed
LLAMA3 = {"rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
SHORT, LONG = [1.0, 1.25], [1.5, 3.0]

CASES = [
    Case("gpt2", "gpt2", hf.GPT2Config(**SIZES_GPT), 11, twin=Q.F32),
    Case("gpt2_bare", "gpt2", hf.GPT2Config(**SIZES_GPT | {"n_inner": 40, "scale_attn_weights": False,
                                                           "tie_word_embeddings": False}), 12, bare=True, only_logits=True),
    Case("gpt_neox", "gpt_neox", hf.GPTNeoXConfig(**SIZES_MHA, rope_parameters=ROPE | {
        "partial_rotary_factor": 0.5, "rope_theta": 10000.0}), 21, twin=Q.F32),
    Case("gpt_neox_serial", "gpt_neox", hf.GPTNeoXConfig(
        **SIZES_MHA, use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new", tie_word_embeddings=True,
        rope_parameters=ROPE | {"partial_rotary_factor": 0.25}), 22, only_logits=True,
        changes={"rope_parameters": None, "rotary_pct": 0.25, "rotary_emb_base": 100}),
    Case("gptj", "gptj", hf.GPTJConfig(**SIZES_GPT | {"n_head": 3}, rotary_dim=4, n_inner=40), 31, twin=Q.F32),
    Case("llama", "llama", hf.LlamaConfig(**SIZES, head_dim=8, attention_bias=True, rope_parameters=LLAMA3), 41, twin=Q.F32),
    Case("llama_linear", "llama", hf.LlamaConfig(**SIZES, head_dim=8, tie_word_embeddings=True,
                                                 rope_parameters=ROPE | {"rope_type": "linear", "factor": 2.0}), 42,
         twin=Q.F16, only_logits=True,
         changes={"rope_parameters": None, "rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    Case("mistral", "mistral", hf.MistralConfig(**SIZES, head_dim=8, sliding_window=4, rope_parameters=ROPE), 51),
    Case("qwen2", "qwen2", hf.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1,
                                          rope_parameters=ROPE, tie_word_embeddings=True), 61, twin=Q.F16,
         changes={"layer_types": None}),
    Case("qwen3", "qwen3", hf.Qwen3Config(**SIZES, head_dim=8, rope_parameters=ROPE), 71, dtype=torch.bfloat16),
    Case("qwen3_gguf", "qwen3", hf.Qwen3Config(**SIZES, head_dim=8, attention_bias=True, rope_parameters=ROPE), 72, twin=Q.F16,
         only_logits=True),
    Case("gemma2", "gemma2", hf.Gemma2Config(
        **SIZES, head_dim=8, query_pre_attn_scalar=6, sliding_window=4, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0, rope_parameters=ROPE), 81, twin=Q.F32),
    Case("gemma2_bf16", "gemma2", hf.Gemma2Config(
        **SIZES, head_dim=8, query_pre_attn_scalar=8, sliding_window=5, attn_logit_softcapping=None,
        final_logit_softcapping=None, rope_parameters=ROPE), 82, dtype=torch.bfloat16, only_logits=True,
        changes={"rope_parameters": None, "rope_theta": 100.0, "layer_types": None}),
    Case("gemma3", "gemma3", hf.Gemma3TextConfig(
        **SIZES | {"num_hidden_layers": 3, "hidden_size": 20, "intermediate_size": 24}, head_dim=6, query_pre_attn_scalar=5, sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"], rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 400.0}}), 91, twin=Q.F32),
    Case("gemma3_classic", "gemma3", hf.Gemma3TextConfig(
        **SIZES | {"num_hidden_layers": 7}, head_dim=8, query_pre_attn_scalar=8, sliding_window=5, rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}}), 92, twin=Q.F16,
         only_logits=True, changes={"rope_parameters": None, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                                    "layer_types": None, "_sliding_window_pattern": None, "sliding_window_pattern": 6}),
    # As hub files are: silent about what equals the class's defaults, eight heads and four of keys and values.
    Case("gemma3_held", "gemma3", hf.Gemma3TextConfig(
        **SIZES | {"hidden_size": 24, "intermediate_size": 24, "num_attention_heads": 8, "num_key_value_heads": 4}, head_dim=4,
        query_pre_attn_scalar=5, sliding_window=4, layer_types=["sliding_attention", "sliding_attention"], rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}}), 93, held=True, only_logits=True,
         changes={"rope_parameters": None, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "layer_types": None,
                  "num_attention_heads": None, "num_key_value_heads": None, "tie_word_embeddings": None, "rms_norm_eps": None,
                  "_sliding_window_pattern": None, "hidden_activation": None, "attention_bias": None}),
    Case("olmo2", "olmo2", hf.Olmo2Config(**SIZES, rope_parameters=ROPE), 101, shard="40KB", twin=Q.F32),
    Case("phi3", "phi3", hf.Phi3Config(
        **SIZES | {"hidden_size": 32}, sliding_window=5, original_max_position_embeddings=32, rope_parameters=ROPE | {
            "rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "partial_rotary_factor": 0.5}), 111,
         twin=Q.F32),
    # Rows of whole blocks of 32, in each layout a GGUF has of its own.
    Case("gpt2_packed", "gpt2", hf.GPT2Config(**SIZES_GPT | {"n_embd": 32}), 121, twin=Q.Q8_0, packed=True, only_logits=True),
    Case("gpt_neox_packed", "gpt_neox", hf.GPTNeoXConfig(
        **SIZES_MHA | {"hidden_size": 32, "num_attention_heads": 4},
        rope_parameters=ROPE | {"partial_rotary_factor": 0.5, "rope_theta": 10000.0}), 122, twin=Q.Q4_0, packed=True, only_logits=True),
    Case("gptj_packed", "gptj", hf.GPTJConfig(**SIZES_GPT | {"n_embd": 32}, rotary_dim=4, n_inner=64), 123, twin=Q.Q5_1,
         packed=True, only_logits=True),
    Case("gemma2_packed", "gemma2", hf.Gemma2Config(
        **SIZES | {"hidden_size": 32, "intermediate_size": 64}, head_dim=8, query_pre_attn_scalar=8, sliding_window=4,
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0, rope_parameters=ROPE), 124, twin=Q.Q4_1, packed=True,
         only_logits=True),
]


# ---- the files of a model ------------------------------------------------------------------------

def make_weights(case):
    """Gaussian matrices large enough that nothing is degenerate; gains and biases neither 0 nor 1. In
    float32 files the values are such that F16 holds them exactly, so that all twins are one model."""
    torch.manual_seed(case.seed)
    config = copy.deepcopy(case.config)
    model = hf.AutoModelForCausalLM.from_config(holder(config) if case.held else config).to(case.dtype)
    less_one = case.family in ("gemma2", "gemma3")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                embedding = any(word in name for word in ("embed", "wte", "wpe"))
                value = torch.randn(p.shape) * (0.4 if embedding else 0.25)
            elif name.endswith(".bias"):
                value = 0.3 * torch.randn(p.shape)
            else:
                value = (0 if less_one else 1) + 0.3 * torch.randn(p.shape)
            p.copy_(as_packed(case, name, value) if case.packed and p.dim() == 2 else value.half().float())
    return model


def holder(config):
    """A model with the smallest eyes, in which that text model is."""
    eyes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
    return hf.Gemma3Config(text_config=config.to_dict(), vision_config=eyes, mm_tokens_per_image=4)


def as_packed(case, name, value):
    """The values that are left when a matrix has been packed along the rows of its GGUF form."""
    rows = np.ascontiguousarray(value.T if transposed(case, name) else value)
    rows = gguf.dequantize(gguf.quantize(rows, case.twin), case.twin)
    return torch.from_numpy(np.ascontiguousarray(rows.T if transposed(case, name) else rows))


def write_config(case, folder):
    config = json.load(open(f"{folder}/config.json"))
    config.pop("transformers_version", None)
    described = config["text_config"] if case.held else config
    for key, value in case.changes.items():
        if value is None:
            described.pop(key, None)
        else:
            described[key] = value
    write_json(f"{folder}/config.json", config)


def write_tokenizer(case, tok, folder):
    write_json(f"{folder}/generation_config.json",
               {"bos_token_id": BOS, "eos_token_id": [EOS, 0], "pad_token_id": EOS, "do_sample": False})
    tok.save(f"{folder}/tokenizer.json", pretty=False)
    write_json(f"{folder}/tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False, "bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS],
        "pad_token": SPECIAL[EOS], "unk_token": SPECIAL[0], "clean_up_tokenization_spaces": False,
        "model_max_length": 64, "tokenizer_class": "PreTrainedTokenizerFast"})


def write_bare(folder):
    """As old checkpoints are on the hub: no prefix, and among the weights a causal mask, of numbers or of
    bytes, and the number that hides."""
    path = f"{folder}/model.safetensors"
    bare = {name.removeprefix("transformer."): value for name, value in load_file(path).items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
    bare["h.1.attn.bias"] = bare["h.0.attn.bias"].byte()
    bare["h.1.attn.masked_bias"] = torch.tensor(-1e4, dtype=torch.float16)
    save_file(bare, path, metadata={"format": "pt"})


def stored_tensors(folder):
    """{name in the files: tensor}"""
    out = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith("model") and name.endswith(".safetensors"):
            out |= load_file(f"{folder}/{name}")
    return out


# ---- GGUF twins, as llama.cpp's convert_hf_to_gguf.py makes them ----------------------------------

def describe_gguf(case, w):
    c, family = case.config, case.family
    d = description(case)
    w.add_vocab_size(VOCAB)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(d.m)
    w.add_head_count(d.H)
    w.add_file_type(0 if case.twin == Q.F32 else 1)
    (w.add_layer_norm_eps if d.norm == "layer" else w.add_layer_norm_rms_eps)(d.eps)
    if d.norm == "rms":
        w.add_head_count_kv(d.G)
    if hasattr(c, "head_dim"):
        w.add_key_length(d.e)
        w.add_value_length(d.e)
    if family == "gpt_neox":
        w.add_parallel_residual(c.use_parallel_residual)
    if family in ("gpt_neox", "gptj", "phi3", "llama"):
        w.add_rope_dimension_count(2 * len(d.freqs(0)))
    rope = getattr(c, "rope_parameters", None) or {}
    if family == "gemma3":
        w.add_rope_freq_base(rope["full_attention"]["rope_theta"])
        if case.name != "gemma3_classic":  # which is what readers assume
            w.add_float32("gemma3.rope.freq_base_swa", rope["sliding_attention"]["rope_theta"])
            w.add_array("gemma3.attention.sliding_window_pattern", [t == "sliding_attention" for t in c.layer_types])
        rope = rope["full_attention"]
    elif rope and family != "gpt_neox":
        w.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "longrope":
        w.add_rope_scaling_orig_ctx_len(c.original_max_position_embeddings)
        w.add_rope_scaling_attn_factors(d.attention)
    if getattr(c, "sliding_window", None):
        w.add_sliding_window(c.sliding_window)
    if family == "qwen2":
        w.add_array("qwen2.attention.sliding_window_pattern", [t == "sliding_attention" for t in c.layer_types])
    if d.scale != d.e ** -0.5:
        w.add_attention_scale(d.scale)  # llama.cpp knows Gemma's by the number of layers instead
    if family == "gemma2":
        w.add_attn_logit_softcapping(c.attn_logit_softcapping)
        w.add_final_logit_softcapping(c.final_logit_softcapping)


def extra_tensors(case):
    rope = getattr(case.config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return {"rope_factors_long.weight": rope["long_factor"], "rope_factors_short.weight": rope["short_factor"]}
    if rope.get("rope_type") == "llama3":
        plain = rope["rope_theta"] ** -(np.arange(0, case.config.head_dim, 2) / case.config.head_dim)
        return {"rope_freqs.weight": (plain / description(case).freqs(0).numpy()).tolist()}
    return {}


def permuted(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unwoven(w, heads):
    parts = w.reshape(heads, 3, w.shape[0] // heads // 3, *w.shape[1:])
    return np.concatenate([parts[:, i].reshape(-1, *w.shape[1:]) for i in range(3)])


def transposed(case, name):
    return case.family == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))


def as_gguf(case, name, value):
    d = description(case)
    if case.family == "llama" and ".q_proj." in name:
        return permuted(value, d.H)
    if case.family == "llama" and ".k_proj." in name:
        return permuted(value, d.G)
    if transposed(case, name):
        return value.T
    if case.family == "gpt_neox" and ".query_key_value." in name:
        return unwoven(value, d.H)
    if case.family in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return value + 1
    return value


def write_gguf(case, tok, folder, path):
    arch = {"gpt_neox": "gptneox"}.get(case.family, case.family)
    number = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    names = gguf.get_tensor_name_map(number, case.config.num_hidden_layers)
    w = gguf.GGUFWriter(path, arch)
    w.add_name(case.name)
    describe_gguf(case, w)
    vocab = sorted(tok.get_vocab().items(), key=lambda item: item[1])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list([t for t, _ in vocab])
    w.add_token_types([3 if t in SPECIAL else 1 for t, _ in vocab])
    w.add_token_merges([" ".join(pair) for pair in json.loads(tok.to_str())["model"]["merges"]])
    w.add_bos_token_id(BOS)
    w.add_eos_token_id(EOS)
    w.add_pad_token_id(EOS)
    w.add_add_bos_token(False)
    for name, value in extra_tensors(case).items():
        w.add_tensor(name, np.array(value, dtype=np.float32))
    for name, tensor in stored_tensors(folder).items():
        value = np.ascontiguousarray(as_gguf(case, name, tensor.float().numpy()))
        t = Q.F32 if value.ndim == 1 else case.twin
        stored = gguf.quantize(value, t)
        assert not case.packed or np.array_equal(gguf.dequantize(stored, t), value), name
        w.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), stored, raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# ---- what a model is, in the letters of the project ------------------------------------------------

@dataclass
class Description:
    L: int
    H: int
    G: int
    e: int
    d: int
    m: int
    eps: float
    norm: str = "rms"
    offset: float = 0.0
    pre_norm: bool = True
    post_norm: bool = False
    parallel: bool = False
    one_norm: bool = False
    qk_norm: str = ""        # "head", "all"
    freqs: object = None     # layer → frequencies; None: learned positions
    adjacent: bool = False
    attention: float = 1.0   # factor of cosine and sine
    window: object = staticmethod(lambda layer: None)
    scale: float = 0.0
    cap: float | None = None
    act: object = None
    gated: bool = True
    embed_scale: float = 1.0
    final_cap: float | None = None


def plain_freqs(theta, dim):
    return theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def llama3_freqs(p, dim):
    freqs = plain_freqs(p["rope_theta"], dim)
    out = []
    for f in freqs.tolist():
        turns = p["original_max_position_embeddings"] * f / (2 * math.pi)
        low, high = p["low_freq_factor"], p["high_freq_factor"]
        keep = min(max((turns - low) / (high - low), 0.0), 1.0)
        out.append(f * (keep + (1 - keep) / p["factor"]))
    return torch.tensor(out, dtype=torch.float64)


def freqs_of(p, e, layer_type=None):
    if layer_type:
        p = p[layer_type]
    dim = int(e * p.get("partial_rotary_factor", 1.0))
    if p["rope_type"] == "llama3":
        return llama3_freqs(p, dim)
    plain = plain_freqs(p["rope_theta"], dim)
    if p["rope_type"] == "longrope":
        return plain / torch.tensor(p["short_factor"], dtype=torch.float64)
    return plain / (p["factor"] if p["rope_type"] == "linear" else 1.0)


def silu(x):
    return x * torch.sigmoid(x)


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def gelu_erf(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def description(case):
    c, family = case.config, case.family
    H, d = c.num_attention_heads, c.hidden_size
    e = getattr(c, "head_dim", None) or d // H
    out = Description(c.num_hidden_layers, H, getattr(c, "num_key_value_heads", H), e, d,
                      getattr(c, "intermediate_size", None) or getattr(c, "n_inner", None) or 4 * d,
                      next(getattr(c, k) for k in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon") if hasattr(c, k)),
                      scale=e ** -0.5, act=silu)
    types = getattr(c, "layer_types", None)
    if getattr(c, "sliding_window", None):
        out.window = lambda l: c.sliding_window if not types or types[l] == "sliding_attention" else None
    if family in ("gpt2", "gpt_neox", "gptj"):
        out.norm, out.gated = "layer", False
        out.act = gelu_erf if getattr(c, "hidden_act", "") == "gelu" else gelu_tanh
    if family == "gpt2" and not c.scale_attn_weights:
        out.scale = 1.0
    if family == "gpt_neox":
        out.parallel = c.use_parallel_residual
    if family == "gptj":
        out.parallel = out.one_norm = out.adjacent = True
        out.freqs = lambda l: plain_freqs(10000.0, c.rotary_dim)
    elif family == "gemma3":
        out.freqs = lambda l: freqs_of(c.rope_parameters, e, types[l])
    elif family != "gpt2":
        out.freqs = lambda l: freqs_of(c.rope_parameters, e)
    if family in ("gemma2", "gemma3"):
        out.offset, out.post_norm, out.act, out.embed_scale = 1.0, True, gelu_tanh, math.sqrt(d)
        out.scale, out.final_cap = c.query_pre_attn_scalar ** -0.5, c.final_logit_softcapping
        out.cap = c.attn_logit_softcapping if family == "gemma2" else None
    if family in ("qwen3", "gemma3"):
        out.qk_norm = "head"
    if family == "olmo2":
        out.pre_norm, out.post_norm, out.qk_norm = False, True, "all"
    if family == "phi3":
        stretch = c.max_position_embeddings / c.original_max_position_embeddings
        out.attention = math.sqrt(1 + math.log(stretch) / math.log(c.original_max_position_embeddings))
    return out


# ---- weights by role: matrices as [out][in], whatever the file does --------------------------------

def llama_parts(W, d, b):
    a, f = b + "self_attn.", b + "mlp."
    out = {k: W[a + k + "_proj.weight"] for k in "qkvo"}
    out |= {k + "_b": W.get(a + k + "_proj.bias") for k in "qkvo"}
    out |= {"gate": W[f + "gate_proj.weight"], "up": W[f + "up_proj.weight"], "down": W[f + "down_proj.weight"]}
    out |= {"q_norm": W.get(a + "q_norm.weight"), "k_norm": W.get(a + "k_norm.weight")}
    first, second = W.get(b + "input_layernorm.weight"), W[b + "post_attention_layernorm.weight"]
    if d.post_norm:
        return out | {"ln1": first, "ln1_post": second, "ln2": W.get(b + "pre_feedforward_layernorm.weight"),
                      "ln2_post": W[b + "post_feedforward_layernorm.weight"]}
    return out | {"ln1": first, "ln2": second}


def phi3_parts(W, d, b):
    q, k, v = W[b + "self_attn.qkv_proj.weight"].split([d.H * d.e, d.G * d.e, d.G * d.e])
    gate, up = W[b + "mlp.gate_up_proj.weight"].chunk(2)
    return {"q": q, "k": k, "v": v, "o": W[b + "self_attn.o_proj.weight"], "gate": gate, "up": up,
            "down": W[b + "mlp.down_proj.weight"], "ln1": W[b + "input_layernorm.weight"],
            "ln2": W[b + "post_attention_layernorm.weight"]}


def gpt2_parts(W, d, b):
    q, k, v = W[b + "attn.c_attn.weight"].T.chunk(3)
    q_b, k_b, v_b = W[b + "attn.c_attn.bias"].chunk(3)
    return {"q": q, "k": k, "v": v, "q_b": q_b, "k_b": k_b, "v_b": v_b,
            "o": W[b + "attn.c_proj.weight"].T, "o_b": W[b + "attn.c_proj.bias"],
            "up": W[b + "mlp.c_fc.weight"].T, "up_b": W[b + "mlp.c_fc.bias"],
            "down": W[b + "mlp.c_proj.weight"].T, "down_b": W[b + "mlp.c_proj.bias"],
            "ln1": W[b + "ln_1.weight"], "ln1_b": W[b + "ln_1.bias"],
            "ln2": W[b + "ln_2.weight"], "ln2_b": W[b + "ln_2.bias"]}


def neox_parts(W, d, b):
    out = {}
    weight, bias = W[b + "attention.query_key_value.weight"], W.get(b + "attention.query_key_value.bias")
    for i, k in enumerate("qkv"):
        out[k] = weight.reshape(d.H, 3, d.e, d.d)[:, i].reshape(d.H * d.e, d.d)
        out[k + "_b"] = None if bias is None else bias.reshape(d.H, 3, d.e)[:, i].reshape(d.H * d.e)
    for role, name in (("o", "attention.dense"), ("up", "mlp.dense_h_to_4h"), ("down", "mlp.dense_4h_to_h"),
                       ("ln1", "input_layernorm"), ("ln2", "post_attention_layernorm")):
        out |= {role: W[b + name + ".weight"], role + "_b": W.get(b + name + ".bias")}
    return out


def gptj_parts(W, d, b):
    return {"q": W[b + "attn.q_proj.weight"], "k": W[b + "attn.k_proj.weight"], "v": W[b + "attn.v_proj.weight"],
            "o": W[b + "attn.out_proj.weight"], "up": W[b + "mlp.fc_in.weight"], "up_b": W[b + "mlp.fc_in.bias"],
            "down": W[b + "mlp.fc_out.weight"], "down_b": W[b + "mlp.fc_out.bias"],
            "ln1": W[b + "ln_1.weight"], "ln1_b": W[b + "ln_1.bias"]}


PARTS = {"gpt2": (gpt2_parts, "transformer.h.{}."), "gpt_neox": (neox_parts, "gpt_neox.layers.{}."),
         "gptj": (gptj_parts, "transformer.h.{}."), "phi3": (phi3_parts, "model.layers.{}.")}
ENDS = {"gpt2": ("transformer.wte", "transformer.ln_f"), "gptj": ("transformer.wte", "transformer.ln_f"),
        "gpt_neox": ("gpt_neox.embed_in", "gpt_neox.final_layer_norm")}


# ---- the forward, written out ------------------------------------------------------------------------

def run_by_hand(case, W, ids, copies=False):
    """One sequence. W maps transformers' names to float64 tensors. `copies`: each head reads a copy
    of its own of the stream, so that gradients of the copies can be told apart."""
    d = description(case)
    P, H, G, e = len(ids), d.H, d.G, d.e
    parts, prefix = PARTS.get(case.family, (llama_parts, "model.layers.{}."))
    embed_name, final_name = ENDS.get(case.family, ("model.embed_tokens", "model.norm"))
    hooks = {}

    def hook(name, value):
        value = value * 1.0  # a node of its own, so that its gradient is that of what reads it
        value.retain_grad()
        hooks[name] = value
        return value

    def norm(x, gain, bias, name):
        """With its parts as hooks where it is named; over the last dimension."""
        centred = x - x.mean(-1, keepdim=True) if d.norm == "layer" else x
        scale = (centred.square().mean(-1, keepdim=True) + d.eps).sqrt()
        if name:
            scale = hook(name + ".hook_scale", scale)
        normalized = centred / scale
        if name:
            normalized = hook(name + ".hook_normalized", normalized)
        y = normalized * (d.offset + gain)
        return y if bias is None else y + bias

    def turn(x, layer):
        freqs = d.freqs(layer)
        angle = torch.arange(P, dtype=torch.float64)[:, None] * freqs
        cos, sin = d.attention * angle.cos()[:, None, :], d.attention * angle.sin()[:, None, :]
        n = len(freqs)
        if d.adjacent:
            a, b = x[..., 0:2 * n:2], x[..., 1:2 * n:2]
            turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
        else:
            a, b = x[..., :n], x[..., n:2 * n]
            turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        return torch.cat((turned, x[..., 2 * n:]), -1)

    def project(h, w, role, heads):
        """h [P,d], or [P,heads,d] where each head has its own copy → [P,heads,e]"""
        matrix, bias = w[role].reshape(heads, e, d.d), w.get(role + "_b")
        y = torch.einsum("phd,hed->phe", h, matrix) if h.dim() == 3 else torch.einsum("pd,hed->phe", h, matrix)
        return y if bias is None else y + bias.reshape(heads, e)

    def head_norm(x, gain, name):
        if d.qk_norm == "head":
            y = norm(x, gain, None, None)
        else:
            y = norm(x.reshape(P, -1), gain, None, None).reshape(x.shape)
        return hook(name, y)

    row, col = torch.arange(P)[:, None], torch.arange(P)[None, :]
    group = torch.arange(H) // (H // G)  # which key/value head each query head reads
    x = hook("hook_embed", W[embed_name + ".weight"][ids] * d.embed_scale)
    if d.freqs is None:
        x = x + hook("hook_pos_embed", W["transformer.wpe.weight"][:P])
    for l in range(d.L):
        b, w = f"blocks.{l}.", parts(W, d, prefix.format(l))
        x = hook(b + "hook_resid_pre", x)
        # what the branches read
        if copies:
            spread = x[:, None, :].expand(P, H, d.d)
            if G == H:
                spread = hook(b + "hook_attn_in", spread)
                read = [hook(b + f"hook_{k}_input", spread) for k in "qkv"]
            else:
                read = [hook(b + f"hook_{k}_input", x[:, None, :].expand(P, n, d.d)) for k, n in zip("qkv", (H, G, G))]
            if d.pre_norm:
                read = [norm(r, w["ln1"], w.get("ln1_b"), None) for r in read]
        else:
            read = [norm(x, w["ln1"], w.get("ln1_b"), b + "ln1") if d.pre_norm else x] * 3
        # attention
        q = hook(b + "attn.hook_q", project(read[0], w, "q", H))
        k = hook(b + "attn.hook_k", project(read[1], w, "k", G))
        v = hook(b + "attn.hook_v", project(read[2], w, "v", G))
        if d.qk_norm:
            q, k = (head_norm(q, w["q_norm"], b + "attn.hook_q_normed"), head_norm(k, w["k_norm"], b + "attn.hook_k_normed"))
        if d.freqs is not None:
            q, k = hook(b + "attn.hook_rot_q", turn(q, l)), hook(b + "attn.hook_rot_k", turn(k, l))
        score = torch.einsum("phe,khe->hpk", q, k[:, group]) * d.scale
        if d.cap:
            score = d.cap * torch.tanh(score / d.cap)
        hidden = col > row
        if d.window(l):
            hidden = hidden | (col <= row - d.window(l))
        score = hook(b + "attn.hook_attn_scores", score.masked_fill(hidden, -torch.inf))
        pattern = hook(b + "attn.hook_pattern", score.softmax(-1))
        z = hook(b + "attn.hook_z", torch.einsum("hpk,khe->phe", pattern, v[:, group]))
        result = hook(b + "attn.hook_result", torch.einsum("phe,dhe->phd", z, w["o"].reshape(d.d, H, e)))
        out = result.sum(1) if w.get("o_b") is None else result.sum(1) + w["o_b"]
        if d.post_norm:
            out = norm(out, w["ln1_post"], None, b + "ln1_post")
        attn_out = hook(b + "hook_attn_out", out)
        # MLP
        if not d.parallel:
            x = hook(b + "hook_resid_mid", x + attn_out)
        stream = hook(b + "hook_mlp_in", x)
        if d.one_norm:  # both branches read the same rows; a copy of the stream has a norm of its own
            h = norm(stream, w["ln1"], w.get("ln1_b"), None) if copies else read[0]
        elif d.pre_norm:
            h = norm(stream, w["ln2"], w.get("ln2_b"), b + "ln2")
        else:
            h = stream
        up = h @ w["up"].T
        if w.get("up_b") is not None:
            up = up + w["up_b"]
        if d.gated:
            gate, up = hook(b + "mlp.hook_pre", h @ w["gate"].T), hook(b + "mlp.hook_pre_linear", up)
            post = hook(b + "mlp.hook_post", d.act(gate) * up)
        else:
            post = hook(b + "mlp.hook_post", d.act(hook(b + "mlp.hook_pre", up)))
        out = post @ w["down"].T
        if w.get("down_b") is not None:
            out = out + w["down_b"]
        if d.post_norm:
            out = norm(out, w["ln2_post"], None, b + "ln2_post")
        mlp_out = hook(b + "hook_mlp_out", out)
        x = hook(b + "hook_resid_post", x + attn_out + mlp_out if d.parallel else x + mlp_out)
    x = hook("unembed.hook_in", norm(x, W[final_name + ".weight"], W.get(final_name + ".bias"), "ln_final"))
    logits = x @ (W[embed_name + ".weight"] if case.config.tie_word_embeddings else W["lm_head.weight"]).T
    if "lm_head.bias" in W:
        logits = logits + W["lm_head.bias"]
    logits = hook("unembed.hook_out", logits)
    return (d.final_cap * torch.tanh(logits / d.final_cap) if d.final_cap else logits), hooks


# ---- transformers in float64 ---------------------------------------------------------------------------

@contextlib.contextmanager
def float64_everywhere(model_type):
    """Where transformers says float32 it gets float64."""
    module = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    softmax, as_float = torch.nn.functional.softmax, torch.Tensor.float
    module.torch = tiny.Torch64()
    torch.nn.functional.softmax = lambda x, dim, dtype=None: softmax(x, dim=dim, dtype=torch.float64)
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        module.torch, torch.nn.functional.softmax, torch.Tensor.float = torch, softmax, as_float


def module_name(case):
    return {"gemma3_text": "gemma3"}.get(case.config.model_type, case.config.model_type)


def load(case, folder, dtype):
    """The committed files, as transformers reads them; in float64 with exact frequencies and scale."""
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    model.eval()
    if case.held:
        model = text_model(model)
    if dtype == torch.float64:
        make_exact(case, model)
    return model


def text_model(whole):
    """The text model inside, by itself; the whole, shown no picture, must say the same."""
    text = hf.Gemma3ForCausalLM(whole.config.text_config).eval()
    text.model, text.lm_head = whole.model.language_model, whole.lm_head
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    same("text model", text(input_ids=ids, use_cache=False).logits, whole(input_ids=ids, use_cache=False).logits, 1e-6)
    return text


def make_exact(case, model):
    d = description(case)
    for name, buffer in model.named_buffers():
        *path, leaf = name.split(".")
        owner = model.get_submodule(".".join(path))
        if leaf == "embed_scale":
            exact = torch.tensor(d.embed_scale, dtype=torch.float64)
        elif leaf == "embed_positions":
            angle = torch.arange(case.config.n_positions, dtype=torch.float64)[:, None] * d.freqs(0)
            exact = torch.cat((angle.sin(), angle.cos()), 1)
        elif leaf.endswith("inv_freq"):
            kind = leaf.removesuffix("inv_freq").removesuffix("original_").rstrip("_")
            exact = freqs_of(case.config.rope_parameters, d.e, kind or None)
        else:
            raise AssertionError(name)
        assert torch.allclose(buffer.double(), exact, rtol=1e-6, atol=1e-6), name
        owner._buffers[leaf] = exact


def seen_by_modules(case, model):
    """(module, "in" or "out" or index of its outputs, layer, {hook: value → the hook's tensor})"""
    d = description(case)
    heads = lambda n: (lambda v: v.reshape(v.shape[0], n, d.e))
    plain = lambda v: v

    def split(v):
        return v.split([d.H * d.e, d.G * d.e, d.G * d.e], -1)

    base = getattr(model, model.base_model_prefix)
    for l, layer in enumerate(base.h if hasattr(base, "h") else base.layers):
        sub = layer.get_submodule
        yield layer, "in", l, {"hook_resid_pre": plain}
        yield layer, "out", l, {"hook_resid_post": plain}
        if case.family == "gpt2":
            yield sub("attn.c_attn"), "out", l, {f"attn.hook_{k}": (lambda v, i=i: heads(d.H)(split(v)[i])) for i, k in enumerate("qkv")}
            yield sub("attn.c_proj"), "in", l, {"attn.hook_z": heads(d.H)}
            yield sub("attn.c_proj"), "out", l, {"hook_attn_out": plain}
            yield sub("attn"), 1, l, {"attn.hook_pattern": plain}
            yield sub("ln_2"), "in", l, {"hook_resid_mid": plain}
            yield sub("mlp.c_fc"), "out", l, {"mlp.hook_pre": plain}
            yield sub("mlp.c_proj"), "in", l, {"mlp.hook_post": plain}
            yield sub("mlp.c_proj"), "out", l, {"hook_mlp_out": plain}
        elif case.family == "gpt_neox":
            weave = lambda v, i: v.reshape(v.shape[0], d.H, 3, d.e)[:, :, i]
            yield sub("attention.query_key_value"), "out", l, {f"attn.hook_{k}": (lambda v, i=i: weave(v, i)) for i, k in enumerate("qkv")}
            yield sub("attention.dense"), "in", l, {"attn.hook_z": heads(d.H)}
            yield sub("attention.dense"), "out", l, {"hook_attn_out": plain}
            yield sub("attention"), 1, l, {"attn.hook_pattern": plain}
            yield sub("mlp.dense_h_to_4h"), "out", l, {"mlp.hook_pre": plain}
            yield sub("mlp.dense_4h_to_h"), "in", l, {"mlp.hook_post": plain}
            yield sub("mlp.dense_4h_to_h"), "out", l, {"hook_mlp_out": plain}
        elif case.family == "gptj":
            for k in "qkv":
                yield sub(f"attn.{k}_proj"), "out", l, {f"attn.hook_{k}": heads(d.H)}
            yield sub("attn.out_proj"), "in", l, {"attn.hook_z": heads(d.H)}
            yield sub("attn.out_proj"), "out", l, {"hook_attn_out": plain}
            yield sub("attn"), 1, l, {"attn.hook_pattern": plain}
            yield sub("mlp.fc_in"), "out", l, {"mlp.hook_pre": plain}
            yield sub("mlp.fc_out"), "in", l, {"mlp.hook_post": plain}
            yield sub("mlp.fc_out"), "out", l, {"hook_mlp_out": plain}
        else:
            if case.family == "phi3":
                ns = (d.H, d.G, d.G)
                yield sub("self_attn.qkv_proj"), "out", l, {
                    f"attn.hook_{k}": (lambda v, i=i: heads(ns[i])(split(v)[i])) for i, k in enumerate("qkv")}
                yield sub("mlp.gate_up_proj"), "out", l, {"mlp.hook_pre": lambda v: v.chunk(2, -1)[0],
                                                          "mlp.hook_pre_linear": lambda v: v.chunk(2, -1)[1]}
            else:
                for k, n in zip("qkv", (d.H, d.G, d.G)):
                    yield sub(f"self_attn.{k}_proj"), "out", l, {f"attn.hook_{k}": heads(n)}
                yield sub("mlp.gate_proj"), "out", l, {"mlp.hook_pre": plain}
                yield sub("mlp.up_proj"), "out", l, {"mlp.hook_pre_linear": plain}
            yield sub("self_attn.o_proj"), "in", l, {"attn.hook_z": heads(d.H)}
            yield sub("self_attn"), 1, l, {"attn.hook_pattern": plain}
            yield sub("mlp.down_proj"), "in", l, {"mlp.hook_post": plain}
            after = ("post_attention_layernorm", "post_feedforward_layernorm") if d.post_norm else ("self_attn.o_proj", "mlp.down_proj")
            yield sub(after[0]), "out", l, {"hook_attn_out": plain}
            yield sub(after[1]), "out", l, {"hook_mlp_out": plain}
            if d.qk_norm == "all":
                yield sub("self_attn.q_norm"), "out", l, {"attn.hook_q_normed": heads(d.H)}
                yield sub("self_attn.k_norm"), "out", l, {"attn.hook_k_normed": heads(d.G)}
            elif d.qk_norm:
                turned = plain if case.family == "qwen3" else (lambda v: v.swapaxes(0, 1))
                yield sub("self_attn.q_norm"), "out", l, {"attn.hook_q_normed": turned}
                yield sub("self_attn.k_norm"), "out", l, {"attn.hook_k_normed": turned}


def run_transformers(case, model, ids):
    """Logits, and (module's tensor, hooks it shows) for each module, still attached to the graph."""
    seen, handles = [], []

    def keep(value, layer, shows):
        value.retain_grad()
        seen.append((value, {f"blocks.{layer}.{hook}": part for hook, part in shows.items()}))

    for module, where, layer, shows in seen_by_modules(case, model):
        if where == "in":
            handles.append(module.register_forward_pre_hook(
                lambda _, args, kwargs, layer=layer, shows=shows: keep(args[0] if args else kwargs["hidden_states"], layer, shows),
                with_kwargs=True))
        else:
            pick = (lambda out: out[0] if isinstance(out, tuple) else out) if where == "out" else (lambda out: out[1])
            handles.append(module.register_forward_hook(
                lambda _, args, out, pick=pick, layer=layer, shows=shows: keep(pick(out), layer, shows)))
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    for h in handles:
        h.remove()
    return logits, seen


# ---- putting it together -------------------------------------------------------------------------------

COPIES = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")


def expected(case, folder):
    rng = np.random.default_rng(case.seed)
    seqs = [rng.integers(3, VOCAB, n).tolist() for n in LENGTHS]
    rows = [LENGTHS[0] - 4, LENGTHS[0] - 3, LENGTHS[0] - 2]
    store, worst32 = {}, 0.0
    with float64_everywhere(module_name(case)):
        model = load(case, folder, torch.float64)
        W = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
        for s, ids in enumerate(seqs):
            logits, theirs = run_transformers(case, model, ids)
            by_hand, ours = run_by_hand(case, W, ids)
            again, copies = run_by_hand(case, W, ids, copies=True)
            same("logits", logits, by_hand)
            same("logits with copies", logits, again)
            for value, shows in theirs:
                for name, part in shows.items():
                    same(name, part(value[0]), ours[name])
            store[f"s{s}.logits"] = logits
            if s == 1:
                for name, value in ours.items():
                    if name.endswith(("hook_resid_post", "hook_z", "hook_pattern")):
                        store[f"s1.{name}"] = value
                continue
            for name, value in ours.items():
                store[f"s0.{name}"] = value
            loss = loss_of(logits, ids, rows)
            loss.backward()
            loss_of(by_hand, ids, rows).backward()
            gradients(case, model, W, theirs, ours, store)
            for p in W.values():
                p.grad = None
            loss_of(again, ids, rows).backward()
            for name, value in copies.items():
                if name.endswith(COPIES) or f"s0.grad.{name}" not in store:
                    store[f"s0.grad.{name}"] = value.grad
    record = {"sequence": 0, "rows": rows, "targets": [seqs[0][p + 1] for p in rows], "value": loss.item()}
    # transformers as shipped, in float32: how far a good float32 engine is from the reference
    single = load(case, folder, torch.float32)
    for s, ids in enumerate(seqs):
        worst32 = max(worst32, relative(run_transformers(case, single, ids)[0], store[f"s{s}.logits"]))
    assert worst32 < 1e-5, worst32
    if case.only_logits:
        store = {name: value for name, value in store.items() if name.endswith("logits")}
    save_file({n: v.detach().to(torch.float32).contiguous() for n, v in store.items()}, f"{folder}/expected.safetensors")
    return {"family": case.family, "sequences": seqs, "loss": record, "only_logits": case.only_logits,
            "float32_error_of_transformers": float(f"{worst32:.2g}")}


def gradients(case, model, W, theirs, ours, store):
    for value, shows in theirs:
        for name, part in shows.items():
            # a tensor that is read in several ways is compared where it is one hook
            if len(shows) == 1:
                mine = ours[name].grad
                hidden = ours[name] == 0 if name.endswith("pattern") else torch.zeros_like(mine, dtype=torch.bool)
                same("grad " + name, part(value.grad[0]).masked_fill(hidden, 0), mine.masked_fill(hidden, 0))
    for name, value in ours.items():
        grad = value.grad
        if grad is None:  # nothing read that copy
            continue
        if name.endswith(("hook_pattern", "hook_attn_scores")):
            # entries that are masked are multiplied by zero: autograd gives them a gradient all the
            # same, and an engine does not form them
            hidden = ours[name.replace("attn_scores", "pattern")] == 0
            grad = grad.masked_fill(hidden, 0)
        store[f"s0.grad.{name}"] = grad
    in_files = {"lm_head.weight": "embed_out.weight"} if case.family == "gpt_neox" else {}
    for name, p in model.named_parameters():
        same("grad " + name, p.grad, W[name].grad)
        store[f"s0.grad.{in_files.get(name, name)}"] = p.grad


def check_twin(case, folder, path):
    """transformers' own GGUF reader finds the same model in it. (It reads no GPT-NeoX, GPT-J and OLMo 2,
    loses GPT-2's context and Qwen 3's head width, and does not undo the order of Llama's biases.)"""
    if case.family in ("qwen2", "gemma2", "gemma3", "phi3") or case.name == "llama_linear":
        twin = hf.AutoModelForCausalLM.from_pretrained(folder, gguf_file=os.path.basename(path), dtype=torch.float32).state_dict()
        own = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        for name, value in own.items():
            same(f"{path} {name}", twin[name], value, 1e-6)


def make(case):
    folder = os.path.join(OUT, case.name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    tok = tiny.make_tokenizer(case)
    make_weights(case).save_pretrained(folder, max_shard_size=case.shard)
    if os.path.exists(f"{folder}/generation_config.json"):
        os.remove(f"{folder}/generation_config.json")
    write_config(case, folder)
    if case.bare:
        write_bare(folder)
    write_tokenizer(case, tok, folder)
    if case.twin is not None:
        write_gguf(case, tok, folder, f"{folder}/twin.gguf")
        check_twin(case, folder, f"{folder}/twin.gguf")
    facts = expected(case, folder)
    facts["twin"] = case.twin is not None
    write_json(f"{folder}/expected.json", facts)
    sizes = {f: os.path.getsize(f"{folder}/{f}") // 1024 for f in sorted(os.listdir(folder)) if f.endswith(("safetensors", "gguf"))}
    print(f"{case.name}: loss {facts['loss']['value']:.6f}, float32 error {facts['float32_error_of_transformers']}, KiB {sizes}")


if __name__ == "__main__":
    wanted = sys.argv[1:] or [case.name for case in CASES]
    for each in CASES:
        if each.name in wanted:
            make(each)
