#!/usr/bin/env python3
"""Make the table of docs/models.md: every model of the golden tests, from three sides.

    cargo build --release --example to_gguf
    cargo test --release --test forward -- --nocapture the_cpu | tee forward.log
    families.py forward.log [NAME...]

From the log of the tests: how far our logits, mean squared inputs and mean squared gradients are from those of transformers. Then
llama.cpp runs the GGUF that we make of each folder, in F32 throughout: the mean KL divergence of its distributions from those of
transformers, and the share of positions with the same most likely token.

Needs torch, transformers and llama-cpp-python. `LLAMA_CPP_LIB_PATH` may name a folder with a libllama of your own.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# a file beside this one has the name of the package
sys.path = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]

import llama_cpp
import numpy as np
import torch
from transformers import AutoModelForCausalLM, logging

REPO = Path(__file__).resolve().parents[2]
GOLDEN = REPO / "tests/fixtures/golden"
CONTEXT = 256


@llama_cpp.llama_log_callback
def silent(_level, _text, _data):
    pass


def measured(log: str, name: str) -> dict[str, str]:
    """What the tests printed of one case on the CPU."""
    line = rf"^{re.escape(name)} +CPU [^:]*: "
    logits = re.search(line + r"logits (\S+) ", log, re.MULTILINE)
    layers = re.search(line + r"mean squares of inputs (\S+), gradients (\S+)", log, re.MULTILINE)
    return {
        "logits": logits.group(1) if logits else "-",
        "inputs": layers.group(1) if layers else "-",
        "gradients": layers.group(2) if layers else "-",
    }


def reference(folder: Path, tokens: list[list[int]]) -> np.ndarray:
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **eager).eval()
    with torch.no_grad():
        rows = [model(torch.tensor([ids]), use_cache=False).logits[0] for ids in tokens]
    return torch.stack(rows).double().numpy()


def in_llama_cpp(gguf: Path, tokens: list[list[int]], vocabulary: int) -> np.ndarray:
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), parameters)
    if not model:
        raise RuntimeError(f"llama.cpp does not load {gguf.name}")
    context = llama_cpp.llama_context_default_params()
    context.n_ctx = context.n_batch = context.n_ubatch = CONTEXT
    # keys and values in f32, no flash attention
    context.type_k = context.type_v = 0
    context.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, context)
    logits = []
    for ids in tokens:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 1
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError(f"llama.cpp does not run {gguf.name}")
        row = [llama_cpp.llama_get_logits_ith(context, place) for place in range(len(ids))]
        logits.append(np.stack([np.ctypeslib.as_array(pointer, (vocabulary,)).copy() for pointer in row]))
        llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.stack(logits).astype(np.float64)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def row(name: str, log: str) -> str:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    folder, tokens = REPO / golden["model"], golden["tokens"]
    architectures = json.loads((folder / "config.json").read_text())["architectures"]
    wanted = reference(folder, tokens)
    with tempfile.TemporaryDirectory() as work:
        gguf = Path(work) / "model.gguf"
        command = [REPO / "target/release/examples/to_gguf", folder, gguf, "f32"]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        found = in_llama_cpp(gguf, tokens, wanted.shape[-1])
    p, q = log_softmax(wanted), log_softmax(found)
    divergence = (np.exp(p) * (p - q)).sum(-1).mean()
    same = (p.argmax(-1) == q.argmax(-1)).mean()
    ours = measured(log, name)
    converter = "same bytes" if (REPO / f"tests/data/converter/{name}.json").exists() else "-"
    cells = [architectures[0], name, ours["logits"], ours["inputs"], ours["gradients"], converter]
    return "| " + " | ".join([*cells, f"{divergence:.1e}", f"{100 * same:.1f} %"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    names = args.names or sorted(path.stem for path in GOLDEN.glob("*.json") if path.suffixes == [".json"])
    head = ["architecture", "model", "logits", "inputs", "gradients", "converter", "KL in llama.cpp", "same token"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    log = args.log.read_text()
    for name in names:
        print(row(name, log), flush=True)


if __name__ == "__main__":
    main()
