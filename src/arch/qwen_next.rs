//! Qwen3-Next: three of four layers have linear attention, the fourth has gates behind its softmax; experts everywhere, with a shared
//! one.

use anyhow::{Result, bail};
use serde_json::Value;

use super::hparams::Keys;
use super::keys::{self, Defaults};
use super::layout::{HeadNorms, Layout, Norms};
use super::linear::{self, LinearAttention};
use super::names;
use super::tensor_class::in_layer;
use super::{Family, HfConfig, Hparams, Transform, experts};
use crate::gguf::Metadata;
use crate::kernels::rope::RopeStyle;

pub(super) struct Qwen3Next;

const ARCHITECTURE: &str = "qwen3next";
const LAYOUT: Layout = Layout {
    names: &[names::NORMS_BEFORE_AS_POST, names::ATTENTION, linear::NAMES, experts::SHARED_WITH_GATE],
    norms: Norms::BEFORE_AS_POST,
    head_norms: HeadNorms::Heads,
    partial_rope: true,
    gated_q: true,
    shared_gate: true,
    experts: Some(&experts::MLP_EXPERTS),
    ..Layout::LLAMA
};

/// transformers' defaults: `Qwen3NextConfig`.
const DEFAULTS: Defaults = Defaults { context: 32_768, kv_heads: Some(2), head_dim: Some(256), ..Defaults::USUAL };

/// The share of a head that rotates, where config.json does not say.
const PART: f64 = 0.25;

impl Family for Qwen3Next {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["Qwen3NextForCausalLM"]
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Neox
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        check(config)?;
        let mut metadata = keys::common(ARCHITECTURE, config, &DEFAULTS, &LAYOUT, file_type)?;
        let mut set = |key: &str, value: u32| metadata.set(format!("{ARCHITECTURE}.{key}"), value);
        let heads = config.size("linear_num_value_heads")?;
        set("expert_feed_forward_length", config.size("moe_intermediate_size")?);
        set("expert_shared_feed_forward_length", config.size("shared_expert_intermediate_size")?);
        set("ssm.conv_kernel", config.size("linear_conv_kernel_dim")?);
        set("ssm.state_size", config.size("linear_key_head_dim")?);
        set("ssm.group_count", config.size("linear_num_key_heads")?);
        set("ssm.time_step_rank", heads);
        set("ssm.inner_size", config.size("linear_value_head_dim")?.saturating_mul(heads));
        if let Some(linear) = linear_layers(config)? {
            metadata.set(format!("{ARCHITECTURE}.attention.recurrent_layers"), linear);
        }
        let interval = config.size_or("full_attention_interval", 4)?;
        metadata.set(format!("{ARCHITECTURE}.full_attention_interval"), interval);
        metadata.set(format!("{ARCHITECTURE}.rope.dimension_count"), keys::rotated(config, &DEFAULTS, PART)?);
        Ok(metadata)
    }

    fn transform(&self, hparams: &Hparams, gguf_name: &str) -> Transform {
        let Some(LinearAttention { heads, .. }) = &hparams.linear else { return Transform::None };
        // what belongs to a key head: a query, a key, then values and gates of the heads that share it
        let shared = heads.value_width() / heads.key_heads;
        let counts = [heads.key_dim, heads.key_dim, shared];
        let first = counts.iter().sum();
        let period = first + shared;
        match in_layer(gguf_name) {
            "attn_qkv.weight" => Transform::SortedRows { period, counts },
            "attn_gate.weight" => Transform::CutRows { period, first, count: shared },
            "ssm_conv1d.weight" => Transform::Squeezed,
            "ssm_a" => Transform::MinusExp,
            "ssm_norm.weight" => Transform::None,
            name if name.ends_with("norm.weight") => Transform::AddOne,
            _ => Transform::None,
        }
    }

    fn complete(&self, hparams: &mut Hparams, keys: &Keys) -> Result<()> {
        hparams.check_mixture()?;
        hparams.leave_out_prediction(keys)?;
        hparams.linear = Some(LinearAttention::read(keys)?);
        if let Some(mixture) = &mut hparams.mixture {
            mixture.routing.normalizes = true;
            mixture.shared_ff.get_or_insert(hparams.n_ff);
        }
        Ok(())
    }
}

/// Fails on a config that llama.cpp would run in another way.
fn check(config: &HfConfig) -> Result<()> {
    let refuse =
        |what: &str| -> Result<()> { bail!("{what} is not supported for Qwen3-Next: `{}`", config.path().display()) };
    experts::check_all_layers(config, &refuse)?;
    if !config.bool("norm_topk_prob")?.unwrap_or(true) {
        refuse("`norm_topk_prob` of false")?;
    }
    if config.bool("attention_bias")?.unwrap_or(false) {
        refuse("`attention_bias`")?;
    }
    Ok(())
}

/// Which layers have linear attention, if config.json lists them.
fn linear_layers(config: &HfConfig) -> Result<Option<Vec<bool>>> {
    let Some(kinds) = config.get("layer_types").and_then(Value::as_array) else { return Ok(None) };
    let known = ["linear_attention", "full_attention"];
    let is_known = |kind: &Value| kind.as_str().is_some_and(|kind| known.contains(&kind));
    if kinds.len() != config.size("num_hidden_layers")? as usize || !kinds.iter().all(is_known) {
        bail!("`layer_types` does not name a known kind for each layer: `{}`", config.path().display());
    }
    Ok(Some(kinds.iter().map(|kind| kind == known[0]).collect()))
}
