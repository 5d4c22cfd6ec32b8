//! Layers whose attention is linear: a short convolution, then the gated delta rule.

use anyhow::{Result, bail};

use super::hparams::{Keys, Layers};
use super::names::Names;
use crate::gguf::{Array, Value as Item};
use crate::graph::{Builder, Value};
use crate::kernels::gated_delta::DeltaHeads;
use crate::kernels::glu::Activation;

/// The heads of such layers, and which layers they are.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearAttention {
    pub heads: DeltaHeads,
    /// Tokens that a convolution sees.
    pub taps: usize,
    /// The layers that have another attention.
    pub others: Layers,
}

/// Of Qwen3-Next. Rows of the first matrix are those of queries, keys and values, and of the gates behind the norm.
pub(super) const NAMES: Names = &[
    ("attn_qkv", "linear_attn.in_proj_qkvz"),
    ("attn_gate", "linear_attn.in_proj_qkvz"),
    ("ssm_ba", "linear_attn.in_proj_ba"),
    ("ssm_conv1d", "linear_attn.conv1d"),
    ("ssm_a", "linear_attn.A_log"),
    ("ssm_dt.bias", "linear_attn.dt_bias"),
    ("ssm_norm", "linear_attn.norm"),
    (OUTPUT, "linear_attn.out_proj"),
];

/// Stem of the matrix that ends it.
pub(super) const OUTPUT: &str = "ssm_out";

/// The last of each so many layers has another attention, where metadata do not say.
const INTERVAL: usize = 4;

impl LinearAttention {
    pub(super) fn read(keys: &Keys) -> Result<LinearAttention> {
        let key_dim = keys.size("ssm.state_size")?;
        let (key_heads, value_heads) = (keys.size("ssm.group_count")?, keys.size("ssm.time_step_rank")?);
        if !value_heads.is_multiple_of(key_heads) {
            bail!("{value_heads} heads cannot share {key_heads} key heads: `{}`", keys.name("ssm.group_count"));
        }
        // llama.cpp has them of one size
        if keys.size("ssm.inner_size")? != value_heads * key_dim {
            bail!("keys and values of different width are not supported: `{}`", keys.name("ssm.inner_size"));
        }
        let heads = DeltaHeads { key_heads, value_heads, key_dim, value_dim: key_dim };
        let others = match keys.metadata.get(&keys.name("attention.recurrent_layers")) {
            Some(Item::Array(Array::Bool(linear))) => Layers::Listed(linear.iter().map(|linear| !linear).collect()),
            _ => Layers::Each(keys.size_or("full_attention_interval", INTERVAL)?.max(1)),
        };
        Ok(LinearAttention { heads, taps: keys.size("ssm.conv_kernel")?, others })
    }

    /// Bytes that a layer keeps between tokens: its states and what the next convolutions see.
    pub fn state_bytes(&self) -> usize {
        let DeltaHeads { value_heads, key_dim, value_dim, .. } = self.heads;
        let channels = self.heads.qk_width() + self.heads.value_width();
        (value_heads * key_dim * value_dim + (self.taps - 1) * channels) * size_of::<f32>()
    }

    /// Heads that share their keys.
    pub(super) fn sharing(&self) -> usize {
        self.heads.value_heads / self.heads.key_heads
    }

    /// Attention up to its output projection.
    pub(super) fn attention(&self, layer: &mut Builder, normed: Value) -> Value {
        let (heads, sharing) = (self.heads, self.sharing());
        let (qk, values) = (heads.qk_width(), heads.value_width());
        let mixed = layer.linear(normed, "attn_qkv", qk + values);
        let opening = layer.linear(normed, "attn_gate", values);
        let rates = layer.linear(normed, "ssm_ba", 2 * heads.value_heads);
        let mixed = layer.short_conv(mixed, "ssm_conv1d", self.taps);
        let queries_keys = layer.columns(mixed, 0, qk);
        let queries_keys = layer.unit_groups(queries_keys, heads.key_dim);
        let v = layer.columns(mixed, qk, values);
        let [beta, alpha] = [0, sharing].map(|first| layer.columns_of_groups(rates, 2 * sharing, first, sharing));
        let gates = layer.delta_gates([alpha, beta], ["ssm_a", "ssm_dt.bias"]);
        let out = layer.gated_delta([queries_keys, v, gates], heads);
        let normed = layer.norm_of_groups(out, "ssm_norm", heads.value_dim);
        layer.gated(opening, normed, Activation::Silu)
    }
}
