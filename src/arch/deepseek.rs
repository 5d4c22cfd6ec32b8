//! DeepSeek V2, V3 and R1: keys and values out of one narrow latent, experts behind a few dense layers.
//!
//! As llama.cpp has it, queries are brought into the latent space and attention works there: `attn_k_b` reads queries, `attn_v_b` what
//! attention has mixed.

use anyhow::{Result, bail};

use super::hparams::Keys;
use super::keys::{self, Defaults};
use super::layout::{self, Join, Layout};
use super::names::{self, Names};
use super::rope::Scaling;
use super::tensor_class::in_layer;
use super::{Family, HfConfig, Hparams, Transform, experts};
use crate::gguf::Metadata;
use crate::graph::ops::{Attend, Rotate};
use crate::graph::{Builder, Graph, Value};
use crate::kernels::rope::RopeStyle;

pub(super) struct DeepSeek2;

const ARCHITECTURE: &str = "deepseek2";
const V3: &str = "DeepseekV3ForCausalLM";
const LAYOUT: Layout = Layout {
    names: &[names::NORMS_BEFORE, ATTENTION, names::GATED_MLP, experts::SHARED, experts::CORRECTION],
    partial_rope: true,
    experts: Some(&experts::MLP_EXPERTS),
    ..Layout::LLAMA
};
const ATTENTION: Names = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_q_a", "self_attn.q_a_proj"),
    ("attn_q_a_norm", "self_attn.q_a_layernorm"),
    ("attn_q_b", "self_attn.q_b_proj"),
    ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    ("attn_k_b", "self_attn.kv_b_proj"),
    ("attn_v_b", "self_attn.kv_b_proj"),
    ("attn_output", "self_attn.o_proj"),
];

/// The widths of attention by a latent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mla {
    /// Of the latent that queries are made of; none where they are made of the hidden states.
    pub q_rank: Option<usize>,
    /// Of the latent that keys and values are made of.
    pub kv_rank: usize,
    /// Of the part of a head that does not rotate.
    pub plain: usize,
    /// Of the part of a head that rotates.
    pub rotated: usize,
    /// Of a head's values.
    pub value: usize,
}

impl Mla {
    fn read(keys: &Keys) -> Result<Mla> {
        let (key, rotated) = (keys.size("attention.key_length_mla")?, keys.size("rope.dimension_count")?);
        if rotated >= key {
            bail!("heads of {key} cannot have {rotated} rotated elements: `{}`", keys.name("rope.dimension_count"));
        }
        Ok(Mla {
            q_rank: keys.optional_size("attention.q_lora_rank")?.filter(|&rank| rank > 0),
            kv_rank: keys.size("attention.kv_lora_rank")?,
            plain: key - rotated,
            rotated,
            value: keys.size("attention.value_length_mla")?,
        })
    }
}

/// transformers' defaults: `DeepseekV2Config`, `DeepseekV3Config`.
fn defaults(config: &HfConfig) -> Result<Defaults> {
    let context = if config.architecture()? == V3 { 4096 } else { 2048 };
    // a key that is written over, but stands where the converter has it
    Ok(Defaults { context, head_dim: Some(64), ..Defaults::USUAL })
}

