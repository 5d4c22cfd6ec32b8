//! Rounding again in blocks that have scales already, so that the error of a column can make good those of others.
//!
//! A column's *target* is the value that it should have, given the errors of all other columns. Columns are rounded one after
//! the other (codewords: all columns of a word together), and what each is off by moves the targets of those that follow.
//! Sixteen rows run side by side. Where errors are those of codes in the blocks, scales are first fitted to these codes.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::codebook::book::Word;
use super::codebook::nearest::{get, registers, set};
use super::lanes::{LANES, Lanes, ZERO, map, max, reciprocal};
use super::refit::{Fit, Scaled, add_products};
use super::search::Levels;
use super::{GgmlType, format};

/// Weights of the largest block.
const LARGEST_BLOCK: usize = 256;
/// Columns of the largest unit.
const LARGEST_UNIT: usize = 8;
/// Times that a codeword is searched again with the errors between its own columns in view.
const DESCENTS: usize = 3;

/// A format whose weights are `step * level + offset`, with a code for each.
pub(super) trait Stepped: Scaled {
    type Levels: Levels;

    /// Step and offset of a sub-block.
    fn step(block: &Self::Block, sub: usize) -> (f32, f32);

    /// Replaces the codes of a block, as [`Levels::code`] gives them.
    fn set_codes(block: &mut Self::Block, codes: &[u8]);
}

/// A format whose weights are `step * level + offset`, with codewords for several levels.
pub(super) trait Worded: Scaled {
    /// Weights that are coded together.
    const UNIT: usize;

    /// Step and offset of a unit.
    fn step(block: &Self::Block, unit: usize) -> (f32, f32);

    /// The cheapest code of each lane for the weights `x`, whose errors count `w`.
    fn choose<S: Simd>(simd: S, x: &[Lanes; LARGEST_UNIT], w: &[f32; LARGEST_UNIT], step: &Lanes) -> Choice;

    /// Replaces the code of a unit.
    fn set_word(block: &mut Self::Block, unit: usize, words: [Word; 2], signs: u32);
}

/// Codes of one unit, for sixteen rows.
#[derive(Clone, Copy)]
pub struct Choice {
    pub words: [[Word; LANES]; 2],
    pub signs: [u32; LANES],
    /// What they decode to, less the offset.
    pub values: [Lanes; LARGEST_UNIT],
    /// Lanes whose code in the block is at least as good.
    pub kept: [bool; LANES],
}

/// What rounding one block of columns again needs. Matrices are row-major; `block` is the block length.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    /// `[rows, block]`: the targets, which contain the errors of all columns but each one's own unit.
    pub targets: &'a [f32],
    /// `[rows, block]`: the weights themselves.
    pub weights: &'a [f32],
    /// `[block, block]`: what a unit of error in one column adds to the target of each later column.
    pub coupling: &'a [f32],
    /// `[block, unit]`: the cost of a unit's errors among each other, `unit` rows of each symmetric matrix.
    pub metric: &'a [f32],
    /// `[block, block]`: the columns' own part of H, if the errors are those of the codes in the blocks. Scales then are fitted to
    /// these codes, and codewords only replaced by better ones.
    pub moments: Option<&'a [f32]>,
}

/// Columns whose codes are chosen together in this type: 1, or the length of its codewords. None for plain numbers.
pub fn unit(ty: GgmlType) -> Option<usize> {
    recoder(ty).map(|recoder| recoder.unit())
}

/// Rounds a block of columns of all rows again and replaces its codes in `bytes`, one block per row.
///
/// `errors` `[rows, cols]` holds weight less decoded value; those of the block's columns, from `first` on, are replaced.
pub fn recode(ty: GgmlType, columns: Columns, errors: &mut [f32], (cols, first): (usize, usize), bytes: &mut [u8]) {
    let recoder = recoder(ty).expect("the caller asks for block formats only");
    let block = ty.block_len();
    let tiles = bytes.par_chunks_mut(LANES * ty.block_bytes()).zip(errors.par_chunks_mut(LANES * cols));
    let rows = columns.targets.par_chunks(LANES * block).zip(columns.weights.par_chunks(LANES * block));
    tiles.zip(rows).for_each(|((bytes, errors), (targets, weights))| {
        recoder.recode(Tile { columns: Columns { targets, weights, ..columns }, errors, cols, first, bytes });
    });
}

/// Up to sixteen rows.
struct Tile<'a> {
    columns: Columns<'a>,
    errors: &'a mut [f32],
    cols: usize,
    first: usize,
    bytes: &'a mut [u8],
}

trait Recoder: Sync {
    fn unit(&self) -> usize;
    fn recode(&self, tile: Tile);
}

