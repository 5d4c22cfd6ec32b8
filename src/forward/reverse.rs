//! The reverse sweep: gradients of `-log p(y)` with labels `y` drawn from the model's own next-token distribution,
//! carried back layer by layer from kept layer inputs. Each layer's inside is recomputed, so memory does not grow with depth;
//! the temporary file that keeps the inputs does.

use std::collections::BTreeMap;

use anyhow::Result;

use super::head::{FinalStates, OutputTiles};
use super::layer::{Activation, BatchContext, Saved, run_layer};
use super::store::{HiddenStates, SpillFile};
use super::stream::Stream;
use super::tap::{NoTap, Tap};
use super::vanishing::{Rows, faint_tokens, lifted};
use super::weights::{LayerWeights, WeightSource};
use crate::arch::graph::{Op, Slot};
use crate::device::Buffer;
use crate::kernels::attention_backward::attention_backward;
use crate::kernels::matmul::matmul;
use crate::kernels::matmul_transposed::matmul_transposed;
use crate::kernels::rms_norm_backward::rms_norm_backward;
use crate::kernels::rope::rope;
use crate::kernels::sample_gradient;
use crate::kernels::swiglu_backward::swiglu_backward;
use crate::progress::Progress;

/// Runs the sweep over all tokens of `stream`. `draw(position)` gives the uniform number in [0, 1) that picks the label
/// of that position. The tap receives the gradient at every linear output and at the embedding.
pub fn reverse_sweep(
    stream: &Stream,
    weights: &dyn WeightSource,
    draw: &dyn Fn(usize) -> f32,
    tap: &mut dyn Tap,
    progress: &dyn Progress,
) -> Result<()> {
    let layers = stream.model.hparams.n_layer;
    let batches = stream.batch_count();
    let state_bytes = stream.hidden_bytes();
    let mut inputs = SpillFile::new(&state_bytes.repeat(layers + 1))?;

    progress.begin("forward sweep", stream.work());
    let mut hidden = stream.run(weights, &mut NoTap, Some(&mut inputs), progress)?;
    progress.end();
    for batch in 0..batches {
        let state = hidden.take(batch)?;
        inputs.write(layers * batches + batch, &stream.device.read::<u8>(&state)?)?;
        hidden.put(batch, state)?;
    }
    let normed = stream.norm_states(hidden, 0..stream.seq_len, tap)?;
    let mut gradient = head_gradient(stream, weights, normed, draw, tap, progress)?;
    norm_gradient(stream, &mut gradient, &mut inputs)?;

    progress.begin("reverse sweep", stream.work());
    for layer in (0..layers).rev() {
        let ops = stream.ops(layer);
        let layer_weights = stream.load_layer(weights, &ops)?;
        for (batch, bytes) in state_bytes.iter().enumerate() {
            let ctx = stream.context(batch);
            let input = inputs.read(layer * batches + batch, *bytes)?;
            let input = stream.device.upload("layer input", &input)?;
            let width = stream.model.hparams.n_embd;
            let mut saved = Vec::new();
            let input = Activation { buffer: input, width };
            run_layer(&ctx, &layer_weights, &ops, input, tap, Some(&mut saved))?;
            let dy = gradient.take(batch)?;
            backward_layer(&ctx, &layer_weights, &ops, &saved, layer == 0, &dy, tap)?;
            gradient.put(batch, dy)?;
            stream.arena.reset();
            stream.device.flush()?;
            progress.advance(ctx.tokens() as u64)?;
        }
        tap.layer_done()?;
    }
    for batch in 0..batches {
        let dx = gradient.take(batch)?;
        tap.embedding_gradient(&stream.tokens[stream.batch_tokens(batch)], &dx, stream.model.hparams.n_embd)?;
    }
    tap.layer_done()?;
    progress.end();
    Ok(())
}

