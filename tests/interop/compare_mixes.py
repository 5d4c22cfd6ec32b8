#!/usr/bin/env python3
"""KL divergence of dq-gpu's files against llama.cpp's mixes of exactly the same size.

For every mix: llama-quantize with llama.cpp's own importance matrix, then `dq-gpu quantize --size BYTES`, and
llama-perplexity judges both on held-out text. It judges twice: the weights alone (the file decoded to F32 first) and
the file as llama.cpp runs it, with its 8-bit activations.

    compare_mixes.py models/tiny-llama --programs llama.cpp/build/bin --converter llama.cpp/convert_hf_to_gguf.py \\
        --calibration calibration.txt --heldout heldout.txt --dq-gpu target/release/dq-gpu --work /tmp/mixes

Without --dq-gpu only llama.cpp's side is made and measured. What is in the work folder already is not made again, except
dq-gpu's own files. --python names an interpreter with torch and transformers for the converter.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import llama_cpp

MIXES = ["Q2_K", "IQ2_M", "IQ3_XXS", "Q3_K_M", "Q4_K_M", "Q5_K_M"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="Hugging Face folder")
    parser.add_argument("--programs", type=Path, required=True, help="folder of llama-quantize, llama-imatrix, ...")
    parser.add_argument("--converter", type=Path, required=True, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--calibration", type=Path, required=True, help="text of llama.cpp's importance matrix")
    parser.add_argument("--heldout", type=Path, required=True, help="text to measure on")
    parser.add_argument("--dq-gpu", type=Path, help="the dq-gpu program")
    parser.add_argument("--dq-gpu-calibration", type=Path, action="append", default=[], help="default: its built-in set")
    parser.add_argument("--dq-gpu-options", type=shlex.split, default=[], help="more options of `dq-gpu quantize`")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--mixes", nargs="+", default=MIXES)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the converter")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=100, help="chunks of llama.cpp's importance matrix")
    parser.add_argument("--heldout-chunks", type=int, default=-1, help="chunks to measure on, -1 for all")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def once(path: Path, make) -> Path:
    """Make `path` unless it is there; a half-made file never keeps the name."""
    if not path.exists():
        part = path.with_name("part-" + path.name)
        make(part)
        part.rename(path)
    return path


def measure(args, gguf: Path, base: Path, keep: bool) -> dict:
    """Figures of one quantized file: its weights alone and as run. `keep` trusts figures of an earlier run."""
    stored = gguf.with_suffix(".kld.json")
    if keep and stored.exists():
        return json.loads(stored.read_text())
    decoded = gguf.with_name(gguf.stem + ".f32.gguf")
    decoded.unlink(missing_ok=True)
    llama_cpp.dequantize(args.programs, gguf, decoded)
    figures = {}
    for name, file in (("weights", decoded), ("as_run", gguf)):
        log = gguf.with_suffix(f".{name}.log")
        figures[name] = llama_cpp.divergence(args.programs, file, base, log, args.ctx, args.heldout_chunks)
    figures["bytes"] = gguf.stat().st_size
    stored.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def peer(args, mix: str, source: Path, imatrix: Path, base: Path) -> dict:
    file = args.work / f"{mix}.gguf"
    fresh = not file.exists()
    once(file, lambda part: llama_cpp.quantize(args.programs, source, part, mix, imatrix))
    return measure(args, file, base, keep=not fresh)


def ours(args, mix: str, size: int, base: Path) -> dict:
    file = args.work / f"dq-gpu-{mix}.gguf"
    file.unlink(missing_ok=True)
    command = [args.dq_gpu, "quantize", args.model, "--size", f"{size}B", "-o", file]
    if args.dq_gpu_calibration:
        command += ["--calibration", *args.dq_gpu_calibration]
    started = time.monotonic()
    llama_cpp.run(command + args.dq_gpu_options, file.with_suffix(".log"))
    seconds = time.monotonic() - started
    if file.stat().st_size > size:
        raise RuntimeError(f"{file} has {file.stat().st_size} bytes, {size} were asked for")
    return measure(args, file, base, keep=False) | {"seconds": seconds}


def row(mix: str, theirs: dict, mine: dict | None, kind: str) -> str:
    a = theirs[kind]
    cells = [f"{mix:<9} {theirs['bytes']:>12} {a['mean_kld']:>10.6f} {a['p99_kld']:>10.6f}"]
    if mine:
        b = mine[kind]
        cells.append(f"{mine['bytes']:>12} {b['mean_kld']:>10.6f} {b['p99_kld']:>10.6f}")
        cells.append(f"{b['mean_kld'] / a['mean_kld']:>6.3f} {b['p99_kld'] / a['p99_kld']:>6.3f}")
    return "  ".join(cells)


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    source = once(
        args.work / "f32.gguf", lambda part: llama_cpp.convert(args.python, args.converter, args.model, part, "f32")
    )
    imatrix = once(
        args.work / "imatrix.gguf",
        lambda part: llama_cpp.imatrix(args.programs, source, args.calibration, part, args.ctx, args.chunks),
    )
    base = once(
        args.work / f"base-{args.ctx}.kld",
        lambda part: llama_cpp.base_logits(args.programs, source, args.heldout, part, args.ctx, args.heldout_chunks),
    )
    floor_log = args.work / "floor.log"
    floor = llama_cpp.divergence(args.programs, source, base, floor_log, args.ctx, args.heldout_chunks)
    print(f"{args.model.name}: mean KL of the F32 file against its own stored logits {floor['mean_kld']:.6f}")

    results = {"model": args.model.name, "ppl_base": floor["ppl_base"], "floor": floor["mean_kld"], "mixes": {}}
    for mix in args.mixes:
        theirs = peer(args, mix, source, imatrix, base)
        mine = ours(args, mix, theirs["bytes"], base) if args.dq_gpu else None
        results["mixes"][mix] = {"llama_cpp": theirs} | ({"dq_gpu": mine} if mine else {})
        print(f"{mix} measured", file=sys.stderr)

    for kind, title in (("weights", "weights alone (decoded to F32)"), ("as_run", "as llama.cpp runs the file")):
        print(f"\n{title}")
        head = f"{'mix':<9} {'bytes':>12} {'mean KL':>10} {'p99 KL':>10}"
        print(head + (f"  {'our bytes':>12} {'mean KL':>10} {'p99 KL':>10}   ratio    p99" if args.dq_gpu else ""))
        for mix, pair in results["mixes"].items():
            print(row(mix, pair["llama_cpp"], pair.get("dq_gpu"), kind))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
