//! Blocks with one scale, and the levels -1, 0, 1 and perhaps 2.
//!
//! A block fills a tile alone, weight `n` in lane `n % 16`: such blocks are large, and need not be transposed this way. Sums
//! over a block are those of the lanes, joined pairwise.

use super::lanes::{LANES, Lanes, Rows, SubBlocks, ZERO, max, ratio, reciprocal};
use super::search::{Levels, extremes, scale_sums};

/// Scales tried, in units of the weighted rms of the block.
const FIRST: f32 = 0.9;
const RATIO: f32 = 1.6;
const ALTERNATIONS: usize = 1;

/// One block of `16 N` weights.
pub(super) struct Block<const N: usize>(SubBlocks<N>);

struct Fit {
    scale: f32,
    gain: f32,
}

impl<const N: usize> Block<N> {
    #[inline(always)]
    pub(super) fn load(rows: Rows, number: usize) -> Self {
        let start = number * N * LANES;
        let column = start % rows.importance.len();
        let (values, importance) = (&rows.values[start..], &rows.importance[column..]);
        Block(SubBlocks::interleaved(&values[..N * LANES], &importance[..N * LANES]))
    }

    /// A good scale, of `TRIALS` and one for weights on a grid. With `SIGNED`, levels are not symmetric and the scale has the sign
    /// of the side with the heavier tail.
    #[inline(always)]
    pub(super) fn scale<L: Levels, const TRIALS: usize, const SIGNED: bool>(&self) -> f32 {
        let mut fit = Fit { scale: 0.0, gain: 0.0 };
        // weights that lie on a grid are found whatever their distribution
        self.try_inverse::<L>(&mut fit, reciprocal(self.extreme()));
        let rms = self.rms();
        let mut factor = if SIGNED && self.third_moment() < 0.0 { -FIRST } else { FIRST };
        for _ in 0..TRIALS {
            self.try_inverse::<L>(&mut fit, reciprocal(factor * rms));
            factor *= RATIO;
        }
        for _ in 0..ALTERNATIONS {
            let inverse = reciprocal(fit.scale);
            self.try_inverse::<L>(&mut fit, inverse);
        }
        fit.scale
    }

    /// The codes of the levels nearest to `x / scale`.
    #[inline(always)]
    pub(super) fn codes<L: Levels>(&self, scale: f32) -> [[u8; LANES]; N] {
        let inverse = reciprocal(scale);
        let mut codes = [[0; LANES]; N];
        for (codes, x) in codes.iter_mut().zip(&self.0.x) {
            for i in 0..LANES {
                codes[i] = L::code(x[i] * inverse);
            }
        }
        codes
    }

    /// Rounds with one scale, and keeps the best scale for those codes if it is better.
    #[inline(always)]
    fn try_inverse<L: Levels>(&self, fit: &mut Fit, inverse: f32) {
        let (products, squares) = scale_sums::<L, N>(&self.0, &[inverse; LANES]);
        let [products, squares] = totals(products, squares);
        let scale = ratio(products, squares);
        let gain = scale * products;
        let better = gain > fit.gain;
        fit.scale = if better { scale } else { fit.scale };
        fit.gain = if better { gain } else { fit.gain };
    }

    /// Weighted root mean square.
    #[inline(always)]
    fn rms(&self) -> f32 {
        let (mut energy, mut weight) = (ZERO, ZERO);
        for (x, w) in self.0.x.iter().zip(&self.0.w) {
            for i in 0..LANES {
                energy[i] += w[i] * x[i] * x[i];
                weight[i] += w[i];
            }
        }
        let [energy, weight] = totals(energy, weight);
        (energy / weight).sqrt()
    }

    #[inline(always)]
    fn third_moment(&self) -> f32 {
        let mut moment = ZERO;
        for (x, w) in self.0.x.iter().zip(&self.0.w) {
            for i in 0..LANES {
                moment[i] += w[i] * x[i] * x[i] * x[i];
            }
        }
        totals(moment, ZERO)[0]
    }

    /// The weight of largest magnitude.
    #[inline(always)]
    fn extreme(&self) -> f32 {
        let lanes = extremes(&self.0.x);
        let high = lanes.iter().fold(0.0, |a, &b| max(a, b));
        let low = lanes.iter().fold(0.0, |a, &b| -max(-a, -b));
        if -low > high { low } else { high }
    }
}

/// The sums of the lanes of two tiles' worth of numbers, joined pairwise.
#[inline(always)]
fn totals(a: Lanes, b: Lanes) -> [f32; 2] {
    const HALF: usize = LANES / 2;
    let mut sums = ZERO;
    for i in 0..HALF {
        sums[i] = a[i] + a[i + HALF];
        sums[i + HALF] = b[i] + b[i + HALF];
    }
    let mut width = HALF / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
            sums[i + HALF] += sums[i + HALF + width];
        }
        width /= 2;
    }
    [sums[0], sums[HALF]]
}