struct StepRecoder<F>(F);
struct WordRecoder<F>(F);

impl<F: Stepped> Recoder for StepRecoder<F> {
    fn unit(&self) -> usize {
        1
    }

    fn recode(&self, tile: Tile) {
        Arch::new().dispatch(RecodeSteps::<F> { tile, format: std::marker::PhantomData });
    }
}

impl<F: Worded> Recoder for WordRecoder<F> {
    fn unit(&self) -> usize {
        F::UNIT
    }

    fn recode(&self, tile: Tile) {
        Arch::new().dispatch(RecodeWords::<F> { tile, format: std::marker::PhantomData });
    }
}

struct RecodeSteps<'a, F> {
    tile: Tile<'a>,
    format: std::marker::PhantomData<F>,
}

struct RecodeWords<'a, F> {
    tile: Tile<'a>,
    format: std::marker::PhantomData<F>,
}

impl<F: Stepped> WithSimd for RecodeSteps<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Tile { columns, errors, cols, first, bytes } = self.tile;
        let length = F::TYPE.block_len();
        let blocks: &mut [F::Block] = bytemuck::cast_slice_mut(bytes);
        let mut lanes = Targets::load(&columns, length, errors, cols, first);
        if let Some(moments) = columns.moments {
            lanes.refit::<F, S>(simd, blocks, &columns, moments, 1, |block, j| F::step(block, j / F::SUB));
        }
        let mut codes = [[0u8; LARGEST_BLOCK]; LANES];
        let (mut step, mut offset) = (ZERO, ZERO);
        for j in 0..length {
            if j % F::SUB == 0 {
                for (i, block) in blocks.iter().enumerate() {
                    (step[i], offset[i]) = F::step(block, j / F::SUB);
                }
            }
            let target = lanes.target[j];
            let level = map(|i| (target[i] - offset[i]) * reciprocal(step[i]));
            let value = map(|i| F::Levels::nearest(level[i]) * step[i] + offset[i]);
            for (codes, level) in codes.iter_mut().zip(level) {
                codes[j] = F::Levels::code(level);
            }
            let moved = lanes.settle(j, &value);
            lanes.pass_on(simd, &columns.coupling[j * length..(j + 1) * length], j + 1, &moved);
        }
        for (block, codes) in blocks.iter_mut().zip(&codes) {
            F::set_codes(block, &codes[..length]);
        }
        lanes.store(errors, cols, first);
    }
}

impl<F: Worded> WithSimd for RecodeWords<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Tile { columns, errors, cols, first, bytes } = self.tile;
        let (length, unit) = (F::TYPE.block_len(), F::UNIT);
        let blocks: &mut [F::Block] = bytemuck::cast_slice_mut(bytes);
        let mut lanes = Targets::load(&columns, length, errors, cols, first);
        if let Some(moments) = columns.moments {
            lanes.refit::<F, S>(simd, blocks, &columns, moments, unit, |block, j| F::step(block, j / F::UNIT));
        }
        for start in (0..length).step_by(unit) {
            let (mut step, mut offset) = (ZERO, ZERO);
            for (i, block) in blocks.iter().enumerate() {
                (step[i], offset[i]) = F::step(block, start / unit);
            }
            let metric = Metric::new(&columns.metric[start * unit..(start + unit) * unit], unit);
            let mut target = [ZERO; LARGEST_UNIT];
            for n in 0..unit {
                target[n] = map(|i| lanes.target[start + n][i] - offset[i]);
            }
            let mut current = [ZERO; LARGEST_UNIT];
            for n in 0..unit {
                let (weight, error) = (&lanes.weight[start + n], &lanes.error[start + n]);
                current[n] = map(|i| weight[i] - error[i] - offset[i]);
            }
            let choice = search::<F, S>(simd, &metric, &target, &step, columns.moments.map(|_| &current));
            for (i, block) in blocks.iter_mut().enumerate() {
                if !choice.kept[i] {
                    F::set_word(block, start / unit, choice.words.map(|words| words[i]), choice.signs[i]);
                }
            }
            for n in 0..unit {
                let value = map(|i| choice.values[n][i] + offset[i]);
                let moved = lanes.settle(start + n, &value);
                let row = (start + n) * length;
                lanes.pass_on(simd, &columns.coupling[row..row + length], start + unit, &moved);
            }
        }
        lanes.store(errors, cols, first);
    }
}

/// The columns of sixteen rows; rows past the end are zero.
#[repr(align(64))]
struct Targets {
    target: [Lanes; LARGEST_BLOCK],
    weight: [Lanes; LARGEST_BLOCK],
    error: [Lanes; LARGEST_BLOCK],
    length: usize,
}

