//! Searches for super-blocks: sub-blocks whose scales are small integers times a shared f16.
//!
//! First each sub-block finds its own real scale, then the super-block finds the shared scale that loses least, then each
//! sub-block searches again among integers, and last the shared scale is solved for given all codes.

use super::lanes::{LANES, Lanes, SubBlocks, ZERO, map, min, ratio, reciprocal, round_f16};
use super::search::{
    AffineFit, Grid, Levels, Moments, ScaleFit, affine_error, affine_sums, extremes, range, scale_error, scale_sums,
    super_scale,
};

/// Anchors `front + c * step` and, the other half, `back - c * step`.
pub const fn anchors(front: f32, back: f32, step: f32) -> [f32; LANES] {
    let mut anchors = [0.0; LANES];
    let mut c = 0;
    while c < LANES / 2 {
        anchors[c] = front + c as f32 * step;
        anchors[c + LANES / 2] = back - c as f32 * step;
        c += 1;
    }
    anchors
}

/// Trials of a format with levels around zero.
pub struct SymmetricPlan {
    /// Levels to which the extreme weight of a sub-block is sent.
    pub front: Grid,
    pub back: Grid,
    pub alternations: usize,
    /// Integers to which the extreme scale of the super-block is sent.
    pub anchors: [f32; LANES],
    /// Integer scales tried on either side.
    pub window: i32,
}

/// Scale `d * integer` of every sub-block; `d` is the same f16 in all lanes of a block.
pub struct SymmetricFit {
    pub d: Lanes,
    pub integer: Lanes,
}

/// Searches blocks of `per_block` sub-blocks with levels `L` and integer scales `S`.
#[inline(always)]
pub fn symmetric<L: Levels, S: Levels, const N: usize>(
    tile: &SubBlocks<N>,
    per_block: usize,
    plan: &SymmetricPlan,
) -> SymmetricFit {
    let extreme = extremes(&tile.x);
    let mut fit = ScaleFit::NONE;
    fit.try_anchors::<L, N>(tile, &extreme, plan.front);
    fit.try_anchors::<L, N>(tile, &extreme, plan.back);
    fit.alternate::<L, N>(tile, plan.alternations);

    let mut d = ZERO;
    for start in (0..LANES).step_by(per_block) {
        let lanes = start..start + per_block;
        let best = super_scale::<S>(&fit.scale[lanes.clone()], &fit.curvature[lanes.clone()], &plan.anchors);
        d[lanes].fill(best);
    }
    let inverse = d.map(reciprocal);
    let nearest = map(|i| S::nearest(fit.scale[i] * inverse[i]));
    let mut integer = nearest;
    let mut error = scale_error::<L, N>(tile, &map(|i| d[i] * nearest[i]));
    for offset in 1..=plan.window {
        for offset in [-offset, offset] {
            let trial = map(|i| S::nearest(nearest[i] + offset as f32));
            let trial_error = scale_error::<L, N>(tile, &map(|i| d[i] * trial[i]));
            for i in 0..LANES {
                let better = trial_error[i] < error[i];
                integer[i] = if better { trial[i] } else { integer[i] };
                error[i] = if better { trial_error[i] } else { error[i] };
            }
        }
    }

    let inverse = map(|i| reciprocal(d[i] * integer[i]));
    let (products, squares) = scale_sums::<L, N>(tile, &inverse);
    let above = sum_blocks(&map(|i| integer[i] * products[i]), per_block);
    let below = sum_blocks(&map(|i| integer[i] * integer[i] * squares[i]), per_block);
    let refit = map(|i| round_f16(ratio(above[i], below[i])));
    let refit_error = scale_error::<L, N>(tile, &map(|i| refit[i] * integer[i]));
    let (error, refit_error) = (sum_blocks(&error, per_block), sum_blocks(&refit_error, per_block));
    SymmetricFit { d: map(|i| if refit_error[i] < error[i] { refit[i] } else { d[i] }), integer }
}

