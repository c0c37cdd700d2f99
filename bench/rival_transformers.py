#!/usr/bin/env python3
"""The same work by PyTorch + transformers on the same file, for comparison with bench_engine's lines.

    .cache/parity/bin/python bench/rival_transformers.py MODEL.gguf [threads]

Greedy decoding with its key/value cache, a prefill of 512, and a 30 x 20 patch grid the way peers do it:
one hooked forward pass per cell (a sample of cells is timed and scaled up). float32, medians.
"""
import os
import statistics
import sys
import time

import torch
from transformers import AutoModelForCausalLM

POSITIONS, SAMPLE, REPEATS = 20, 30, 5


def median_seconds(work, repeats=REPEATS):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def decode(model, ids, tokens):
    out = model(ids, use_cache=True)
    for _ in range(tokens):
        out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)


def patched_run(model, ids, layer, position, value):
    def hook(_module, args):
        args[0][:, position] = value
        return args
    handle = model.model.layers[layer].register_forward_pre_hook(hook)
    try:
        return model(ids, logits_to_keep=1).logits
    finally:
        handle.remove()


@torch.inference_mode()
def main():
    path, threads = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(os.path.dirname(path) or ".", gguf_file=os.path.basename(path),
                                                 dtype=torch.float32).eval()
    ids = (torch.arange(1024) * 7919 + 13).remainder(model.config.vocab_size - 2)[None]
    decode(model, ids[:, :8], 4)
    whole = median_seconds(lambda: decode(model, ids[:, :8], 32), 3)
    print(f"transformers decode, one stream: {32 / whole:.1f} tokens/s")
    print(f"transformers prefill of 512: {median_seconds(lambda: model(ids[:, :512], logits_to_keep=1)):.3f} s")
    layers, short, value = len(model.model.layers), ids[:, :POSITIONS], torch.zeros(model.config.hidden_size)
    start = time.perf_counter()
    for cell in range(SAMPLE):
        patched_run(model, short, cell % layers, cell % POSITIONS, value)
    each = (time.perf_counter() - start) / SAMPLE
    print(f"transformers grid {layers} x {POSITIONS}, one hooked run per cell: {each * layers * POSITIONS:.1f} s ({SAMPLE} cells timed)")


if __name__ == "__main__":
    main()
