//! Scales fitted again to codes that are known, with the errors of all columns in view.
//!
//! Changing one scale of a block moves its weights along a line. On it the error `e H e^T` of the row is a parabola, whose lowest
//! point is known in closed form; the nearest scale that can be stored is kept where the error really falls.

use super::codec::BlockFormat;
use super::lanes::{read_f16, write_f16};

/// Weights of the largest block.
const LARGEST_BLOCK: usize = 256;

/// A format whose scales can be changed with the codes kept. All weights are linear in each of them.
pub(super) trait Scaled: BlockFormat {
    /// How many scales a block has. Those of the whole block come first.
    const SCALES: usize;

    /// Changes a scale: one of the whole block is multiplied by `1 + by`, the integer of a part is moved by `by`. Returns the
    /// change that was made: what is stored is rounded and has an end.
    fn turn(block: &mut Self::Block, scale: usize, by: f32) -> f32;
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
    let after = before.saturating_add(by.round() as i32).clamp(low, high);
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

/// One row of a block of columns.
pub(super) struct Row<'a> {
    /// The decoded weights.
    pub values: [f32; LARGEST_BLOCK],
    /// `e H` at the block's columns, where e are the errors of all columns of the row.
    pub pull: [f32; LARGEST_BLOCK],
    /// The block's own part of H, `[block, block]`.
    pub h: &'a [f32],
}

/// How the weights of some columns move with a scale.
struct Line {
    columns: std::ops::Range<usize>,
    moved: [f32; LARGEST_BLOCK],
}

impl Row<'_> {
    /// Fits all scales of a block one after the other; whether any has changed. `step` gives step and offset of `sub` weights.
    #[inline(always)]
    pub(super) fn refit<F: Scaled>(
        &mut self,
        block: &mut F::Block,
        sub: usize,
        step: impl Fn(&F::Block, usize) -> (f32, f32),
    ) -> bool {
        let mut changed = false;
        for scale in 0..F::SCALES {
            let mut turned = *block;
            let unit = match F::turn(&mut turned, scale, -1.0) {
                0.0 => F::turn(&mut turned, scale, 1.0),
                down => down,
            };
            let line = self.line(F::TYPE.block_len() / sub, sub, |sub| (step(block, sub), step(&turned, sub)));
            let (gain, curvature) = self.parabola(&line);
            let best = unit * gain / curvature;
            if !best.is_finite() {
                continue;
            }
            turned = *block;
            let change = F::turn(&mut turned, scale, best) / unit;
            if change * (2.0 * gain - change * curvature) > 0.0 {
                *block = turned;
                self.follow(&line, change);
                changed = true;
            }
        }
        changed
    }

    /// The line from some steps and offsets to others.
    #[inline(always)]
    fn line(&self, subs: usize, sub: usize, steps: impl Fn(usize) -> ((f32, f32), (f32, f32))) -> Line {
        let mut line = Line { columns: 0..0, moved: [0.0; LARGEST_BLOCK] };
        for number in 0..subs {
            let ((step, offset), (other, other_offset)) = steps(number);
            if (step, offset) == (other, other_offset) {
                continue;
            }
            let columns = number * sub..(number + 1) * sub;
            // without a step all levels look the same
            let ratio = if step == 0.0 { 1.0 } else { other / step };
            for j in columns.clone() {
                line.moved[j] = (self.values[j] - offset) * ratio + other_offset - self.values[j];
            }
            line.columns = if line.columns.is_empty() { columns } else { line.columns.start..columns.end };
        }
        line
    }

    /// Moving by `t` along the line lowers the error by `2 t gain - t^2 curvature`.
    #[inline(always)]
    fn parabola(&self, line: &Line) -> (f32, f32) {
        let moved = &line.moved[line.columns.clone()];
        let cols = self.width();
        let rows = self.h.chunks_exact(cols).skip(line.columns.start).map(|row| &row[line.columns.clone()]);
        let curvature = moved.iter().zip(rows).map(|(x, row)| x * dot(row, moved)).sum();
        (dot(&self.pull[line.columns.clone()], moved), curvature)
    }

    #[inline(always)]
    fn follow(&mut self, line: &Line, change: f32) {
        let cols = self.width();
        for j in line.columns.clone() {
            let moved = change * line.moved[j];
            self.values[j] += moved;
            for (pull, h) in self.pull.iter_mut().zip(&self.h[j * cols..(j + 1) * cols]) {
                *pull -= moved * h;
            }
        }
    }

    fn width(&self) -> usize {
        self.h.len().isqrt()
    }
}

/// In sixteen sums, which vectorizes.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum()
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
