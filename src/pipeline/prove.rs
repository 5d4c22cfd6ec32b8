//! Proving: the written file against the original, on text that calibration has never seen.

use std::ops::Range;

use anyhow::{Result, ensure};

use crate::calibration::Chunks;
use crate::device::Device;
use crate::forward::{Divergence, Side, Stream, StreamOptions, diverge, same_vocabulary};
use crate::kld::{Report, TokenRecord};
use crate::progress::Progress;
use crate::source::Model;

/// Which positions of a chunk count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// The second half, where every prediction has half a chunk of context: what llama-perplexity scores.
    SecondHalf,
    /// Every position that has a next token.
    All,
}

impl Scoring {
    fn positions(self, ctx: usize) -> Range<usize> {
        match self {
            Scoring::SecondHalf => ctx / 2..ctx - 1,
            Scoring::All => 0..ctx - 1,
        }
    }
}

/// Runs both models over the chunks and compares their distributions, token by token.
pub fn prove(
    device: &Device,
    base: &Model,
    quant: &Model,
    chunks: &Chunks,
    scoring: Scoring,
    memory: StreamOptions,
    progress: &dyn Progress,
) -> Result<Divergence> {
    ensure!(chunks.ctx >= 4, "--ctx: at least 4 tokens are needed to compare predictions, found: `{}`", chunks.ctx);
    same_vocabulary(base, quant)?;
    let scored = scoring.positions(chunks.ctx);
    let [left, right] = Stream::pair(device, [base, quant], &chunks.tokens, chunks.ctx, memory)?;
    let left = Side { stream: &left, weights: base }.run(scored.clone(), "running the original", progress)?;
    let right = Side { stream: &right, weights: quant }.run(scored.clone(), "running the quantized", progress)?;
    diverge(&left, &right, scored, progress)
}

/// The statistics of a comparison over `chunks`, in all and by domain.
pub fn report(divergence: &Divergence, chunks: &Chunks) -> Result<Report> {
    Report::new(&records(divergence, chunks), &chunks.domains)
}

/// What a comparison over `chunks` found, token by token.
pub fn records(divergence: &Divergence, chunks: &Chunks) -> Vec<TokenRecord> {
    divergence
        .tokens
        .iter()
        .zip(&divergence.chunks)
        .map(|(token, chunk)| TokenRecord {
            kld: token.kld,
            lp_base: token.lp_base,
            lp_quant: token.lp_quant,
            same_top: token.same_top,
            chunk: *chunk,
            domain: chunks.domain[*chunk as usize],
        })
        .collect()
}
