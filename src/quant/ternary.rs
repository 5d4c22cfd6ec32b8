//! The search shared by the formats with one scale and the levels -1, 0, 1 and perhaps 2.

use super::lanes::{LANES, Lanes, SubBlocks, ZERO, map, reciprocal};
use super::search::{Levels, ScaleFit, extremes};

/// Scales tried, in units of the weighted rms of the block.
const FIRST: f32 = 0.85;
const RATIO: f32 = 1.42;
const COUNT: usize = 4;
const ALTERNATIONS: usize = 2;

/// The best scale of 16 blocks. With `SIGNED`, levels are not symmetric and scales may be negative.
#[inline(always)]
pub(super) fn scale<L: Levels, const SIGNED: bool, const N: usize>(tile: &SubBlocks<N>) -> Lanes {
    let mut fit = ScaleFit::NONE;
    let rms = rms(tile);
    let mut factor = FIRST;
    let mut sign = [1.0; LANES];
    for trial in 0..COUNT {
        let inverse = map(|i| sign[i] * reciprocal(factor * rms[i]));
        fit.try_inverse::<L, N>(tile, &inverse);
        if SIGNED && trial == 0 {
            let gain = fit.gain;
            fit.try_inverse::<L, N>(tile, &inverse.map(|x| -x));
            sign = map(|i| if fit.gain[i] > gain[i] { -1.0 } else { 1.0 });
        }
        factor *= RATIO;
    }
    // weights that lie on a grid are found whatever their distribution
    let inverse = extremes(&tile.x).map(reciprocal);
    fit.try_inverse::<L, N>(tile, &inverse);
    if SIGNED {
        fit.try_inverse::<L, N>(tile, &inverse.map(|x| 2.0 * x));
    }
    fit.alternate::<L, N>(tile, ALTERNATIONS);
    fit.scale
}

/// Weighted root mean square of each block.
#[inline(always)]
pub(super) fn rms<const N: usize>(tile: &SubBlocks<N>) -> Lanes {
    let (mut energy, mut weight) = (ZERO, ZERO);
    for n in 0..N {
        for i in 0..LANES {
            energy[i] += tile.w[n][i] * tile.x[n][i] * tile.x[n][i];
            weight[i] += tile.w[n][i];
        }
    }
    map(|i| (energy[i] / weight[i]).sqrt())
}
