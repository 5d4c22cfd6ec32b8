#!/usr/bin/env python3
"""KL divergence of every block type: dq-gpu's uniform file against llama.cpp's with the same importance matrix.

For every type: `llama-quantize --pure` and `dq-gpu quantize --pure` make a file from the same F32 GGUF with the same importance
matrix and the same type for every tensor (checked), and `dq-gpu kld` measures both against the F32 file on the same text.

    compare_types.py models/tiny-llama --programs llama.cpp/build/bin --calibration calibration.txt --heldout heldout.txt \\
        --dq-gpu target/release/dq-gpu --work /tmp/types

Prints a table in Markdown. Several ways to encode are several columns, and llama.cpp's side is made only once per work folder:

    ... --variant search='--rounding search' --variant feedback='--rounding feedback' --types Q2_K,IQ3_S

With --weighted-error target/release/examples/weighted_error, two more columns for each: the error of the files' weights over
llama.cpp's, weighted by the importance matrix (diag h) and by the second moments of the activations of the held-out text (H),
as geometric means over the tensors.

llama-quantize has no imatrix entry for the token embedding (nor for the output, unless asked) and aborts on them for the types
in NEEDS_IMATRIX; for these alone both sides get the matrix with ones added there, which is what dq-gpu takes for them anyway.
Needs the PyPI packages numpy and gguf for this.
"""

import argparse
import hashlib
import json
import math
import shlex
import sys
import time
from pathlib import Path
from statistics import mean

import gguf
import llama_cpp
import numpy as np

TYPES = (
    "IQ1_S IQ1_M TQ1_0 TQ2_0 Q1_0 Q2_0 IQ2_XXS IQ2_XS IQ2_S Q2_K IQ3_XXS IQ3_S Q3_K MXFP4 IQ4_XS IQ4_NL NVFP4 "
    "Q4_0 Q4_K Q4_1 Q5_0 Q5_K Q5_1 Q6_K Q8_0"
).split()
# Types that ggml encodes with an importance matrix or not at all.
NEEDS_IMATRIX = ("IQ1_S", "IQ2_XXS", "IQ2_XS")
AVERAGES = {
    "Q2_K, Q3_K, IQ2 and IQ3": "Q2_K Q3_K IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S".split(),
    "Q2_K to Q5_K, IQ2_S to IQ4_XS": "Q2_K Q3_K Q4_K Q5_K IQ2_S IQ3_XXS IQ3_S IQ4_XS".split(),
}


def variant(text: str) -> tuple[str, list[str]]:
    name, separator, options = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=OPTIONS: `{text}`")
    return name, shlex.split(options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="Hugging Face folder, or a GGUF")
    parser.add_argument("--programs", type=Path, required=True, help="folder of llama-quantize and llama-imatrix")
    parser.add_argument("--dq-gpu", type=Path, required=True, help="the dq-gpu program")
    parser.add_argument("--heldout", type=Path, required=True, help="text to measure on")
    matrix = parser.add_mutually_exclusive_group(required=True)
    matrix.add_argument("--imatrix", type=Path, help="importance matrix (GGUF)")
    matrix.add_argument("--calibration", type=Path, help="text of which llama-imatrix makes one")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--types", type=lambda text: text.upper().split(","), default=TYPES, help="default: all")
    parser.add_argument("--dq-gpu-options", type=shlex.split, default=[], help="more options of every `dq-gpu quantize`")
    parser.add_argument(
        "--variant", type=variant, action="append", metavar="NAME=OPTIONS", help="a column with options of its own"
    )
    parser.add_argument("--weighted-error", type=Path, metavar="PROGRAM", help="the example program weighted_error")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=40, help="chunks to measure on; their second halves count")
    parser.add_argument("--imatrix-chunks", type=int, default=100)
    parser.add_argument("--keep", action="store_true", help="keep dq-gpu's files in the work folder")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    args.variants = args.variant or [("dq-gpu", [])]
    return args


