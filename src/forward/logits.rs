//! Logits on the host, for who wants to see them all: small inputs, tools, tests.

use std::ops::Range;

use anyhow::Result;

use super::head::OutputTiles;
use super::stream::Stream;
use super::weights::WeightSource;
use crate::graph::NoTap;
use crate::progress::Progress;

impl Stream<'_> {
    /// Logits `[positions, vocabulary]` at the positions `scored` of each chunk, chunk after chunk.
    ///
    /// The result takes 4 bytes per position and vocabulary entry on the host (1000 positions of a vocabulary of 150,000:
    /// 600 MB); [`Stream::for_each_logits`] needs that for one batch only.
    ///
    /// Errors: a tensor is missing or cannot be decoded, `scored` is empty or past the end of a chunk, device errors, an
    /// interruption by `progress`.
    pub fn logits(
        &self,
        weights: &dyn WeightSource,
        scored: Range<usize>,
        progress: &dyn Progress,
    ) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        let mut keep = |logits: Vec<f32>| {
            all.extend(logits);
            Ok(())
        };
        self.for_each_logits(weights, scored, &mut keep, progress)?;
        Ok(all)
    }

    /// Hands the logits of one batch of chunks at a time to `visit`: `[positions of the batch, vocabulary]`, in order.
    ///
    /// A batch holds `StreamOptions::batch_tokens / seq_len` chunks, at least one. Errors as [`Stream::logits`], and those
    /// of `visit`.
    pub fn for_each_logits(
        &self,
        weights: &dyn WeightSource,
        scored: Range<usize>,
        visit: &mut dyn FnMut(Vec<f32>) -> Result<()>,
        progress: &dyn Progress,
    ) -> Result<()> {
        progress.begin("running the model", self.work());
        let mut states = self.final_states(weights, scored, &mut NoTap, progress)?;
        progress.end();

        let most = states.most_positions();
        let tiles = OutputTiles::new(self, weights, most)?;
        let vocabulary = tiles.rows;
        let tile = self.device.alloc("logits", most * tiles.tile_rows() * size_of::<f32>())?;
        progress.begin("logits", (vocabulary * states.batch_count()) as u64);
        for batch in 0..states.batch_count() {
            let count = states.positions(batch);
            let mut logits = vec![0f32; count * vocabulary];
            for rows in tiles.ranges() {
                let w = tiles.load(rows.clone())?;
                states.with(batch, |x| tiles.logits(x, &w, &tile, count))?;
                let part = self.device.read_range::<f32>(&tile, 0, count * rows.len())?;
                for (row, part) in logits.chunks_exact_mut(vocabulary).zip(part.chunks_exact(rows.len())) {
                    row[rows.clone()].copy_from_slice(part);
                }
                progress.advance(rows.len() as u64)?;
            }
            visit(logits)?;
        }
        progress.end();
        Ok(())
    }
}
