//! Phi-3, 3.5 and 4: queries, keys and values in one matrix, gate and up in another; frequencies stretched by tables of factors.

use anyhow::{Result, bail};

use super::hf_config::HfScaling;
use super::keys::{self, Defaults};
use super::layout::Layout;
use super::names::{self, Names};
use super::rope::FACTORS;
use super::{Extra, Family, HfConfig};
use crate::gguf::Metadata;
use crate::kernels::rope::RopeStyle;

pub(super) struct Phi3;

const ARCHITECTURE: &str = "phi3";
const MATRICES: Names = &[
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const LAYOUT: Layout = Layout {
    names: &[names::NORMS_BEFORE, MATRICES],
    fused_qkv: true,
    fused_gate: true,
    partial_rope: true,
    rope_factors: true,
    ..Layout::LLAMA
};

/// transformers' defaults: `Phi3Config`.
const DEFAULTS: Defaults = Defaults { context: 4096, eps: 1e-5, ..Defaults::USUAL };

impl Family for Phi3 {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["Phi3ForCausalLM"]
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Neox
    }

    /// In the order of the converter, which has a function of its own for it.
    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let common = keys::common(ARCHITECTURE, config, &DEFAULTS, &LAYOUT, file_type)?;
        if common.contains("phi3.attention.key_length") {
            bail!("a `head_dim` of its own is not supported for Phi-3: `{}`", config.path().display());
        }
        let context = original_context(config)?;
        let mut metadata = keys::some(&common, ARCHITECTURE, &["context_length"]);
        metadata.set("phi3.rope.scaling.original_context_length", context);
        let sizes = [
            "embedding_length",
            "feed_forward_length",
            "block_count",
            "attention.head_count",
            "attention.head_count_kv",
            "attention.layer_norm_rms_epsilon",
        ];
        metadata.extend(keys::some(&common, ARCHITECTURE, &sizes));
        metadata.set("phi3.rope.dimension_count", rotated(config)?);
        metadata.extend(keys::some(&common, ARCHITECTURE, &["rope.freq_base"]));
        metadata.set("general.file_type", file_type);
        // llama.cpp has no window for it; 0 marks Phi-4
        metadata.set("phi3.attention.sliding_window", config.u32("sliding_window")?.unwrap_or(0));
        if let HfScaling::Long { .. } = config.rope(context)?.scaling {
            metadata.set("phi3.rope.scaling.attn_factor", attention_factor(config)? as f32);
        }
        Ok(metadata)
    }

    fn extra_tensors(&self, config: &HfConfig) -> Result<Vec<Extra>> {
        let HfScaling::Long { long, short } = config.rope(original_context(config)?)?.scaling else {
            return Ok(Vec::new());
        };
        let pairs = rotated(config)? as usize / 2;
        if long.len() != pairs || short.len() != pairs {
            bail!(
                "`long_factor` and `short_factor` have {} and {} numbers where {pairs} are rotated: `{}`",
                long.len(),
                short.len(),
                config.path().display()
            );
        }
        let named = [(FACTORS[1], long), (FACTORS[2], short)];
        Ok(named.map(|(name, values)| Extra { name: name.into(), values }).into())
    }
}

fn original_context(config: &HfConfig) -> Result<u32> {
    config.size_or("original_max_position_embeddings", DEFAULTS.context)
}

/// Elements of a head that are rotated.
fn rotated(config: &HfConfig) -> Result<u32> {
    let part = config.rope(DEFAULTS.context)?.part.unwrap_or(1.0);
    let width = (part * f64::from(config.size("hidden_size")?)) as u32;
    Ok(width / config.size("num_attention_heads")?)
}

/// What cos and sin are multiplied by where the context is stretched.
fn attention_factor(config: &HfConfig) -> Result<f64> {
    let original = f64::from(original_context(config)?);
    let scale = f64::from(config.size_or("max_position_embeddings", DEFAULTS.context)?) / original;
    Ok(if scale > 1.0 { (1.0 + scale.ln() / original.ln()).sqrt() } else { 1.0 })
}