def once(path: Path, make) -> Path:
    """Make `path` unless it is there; a half-made file never keeps the name."""
    if not path.exists():
        part = path.with_name("part-" + path.name)
        make(part)
        part.rename(path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def dq_gpu(args, log: Path, *command) -> dict:
    """Run dq-gpu and return the JSON object that it prints."""
    output = llama_cpp.run([args.dq_gpu, *command, "--json", "--quiet"], log)
    return json.loads(output[output.index("{") :])


def with_ones(imatrix: Path, source: Path, output: Path) -> None:
    """The importance matrix with entries of ones for the token embedding and the output where it has none."""
    reader = gguf.GGUFReader(imatrix)
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    for tensor in gguf.GGUFReader(source).tensors:
        name = tensor.name
        if name in ("token_embd.weight", "output.weight") and name + ".in_sum2" not in tensors:
            tensors[name + ".in_sum2"] = np.ones((1, int(tensor.shape[0])), np.float32)
            tensors[name + ".counts"] = np.ones((1, 1), np.float32)
    writer = gguf.GGUFWriter(output, arch="", endianess=reader.endianess)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", reader.get_field("imatrix.datasets").contents())
    for key in ("imatrix.chunk_count", "imatrix.chunk_size"):
        writer.add_uint32(key, reader.get_field(key).contents())
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def uniform(programs: Path, source: Path, output: Path, name: str, imatrix: Path) -> None:
    """llama-quantize with one type for every tensor. A rule for all names, because not every type has a mix of its own."""
    command = [programs / "llama-quantize", "--imatrix", imatrix, "--pure", "--tensor-type", f".={name.lower()}"]
    llama_cpp.run(command + [source, output, "Q8_0", llama_cpp.threads()], output.with_suffix(".log"))


def types_of(args, file: Path) -> tuple[dict, float]:
    """Types by tensor, and bits per weight over the quantized tensors."""
    tensors = dq_gpu(args, file.with_suffix(".inspect.log"), "inspect", file)["tensors"]
    quantized = [tensor for tensor in tensors if tensor["type"] != "F32"]
    bpw = 8 * sum(t["bytes"] for t in quantized) / max(1, sum(t["elements"] for t in quantized))
    return {tensor["name"]: tensor["type"] for tensor in tensors}, bpw


def judge(args, base: Path, file: Path) -> dict:
    command = ["kld", base, file, "--text", args.heldout, "--ctx", args.ctx, "--chunks", args.chunks]
    figures = dq_gpu(args, file.with_suffix(".kld.log"), *command, "--device", args.device)
    return {key: figures[key] for key in ("mean_kld", "mean_kld_se", "p99_kld", "same_top", "tokens")}


class Comparison:
    def __init__(self, args):
        self.args = args
        args.work.mkdir(parents=True, exist_ok=True)
        self.base = once(args.work / "f32.gguf", self.convert)
        self.imatrix = args.imatrix or once(args.work / "imatrix.gguf", self.listen)
        # What llama.cpp's stored figures depend on.
        self.key = [digest(args.heldout), digest(self.imatrix), args.ctx, args.chunks]
        self.filled = once(
            args.work / f"imatrix-{self.key[1]}-ones.gguf", lambda part: with_ones(self.imatrix, self.base, part)
        )

    def convert(self, part: Path) -> None:
        dq_gpu(self.args, part.with_suffix(".log"), "quantize", self.args.model, "--pure", "F32", "--chunks", 1, "-o", part)

    def listen(self, part: Path) -> None:
        args = self.args
        llama_cpp.imatrix(args.programs, self.base, args.calibration, part, args.ctx, args.imatrix_chunks)

    def matrix(self, name: str) -> Path:
        return self.filled if name in NEEDS_IMATRIX else self.imatrix

    def theirs(self, name: str) -> dict:
        """llama.cpp's figures, as stored if nothing that they depend on has changed."""
        args = self.args
        file = once(
            args.work / f"llama.cpp-{name}-{self.key[1]}.gguf",
            lambda part: uniform(args.programs, self.base, part, name, self.matrix(name)),
        )
        stored = args.work / f"llama.cpp-{name}.json"
        figures = json.loads(stored.read_text()) if stored.exists() else {}
        if figures.get("key") != self.key:
            types, bpw = types_of(args, file)
            figures = judge(args, self.base, file) | {"types": types, "bpw": bpw, "key": self.key}
            stored.write_text(json.dumps(figures) + "\n")
        return figures | {"file": str(file)}

    def ours(self, name: str, label: str, options: list[str], types: dict) -> dict:
        args = self.args
        file = args.work / f"{label}-{name}.gguf"
        command = ["quantize", self.base, "--pure", name, "--imatrix", self.matrix(name), "-o", file]
        command += ["--device", args.device, *args.dq_gpu_options, *options]
        started = time.monotonic()
        dq_gpu(args, file.with_suffix(".log"), *command)
        seconds = time.monotonic() - started
        if types_of(args, file)[0] != types:
            raise RuntimeError(f"the two files of {name} do not have the same types")
        return judge(args, self.base, file) | {"seconds": round(seconds, 2), "file": str(file)}

    def add_errors(self, row: dict) -> None:
        """Weighted errors of all files of a row, as ratios to llama.cpp's."""
        args = self.args
        command = [args.weighted_error, self.base, *(figures["file"] for figures in row.values()), "--device", args.device]
        command += ["--imatrix", self.imatrix, "--text", args.heldout, "--ctx", args.ctx, "--chunks", args.chunks]
        output = llama_cpp.run(command, args.work / "weighted-error.log")
        errors = json.loads(output[output.index("{") :])
        theirs = errors[row["llama.cpp"]["file"]]
        for figures in row.values():
            mine = errors[figures["file"]]
            for kind in ("importance", "hessian"):
                logs = [math.log(mine[name][kind] / theirs[name][kind]) for name in theirs]
                figures[f"{kind}_error_ratio"] = math.exp(mean(logs))

    def row(self, name: str) -> dict:
        theirs = self.theirs(name)
        types = theirs.pop("types")
        theirs.pop("key")
        row = {"llama.cpp": theirs}
        for label, options in self.args.variants:
            mine = self.ours(name, label, options, types)
            row[label] = mine | {"ratio": mine["mean_kld"] / theirs["mean_kld"]}
        if self.args.weighted_error:
            self.add_errors(row)
        for label, _ in self.args.variants:
            if not self.args.keep:
                Path(row[label]["file"]).unlink()
        return row


def line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def columns(args) -> list[tuple[str, str, str, str]]:
    """Title, variant, figure and format of the columns that each variant fills."""
    found = []
    for label, _ in args.variants:
        found += [(label, label, "mean_kld", ".6f"), ("ratio", label, "ratio", ".3f")]
        if args.weighted_error:
            found += [("diag h", label, "importance_error_ratio", ".3f"), ("H", label, "hessian_error_ratio", ".3f")]
    return found


def cells_of(name: str, row: dict, shown: list) -> list[str]:
    theirs = row["llama.cpp"]
    own = [f"{row[label][figure]:{form}}" for _, label, figure, form in shown]
    return [name, f"{theirs['bpw']:.4g}", f"{theirs['mean_kld']:.6f}", *own]


def averages(rows: dict, shown: list):
    """Mean ratios over the types of each group that were measured."""
    for title, types in {**AVERAGES, "all types": list(rows)}.items():
        measured = [rows[name] for name in types if name in rows]
        if not measured:
            continue
        if len(measured) < len(types):
            title += f" ({len(measured)} of {len(types)})"
        means = [
            f"{mean(row[label][figure] for row in measured):{form}}" if figure.endswith("ratio") else ""
            for _, label, figure, form in shown
        ]
        yield [f"mean: {title}", "", "", *means]


def main() -> None:
    args = arguments()
    shown = columns(args)
    comparison = Comparison(args)
    head = ["type", "bpw", "llama.cpp", *(title for title, *_ in shown)]
    print(line(head))
    print(line(["---"] * len(head)), flush=True)
    rows, failed = {}, []
    for name in args.types:
        try:
            rows[name] = comparison.row(name)
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed.append(name)
            continue
        print(line(cells_of(name, rows[name], shown)), flush=True)
    for cells in averages(rows, shown):
        print(line(cells))
    tokens = next((row["llama.cpp"]["tokens"] for row in rows.values()), 0)
    print(f"\n{args.model.name}: mean KL in nats per token, {tokens} tokens of {args.heldout.name}; ratio to llama.cpp's file")
    if args.json:
        args.json.write_text(json.dumps({"model": args.model.name, "types": rows}, indent=1) + "\n")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
