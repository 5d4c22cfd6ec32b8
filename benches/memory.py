#!/usr/bin/env python3
"""Memory of the whole job against the depth of the model: it must not grow.

Makes two random Llama models of the same width, one `--factor` times deeper than the other, runs the whole job on each and
samples the anonymous resident memory (RssAnon in /proc/PID/status: what the program allocated, without the pages of mapped
model files, which the system drops when it needs room). Linux only.

    cargo build --release --bins --examples
    benches/memory.py --work /tmp/memory

Prints both peaks and their ratio, and exits with 1 if the deeper model needs more than `--allowed` times as much.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MIB = 1 << 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, default=REPOSITORY / "target/release", help="folder of dq-gpu")
    parser.add_argument("--tokenizer", type=Path, default=REPOSITORY / "models/tiny-llama")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models, about 1.5 GiB with the defaults")
    parser.add_argument("--layers", type=int, default=12, help="of the shallow model")
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--ffn", type=int, default=2816)
    parser.add_argument("--options", type=shlex.split, default=shlex.split("--bpw 4.5 --chunks 8 --device cpu"))
    parser.add_argument("--allowed", type=float, default=1.2)
    return parser.parse_args()


def make_model(args, layers: int) -> Path:
    folder = args.work / f"layers-{layers}"
    if not (folder / "config.json").exists():
        command = [args.programs / "examples/random_model", folder, "--tokenizer", args.tokenizer, "--layers", layers]
        command += ["--hidden", args.hidden, "--ffn", args.ffn, "--heads", 16, "--kv-heads", 4]
        subprocess.run([str(part) for part in command], check=True)
    return folder


def anonymous(pid: int) -> int:
    """Bytes of anonymous resident memory, 0 once the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields.get("RssAnon", "0 kB").split()[0]) * 1024


def measure(args, model: Path) -> tuple[dict[str, int], float]:
    """Peak of each step (a line on stderr ends it), and seconds."""
    output = args.work / f"{model.name}.gguf"
    command = [args.programs / "dq-gpu", "quantize", model, "-o", output, *args.options]
    log = args.work / f"{model.name}.log"
    start, peak, steps = time.monotonic(), 0, {}
    with log.open("w") as errors:
        job = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=errors)
        while job.poll() is None:
            peak = max(peak, anonymous(job.pid))
            for line in log.read_text(errors="replace").splitlines():
                if line not in steps:
                    steps[line], peak = peak, 0
            time.sleep(0.02)
    if job.returncode != 0:
        sys.exit(f"dq-gpu failed with {job.returncode}:\n{log.read_text()}")
    output.unlink()
    return steps | {"end": peak}, time.monotonic() - start


def main() -> int:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    peaks = []
    for layers in (args.layers, args.layers * args.factor):
        model = make_model(args, layers)
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        steps, seconds = measure(args, model)
        peaks.append(max(steps.values()))
        print(f"{layers:>4} layers, weights {size / MIB:.0f} MiB: peak {peaks[-1] / MIB:.1f} MiB, {seconds:.0f} s")
        for step, peak in steps.items():
            print(f"    {peak / MIB:8.1f} MiB  {step.strip()}")
    ratio = peaks[1] / peaks[0]
    print(f"ratio {ratio:.3f}, at most {args.allowed} allowed")
    return 0 if ratio <= args.allowed else 1


if __name__ == "__main__":
    sys.exit(main())
