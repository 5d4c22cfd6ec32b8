//! Interprets the operations of one layer for one batch.

use std::collections::BTreeMap;

use anyhow::Result;

use super::arena::Arena;
use super::tap::Tap;
use super::weights::LayerWeights;
use crate::arch::Hparams;
use crate::arch::graph::{Op, Slot};
use crate::device::{Buffer, Device};
use crate::kernels::attention::{AttentionParams, attention};
use crate::kernels::matmul::matmul;
use crate::kernels::rms_norm::rms_norm;
use crate::kernels::rope::{RopeParams, rope};
use crate::kernels::swiglu::swiglu;

/// What every operation of a batch needs to know.
pub(super) struct BatchContext<'a> {
    pub device: &'a Device,
    pub arena: &'a Arena,
    pub hparams: &'a Hparams,
    /// cos and sin, `[seq_len, rope_dims / 2, 2]`.
    pub rope_table: &'a Buffer,
    pub sequences: usize,
    pub seq_len: usize,
}

impl BatchContext<'_> {
    pub(super) fn tokens(&self) -> usize {
        self.sequences * self.seq_len
    }

    pub(super) fn attention(&self, window: Option<usize>) -> AttentionParams {
        AttentionParams {
            sequences: self.sequences,
            seq_len: self.seq_len,
            heads: self.hparams.n_head,
            kv_heads: self.hparams.n_head_kv,
            head_dim: self.hparams.head_dim,
            scale: self.hparams.attention_scale(),
            window,
        }
    }

    pub(super) fn rope(&self, heads: usize, head_dim: usize, inverse: bool) -> RopeParams {
        RopeParams {
            tokens: self.tokens(),
            seq_len: self.seq_len,
            heads,
            head_dim,
            rot: self.hparams.rope.rot,
            style: self.hparams.rope.style,
            inverse,
        }
    }
}

/// An activation of `[tokens, width]`.
#[derive(Clone)]
pub(super) struct Activation {
    pub buffer: Buffer,
    pub width: usize,
}

/// The inputs that an operation's backward pass needs, one entry per operation.
pub(super) enum Saved {
    Norm { src: Activation },
    Linear,
    Rope,
    Attention { q: Activation, k: Activation, v: Activation },
    SwiGlu { gate: Activation, up: Activation },
}

/// Runs `ops` on `hidden` and returns the new hidden state.
/// Without `saved` the residual stream is updated in place; with it every input that the way back needs is kept.
pub(super) fn run_layer(
    ctx: &BatchContext,
    weights: &LayerWeights,
    ops: &[Op],
    hidden: Activation,
    tap: &mut dyn Tap,
    saved: Option<&mut Vec<Saved>>,
) -> Result<Activation> {
    let mut slots = BTreeMap::from([(Slot::Hidden, hidden)]);
    run(ctx, weights, ops, ops.len(), &mut slots, tap, saved)?;
    Ok(slots.remove(&Slot::Hidden).expect("a layer keeps its residual stream"))
}

/// Shows `tap` what it sees when `ops` run on `hidden`, and leaves out the product that ends the layer, which no one reads. Nothing
/// that was shown is written to again.
pub(super) fn show_layer(
    ctx: &BatchContext,
    weights: &LayerWeights,
    ops: &[Op],
    hidden: Activation,
    tap: &mut dyn Tap,
) -> Result<()> {
    let mut slots = BTreeMap::from([(Slot::Hidden, hidden)]);
    let ends_in_product = matches!(ops.last(), Some(Op::Linear { .. }));
    let end = ops.len() - usize::from(ends_in_product);
    run(ctx, weights, ops, end, &mut slots, tap, Some(&mut Vec::new()))?;
    if ends_in_product { show(ops, end, &slots, ctx.tokens(), tap) } else { Ok(()) }
}

/// Shows the input of linear operation `index`, if it is the first that reads it, and what its output is added to.
fn show(ops: &[Op], index: usize, slots: &BTreeMap<Slot, Activation>, tokens: usize, tap: &mut dyn Tap) -> Result<()> {
    let Op::Linear { src, dst, add, .. } = &ops[index] else { return Ok(()) };
    if *add {
        tap.residual(&slots[dst].buffer)?;
    }
    match sharing_input(ops, index) {
        Some(sharing) => tap.linear_input(&sharing, &slots[src].buffer, tokens, slots[src].width),
        None => Ok(()),
    }
}

