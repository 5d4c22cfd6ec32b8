//! The gated delta rule: a linear attention whose state S `[key_dim, value_dim]` forgets, and learns what it gets wrong.
//!
//! For each token of a sequence, S starts from zeros: S = exp(decay) S; S += k step (v - k S); out = q S / sqrt(key_dim).

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, Disjoint, word};
use crate::device::{Buffer, Device};

/// Columns of a state that one workgroup has.
pub(super) const COLUMNS: usize = 16;
/// Invocations for each of them.
const LANES: usize = 16;
/// Rows that an invocation can have.
const MOST_ROWS: usize = 16;

/// The shape of a linear attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaShape {
    /// Independent sequences of `seq_len` tokens each, one after the other.
    pub sequences: usize,
    pub seq_len: usize,
    pub heads: DeltaHeads,
}

/// Its heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaHeads {
    /// Divides `value_heads`; head h uses queries and keys `h / (value_heads / key_heads)`.
    pub key_heads: usize,
    pub value_heads: usize,
    /// Elements of a query or key, and of a value.
    pub key_dim: usize,
    pub value_dim: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(super) struct Params {
    seq_len: u32,
    key_heads: u32,
    value_heads: u32,
    key_dim: u32,
    value_dim: u32,
    scale: f32,
    pub(super) first_sequence: u32,
    pub(super) block: u32,
    pub(super) repeat: u32,
    pub(super) segment: u32,
    pad: [u32; 2],
}

impl DeltaHeads {
    /// Columns of queries and keys together.
    pub fn qk_width(&self) -> usize {
        2 * self.key_heads * self.key_dim
    }

    pub fn value_width(&self) -> usize {
        self.value_heads * self.value_dim
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.key_dim as f32).sqrt()
    }

    /// Heads that share their keys.
    pub(super) fn repeats(&self) -> usize {
        self.value_heads / self.key_heads
    }
}

impl DeltaShape {
    pub(super) fn tokens(&self) -> usize {
        self.sequences * self.seq_len
    }

    /// Fails unless the heads divide, and the buffers are those of queries and keys, of values and of gates.
    pub(super) fn expect(
        &self,
        qk: &[(&str, &Buffer)],
        values: &[(&str, &Buffer)],
        gates: &[(&str, &Buffer)],
    ) -> Result<()> {
        let DeltaHeads { key_heads, value_heads, .. } = self.heads;
        ensure!(
            key_heads > 0 && value_heads.is_multiple_of(key_heads),
            "{value_heads} heads cannot share {key_heads} key heads"
        );
        let widths = [self.heads.qk_width(), self.heads.value_width(), 2 * value_heads];
        for (buffers, width) in [qk, values, gates].into_iter().zip(widths) {
            for (role, buffer) in buffers {
                buffer.expect_words(&format!("{role} of gated_delta"), self.tokens() * width)?;
            }
        }
        Ok(())
    }

    pub(super) fn params(&self) -> Result<Params> {
        let DeltaHeads { key_heads, value_heads, key_dim, value_dim } = self.heads;
        ensure!(
            key_dim <= LANES * MOST_ROWS,
            "keys of a linear attention must be of at most {} elements on a GPU: `{key_dim}`",
            LANES * MOST_ROWS
        );
        Ok(Params {
            seq_len: word(self.seq_len)?,
            key_heads: word(key_heads)?,
            value_heads: word(value_heads)?,
            key_dim: word(key_dim)?,
            value_dim: word(value_dim)?,
            scale: self.heads.scale(),
            ..Params::default()
        })
    }

    /// Rows that an invocation has.
    pub(super) fn rows(&self) -> usize {
        self.heads.key_dim.div_ceil(LANES)
    }

    /// Floats of a state of one workgroup.
    pub(super) fn state_words(&self) -> usize {
        self.rows() * LANES * COLUMNS
    }

    /// Blocks of columns.
    pub(super) fn blocks(&self) -> usize {
        self.heads.value_dim.div_ceil(COLUMNS)
    }
}

