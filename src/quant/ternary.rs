//! The search shared by the formats with one scale and the levels -1, 0, 1 and perhaps 2.

use super::lanes::{LANES, Lanes, SubBlocks, ZERO, map, reciprocal};
use super::search::{Levels, ScaleFit, extremes};

/// Scales tried per sign, in units of the weighted rms of the block.
const FIRST: f32 = 0.6;
const RATIO: f32 = 1.16;
const COUNT: usize = 12;
const ALTERNATIONS: usize = 3;

/// The best scale of 16 blocks. With `SIGNED`, levels are not symmetric and negative scales are worth a try.
#[inline(always)]
pub(super) fn scale<L: Levels, const SIGNED: bool, const N: usize>(tile: &SubBlocks<N>) -> Lanes {
    let mut fit = ScaleFit::NONE;
    let rms = rms(tile);
    let mut factor = FIRST;
    for _ in 0..COUNT {
        let inverse = map(|i| reciprocal(factor * rms[i]));
        fit.try_inverse::<L, N>(tile, &inverse);
        if SIGNED {
            fit.try_inverse::<L, N>(tile, &inverse.map(|x| -x));
        }
        factor *= RATIO;
    }
    // weights that lie on a grid are found whatever their distribution
    let inverse = extremes(&tile.x).map(reciprocal);
    fit.try_inverse::<L, N>(tile, &inverse);
    if SIGNED {
        fit.try_inverse::<L, N>(tile, &inverse.map(|x| -x));
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
