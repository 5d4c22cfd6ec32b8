//! Scales fitted again to codes that are known, with the errors of all columns in view.
//!
//! Changing one scale of a block moves its weights along a line. On it the error `e H e^T` of the row is a parabola, whose lowest
//! point is known in closed form; the nearest scale that can be stored is kept where the error really falls.
//! Twin: `shaders/common/refit.wgsl`.

use std::ops::Range;

use bytemuck::Zeroable;
use pulp::Simd;

use super::codebook::nearest::{get, registers, set};
use super::codec::BlockFormat;
use super::lanes::{LANES, Lanes, ZERO, clamp, map, ratio, read_f16, round_even, write_f16};

/// Weights of the largest block.
const LARGEST_BLOCK: usize = 256;
/// Invocations of a workgroup of the shader.
pub(super) const INVOCATIONS: usize = 64;

/// A format whose scales can be changed with the codes kept. All weights are linear in each of them.
pub(super) trait Scaled: BlockFormat {
    /// Weights that share a step.
    const SUB: usize;
    /// How many scales a block has: those of the whole block, then one of each sub-block, then perhaps another of each.
    const SCALES: usize;
    /// How many are of the whole block.
    const WHOLE: usize = 1;

    /// Changes a scale: one of the whole block is multiplied by `1 + by`, the integer of a part is moved by `by`. Returns the
    /// change that was made: what is stored is rounded and has an end.
    fn turn(block: &mut Self::Block, scale: usize, by: f32) -> f32;

    /// The weights that a scale changes.
    fn columns(scale: usize) -> Range<usize> {
        let length = Self::TYPE.block_len();
        if scale < Self::WHOLE {
            return 0..length;
        }
        let first = (scale - Self::WHOLE) * Self::SUB % length;
        first..first + Self::SUB
    }
}

/// Multiplies a stored half by `1 + by`; returns the relative change.
#[inline(always)]
pub(super) fn turn_half(half: &mut [u8; 2], by: f32) -> f32 {
    let before = read_f16(*half);
    *half = write_f16(before * (1.0 + by));
    if before == 0.0 { 0.0 } else { read_f16(*half) / before - 1.0 }
}

/// An integer moved by `by`, and by how much it has moved.
#[inline(always)]
pub(super) fn turn_integer(before: i32, by: f32, (low, high): (i32, i32)) -> (i32, f32) {
    let after = (before + round_even(clamp(by, -512.0, 512.0)) as i32).clamp(low, high);
    (after, (after - before) as f32)
}

/// The same for a number of `bits` bits of a byte, from bit `shift` on.
#[inline(always)]
pub(super) fn turn_bits(byte: &mut u8, (shift, bits): (usize, usize), by: f32) -> f32 {
    let top = (1 << bits) - 1;
    let (after, moved) = turn_integer(i32::from(*byte >> shift & top), by, (0, i32::from(top)));
    *byte = *byte & !(top << shift) | (after as u8) << shift;
    moved
}

/// Sixteen rows of a block of columns.
#[repr(align(64))]
pub(super) struct Fit<'a> {
    /// The decoded weights.
    values: [Lanes; LARGEST_BLOCK],
    /// `e H` at the block's columns, where e are the errors of all columns of the row.
    pull: [Lanes; LARGEST_BLOCK],
    /// How the weights move with a scale, and that times H.
    line: [Lanes; LARGEST_BLOCK],
    image: [Lanes; LARGEST_BLOCK],
    /// The block's own part of H, `[block, block]`.
    h: &'a [f32],
    /// How many invocations of the shader share a row, and each make a part of its sums.
    invocations: usize,
}

impl<'a> Fit<'a> {
    /// `missed` is by how much the columns miss their targets, which `unit` columns share.
    #[inline(always)]
    pub(super) fn new<F: Scaled>(blocks: &[F::Block], missed: &[Lanes], unit: usize, h: &'a [f32]) -> Self {
        let length = missed.len();
        let invocations = if unit == 1 { length / 16 } else { INVOCATIONS };
        let zero = [ZERO; LARGEST_BLOCK];
        let mut fit = Fit { values: zero, pull: zero, line: zero, image: zero, h, invocations };
        fit.decode::<F>(blocks, length);
        for j in 0..length {
            let first = j - j % unit;
            for (missed, h) in missed[first..first + unit].iter().zip(&h[j * length + first..]) {
                for i in 0..LANES {
                    fit.pull[j][i] += h * missed[i];
                }
            }
        }
        fit
    }