/// Runs the first `count` of `ops`.
fn run(
    ctx: &BatchContext,
    weights: &LayerWeights,
    ops: &[Op],
    count: usize,
    slots: &mut BTreeMap<Slot, Activation>,
    tap: &mut dyn Tap,
    mut saved: Option<&mut Vec<Saved>>,
) -> Result<()> {
    let (device, tokens) = (ctx.device, ctx.tokens());
    for (index, op) in ops[..count].iter().enumerate() {
        let keep = match op {
            Op::RmsNorm { src, dst, weight, width } => {
                let src = slots[src].clone();
                let out = ctx.arena.take(tokens, src.width)?;
                let rows = tokens * (src.width / width);
                rms_norm(device, &src.buffer, weights.vector(weight), &out, rows, *width, ctx.hparams.rms_eps)?;
                slots.insert(*dst, Activation { buffer: out, width: src.width });
                Saved::Norm { src }
            }
            Op::Linear { src, dst, weight, bias, add } => {
                let x = slots[src].clone();
                let matrix = weights.matrix(weight);
                show(ops, index, slots, tokens, tap)?;
                let y = match (add, &saved) {
                    (false, _) => ctx.arena.take(tokens, matrix.rows)?,
                    (true, None) => slots[dst].buffer.clone(),
                    (true, Some(_)) => {
                        let copy = ctx.arena.take(tokens, matrix.rows)?;
                        device.copy(&slots[dst].buffer, 0, &copy, 0, tokens * matrix.rows * size_of::<f32>())?;
                        copy
                    }
                };
                let bias = bias.as_ref().map(|name| weights.vector(name));
                matmul(device, &x.buffer, matrix, bias, &y, tokens, *add)?;
                slots.insert(*dst, Activation { buffer: y, width: matrix.rows });
                Saved::Linear
            }
            Op::Rope { slot, heads, head_dim } => {
                rope(device, &slots[slot].buffer, ctx.rope_table, ctx.rope(*heads, *head_dim, false))?;
                Saved::Rope
            }
            Op::Attention { q, k, v, dst, window } => {
                let (q, k, v) = (slots[q].clone(), slots[k].clone(), slots[v].clone());
                let out = ctx.arena.take(tokens, q.width)?;
                attention(device, &q.buffer, &k.buffer, &v.buffer, &out, ctx.attention(*window))?;
                slots.insert(*dst, Activation { buffer: out, width: q.width });
                Saved::Attention { q, k, v }
            }
            Op::SwiGlu { gate, up, dst } => {
                let (gate, up) = (slots[gate].clone(), slots[up].clone());
                let out = ctx.arena.take(tokens, gate.width)?;
                swiglu(device, &gate.buffer, &up.buffer, &out, tokens * gate.width)?;
                slots.insert(*dst, Activation { buffer: out, width: gate.width });
                Saved::SwiGlu { gate, up }
            }
        };
        if let Some(saved) = saved.as_deref_mut() {
            saved.push(keep);
        }
    }
    Ok(())
}

/// The weights of all linear operations that read the same value as operation `index`, if it is the first of them.
fn sharing_input(ops: &[Op], index: usize) -> Option<Vec<&str>> {
    let source = |op: &Op| match op {
        Op::Linear { src, .. } => Some(*src),
        _ => None,
    };
    let slot = source(&ops[index])?;
    let writes = |op: &Op| match op {
        Op::RmsNorm { dst, .. } | Op::Linear { dst, .. } | Op::Attention { dst, .. } | Op::SwiGlu { dst, .. } => {
            *dst == slot
        }
        Op::Rope { slot: rotated, .. } => *rotated == slot,
    };
    let since_write = ops[..index].iter().rposition(writes).map_or(0, |at| at + 1);
    if ops[since_write..index].iter().any(|op| source(op) == Some(slot)) {
        return None;
    }
    let until_write = ops[index..].iter().position(writes).map_or(ops.len(), |at| index + at);
    let names = ops[index..until_write].iter().filter_map(|op| match op {
        Op::Linear { src, weight, .. } if *src == slot => Some(weight.as_str()),
        _ => None,
    });
    Some(names.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(src: Slot, dst: Slot, weight: &str, add: bool) -> Op {
        Op::Linear { src, dst, weight: weight.into(), bias: None, add }
    }

    #[test]
    fn the_first_reader_of_a_value_speaks_for_all_of_them() {
        let norm = |weight: &str| Op::RmsNorm { src: Slot::Hidden, dst: Slot::Normed, weight: weight.into(), width: 4 };
        let ops = [
            norm("a"),
            linear(Slot::Normed, Slot::Q, "q", false),
            linear(Slot::Normed, Slot::K, "k", false),
            linear(Slot::Q, Slot::Hidden, "o", true),
            norm("b"),
            linear(Slot::Normed, Slot::Up, "up", false),
        ];
        assert_eq!(sharing_input(&ops, 1), Some(vec!["q", "k"]));
        assert_eq!(sharing_input(&ops, 2), None);
        assert_eq!(sharing_input(&ops, 3), Some(vec!["o"]));
        assert_eq!(sharing_input(&ops, 5), Some(vec!["up"]));
    }
}
