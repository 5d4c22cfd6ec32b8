//! The reverse sweep: gradients of `-log p(y)` with labels `y` drawn from the model's own next-token distribution,
//! carried back layer by layer from kept layer inputs. Each layer's inside is recomputed, so memory does not grow with depth;
//! the temporary file that keeps the inputs does.

use anyhow::Result;

use super::head::{FinalStates, OutputTiles};
use super::store::{HiddenStates, SpillFile};
use super::stream::{Stream, scale};
use super::weights::WeightSource;
use crate::arch::Hparams;
use crate::device::Buffer;
use crate::graph::run::Keep;
use crate::graph::vanishing::{Rows, lifted};
use crate::graph::{Matrix, NoTap, Tap};
use crate::kernels::logit_shape::{LogitShape, shape_logits_backward};
use crate::kernels::matmul_transposed::matmul_transposed;
use crate::kernels::norm::NormParams;
use crate::kernels::norm_backward::norm_backward;
use crate::kernels::sample_gradient;
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
        let graph = stream.model.layer(layer);
        let layer_weights = stream.load_layer(weights, &graph)?;
        for (batch, bytes) in state_bytes.iter().enumerate() {
            let (ctx, tokens) = (stream.batch(batch), stream.batch_tokens(batch).len());
            let input = inputs.read(layer * batches + batch, *bytes)?;
            let input = stream.device.upload("layer input", &input)?;
            let values = graph.run(ctx, &layer_weights, input, Keep::All, tap)?;
            let dy = gradient.take(batch)?;
            let dx = graph.back(ctx, &layer_weights, &values, layer == 0, dy.clone(), tap)?;
            stream.keep_state(&dx, &dy, tokens)?;
            gradient.put(batch, dy)?;
            stream.arena.reset();
            stream.device.flush()?;
            progress.advance(tokens as u64)?;
        }
        tap.layer_done()?;
    }
    for batch in 0..batches {
        let dx = gradient.take(batch)?;
        let ids = &stream.tokens[stream.batch_tokens(batch)];
        let dx = row_gradient(stream, dx, ids.len())?;
        tap.embedding_gradient(ids, &dx, stream.model.hparams.n_embd)?;
    }
    tap.layer_done()?;
    progress.end();
    Ok(())
}

/// The gradient at rows of the embedding, from that at the states which they become.
fn row_gradient(stream: &Stream, dx: Buffer, tokens: usize) -> Result<Buffer> {
    let Hparams { n_embd, embedding_scale, .. } = stream.model.hparams;
    if embedding_scale == 1.0 {
        return Ok(dx);
    }
    let mut values = stream.device.read_range::<f32>(&dx, 0, tokens * n_embd)?;
    scale(&mut values, embedding_scale);
    stream.device.upload("gradient at the embedding", &values)
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
    let logit_bytes = most * tiles.tile_rows() * size_of::<f32>();
    let logits = device.alloc("logits", logit_bytes)?;
    // logits as they were, where the way back through their shape needs them
    let kept = (tiles.shape != LogitShape::PLAIN).then(|| device.alloc("shaped logits", logit_bytes)).transpose()?;
    let mut states = Vec::new();
    let mut gradient = HiddenStates::new(device, stream.hidden_bytes(), stream.options.hidden_budget)?;
    for (batch, bytes) in stream.hidden_bytes().into_iter().enumerate() {
        let uniform: Vec<f32> = stream.batch_tokens(batch).map(draw).collect();
        states.push((sample_gradient::start(device, uniform.len())?, device.upload("uniform numbers", &uniform)?));
        gradient.put(batch, device.alloc("head gradient", bytes)?)?;
    }

    let output = Matrix::whole(stream.model.output_tensor());
    // Three walks over the vocabulary: log-sum-exp, the label that the uniform number falls on, the gradient.
    progress.begin("head gradient", 3 * (tiles.rows * batches) as u64);
    for walk in 0..3 {
        for rows in tiles.ranges() {
            let w = tiles.load(rows.clone())?;
            for (batch, (state, uniform)) in states.iter().enumerate() {
                let count = normed.positions(batch);
                normed.with(batch, |x| tiles.logits(x, &w, &logits, count))?;
                match walk {
                    0 => sample_gradient::lse_tile(device, state, &logits, count, rows.len(), rows.start)?,
                    1 => sample_gradient::cdf_tile(device, state, &logits, uniform, count, rows.len(), rows.start)?,
                    _ => {
                        if let Some(shaped) = &kept {
                            device.copy(&logits, 0, shaped, 0, count * rows.len() * size_of::<f32>())?;
                        }
                        sample_gradient::gradient_tile(device, state, &logits, count, rows.len(), rows.start)?;
                        if let Some(shaped) = &kept {
                            shape_logits_backward(device, shaped, &logits, count * rows.len(), tiles.shape)?;
                        }
                        tap.linear_gradient(&output, &logits, count, rows.len(), rows.start)?;
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
        let params = NormParams { kind: hparams.norm, rows: tokens, width: hparams.n_embd, eps: hparams.norm_eps };
        norm_backward(device, &x, &norm, &dy, &dx, params, false)?;
        gradient.put(batch, dx)?;
    }
    Ok(())
}