impl Targets {
    #[inline(always)]
    fn load(columns: &Columns, length: usize, errors: &[f32], cols: usize, first: usize) -> Self {
        let zero = [ZERO; LARGEST_BLOCK];
        let mut lanes = Targets { target: zero, weight: zero, error: zero, length };
        for lane in 0..columns.targets.len() / length {
            let row = lane * length..(lane + 1) * length;
            let errors = &errors[lane * cols + first..][..length];
            for j in 0..length {
                lanes.target[j][lane] = columns.targets[row.start + j];
                lanes.weight[j][lane] = columns.weights[row.start + j];
                lanes.error[j][lane] = errors[j];
            }
        }
        lanes
    }

    #[inline(always)]
    fn store(&self, errors: &mut [f32], cols: usize, first: usize) {
        for lane in 0..errors.len().div_ceil(cols) {
            let errors = &mut errors[lane * cols + first..][..self.length];
            for (error, lanes) in errors.iter_mut().zip(&self.error) {
                *error = lanes[lane];
            }
        }
    }

    /// Fits the scales of the blocks to their codes. `unit` columns share a target.
    #[inline(always)]
    fn refit<F: Scaled, S: Simd>(
        &mut self,
        simd: S,
        blocks: &mut [F::Block],
        columns: &Columns,
        moments: &[f32],
        unit: usize,
        step: impl Fn(&F::Block, usize) -> (f32, f32),
    ) {
        if F::SCALES == 0 {
            return;
        }
        let mut moved = [ZERO; LARGEST_BLOCK];
        for j in 0..self.length {
            moved[j] = map(|i| self.target[j][i] - self.weight[j][i] + self.error[j][i]);
        }
        let values = Fit::new::<F>(blocks, &moved[..self.length], unit, moments).run::<F, S>(simd, blocks, step);
        for j in 0..self.length {
            moved[j] = self.settle(j, &values[j]);
        }
        add_products(simd, &mut self.target, 0..self.length, &moved, 0..self.length, columns.coupling);
    }

    /// Gives column `j` a value and returns by how much its error has changed.
    #[inline(always)]
    fn settle(&mut self, j: usize, value: &Lanes) -> Lanes {
        let error = map(|i| self.weight[j][i] - value[i]);
        let moved = map(|i| error[i] - self.error[j][i]);
        self.error[j] = error;
        moved
    }

    /// Moves the targets of the columns from `next` on.
    #[inline(always)]
    fn pass_on<S: Simd>(&mut self, simd: S, coupling: &[f32], next: usize, moved: &Lanes) {
        for (target, coupling) in self.target[next..coupling.len()].iter_mut().zip(&coupling[next..]) {
            let coupling = simd.splat_f32s(*coupling);
            for r in 0..registers::<S>() {
                let more = simd.mul_f32s(get::<S>(moved, r), coupling);
                set::<S>(target, r, simd.add_f32s(get::<S>(target, r), more));
            }
        }
    }
}

/// The cost of a unit's errors: the symmetric matrix, its diagonal, and a diagonal that is nowhere less than the matrix.
struct Metric {
    matrix: [[f32; LARGEST_UNIT]; LARGEST_UNIT],
    diagonal: [f32; LARGEST_UNIT],
    majorant: [f32; LARGEST_UNIT],
    unit: usize,
}

impl Metric {
    #[inline(always)]
    fn new(rows: &[f32], unit: usize) -> Self {
        let largest = (0..unit).fold(0.0, |top, n| max(top, rows[n * unit + n]));
        let scale = reciprocal(largest);
        let mut metric = Metric { matrix: [[0.0; 8]; 8], diagonal: [1.0; 8], majorant: [1.0; 8], unit };
        for n in 0..unit {
            for m in 0..unit {
                metric.matrix[n][m] = rows[n * unit + m] * scale;
            }
            metric.diagonal[n] = max(metric.matrix[n][n], 1e-12);
        }
        for n in 0..unit {
            // correlations, summed: Gershgorin's bound for the matrix scaled to a unit diagonal
            let mut sum = 0.0;
            for m in 0..unit {
                sum += metric.matrix[n][m].abs() / (metric.diagonal[n] * metric.diagonal[m]).sqrt();
            }
            metric.majorant[n] = metric.diagonal[n] * max(sum, 1.0);
        }
        metric
    }

    /// `M (target - value)` of each lane, and the cost of that difference.
    #[inline(always)]
    fn pull(&self, target: &[Lanes; LARGEST_UNIT], value: &[Lanes; LARGEST_UNIT]) -> ([Lanes; LARGEST_UNIT], Lanes) {
        let mut pull = [ZERO; LARGEST_UNIT];
        let mut cost = ZERO;
        for n in 0..self.unit {
            for m in 0..self.unit {
                for i in 0..LANES {
                    pull[n][i] += self.matrix[n][m] * (target[m][i] - value[m][i]);
                }
            }
            for i in 0..LANES {
                cost[i] += pull[n][i] * (target[n][i] - value[n][i]);
            }
        }
        (pull, cost)
    }
}

