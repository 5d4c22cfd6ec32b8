//! What llama.cpp's converter writes of every text model's config.json (`conversion/base.py`, `set_gguf_parameters`).

use anyhow::{Result, bail};
use serde_json::Value;

use super::experts;
use super::hf_config::{HfConfig, HfRope, HfScaling, THETA};
use super::hparams::Layers;
use super::layout::Layout;
use crate::gguf::Metadata;
use crate::kernels::norm::NormKind;

/// What config.json may leave out, by family.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    pub(super) context: u32,
    /// None where there are as many as heads.
    pub(super) kv_heads: Option<u32>,
    /// None where the hidden size is shared between the heads, and the converter writes only what the config has.
    pub(super) head_dim: Option<u32>,
    /// The base of the rotary frequencies.
    pub(super) theta: f64,
    /// That of layers with a window, in families that have one of its own.
    pub(super) local_theta: Option<f64>,
    /// Of norms.
    pub(super) eps: f64,
}

impl Defaults {
    /// What most of transformers' config classes have.
    pub(super) const USUAL: Defaults =
        Defaults { context: 2048, kv_heads: None, head_dim: None, theta: THETA, local_theta: None, eps: 1e-6 };
}

/// The keys that every family has, in the converter's order.
pub(super) fn common(
    architecture: &str,
    config: &HfConfig,
    defaults: &Defaults,
    layout: &Layout,
    file_type: u32,
) -> Result<Metadata> {
    config.check_activation(layout.activation)?;
    let mut metadata = Metadata::new();
    let mut set = |key: &str, value: u32| metadata.set(format!("{architecture}.{key}"), value);
    let context = config.size_or("max_position_embeddings", defaults.context)?;
    set("block_count", config.size("num_hidden_layers")?);
    set("context_length", context);
    set("embedding_length", config.size("hidden_size")?);
    set("feed_forward_length", config.size("intermediate_size")?);
    let heads = config.size("num_attention_heads")?;
    set("attention.head_count", heads);
    set("attention.head_count_kv", config.size_or("num_key_value_heads", defaults.kv_heads.unwrap_or(heads))?);
    let rope = config.rope(context)?;
    if rope.part.is_some_and(|part| part != 1.0) && !layout.partial_rope {
        bail!("unsupported `partial_rotary_factor`: `{}`", config.path().display());
    }
    if matches!(rope.scaling, HfScaling::Long { .. }) && !layout.rope_factors {
        bail!("rope scaling `longrope` is not supported for {architecture}: `{}`", config.path().display());
    }
    rope_metadata(architecture, &rope, &mut metadata);
    metadata.set(format!("{architecture}.rope.freq_base"), config.rope_theta()?.unwrap_or(defaults.theta) as f32);
    if let Some(theta) = config.local_rope_theta()?.or(defaults.local_theta) {
        metadata.set(format!("{architecture}.rope.freq_base_swa"), theta as f32);
    }
    let (key, hf) = match layout.norm {
        NormKind::Rms => ("layer_norm_rms_epsilon", "rms_norm_eps"),
        NormKind::Layer => ("layer_norm_epsilon", "layer_norm_eps"),
    };
    let eps = config.f64(hf)?.unwrap_or(defaults.eps);
    metadata.set(format!("{architecture}.attention.{key}"), eps as f32);
    if layout.experts.is_some() {
        experts::counts(architecture, config, &mut metadata)?;
    }
    let head_dim = head_dim(config, defaults)?;
    if !head_dim.is_multiple_of(2) {
        bail!("heads of {head_dim} elements cannot be rotated in pairs: `{}`", config.path().display());
    }
    if defaults.head_dim.is_some() || config.get("head_dim").is_some() {
        metadata.set(format!("{architecture}.attention.key_length"), head_dim);
        metadata.set(format!("{architecture}.attention.value_length"), head_dim);
    }
    metadata.set("general.file_type", file_type);
    Ok(metadata)
}

/// Those of `metadata` that have these keys, in this order: for families for which the converter has its own.
pub(super) fn some(metadata: &Metadata, architecture: &str, keys: &[&str]) -> Metadata {
    let mut some = Metadata::new();
    for name in keys.iter().map(|key| format!("{architecture}.{key}")) {
        if let Some(value) = metadata.get(&name) {
            some.set(name, value.clone());
        }
    }
    some
}

/// Whether the last of each `pattern` layers sees all tokens and the others have a window, as far as config.json tells.
pub(super) fn has_usual_windows(config: &HfConfig, pattern: usize) -> bool {
    let kinds = config.get("layer_types").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let sees_all = |il: usize| Layers::Each(pattern).contain(il);
    let usual = |il: usize| if sees_all(il) { "full_attention" } else { "sliding_attention" };
    kinds.iter().enumerate().all(|(il, kind)| kind == usual(il))
}

/// Elements of a head.
pub(super) fn head_dim(config: &HfConfig, defaults: &Defaults) -> Result<u32> {
    let shared = config.size("hidden_size")? / config.size("num_attention_heads")?;
    config.size_or("head_dim", defaults.head_dim.unwrap_or(shared))
}

/// Elements of a head that rotate, where a share of `usual` does unless config.json says so.
pub(super) fn rotated(config: &HfConfig, defaults: &Defaults, usual: f64) -> Result<u32> {
    let part = config.rope(defaults.context)?.part.unwrap_or(usual);
    Ok((part * f64::from(head_dim(config, defaults)?)) as u32)
}

/// Fails on a setting for which llama.cpp has no key, and which it would therefore run in another way.
pub(super) fn refuse(config: &HfConfig, family: &str, key: &str) -> Result<()> {
    bail!("this `{key}` is not supported for {family}, llama.cpp has no key for it: `{}`", config.path().display())
}

fn rope_metadata(architecture: &str, rope: &HfRope, metadata: &mut Metadata) {
    let name = |key: &str| format!("{architecture}.rope.{key}");
    match &rope.scaling {
        // tensors hold the factors
        HfScaling::None | HfScaling::Llama3 { .. } | HfScaling::Long { .. } => {}
        HfScaling::Linear { factor } => {
            metadata.set(name("scaling.type"), "linear");
            metadata.set(name("scaling.factor"), *factor as f32);
        }
        HfScaling::Yarn { factor, original_context, extrapolation_factor, attention_factor, beta_fast, beta_slow } => {
            metadata.set(name("scaling.type"), "yarn");
            metadata.set(name("scaling.factor"), *factor as f32);
            metadata.set(name("scaling.original_context_length"), *original_context);
            let optional = [
                ("scaling.yarn_ext_factor", extrapolation_factor),
                ("scaling.yarn_attn_factor", attention_factor),
                ("scaling.yarn_beta_fast", beta_fast),
                ("scaling.yarn_beta_slow", beta_slow),
            ];
            for (key, value) in optional {
                if let Some(value) = value {
                    metadata.set(name(key), *value as f32);
                }
            }
        }
    }
}