    /// Fits all scales one after the other and returns the decoded weights. `step` gives step and offset of a weight.
    #[inline(always)]
    pub(super) fn run<F: Scaled, S: Simd>(
        mut self,
        simd: S,
        blocks: &mut [F::Block],
        step: impl Fn(&F::Block, usize) -> (f32, f32),
    ) -> [Lanes; LARGEST_BLOCK] {
        let length = F::TYPE.block_len();
        for scale in 0..F::SCALES {
            let columns = F::columns(scale);
            let unit = self.draw_line::<F>(blocks, scale, &step);
            self.project(simd, columns.clone(), columns.clone());
            let gain = self.sum(columns.clone(), |fit, j| map(|i| fit.pull[j][i] * fit.line[j][i]));
            let curvature = self.sum(columns.clone(), |fit, j| map(|i| fit.line[j][i] * fit.image[j][i]));
            let mut change = ZERO;
            for (i, block) in blocks.iter_mut().enumerate() {
                // moving by t along the line lowers the error by 2 t gain - t^2 curvature
                let best = unit[i] * gain[i] / curvature[i];
                if !best.is_finite() {
                    continue;
                }
                let mut turned = *block;
                let t = F::turn(&mut turned, scale, best) / unit[i];
                if t * (2.0 * gain[i] - t * curvature[i]) > 0.0 {
                    *block = turned;
                    change[i] = t;
                }
            }
            if change != ZERO {
                let is_last_of_all = scale + length / F::SUB >= F::SCALES;
                self.follow(
                    simd,
                    columns.clone(),
                    if is_last_of_all { columns.end..length } else { 0..length },
                    &change,
                );
            }
        }
        self.decode::<F>(blocks, length);
        self.values
    }

    #[inline(always)]
    fn decode<F: Scaled>(&mut self, blocks: &[F::Block], length: usize) {
        let mut values = [0.0; LARGEST_BLOCK];
        for (lane, block) in blocks.iter().enumerate() {
            F::decode(block, &mut values[..length]);
            for (lanes, value) in self.values.iter_mut().zip(values) {
                lanes[lane] = value;
            }
        }
    }

    /// The line along which a scale moves the weights, and what [`Scaled::turn`] says of one length of it.
    #[inline(always)]
    fn draw_line<F: Scaled>(
        &mut self,
        blocks: &[F::Block],
        scale: usize,
        step: impl Fn(&F::Block, usize) -> (f32, f32),
    ) -> Lanes {
        let mut unit = ZERO;
        let mut turned = [F::Block::zeroed(); LANES];
        for (i, block) in blocks.iter().enumerate() {
            turned[i] = *block;
            unit[i] = match F::turn(&mut turned[i], scale, -1.0) {
                0.0 => F::turn(&mut turned[i], scale, 1.0),
                down => down,
            };
        }
        for first in F::columns(scale).step_by(F::SUB) {
            let (mut offset, mut stretch, mut shift) = (ZERO, ZERO, ZERO);
            for (i, block) in blocks.iter().enumerate() {
                let ((before, offset_before), (after, offset_after)) = (step(block, first), step(&turned[i], first));
                // without a step all levels look the same
                stretch[i] = ratio(after - before, before);
                shift[i] = offset_after - offset_before;
                offset[i] = offset_before;
            }
            for j in first..first + F::SUB {
                self.line[j] = map(|i| (self.values[j][i] - offset[i]) * stretch[i] + shift[i]);
            }
        }
        unit
    }

    /// The image of the line, which is in `columns`, at the columns `at`.
    #[inline(always)]
    fn project<S: Simd>(&mut self, simd: S, columns: Range<usize>, at: Range<usize>) {
        self.image[at.clone()].fill(ZERO);
        add_products(simd, &mut self.image, at, &self.line, columns, self.h);
    }

    #[inline(always)]
    fn sum(&self, columns: Range<usize>, term: impl Fn(&Self, usize) -> Lanes) -> Lanes {
        let mut sums = [ZERO; INVOCATIONS];
        for j in columns {
            let term = term(self, j);
            let sum = &mut sums[j % self.invocations];
            *sum = map(|i| sum[i] + term[i]);
        }
        sums[..self.invocations].iter().fold(ZERO, |total, sum| map(|i| total[i] + sum[i]))
    }

    /// Moves the weights along the line, and the pull at the columns `at`.
    #[inline(always)]
    fn follow<S: Simd>(&mut self, simd: S, columns: Range<usize>, at: Range<usize>, change: &Lanes) {
        for j in columns.clone() {
            self.values[j] = map(|i| self.values[j][i] + change[i] * self.line[j][i]);
        }
        for part in [at.start.min(columns.start)..columns.start, columns.end..at.end] {
            self.project(simd, columns.clone(), part);
        }
        for k in at {
            self.pull[k] = map(|i| self.pull[k][i] - change[i] * self.image[k][i]);
        }
    }
}

