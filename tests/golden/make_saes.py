#!/usr/bin/env python3
"""Writes tests/golden/saes: tiny sparse autoencoders as sae-lens saves them, and what sae-lens computes with them.

    python tests/golden/make_saes.py        (with torch, safetensors and sae-lens 6)

One folder each: cfg.json and sae_weights.safetensors by SAE.save_model; and expected.safetensors with rows `x`,
their activations `a` = encode(x) and reconstructions `y` = decode(a). Thresholds, biases and scales are drawn, so
that every term counts. The weights of `topk_bf16` are stored as bfloat16 and computed with as float32.
"""
import json
import os

import torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE
from sae_lens.saes import gated_sae, jumprelu_sae, standard_sae, topk_sae

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "saes")
D, K, ROWS = 16, 24, 6
KINDS = {"standard": (standard_sae.StandardSAEConfig, standard_sae.StandardSAE),
         "jumprelu": (jumprelu_sae.JumpReLUSAEConfig, jumprelu_sae.JumpReLUSAE),
         "topk": (topk_sae.TopKSAEConfig, topk_sae.TopKSAE),
         "gated": (gated_sae.GatedSAEConfig, gated_sae.GatedSAE)}
FOLDERS = {"standard": ("standard", {}),
           "standard_centred": ("standard", {"apply_b_dec_to_input": False, "normalize_activations": "layer_norm"}),
           "jumprelu": ("jumprelu", {}),
           "jumprelu_rescaled": ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
           "topk": ("topk", {"k": 5}),
           "topk_bf16": ("topk", {"k": 7, "apply_b_dec_to_input": False}),
           "gated": ("gated", {})}


def make(name, kind, options, seed):
    g = torch.Generator().manual_seed(seed)
    cfg, cls = KINDS[kind]
    sae = cls(cfg(d_in=D, d_sae=K, **options))
    sae.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    sae.cfg.metadata.hook_head_index = None
    with torch.no_grad():
        for key, p in sae.named_parameters():
            size = {"W_enc": 0.3, "W_dec": 0.3}.get(key, 0.4)
            p.copy_(torch.randn(p.shape, generator=g) * size)
            if key == "threshold":
                p.abs_()
    folder = os.path.join(OUT, name)
    sae.save_model(folder)
    if name.endswith("bf16"):
        weights = os.path.join(folder, "sae_weights.safetensors")
        save_file({k: v.bfloat16() for k, v in load_file(weights).items()}, weights)
    sae = SAE.load_from_disk(folder)
    x = torch.randn(ROWS, D, generator=g) * 1.5 + 0.2
    with torch.no_grad():
        a = sae.encode(x)
        y = sae.decode(a)
    assert 0 < (a > 0).float().mean() < 1 and sae.W_enc.dtype == torch.float32
    save_file({"x": x, "a": a.contiguous(), "y": y.contiguous()}, os.path.join(folder, "expected.safetensors"))
    cfg = json.load(open(os.path.join(folder, "cfg.json")))
    print(name, (a > 0).float().mean().item(), cfg["architecture"])


for i, (name, (kind, options)) in enumerate(FOLDERS.items()):
    make(name, kind, options, 100 + i)
