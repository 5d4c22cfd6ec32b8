"""Compares our encoders with ggml's: importance-weighted error of the decoded bytes, and speed on one thread.

    cargo build --release --example encode
    python tests/interop/compare_encoders.py --ggml /path/to/build/bin [--model models/tiny-llama] [--types Q4_K,Q6_K]
    python tests/interop/compare_encoders.py --ggml /path/to/build/bin --synthetic

Needs numpy, gguf (decoding) and llama.cpp's shared libraries (`ggml_quantize_chunk`). The importance is heavy-tailed: log-normal,
with a few columns a hundred times larger, as activations of real models have; with --imatrix it is that of the file (then the model is an F32 GGUF).

With --synthetic the weights are drawn instead (see SYNTHETIC) and the result is a table in Markdown: one column per kind of weights.
Exits with 1 if the mean error of a type over the matrices of a kind is above ggml's.
"""

import argparse
import ctypes
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFReader, quants
from gguf import GGMLQuantizationType as Type

TYPES = (
    "Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS IQ3_S IQ3_XXS IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S "
    "TQ1_0 TQ2_0 MXFP4 NVFP4 Q1_0 Q2_0"
).split()
# types that gguf-py does not know: id, weights and bytes of a block, and the symbol that decodes them
UNKNOWN = {"Q1_0": (41, 128, 18, "dequantize_row_q1_0"), "Q2_0": (42, 64, 18, "dequantize_row_q2_0")}


def layout(name):
    """Id of a type, weights and bytes of its block."""
    if name in UNKNOWN:
        return UNKNOWN[name][:3]
    return Type[name].value, *GGML_QUANT_SIZES[Type[name]]


