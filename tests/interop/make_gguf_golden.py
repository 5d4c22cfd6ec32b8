#!/usr/bin/env python3
"""Record what llama.cpp's converter writes for a Hugging Face folder, as JSON for the tests of our own conversion.

Metadata values are kept whole; arrays of more than 16 entries become their length and the BLAKE3 of their entries, each
followed by a NUL byte (numbers in decimal). Every tensor is kept as its type, its shape in ggml order and the
BLAKE3 of its bytes in the file.

    make_gguf_golden.py converted.gguf tests/fixtures/golden/tiny-llama.gguf.json

Needs gguf and blake3.
"""

import argparse
import json
from pathlib import Path

from blake3 import blake3
from gguf import GGUFReader, GGUFValueType

LONG = 16


def value(field):
    kind = field.types[0]
    if kind != GGUFValueType.ARRAY:
        return {"type": kind.name.lower(), "value": field.contents()}
    entries = field.contents()
    kept = {"type": f"array[{field.types[1].name.lower()}]", "length": len(entries)}
    if len(entries) <= LONG:
        return kept | {"value": entries}
    hasher = blake3()
    for entry in entries:
        hasher.update(str(entry).encode() + b"\0")
    return kept | {"blake3": hasher.hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()

    reader = GGUFReader(args.gguf)
    # The fields of the header itself are named GGUF.*
    metadata = {key: value(field) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tensors = {
        tensor.name: {
            "type": tensor.tensor_type.name,
            "dims": [int(size) for size in tensor.shape],
            "blake3": blake3(tensor.data.tobytes()).hexdigest(),
        }
        for tensor in reader.tensors
    }
    golden = {"metadata": metadata, "tensors": tensors}
    lines = json.dumps(golden, indent=1, ensure_ascii=False)
    args.output.write_text(lines + "\n")


if __name__ == "__main__":
    main()
