//! Searches for scales, 16 sub-blocks at a time. The objective is always `sum w (decoded - x)^2`.
//!
//! A trial rounds every weight with a candidate scale and then solves for the best scale given those codes, so a coarse grid
//! of trials and a few alternations between codes and scales come close to the optimum. Each function is the twin of one in
//! `shaders/common/search.wgsl`: the same f32 operations in the same order.

use super::lanes::{
    Codes, LANES, Lanes, SubBlocks, Tile, ZERO, clamp, map, max, min, ratio, reciprocal, round_even, round_f16,
    small_integer,
};

/// The numbers that codes stand for before they are scaled.
pub trait Levels {
    /// The level nearest to `y`.
    fn nearest(y: f32) -> f32;

    /// How the nearest level is stored.
    fn code(y: f32) -> u8;
}

/// The integers from `LOW` to `HIGH`.
pub struct Integers<const LOW: i32, const HIGH: i32>;

impl<const LOW: i32, const HIGH: i32> Levels for Integers<LOW, HIGH> {
    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        round_even(clamp(y, LOW as f32, HIGH as f32))
    }

    /// Counted from `LOW`.
    #[inline(always)]
    fn code(y: f32) -> u8 {
        small_integer(Self::nearest(y) - LOW as f32)
    }
}

/// Candidates `first + i * step`, `count` of them.
#[derive(Clone, Copy)]
pub struct Grid {
    pub first: f32,
    pub step: f32,
    pub count: usize,
}

impl Grid {
    #[inline(always)]
    pub fn at(&self, i: usize) -> f32 {
        self.first + i as f32 * self.step
    }
}

/// Best scale of each sub-block with levels around zero.
pub struct ScaleFit {
    pub scale: Lanes,
    /// Decrease of the error from coding everything as zero.
    pub gain: Lanes,
    /// Half the second derivative of the error: `sum w level^2`.
    pub curvature: Lanes,
}

/// `sum w x level` and `sum w level^2` of the levels nearest to `x * inverse`.
#[inline(always)]
pub fn scale_sums<L: Levels, const N: usize>(tile: &SubBlocks<N>, inverse: &Lanes) -> (Lanes, Lanes) {
    let (mut products, mut squares) = (ZERO, ZERO);
    for (x, w) in tile.x.iter().zip(&tile.w) {
        for i in 0..LANES {
            let level = L::nearest(x[i] * inverse[i]);
            let weighted = w[i] * level;
            products[i] += weighted * x[i];
            squares[i] += weighted * level;
        }
    }
    (products, squares)
}

impl ScaleFit {
    pub const NONE: ScaleFit = ScaleFit { scale: ZERO, gain: ZERO, curvature: ZERO };

    /// Tries one inverse scale per lane and keeps what is better.
    #[inline(always)]
    pub fn try_inverse<L: Levels, const N: usize>(&mut self, tile: &SubBlocks<N>, inverse: &Lanes) {
        let (products, squares) = scale_sums::<L, N>(tile, inverse);
        for i in 0..LANES {
            let scale = ratio(products[i], squares[i]);
            let gain = scale * products[i];
            let better = gain > self.gain[i];
            self.scale[i] = if better { scale } else { self.scale[i] };
            self.gain[i] = if better { gain } else { self.gain[i] };
            self.curvature[i] = if better { squares[i] } else { self.curvature[i] };
        }
    }

    /// Tries scales that send the extreme weight to each of the `anchors`.
    #[inline(always)]
    pub fn try_anchors<L: Levels, const N: usize>(&mut self, tile: &SubBlocks<N>, extreme: &Lanes, anchors: Grid) {
        let inverse = map(|i| reciprocal(extreme[i]));
        for t in 0..anchors.count {
            let anchor = anchors.at(t);
            self.try_inverse::<L, N>(tile, &map(|i| anchor * inverse[i]));
        }
    }

    /// Alternates codes and scale.
    #[inline(always)]
    pub fn alternate<L: Levels, const N: usize>(&mut self, tile: &SubBlocks<N>, rounds: usize) {
        for _ in 0..rounds {
            let inverse = map(|i| reciprocal(self.scale[i]));
            self.try_inverse::<L, N>(tile, &inverse);
        }
    }
}

/// The weight of largest magnitude of each lane, with its sign.
#[inline(always)]
pub fn extremes<const N: usize>(x: &Tile<N>) -> Lanes {
    let (mut low, mut high) = range(x);
    for i in 0..LANES {
        high[i] = max(high[i], 0.0);
        low[i] = if -low[i] > high[i] { low[i] } else { high[i] };
    }
    low
}

