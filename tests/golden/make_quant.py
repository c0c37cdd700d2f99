#!/usr/bin/env python3
"""Make quant.bin: blocks of every element type and what they widen to, by two references that must
agree to the bit: the `gguf` package, and ggml's own functions, which the xllamacpp extension exports.

    pip install gguf numpy xllamacpp && python3 tests/golden/make_quant.py

Layout, little-endian: for each type a record (u32 ggml type, u32 elements, u32 bytes, the bytes, the
float32 values); the record of type 0xFFFFFFFF ends them and holds n rounding cases: (u32 0xFFFFFFFF,
u32 n, u32 0, then n times u32 float32 bits, u16 float16 bits, u16 bfloat16 bits).

Numbers, bits and small scales are random; the blocks' scales walk through the corners: zero, signed,
subnormal, largest. NaN and infinity have no value to compare and are left to the tests themselves.
"""
import ctypes
import importlib.util
import pathlib
import struct

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import BF16, dequantize

SCALES = [1.0, -0.0371, 0.0, 5.96e-08, -3.1e-05, 65504.0]
OFFSETS = [0.25, -1.7, 6.1e-05, 0.0, -65504.0, 3.0]
# Where the float16 scale lies in a block, and the offset where there is one. Q8_K's scale is a float32.
PLACES = {T.Q4_0: (0,), T.Q4_1: (0, 2), T.Q5_0: (0,), T.Q5_1: (0, 2), T.Q8_0: (0,), T.IQ4_NL: (0,),
          T.Q2_K: (80, 82), T.Q3_K: (108,), T.Q4_K: (0, 2), T.Q5_K: (0, 2), T.Q6_K: (208,), T.Q8_K: (0,),
          T.IQ4_XS: (0,)}
rng = np.random.default_rng(20240917)
ggml = ctypes.CDLL(next(str(p) for root in importlib.util.find_spec("xllamacpp").submodule_search_locations
                        for p in pathlib.Path(root).glob("*.so")))


def blocks(t):
    _, size = GGML_QUANT_SIZES[t]
    for corner in zip(SCALES, OFFSETS):
        block = bytearray(rng.integers(0, 256, size, dtype=np.uint8).tobytes())
        for at, x in zip(PLACES[t], corner):
            number = np.float32(x) if t is T.Q8_K else np.float16(x)
            block[at:at + number.nbytes] = number.tobytes()
        yield bytes(block)


def sixteen_bit(t):
    """Both signs of zero, subnormals, normals, the largest finite value."""
    top = 0x7BFF if t is T.F16 else 0x7F7F
    corner = [0, 0x8000, 1, 0x8001, 0x3FF, 0x83FF, 0x400, 0x3C00, 0xBC00, top, top | 0x8000]
    random = [int(h) for h in rng.integers(0, top, 37)]
    return np.array(corner + random, dtype=np.uint16).tobytes()


def raw_bytes(t):
    if t is T.F32:
        return rng.standard_normal(16).astype(np.float32).tobytes()
    if t in (T.F16, T.BF16):
        return sixteen_bit(t)
    return b"".join(blocks(t))


def by_ggml(raw, t):
    """What ggml's dequantize_row_* makes of it."""
    block, size = GGML_QUANT_SIZES[t]
    values = np.empty(len(raw) // size * block, dtype=np.float32)
    row = getattr(ggml, "dequantize_row_" + t.name.lower().replace("_k", "_K"))
    row(raw, values.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(values)))
    return values


def widen(raw, t):
    if t is T.Q8_K:  # the package has no such function
        return by_ggml(raw, t)
    values = dequantize(np.frombuffer(raw, dtype=np.uint8), t).astype(np.float32).reshape(-1)
    if t in PLACES:
        assert by_ggml(raw, t).tobytes() == values.tobytes(), f"the references differ on {t.name}"
    return values


def rounding_cases():
    exact = [0.0, -0.0, 1.0, -2.5, 65504.0, 65519.996, 65520.0, -65520.0, 1e6, 2.0**-24, 2.0**-25,
             np.nextafter(np.float32(2.0**-25), np.float32(1)), 3 * 2.0**-25, 2.0**-14,
             np.nextafter(np.float32(2.0**-14), np.float32(0)), 1 + 2.0**-11, 1 + 3 * 2.0**-11,
             1 + 2.0**-8, 1 + 3 * 2.0**-8, 3.4e38, 1e-40, 1e-45, np.inf, -np.inf]
    x = np.concatenate([np.array(exact, dtype=np.float32),
                        (rng.standard_normal(40) * 10.0 ** rng.uniform(-9, 6, 40)).astype(np.float32)])
    with np.errstate(over="ignore"):
        f16 = x.astype(np.float16).view(np.uint16)
    bf16 = BF16.quantize_blocks(x).view(np.uint16)
    return [struct.pack("<IHH", int(b), int(h), int(g)) for b, h, g in zip(x.view(np.uint32), f16, bf16)]


def main():
    out = bytearray()
    for t in (T.F32, T.F16, T.BF16, *PLACES):
        raw = raw_bytes(t)
        values = widen(raw, t)
        assert np.isfinite(values).all()
        out += struct.pack("<III", int(t), len(values), len(raw)) + raw + values.tobytes()
    cases = rounding_cases()
    out += struct.pack("<III", 0xFFFFFFFF, len(cases), 0) + b"".join(cases)
    path = pathlib.Path(__file__).with_name("quant.bin")
    path.write_bytes(out)
    print(f"{path}: {len(out)} bytes")


main()
