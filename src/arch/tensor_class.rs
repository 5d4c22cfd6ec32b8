//! What a tensor is, by its GGUF name and shape alone, for any architecture.

use serde::{Deserialize, Serialize};

/// The part a tensor plays in a model. Matrices of all experts of a layer count as the dense ones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    TokenEmbd,
    AttnQ,
    AttnK,
    AttnV,
    /// Queries, keys and values in one matrix.
    AttnQkv,
    AttnOutput,
    FfnGate,
    FfnUp,
    FfnDown,
    Output,
    Other,
}

impl Class {
    /// The class of the tensor with this GGUF name.
    pub fn of(name: &str) -> Class {
        match name {
            "token_embd.weight" => return Class::TokenEmbd,
            "output.weight" => return Class::Output,
            _ => {}
        }
        let Some(stem) = stem(name) else { return Class::Other };
        match stem {
            "attn_q" => Class::AttnQ,
            "attn_k" => Class::AttnK,
            "attn_v" => Class::AttnV,
            "attn_qkv" => Class::AttnQkv,
            "attn_output" => Class::AttnOutput,
            "ffn_gate" | "ffn_gate_exps" | "ffn_gate_shexp" => Class::FfnGate,
            "ffn_up" | "ffn_up_exps" | "ffn_up_shexp" => Class::FfnUp,
            "ffn_down" | "ffn_down_exps" | "ffn_down_shexp" => Class::FfnDown,
            _ => Class::Other,
        }
    }
}

/// More layers than any model has: a name with a larger number is of no layer.
const MAX_LAYERS: usize = 1 << 20;

/// The layer of a tensor named `blk.N.*`.
pub fn layer_index(name: &str) -> Option<usize> {
    let layer = name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()?;
    (layer < MAX_LAYERS).then_some(layer)
}

/// `blk.3.attn_q.weight` and `blk.4.attn_q.weight` are both `attn_q`.
pub fn class_name(name: &str) -> &str {
    in_layer(name).trim_end_matches(".weight")
}

/// The name without `blk.N.`; the whole of one outside the layers.
pub fn in_layer(name: &str) -> &str {
    match layer_index(name) {
        Some(_) => name.splitn(3, '.').nth(2).unwrap_or(name),
        None => name,
    }
}

/// First and last layer of a band.
pub type Layers = (usize, usize);

/// The layers of a model in at most four bands of about equal depth, the first layer perhaps for itself.
#[derive(Clone, Copy, Debug)]
pub struct Bands {
    layers: usize,
    /// Layers before the bands, each for itself: 0 or 1.
    alone: usize,
    width: usize,
}

impl Bands {
    const COUNT: usize = 4;

    /// Bands over the layers of the tensors of these names.
    pub fn over<'a>(names: impl IntoIterator<Item = &'a str>) -> Bands {
        Bands::behind(0, names)
    }

    /// The same with the first layer, which differs most from its neighbours, before the bands.
    pub fn with_first_alone<'a>(names: impl IntoIterator<Item = &'a str>) -> Bands {
        Bands::behind(1, names)
    }

    fn behind<'a>(alone: usize, names: impl IntoIterator<Item = &'a str>) -> Bands {
        let layers = names.into_iter().filter_map(layer_index).max().map_or(0, |last| last + 1);
        Bands { layers, alone, width: layers.saturating_sub(alone).div_ceil(Bands::COUNT).max(1) }
    }

    /// The band of a tensor; none for tensors outside the layers.
    pub fn of(self, name: &str) -> Option<Layers> {
        let layer = layer_index(name)?;
        if layer < self.alone {
            return Some((layer, layer));
        }
        let first = layer - (layer - self.alone) % self.width;
        Some((first, (first + self.width).min(self.layers) - 1))
    }
}

/// The name inside its layer of a layer's `.weight`.
fn stem(name: &str) -> Option<&str> {
    name.strip_prefix("blk.")?.split_once('.')?.1.strip_suffix(".weight")
}

/// Layer matrices that read the same vector.
const SHARED_INPUTS: &[&[&str]] = &[
    &["attn_q", "attn_k", "attn_v", "attn_qkv"],
    &["attn_q_a", "attn_kv_a_mqa"],
    &["attn_gate", "ssm_ba", "attn_qkv"],
    &["ffn_gate", "ffn_up"],
    &["ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps"],
    &["ffn_gate_shexp", "ffn_up_shexp"],
];

/// Names under which an importance matrix may hold the statistics of this tensor's input, the best first: its own,
/// then those of matrices that read the same vector. The embedding is looked up, not multiplied, unless it is tied to
/// the output; then its own name holds them.
pub fn importance_names(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    if let (Some(layer), Some(stem)) = (layer_index(name), stem(name))
        && let Some(group) = SHARED_INPUTS.iter().find(|group| group.contains(&stem))
    {
        let others = group.iter().filter(|&&other| other != stem);
        names.extend(others.map(|other| format!("blk.{layer}.{other}.weight")));
    }
    names
}

/// Whole names that are never quantized: positions and token types of BERT.
const KEPT_NAMES: &[&str] = &["position_embd.weight", "token_types.weight"];

/// Parts of names that are never quantized.
const KEPT_PARTS: &[&str] = &[
    "_norm.weight",
    // routing of experts
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    // small matrices of Gemma 3n
    "altup",
    "laurel",
    "per_layer_model_proj",
    // convolutions
    "ssm_conv1d",
    "shortconv.conv.weight",
    // MiniMax's indexer
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    // small matrices of RWKV
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // relative positions of T5
    "attn_rel_b.weight",
    // vision and audio towers
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// More parts that are kept in the architecture `glm5-next`.
const GLM5_NEXT: &str = "glm5-next";
const GLM5_NEXT_PARTS: &[&str] = &[
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];

/// Whether a tensor may be quantized: the rules of llama.cpp's `tensor_allows_quantization` (`src/llama-quant.cpp`).
///
/// `dims` are in ggml's order; `architecture` is `general.architecture`.
pub fn may_quantize(name: &str, dims: &[u64], architecture: &str) -> bool {
    // trailing dimensions of 1 do not count
    let is_matrix = dims.iter().skip(1).any(|&dim| dim > 1);
    let kept = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    is_matrix
        && name.ends_with("weight")
        && !KEPT_NAMES.contains(&name)
        && !kept(KEPT_PARTS)
        && !(architecture == GLM5_NEXT && kept(GLM5_NEXT_PARTS))
}
