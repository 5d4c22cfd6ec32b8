#!/usr/bin/env python3
"""Prove from outside that a GGUF written by dq-gpu is what other programs expect.

- The PyPI package gguf parses the file and decodes every tensor: shapes fit, every weight is finite.
- With --f32 FILE (`dq-gpu quantize GGUF --pure F32 -o FILE`): our own decoding agrees with gguf's bit for bit.
- The PyPI package xllamacpp (llama.cpp's own engine) loads it with tensor checks on and generates: the text is not empty,
  the log-probabilities are finite, and a second run gives the same tokens.

    load.py quantized.gguf --f32 decoded.gguf

Exits with 1 and one line per failure.
"""

import argparse
import math
import sys
from pathlib import Path

import engine
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, dequantize

PROMPT = "The importance matrix keeps, for every column of a weight,"
ALIGNMENT = 32
NAME_LIMIT = 63
# Types that gguf's Python package cannot decode.
UNDECODABLE = {"Q1_0", "Q2_0"}


def decoded(tensor) -> np.ndarray | None:
    """The tensor in f32, rows last; None where gguf has no decoder."""
    kind = GGMLQuantizationType(tensor.tensor_type)
    if kind.name in UNDECODABLE:
        return None
    return np.asarray(dequantize(tensor.data, kind), dtype=np.float32)


def check_layout(reader: GGUFReader) -> list[str]:
    """Names short enough, tensors back to back and aligned, as llama.cpp's reader demands."""
    failures = []
    expected = reader.tensors[0].data_offset if reader.tensors else 0
    for tensor in reader.tensors:
        if len(tensor.name.encode()) > NAME_LIMIT:
            failures.append(f"{tensor.name}: name longer than {NAME_LIMIT} bytes")
        if tensor.data_offset != expected or tensor.data_offset % ALIGNMENT:
            failures.append(f"{tensor.name}: offset {tensor.data_offset}, expected {expected}")
        expected = tensor.data_offset + -(-int(tensor.n_bytes) // ALIGNMENT) * ALIGNMENT
    return failures


def check_tensors(reader: GGUFReader, f32: GGUFReader | None) -> tuple[list[str], int]:
    """Decode everything; compare with the F32 file where there is one. Also the number of tensors not decodable."""
    failures, skipped = [], 0
    ours = {tensor.name: tensor for tensor in f32.tensors} if f32 else {}
    if f32 and set(ours) != {tensor.name for tensor in reader.tensors}:
        failures.append("the F32 file has other tensors")
    for tensor in reader.tensors:
        values = decoded(tensor)
        if values is None:
            skipped += 1
            continue
        # gguf keeps ggml's order of dimensions in `shape`; numpy's is the reverse.
        shape = tuple(int(size) for size in tensor.shape[::-1])
        if values.shape != shape:
            failures.append(f"{tensor.name}: decodes to {values.shape}, not {shape}")
        if not np.isfinite(values).all():
            failures.append(f"{tensor.name}: {np.count_nonzero(~np.isfinite(values))} weights are not finite")
        if tensor.name in ours:
            failures += compare(tensor.name, values, ours[tensor.name])
    return failures, skipped


def compare(name: str, values: np.ndarray, ours) -> list[str]:
    if ours.tensor_type != GGMLQuantizationType.F32:
        return [f"{name}: {ours.tensor_type.name} in the F32 file"]
    mine = np.ascontiguousarray(ours.data).view(np.uint32).reshape(-1)
    theirs = np.ascontiguousarray(values).view(np.uint32).reshape(-1)
    if mine.size != theirs.size:
        return [f"{name}: {mine.size} weights in the F32 file, not {theirs.size}"]
    # gguf's arithmetic may give -0 where ours gives 0: the same number.
    differ = (mine != theirs) & ((mine | theirs) != 0x8000_0000)
    if differ.any():
        at = int(np.argmax(differ))
        pair = f"{mine[at : at + 1].view(np.float32)[0]!r} against {theirs[at : at + 1].view(np.float32)[0]!r}"
        return [f"{name}: {np.count_nonzero(differ)} weights differ from gguf's, first at {at}: {pair}"]
    return []


def check_generation(path: Path, tokens: int) -> tuple[list[str], str]:
    server = engine.server(path, 256)
    request = {
        "prompt": PROMPT,
        "max_tokens": tokens,
        "temperature": 0.0,
        "top_k": 1,
        "seed": 1,
        "logprobs": 5,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    answers = [completion(server, request) for _ in range(2)]
    text, logprobs = answers[0]
    failures = []
    if not text.strip():
        failures.append("llama.cpp generated no text")
    if len(logprobs) != tokens:
        failures.append(f"llama.cpp generated {len(logprobs)} tokens of {tokens}")
    if not all(value is not None and math.isfinite(value) for value in logprobs):
        failures.append("llama.cpp gave a log-probability that is not finite")
    if answers[0] != answers[1]:
        failures.append("llama.cpp generated different tokens on a second run")
    return failures, text


def completion(server, request: dict) -> tuple[str, list]:
    choice = engine.choice(server, request)
    return choice["text"], [token["logprob"] for token in choice["logprobs"]["content"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--f32", type=Path, help="the same file decoded to F32 by dq-gpu, to compare bit for bit")
    parser.add_argument("--tokens", type=int, default=24, help="tokens to generate")
    args = parser.parse_args()

    reader = GGUFReader(args.gguf)
    f32 = GGUFReader(args.f32) if args.f32 else None
    failures = check_layout(reader)
    tensor_failures, skipped = check_tensors(reader, f32)
    failures += tensor_failures
    text = ""
    try:
        generation_failures, text = check_generation(args.gguf, args.tokens)
        failures += generation_failures
    except RuntimeError as error:
        failures.append(f"llama.cpp: {error}")

    types: dict[str, int] = {}
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    counted = ", ".join(f"{count} {name}" for name, count in sorted(types.items()))
    print(f"{args.gguf.name}: {len(reader.tensors)} tensors ({counted}), {skipped} not decodable by gguf")
    print(f"  compared with F32: {'yes' if f32 else 'no'}; generated: {text!r}")
    for failure in failures:
        print(f"  FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
