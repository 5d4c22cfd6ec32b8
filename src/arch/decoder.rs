//! What the decoder families share: tensor names, shapes, metadata, and the layer.

use anyhow::{Result, bail};

use super::hf_config::{HfConfig, HfRope, HfScaling};
use super::{Expected, Hparams, Place, experts};
use crate::gguf::Metadata;
use crate::graph::ops::{Attend, Rotate};
use crate::graph::{Builder, Graph, Value};
use crate::kernels::glu::Activation;

/// GGUF and Hugging Face names outside the layers.
const GLOBAL_NAMES: &[(&str, &str)] = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// GGUF and Hugging Face names inside `blk.N.` and `model.layers.N.`, without `.weight` or `.bias`.
type Names = &'static [(&'static str, &'static str)];

/// Of the norms, where there is one before each half of a layer.
const NORMED_BEFORE: Names = &[("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];

/// Of the norms, where there is one behind each half too.
const NORMED_BEHIND: Names = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Of everything else.
const LAYER_NAMES: Names = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Where a Hugging Face tensor goes.
pub(super) fn place(hf_name: &str, layout: Layout) -> Option<Place> {
    if let Some((gguf, _)) = GLOBAL_NAMES.iter().find(|(_, hf)| *hf == hf_name) {
        return Some(Place { tensor: (*gguf).to_owned(), index: None });
    }
    let (layer, stem, suffix) = split(hf_name, "model.layers.")?;
    let alone = layout.norms().iter().chain(LAYER_NAMES).find(|(_, hf)| *hf == stem).map(|(gguf, _)| (*gguf, None));
    let (gguf, index) = alone.or_else(|| layout.experts?.place(stem))?;
    Some(Place { tensor: format!("blk.{layer}.{gguf}.{suffix}"), index })
}

/// The Hugging Face name of the tensor that goes to a place.
pub(super) fn hf_name(place: &Place, layout: Layout) -> Option<String> {
    if let Some((_, hf)) = GLOBAL_NAMES.iter().find(|(gguf, _)| *gguf == place.tensor) {
        return Some((*hf).to_owned());
    }
    let (layer, stem, suffix) = split(&place.tensor, "blk.")?;
    let alone = layout.norms().iter().chain(LAYER_NAMES).find(|(gguf, _)| *gguf == stem);
    let alone = alone.map(|(_, hf)| (*hf).to_owned());
    let hf = alone.or_else(|| layout.experts?.hf_name(stem, place.index.unwrap_or(0)))?;
    Some(format!("model.layers.{layer}.{hf}.{suffix}"))
}

/// Layer, stem and suffix of a name inside a layer.
fn split<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str, &'a str)> {
    let (layer, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let (stem, suffix) = rest.rsplit_once('.')?;
    let known = matches!(suffix, "weight" | "bias");
    known.then_some((layer.parse().ok()?, stem, suffix))
}

/// Sizes in config.json that have a default, which differs by family.
pub(super) struct Defaults {
    pub(super) context: u32,
    pub(super) kv_heads: u32,
    /// None where the hidden size is shared between the heads, and the converter writes only what the config has.
    pub(super) head_dim: Option<u32>,
    /// The base of the rotary frequencies.
    pub(super) theta: f64,
    /// That of layers with a window, in families that have one of its own.
    pub(super) local_theta: Option<f64>,
}

/// The keys that llama.cpp's converter writes for every text model (`conversion/base.py`, `set_gguf_parameters`).
pub(super) fn metadata(
    architecture: &str,
    config: &HfConfig,
    defaults: &Defaults,
    layout: Layout,
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
    set("attention.head_count", config.size("num_attention_heads")?);
    set("attention.head_count_kv", config.size_or("num_key_value_heads", defaults.kv_heads)?);
    rope_metadata(architecture, &config.rope(context)?, &mut metadata);
    metadata.set(format!("{architecture}.rope.freq_base"), config.rope_theta()?.unwrap_or(defaults.theta) as f32);
    if let Some(theta) = defaults.local_theta {
        let theta = config.local_rope_theta()?.unwrap_or(theta);
        metadata.set(format!("{architecture}.rope.freq_base_swa"), theta as f32);
    }
    let eps = config.f64("rms_norm_eps")?.unwrap_or(1e-6);
    metadata.set(format!("{architecture}.attention.layer_norm_rms_epsilon"), eps as f32);
    if layout.experts.is_some() {
        experts::counts(architecture, config, &mut metadata)?;
    }
    let shared = config.size("hidden_size")? / config.size("num_attention_heads")?;
    let head_dim = config.size_or("head_dim", defaults.head_dim.unwrap_or(shared))?;
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

fn rope_metadata(architecture: &str, rope: &HfRope, metadata: &mut Metadata) {
    let name = |key: &str| format!("{architecture}.rope.{key}");
    match &rope.scaling {
        HfScaling::None | HfScaling::Llama3 { .. } => {}
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

/// What differs between the families' layers.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Queries and keys have a norm of their own, over each head.
    pub(super) qk_norm: bool,
    /// Each half of a layer has a norm behind it, before its output is added.
    pub(super) norms_behind: bool,
    pub(super) activation: Activation,
    /// Names of what layers have in place of one feed-forward part.
    pub(super) experts: Option<&'static experts::Names>,
}

impl Layout {
    /// The layers of Llama, with norms of heads or without.
    pub(super) const fn llama(qk_norm: bool) -> Layout {
        Layout { qk_norm, norms_behind: false, activation: Activation::Silu, experts: None }
    }

    /// Names of the norms over whole rows.
    fn norms(self) -> Names {
        if self.norms_behind { NORMED_BEHIND } else { NORMED_BEFORE }
    }
}

/// The tensors of a model, with their shapes.
pub(super) fn expected(hparams: &Hparams, layout: Layout) -> Vec<Expected> {
    let (width, ff) = (hparams.n_embd as u64, hparams.n_ff as u64);
    let (q, kv) = (hparams.q_width() as u64, hparams.kv_width() as u64);
    let head = hparams.head_dim as u64;
    let tensor = |name: String, dims: &[u64], required| Expected { name, dims: dims.to_vec(), required };
    let vocab = hparams.n_vocab as u64;
    let mut tensors = vec![
        tensor("token_embd.weight".into(), &[width, vocab], true),
        tensor("output_norm.weight".into(), &[width], true),
        tensor("output.weight".into(), &[width, vocab], false),
        tensor("rope_freqs.weight".into(), &[hparams.rope.rot as u64 / 2], false),
    ];
    for il in 0..hparams.n_layer {
        let norms = layout.norms().iter().map(|(stem, _)| (*stem, width, true));
        let qk_norms = [("attn_q_norm", head, true), ("attn_k_norm", head, true)];
        let attention = [("attn_q", width, q), ("attn_k", width, kv), ("attn_v", width, kv), ("attn_output", q, width)];
        let feed_forward = [("ffn_gate", width, ff), ("ffn_up", width, ff), ("ffn_down", ff, width)];
        let feed_forward = feed_forward.into_iter().filter(|_| hparams.mixture.is_none());
        for (stem, len, required) in norms.chain(qk_norms.into_iter().filter(|_| layout.qk_norm)) {
            tensors.push(tensor(format!("blk.{il}.{stem}.weight"), &[len], required));
        }
        for (stem, cols, rows) in attention.into_iter().chain(feed_forward) {
            tensors.push(tensor(format!("blk.{il}.{stem}.weight"), &[cols, rows], true));
            tensors.push(tensor(format!("blk.{il}.{stem}.bias"), &[rows], false));
        }
        let mixture = layout.experts.zip(hparams.mixture.as_ref());
        let mixture = mixture.map_or_else(Vec::new, |(names, mixture)| names.expected(mixture, hparams.n_embd));
        tensors.extend(mixture.into_iter().map(|(stem, dims)| tensor(format!("blk.{il}.{stem}.weight"), &dims, true)));
    }
    tensors
}

/// Layer `il` as operations.
pub(super) fn layer(hparams: &Hparams, il: usize, layout: Layout, has_tensor: &dyn Fn(&str) -> bool) -> Graph {
    let mut layer = Builder::new(il, hparams.n_embd, hparams.rms_eps, has_tensor);
    let normed = layer.norm(Value::INPUT, "attn_norm");
    let mixed = attention(&mut layer, il, normed, hparams, layout);
    let hidden = onto(&mut layer, Value::INPUT, mixed, layout, ["attn_output", "post_attention_norm"]);
    let normed = layer.norm(hidden, "ffn_norm");
    if let Some(mixture) = &hparams.mixture {
        let sum = experts::feed_forward(&mut layer, normed, mixture, layout.activation);
        let output = layer.add(hidden, sum);
        return layer.finish(output);
    }
    let gate = layer.linear(normed, "ffn_gate", hparams.n_ff);
    let up = layer.linear(normed, "ffn_up", hparams.n_ff);
    let act = layer.gated(gate, up, layout.activation);
    let output = onto(&mut layer, hidden, act, layout, ["ffn_down", "post_ffw_norm"]);
    layer.finish(output)
}

/// The end of one half of a layer.
fn onto(layer: &mut Builder, residual: Value, src: Value, layout: Layout, [matrix, norm]: [&str; 2]) -> Value {
    if !layout.norms_behind {
        return layer.linear_onto(residual, src, matrix);
    }
    let product = layer.linear(src, matrix, layer.width(residual));
    let normed = layer.norm(product, norm);
    layer.add(residual, normed)
}

/// Attention up to its output projection.
fn attention(layer: &mut Builder, il: usize, normed: Value, hparams: &Hparams, layout: Layout) -> Value {
    let Hparams { n_head, n_head_kv, head_dim, .. } = *hparams;
    let mut q = layer.linear(normed, "attn_q", hparams.q_width());
    let mut k = layer.linear(normed, "attn_k", hparams.kv_width());
    let v = layer.linear(normed, "attn_v", hparams.kv_width());
    if layout.qk_norm {
        q = layer.norm_of_groups(q, "attn_q_norm", head_dim);
        k = layer.norm_of_groups(k, "attn_k_norm", head_dim);
    }
    let table = hparams.rope_table(il);
    let rotate = |heads| Rotate { heads, head_dim, rot: hparams.rope.rot, style: hparams.rope.style, table };
    let q = layer.rope(q, rotate(n_head));
    let k = layer.rope(k, rotate(n_head_kv));
    let (scale, window) = (hparams.attention_scale, hparams.window(il));
    let attend = Attend { heads: n_head, kv_heads: n_head_kv, head_dim, scale, window, softcap: None };
    layer.attention([q, k, v], attend, None)
}