/// `sums[at] += x[rows] M[rows, at]` of a square matrix, row after row.
#[inline(always)]
pub(super) fn add_products<S: Simd>(
    simd: S,
    sums: &mut [Lanes],
    at: Range<usize>,
    x: &[Lanes],
    rows: Range<usize>,
    matrix: &[f32],
) {
    let length = matrix.len().isqrt();
    // four rows at a time: sums are loaded and stored less often
    for j in rows.step_by(4) {
        let x: &[Lanes; 4] = x[j..].first_chunk().expect("blocks are whole multiples of four columns");
        let rows: [&[f32]; 4] = std::array::from_fn(|n| &matrix[(j + n) * length..][at.clone()]);
        for (k, sums) in sums[at.clone()].iter_mut().enumerate() {
            for r in 0..registers::<S>() {
                let mut sum = get::<S>(sums, r);
                for n in 0..4 {
                    sum = simd.add_f32s(sum, simd.mul_f32s(get::<S>(&x[n], r), simd.splat_f32s(rows[n][k])));
                }
                set::<S>(sums, r, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::lanes::Rows;
    use crate::quant::{
        iq1_m::Iq1M, iq1_s::Iq1S, iq2_s::Iq2S, iq2_xs::Iq2Xs, iq2_xxs::Iq2Xxs, iq3_s::Iq3S, iq3_xxs::Iq3Xxs,
    };
    use crate::quant::{
        iq4_nl::Iq4Nl, iq4_xs::Iq4Xs, q1_0::Q1_0, q2_0::Q2_0, q2_k::Q2K, q3_k::Q3K, q4_0::Q4_0, q4_1::Q4_1,
    };
    use crate::quant::{
        q4_k::Q4K, q5_0::Q5_0, q5_1::Q5_1, q5_k::Q5K, q6_k::Q6K, q8_0::Q8_0, tq1_0::Tq1_0, tq2_0::Tq2_0,
    };

    fn decoded<F: Scaled>(block: &F::Block) -> Vec<f32> {
        let mut out = vec![0.0; F::TYPE.block_len()];
        F::decode(block, &mut out);
        out
    }

    /// Whatever a scale is turned by, the weights move along one line, as far as `turn` says.
    fn check<F: Scaled>(_: F) {
        let values: Vec<f32> = (0..F::TYPE.block_len()).map(|i| ((i * i) as f32 * 0.37).sin() + 0.3).collect();
        let mut block: F::Block = bytemuck::Zeroable::zeroed();
        let rows = Rows { values: &values, importance: &vec![1.0; values.len()] };
        F::encode(rows, 0, std::slice::from_mut(&mut block));
        let before = decoded::<F>(&block);
        for scale in 0..F::SCALES {
            let mut line: Option<Vec<f32>> = None;
            for by in [-1.0, 0.3, 1.0, 2.6, 1e9, -1e9] {
                let mut turned = block;
                let change = F::turn(&mut turned, scale, by);
                if change == 0.0 {
                    assert!(bytemuck::bytes_of(&turned) == bytemuck::bytes_of(&block), "{} scale {scale}", F::TYPE);
                    continue;
                }
                let after = decoded::<F>(&turned);
                for (j, (a, b)) in after.iter().zip(&before).enumerate() {
                    assert!(a == b || F::columns(scale).contains(&j), "{} scale {scale} moves weight {j}", F::TYPE);
                }
                let moved: Vec<f32> = after.iter().zip(&before).map(|(a, b)| (a - b) / change).collect();
                let line = line.get_or_insert_with(|| moved.clone());
                let off = moved.iter().zip(line.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-4, "{} scale {scale} by {by}: {off}", F::TYPE);
            }
            assert!(line.is_some(), "{} scale {scale} cannot be turned", F::TYPE);
        }
    }

    #[test]
    fn weights_are_linear_in_every_scale() {
        check(Q4_0);
        check(Q4_1);
        check(Q5_0);
        check(Q5_1);
        check(Q8_0);
        check(Q2K);
        check(Q3K);
        check(Q4K);
        check(Q5K);
        check(Q6K);
        check(Iq4Nl);
        check(Iq4Xs);
        check(Iq1S);
        check(Iq1M);
        check(Iq2Xxs);
        check(Iq2Xs);
        check(Iq2S);
        check(Iq3Xxs);
        check(Iq3S);
        check(Tq1_0);
        check(Tq2_0);
        check(Q1_0);
        check(Q2_0);
    }
}
