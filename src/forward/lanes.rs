//! The same tokens on two lanes: in the original model, and behind layers that are quantized already.

use anyhow::Result;

use super::store::HiddenStates;
use super::stream::Stream;
use super::weights::WeightSource;
use crate::device::Buffer;
use crate::graph::run::Keep;
use crate::graph::{NoTap, Tap};
use crate::progress::Progress;

/// Units of work of a layer, per token: the original's pass on both lanes, and that of the quantized layer.
const PASSES: u64 = 3;

/// What one linear input is on both lanes.
pub struct LaneInputs<'a> {
    /// The weights that read it.
    pub weights: &'a [String],
    pub width: usize,
    /// `[tokens, width]` in the original model.
    pub original: &'a Buffer,
    /// The same behind the quantized layers.
    pub quantized: &'a Buffer,
    /// What the output is added to, if it is, on both lanes: `[tokens, rows of the weight]`.
    pub residuals: Option<[&'a Buffer; 2]>,
}

impl LaneInputs<'_> {
    /// The width of what the output is added to, 0 if it is not.
    pub fn residual_width(&self, tokens: usize) -> usize {
        self.residuals.map_or(0, |[residual, _]| residual.bytes() / size_of::<f32>() / tokens)
    }
}

/// Sees linear inputs on both lanes.
pub trait LaneTap {
    fn linear_inputs(&mut self, inputs: &LaneInputs, tokens: usize) -> Result<()>;
}

/// All tokens between two layers, on both lanes.
pub struct Lanes<'a, 's> {
    stream: &'s Stream<'a>,
    original: HiddenStates,
    quantized: HiddenStates,
}

impl<'a, 's> Lanes<'a, 's> {
    /// Before the first layer; `quantized` gives the embedding of the second lane.
    pub fn new(stream: &'s Stream<'a>, quantized: &dyn WeightSource) -> Result<Self> {
        Ok(Lanes { stream, original: stream.embed(stream.model)?, quantized: stream.embed(quantized)? })
    }

    /// Units of work of all layers.
    pub fn work(stream: &Stream) -> u64 {
        PASSES * stream.work()
    }

    /// Shows what the original's weights read on both lanes, and takes the original lane past the layer.
    pub fn compare(&mut self, layer: usize, tap: &mut dyn LaneTap, progress: &dyn Progress) -> Result<()> {
        let stream = self.stream;
        let graph = stream.model.layer(layer);
        let weights = stream.load_layer(stream.model, &graph)?;
        for batch in 0..stream.batch_count() {
            let (ctx, tokens) = (stream.batch(batch), stream.batch_tokens(batch).len());
            let [original, quantized] = [self.original.take(batch)?, self.quantized.take(batch)?];
            let [mut seen_original, mut seen_quantized] = [Recorder::default(), Recorder::default()];
            // with all values kept, nothing that was recorded is written to again
            let passed = graph.run(ctx, &weights, original.clone(), Keep::All, &mut seen_original)?;
            graph.show(ctx, &weights, quantized.clone(), &mut seen_quantized)?;
            show(seen_original, seen_quantized, tokens, tap)?;
            stream.keep_state(passed.get(graph.output()), &original, tokens)?;
            self.original.put(batch, original)?;
            self.quantized.put(batch, quantized)?;
            stream.arena.reset();
            stream.device.flush()?;
            progress.advance((PASSES - 1) * tokens as u64)?;
        }
        Ok(())
    }

    /// Takes the other lane past the layer too, with its weights as quantized.
    pub fn follow(&mut self, layer: usize, quantized: &dyn WeightSource, progress: &dyn Progress) -> Result<()> {
        self.stream.pass(layer, quantized, &mut self.quantized, &mut NoTap, None, progress)
    }

    /// Shows what the output matrix reads.
    pub fn compare_heads(mut self, tap: &mut dyn LaneTap) -> Result<()> {
        let stream = self.stream;
        let (norm, every) = (stream.load_final_norm()?, 0..stream.sequence_len());
        let weights = [stream.model.output_tensor().to_owned()];
        for batch in 0..stream.batch_count() {
            let normed = |states: &mut HiddenStates| stream.norm_batch(&norm, batch, &states.take(batch)?, &every);
            let inputs = LaneInputs {
                weights: &weights,
                width: stream.model.hparams.n_embd,
                original: &normed(&mut self.original)?,
                quantized: &normed(&mut self.quantized)?,
                residuals: None,
            };
            tap.linear_inputs(&inputs, stream.batch_tokens(batch).len())?;
            stream.device.flush()?;
        }
        Ok(())
    }
}

fn show(original: Recorder, quantized: Recorder, tokens: usize, tap: &mut dyn LaneTap) -> Result<()> {
    for (one, other) in original.inputs.iter().zip(&quantized.inputs) {
        let residuals = one.residual.as_ref().zip(other.residual.as_ref());
        let inputs = LaneInputs {
            weights: &one.weights,
            width: one.width,
            original: &one.x,
            quantized: &other.x,
            residuals: residuals.map(|(one, other)| [one, other]),
        };
        tap.linear_inputs(&inputs, tokens)?;
    }
    Ok(())
}

/// Remembers the linear inputs of one batch on one lane.
#[derive(Default)]
struct Recorder {
    residual: Option<Buffer>,
    inputs: Vec<Seen>,
}

struct Seen {
    weights: Vec<String>,
    x: Buffer,
    width: usize,
    residual: Option<Buffer>,
}

impl Tap for Recorder {
    fn residual(&mut self, residual: &Buffer) -> Result<()> {
        self.residual = Some(residual.clone());
        Ok(())
    }

    fn linear_input(&mut self, weights: &[&str], x: &Buffer, _: usize, width: usize) -> Result<()> {
        let weights = weights.iter().map(|name| name.to_string()).collect();
        self.inputs.push(Seen { weights, x: x.clone(), width, residual: self.residual.take() });
        Ok(())
    }
}
