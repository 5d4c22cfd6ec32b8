//! The names of tensors in Hugging Face's checkpoints and in GGUFs, both ways.

use super::layout::Layout;

/// Where a Hugging Face tensor goes in a GGUF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// GGUF name.
    pub tensor: String,
    /// Its place among those that are stacked in the tensor; none if it is all of it.
    pub index: Option<usize>,
}

/// GGUF and Hugging Face names inside `blk.N.` and `model.layers.N.`: without `.weight` or `.bias` where both have it, else whole.
/// A Hugging Face tensor that is cut into several comes several times.
pub(super) type Names = &'static [(&'static str, &'static str)];

/// Outside the layers.
const GLOBAL: Names = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Norms before each half of a layer.
pub(super) const NORMS_BEFORE: Names = &[("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];

/// The same where the one before the feed-forward half has another name.
pub(super) const NORMS_BEFORE_AS_POST: Names =
    &[("attn_norm", "input_layernorm"), ("post_attention_norm", "post_attention_layernorm")];

/// Norms before and behind each half.
pub(super) const NORMS_AROUND: Names = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Norms behind each half.
pub(super) const NORMS_BEHIND: Names =
    &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];

pub(super) const ATTENTION: Names = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
];

pub(super) const GATED_MLP: Names =
    &[("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")];

/// All GGUF tensors that are made of a Hugging Face tensor.
pub(super) fn places(hf_name: &str, layout: &Layout) -> Vec<Place> {
    let whole = |tensor: String| Place { tensor, index: None };
    if let Some((gguf, _)) = GLOBAL.iter().find(|(_, hf)| *hf == hf_name) {
        return vec![whole((*gguf).to_owned())];
    }
    let Some((il, name)) = in_layer(hf_name, "model.layers.") else { return Vec::new() };
    let (stem, suffix) = split(name);
    let named = layout.names().filter_map(|(gguf, hf)| match hf {
        hf if hf == name => Some(format!("blk.{il}.{gguf}")),
        hf if hf == stem && !suffix.is_empty() => Some(format!("blk.{il}.{gguf}.{suffix}")),
        _ => None,
    });
    let places: Vec<Place> = named.map(whole).collect();
    let of_expert = || layout.experts.and_then(|experts| experts.place(stem)).filter(|_| !suffix.is_empty());
    match of_expert() {
        Some((gguf, index)) if places.is_empty() => vec![Place { tensor: format!("blk.{il}.{gguf}.{suffix}"), index }],
        _ => places,
    }
}

/// A Hugging Face tensor of which the tensor at a place is made.
pub(super) fn hf_name(place: &Place, layout: &Layout) -> Option<String> {
    if let Some((_, hf)) = GLOBAL.iter().find(|(gguf, _)| *gguf == place.tensor) {
        return Some((*hf).to_owned());
    }
    let (il, name) = in_layer(&place.tensor, "blk.")?;
    let (stem, suffix) = split(name);
    let named = layout.names().find_map(|(gguf, hf)| match gguf {
        gguf if gguf == name => Some(hf.to_owned()),
        gguf if gguf == stem => Some(format!("{hf}.{suffix}")),
        _ => None,
    });
    let of_expert = || Some(format!("{}.{suffix}", layout.experts?.hf_name(stem, place.index.unwrap_or(0))?));
    Some(format!("model.layers.{il}.{}", named.or_else(of_expert)?))
}

/// Layer and name inside of it.
fn in_layer<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (layer, name) = name.strip_prefix(prefix)?.split_once('.')?;
    Some((layer.parse().ok()?, name))
}

/// Stem and suffix; no suffix where it is none of a weight or bias.
fn split(name: &str) -> (&str, &str) {
    match name.rsplit_once('.') {
        Some((stem, suffix @ ("weight" | "bias"))) => (stem, suffix),
        _ => (name, ""),
    }
}