/// dL/d(normed state) of every position, from labels drawn with `draw`.
fn head_gradient(
    stream: &Stream,
    weights: &dyn WeightSource,
    mut normed: FinalStates,
    draw: &dyn Fn(usize) -> f32,
    tap: &mut dyn Tap,
    progress: &dyn Progress,
) -> Result<HiddenStates> {
    let device = stream.device;
    let batches = normed.batch_count();
    let most = (0..batches).map(|batch| normed.positions(batch)).max().expect("a stream has a batch");
    let tiles = OutputTiles::new(stream, weights, most)?;
    let logits = device.alloc("logits", most * tiles.tile_rows() * size_of::<f32>())?;
    let mut states = Vec::new();
    let mut gradient = HiddenStates::new(device, stream.hidden_bytes(), stream.options.hidden_budget)?;
    for (batch, bytes) in stream.hidden_bytes().into_iter().enumerate() {
        let uniform: Vec<f32> = stream.batch_tokens(batch).map(draw).collect();
        states.push((sample_gradient::start(device, uniform.len())?, device.upload("uniform numbers", &uniform)?));
        gradient.put(batch, device.alloc("head gradient", bytes)?)?;
    }

    // Three walks over the vocabulary: log-sum-exp, the label that the uniform number falls on, the gradient.
    progress.begin("head gradient", 3 * (tiles.rows * batches) as u64);
    for walk in 0..3 {
        for rows in tiles.ranges() {
            let w = tiles.load(rows.clone())?;
            for (batch, (state, uniform)) in states.iter().enumerate() {
                let count = normed.positions(batch);
                normed.with(batch, |x| matmul(device, x, &w, None, &logits, count, false))?;
                match walk {
                    0 => sample_gradient::lse_tile(device, state, &logits, count, rows.len(), rows.start)?,
                    1 => sample_gradient::cdf_tile(device, state, &logits, uniform, count, rows.len(), rows.start)?,
                    _ => {
                        sample_gradient::gradient_tile(device, state, &logits, count, rows.len(), rows.start)?;
                        tap.linear_gradient(stream.model.output_tensor(), &logits, count, rows.len(), rows.start)?;
                        let dx = gradient.take(batch)?;
                        matmul_transposed(device, &logits, &w, &dx, count, 0..rows.len(), rows.start > 0)?;
                        gradient.put(batch, dx)?;
                    }
                }
                device.flush()?;
                progress.advance(rows.len() as u64)?;
            }
        }
    }
    tap.layer_done()?;
    progress.end();
    Ok(gradient)
}

/// Takes the gradient from after the final norm to before it.
fn norm_gradient(stream: &Stream, gradient: &mut HiddenStates, inputs: &mut SpillFile) -> Result<()> {
    let (device, hparams) = (stream.device, &stream.model.hparams);
    let norm = stream.load_final_norm()?;
    for (batch, bytes) in stream.hidden_bytes().into_iter().enumerate() {
        let x = inputs.read(hparams.n_layer * stream.batch_count() + batch, bytes)?;
        let x = device.upload("final hidden states", &x)?;
        let dy = gradient.take(batch)?;
        let dx = device.alloc("hidden gradient", bytes)?;
        let tokens = stream.batch_tokens(batch).len();
        let rows = Rows { tokens, seq_len: stream.seq_len, groups: 1, width: hparams.n_embd };
        let x = lifted(device, &x, rows, None)?.unwrap_or(x);
        rms_norm_backward(device, &x, &norm, &dy, &dx, tokens, hparams.n_embd, hparams.rms_eps, false)?;
        gradient.put(batch, dx)?;
    }
    Ok(())
}

/// Gradients of the slots of one layer.
struct Gradients<'a> {
    ctx: &'a BatchContext<'a>,
    slots: BTreeMap<Slot, Buffer>,
}

impl Gradients<'_> {
    /// The gradient of a value that is defined here: nothing before it sees this slot any more.
    fn consume(&mut self, slot: Slot) -> Buffer {
        self.slots.remove(&slot).expect("every value of a layer is used by a later operation")
    }

    /// Where to put a contribution to the gradient of `slot`, and whether to add to what is there.
    fn target(&mut self, slot: Slot, width: usize) -> Result<(Buffer, bool)> {
        if let Some(buffer) = self.slots.get(&slot) {
            return Ok((buffer.clone(), true));
        }
        let buffer = self.ctx.arena.take(self.ctx.tokens(), width)?;
        self.slots.insert(slot, buffer.clone());
        Ok((buffer, false))
    }

    /// Room for the gradient of `slot`, which has no other use.
    fn fresh(&mut self, slot: Slot, width: usize) -> Result<Buffer> {
        let (buffer, used) = self.target(slot, width)?;
        assert!(!used, "{slot:?} is used by one operation only");
        Ok(buffer)
    }
}

