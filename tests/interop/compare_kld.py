#!/usr/bin/env python3
"""`dq-gpu kld` against llama-perplexity's statistics for the same pair of files and the same text.

Both files are decoded to F32 for llama.cpp, so that its 8-bit activations do not blur the comparison; what remains is the
16-bit rounding of its stored log-probabilities (about 2e-5 per token).

    compare_kld.py base.gguf quantized.gguf --text heldout.txt --programs llama.cpp/build/bin \\
        --dq-gpu target/release/dq-gpu --work /tmp/kld

Prints every statistic of both and exits with 1 if one differs by more than --relative and --absolute allow.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import llama_cpp

STATISTICS = [
    "mean_kld",
    "mean_kld_se",
    "median_kld",
    "p90_kld",
    "p95_kld",
    "p99_kld",
    "p999_kld",
    "max_kld",
    "rms_dp",
    "same_top",
    "ppl_base",
    "ppl_quant",
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="the original, as GGUF")
    parser.add_argument("quant", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True, help="folder of llama.cpp's programs")
    parser.add_argument("--dq-gpu", type=Path, required=True)
    parser.add_argument("--dq-gpu-options", type=shlex.split, default=[], help="more options of `dq-gpu kld`")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--relative", type=float, default=0.01)
    parser.add_argument("--absolute", type=float, default=3e-5, help="llama.cpp's own rounding")
    return parser.parse_args()


def ours(args) -> dict:
    command = [args.dq_gpu, "kld", args.base, args.quant, "--text", args.text, "--json"]
    command += ["--ctx", args.ctx, "--chunks", args.chunks, "--quiet", *args.dq_gpu_options]
    output = llama_cpp.run(command, args.work / "dq-gpu-kld.log")
    figures = json.loads(output[output.index("{") :])
    # llama.cpp takes every token for an observation of its own.
    return figures | {"mean_kld_se": figures["mean_kld_se_naive"]}


def theirs(args) -> dict:
    decoded = {}
    for name, file in (("base", args.base), ("quant", args.quant)):
        decoded[name] = args.work / f"{name}.f32.gguf"
        llama_cpp.dequantize(args.programs, file, decoded[name])
    logits = args.work / "base.kld"
    llama_cpp.base_logits(args.programs, decoded["base"], args.text, logits, args.ctx, args.chunks)
    log = args.work / "llama-perplexity.log"
    return llama_cpp.divergence(args.programs, decoded["quant"], logits, log, args.ctx, args.chunks)


def main() -> int:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    mine, peer = ours(args), theirs(args)
    failed = 0
    print(f"{'statistic':<14} {'dq-gpu':>12} {'llama.cpp':>12} {'difference':>12}")
    for key in STATISTICS:
        difference = mine[key] - peer[key]
        good = abs(difference) <= args.absolute + args.relative * abs(peer[key])
        failed += not good
        print(f"{key:<14} {mine[key]:>12.6f} {peer[key]:>12.6f} {difference:>12.6f}{'' if good else '  TOO FAR'}")
    print(f"dq-gpu scored {mine['tokens']} tokens")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