def empty(name, shape):
    _, weights, size = layout(name)
    return np.zeros((shape[0], shape[1] // weights * size), dtype=np.uint8)


def tensors(model):
    """Name and f32 matrix of every BF16 matrix of a safetensors file, or F32 matrix of a GGUF."""
    if model.endswith(".gguf"):
        for tensor in GGUFReader(model).tensors:
            if tensor.tensor_type == Type.F32 and len(tensor.shape) == 2:
                yield tensor.name, np.array(tensor.data).reshape(tensor.shape[::-1])
        return
    data = (pathlib.Path(model) / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    for name, info in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__" or len(info["shape"]) != 2:
            continue
        start, end = (8 + size + offset for offset in info["data_offsets"])
        halves = np.frombuffer(data[start:end], dtype="<u2").astype(np.uint32)
        yield name, (halves << 16).view(np.float32).reshape(info["shape"])


def imatrix_of(path):
    """Mean squares by tensor name."""
    parts = {tensor.name: np.array(tensor.data).reshape(-1) for tensor in GGUFReader(path).tensors}
    names = [name.removesuffix(".in_sum2") for name in parts if name.endswith(".in_sum2")]
    return {n: (parts[n + ".in_sum2"] / parts[n + ".counts"][0]).astype(np.float32) for n in names}


def importance_of(cols, seed):
    rng = np.random.default_rng(seed)
    h = np.exp(1.2 * rng.standard_normal(cols))
    h[rng.random(cols) < 0.01] *= 100
    return h.astype(np.float32)


def heavy_tails(rng, shape):
    """Student's t with three degrees of freedom."""
    return rng.standard_t(3, shape)


def outlier_columns(rng, shape):
    """Laplace, one column in fifty twenty times larger."""
    return rng.laplace(size=shape) * np.where(rng.random(shape[1]) < 0.02, 20, 1)


def constant(rng, shape):
    """Every row one number, some of them zero."""
    return np.repeat(rng.standard_normal((shape[0], 1)) * (rng.random((shape[0], 1)) > 0.1), shape[1], axis=1)


def tiny(rng, shape):
    """A few times the smallest scale that half precision holds."""
    return 1e-5 * rng.standard_normal(shape)


def spike(rng, shape):
    """One weight in 256 a thousand times larger than the rest."""
    weights = rng.standard_normal(shape)
    places = rng.integers(0, 256, (shape[0], shape[1] // 256)) + 256 * np.arange(shape[1] // 256)
    np.put_along_axis(weights, places, 1000 * rng.choice([-1, 1], places.shape), axis=1)
    return weights


def offset(rng, shape):
    """A mean of three standard deviations, either sign by row."""
    return rng.standard_normal(shape) + 3 * rng.choice([-1, 1], (shape[0], 1))


def ternary(rng, shape):
    """-1, 0 and 1 times a scale of the row."""
    return rng.integers(-1, 2, shape) * np.exp(rng.standard_normal((shape[0], 1)))


SYNTHETIC = (heavy_tails, outlier_columns, constant, tiny, spike, offset, ternary)
# Errors below this share of the weights' energy (0.3 % rms) are rounding of the scales and no difference.
NOTHING = 1e-5


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
        return self.lib.ggml_validate_row_data(layout(name)[0], bytes_.ctypes.data, bytes_.nbytes)

    def encode(self, name, x, h):
        rows, cols = x.shape
        out = empty(name, x.shape)
        best = np.inf
        for _ in range(20):
            start = time.perf_counter()
            self.lib.ggml_quantize_chunk(
                layout(name)[0], x.ctypes.data_as(self.floats), out.ctypes.data, 0, rows, cols, h.ctypes.data_as(self.floats)
            )
            best = min(best, time.perf_counter() - start)
        return out, best

    def decode(self, name, bytes_):
        if name not in UNKNOWN:
            return quants.dequantize(bytes_, Type[name])
        _, weights, size, symbol = UNKNOWN[name]
        out = np.zeros((bytes_.shape[0], bytes_.shape[1] // size * weights), dtype=np.float32)
        decode = getattr(self.lib, symbol)
        decode(bytes_.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size))
        return out

    def error(self, name, bytes_, x, h):
        return float((h * (self.decode(name, bytes_).astype(np.float64) - x) ** 2).sum())


def ours(program, name, x, h, folder):
    paths = [os.path.join(folder, n) for n in ("x", "h", "out")]
    x.tofile(paths[0])
    h.tofile(paths[1])
    done = subprocess.run([program, name, *paths], check=True, capture_output=True, env={**os.environ, "RAYON_NUM_THREADS": "1"})
    out = np.fromfile(paths[2], dtype=np.uint8).reshape(empty(name, x.shape).shape)
    return out, float(done.stdout)


def ratio(errors, energy):
    """Ours over ggml's."""
    mine, theirs = errors
    return 1.0 if max(mine, theirs) <= NOTHING * energy else mine / theirs


def synthetic(args, ggml, folder):
    """Prints the table and returns how many of its figures are above 1."""
    print("| type | " + " | ".join(kind.__name__.replace("_", " ") for kind in SYNTHETIC) + " |")
    print("| --- " * (len(SYNTHETIC) + 1) + "|")
    worse = 0
    for name in args.types.split(","):
        means = []
        for kind in SYNTHETIC:
            ratios = []
            for seed in range(args.tensors):
                rng = np.random.default_rng(seed)
                x = np.ascontiguousarray(0.02 * kind(rng, (64, 1024)), dtype=np.float32)
                h = importance_of(x.shape[1], seed)
                mine, _ = ours(args.program, name, x, h, folder)
                assert ggml.accepts(name, mine), f"ggml finds {name} invalid"
                errors = [ggml.error(name, bytes_, x, h) for bytes_ in (mine, ggml.encode(name, x, h)[0])]
                ratios.append(ratio(errors, float((h * x.astype(np.float64) ** 2).sum())))
            means.append(float(np.mean(ratios)))
        worse += sum(mean > 1.0005 for mean in means)
        print(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |", flush=True)
    return worse


def real(args, ggml, folder):
    matrices = [(n, np.ascontiguousarray(x[:1024])) for n, x in tensors(args.model)]
    imatrix = imatrix_of(args.imatrix) if args.imatrix else None
    if imatrix:
        matrices = [(n, x) for n, x in matrices if n in imatrix]
    matrices = matrices[:: max(1, len(matrices) // args.tensors)]
    print(f"{len(matrices)} matrices of {args.model}")
    print("type      error ours/ggml (worst)   Mweights/s ours   ggml")
    for name in args.types.split(","):
        ratios, seconds, weights = [], [0.0, 0.0], 0
        for i, (tensor, x) in enumerate(matrices):
            h = imatrix[tensor] if imatrix else importance_of(x.shape[1], i)
            theirs, their_seconds = ggml.encode(name, x, h)
            mine, my_seconds = ours(args.program, name, x, h, folder)
            assert ggml.accepts(name, mine), f"ggml finds {name} invalid"
            ratios.append(ggml.error(name, mine, x, h) / ggml.error(name, theirs, x, h))
            seconds = [seconds[0] + my_seconds, seconds[1] + their_seconds]
            weights += x.size
        mean = float(np.exp(np.mean(np.log(ratios))))
        speeds = [weights / s / 1e6 for s in seconds]
        print(f"{name:8} {mean:14.4f} ({max(ratios):.4f}) {speeds[0]:17.1f} {speeds[1]:8.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ggml", required=True, help="folder of libggml-base.so")
    parser.add_argument("--program", default="target/release/examples/encode")
    parser.add_argument("--model", default="models/tiny-llama")
    parser.add_argument("--imatrix", help="importance matrix (GGUF) of the model")
    parser.add_argument("--synthetic", action="store_true", help="drawn weights instead of a model's")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--tensors", type=int, default=12, help="how many matrices (of a kind)")
    args = parser.parse_args()
    ggml = Ggml(args.ggml)
    with tempfile.TemporaryDirectory() as folder:
        if not args.synthetic:
            real(args, ggml, folder)
        elif worse := synthetic(args, ggml, folder):
            sys.exit(f"{worse} errors are above ggml's")


if __name__ == "__main__":
    main()
