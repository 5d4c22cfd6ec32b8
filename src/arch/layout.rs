//! Layers of two halves, attention and feed-forward, as most families have them.

use super::names::{self, Names};
use super::rope::FACTORS;
use super::{Hparams, experts, linear};
use crate::graph::ops::{Attend, Rotate};
use crate::graph::{Builder, Expected, Graph, Value};
use crate::kernels::glu::Activation;
use crate::kernels::norm::NormKind;

/// What the layers of a family are made of.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Of their tensors.
    pub(super) names: &'static [Names],
    pub(super) norms: Norms,
    /// Of all norms.
    pub(super) norm: NormKind,
    pub(super) head_norms: HeadNorms,
    /// Queries, keys and values are one matrix.
    pub(super) fused_qkv: bool,
    /// Only a part of each head may be rotated.
    pub(super) partial_rope: bool,
    /// The matrix of queries has as many rows again for each head: gates of what attention makes.
    pub(super) gated_q: bool,
    /// Frequencies may be stretched by tables of factors.
    pub(super) rope_factors: bool,
    /// Gate and up are one matrix, called up.
    pub(super) fused_gate: bool,
    pub(super) activation: Activation,
    /// Attention has sinks.
    pub(super) sinks: bool,
    /// What the expert makes that all tokens ask goes through a gate.
    pub(super) shared_gate: bool,
    /// Names of what layers have in place of one feed-forward part.
    pub(super) experts: Option<&'static experts::Names>,
}

/// GGUF stems of the norms over whole rows, where there are any.
#[derive(Clone, Copy)]
pub(super) struct Norms {
    pub(super) attn: Option<&'static str>,
    pub(super) behind_attn: Option<&'static str>,
    pub(super) ffn: Option<&'static str>,
    pub(super) behind_ffn: Option<&'static str>,
}

impl Norms {
    pub(super) const BEFORE: Norms =
        Norms { attn: Some("attn_norm"), behind_attn: None, ffn: Some("ffn_norm"), behind_ffn: None };
    /// The same where the one before the feed-forward half has another name.
    pub(super) const BEFORE_AS_POST: Norms = Norms { ffn: Some("post_attention_norm"), ..Norms::BEFORE };
    pub(super) const BEHIND: Norms =
        Norms { attn: None, behind_attn: Some("post_attention_norm"), ffn: None, behind_ffn: Some("post_ffw_norm") };
    pub(super) const AROUND: Norms = Norms { attn: Norms::BEFORE.attn, ffn: Norms::BEFORE.ffn, ..Norms::BEHIND };
}

/// Norms of queries and of keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadNorms {
    None,
    /// Over each head.
    Heads,
    /// The same in those models of the family that have them.
    HeadsIfThere,
    /// Over all heads together.
    Rows,
}

impl Layout {
    /// Norms before each half, separate matrices, SiLU.
    pub(super) const LLAMA: Layout = Layout {
        names: &[names::NORMS_BEFORE, names::ATTENTION, names::GATED_MLP],
        norms: Norms::BEFORE,
        norm: NormKind::Rms,
        head_norms: HeadNorms::None,
        fused_qkv: false,
        partial_rope: false,
        gated_q: false,
        rope_factors: false,
        fused_gate: false,
        activation: Activation::Silu,
        sinks: false,
        shared_gate: false,
        experts: None,
    };

    pub(super) fn names(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.names.iter().copied().flatten().copied()
    }
}

/// The tensors outside the layers.
pub(super) fn expected_outside(hparams: &Hparams) -> Vec<Expected> {
    let (width, vocab, pairs) = (hparams.n_embd as u64, hparams.n_vocab as u64, hparams.rope.rot as u64 / 2);
    let tensor = |name: &str, dims: &[u64], required| Expected { name: name.into(), dims: dims.to_vec(), required };
    let factors = FACTORS.iter().map(|name| tensor(name, &[pairs], false));
    let others = [
        tensor("token_embd.weight", &[width, vocab], true),
        tensor("output_norm.weight", &[width], true),
        tensor("output.weight", &[width, vocab], false),
    ];
    others.into_iter().chain(factors).collect()
}

/// Layer `il` as operations.
pub(super) fn layer(hparams: &Hparams, il: usize, layout: &Layout, has_tensor: &dyn Fn(&str) -> bool) -> Graph {
    let mut layer = builder(hparams, il, has_tensor);
    let Norms { attn, behind_attn, ffn, behind_ffn } = layout.norms;
    let normed = norm(&mut layer, Value::INPUT, attn);
    let (mixed, end) = match hparams.linear(il) {
        Some(linear) => (linear.attention(&mut layer, normed), linear::OUTPUT),
        None => (attention(&mut layer, hparams, il, normed, layout), "attn_output"),
    };
    let scale = hparams.residual_scale;
    let hidden = Join { norm: behind_attn, scale }.product(&mut layer, Value::INPUT, mixed, end);
    let normed = norm(&mut layer, hidden, ffn);
    let output = feed_forward(&mut layer, hparams, il, [hidden, normed], layout, Join { norm: behind_ffn, scale });
    layer.finish(output)
}

