#!/usr/bin/env python3
"""Make the golden logits of tests/fixtures/golden/ and the small random models of tests/fixtures/models/.

The logits come from Hugging Face transformers in f32 with eager attention, for the sample models of models/ and for
random models that each show one feature of the Llama family. Every random case also names the change that would undo
its feature, and the script refuses a case whose logits do not move by it: such a case would prove nothing.

Each case NAME is NAME.json (the model's folder, the sequences of token ids, the vocabulary columns kept) and NAME.f32:
little-endian f32 of shape [sequences, positions, columns + 1]; the last number of a position is the log-sum-exp over
the whole vocabulary.

NAME.layers.json has, for every linear layer under its GGUF name, the mean over tokens of the squared inputs (columns) and
of the squared gradients at the outputs (rows, in GGUF's order), each as its sum and its first eight numbers. The loss is
the sum of -log p(label) over all positions; the labels, drawn from the model's own distribution, are in the file.

    make_golden.py                  the logits, from the folders as they are
    make_golden.py --models         the random folders too
    make_golden.py --only NAME      one case

Needs torch, transformers, safetensors and numpy.
"""

import argparse
import copy
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/fixtures/golden"
MODELS = ROOT / "tests/fixtures/models"

# Plain loops, which know every dtype.
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
VOCABULARY = 320
BOS, EOS, PAD = 316, 318, 319
SAMPLE_COLUMNS = 256
RANDOM_COLUMNS = 24
# A feature must move some logit by this much, hundreds of times the tolerance that a test would use.
VISIBLE = 0.05

TEXTS = [
    "A quantizer keeps the numbers that matter. It reads a model, listens to some text, and then decides how many "
    "bits each tensor deserves before it writes the file.",
    "fn main() {\n    let sizes = [256, 768, 4096];\n    for (i, size) in sizes.iter().enumerate() {\n"
    "        println!(\"{i}: {size} rows\");\n    }\n}\n",
]


@dataclass
class Case:
    """One random model. `config` and `undo` change the base configuration; a value of None removes the key."""

    config: dict
    undo: dict
    dtype: str = "bfloat16"
    shards: int = 1
    notes: str = ""


CASES = {
    "llama-bias": Case(
        dict(attention_bias=True, mlp_bias=True, num_key_value_heads=1),
        undo={"attention_bias": False, "mlp_bias": False},
        notes="grouped queries 4:1, attention and MLP biases",
    ),
    "llama-tied": Case(
        dict(tie_word_embeddings=True),
        undo={},
        dtype="float16",
        notes="tied embeddings, F16 weights",
    ),
    "llama-head-dim": Case(
        dict(head_dim=48, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32),
        undo={},
        notes="query width 96 beside a hidden size of 64",
    ),
    "llama-rope-llama3": Case(
        dict(
            max_position_embeddings=512,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        undo={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        notes="all three frequency bands of the llama3 rule",
    ),
    "llama-rope-linear": Case(
        dict(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
        undo={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        notes="linear rope scaling",
    ),
    "llama-rope-yarn": Case(
        dict(
            max_position_embeddings=128,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ),
        undo={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        notes="YaRN, sequences longer than the original context",
    ),
    "mistral-window": Case(
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "sliding_window": 16,
            "attention_bias": None,
            "mlp_bias": None,
            "pretraining_tp": None,
        },
        undo={"sliding_window": None},
        notes="sliding window of 16 in sequences of 48",
    ),
    "llama-old-config": Case(
        dict(
            head_dim=None,
            dtype=None,
            torch_dtype="float16",
            attention_bias=None,
            mlp_bias=None,
            rope_parameters=None,
            rope_theta=500000.0,
            rope_scaling={"type": "linear", "factor": 2.0},
            transformers_version="4.40.0",
        ),
        undo={"rope_theta": 10000.0, "rope_scaling": None},
        dtype="float16",
        notes="a configuration of transformers 4: rope_theta beside rope_scaling with `type`",
    ),
    "llama-f32": Case(
        dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1),
        undo={},
        dtype="float32",
        notes="F32 weights",
    ),
    "llama-sharded": Case({}, undo={}, shards=3, notes="three safetensors files and their index"),
    "qwen2": Case(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "num_attention_heads": 6,
            "hidden_size": 96,
            "head_dim": None,
            "intermediate_size": 160,
            "rms_norm_eps": 1e-6,
            "use_sliding_window": False,
            "sliding_window": 32,
            "max_window_layers": 1,
            "attention_bias": None,
            "mlp_bias": None,
            "pretraining_tp": None,
        },
        undo={"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        notes="biases of queries, keys and values only, a sliding window that is not in use, no head size in the config",
    ),
    "gemma3": Case(
        {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "num_hidden_layers": 6,
            "head_dim": 24,
            "query_pre_attn_scalar": 24,
            "intermediate_size": 96,
            "hidden_act": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
            },
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
            "sliding_window": 16,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "mlp_bias": None,
            "pretraining_tp": None,
            "tie_word_embeddings": True,
        },
        undo={"sliding_window": 512},
        notes="norms behind each half, five layers with a window of 16 and one without, two rope tables, GELU, scaled embedding",
    ),
    "qwen3moe": Case(
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "hidden_size": 80,
            "head_dim": 24,
            "num_attention_heads": 4,
            "moe_intermediate_size": 40,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "rms_norm_eps": 1e-6,
            "mlp_bias": None,
            "pretraining_tp": None,
        },
        undo={"num_experts_per_tok": 3},
        notes="two of six experts, shares that sum to one, norms of heads",
    ),
    "mixtral": Case(
        {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "hidden_size": 48,
            "head_dim": None,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "intermediate_size": 56,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": None,
            "attention_bias": None,
            "mlp_bias": None,
            "pretraining_tp": None,
        },
        undo={"num_experts_per_tok": 1},
        notes="two of four experts in the layers of Llama",
    ),
}


def configuration(case: Case) -> dict:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "dtype": case.dtype,
        "transformers_version": "5.24.0",
        "use_cache": True,
    }
    return changed(config, case.config)