/// out `[tokens, value_heads, value_dim]`; qk is `[tokens, 2, key_heads, key_dim]`, queries before keys, v is like out,
/// and gates `[tokens, 2, value_heads]` are decays, at most 0, before steps.
///
/// # Errors
/// If a buffer is too small, on a GPU larger than a binding, or if the heads do not divide.
pub fn gated_delta(dev: &Device, [qk, v, gates]: [&Buffer; 3], out: &Buffer, shape: DeltaShape) -> Result<()> {
    shape.expect(&[("qk", qk)], &[("v", v), ("out", out)], &[("gates", gates)])?;
    match dev {
        Device::Cpu(_) => {
            twin([&qk.view()?, &v.view()?, &gates.view()?], &mut out.view_mut()?, shape);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "gated_delta",
            weight: None,
            overrides: &[("ROWS", shape.rows() as f64)],
            bindings: &[qk, v, gates, out],
            params: bytemuck::bytes_of(&shape.params()?),
            groups: shape.sequences * shape.heads.value_heads * shape.blocks(),
            group_cost: (12 * shape.seq_len * shape.state_words()) as f64,
        }),
    }
}

fn twin([qk, v, gates]: [&[f32]; 3], out: &mut [f32], shape: DeltaShape) {
    let inputs = Inputs { qk, v, gates, shape };
    let DeltaShape { sequences, seq_len, heads } = shape;
    let (value_heads, dim) = (heads.value_heads, heads.value_dim);
    let out = Disjoint::new(&mut out[..shape.tokens() * heads.value_width()]);
    (0..sequences * value_heads).into_par_iter().for_each(|task| {
        let (sequence, head) = (task / value_heads, task % value_heads);
        let mut state = vec![0.0; heads.key_dim * dim];
        let mut delta = vec![0.0; dim];
        for token in sequence * seq_len..(sequence + 1) * seq_len {
            let here = inputs.at(token, head);
            here.advance(&mut state, &mut delta);
            // SAFETY: the values of this task's head at one token, within out; no other task touches them.
            let out = unsafe { std::slice::from_raw_parts_mut(out.at((token * value_heads + head) * dim), dim) };
            out.fill(0.0);
            for (query, row) in here.query.iter().zip(state.chunks_exact(dim)) {
                let query = query * heads.scale();
                out.iter_mut().zip(row).for_each(|(out, state)| *out += query * state);
            }
        }
    });
}

/// The inputs of one call.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) qk: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) gates: &'a [f32],
    pub(super) shape: DeltaShape,
}

/// Those of one head at one token.
pub(super) struct Here<'a> {
    pub(super) query: &'a [f32],
    pub(super) key: &'a [f32],
    pub(super) value: &'a [f32],
    /// What is kept of the state.
    pub(super) kept: f32,
    pub(super) step: f32,
}

impl<'a> Inputs<'a> {
    pub(super) fn at(&self, token: usize, head: usize) -> Here<'a> {
        let heads = self.shape.heads;
        let DeltaHeads { value_heads, key_dim, value_dim, .. } = heads;
        let query = token * heads.qk_width() + head / heads.repeats() * key_dim;
        let gate = 2 * token * value_heads + head;
        Here {
            query: &self.qk[query..][..key_dim],
            key: &self.qk[query + heads.qk_width() / 2..][..key_dim],
            value: &self.v[(token * value_heads + head) * value_dim..][..value_dim],
            kept: self.gates[gate].exp(),
            step: self.gates[gate + value_heads],
        }
    }
}

impl Here<'_> {
    /// The state behind the token in place of that before it. `delta` `[value_dim]` is what was learned.
    pub(super) fn advance(&self, state: &mut [f32], delta: &mut [f32]) {
        let dim = self.value.len();
        delta.fill(0.0);
        for (key, row) in self.key.iter().zip(state.chunks_exact_mut(dim)) {
            for (state, delta) in row.iter_mut().zip(&mut *delta) {
                *state *= self.kept;
                *delta += key * *state;
            }
        }
        delta.iter_mut().zip(self.value).for_each(|(delta, value)| *delta = self.step * (value - *delta));
        for (key, row) in self.key.iter().zip(state.chunks_exact_mut(dim)) {
            row.iter_mut().zip(&*delta).for_each(|(state, delta)| *state += key * delta);
        }
    }
}
