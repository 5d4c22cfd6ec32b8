//! The gradients of `gated_delta`. States are computed again in segments, so that memory grows with the root of `seq_len`.

use anyhow::Result;
use rayon::prelude::*;

use super::gated_delta::{DeltaHeads, DeltaShape, Here, Inputs};
use super::{Call, Disjoint, dot, word};
use crate::device::{Buffer, Device, GpuDevice};

/// Bytes of states that are kept at a time, unless one sequence takes more.
const KEPT_BYTES: usize = 64 << 20;

impl DeltaShape {
    /// Tokens between states that are kept.
    fn segment(&self) -> usize {
        self.seq_len.isqrt().max(1)
    }

    /// States that are kept: before every segment, and those of one.
    fn slots(&self) -> usize {
        self.seq_len.div_ceil(self.segment()) + self.segment()
    }
}

/// Writes dqk, dv and dgates for the gradient `dout` of the output; shapes as in [`super::gated_delta::gated_delta`].
///
/// # Errors
/// If a buffer is too small, on a GPU larger than a binding, or if the heads do not divide.
pub fn gated_delta_backward(
    dev: &Device,
    [qk, v, gates, dout]: [&Buffer; 4],
    [dqk, dv, dgates]: [&Buffer; 3],
    shape: DeltaShape,
) -> Result<()> {
    let values = [("v", v), ("dout", dout), ("dv", dv)];
    shape.expect(&[("qk", qk), ("dqk", dqk)], &values, &[("gates", gates), ("dgates", dgates)])?;
    match dev {
        Device::Cpu(_) => {
            let (qk, v, gates, dout) = (qk.view()?, v.view()?, gates.view()?, dout.view()?);
            let gradients = [&mut *dqk.view_mut()?, &mut *dv.view_mut()?, &mut *dgates.view_mut()?];
            twin(Inputs { qk: &qk, v: &v, gates: &gates, shape }, &dout, gradients);
            Ok(())
        }
        Device::Gpu(gpu) => {
            let of_sequence = shape.heads.key_heads * shape.slots() * shape.state_words() * size_of::<f32>();
            let together =
                (KEPT_BYTES.min(dev.max_binding_bytes()) / of_sequence.max(1)).clamp(1, shape.sequences.max(1));
            let kept = dev.alloc("states of a linear attention", together * of_sequence)?;
            for first in (0..shape.sequences).step_by(together) {
                let count = together.min(shape.sequences - first);
                record(gpu, &[qk, v, gates, dout, dqk, dv, dgates, &kept], shape, first, count)?;
            }
            Ok(())
        }
    }
}

/// Heads that share keys take turns, and so do blocks of columns: they add to the same gradients.
fn record(gpu: &GpuDevice, bindings: &[&Buffer], shape: DeltaShape, first: usize, count: usize) -> Result<()> {
    let turns = (0..shape.heads.repeats()).flat_map(|repeat| (0..shape.blocks()).map(move |block| (repeat, block)));
    for (repeat, block) in turns {
        let mut params = shape.params()?;
        (params.first_sequence, params.segment) = (word(first)?, word(shape.segment())?);
        (params.repeat, params.block) = (word(repeat)?, word(block)?);
        gpu.run(&Call {
            shader: "gated_delta_backward",
            weight: None,
            overrides: &[("ROWS", shape.rows() as f64)],
            bindings,
            params: bytemuck::bytes_of(&params),
            groups: count * shape.heads.key_heads,
            group_cost: (60 * shape.seq_len * shape.state_words()) as f64,
        })?;
    }
    Ok(())
}

/// `gradients` are dqk, dv and dgates.
fn twin(inputs: Inputs, dout: &[f32], [dqk, dv, dgates]: [&mut [f32]; 3]) {
    let DeltaShape { sequences, heads: DeltaHeads { key_heads, .. }, .. } = inputs.shape;
    let gradients =
        Gradients { inputs, dout, dqk: Disjoint::new(dqk), dv: Disjoint::new(dv), dgates: Disjoint::new(dgates) };
    // Task (sequence, key head) writes what belongs to its keys and to all heads that share them.
    (0..sequences * key_heads).into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        for repeat in 0..inputs.shape.heads.repeats() {
            gradients.of_head(task / key_heads, task % key_heads, repeat, scratch);
        }
    });
}

struct Gradients<'a> {
    inputs: Inputs<'a>,
    dout: &'a [f32],
    dqk: Disjoint,
    dv: Disjoint,
    dgates: Disjoint,
}

