//! What the generations of Gemma share.

use anyhow::Result;

use super::keys::{self, Defaults};
use super::{HfConfig, Hparams, Transform};

/// Elements of a head, where config.json does not say.
pub(super) const HEAD_DIM: u32 = 256;
/// The square of what attention scores are divided by, where config.json does not say.
const SCALED_BY: u32 = 256;

/// Norms are kept as their distance from 1.
pub(super) fn transform(gguf_name: &str) -> Transform {
    if gguf_name.ends_with("norm.weight") { Transform::AddOne } else { Transform::None }
}

/// Whether llama.cpp scales attention as config.json says. It knows the 27 B model by its number of layers, and scales that by the width
/// that each head would have if all shared the residual stream's.
pub(super) fn has_usual_scale(config: &HfConfig, defaults: &Defaults, layers_of_27b: usize) -> Result<bool> {
    let scaled_by = match config.size("num_hidden_layers")? as usize {
        layers if layers == layers_of_27b => config.size("hidden_size")? / config.size("num_attention_heads")?,
        _ => keys::head_dim(config, defaults)?,
    };
    Ok(config.f64("query_pre_attn_scalar")?.unwrap_or(SCALED_BY.into()) == f64::from(scaled_by))
}

/// Scales for which llama.cpp has no key.
pub(super) fn complete(hparams: &mut Hparams, layers_of_27b: usize) {
    hparams.embedding_scale = (hparams.n_embd as f32).sqrt();
    if hparams.n_layer == layers_of_27b {
        hparams.attention_scale = 1.0 / ((hparams.n_embd / hparams.n_head) as f32).sqrt();
    }
}