impl Family for DeepSeek2 {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["DeepseekV2ForCausalLM", V3]
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Norm
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let mut metadata = keys::common(ARCHITECTURE, config, &defaults(config)?, &LAYOUT, file_type)?;
        let mut set = |key: &str, value: u32| metadata.set(format!("{ARCHITECTURE}.{key}"), value);
        let (rank, plain) = (config.size_or("kv_lora_rank", 512)?, config.size_or("qk_nope_head_dim", 128)?);
        let (rotated, value) = (config.size_or("qk_rope_head_dim", 64)?, config.size_or("v_head_dim", 128)?);
        // one head of keys, the latent, serves all
        set("attention.head_count_kv", 1);
        set("attention.key_length", rank + rotated);
        set("attention.value_length", rank);
        set("leading_dense_block_count", config.u32("first_k_dense_replace")?.unwrap_or(0));
        set("vocab_size", config.size("vocab_size")?);
        // a null means that there is none
        if let Some(rank) = config.u32("q_lora_rank")? {
            set("attention.q_lora_rank", rank);
        }
        set("attention.kv_lora_rank", rank);
        set("attention.key_length_mla", plain + rotated);
        set("attention.value_length_mla", value);
        set("expert_feed_forward_length", config.size("moe_intermediate_size")?);
        set("expert_shared_count", config.u32("n_shared_experts")?.unwrap_or(0));
        if let Some(scale) = config.f64("routed_scaling_factor")? {
            metadata.set("deepseek2.expert_weights_scale", scale as f32);
        }
        if config.bool("norm_topk_prob")?.unwrap_or(false) {
            metadata.set("deepseek2.expert_weights_norm", true);
        }
        metadata.set("deepseek2.rope.dimension_count", rotated);
        if let Some(multiplier) = config.rope_number("mscale_all_dim")? {
            // of an older convention
            metadata.set("deepseek2.rope.scaling.yarn_log_multiplier", (OLD_MULTIPLIER * multiplier) as f32);
        }
        Ok(metadata)
    }

    fn transform(&self, hparams: &Hparams, gguf_name: &str) -> Transform {
        let Some(mla) = hparams.mla else { return Transform::None };
        let period = mla.plain + mla.value;
        match in_layer(gguf_name) {
            "attn_k_b.weight" => Transform::Transposed { step: 1, first: 0, period },
            "attn_v_b.weight" => Transform::CutRows { period, first: mla.plain, count: mla.value },
            _ => Transform::None,
        }
    }

    fn complete(&self, hparams: &mut Hparams, keys: &Keys) -> Result<()> {
        if !keys.metadata.contains(&keys.name("attention.key_length_mla")) {
            bail!(
                "this file has been made by an old converter, without `{}`: convert the model again",
                keys.name("attention.key_length_mla")
            );
        }
        let mla = Mla::read(keys)?;
        if hparams.head_dim != mla.kv_rank + mla.rotated || hparams.value_dim != mla.kv_rank || hparams.n_head_kv != 1 {
            bail!(
                "keys and values are not those of a latent of {}: `{}`",
                mla.kv_rank,
                keys.name("attention.key_length")
            );
        }
        hparams.mla = Some(mla);
        hparams.leave_out_prediction(keys)?;
        hparams.dense_layers = keys.size_or("leading_dense_block_count", 0)?;
        if let Some(mixture) = &mut hparams.mixture {
            mixture.routing.normalizes &= keys.metadata.contains(&keys.name("expert_weights_norm"));
        }
        hparams.attention_scale = 1.0 / ((mla.plain + mla.rotated) as f32).sqrt();
        if let Scaling::Yarn(yarn) = &mut hparams.rope.scaling
            && yarn.log_multiplier != 0.0
        {
            // scores are scaled in place of cos and sin
            let multiplier = yarn.log_multiplier / OLD_MULTIPLIER as f32;
            yarn.attention_factor = Some(1.0);
            hparams.attention_scale *= (1.0 + 0.1 * multiplier * yarn.factor.ln()).powi(2);
        }
        Ok(())
    }

    fn layer(&self, hparams: &Hparams, il: usize, has_tensor: &dyn Fn(&str) -> bool) -> Graph {
        let mut layer = layout::builder(hparams, il, has_tensor);
        let normed = layer.norm(Value::INPUT, "attn_norm");
        let mixed = attention(&mut layer, hparams, normed);
        let hidden = layer.linear_onto(Value::INPUT, mixed, "attn_output");
        let normed = layer.norm(hidden, "ffn_norm");
        let output = layout::feed_forward(&mut layer, hparams, il, [hidden, normed], &LAYOUT, Join::PLAIN);
        layer.finish(output)
    }
}

/// What llama.cpp's converter multiplies the logarithm's factor by, and its loader divides by.
const OLD_MULTIPLIER: f64 = 0.1;

/// Attention up to its output projection.
fn attention(layer: &mut Builder, hparams: &Hparams, normed: Value) -> Value {
    let Mla { q_rank, kv_rank, plain, rotated, value } = hparams.mla.expect("complete() has read it");
    let heads = hparams.n_head;
    let head = plain + rotated;
    let rotate = |heads| Rotate { heads, head_dim: rotated, rot: rotated, style: hparams.rope.style, table: 0 };
    let q = match q_rank {
        None => layer.linear(normed, "attn_q", heads * head),
        Some(rank) => {
            let latent = layer.linear(normed, "attn_q_a", rank);
            let latent = layer.norm(latent, "attn_q_a_norm");
            layer.linear(latent, "attn_q_b", heads * head)
        }
    };
    let q_plain = layer.columns_of_groups(q, head, 0, plain);
    let q_rotated = layer.columns_of_groups(q, head, plain, rotated);
    let q_rotated = layer.rope(q_rotated, rotate(heads));
    let q_latent = layer.linear_of_heads(q_plain, "attn_k_b", heads, kv_rank);
    let q = layer.concat(q_latent, q_rotated, heads);

    let kv = layer.linear(normed, "attn_kv_a_mqa", kv_rank + rotated);
    let latent = layer.columns(kv, 0, kv_rank);
    let latent = layer.norm(latent, "attn_kv_a_norm");
    let k_rotated = layer.columns(kv, kv_rank, rotated);
    let k_rotated = layer.rope(k_rotated, rotate(1));
    let k = layer.concat(latent, k_rotated, 1);

    let attend = Attend {
        heads,
        kv_heads: 1,
        head_dim: kv_rank + rotated,
        value_dim: kv_rank,
        scale: hparams.attention_scale,
        window: None,
        softcap: None,
    };
    let mixed = layer.attention([q, k, latent], attend, None);
    layer.linear_of_heads(mixed, "attn_v_b", heads, value)
}
