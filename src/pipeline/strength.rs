//! How far H of some text is to be believed: the share of what it says of pairs of columns that is left out is chosen on texts of
//! a domain that it has not seen.

use anyhow::Result;

use super::sample::Sample;
use crate::device::Device;
use crate::quant::GgmlType;
use crate::rounding::feedback::Rounders;
use crate::rounding::hessian::{Panel, Texts, matrix, shrunk};
use crate::rounding::{Method, SHRINK};

/// Shares to choose from.
const SHARES: [f32; 5] = [0.0, 0.05, 0.15, 0.35, 0.7];

/// The share tried first.
const FIRST: usize = 2;

/// The least share where no domain was held out: text of the same kind cannot tell.
const LEAST_UNTOLD: usize = 1;

/// Columns on which shares are tried: factoring H of all of a wide input five times would take longer than rounding.
const TRIAL_COLUMNS: usize = 1024;

/// Some rows of a weight that reads the input, and what it is to become.
pub struct Reader<'a> {
    pub sample: Sample<'a>,
    pub ty: GgmlType,
    /// Importance of the columns.
    pub weights: Vec<f32>,
}

/// The share for all readers of the columns of `panel`.
pub fn shrink(device: &Device, panel: &Panel, readers: &[Reader], method: Method) -> Result<f32> {
    let width = panel.cols.len();
    if readers.is_empty() || !panel.is_split() {
        return Ok(SHRINK);
    }
    let cols = TRIAL_COLUMNS.min(width);
    let corner =
        |h: Vec<f32>| -> Vec<f32> { h.chunks_exact(width).take(cols).flat_map(|row| &row[..cols]).copied().collect() };
    let fit = corner(panel.h(device, Texts::Fit)?);
    let judge = matrix(device, &corner(panel.h(device, Texts::HeldOut)?), cols)?;
    let tried = panel.cols.start..panel.cols.start + cols;
    let parts = readers.iter().map(|reader| reader.sample.columns(tried.clone())).collect::<Result<Vec<_>>>()?;
    let score = |index: usize| -> Result<f64> {
        let mut rounders = Rounders::new(device, shrunk(fit.clone(), SHARES[index]), cols, method)?;
        let mut score = 0.0;
        for (reader, part) in readers.iter().zip(&parts) {
            let rounded = rounders.round(reader.ty, &part.values, &reader.weights[tried.clone()])?;
            let error = part.total(&part.errors(&part.upload(reader.ty, &rounded)?, &judge)?, None);
            // ratios, so that readers of all sizes count the same
            score += error.max(f64::MIN_POSITIVE).ln();
        }
        Ok(score)
    };
    let least = if panel.holds_domain() { 0 } else { LEAST_UNTOLD };
    Ok(SHARES[lowest(least..SHARES.len(), FIRST, score)?])
}

/// Walks down from `start` within `range`.
fn lowest(range: std::ops::Range<usize>, start: usize, mut score: impl FnMut(usize) -> Result<f64>) -> Result<usize> {
    let mut best = (start, score(start)?);
    for step in [-1isize, 1] {
        while let Some(next) = best.0.checked_add_signed(step).filter(|next| range.contains(next)) {
            let found = score(next)?;
            if found >= best.1 {
                break;
            }
            best = (next, found);
        }
        if best.0 != start {
            break;
        }
    }
    Ok(best.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_ends_at_the_lowest_score_on_its_way() {
        let found = |scores: &[f64], range| lowest(range, 2, |index| Ok(scores[index])).unwrap();
        assert_eq!(found(&[5.0, 4.0, 3.0, 2.0, 1.0], 0..5), 4);
        assert_eq!(found(&[1.0, 2.0, 3.0, 4.0, 5.0], 0..5), 0);
        assert_eq!(found(&[1.0, 2.0, 3.0, 4.0, 5.0], 1..5), 1);
        assert_eq!(found(&[3.0, 3.0, 3.0, 3.0, 3.0], 0..5), 2);
        assert_eq!(found(&[9.0, 4.0, 3.0, 2.0, 8.0], 0..5), 3);
    }
}
