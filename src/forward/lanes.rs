//! The same tokens on two lanes: in the original model, and behind layers that are quantized already.

use anyhow::Result;

use super::store::HiddenStates;
use super::stream::Stream;
use super::weights::WeightSource;
use crate::device::Buffer;
use crate::graph::run::Keep;
use crate::graph::{LinearInput, Matrix, NoTap, Tap};
use crate::progress::Progress;

/// Units of work of a layer, per token: the original's pass on both lanes, and that of the quantized layer.
const PASSES: u64 = 3;

/// What one linear input is on both lanes.
pub struct LaneInputs<'a> {
    /// Behind the quantized layers.
    pub quantized: LinearInput<'a>,
    /// `[tokens, width]` in the original model; none for an expert, to which the lanes may send other tokens.
    pub original: Option<&'a Buffer>,
    /// What the output is added to, if it is, in the original and behind the quantized layers: `[tokens, rows of the matrix]`.
    pub residuals: Option<[&'a Buffer; 2]>,
}

impl LaneInputs<'_> {
    /// The width of what the output is added to, 0 if it is not.
    pub fn residual_width(&self) -> usize {
        self.residuals.map_or(0, |[residual, _]| residual.bytes() / size_of::<f32>() / self.quantized.tokens())
    }
}

/// Sees linear inputs on both lanes.
pub trait LaneTap {
    fn linear_inputs(&mut self, inputs: &LaneInputs) -> Result<()>;
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
            let mut seen = Recorder::default();
            // with all values kept, nothing that was recorded is written to again
            let passed = graph.run(ctx, &weights, original.clone(), Keep::All, &mut seen)?;
            let mut pairing = Pairing { original: &seen, residual: None, tap };
            graph.show(ctx, &weights, quantized.clone(), &mut pairing)?;
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
        let matrices = [Matrix::whole(stream.model.output_tensor())];
        for batch in 0..stream.batch_count() {
            let normed = |states: &mut HiddenStates| stream.norm_batch(&norm, batch, &states.take(batch)?, &every);
            let ctx = stream.batch(batch);
            let quantized = LinearInput {
                matrices: &matrices,
                x: &normed(&mut self.quantized)?,
                width: stream.model.hparams.n_embd,
                texts: &vec![ctx.seq_len; ctx.sequences],
                first_text: ctx.first_sequence,
                experts: None,
            };
            let original = normed(&mut self.original)?;
            tap.linear_inputs(&LaneInputs { quantized, original: Some(&original), residuals: None })?;
            stream.device.flush()?;
        }
        Ok(())
    }
}

/// Remembers the inputs of one batch in the original model, but for those of experts.
#[derive(Default)]
struct Recorder {
    residual: Option<Buffer>,
    inputs: Vec<Seen>,
}

struct Seen {
    matrices: Vec<Matrix>,
    x: Buffer,
    residual: Option<Buffer>,
}

impl Tap for Recorder {
    fn residual(&mut self, residual: &Buffer) -> Result<()> {
        self.residual = Some(residual.clone());
        Ok(())
    }

    fn linear_input(&mut self, input: &LinearInput) -> Result<()> {
        if input.experts.is_none() {
            let residual = self.residual.take();
            self.inputs.push(Seen { matrices: input.matrices.to_vec(), x: input.x.clone(), residual });
        }
        Ok(())
    }
}

/// Shows the inputs behind quantized layers together with what was remembered.
struct Pairing<'a> {
    original: &'a Recorder,
    residual: Option<Buffer>,
    tap: &'a mut dyn LaneTap,
}

impl Tap for Pairing<'_> {
    fn residual(&mut self, residual: &Buffer) -> Result<()> {
        self.residual = Some(residual.clone());
        Ok(())
    }

    fn linear_input(&mut self, input: &LinearInput) -> Result<()> {
        let original = self.original.inputs.iter().find(|seen| seen.matrices == input.matrices);
        let residual = self.residual.take();
        let residuals = original.and_then(|seen| seen.residual.as_ref()).zip(residual.as_ref());
        self.tap.linear_inputs(&LaneInputs {
            quantized: *input,
            original: original.map(|seen| &seen.x),
            residuals: residuals.map(|(original, quantized)| [original, quantized]),
        })
    }
}