/// Sum over the lanes of each block, in all of its lanes.
#[inline(always)]
fn sum_blocks(values: &Lanes, per_block: usize) -> Lanes {
    let mut out = *values;
    for block in out.chunks_exact_mut(per_block) {
        let mut sum = 0.0;
        for &value in block.iter() {
            sum += value;
        }
        block.fill(sum);
    }
    out
}

/// Trials of a format with a scale and an offset.
pub struct AffinePlan {
    /// Largest code.
    pub top: f32,
    /// Steps that the range of the weights is spread over, less `top`.
    pub spreads: Grid,
    /// Steps from the smallest weight up to the first code.
    pub shifts: Grid,
    pub alternations: usize,
    /// Integers to which the largest scale and the largest offset of the super-block are sent.
    pub anchors: [f32; LANES],
    /// Integer scales tried on either side.
    pub window: i32,
}

/// Weights are `d * scale * code - d_min * min`.
pub struct AffineSuper {
    pub d: Lanes,
    pub d_min: Lanes,
    pub scale: Lanes,
    pub min: Lanes,
}

/// Integers of the sub-blocks of given super-scales, and what they gain over coding everything as zero.
struct IntegerFit {
    scale: Lanes,
    min: Lanes,
    gain: Lanes,
}

impl IntegerFit {
    /// Rounds with one scale and min per lane, then keeps the best integers for those codes.
    #[inline(always)]
    fn try_integers<S: Levels, const N: usize>(
        &mut self,
        tile: &SubBlocks<N>,
        moments: &Moments,
        (d, d_min): (&Lanes, &Lanes),
        (scale, min): (&Lanes, &Lanes),
        top: f32,
    ) {
        let inverse = map(|i| reciprocal(d[i] * scale[i]));
        let sums = affine_sums(tile, &map(|i| -(d_min[i] * min[i])), &inverse, top);
        for i in 0..LANES {
            let (weight, first) = (moments.weight[i], moments.first[i]);
            let determinant = weight * sums.squares[i] - sums.codes[i] * sums.codes[i];
            let solvable = determinant > 1e-6 * weight * sums.squares[i];
            let real = ratio(weight * sums.products[i] - sums.codes[i] * first, determinant);
            let scale = if solvable { S::nearest(ratio(real, d[i])) } else { scale[i] };
            let step = d[i] * scale;
            let depth = S::nearest(ratio((step * sums.codes[i] - first) / weight, d_min[i]));
            let offset = -(d_min[i] * depth);
            // second step: the scale again, for the rounded offset
            let real = ratio(sums.products[i] - offset * sums.codes[i], sums.squares[i]);
            let scale = S::nearest(ratio(real, d[i]));
            let step = d[i] * scale;
            let gain = step * (2.0 * sums.products[i] - step * sums.squares[i])
                + offset * (2.0 * first - offset * weight)
                - 2.0 * step * offset * sums.codes[i];
            let better = gain > self.gain[i];
            self.scale[i] = if better { scale } else { self.scale[i] };
            self.min[i] = if better { depth } else { self.min[i] };
            self.gain[i] = if better { gain } else { self.gain[i] };
        }
    }
}

