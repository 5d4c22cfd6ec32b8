//! gpt-oss: biases everywhere, sinks in attention, a window in every second layer, experts with a bounded activation.

use anyhow::Result;
use serde_json::Value;

use super::hparams::{Keys, Layers};
use super::keys::{self, Defaults};
use super::layout::{Layout, Norms};
use super::names::{self, Names};
use super::tensor_class::in_layer;
use super::{Family, HfConfig, Hparams, Transform, experts};
use crate::gguf::Metadata;
use crate::kernels::glu::Activation;
use crate::kernels::rope::RopeStyle;

pub(super) struct GptOss;

const ARCHITECTURE: &str = "gpt-oss";
const LAYOUT: Layout = Layout {
    names: &[
        names::NORMS_BEFORE_AS_POST,
        names::ATTENTION,
        &[("attn_sinks.weight", "self_attn.sinks"), ("ffn_gate_inp", "mlp.router")],
        EXPERTS,
    ],
    norms: Norms::BEFORE_AS_POST,
    activation: Activation::ClampedSwiglu,
    sinks: true,
    experts: Some(&experts::FUSED),
    ..Layout::LLAMA
};

/// Columns and rows change places, unless they are packed; gate and up take turns.
const EXPERTS: Names = &[
    ("ffn_down_exps.weight", "mlp.experts.down_proj_blocks"),
    ("ffn_gate_exps.weight", "mlp.experts.gate_up_proj_blocks"),
    ("ffn_up_exps.weight", "mlp.experts.gate_up_proj_blocks"),
    ("ffn_down_exps.weight", "mlp.experts.down_proj"),
    ("ffn_down_exps.bias", "mlp.experts.down_proj_bias"),
    ("ffn_gate_exps.weight", "mlp.experts.gate_up_proj"),
    ("ffn_up_exps.weight", "mlp.experts.gate_up_proj"),
    ("ffn_gate_exps.bias", "mlp.experts.gate_up_proj_bias"),
    ("ffn_up_exps.bias", "mlp.experts.gate_up_proj_bias"),
];

/// transformers' defaults: `GptOssConfig`.
const DEFAULTS: Defaults = Defaults {
    context: 131_072,
    kv_heads: Some(8),
    head_dim: Some(64),
    theta: 150_000.0,
    eps: 1e-5,
    ..Defaults::USUAL
};
const WINDOW: u32 = 128;
/// The last of each so many layers sees all tokens. llama.cpp's converter writes no key for it.
const PATTERN: usize = 2;

impl Family for GptOss {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["GptOssForCausalLM"]
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Neox
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let refuse = |key| keys::refuse(config, "gpt-oss", key);
        if !keys::has_usual_windows(config, PATTERN) {
            refuse("layer_types")?;
        }
        for (key, usual) in [("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)] {
            if config.get(key).and_then(Value::as_f64).is_some_and(|value| value != usual) {
                refuse(key)?;
            }
        }
        let mut metadata = keys::common(ARCHITECTURE, config, &DEFAULTS, &LAYOUT, file_type)?;
        metadata.set("gpt-oss.attention.sliding_window", config.size_or("sliding_window", WINDOW)?);
        metadata.set("gpt-oss.expert_feed_forward_length", config.size("intermediate_size")?);
        Ok(metadata)
    }

    fn transform(&self, hparams: &Hparams, gguf_name: &str) -> Transform {
        let turns = |first| match gguf_name.ends_with(".bias") {
            true => Transform::EachColumn { step: 2, first },
            false => Transform::Transposed { step: 2, first, period: hparams.n_embd },
        };
        match in_layer(gguf_name) {
            name if name.starts_with("ffn_gate_exps.") => turns(0),
            name if name.starts_with("ffn_up_exps.") => turns(1),
            "ffn_down_exps.weight" => {
                let period = hparams.mixture.map_or(hparams.n_ff, |mixture| mixture.n_ff);
                Transform::Transposed { step: 1, first: 0, period }
            }
            _ => Transform::None,
        }
    }

    fn complete(&self, hparams: &mut Hparams, _: &Keys) -> Result<()> {
        hparams.check_mixture()?;
        hparams.unwindowed.get_or_insert(Layers::Each(PATTERN));
        Ok(())
    }
}