/// Smallest and largest weight of each lane.
#[inline(always)]
pub fn range<const N: usize>(x: &Tile<N>) -> (Lanes, Lanes) {
    let (mut low, mut high) = (x[0], x[0]);
    for row in &x[1..] {
        for i in 0..LANES {
            low[i] = min(low[i], row[i]);
            high[i] = max(high[i], row[i]);
        }
    }
    (low, high)
}

/// True error of levels nearest to `x / scale`.
#[inline(always)]
pub fn scale_error<L: Levels, const N: usize>(tile: &SubBlocks<N>, scale: &Lanes) -> Lanes {
    let inverse = map(|i| reciprocal(scale[i]));
    let mut error = ZERO;
    for (x, w) in tile.x.iter().zip(&tile.w) {
        for i in 0..LANES {
            let miss = L::nearest(x[i] * inverse[i]) * scale[i] - x[i];
            error[i] += w[i] * miss * miss;
        }
    }
    error
}

/// The f16 super-scale `d` for which the scales, as integer multiples of it from `LOW` to `HIGH`, lose least:
/// `sum curvature (d * integer - scale)^2`. Candidates send the extreme scale to the anchors.
#[inline(always)]
pub fn super_scale<L: Levels>(scales: &[f32], curvature: &[f32], anchors: &[f32; LANES]) -> f32 {
    let mut extreme = 0.0f32;
    for &scale in scales {
        extreme = if scale.abs() > extreme.abs() { scale } else { extreme };
    }
    let d = map(|c| round_f16(extreme / anchors[c]));
    let inverse = map(|c| reciprocal(d[c]));
    let mut cost = ZERO;
    for (scale, curvature) in scales.iter().zip(curvature) {
        for c in 0..LANES {
            let miss = L::nearest(scale * inverse[c]) * d[c] - scale;
            cost[c] += curvature * miss * miss;
        }
    }
    let mut best = 0;
    for c in 1..LANES {
        best = if cost[c] < cost[best] { c } else { best };
    }
    d[best]
}

/// Best scale and offset of each sub-block: weights are `scale * code + offset`, codes from 0 to `top`.
pub struct AffineFit {
    pub scale: Lanes,
    pub offset: Lanes,
    /// Decrease of the error from coding everything as zero.
    pub gain: Lanes,
    /// Sums of the best trial: see [`AffineSums`].
    pub codes: Lanes,
    pub squares: Lanes,
}

/// Sums over a sub-block of codes `c`: `w c`, `w c^2`, `w c x`.
pub struct AffineSums {
    pub codes: Lanes,
    pub squares: Lanes,
    pub products: Lanes,
}

/// Sums of a sub-block that do not depend on codes: `w` and `w x`.
pub struct Moments {
    pub weight: Lanes,
    pub first: Lanes,
}

impl Moments {
    #[inline(always)]
    pub fn of<const N: usize>(tile: &SubBlocks<N>) -> Self {
        let (mut weight, mut first) = (ZERO, ZERO);
        for (x, w) in tile.x.iter().zip(&tile.w) {
            for i in 0..LANES {
                weight[i] += w[i];
                first[i] += w[i] * x[i];
            }
        }
        Moments { weight, first }
    }
}

/// Sums of the codes nearest to `(x - offset) * inverse`, 0 to `top`.
#[inline(always)]
pub fn affine_sums<const N: usize>(tile: &SubBlocks<N>, offset: &Lanes, inverse: &Lanes, top: f32) -> AffineSums {
    let mut sums = AffineSums { codes: ZERO, squares: ZERO, products: ZERO };
    for (x, w) in tile.x.iter().zip(&tile.w) {
        for i in 0..LANES {
            let code = round_even(clamp((x[i] - offset[i]) * inverse[i], 0.0, top));
            let weighted = w[i] * code;
            sums.codes[i] += weighted;
            sums.squares[i] += weighted * code;
            sums.products[i] += weighted * x[i];
        }
    }
    sums
}

/// True error of codes nearest to `(x - offset) / scale`.
#[inline(always)]
pub fn affine_error<const N: usize>(tile: &SubBlocks<N>, scale: &Lanes, offset: &Lanes, top: f32) -> Lanes {
    let inverse = map(|i| reciprocal(scale[i]));
    let mut error = ZERO;
    for (x, w) in tile.x.iter().zip(&tile.w) {
        for i in 0..LANES {
            let code = round_even(clamp((x[i] - offset[i]) * inverse[i], 0.0, top));
            let miss = code * scale[i] + offset[i] - x[i];
            error[i] += w[i] * miss * miss;
        }
    }
    error
}

impl AffineFit {
    pub const NONE: AffineFit = AffineFit { scale: ZERO, offset: ZERO, gain: ZERO, codes: ZERO, squares: ZERO };

