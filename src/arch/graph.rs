//! A decoder layer as a list of operations on named slots.
//! The forward pass interprets the list, taps see the input of each [`Op::Linear`], the reverse sweep walks it backwards.

/// One activation buffer `[tokens, width]` of a layer. `Hidden` is the residual stream and survives between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    Hidden,
    /// Output of a norm on the residual stream.
    Normed,
    Q,
    K,
    V,
    /// Q and K after their own norm, where a family has one.
    QNormed,
    KNormed,
    /// Attention output before its projection.
    Mixed,
    Gate,
    Up,
    /// Activated gate times up: the input of the down projection.
    Act,
}

/// How rotary embedding pairs the elements of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbouring elements (2i, 2i+1): llama after the converter's permutation.
    Norm,
    /// Elements i and i + rot/2: Qwen, Gemma, Phi.
    Neox,
}

/// One operation. Weights are named by their GGUF tensor names.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// dst = src / rms(src) * weight, over groups of `width` elements (a head, or the whole row).
    RmsNorm { src: Slot, dst: Slot, weight: String, width: usize },
    /// dst = src W^T (+ bias), or dst += the same when `add`.
    Linear { src: Slot, dst: Slot, weight: String, bias: Option<String>, add: bool },
    /// Rotates each head of `slot` in place.
    Rope { slot: Slot, heads: usize, head_dim: usize },
    /// Causal grouped-query attention, optionally within a sliding window of that many tokens.
    Attention { q: Slot, k: Slot, v: Slot, dst: Slot, window: Option<usize> },
    /// dst = silu(gate) * up.
    SwiGlu { gate: Slot, up: Slot, dst: Slot },
}