def changed(config: dict, changes: dict) -> dict:
    config = copy.deepcopy(config) | changes
    return {key: value for key, value in config.items() if value is not None or key == "sliding_window"}


def weights(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Random weights that make every part count: attention is far from uniform, norms far from one."""
    random = np.random.default_rng(seed)
    hidden, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    q_width, kv_width = heads * head, config["num_key_value_heads"] * head

    tensors: dict[str, np.ndarray] = {}

    def linear(name: str, rows: int, cols: int, gain: float, bias: bool = False) -> None:
        tensors[f"{name}.weight"] = random.standard_normal((rows, cols)) * gain / np.sqrt(cols)
        if bias:
            tensors[f"{name}.bias"] = random.standard_normal(rows) * 0.3

    kind = config["model_type"]
    is_gemma, is_qwen2 = kind == "gemma3_text", kind == "qwen2"

    def norm(name: str, width: int = hidden) -> None:
        # Gemma's are kept as their distance from one
        tensors[f"{name}.weight"] = random.uniform(0.5, 1.5, width) - is_gemma

    # Gemma's rows are scaled; tied and large, they would leave no doubt about the next token
    tensors["model.embed_tokens.weight"] = random.standard_normal((VOCABULARY, hidden)) * (0.1 if is_gemma else 0.5)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        attention_bias, mlp_bias = config.get("attention_bias", is_qwen2), config.get("mlp_bias", False)
        norm(f"{at}.input_layernorm")
        linear(f"{at}.self_attn.q_proj", q_width, hidden, 1.6, attention_bias)
        linear(f"{at}.self_attn.k_proj", kv_width, hidden, 1.6, attention_bias)
        linear(f"{at}.self_attn.v_proj", kv_width, hidden, 1.0, attention_bias)
        linear(f"{at}.self_attn.o_proj", hidden, q_width, 1.0, attention_bias and not is_qwen2)
        norm(f"{at}.post_attention_layernorm")
        if kind in ("gemma3_text", "qwen3_moe"):
            norm(f"{at}.self_attn.q_norm", head)
            norm(f"{at}.self_attn.k_norm", head)
        if is_gemma:
            norm(f"{at}.pre_feedforward_layernorm")
            norm(f"{at}.post_feedforward_layernorm")
        parts, matrices = [f"{at}.mlp"], ("gate_proj", "up_proj", "down_proj")
        if kind == "qwen3_moe":
            linear(f"{at}.mlp.gate", config["num_experts"], hidden, 1.5)
            parts = [f"{at}.mlp.experts.{expert}" for expert in range(config["num_experts"])]
            ffn = config["moe_intermediate_size"]
        elif kind == "mixtral":
            experts, matrices = f"{at}.block_sparse_moe", ("w1", "w3", "w2")
            linear(f"{experts}.gate", config["num_local_experts"], hidden, 1.5)
            parts = [f"{experts}.experts.{expert}" for expert in range(config["num_local_experts"])]
        gate, up, down = matrices
        for part in parts:
            linear(f"{part}.{gate}", ffn, hidden, 1.2, mlp_bias)
            linear(f"{part}.{up}", ffn, hidden, 1.2, mlp_bias)
            linear(f"{part}.{down}", hidden, ffn, 1.2, mlp_bias)
    norm("model.norm")
    if not config.get("tie_word_embeddings"):
        linear("lm_head", VOCABULARY, hidden, 1.5)
    return tensors


def write_model(folder: Path, case: Case, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = configuration(case)
    write_json(folder / "config.json", config)
    dtype = getattr(torch, case.dtype)
    tensors = {name: torch.from_numpy(value).to(dtype) for name, value in weights(config, seed).items()}
    write_weights(folder, tensors, case.shards)
    write_tokenizer(folder)


def write_weights(folder: Path, tensors: dict, shards: int) -> None:
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata)
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[len(names) * shard // shards : len(names) * (shard + 1) // shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata)
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_tokenizer(folder: Path) -> None:
    """The sample models' byte-level BPE, cut to its first merges."""
    source = ROOT / "models/tiny-llama"
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    model, added = tokenizer["model"], tokenizer["added_tokens"]
    keep = VOCABULARY - len(added)
    moved = {token["id"]: keep + i for i, token in enumerate(added)}
    for token in added:
        token["id"] = moved[token["id"]]
    model["vocab"] = {piece: i for piece, i in model["vocab"].items() if i < keep}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))

    config = json.loads((source / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {str(moved[int(i)]): token for i, token in config["added_tokens_decoder"].items()}
    write_json(folder / "tokenizer_config.json", config)


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def logits(folder: Path, tokens: list[list[int]], dtype=torch.float32, undo: dict | None = None) -> np.ndarray:
    """Logits [sequences, positions, vocabulary] of the folder, or of the folder with `undo` in its configuration."""
    with tempfile.TemporaryDirectory() as scratch:
        if undo is not None:
            folder = Path(shutil.copytree(folder, Path(scratch) / "model"))
            config = json.loads((folder / "config.json").read_text())
            write_json(folder / "config.json", changed(config, undo))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **EAGER).eval()
        with torch.no_grad():
            # One sequence at a time: nothing of a batch can leak between them.
            rows = [model(torch.tensor([ids]), use_cache=False).logits[0] for ids in tokens]
    return torch.stack(rows).double().numpy()


def write_golden(name: str, folder: Path, tokens: list[list[int]], columns: list[int], notes: str) -> np.ndarray:
    full = logits(folder, tokens)
    assert np.isfinite(full).all(), f"{name}: logits are not finite"
    peak = full.max(-1, keepdims=True)
    lse = peak + np.log(np.exp(full - peak).sum(-1, keepdims=True))
    kept = np.concatenate([full[..., columns], lse], -1)
    kept.astype("<f4").tofile(GOLDEN / f"{name}.f32")

    # What f32 arithmetic itself costs in the reference: a floor for any tolerance.
    noise = float(np.abs(full - logits(folder, tokens, torch.float64)).max())
    header = {
        "model": str(folder.relative_to(ROOT)),
        "notes": notes,
        "f32_noise": float(f"{noise:.2g}"),
        "tokens": tokens,
        "columns": columns,
    }
    (GOLDEN / f"{name}.json").write_text(json.dumps(header) + "\n")
    print(f"{name:<20} logits {full.std():6.2f} rms, {np.abs(full).max():6.2f} max, f32 noise {noise:.1e}")
    return full


# GGUF's name of a linear layer by the end of its name in transformers.
LINEAR = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str | None:
    if name == "lm_head":
        return "output.weight"
    for end, short in LINEAR.items():
        if name.endswith(end):
            return f"blk.{name.split('.')[2]}.{short}.weight"
    return None


def gguf_rows(name: str, rows: np.ndarray, config) -> np.ndarray:
    """Rows of a query or key projection as llama.cpp stores them: the two halves of a llama head interleaved."""
    if config.model_type not in ("llama", "mistral", "mixtral") or not name.endswith(("q_proj", "k_proj")):
        return rows
    heads = config.num_attention_heads if name.endswith("q_proj") else config.num_key_value_heads
    return rows.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


class Mixture:
    """Experts as transformers has them, one matrix after the other, so that each is seen."""

    def __init__(self, block, layer: int):
        self.block, self.layer = block, layer
        # by stack and expert: inputs and outputs
        self.seen: dict[tuple[str, int], list] = {}

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        block, experts = self.block, self.block.experts
        x = hidden.reshape(-1, hidden.shape[-1])
        scores = self.linear("ffn_gate_inp", 0, x, block.gate.weight)
        shares, asked = scores.softmax(-1).topk(block.gate.top_k, -1)
        # Mixtral has no such setting
        if getattr(block.gate, "norm_topk_prob", True):
            shares = shares / shares.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for expert in range(experts.num_experts):
            token, place = torch.where(asked == expert)
            gate, up = experts.gate_up_proj[expert].chunk(2)
            gate = self.linear("ffn_gate_exps", expert, x[token], gate)
            up = self.linear("ffn_up_exps", expert, x[token], up)
            act = experts.act_fn(gate) * up
            y = self.linear("ffn_down_exps", expert, act, experts.down_proj[expert])
            out = out.index_add(0, token, y * shares[token, place, None])
        return out.reshape(hidden.shape)

    def linear(self, stem: str, expert: int, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.linear(x, weight)
        y.retain_grad()
        self.seen.setdefault((stem, expert), []).append((x.detach(), y))
        return y

    def layers(self, tokens: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By tensor, sums of squares of inputs and gradients over the tokens that each expert saw, by all tokens."""

        def squares(parts: list[torch.Tensor]) -> np.ndarray:
            return torch.cat(parts).double().square().sum(0).numpy() / tokens

        stacks: dict[str, list] = {}
        for (stem, _), seen in sorted(self.seen.items()):
            inputs, outputs = zip(*seen)
            pair = squares(list(inputs)), squares([output.grad for output in outputs])
            stacks.setdefault(f"blk.{self.layer}.{stem}.weight", []).append(pair)
        return {stack: tuple(map(np.concatenate, zip(*pairs))) for stack, pairs in stacks.items()}


def write_layers(name: str, folder: Path, tokens: list[list[int]]) -> None:
    """Second moments of inputs and output gradients of every linear layer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **EAGER).eval()
    inputs, outputs = {}, {}

    def keep(module_name):
        def hook(_module, arguments, output):
            output.retain_grad()
            inputs.setdefault(module_name, []).append(arguments[0].detach())
            outputs.setdefault(module_name, []).append(output)

        return hook

    for module_name, module in model.named_modules():
        if gguf_name(module_name):
            module.register_forward_hook(keep(module_name))
    blocks = {name: module for name, module in model.named_modules() if hasattr(module, "experts")}
    mixtures = [Mixture(block, int(name.split(".")[2])) for name, block in blocks.items()]
    for mixture in mixtures:
        mixture.block.forward = mixture.forward
    generator = torch.Generator().manual_seed(0)
    labels, loss = [], 0.0
    for ids in tokens:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        part = torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")
        part.backward()
        labels.append(drawn.tolist())
        loss += part.item()

    def mean_square(parts: list[torch.Tensor]) -> np.ndarray:
        return torch.cat([part.flatten(0, -2) for part in parts]).double().square().mean(0).numpy()

    def short(values: np.ndarray) -> dict:
        return {"sum": float(f"{values.sum():.7g}"), "first": [float(f"{value:.7g}") for value in values[:8]]}

    layers = {}
    for module_name, seen in outputs.items():
        gradient = gguf_rows(module_name, mean_square([output.grad for output in seen]), model.config)
        layers[gguf_name(module_name)] = {"input": short(mean_square(inputs[module_name])), "gradient": short(gradient)}
    for mixture in mixtures:
        for tensor, (squares, gradient) in mixture.layers(sum(map(len, tokens))).items():
            layers[tensor] = {"input": short(squares), "gradient": short(gradient)}
    header = {"labels": labels, "loss": float(f"{loss:.8g}"), "layers": layers}
    (GOLDEN / f"{name}.layers.json").write_text(json.dumps(header) + "\n")


def token_ids(folder: Path, length: int) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.encode(text, add_special_tokens=False)[:length] for text in TEXTS]
    assert all(len(sequence) == length for sequence in ids), "the texts are too short"
    return ids


def spread(count: int, size: int) -> list[int]:
    return sorted({round(i * (size - 1) / (count - 1)) for i in range(count)})


def check_visible(name: str, case: Case, folder: Path, tokens: list[list[int]], full: np.ndarray) -> None:
    if case.undo:
        moved = np.abs(full - logits(folder, tokens, undo=case.undo)).max()
        assert moved > VISIBLE, f"{name}: its feature moves the logits by {moved} only"
        print(f"{'':<20} without its feature: {moved:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", action="store_true", help="make the random folders again")
    parser.add_argument("--only", help="one case, and none of the others")
    args = parser.parse_args()

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in ("tiny-llama", "tiny-qwen3"):
        if args.only not in (None, name):
            continue
        folder = ROOT / "models" / name
        tokens = token_ids(folder, 32)
        write_golden(name, folder, tokens, spread(SAMPLE_COLUMNS, 4096), "the trained sample model")
        write_layers(name, folder, tokens)
    for seed, (name, case) in enumerate(CASES.items(), start=1):
        if args.only not in (None, name):
            continue
        folder = MODELS / name
        if args.models:
            write_model(folder, case, seed)
        tokens = token_ids(folder, 48)
        full = write_golden(name, folder, tokens, spread(RANDOM_COLUMNS, VOCABULARY), case.notes)
        write_layers(name, folder, tokens)
        check_visible(name, case, folder, tokens, full)


if __name__ == "__main__":
    main()