/// Searches blocks of `per_block` sub-blocks with codes 0 to `plan.top` and integer scales and mins `S`.
#[inline(always)]
pub fn affine<S: Levels, const N: usize>(tile: &SubBlocks<N>, per_block: usize, plan: &AffinePlan) -> AffineSuper {
    let top = plan.top;
    let moments = Moments::of(tile);
    let (low, high) = range(&tile.x);
    let low = low.map(|x| min(x, 0.0));
    let mut fit = AffineFit::NONE;
    fit.try_spreads::<true, N>(tile, &moments, (&low, &high), top, (plan.spreads, plan.shifts));
    fit.alternate::<true, N>(tile, &moments, top, plan.alternations);

    // each offset follows its scale, so only the part of the curvature that an offset cannot absorb counts
    let curvature = map(|i| fit.squares[i] - fit.codes[i] * fit.codes[i] / moments.weight[i]);
    let (mut d, mut d_min) = (ZERO, ZERO);
    for start in (0..LANES).step_by(per_block) {
        let lanes = start..start + per_block;
        let best = super_scale::<S>(&fit.scale[lanes.clone()], &curvature[lanes.clone()], &plan.anchors);
        d[lanes].fill(best);
    }
    let inverse = d.map(reciprocal);
    let scale = map(|i| S::nearest(fit.scale[i] * inverse[i]));
    let depth = map(|i| {
        let offset = (d[i] * scale[i] * fit.codes[i] - moments.first[i]) / moments.weight[i];
        if offset > 0.0 { offset } else { 0.0 }
    });
    for start in (0..LANES).step_by(per_block) {
        let lanes = start..start + per_block;
        let best = super_scale::<S>(&depth[lanes.clone()], &moments.weight[lanes.clone()], &plan.anchors);
        d_min[lanes].fill(best);
    }
    let inverse = d_min.map(reciprocal);
    let min = map(|i| S::nearest(depth[i] * inverse[i]));

    let mut integers = IntegerFit { scale: ZERO, min: ZERO, gain: ZERO };
    integers.try_integers::<S, N>(tile, &moments, (&d, &d_min), (&scale, &min), top);
    for offset in 1..=plan.window {
        for offset in [-offset, offset] {
            let trial = map(|i| S::nearest(scale[i] + offset as f32));
            integers.try_integers::<S, N>(tile, &moments, (&d, &d_min), (&trial, &min), top);
        }
    }
    let (best, depth) = (integers.scale, integers.min);
    integers.try_integers::<S, N>(tile, &moments, (&d, &d_min), (&best, &depth), top);
    refit(tile, &moments, per_block, top, AffineSuper { d, d_min, scale: integers.scale, min: integers.min })
}

/// Solves for both super-scales given the codes and integers, and keeps them if the true error falls.
#[inline(always)]
fn refit<const N: usize>(
    tile: &SubBlocks<N>,
    moments: &Moments,
    per_block: usize,
    top: f32,
    fit: AffineSuper,
) -> AffineSuper {
    let AffineSuper { d, d_min, scale, min } = fit;
    let step = map(|i| d[i] * scale[i]);
    let offset = map(|i| -(d_min[i] * min[i]));
    let sums = affine_sums(tile, &offset, &map(|i| reciprocal(step[i])), top);
    let a = sum_blocks(&map(|i| scale[i] * scale[i] * sums.squares[i]), per_block);
    let b = sum_blocks(&map(|i| scale[i] * min[i] * sums.codes[i]), per_block);
    let c = sum_blocks(&map(|i| min[i] * min[i] * moments.weight[i]), per_block);
    let p = sum_blocks(&map(|i| scale[i] * sums.products[i]), per_block);
    let q = sum_blocks(&map(|i| min[i] * moments.first[i]), per_block);
    let (mut new_d, mut new_min) = (ZERO, ZERO);
    for i in 0..LANES {
        let determinant = a[i] * c[i] - b[i] * b[i];
        let solvable = determinant > 1e-6 * a[i] * c[i];
        let both = (ratio(p[i] * c[i] - q[i] * b[i], determinant), ratio(b[i] * p[i] - a[i] * q[i], determinant));
        new_d[i] = round_f16(if solvable { both.0 } else { ratio(p[i], a[i]) });
        new_min[i] = round_f16(if solvable { both.1 } else { 0.0 });
    }
    let before = sum_blocks(&affine_error(tile, &step, &offset, top), per_block);
    let new_offset = map(|i| -(new_min[i] * min[i]));
    let after = sum_blocks(&affine_error(tile, &map(|i| new_d[i] * scale[i]), &new_offset, top), per_block);
    for i in 0..LANES {
        let better = after[i] < before[i];
        new_d[i] = if better { new_d[i] } else { d[i] };
        new_min[i] = if better { new_min[i] } else { d_min[i] };
    }
    AffineSuper { d: new_d, d_min: new_min, scale, min }
}
