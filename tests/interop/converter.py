"""Compares what dq-gpu writes for a Hugging Face folder with what llama.cpp's converter writes.

    python converter.py LLAMA_CPP fixtures [NAME...] rewrites tests/data/converter/*.json from the converter's output
    python converter.py LLAMA_CPP compare [NAME...]  converts variants of the sample models both ways and compares
                                                     every key, tensor and byte

Needs torch, transformers and safetensors, and `cargo build --example to_gguf`. The sample tokenizers are not in the
converter's table of hashes, so their pre-tokenizer is given. Some families ask for files or tokens that the random models do
not have: those get the vocabulary of any other family.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PRE_TOKENIZER = "qwen2"
RUNNER = """
import runpy, sys
tree, pre = sys.argv[1:3]
sys.argv = sys.argv[2:]
sys.path[:0] = [tree, tree + "/gguf-py"]
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
from conversion import gemma, glm, phi
for family in gemma.Gemma2Model, glm.Glm4Model, glm.Glm4MoeModel, phi.Phi3MiniModel:
    family.set_vocab = base.TextModel._set_vocab_gpt2
runpy.run_path(tree + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def convert(tree, folder, target, outtype="bf16", options=()):
    command = [sys.executable, "-c", RUNNER, tree, PRE_TOKENIZER, folder, "--outtype", outtype, "--outfile", target]
    command += options
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def load(path):
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = [field for field in reader.fields.values() if not field.name.startswith("GGUF.")]
    keys = [[field.name, [kind.name for kind in field.types], field.contents()] for field in fields]
    tensors = [
        [tensor.name, tensor.tensor_type.name, [int(dim) for dim in tensor.shape], zlib.crc32(tensor.data.tobytes())]
        for tensor in reader.tensors
    ]
    return keys, tensors


RANDOM = [
    "gemma3",
    "qwen2",
    "qwen3moe",
    "mixtral",
    "olmo2",
    "olmo3",
    "smollm3",
    "granite",
    "granitemoe",
    "fused-qkv",
    "fused-longrope",
    "gemma2",
    "cohere2",
    "glm4",
    "qwen2moe",
    "glm4moe",
    "gptoss",
    "deepseek2",
    "deepseek-v2",
    "qwen3next",
]
# Their layers that predict tokens further ahead are left out.
WITHOUT_PREDICTION = ["qwen3next"]


def fixtures(tree, names):
    random = [f"tests/fixtures/models/{name}" for name in RANDOM]
    for folder in ["models/tiny-llama", "models/tiny-qwen3", *random]:
        model = Path(folder).name
        if names and model not in names:
            continue
        with tempfile.TemporaryDirectory() as work:
            target = Path(work) / "model.gguf"
            convert(tree, REPO / folder, target, options=["--no-mtp"] if model in WITHOUT_PREDICTION else [])
            keys, tensors = load(target)
        keys = [key for key in keys if not key[0].startswith("tokenizer.")]
        rows = {"keys": keys, "tensors": tensors}
        lines = [f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows[name]) + "\n]" for name in rows]
        (REPO / "tests/data/converter" / f"{model}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def differences(theirs, ours):
    for what, a, b in zip(["key", "tensor"], theirs, ours):
        if a == b:
            continue
        yield from (f"{what} of theirs: {row}" for row in a if row not in b)
        yield from (f"{what} of ours: {row}" for row in b if row not in a)
        yield f"the order of {what}s differs"


LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CARD = """---
license: other
license_name: llama3.1
license_link: https://example.org/LICENSE
language:
- en
- "no"
tags: [chat, test]
pipeline_tag: text-generation
base_model: meta-llama/Llama-3.1-8B-Instruct
datasets:
- HuggingFaceH4/ultrachat_200k
- https://huggingface.co/datasets/example
model-index:
- name: Example
  results: []
---
# Example
"""
OLD_ROPE = {"rope_parameters": None}
NEW_ROPE = {"rope_theta": None}
# Folder name: base model, changed config (None removes a key), and what else changes.
VARIANTS = {
    "plain-llama": ("tiny-llama", {}, {}),
    "plain-qwen3": ("tiny-qwen3", {}, {}),
    "f16": ("tiny-llama", {}, {"dtype": "float16", "outtype": "f16"}),
    "f32": ("tiny-llama", {}, {"dtype": "float32", "outtype": "f32"}),
    "bias": ("tiny-llama", {"attention_bias": True, "mlp_bias": True}, {"bias": "_proj.weight"}),
    "qwen3-bias": ("tiny-qwen3", {"attention_bias": True}, {"bias": "self_attn."}),
    "sharded-8M-instruct-v0.2": ("tiny-llama", {}, {"shards": 3, "card": CARD}),
    "Qwen3-6M-Base": ("tiny-qwen3", {}, {"shards": 2, "card": CARD}),
    "llama3-new": (
        "tiny-llama",
        NEW_ROPE
        | {"rope_parameters": LLAMA3 | {"factor": 8.0, "rope_theta": 5e5, "original_max_position_embeddings": 512}},
        {},
    ),
    "llama3-old": (
        "tiny-llama",
        OLD_ROPE
        | {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 1024}},
        {},
    ),
    "linear": ("tiny-llama", OLD_ROPE | {"rope_scaling": {"type": "linear", "factor": 4.0}}, {}),
    "yarn": (
        "tiny-qwen3",
        OLD_ROPE | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}},
        {},
    ),
    "yarn-full": (
        "tiny-qwen3",
        NEW_ROPE
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e6,
                "original_max_position_embeddings": 512,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "attention_factor": 1.2,
            }
        },
        {},
    ),
    "mistral": (
        "tiny-llama",
        {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "max_position_embeddings": None},
        {},
    ),
    "defaults": ("tiny-llama", {"head_dim": None, "rms_norm_eps": None, "max_position_embeddings": None}, {}),
    "named": (
        "tiny-llama",
        {"_name_or_path": "meta-llama/Llama-2-8M-chat-hf"},
        {"generation": {"top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05, "temperature": 0.7, "min_p": 0}},
    ),
    "tied-with-head": ("tiny-llama", {"tie_word_embeddings": True}, {}),
}


def make_variant(folder, base, config_changes, changes):
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(REPO / "models" / base, folder)
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text()) | config_changes
    config_path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    tensors = load_file(folder / "model.safetensors")
    if dtype := changes.get("dtype"):
        tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    if part := changes.get("bias"):
        random = torch.Generator().manual_seed(1)
        for name in [name for name in tensors if part in name and name.endswith("_proj.weight")]:
            weight = tensors[name]
            bias = torch.randn(weight.shape[0], generator=random)
            tensors[name.replace("weight", "bias")] = bias.to(weight.dtype)
    if shards := changes.get("shards"):
        (folder / "model.safetensors").unlink()
        index = {}
        for shard in range(shards):
            names = list(tensors)[shard::shards]
            file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            save_file({name: tensors[name].contiguous() for name in names}, folder / file)
            index |= dict.fromkeys(names, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    else:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    if card := changes.get("card"):
        (folder / "README.md").write_text(card)
    if generation := changes.get("generation"):
        (folder / "generation_config.json").write_text(json.dumps(generation))


def compare(tree, names):
    failed = 0
    for name in names or VARIANTS:
        base, config_changes, changes = VARIANTS[name]
        with tempfile.TemporaryDirectory() as work:
            folder, theirs, ours = Path(work) / name, Path(work) / "theirs.gguf", Path(work) / "ours.gguf"
            make_variant(folder, base, config_changes, changes)
            convert(tree, folder, theirs, changes.get("outtype", "bf16"))
            subprocess.run([REPO / "target/debug/examples/to_gguf", folder, ours], check=True, capture_output=True)
            found = list(differences(load(theirs), load(ours)))
            same_bytes = theirs.read_bytes() == ours.read_bytes()
        failed += bool(found)
        print(f"{name}: {'different' if found else 'same'}{', byte for byte' if same_bytes else ''}", flush=True)
        for line in found:
            print(f"    {line[:300]}")
    return failed


if __name__ == "__main__":
    tree, command, *names = sys.argv[1:]
    sys.path.insert(0, tree + "/gguf-py")
    sys.exit(fixtures(tree, names) if command == "fixtures" else compare(tree, names))
