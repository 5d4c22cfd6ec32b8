//! GLM-4: half of each head rotates. Dense models have norms before and behind both halves of a layer, and gate and up in one matrix;
//! GLM-4.5 and later have experts behind a few dense layers.

use anyhow::Result;

use super::hparams::Keys;
use super::keys::{self, Defaults};
use super::layout::{HeadNorms, Layout, Norms};
use super::names::{self, Names};
use super::{Family, HfConfig, Hparams, experts};
use crate::gguf::Metadata;
use crate::graph::ops::Gating;
use crate::kernels::rope::RopeStyle;

/// The share of a head that rotates, where config.json does not say.
const PART: f64 = 0.5;

pub(super) struct Glm4;

const LAYOUT: Layout = Layout {
    names: &[NORMS, names::ATTENTION, MATRICES],
    norms: Norms::AROUND,
    fused_gate: true,
    partial_rope: true,
    ..Layout::LLAMA
};
const NORMS: Names = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_self_attn_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_mlp_layernorm"),
];
const MATRICES: Names = &[("ffn_up", "mlp.gate_up_proj"), ("ffn_down", "mlp.down_proj")];

/// transformers' defaults: `Glm4Config`.
const DEFAULTS: Defaults =
    Defaults { context: 131_072, kv_heads: Some(2), head_dim: Some(128), eps: 1.5625e-7, ..Defaults::USUAL };

impl Family for Glm4 {
    fn architecture(&self) -> &'static str {
        "glm4"
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["Glm4ForCausalLM"]
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Norm
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let mut metadata = keys::common(self.architecture(), config, &DEFAULTS, &LAYOUT, file_type)?;
        metadata.set("glm4.rope.dimension_count", keys::rotated(config, &DEFAULTS, PART)?);
        Ok(metadata)
    }
}

pub(super) struct Glm4Moe;

const MOE_LAYOUT: Layout = Layout {
    names: &[names::NORMS_BEFORE_AS_POST, names::ATTENTION, names::GATED_MLP, experts::SHARED, experts::CORRECTION],
    norms: Norms::BEFORE_AS_POST,
    head_norms: HeadNorms::HeadsIfThere,
    partial_rope: true,
    experts: Some(&experts::MLP_EXPERTS),
    ..Layout::LLAMA
};

/// transformers' defaults: `Glm4MoeConfig`.
const MOE_DEFAULTS: Defaults = Defaults { context: 131_072, kv_heads: Some(8), eps: 1e-5, ..Defaults::USUAL };

impl Family for Glm4Moe {
    fn architecture(&self) -> &'static str {
        "glm4moe"
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["Glm4MoeForCausalLM"]
    }

    fn layout(&self) -> &Layout {
        &MOE_LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Neox
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let mut metadata = keys::common(self.architecture(), config, &MOE_DEFAULTS, &MOE_LAYOUT, file_type)?;
        metadata.set("glm4moe.rope.dimension_count", keys::rotated(config, &MOE_DEFAULTS, PART)?);
        let counts = [
            ("expert_feed_forward_length", "moe_intermediate_size", 1408),
            ("expert_shared_count", "n_shared_experts", 1),
            ("leading_dense_block_count", "first_k_dense_replace", 1),
        ];
        for (key, hf, usual) in counts {
            metadata.set(format!("glm4moe.{key}"), config.u32(hf)?.unwrap_or(usual));
        }
        // sigmoid
        metadata.set("glm4moe.expert_gating_func", 2u32);
        metadata.set("glm4moe.expert_weights_scale", config.f64("routed_scaling_factor")?.unwrap_or(1.0) as f32);
        metadata.set("glm4moe.expert_weights_norm", config.bool("norm_topk_prob")?.unwrap_or(true));
        // layers that predict tokens further ahead are left out
        if config.u32("num_nextn_predict_layers")? == Some(0) {
            metadata.set("glm4moe.nextn_predict_layers", 0u32);
        }
        Ok(metadata)
    }

    fn complete(&self, hparams: &mut Hparams, keys: &Keys) -> Result<()> {
        hparams.check_mixture()?;
        hparams.leave_out_prediction(keys)?;
        hparams.dense_layers = keys.size_or("leading_dense_block_count", 0)?;
        let tells = |key: &str| keys.metadata.contains(&keys.name(key));
        let mixture = hparams.mixture.as_mut().expect("it was just checked");
        mixture.routing.normalizes &= tells("expert_weights_norm");
        if !tells("expert_gating_func") {
            mixture.routing.gating = Gating::Sigmoid;
        }
        Ok(())
    }
}
