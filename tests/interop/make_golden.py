#!/usr/bin/env python3
"""Make the golden logits of tests/fixtures/golden/ and the small random models of tests/fixtures/models/.

The logits come from Hugging Face transformers in f32 with eager attention, for the sample models of models/ and for
random models that each show one feature of the Llama family or stand for one of the other families. Every random case also
names the changes that would undo its features, and the script refuses a case whose logits do not move by each of them: such a
case would prove nothing.

Each case NAME is NAME.json (the model's folder, the sequences of token ids, the vocabulary columns kept) and NAME.f32:
little-endian f32 of shape [sequences, positions, columns + 1]; the last number of a position is the log-sum-exp over
the whole vocabulary.

NAME.layers.json has, for every linear layer under its GGUF name, the mean over tokens of the squared inputs (columns) and
of the squared gradients at the outputs (rows, in GGUF's order), each as its sum and its first eight numbers. The loss is
the sum of -log p(label) over all positions; the labels, drawn from the model's own distribution, are in the file.

    make_golden.py                  the logits, from the folders as they are
    make_golden.py --models         the random folders too
    make_golden.py --only NAME...   these cases

Needs torch, transformers, safetensors and numpy.
"""

import argparse
import copy
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer, logging
from transformers.masking_utils import eager_mask

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


@dataclass
class Built(Case):
    """One random model that transformers builds and saves itself, under the names of published checkpoints.

    `config` is what differs from the class's defaults. `hub` then changes config.json to the form of published files.
    `parts` are further changes, each of which undoes one more feature.
    """

    hub: dict = field(default_factory=dict)
    parts: list[dict] = field(default_factory=list)


YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 32,
}
DEEPSEEK_YARN = YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + 0.25 * i for i in range(12)],
    "long_factor": [2.0 + 1.5 * i for i in range(12)],
}
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
    "olmo2": Built(
        dict(
            model_type="olmo2",
            hidden_size=72,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=104,
        ),
        undo={"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        notes="norms behind each half only, norms of all queries and all keys together",
    ),
    "olmo3": Built(
        dict(
            model_type="olmo3",
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=88,
            sliding_window=16,
            max_position_embeddings=128,
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                # The factor and the betas of the rule itself, as published: llama.cpp reads no others here
                "full_attention": YARN | {"rope_theta": 10000.0, "attention_factor": 1.138629436111989},
            },
        ),
        undo={"sliding_window": 512},
        parts=[
            {
                "rope_parameters": {
                    kind: {"rope_type": "default", "rope_theta": 10000.0}
                    for kind in ("sliding_attention", "full_attention")
                }
            }
        ],
        notes="the norms of OLMo 2, three layers with a window of 16 and one without, which alone has YaRN",
    ),
    "smollm3": Built(
        dict(
            model_type="smollm3",
            hidden_size=80,
            head_dim=16,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            intermediate_size=56,
            tie_word_embeddings=True,
        ),
        undo={"no_rope_layers": [1, 1, 1, 1]},
        notes="the fourth layer without rope, tied embeddings, query width 96 beside a hidden size of 80",
    ),
    "granite": Built(
        dict(
            model_type="granite",
            hidden_size=96,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            intermediate_size=56,
            embedding_multiplier=3.0,
            attention_multiplier=0.4,
            residual_multiplier=0.7,
            logits_scaling=0.6,
        ),
        undo={"embedding_multiplier": 1.0},
        parts=[{"attention_multiplier": 0.25}, {"residual_multiplier": 1.0}, {"logits_scaling": 1.0}],
        notes="scaled embeddings, scores, halves of a layer and logits",
    ),
    "granitemoe": Built(
        dict(
            model_type="granitemoe",
            hidden_size=80,
            num_hidden_layers=2,
            num_attention_heads=5,
            num_key_value_heads=1,
            intermediate_size=32,
            num_local_experts=6,
            num_experts_per_tok=2,
            embedding_multiplier=3.0,
            attention_multiplier=0.4,
            residual_multiplier=0.7,
            logits_scaling=2.0,
            tie_word_embeddings=True,
        ),
        undo={"num_experts_per_tok": 3},
        parts=[{"embedding_multiplier": 1.0}, {"residual_multiplier": 1.0}],
        notes="the scales of Granite, two of six experts with gate and up in one tensor, tied embeddings",
    ),
    "fused-qkv": Built(
        dict(
            model_type="phi3",
            hidden_size=72,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=104,
            original_max_position_embeddings=512,
        ),
        undo={"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}},
        notes="Phi 3: queries, keys and values in one tensor, gate and up in another",
    ),
    "fused-longrope": Built(
        dict(
            model_type="phi3",
            hidden_size=96,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=56,
            max_position_embeddings=2048,
            original_max_position_embeddings=512,
            rope_theta=10000.0,
            partial_rotary_factor=0.75,
            rope_scaling=LONGROPE,
        ),
        undo={"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 12, "long_factor": [2.0] * 12}},
        parts=[{"rope_scaling": None}, {"partial_rotary_factor": 1.0, "rope_scaling": None}],
        hub={
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "rope_scaling": LONGROPE,
        },
        notes="Phi 3 with a factor for each frequency on three quarters of a head, in the old form of the configuration",
    ),
    "gemma2": Built(
        dict(
            model_type="gemma2",
            hidden_size=80,
            head_dim=24,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=56,
            sliding_window=16,
            query_pre_attn_scalar=24,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=8.0,
            tie_word_embeddings=True,
        ),
        undo={"attn_logit_softcapping": 1e6},
        parts=[{"final_logit_softcapping": 1e6}, {"sliding_window": 512}],
        notes="soft caps of scores and logits, a window of 16 in every other layer",
    ),
    "cohere2": Built(
        dict(
            model_type="cohere2",
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=88,
            sliding_window=16,
            logit_scale=0.6,
            rotary_pct=1.0,
            tie_word_embeddings=True,
        ),
        undo={"sliding_window": 512},
        parts=[{"logit_scale": 1.0}, {"layer_types": ["sliding_attention"] * 4}],
        notes="both halves of a layer beside each other, norms with a mean, three layers with a window and rope, one without",
    ),
    "glm4": Built(
        dict(
            model_type="glm4",
            hidden_size=80,
            head_dim=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=56,
        ),
        undo={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
        parts=[{"attention_bias": False}],
        notes="rope on half of a head in pairs, biases of queries, keys and values, norms before and behind each half",
    ),
    "qwen2moe": Built(
        dict(
            model_type="qwen2_moe",
            hidden_size=72,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=104,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=56,
            num_experts=5,
            num_experts_per_tok=2,
        ),
        undo={"norm_topk_prob": True},
        parts=[{"num_experts_per_tok": 3}, {"qkv_bias": False}],
        notes="a shared expert with a gate of its own, shares that do not sum to one, biases",
    ),
    "glm4moe": Built(
        dict(
            model_type="glm4_moe",
            hidden_size=80,
            head_dim=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=104,
            moe_intermediate_size=32,
            n_shared_experts=2,
            n_routed_experts=5,
            num_experts_per_tok=2,
            routed_scaling_factor=1.7,
            use_qk_norm=True,
            attention_bias=True,
            num_nextn_predict_layers=0,
        ),
        undo={"routed_scaling_factor": 1.0},
        parts=[{"use_qk_norm": False}, {"attention_bias": False}, {"norm_topk_prob": False}],
        notes="a dense layer, then experts chosen by sigmoids with a correction beside shared ones, norms of heads, biases",
    ),
    "gptoss": Built(
        dict(
            model_type="gpt_oss",
            hidden_size=64,
            head_dim=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=32,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=16,
            max_position_embeddings=128,
            rope_theta=10000.0,
            rope_scaling=YARN | {"truncate": True},
        ),
        undo={"swiglu_limit": 1000.0},
        parts=[
            {"sliding_window": 512},
            {"rope_scaling": {"rope_type": "default"}},
            {"num_experts_per_tok": 3},
            {"attention_bias": False},
        ],
        hub={"rope_parameters": None, "rope_theta": 10000.0, "rope_scaling": YARN | {"truncate": True}},
        notes="sinks, biases everywhere, a window of 16 in every other layer, clamped gates, YaRN, two of four experts, "
        "in the old form of the configuration",
    ),
    "deepseek2": Built(
        dict(
            model_type="deepseek_v3",
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            q_lora_rank=40,
            kv_lora_rank=48,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=32,
            intermediate_size=88,
            moe_intermediate_size=36,
            n_shared_experts=2,
            n_routed_experts=6,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            first_k_dense_replace=1,
            routed_scaling_factor=1.7,
            num_nextn_predict_layers=0,
            # of the published files, for which this class has no setting
            scoring_func="sigmoid",
            topk_method="noaux_tc",
        ),
        undo={"n_group": 1},
        parts=[{"routed_scaling_factor": 1.0}, {"norm_topk_prob": False}, {"rope_interleave": False}],
        notes="latent attention, a dense layer, then experts of one of two groups, chosen by sigmoids with a correction",
    ),
    "deepseek-v2": Built(
        dict(
            model_type="deepseek_v2",
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            q_lora_rank=40,
            kv_lora_rank=48,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=32,
            intermediate_size=88,
            moe_intermediate_size=36,
            n_shared_experts=2,
            n_routed_experts=6,
            num_experts_per_tok=2,
            first_k_dense_replace=1,
            routed_scaling_factor=1.7,
            max_position_embeddings=128,
            rope_theta=10000.0,
            rope_scaling=DEEPSEEK_YARN,
            scoring_func="softmax",
        ),
        undo={"rope_scaling": {"rope_type": "default"}},
        parts=[{"routed_scaling_factor": 1.0}, {"num_experts_per_tok": 3}],
        hub={
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "rope_scaling": DEEPSEEK_YARN,
            "head_dim": None,
            "qk_head_dim": None,
        },
        notes="latent attention with YaRN that also scales the scores, experts chosen by softmax whose shares do not sum to one, "
        "in the old form of the configuration",
    ),
    "qwen3next": Built(
        dict(
            model_type="qwen3_next",
            hidden_size=64,
            head_dim=16,
            num_hidden_layers=4,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=104,
            moe_intermediate_size=20,
            shared_expert_intermediate_size=28,
            num_experts=4,
            num_experts_per_tok=2,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=18,
            linear_value_head_dim=18,
            # Norms behind linear attention amplify what rounding does to small outputs: more layers would ask for other tolerances
            layer_types=["linear_attention", "full_attention"] * 2,
        ),
        undo={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
        parts=[{"num_experts_per_tok": 3}, {"norm_topk_prob": False}],
        notes="two layers of linear attention by the gated delta rule, heads that share keys, two of attention with gates",
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


def build_model(folder: Path, case: Built, seed: int) -> None:
    common = {"vocab_size": VOCABULARY, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    common |= {"max_position_embeddings": 512, "tie_word_embeddings": False}
    # It changes what it is given
    config = AutoConfig.for_model(**copy.deepcopy(common | case.config))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model, getattr(torch, case.dtype), np.random.default_rng(seed))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    saved = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", changed(saved, case.hub))


def fill(model, dtype: torch.dtype, random: np.random.Generator) -> None:
    """Random numbers for every tensor of the model, by its name and shape."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        value = torch.from_numpy(random_values(name, tuple(tensor.shape), model.config, random))
        # Published files keep these in F32
        tensor.data = value.to(torch.float32 if name.endswith("e_score_correction_bias") else dtype)


def random_values(name: str, shape: tuple, config, random: np.random.Generator) -> np.ndarray:
    is_gemma = config.model_type.startswith("gemma")
    if name.endswith("norm.weight"):
        from_one = is_gemma or config.model_type == "qwen3_next" and not name.endswith("linear_attn.norm.weight")
        return random.uniform(0.5, 1.5, shape) - from_one
    if name.endswith(("bias", "sinks")):
        return random.standard_normal(shape) * 0.3
    if name == "model.embed_tokens.weight":
        tied = 0.1 if is_gemma else 0.2
        return random.standard_normal(shape) * (tied if config.tie_word_embeddings else 0.5)
    # The experts of gpt-oss are transposed
    fan_in = shape[-2] if config.model_type == "gpt_oss" and "experts." in name else shape[-1]
    return random.standard_normal(shape) * gain(name, config) / np.sqrt(fan_in)


# How large the outputs of a matrix are beside its inputs, by a part of its name.
GAINS = {
    "q_proj": 1.6,
    "k_proj": 1.6,
    "qkv_proj": 1.4,
    "v_proj": 1.0,
    "o_proj": 1.0,
    "lm_head": 1.5,
    "gate.weight": 1.5,
    "router": 1.5,
    # What attention makes is normed, so it should not vanish
    "conv1d": 4.0,
}


def gain(name: str, config) -> float:
    # Large enough for the limits of the gate
    if config.model_type == "gpt_oss" and "experts." in name:
        return 3.5 if "gate_up" in name else 0.3
    return next((gain for part, gain in GAINS.items() if part in name), 1.2)


def write_model(folder: Path, case: Case, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if isinstance(case, Built):
        build_model(folder, case, seed)
        write_tokenizer(folder)
        return
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
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "linear_attn.in_proj_qkvz": "attn_qkv",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.out_proj": "ssm_out",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
# Families whose query and key rows the converter interleaves.
PAIRED = ("llama", "mistral", "mixtral", "smollm3", "granite", "granitemoe")


def gguf_name(name: str) -> str | None:
    if name == "lm_head":
        return "output.weight"
    for end, short in LINEAR.items():
        if name.endswith(end):
            return f"blk.{name.split('.')[2]}.{short}.weight"
    return None


def gguf_rows(name: str, rows: np.ndarray, config) -> np.ndarray:
    """Rows of a query or key projection as llama.cpp stores them: the two halves of a llama head interleaved."""
    if config.model_type not in PAIRED or not name.endswith(("q_proj", "k_proj")):
        return rows
    heads = config.num_attention_heads if name.endswith("q_proj") else config.num_key_value_heads
    return rows.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def gguf_parts(name: str, rows: np.ndarray, config) -> dict[str, np.ndarray]:
    """The tensors that a matrix becomes, with their rows."""
    if not name.endswith("in_proj_qkvz"):
        return {gguf_name(name): gguf_rows(name, rows, config)}
    size, heads = config.linear_key_head_dim, config.linear_num_key_heads
    shared = config.linear_num_value_heads // heads * config.linear_value_head_dim
    parts = np.split(rows.reshape(heads, -1), np.cumsum([size, size, shared]), 1)
    *qkv, gates = (part.ravel() for part in parts)
    return {gguf_name(name): np.concatenate(qkv), gguf_name(name).replace("attn_qkv", "attn_gate"): gates}


class Seen:
    """Matrices of one layer that are no modules of their own, each applied where its inputs and outputs are seen."""

    def __init__(self, layer: int):
        self.layer = layer
        # by stack and place in it: inputs and outputs
        self.seen: dict[tuple[str, int], list] = {}

    def linear(self, stem: str, place: int, x: torch.Tensor, weight: torch.Tensor, bias=None) -> torch.Tensor:
        y = torch.nn.functional.linear(x, weight, bias)
        self.keep(stem, place, x, y)
        return y

    def keep(self, stem: str, place: int, x: torch.Tensor, y: torch.Tensor) -> None:
        y.retain_grad()
        self.seen.setdefault((stem, place), []).append((x.detach(), y))

    def layers(self, tokens: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By tensor, sums of squares of inputs and gradients over the tokens that each matrix saw, by all tokens."""

        def squares(parts: list[torch.Tensor]) -> np.ndarray:
            return torch.cat(parts).double().square().sum(0).numpy() / tokens

        stacks: dict[str, list] = {}
        for (stem, _), seen in sorted(self.seen.items()):
            inputs, outputs = zip(*seen)
            pair = squares(list(inputs)), squares([output.grad for output in outputs])
            stacks.setdefault(f"blk.{self.layer}.{stem}.weight", []).append(pair)
        return {stack: tuple(map(np.concatenate, zip(*pairs))) for stack, pairs in stacks.items()}


class Mixture(Seen):
    """Experts as transformers has them, one matrix after the other."""

    def __init__(self, block, layer: int):
        super().__init__(layer)
        self.experts = block.experts
        router = block.gate if hasattr(block, "gate") else block.router
        router.register_forward_hook(lambda _router, x, output: self.keep("ffn_gate_inp", 0, x[0].flatten(0, -2), output[0]))
        block.experts.forward = self.forward

    def forward(self, x: torch.Tensor, asked: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        for expert in range(self.experts.num_experts):
            token, place = torch.where(asked == expert)
            gate, up, down = self.matrices(expert)
            gate = self.linear("ffn_gate_exps", expert, x[token], *gate)
            up = self.linear("ffn_up_exps", expert, x[token], *up)
            y = self.linear("ffn_down_exps", expert, self.gated(gate, up), *down)
            out = out.index_add(0, token, y * shares[token, place, None])
        return out

    def matrices(self, expert: int) -> list[tuple]:
        """The expert's gate, up and down matrices with their biases."""
        experts = self.experts
        gate_up, down = experts.gate_up_proj[expert], experts.down_proj[expert]
        if not self.is_gpt_oss():
            return [(matrix,) for matrix in (*gate_up.chunk(2), down)]
        bias = experts.gate_up_proj_bias[expert]
        gate, up = (gate_up.T[::2], bias[::2]), (gate_up.T[1::2], bias[1::2])
        return [gate, up, (down.T, experts.down_proj_bias[expert])]

    def gated(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        if self.is_gpt_oss():
            return self.experts._apply_gate(torch.stack((gate, up), -1).flatten(-2))
        return self.experts.act_fn(gate) * up

    def is_gpt_oss(self) -> bool:
        """Transposed, with biases, gate and up in turn."""
        return hasattr(self.experts, "gate_up_proj_bias")


class Latent(Seen):
    """Latent attention in llama.cpp's form, head by head: queries taken to the latents, their mixtures taken to values."""

    def __init__(self, attention, layer: int):
        super().__init__(layer)
        attention.absorbed = self.forward
        attention.expand_kv = lambda latents, k_rope: (k_rope, latents)
        heads, nope = attention.num_heads, attention.qk_nope_head_dim
        self.matrices = attention.kv_b_proj.weight.unflatten(0, (heads, -1)).split((nope, attention.v_head_dim), 1)

    def forward(self, query, k_rope, latents, mask, scaling) -> torch.Tensor:
        values = []
        for head, (to_keys, to_values) in enumerate(zip(*self.matrices)):
            q_nope, q_rope = query[0, head].split((len(to_keys), k_rope.shape[-1]), -1)
            q = self.linear("attn_k_b", head, q_nope, to_keys.T)
            scores = (q @ latents[0, 0].T + q_rope @ k_rope[0, 0].T) * scaling + mask[0, 0]
            values.append(self.linear("attn_v_b", head, scores.softmax(-1) @ latents[0, 0], to_values))
        return torch.stack(values, 1)[None]


def absorbed(attention, query, k_rope, latents, mask, scaling, **_):
    return attention.absorbed(query, k_rope, latents, mask, scaling), None


AttentionInterface.register("absorbed", absorbed)
AttentionMaskInterface.register("absorbed", eager_mask)


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
    others: list[Seen] = []
    for module_name, module in list(model.named_modules()):
        if hasattr(module, "experts"):
            others.append(Mixture(module, int(module_name.split(".")[2])))
        if hasattr(module, "kv_b_proj"):
            others.append(Latent(module, int(module_name.split(".")[2])))
            model.set_attn_implementation("absorbed")
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
        squares, gradients = short(mean_square(inputs[module_name])), mean_square([output.grad for output in seen])
        for tensor, gradient in gguf_parts(module_name, gradients, model.config).items():
            layers[tensor] = {"input": squares, "gradient": short(gradient)}
    for other in others:
        for tensor, (squares, gradient) in other.layers(sum(map(len, tokens))).items():
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
    for undo in [case.undo, *getattr(case, "parts", [])]:
        if undo:
            moved = np.abs(full - logits(folder, tokens, undo=undo)).max()
            assert moved > VISIBLE, f"{name}: its feature moves the logits by {moved} only, with {undo}"
            print(f"{'':<20} without its feature: {moved:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", action="store_true", help="make the random folders again")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these cases, and none of the others")
    args = parser.parse_args()

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in ("tiny-llama", "tiny-qwen3"):
        if args.only and name not in args.only:
            continue
        folder = ROOT / "models" / name
        tokens = token_ids(folder, 32)
        write_golden(name, folder, tokens, spread(SAMPLE_COLUMNS, 4096), "the trained sample model")
        write_layers(name, folder, tokens)
    for seed, (name, case) in enumerate(CASES.items(), start=1):
        if args.only and name not in args.only:
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
