"""The few llama.cpp programs that the comparisons need, as plain functions.

Every function takes the folder of the built programs, runs one of them, keeps its output in a log beside the file that
it makes, and raises RuntimeError with the end of that log when the program fails.
"""

import os
import re
import subprocess
from pathlib import Path

# Attention and its cache in f32, so that the figures carry the weights' error and nothing else.
EXACT = ["-ctk", "f32", "-ctv", "f32", "-fa", "off"]


def run(command: list, log: Path) -> str:
    """Run `command` with its output in `log`, return the output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # Straight into the file: llama.cpp loses what its log thread has not written at exit, and a pipe makes it slow.
    with log.open("w") as file:
        status = subprocess.call(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Threads that wait asleep: spinning ones make a busy machine several times slower.
            env=os.environ | {"OMP_WAIT_POLICY": "passive"},
        )
    output = log.read_text(errors="replace")
    if status != 0:
        tail = "\n".join(output.splitlines()[-15:])
        raise RuntimeError(f"{Path(command[0]).name} failed with {status}, see {log}:\n{tail}")
    return output


def convert(python: str, converter: Path, model: Path, output: Path, outtype: str) -> None:
    """Hugging Face folder -> GGUF with llama.cpp's converter. `python` needs torch and transformers."""
    wrapper = Path(__file__).with_name("convert.py")
    run([python, wrapper, converter, model, output, "--outtype", outtype], output.with_suffix(".convert.log"))


def imatrix(programs: Path, model: Path, text: Path, output: Path, ctx: int, chunks: int) -> None:
    command = [programs / "llama-imatrix", "-m", model, "-f", text, "-o", output, "-c", ctx, "--no-ppl"]
    run(command + ["--chunks", chunks, "-t", threads()], output.with_suffix(".log"))


def quantize(programs: Path, source: Path, output: Path, mix: str, imatrix: Path | None = None) -> None:
    command = [programs / "llama-quantize"] + (["--imatrix", imatrix] if imatrix else [])
    run(command + [source, output, mix, threads()], output.with_suffix(".log"))


def dequantize(programs: Path, source: Path, output: Path) -> None:
    command = [programs / "llama-quantize", "--allow-requantize", source, output, "F32", threads()]
    run(command, output.with_suffix(".log"))


def base_logits(programs: Path, model: Path, text: Path, output: Path, ctx: int, chunks: int = -1) -> None:
    """Write llama-perplexity's 16-bit log-probabilities of `model`, the reference of `divergence`."""
    command = [programs / "llama-perplexity", "-m", model, "-f", text, "-c", ctx, "--chunks", chunks, *EXACT]
    run(command + ["--kl-divergence-base", output, "-t", threads()], output.with_suffix(".log"))


def divergence(programs: Path, model: Path, base: Path, log: Path, ctx: int, chunks: int = -1) -> dict:
    """KL divergence of `model` from the logits in `base`; keys as in `dq-gpu kld --json`."""
    command = [programs / "llama-perplexity", "-m", model, "-c", ctx, "--chunks", chunks, *EXACT]
    command += ["--kl-divergence-base", base, "--kl-divergence", "-t", threads()]
    # On a busy machine the summary is lost at exit all the same now and then: measure again.
    attempts = 10
    while "Same top p:" not in (output := run(command, log)) and attempts > 1:
        attempts -= 1
    return parse_divergence(output)


def parse_divergence(output: str) -> dict:
    """The summary that llama-perplexity prints at the end. Shares and probabilities are fractions, not per cent."""
    number = r"(-?(?:[\d.]+(?:e-?\d+)?|nan|inf))"
    patterns = {
        "ppl_quant": rf"^Mean PPL\(Q\)\s*:\s*{number}",
        "ppl_base": rf"^Mean PPL\(base\)\s*:\s*{number}",
        "mean_kld": rf"^Mean\s+KLD:\s*{number}",
        "mean_kld_se": rf"^Mean\s+KLD:\s*{number} ±\s*{number}",
        "max_kld": rf"^Maximum KLD:\s*{number}",
        "p999_kld": rf"^99\.9%\s+KLD:\s*{number}",
        "p99_kld": rf"^99\.0%\s+KLD:\s*{number}",
        "p95_kld": rf"^95\.0%\s+KLD:\s*{number}",
        "p90_kld": rf"^90\.0%\s+KLD:\s*{number}",
        "median_kld": rf"^Median\s+KLD:\s*{number}",
        "rms_dp": rf"^RMS Δp\s*:\s*{number}",
        "same_top": rf"^Same top p:\s*{number}",
    }
    figures = {}
    for key, pattern in patterns.items():
        found = re.search(pattern, output, re.MULTILINE)
        if not found:
            raise RuntimeError(f"llama-perplexity printed no {key}")
        figures[key] = float(found.groups()[-1])
    for key in ("rms_dp", "same_top"):
        figures[key] /= 100.0
    return figures


def threads() -> int:
    return os.cpu_count() or 1