    /// Tries one offset and inverse scale per lane; with `NEGATIVE`, offsets above zero are not allowed.
    #[inline(always)]
    pub fn try_codes<const NEGATIVE: bool, const N: usize>(
        &mut self,
        tile: &SubBlocks<N>,
        moments: &Moments,
        offset: &Lanes,
        inverse: &Lanes,
        top: f32,
    ) {
        let sums = affine_sums(tile, offset, inverse, top);
        for i in 0..LANES {
            let (weight, first) = (moments.weight[i], moments.first[i]);
            let determinant = weight * sums.squares[i] - sums.codes[i] * sums.codes[i];
            // equal codes leave the scale undetermined: then the offset alone must do
            let solvable = determinant > 1e-6 * weight * sums.squares[i];
            let scale = ratio(weight * sums.products[i] - sums.codes[i] * first, determinant);
            let scale = if solvable { scale } else { 0.0 };
            let offset = (first - scale * sums.codes[i]) / weight;
            let through_zero = NEGATIVE && offset > 0.0;
            let scale = if through_zero { ratio(sums.products[i], sums.squares[i]) } else { scale };
            let offset = if through_zero { 0.0 } else { offset };
            let gain = scale * sums.products[i] + offset * first;
            let better = gain > self.gain[i];
            self.scale[i] = if better { scale } else { self.scale[i] };
            self.offset[i] = if better { offset } else { self.offset[i] };
            self.gain[i] = if better { gain } else { self.gain[i] };
            self.codes[i] = if better { sums.codes[i] } else { self.codes[i] };
            self.squares[i] = if better { sums.squares[i] } else { self.squares[i] };
        }
    }

    /// Tries codes that spread the range of the weights over `top` plus each of `spreads` steps, with the first code moved
    /// up from the smallest weight by each of `shifts` steps.
    #[inline(always)]
    pub fn try_spreads<const NEGATIVE: bool, const N: usize>(
        &mut self,
        tile: &SubBlocks<N>,
        moments: &Moments,
        (low, high): (&Lanes, &Lanes),
        top: f32,
        (spreads, shifts): (Grid, Grid),
    ) {
        let inverse = map(|i| reciprocal(high[i] - low[i]));
        let step = map(|i| (high[i] - low[i]) * (1.0 / top));
        for t in 0..spreads.count {
            let spread = top + spreads.at(t);
            for u in 0..shifts.count {
                let shift = shifts.at(u);
                let offset = map(|i| low[i] + shift * step[i]);
                self.try_codes::<NEGATIVE, N>(tile, moments, &offset, &map(|i| spread * inverse[i]), top);
            }
        }
    }

    /// Alternates codes with scale and offset.
    #[inline(always)]
    pub fn alternate<const NEGATIVE: bool, const N: usize>(
        &mut self,
        tile: &SubBlocks<N>,
        moments: &Moments,
        top: f32,
        rounds: usize,
    ) {
        for _ in 0..rounds {
            let inverse = map(|i| reciprocal(self.scale[i]));
            let offset = self.offset;
            self.try_codes::<NEGATIVE, N>(tile, moments, &offset, &inverse, top);
        }
    }
}

/// The scale and offset as f16, the offset solved for again once the scale is rounded.
#[inline(always)]
pub fn round_affine<const N: usize>(
    tile: &SubBlocks<N>,
    moments: &Moments,
    fit: &AffineFit,
    top: f32,
) -> (Lanes, Lanes) {
    let scale = map(|i| round_f16(fit.scale[i]));
    let inverse = map(|i| reciprocal(scale[i]));
    let sums = affine_sums(tile, &fit.offset, &inverse, top);
    let offset = map(|i| round_f16((moments.first[i] - scale[i] * sums.codes[i]) / moments.weight[i]));
    (scale, offset)
}

/// Codes of the levels nearest to `x / scale`, lane by lane.
#[inline(always)]
pub fn level_codes<L: Levels, const N: usize>(tile: &SubBlocks<N>, scale: &Lanes) -> Codes<N> {
    let inverse = map(|i| reciprocal(scale[i]));
    let mut codes = [[0; N]; LANES];
    for (n, x) in tile.x.iter().enumerate() {
        for i in 0..LANES {
            codes[i][n] = L::code(x[i] * inverse[i]);
        }
    }
    codes
}

/// Codes nearest to `(x - offset) / scale`, lane by lane.
#[inline(always)]
pub fn affine_codes<const N: usize>(tile: &SubBlocks<N>, scale: &Lanes, offset: &Lanes, top: f32) -> Codes<N> {
    let inverse = map(|i| reciprocal(scale[i]));
    let mut codes = [[0; N]; LANES];
    for (n, x) in tile.x.iter().enumerate() {
        for i in 0..LANES {
            codes[i][n] = small_integer(round_even(clamp((x[i] - offset[i]) * inverse[i], 0.0, top)));
        }
    }
    codes
}