/// A cheap code under the whole metric: the current one or that of the diagonal, then steps that each lower the cost (of a
/// separable bound).
#[inline(always)]
fn search<F: Worded, S: Simd>(
    simd: S,
    metric: &Metric,
    target: &[Lanes; LARGEST_UNIT],
    step: &Lanes,
    current: Option<&[Lanes; LARGEST_UNIT]>,
) -> Choice {
    let mut best = F::choose(simd, target, &metric.diagonal, step);
    let (mut pull, mut cost) = metric.pull(target, &best.values);
    if let Some(current) = current {
        let (current_pull, current_cost) = metric.pull(target, current);
        for i in 0..LANES {
            if current_cost[i] <= cost[i] {
                best.kept[i] = true;
                cost[i] = current_cost[i];
                for n in 0..LARGEST_UNIT {
                    best.values[n][i] = current[n][i];
                    pull[n][i] = current_pull[n][i];
                }
            }
        }
    }
    for _ in 0..DESCENTS {
        let mut moved = [ZERO; LARGEST_UNIT];
        for n in 0..metric.unit {
            moved[n] = map(|i| best.values[n][i] + pull[n][i] / metric.majorant[n]);
        }
        let trial = F::choose(simd, &moved, &metric.majorant, step);
        let (trial_pull, trial_cost) = metric.pull(target, &trial.values);
        let mut improved = false;
        for i in 0..LANES {
            if trial_cost[i] < cost[i] {
                improved = true;
                best.kept[i] = false;
                cost[i] = trial_cost[i];
                best.signs[i] = trial.signs[i];
                for half in 0..2 {
                    best.words[half][i] = trial.words[half][i];
                }
                for n in 0..LARGEST_UNIT {
                    best.values[n][i] = trial.values[n][i];
                    pull[n][i] = trial_pull[n][i];
                }
            }
        }
        if !improved {
            break;
        }
    }
    best
}

fn recoder(ty: GgmlType) -> Option<&'static dyn Recoder> {
    format(ty)?;
    Some(match ty {
        GgmlType::Q4_0 => &StepRecoder(super::q4_0::Q4_0),
        GgmlType::Q4_1 => &StepRecoder(super::q4_1::Q4_1),
        GgmlType::Q5_0 => &StepRecoder(super::q5_0::Q5_0),
        GgmlType::Q5_1 => &StepRecoder(super::q5_1::Q5_1),
        GgmlType::Q8_0 => &StepRecoder(super::q8_0::Q8_0),
        GgmlType::Q2_K => &StepRecoder(super::q2_k::Q2K),
        GgmlType::Q3_K => &StepRecoder(super::q3_k::Q3K),
        GgmlType::Q4_K => &StepRecoder(super::q4_k::Q4K),
        GgmlType::Q5_K => &StepRecoder(super::q5_k::Q5K),
        GgmlType::Q6_K => &StepRecoder(super::q6_k::Q6K),
        GgmlType::IQ4_NL => &StepRecoder(super::iq4_nl::Iq4Nl),
        GgmlType::IQ4_XS => &StepRecoder(super::iq4_xs::Iq4Xs),
        GgmlType::TQ1_0 => &StepRecoder(super::tq1_0::Tq1_0),
        GgmlType::TQ2_0 => &StepRecoder(super::tq2_0::Tq2_0),
        GgmlType::MXFP4 => &StepRecoder(super::mxfp4::Mxfp4),
        GgmlType::NVFP4 => &StepRecoder(super::nvfp4::Nvfp4),
        GgmlType::Q1_0 => &StepRecoder(super::q1_0::Q1_0),
        GgmlType::Q2_0 => &StepRecoder(super::q2_0::Q2_0),
        GgmlType::IQ1_S => &WordRecoder(super::iq1_s::Iq1S),
        GgmlType::IQ1_M => &WordRecoder(super::iq1_m::Iq1M),
        GgmlType::IQ2_XXS => &WordRecoder(super::iq2_xxs::Iq2Xxs),
        GgmlType::IQ2_XS => &WordRecoder(super::iq2_xs::Iq2Xs),
        GgmlType::IQ2_S => &WordRecoder(super::iq2_s::Iq2S),
        GgmlType::IQ3_XXS => &WordRecoder(super::iq3_xxs::Iq3Xxs),
        GgmlType::IQ3_S => &WordRecoder(super::iq3_s::Iq3S),
        _ => return None,
    })
}