pub(super) fn builder<'a>(hparams: &Hparams, il: usize, has_tensor: &'a dyn Fn(&str) -> bool) -> Builder<'a> {
    let mut layer = Builder::new(il, hparams.n_embd, hparams.norm_eps, has_tensor);
    layer.set_norms(hparams.norm);
    layer
}

/// The value itself where there is no norm.
fn norm(layer: &mut Builder, value: Value, stem: Option<&str>) -> Value {
    stem.map_or(value, |stem| layer.norm(value, stem))
}

/// Attention up to its output projection.
pub(super) fn attention(layer: &mut Builder, hparams: &Hparams, il: usize, normed: Value, layout: &Layout) -> Value {
    let Hparams { n_head, n_head_kv, head_dim, value_dim, .. } = *hparams;
    let [mut q, mut k, v] = queries_keys_values(layer, hparams, normed, layout);
    let gate = layout.gated_q.then(|| layer.columns_of_groups(q, 2 * head_dim, head_dim, head_dim));
    if layout.gated_q {
        q = layer.columns_of_groups(q, 2 * head_dim, 0, head_dim);
    }
    (q, k) = match layout.head_norms {
        HeadNorms::None => (q, k),
        HeadNorms::Heads => {
            (layer.norm_of_groups(q, "attn_q_norm", head_dim), layer.norm_of_groups(k, "attn_k_norm", head_dim))
        }
        HeadNorms::HeadsIfThere => (
            layer.norm_of_groups_if_there(q, "attn_q_norm", head_dim),
            layer.norm_of_groups_if_there(k, "attn_k_norm", head_dim),
        ),
        HeadNorms::Rows => (layer.norm(q, "attn_q_norm"), layer.norm(k, "attn_k_norm")),
    };
    if let Some(table) = hparams.rope_table(il) {
        let rotate = |heads| Rotate { heads, head_dim, rot: hparams.rope.rot, style: hparams.rope.style, table };
        q = layer.rope(q, rotate(n_head));
        k = layer.rope(k, rotate(n_head_kv));
    }
    let (scale, window, softcap) = (hparams.attention_scale, hparams.window(il), hparams.attention_softcap);
    let attend = Attend { heads: n_head, kv_heads: n_head_kv, head_dim, value_dim, scale, window, softcap };
    let mixed = layer.attention([q, k, v], attend, layout.sinks.then_some("attn_sinks"));
    gate.map_or(mixed, |gate| layer.sigmoid_gate(mixed, gate))
}

fn queries_keys_values(layer: &mut Builder, hparams: &Hparams, normed: Value, layout: &Layout) -> [Value; 3] {
    let (q, k, v) = (hparams.q_width(), hparams.k_width(), hparams.v_width());
    if layout.fused_qkv {
        let all = layer.linear(normed, "attn_qkv", q + k + v);
        return [(0, q), (q, k), (q + k, v)].map(|(first, count)| layer.columns(all, first, count));
    }
    let q = if layout.gated_q { 2 * q } else { q };
    [("attn_q", q), ("attn_k", k), ("attn_v", v)].map(|(stem, rows)| layer.linear(normed, stem, rows))
}

/// The feed-forward half, added to the residual stream `hidden`.
pub(super) fn feed_forward(
    layer: &mut Builder,
    hparams: &Hparams,
    il: usize,
    [hidden, normed]: [Value; 2],
    layout: &Layout,
    join: Join,
) -> Value {
    if let Some(mixture) = hparams.mixture(il) {
        let sum = experts::feed_forward(layer, normed, mixture, layout);
        return join.value(layer, hidden, sum);
    }
    let width = hparams.n_ff;
    let [gate, up] = if layout.fused_gate {
        let both = layer.linear(normed, "ffn_up", 2 * width);
        [layer.columns(both, 0, width), layer.columns(both, width, width)]
    } else {
        ["ffn_gate", "ffn_up"].map(|stem| layer.linear(normed, stem, width))
    };
    let act = layer.gated(gate, up, layout.activation);
    join.product(layer, hidden, act, "ffn_down")
}

/// How the end of one half of a layer comes into the residual stream.
#[derive(Clone, Copy)]
pub(super) struct Join {
    /// Stem of the norm that it goes through, if any.
    pub(super) norm: Option<&'static str>,
    /// What it is multiplied by.
    pub(super) scale: f32,
}

impl Join {
    pub(super) const PLAIN: Join = Join { norm: None, scale: 1.0 };

    /// A product with a matrix.
    pub(super) fn product(self, layer: &mut Builder, residual: Value, src: Value, matrix: &str) -> Value {
        if self.norm.is_none() && self.scale == 1.0 {
            return layer.linear_onto(residual, src, matrix);
        }
        let product = layer.linear(src, matrix, layer.width(residual));
        self.value(layer, residual, product)
    }

    fn value(self, layer: &mut Builder, residual: Value, value: Value) -> Value {
        let normed = norm(layer, value, self.norm);
        let scaled = if self.scale == 1.0 { normed } else { layer.scale(normed, self.scale) };
        layer.add(residual, scaled)
    }
}
