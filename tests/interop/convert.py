#!/usr/bin/env python3
"""Convert a Hugging Face folder with llama.cpp's own converter, whatever its tokenizer.

llama.cpp recognises a pre-tokenizer by a hash of how it splits a sample text, so it refuses tokenizers that it has
never seen, such as those of the sample models. This wrapper answers with --pre there and changes nothing else.

    convert.py path/to/llama.cpp/convert_hf_to_gguf.py models/tiny-llama out.gguf
"""

import argparse
import importlib
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("converter", type=Path, help="convert_hf_to_gguf.py inside a llama.cpp tree")
    parser.add_argument("model", type=Path, help="Hugging Face folder")
    parser.add_argument("output", type=Path)
    parser.add_argument("--outtype", default="f32")
    parser.add_argument("--pre", default="qwen2", help="pre-tokenizer of a tokenizer that llama.cpp does not know")
    args = parser.parse_args()

    tree = args.converter.resolve().parent
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    text_model = importlib.import_module("conversion.base").TextModel
    recognise = text_model.get_vocab_base_pre

    def get_vocab_base_pre(self, tokenizer):
        try:
            return recognise(self, tokenizer)
        except NotImplementedError:
            return args.pre

    text_model.get_vocab_base_pre = get_vocab_base_pre
    sys.argv = [str(args.converter), str(args.model), "--outtype", args.outtype, "--outfile", str(args.output)]
    importlib.import_module(args.converter.stem).main()


if __name__ == "__main__":
    main()
