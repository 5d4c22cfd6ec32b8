"""Compares our encoders with ggml's: importance-weighted error of the decoded bytes, and speed on one thread.

    cargo build --release --example encode
    python tests/interop/compare_encoders.py --ggml /path/to/build/bin [--model models/tiny-llama] [--types Q4_K,Q6_K]

Needs numpy, gguf (decoding) and llama.cpp's shared libraries (`ggml_quantize_chunk`). The importance is heavy-tailed: log-normal,
with a few columns a hundred times larger, as activations of real models have.
"""

import argparse
import ctypes
import json
import os
import pathlib
import struct
import subprocess
import tempfile
import time

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

TYPES = "Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()


def tensors(model):
    """Name and f32 matrix of every BF16 matrix of a safetensors file."""
    data = (pathlib.Path(model) / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    for name, info in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__" or len(info["shape"]) != 2:
            continue
        start, end = (8 + size + offset for offset in info["data_offsets"])
        halves = np.frombuffer(data[start:end], dtype="<u2").astype(np.uint32)
        yield name, (halves << 16).view(np.float32).reshape(info["shape"])


def importance_of(cols, seed):
    rng = np.random.default_rng(seed)
    h = np.exp(1.2 * rng.standard_normal(cols))
    h[rng.random(cols) < 0.01] *= 100
    return h.astype(np.float32)


class Ggml:
    def __init__(self, folder):
        ctypes.CDLL(os.path.join(folder, "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
        self.lib = ctypes.CDLL(os.path.join(folder, "libggml-base.so"))
        floats = ctypes.POINTER(ctypes.c_float)
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, floats, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, floats,
        ]  # fmt: skip
        self.lib.ggml_validate_row_data.restype = ctypes.c_bool
        self.lib.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        self.floats = floats

    def accepts(self, name, bytes_):
        return self.lib.ggml_validate_row_data(Type[name].value, bytes_.ctypes.data, bytes_.nbytes)

    def encode(self, name, x, h):
        rows, cols = x.shape
        ty = Type[name]
        out = np.zeros(quants.quant_shape_to_byte_shape(x.shape, ty), dtype=np.uint8)
        best = np.inf
        for _ in range(2):
            start = time.perf_counter()
            self.lib.ggml_quantize_chunk(
                ty.value, x.ctypes.data_as(self.floats), out.ctypes.data, 0, rows, cols, h.ctypes.data_as(self.floats)
            )
            best = min(best, time.perf_counter() - start)
        return out, best


def ours(program, name, x, h, folder):
    paths = [os.path.join(folder, n) for n in ("x", "h", "out")]
    x.tofile(paths[0])
    h.tofile(paths[1])
    done = subprocess.run([program, name, *paths], check=True, capture_output=True, env={**os.environ, "RAYON_NUM_THREADS": "1"})
    out = np.fromfile(paths[2], dtype=np.uint8).reshape(quants.quant_shape_to_byte_shape(x.shape, Type[name]))
    return out, float(done.stdout)


def error(name, bytes_, x, h):
    decoded = quants.dequantize(bytes_, Type[name]).astype(np.float64)
    return float((h * (decoded - x) ** 2).sum())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ggml", required=True, help="folder of libggml-base.so")
    parser.add_argument("--program", default="target/release/examples/encode")
    parser.add_argument("--model", default="models/tiny-llama")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--tensors", type=int, default=12, help="how many matrices, the largest number of rows is 1024")
    args = parser.parse_args()
    ggml = Ggml(args.ggml)
    matrices = [(n, np.ascontiguousarray(x[:1024])) for n, x in tensors(args.model)]
    matrices = matrices[:: max(1, len(matrices) // args.tensors)]
    print(f"{len(matrices)} matrices of {args.model}")
    print("type      error ours/ggml (worst)   Mweights/s ours   ggml")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.types.split(","):
            ratios, seconds, weights = [], [0.0, 0.0], 0
            for i, (_, x) in enumerate(matrices):
                h = importance_of(x.shape[1], i)
                theirs, their_seconds = ggml.encode(name, x, h)
                mine, my_seconds = ours(args.program, name, x, h, folder)
                assert ggml.accepts(name, mine), f"ggml finds {name} invalid"
                ratios.append(error(name, mine, x, h) / error(name, theirs, x, h))
                seconds = [seconds[0] + my_seconds, seconds[1] + their_seconds]
                weights += x.size
            mean = float(np.exp(np.mean(np.log(ratios))))
            speeds = [weights / s / 1e6 for s in seconds]
            print(f"{name:8} {mean:14.4f} ({max(ratios):.4f}) {speeds[0]:17.1f} {speeds[1]:8.1f}", flush=True)


if __name__ == "__main__":
    main()
