//! What errors of the token embedding cost: by row and by column.
//!
//! Gradients at the embedding differ by orders of magnitude between tokens: rows that are small, such as those of rare bytes, are
//! scaled up by the first norm, and their gradients with them. So each row has a worth of its own.

use std::collections::HashMap;

use anyhow::Result;

use super::Factor;
use crate::source::{Model, Tensor};

/// Weights of the embedding that are read at once.
const SLAB: usize = 8 << 20;

/// Gradients at the embedding, gathered by token.
#[derive(Default)]
pub(super) struct EmbeddingGradients {
    by_token: HashMap<u32, Energy>,
}

/// The squared lengths of some gradients.
#[derive(Clone, Copy, Default)]
struct Energy {
    count: f64,
    sum: f64,
}

impl EmbeddingGradients {
    /// Takes in the gradients dx `[ids, width]` and scales each to length 1: what is left is their direction.
    pub(super) fn add(&mut self, ids: &[u32], dx: &mut [f32], width: usize) {
        for (id, row) in ids.iter().zip(dx.chunks_exact_mut(width)) {
            let energy: f64 = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
            let entry = self.by_token.entry(*id).or_default();
            *entry = Energy { count: entry.count + 1.0, sum: entry.sum + energy };
            if energy > 0.0 {
                let scale = (1.0 / energy.sqrt()) as f32;
                row.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }

    /// `cols` are the mean squares of the scaled gradients.
    pub(super) fn factor(
        &self,
        model: &Model,
        embedding: &Tensor,
        token_counts: &[u64],
        cols: Vec<f32>,
    ) -> Result<Factor> {
        let sizes = normed_sizes(model, embedding)?;
        let known = |id: usize| self.by_token.get(&(id as u32)).copied().unwrap_or_default();
        // Behind a norm a gradient is inverse to the size of the row: this product is about the same for all tokens.
        let sized = || (0..embedding.rows).filter_map(|id| Some((known(id), sizes[id]?)));
        let all: f64 = sized().map(|(energy, _)| energy.count).sum();
        let product = sized().map(|(energy, size)| energy.sum * size).sum::<f64>() / all.max(1.0);
        let rows = row_frequencies(token_counts, embedding.rows).into_iter().enumerate().map(|(id, frequency)| {
            // without size, a row has no errors either
            let Some(size) = sizes[id] else { return 0.0 };
            // one expected gradient beside those that were seen
            let Energy { count, sum } = known(id);
            (frequency * (sum + product / size) / (count + 1.0)) as f32
        });
        Ok(Factor { rows: rows.collect(), cols })
    }
}

/// Weights of the rows' squared errors relative to their size, by how often they are used.
pub(super) fn embedding_rows(model: &Model, embedding: &Tensor, token_counts: &[u64]) -> Result<Vec<f32>> {
    let sizes = normed_sizes(model, embedding)?;
    let frequencies = row_frequencies(token_counts, embedding.rows);
    // without size, a row has no errors either
    let weight = |(frequency, size): (f64, Option<f64>)| size.map_or(0.0, |size| (frequency / size) as f32);
    Ok(frequencies.into_iter().zip(sizes).map(weight).collect())
}

/// Rows whose mean square is below this share of the norm's epsilon are nothing behind it, and so are their errors.
const NOTHING: f64 = 0.01;

/// What a norm divides the square of each row by: its mean square, but no less than the norm's epsilon. None for rows that vanish.
fn normed_sizes(model: &Model, embedding: &Tensor) -> Result<Vec<Option<f64>>> {
    let eps = f64::from(model.hparams.norm_eps);
    let size = |square: f64| (square > 0.0 && square >= NOTHING * eps).then(|| square.max(eps));
    Ok(mean_squares(model, embedding)?.into_iter().map(size).collect())
}

/// Mean square of each row.
fn mean_squares(model: &Model, tensor: &Tensor) -> Result<Vec<f64>> {
    let mut sizes = Vec::with_capacity(tensor.rows);
    let step = (SLAB / tensor.cols).max(1);
    for first in (0..tensor.rows).step_by(step) {
        let values = model.f32_rows(tensor, first..(first + step).min(tensor.rows))?;
        let square = |row: &[f32]| row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum::<f64>() / row.len() as f64;
        sizes.extend(values.chunks_exact(tensor.cols).map(square));
    }
    Ok(sizes)
}

/// The share of each vocabulary entry, smoothed by half a count so that rows never seen in calibration keep some worth.
fn row_frequencies(token_counts: &[u64], rows: usize) -> Vec<f64> {
    let total = token_counts.iter().sum::<u64>() as f64 + 0.5 * rows as f64;
    (0..rows).map(|row| (token_counts.get(row).copied().unwrap_or(0) as f64 + 0.5) / total).collect()
}