/// One task's memory, reused.
#[derive(Default)]
struct Scratch {
    /// States before every segment, and before every token of one.
    before_segments: Vec<f32>,
    before_tokens: Vec<f32>,
    state: Vec<f32>,
    /// Of the state behind a token.
    gradient: Vec<f32>,
    delta: Vec<f32>,
    /// What the state got wrong, and the gradient of that.
    missed: Vec<f32>,
    dmissed: Vec<f32>,
}

impl Gradients<'_> {
    fn of_head(&self, sequence: usize, key_head: usize, repeat: usize, scratch: &mut Scratch) {
        let DeltaShape { seq_len, heads, .. } = self.inputs.shape;
        let (head, size) = (key_head * heads.repeats() + repeat, heads.key_dim * heads.value_dim);
        let start = sequence * seq_len;
        for buffer in [&mut scratch.state, &mut scratch.gradient] {
            buffer.clear();
            buffer.resize(size, 0.0);
        }
        for buffer in [&mut scratch.delta, &mut scratch.missed, &mut scratch.dmissed] {
            buffer.resize(heads.value_dim, 0.0);
        }
        let segment = self.inputs.shape.segment();
        scratch.before_segments.clear();
        for t in 0..seq_len {
            if t % segment == 0 {
                scratch.before_segments.extend_from_slice(&scratch.state);
            }
            self.inputs.at(start + t, head).advance(&mut scratch.state, &mut scratch.delta);
        }
        for first in (0..seq_len).step_by(segment).rev() {
            scratch.state.copy_from_slice(&scratch.before_segments[first / segment * size..][..size]);
            scratch.before_tokens.clear();
            let tokens = first..(first + segment).min(seq_len);
            for t in tokens.clone() {
                scratch.before_tokens.extend_from_slice(&scratch.state);
                self.inputs.at(start + t, head).advance(&mut scratch.state, &mut scratch.delta);
            }
            for t in tokens.rev() {
                scratch.state.copy_from_slice(&scratch.before_tokens[(t - first) * size..][..size]);
                self.retreat(start + t, key_head, repeat, scratch);
            }
        }
    }

    /// The way back through one token; the state before it is in `scratch.state`.
    fn retreat(&self, token: usize, key_head: usize, repeat: usize, scratch: &mut Scratch) {
        let heads = self.inputs.shape.heads;
        let (head, dim) = (key_head * heads.repeats() + repeat, heads.value_dim);
        let at_values = (token * heads.value_heads + head) * dim;
        let dout = &self.dout[at_values..][..dim];
        let Here { query, key, value, kept, step } = self.inputs.at(token, head);
        let Scratch { state, gradient, delta, missed, dmissed, .. } = scratch;
        missed.copy_from_slice(value);
        dmissed.fill(0.0);
        let rows = state.chunks_exact_mut(dim).zip(gradient.chunks_exact_mut(dim));
        for ((state, gradient), (query, key)) in rows.zip(query.iter().zip(key)) {
            let query = query * heads.scale();
            for i in 0..dim {
                state[i] *= kept;
                gradient[i] += query * dout[i];
                missed[i] -= key * state[i];
                dmissed[i] += key * gradient[i];
            }
        }
        let dstep = dot(missed, dmissed);
        dmissed.iter_mut().for_each(|dmissed| *dmissed *= step);
        delta.iter_mut().zip(&*missed).for_each(|(delta, missed)| *delta = step * missed);
        // SAFETY: the values of this task's head at one token; no other task touches them.
        unsafe { std::slice::from_raw_parts_mut(self.dv.at(at_values), dim) }.copy_from_slice(dmissed);
        let learned = dot(delta, dout);
        let mut ddecay = 0.0;
        let rows = state.chunks_exact(dim).zip(gradient.chunks_exact_mut(dim));
        for (row, (state, gradient)) in rows.enumerate() {
            let at_query = token * heads.qk_width() + key_head * heads.key_dim + row;
            let dquery = heads.scale() * (dot(state, dout) + key[row] * learned);
            let dkey = dot(gradient, delta) - dot(state, dmissed);
            gradient.iter_mut().zip(&*dmissed).for_each(|(gradient, dmissed)| *gradient -= key[row] * dmissed);
            ddecay += dot(gradient, state);
            gradient.iter_mut().for_each(|gradient| *gradient *= kept);
            for (at, share) in [(at_query, dquery), (at_query + heads.qk_width() / 2, dkey)] {
                // SAFETY: of this task's key head, as above; the first of the heads that share it writes what others add to.
                unsafe {
                    let place = self.dqk.at(at);
                    *place = if repeat == 0 { share } else { *place + share };
                }
            }
        }
        let at_gates = 2 * token * heads.value_heads + head;
        // SAFETY: of this task's head, as above.
        unsafe {
            *self.dgates.at(at_gates) = ddecay;
            *self.dgates.at(at_gates + heads.value_heads) = dstep;
        }
    }
}
