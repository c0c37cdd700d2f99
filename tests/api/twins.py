"""A second model of a first one's shape: its hub-style directory with every weight moved by a fixed rule, so that
the file of expectations (tests/golden/make_tuco.py) and the tests mean the same numbers. numpy alone."""
import json
import shutil
import struct
from pathlib import Path

import numpy as np

from reference import safetensors


def moved(source, target):
    """w ← w·(1 + 0.3·cos(0.7·i + k)) of element i of the k-th float32 tensor by name; returns target."""
    source, target = Path(source), Path(target)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("expected*", "*.gguf"))
    weights = safetensors(source / "model.safetensors")
    head, body = {"__metadata__": {"format": "pt"}}, b""
    for k, name in enumerate(sorted(weights)):
        w = weights[name].astype(np.float64).ravel()
        w *= 1 + 0.3 * np.cos(0.7 * np.arange(w.size) + k)
        raw = w.astype("<f4").tobytes()
        head[name] = {"dtype": "F32", "shape": list(weights[name].shape), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(head).encode()
    (target / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    return target
