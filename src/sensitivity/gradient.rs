//! Sensitivities from one reverse sweep.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

use super::embedding::EmbeddingGradients;
use super::{Factor, Sensitivities};
use crate::device::{Buffer, Device};
use crate::forward::Stream;
use crate::forward::reverse::reverse_sweep;
use crate::graph::{LinearInput, Matrix, Tap};
use crate::imatrix::Imatrix;
use crate::imatrix::collect::Collector;
use crate::kernels::column_moments::column_moments;
use crate::kernels::gram::Columns;
use crate::progress::Progress;
use crate::random::splitmix64;
use crate::rounding::hessian::{self, Moments};
use crate::source::Model;

/// How the sweep is made.
#[derive(Clone, Copy, Debug)]
pub struct SweepOptions {
    /// Seeds the labels drawn from the model's distribution.
    pub seed: u64,
}

/// Runs the sweep over the tokens of `stream` and joins its output side with the input side of `imatrix`.
/// `token_counts[id]` says how often each vocabulary entry occurs in the calibration text.
pub fn reverse_sweep_factors(
    stream: &Stream,
    imatrix: &Imatrix,
    token_counts: &[u64],
    options: SweepOptions,
    progress: &dyn Progress,
) -> Result<Sensitivities> {
    let model = stream.model;
    let mut tap = GradientTap::new(stream.device, stream.sequence_len());
    let draw = |position| uniform(options.seed, position as u64);
    reverse_sweep(stream, model, &draw, &mut tap, progress)?;
    tap.factors(model, imatrix, token_counts, stream.token_count())
}

/// A uniform number in [0, 1) that depends on seed and position alone, the same on every device.
fn uniform(seed: u64, position: u64) -> f32 {
    (splitmix64(seed, position) >> 40) as f32 / (1u64 << 24) as f32
}

/// Gathers the sums of squared gradients: per output row of each linear layer, per token and per column at the embedding.
struct GradientTap<'a> {
    device: &'a Device,
    /// Tokens of a text.
    seq_len: usize,
    rows: HashMap<String, Vec<f64>>,
    by_token: EmbeddingGradients,
    embedding: Vec<f64>,
    embedding_moments: Option<Moments>,
    /// Input statistics of the sweep's own tokens, for weights that the importance matrix lacks.
    inputs: Collector<'a>,
    pending: Vec<Pending>,
}

struct Pending {
    output: Output,
    sums: Buffer,
}

/// Where a gradient was seen.
enum Output {
    /// At `rows` rows of a matrix, from `first` on.
    Linear {
        matrix: Matrix,
        rows: usize,
        first: usize,
    },
    Embedding,
}

impl<'a> GradientTap<'a> {
    fn new(device: &'a Device, seq_len: usize) -> Self {
        GradientTap {
            device,
            seq_len,
            rows: HashMap::new(),
            by_token: EmbeddingGradients::default(),
            embedding: Vec::new(),
            embedding_moments: None,
            inputs: Collector::new(device),
            pending: Vec::new(),
        }
    }

    fn gather(&mut self, output: Output, dy: &Buffer, tokens: usize, width: usize) -> Result<()> {
        let sums = self.device.alloc("gradient sums", 2 * width * size_of::<f32>())?;
        column_moments(self.device, dy, &sums, tokens, width)?;
        self.pending.push(Pending { output, sums });
        Ok(())
    }

    fn factors(
        mut self,
        model: &Model,
        imatrix: &Imatrix,
        token_counts: &[u64],
        tokens: usize,
    ) -> Result<Sensitivities> {
        let per_token = |sums: Vec<f64>| sums.into_iter().map(|sum| (sum / tokens as f64) as f32).collect::<Vec<f32>>();
        let mut factors: HashMap<String, Vec<Factor>> = HashMap::new();
        let own = self.inputs.finish("", 0, 0)?;
        for (name, mut sums) in self.rows.drain() {
            // no token was sent to the last experts
            sums.resize(model.require(&name)?.rows, 0.0);
            // llama.cpp's files have no entry for the output.
            let known = imatrix.mean2(&name).or_else(|| own.mean2(&name));
            let cols = known.with_context(|| format!("no importance data for `{name}`"))?;
            factors.entry(name).or_default().push(Factor { rows: per_token(sums), cols });
        }
        let embedding = model.tensor("token_embd.weight").context("tensor missing: `token_embd.weight`")?;
        let worth = self.by_token.factor(model, embedding, token_counts, per_token(self.embedding))?;
        factors.entry(embedding.name.clone()).or_default().push(worth);
        let embedding_moments =
            self.embedding_moments.map(|moments| Moments::mean(self.device, &[&moments])).transpose()?;
        Ok(Sensitivities { factors, embedding_moments })
    }
}

impl Tap for GradientTap<'_> {
    fn linear_input(&mut self, input: &LinearInput) -> Result<()> {
        self.inputs.linear_input(input)
    }

    fn linear_gradient(
        &mut self,
        matrix: &Matrix,
        dy: &Buffer,
        tokens: usize,
        rows: usize,
        first_row: usize,
    ) -> Result<()> {
        self.gather(Output::Linear { matrix: matrix.clone(), rows, first: first_row }, dy, tokens, rows)
    }

    fn embedding_gradient(&mut self, ids: &[u32], dx: &Buffer, width: usize) -> Result<()> {
        let mut values = self.device.read_range::<f32>(dx, 0, ids.len() * width)?;
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "gradients overflow at `token_embd.weight`, so they tell nothing of what errors cost: `--sensitivity probes` does without them"
        );
        self.by_token.add(ids, &mut values, width);
        let directions = self.device.upload("directions of gradients", &values)?;
        if hessian::fits(self.device, width) {
            if self.embedding_moments.is_none() {
                self.embedding_moments = Some(Moments::zeroed(self.device, width, width)?);
            }
            let moments = self.embedding_moments.as_mut().expect("set above");
            for first in (0..ids.len()).step_by(self.seq_len) {
                let text = hessian::text(self.device, &directions, width, first..first + self.seq_len)?;
                moments.add(self.device, &Columns::all(&text, width), self.seq_len)?;
            }
        }
        self.gather(Output::Embedding, &directions, ids.len(), width)
    }

    fn layer_done(&mut self) -> Result<()> {
        self.inputs.layer_done()?;
        for Pending { output, sums } in self.pending.drain(..) {
            let sums = self.device.read::<f32>(&sums)?;
            let squares = &sums[..sums.len() / 2];
            let name = match &output {
                Output::Linear { matrix, .. } => &matrix.tensor,
                Output::Embedding => "token_embd.weight",
            };
            ensure!(
                squares.iter().all(|square| square.is_finite()),
                "gradients overflow at `{name}`, so they tell nothing of what errors cost: `--sensitivity probes` does without them"
            );
            let (total, first) = match output {
                // the matrices of a stack are shown with all their rows
                Output::Linear { matrix, rows, first } => {
                    (self.rows.entry(matrix.tensor).or_default(), matrix.index * rows + first)
                }
                Output::Embedding => (&mut self.embedding, 0),
            };
            if total.len() < first + squares.len() {
                total.resize(first + squares.len(), 0.0);
            }
            total[first..].iter_mut().zip(squares).for_each(|(total, square)| *total += f64::from(*square));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_numbers_fill_the_unit_interval() {
        let values: Vec<f32> = (0..4096).map(|position| uniform(7, position)).collect();
        assert!(values.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert_ne!(uniform(7, 0), uniform(8, 0));
    }
}