/// The input of norm `index` of a layer for the way back, where that is not what was saved.
fn norm_input(ctx: &BatchContext, ops: &[Op], saved: &[Saved], index: usize, is_first: bool) -> Result<Option<Buffer>> {
    let (Op::RmsNorm { src, width, .. }, Saved::Norm { src: x }) = (&ops[index], &saved[index]) else {
        return Ok(None);
    };
    let rows = |x: &Activation, width: usize| Rows {
        tokens: ctx.tokens(),
        seq_len: ctx.seq_len,
        groups: x.width / width,
        width,
    };
    let is_stream = |op: &Op| matches!(op, Op::RmsNorm { src: Slot::Hidden, .. });
    let before = ops[..index].iter().rposition(is_stream);
    match (*src, before) {
        // behind it is the embedding, of which every row is judged by its own gradient and size
        (Slot::Hidden, None) if is_first => Ok(None),
        (Slot::Hidden, _) => lifted(ctx.device, &x.buffer, rows(x, *width), None),
        // heads differ in size, so that a small one need not vanish
        (_, Some(stream)) => {
            let Saved::Norm { src: read } = &saved[stream] else { return Ok(None) };
            let faint = faint_tokens(ctx.device, &read.buffer, rows(read, read.width), ctx.hparams.rms_eps)?;
            lifted(ctx.device, &x.buffer, rows(x, *width), Some(&faint))
        }
        (_, None) => Ok(None),
    }
}

/// Carries `hidden` (the gradient at the layer's output, changed in place to that at its input) back through `ops`. `is_first`
/// is of the layer behind which there is only the embedding.
fn backward_layer(
    ctx: &BatchContext,
    weights: &LayerWeights,
    ops: &[Op],
    saved: &[Saved],
    is_first: bool,
    hidden: &Buffer,
    tap: &mut dyn Tap,
) -> Result<()> {
    let (device, tokens) = (ctx.device, ctx.tokens());
    let mut gradients = Gradients { ctx, slots: BTreeMap::from([(Slot::Hidden, hidden.clone())]) };
    for (index, op) in ops.iter().enumerate().rev() {
        match (op, &saved[index]) {
            (Op::Linear { src, dst, weight, add, .. }, _) => {
                let matrix = weights.matrix(weight);
                let dy = if *add { gradients.slots[dst].clone() } else { gradients.consume(*dst) };
                tap.linear_gradient(weight, &dy, tokens, matrix.rows, 0)?;
                let (dx, accumulate) = gradients.target(*src, matrix.cols)?;
                matmul_transposed(device, &dy, matrix, &dx, tokens, 0..matrix.rows, accumulate)?;
            }
            (Op::RmsNorm { src, dst, weight, width }, Saved::Norm { src: x }) => {
                let dy = gradients.consume(*dst);
                let rows = tokens * (x.width / width);
                let (dx, accumulate) = gradients.target(*src, x.width)?;
                let (scale, eps) = (weights.vector(weight), ctx.hparams.rms_eps);
                let lifted = norm_input(ctx, ops, saved, index, is_first)?;
                let input = lifted.as_ref().unwrap_or(&x.buffer);
                rms_norm_backward(device, input, scale, &dy, &dx, rows, *width, eps, accumulate)?;
            }
            (Op::Rope { slot, heads, head_dim }, _) => {
                rope(device, &gradients.slots[slot], ctx.rope_table, ctx.rope(*heads, *head_dim, true))?;
            }
            (Op::Attention { q, k, v, dst, window }, Saved::Attention { q: qx, k: kx, v: vx }) => {
                let dy = gradients.consume(*dst);
                let dq = gradients.fresh(*q, qx.width)?;
                let dk = gradients.fresh(*k, kx.width)?;
                let dv = gradients.fresh(*v, vx.width)?;
                let params = ctx.attention(*window);
                attention_backward(device, &qx.buffer, &kx.buffer, &vx.buffer, &dy, &dq, &dk, &dv, params)?;
            }
            (Op::SwiGlu { gate, up, dst }, Saved::SwiGlu { gate: g, up: u }) => {
                let dy = gradients.consume(*dst);
                let dgate = gradients.fresh(*gate, g.width)?;
                let dup = gradients.fresh(*up, u.width)?;
                swiglu_backward(device, &g.buffer, &u.buffer, &dy, &dgate, &dup, tokens * g.width)?;
            }
            _ => unreachable!("what was saved belongs to its operation"),
        }
    }
    Ok(())
}
