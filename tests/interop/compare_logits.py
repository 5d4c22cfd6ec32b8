#!/usr/bin/env python3
"""Compare the next-token distribution of a GGUF in llama.cpp with that of the folder in transformers.

    dq-gpu quantize FOLDER --pure F32 -o f32.gguf --chunks 1
    compare_logits.py FOLDER f32.gguf TEXT

Prints the largest difference of the 20 largest log-probabilities behind the first tokens of the text; llama.cpp's keys and
values in f16 leave less than 1e-3 of it in trained models. More is a wrong name, transform or setting. Fails above --tolerance.

Needs torch, transformers and xllamacpp.
"""

import argparse
import sys
from pathlib import Path

import engine
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def reference(folder: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def in_llama_cpp(gguf: Path, ids: list[int]) -> list[dict]:
    request = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "logprobs": 20, "cache_prompt": False}
    choice = engine.choice(engine.server(gguf, len(ids) + 64), request)
    return choice["logprobs"]["content"][0]["top_logprobs"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=300, help="more than the model's window")
    parser.add_argument("--tolerance", type=float, default=1e-2)
    args = parser.parse_args()

    ids = AutoTokenizer.from_pretrained(args.folder).encode(args.text.read_text(), add_special_tokens=False)
    ids = ids[: args.tokens]
    wanted = reference(args.folder, ids)
    found = in_llama_cpp(args.gguf, ids)
    worst = max(abs(token["logprob"] - float(wanted[token["id"]])) for token in found)
    print(f"{len(ids)} tokens: the {len(found)} largest log-probabilities differ by {worst:.1e} at most")
    return int(worst > args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
