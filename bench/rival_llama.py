#!/usr/bin/env python3
"""llama.cpp on the same weights, beside the engine, in one run: decode of one stream and prefill of 512.

    .cache/parity/bin/python bench/rival_llama.py build/bench_engine MODEL.gguf [threads]

Twice: on the file as it is, and on a twin whose matrices are float32, where both compute the same
products at the same precision. (On a quantised file llama.cpp rounds activations to 8 bits; engramd
multiplies float32 activations by the exact dequantised weights.) The twin is kept beside the model.
Runs alternate; medians.
"""
import os
import re
import statistics
import subprocess
import sys

import gguf
import numpy as np
import xllamacpp

ROUNDS, PREFILL, TOKENS = 3, 512, 48


def float32_twin(path):
    out = re.sub(r"(\.[A-Za-z0-9_]+)?\.gguf$", ".F32.gguf", path)
    if os.path.exists(out):
        return out
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out + ".new", arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind, sub = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub)
    for t in reader.tensors:
        writer.add_tensor(t.name, np.ascontiguousarray(gguf.dequantize(t.data, t.tensor_type), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(out + ".new", out)
    return out


def ours(binary, path, threads):
    out = subprocess.run([binary, path, "3", "--no-grid"], stdout=subprocess.PIPE, check=True, text=True,
                         env=dict(os.environ, OPENBLAS_NUM_THREADS=str(threads))).stdout
    return (float(re.search(r"decode, one stream: ([\d.]+)", out)[1]),
            PREFILL / float(re.search(r"prefill of 512: ([\d.]+)", out)[1]))


class Llama:
    def __init__(self, path, threads):
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_parallel, params.warmup = 1024, 512, 512, 1, True
        self.server = xllamacpp.Server(params)

    def complete(self, ids, tokens):
        answer = self.server.handle_completions({"prompt": ids, "max_tokens": tokens, "n_predict": tokens, "ignore_eos": True,
                                                 "cache_prompt": False, "temperature": 0, "timings_per_token": True})
        return answer["timings"]

    def rates(self, seed):
        ids = [(i * 7919 + 13 + seed) % 40000 + 100 for i in range(PREFILL)]
        return self.complete(ids[:8], TOKENS)["predicted_per_second"], self.complete(ids, 1)["prompt_per_second"]


def main():
    binary, path = sys.argv[1], sys.argv[2]
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else os.cpu_count()
    for label, file in (("as it is", path), ("float32", float32_twin(path))):
        rival, mine, theirs = Llama(file, threads), [], []
        for n in range(ROUNDS):
            mine.append(ours(binary, file, threads))
            theirs.append(rival.rates(n))
        for k, what in enumerate(("decode", "prefill of 512")):
            a, b = (statistics.median(x[k] for x in runs) for runs in (mine, theirs))
            print(f"{label}: {what}: engramd {a:.1f} tokens/s, llama.cpp {b:.1f}: {a / b:.2f} times")
        del rival


if __name__ == "__main__":
    main()
