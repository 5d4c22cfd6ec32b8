#!/usr/bin/env python3
"""Compare two GGUFs tensor by tensor and block by block: what did two devices, or two programs, make of one model?

    compare_files.py cpu.gguf gpu.gguf
    compare_files.py ours-bf16.gguf converter-bf16.gguf --metadata

Counts metadata that differ (listed with --metadata), tensors of other types, and for tensors of the same type the blocks
whose bytes differ, with the relative squared difference of their weights. Exits with 1 if any tensor differs.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, dequantize


def fields(reader: GGUFReader) -> dict:
    # Entries named GGUF.* are the reader's own: version and counts.
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def compare_metadata(left: GGUFReader, right: GGUFReader) -> list[str]:
    left, right = fields(left), fields(right)
    lines = [f"only in the first: {name}" for name in left if name not in right]
    lines += [f"only in the second: {name}" for name in right if name not in left]
    for name in left:
        # repr: NaN is the same as NaN
        if name in right and repr(left[name]) != repr(right[name]):
            lines.append(f"{name}: {repr(left[name])[:60]} against {repr(right[name])[:60]}")
    return lines


def weights(tensor) -> np.ndarray:
    return np.asarray(dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type)), dtype=np.float64)


def compare_blocks(left, right) -> tuple[int, int, float]:
    """Blocks, blocks that differ, and the relative squared difference of the weights."""
    size = GGML_QUANT_SIZES[left.tensor_type][1]
    pair = [np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1, size) for tensor in (left, right)]
    differing = int((pair[0] != pair[1]).any(axis=1).sum())
    if not differing:
        return len(pair[0]), 0, 0.0
    a, b = weights(left), weights(right)
    return len(pair[0]), differing, float(((a - b) ** 2).sum() / max((a**2).sum(), 1e-300))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--metadata", action="store_true", help="list the metadata that differ")
    args = parser.parse_args()
    left, right = GGUFReader(args.first), GGUFReader(args.second)

    metadata = compare_metadata(left, right)
    print(f"metadata: {len(metadata)} differ")
    if args.metadata:
        for line in metadata:
            print(f"  {line}")

    others = {tensor.name: tensor for tensor in right.tensors}
    missing = {tensor.name for tensor in left.tensors} ^ set(others)
    order = [tensor.name for tensor in left.tensors] == [tensor.name for tensor in right.tensors]
    types, blocks, differing = [], 0, 0
    for tensor in left.tensors:
        other = others.get(tensor.name)
        if other is None:
            continue
        if tensor.tensor_type != other.tensor_type or list(tensor.shape) != list(other.shape):
            types.append(f"{tensor.name}: {tensor.tensor_type.name} {tensor.shape} against {other.tensor_type.name} {other.shape}")
            continue
        count, changed, error = compare_blocks(tensor, other)
        blocks += count
        differing += changed
        if changed:
            print(f"  {tensor.name} {tensor.tensor_type.name}: {changed} of {count} blocks differ, relative squared {error:.2e}")
    for line in types:
        print(f"  {line}")
    for name in sorted(missing):
        print(f"  only in one file: {name}")
    print(f"tensors: {len(left.tensors)} and {len(right.tensors)}, {'same' if order else 'other'} order, {len(types)} of other types or shapes")
    print(f"blocks: {differing} of {blocks} differ")
    return 1 if differing or types or missing else 0


if __name__ == "__main__":
    sys.exit(main())
