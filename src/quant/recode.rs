//! Rounding again in blocks that have scales already, so that the error of a column can make good those of others.
//!
//! A column's *target* is the value that it should have, given the errors of all other columns. Columns are rounded one after
//! the other (codewords: all columns of a word together), and what each is off by moves the targets of those that follow.
//! Sixteen rows run side by side. Where errors are those of codes in the blocks, scales are first fitted to these codes.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::codebook::book::Word;
use super::codebook::nearest::{get, registers, set};
use super::codec::BlockFormat;
use super::lanes::{LANES, Lanes, ZERO, map, reciprocal};
use super::refit::{Fit, Scaled, add_products};
use super::search::Levels;
use super::word_search::{Metric, search};
use super::{GgmlType, format};

/// Weights of the largest block.
const LARGEST_BLOCK: usize = 256;
/// Columns of a run: the targets behind it are moved when all of them are settled.
const RUN: usize = 16;
/// Columns of the largest unit.
pub(super) const LARGEST_UNIT: usize = 8;

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

/// What the columns of a block know of each other; `block` is the block length.
#[derive(Clone, Copy)]
pub struct Within<'a> {
    /// `[block, block]`: what a unit of error in one column adds to the target of each later column.
    pub coupling: &'a [f32],
    /// `[block, unit]`: the cost of a unit's errors among each other, `unit` rows of each symmetric matrix.
    pub metric: &'a [f32],
    /// `[block, block]`: the columns' own part of H, if the errors are those of the codes in the blocks. Scales then are fitted to
    /// these codes, and codewords only replaced by better ones.
    pub moments: Option<&'a [f32]>,
}

/// What rounding one block of columns again needs. Matrices are row-major.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    /// `[rows, block]`: the targets, which contain the errors of all columns but each one's own unit.
    pub targets: &'a [f32],
    /// `[rows, block]`: the weights themselves.
    pub weights: &'a [f32],
    pub within: Within<'a>,
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
        let zero = || AlignedLanes([ZERO; LARGEST_BLOCK]);
        let (mut target, mut weight, mut error) = (zero(), zero(), zero());
        load(&mut target.0[..block], targets, block, 0);
        load(&mut weight.0[..block], weights, block, 0);
        load(&mut error.0[..block], errors, cols, first);
        recoder.recode(Tile {
            target: &mut target.0[..block],
            weight: &weight.0[..block],
            error: &mut error.0[..block],
            within: columns.within,
            bytes,
        });
        store(&error.0[..block], errors, cols, first);
    });
}

#[repr(align(64))]
struct AlignedLanes([Lanes; LARGEST_BLOCK]);

/// Columns from `first` on of up to sixteen rows of `cols`, a row in each lane.
pub(super) fn load(lanes: &mut [Lanes], rows: &[f32], cols: usize, first: usize) {
    for (lane, row) in rows.chunks_exact(cols).enumerate() {
        for (lanes, value) in lanes.iter_mut().zip(&row[first..]) {
            lanes[lane] = *value;
        }
    }
}

/// The reverse of [`load`].
pub(super) fn store(lanes: &[Lanes], rows: &mut [f32], cols: usize, first: usize) {
    for (lane, row) in rows.chunks_exact_mut(cols).enumerate() {
        for (lanes, value) in lanes.iter().zip(&mut row[first..]) {
            *value = lanes[lane];
        }
    }
}

/// The columns of a block of up to sixteen rows, a row in each lane. What lanes without a row hold does not matter.
pub(super) struct Tile<'a> {
    pub target: &'a mut [Lanes],
    pub weight: &'a [Lanes],
    pub error: &'a mut [Lanes],
    pub within: Within<'a>,
    /// One block per row.
    pub bytes: &'a mut [u8],
}

pub(super) trait Recoder: Sync {
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
        let mut tile = self.tile;
        let Within { coupling, moments, .. } = tile.within;
        let length = F::TYPE.block_len();
        if let Some(moments) = moments {
            tile.refit::<F, S>(simd, moments, 1, |block, j| F::step(block, j / F::SUB));
        }
        let mut codes = [[0u8; LARGEST_BLOCK]; LANES];
        let mut moved = AlignedLanes([ZERO; LARGEST_BLOCK]);
        let (mut step, mut offset) = (ZERO, ZERO);
        for j in 0..length {
            if j % F::SUB == 0 {
                for (i, block) in tile.blocks::<F>().iter().enumerate() {
                    (step[i], offset[i]) = F::step(block, j / F::SUB);
                }
            }
            let target = tile.target[j];
            let level = map(|i| (target[i] - offset[i]) * reciprocal(step[i]));
            let value = map(|i| F::Levels::nearest(level[i]) * step[i] + offset[i]);
            for (codes, level) in codes.iter_mut().zip(level) {
                codes[j] = F::Levels::code(level);
            }
            moved.0[j] = tile.settle(j, &value);
            tile.pass_on(simd, coupling, j..j + 1, &moved.0);
        }
        for (block, codes) in tile.blocks::<F>().iter_mut().zip(&codes) {
            F::set_codes(block, &codes[..length]);
        }
    }
}

impl<F: Worded> WithSimd for RecodeWords<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut tile = self.tile;
        let Within { coupling, metric, moments } = tile.within;
        let (length, unit) = (F::TYPE.block_len(), F::UNIT);
        if let Some(moments) = moments {
            tile.refit::<F, S>(simd, moments, unit, |block, j| F::step(block, j / F::UNIT));
        }
        let mut moved = AlignedLanes([ZERO; LARGEST_BLOCK]);
        for start in (0..length).step_by(unit) {
            let (mut step, mut offset) = (ZERO, ZERO);
            for (i, block) in tile.blocks::<F>().iter().enumerate() {
                (step[i], offset[i]) = F::step(block, start / unit);
            }
            let metric = Metric::new(&metric[start * unit..(start + unit) * unit], unit);
            let mut target = [ZERO; LARGEST_UNIT];
            for n in 0..unit {
                target[n] = map(|i| tile.target[start + n][i] - offset[i]);
            }
            let mut current = [ZERO; LARGEST_UNIT];
            for n in 0..unit {
                let (weight, error) = (&tile.weight[start + n], &tile.error[start + n]);
                current[n] = map(|i| weight[i] - error[i] - offset[i]);
            }
            let choice = search::<F, S>(simd, &metric, &target, &step, moments.map(|_| &current));
            for (i, block) in tile.blocks::<F>().iter_mut().enumerate() {
                if !choice.kept[i] {
                    F::set_word(block, start / unit, choice.words.map(|words| words[i]), choice.signs[i]);
                }
            }
            for n in 0..unit {
                let value = map(|i| choice.values[n][i] + offset[i]);
                moved.0[start + n] = tile.settle(start + n, &value);
            }
            tile.pass_on(simd, coupling, start..start + unit, &moved.0);
        }
    }
}

impl Tile<'_> {
    #[inline(always)]
    fn blocks<F: BlockFormat>(&mut self) -> &mut [F::Block] {
        bytemuck::cast_slice_mut(self.bytes)
    }

    /// Fits the scales of the blocks to their codes. `unit` columns share a target.
    #[inline(always)]
    fn refit<F: Scaled, S: Simd>(
        &mut self,
        simd: S,
        moments: &[f32],
        unit: usize,
        step: impl Fn(&F::Block, usize) -> (f32, f32),
    ) {
        if F::SCALES == 0 {
            return;
        }
        let length = self.target.len();
        let mut moved = AlignedLanes([ZERO; LARGEST_BLOCK]);
        for j in 0..length {
            moved.0[j] = map(|i| self.target[j][i] - self.weight[j][i] + self.error[j][i]);
        }
        let blocks = self.blocks::<F>();
        let values = Fit::new::<F>(blocks, &moved.0[..length], unit, moments).run::<F, S>(simd, blocks, step);
        for j in 0..length {
            moved.0[j] = self.settle(j, &values[j]);
        }
        add_products(simd, self.target, 0..length, &moved.0, 0..length, self.within.coupling);
    }

    /// Gives column `j` a value and returns by how much its error has changed.
    #[inline(always)]
    fn settle(&mut self, j: usize, value: &Lanes) -> Lanes {
        let error = map(|i| self.weight[j][i] - value[i]);
        let moved = map(|i| error[i] - self.error[j][i]);
        self.error[j] = error;
        moved
    }

    /// Moves the targets of the columns after `columns`, which have just been settled: at once those of the same run, those after
    /// it when the run is complete. Every target receives what each column adds in the order of the columns.
    #[inline(always)]
    fn pass_on<S: Simd>(&mut self, simd: S, coupling: &[f32], columns: Range<usize>, moved: &[Lanes]) {
        let (length, run) = (self.target.len(), columns.start - columns.start % RUN);
        for j in columns.clone() {
            let coupling = &coupling[j * length..][columns.end..run + RUN];
            for (target, coupling) in self.target[columns.end..run + RUN].iter_mut().zip(coupling) {
                let coupling = simd.splat_f32s(*coupling);
                for r in 0..registers::<S>() {
                    let more = simd.mul_f32s(get::<S>(&moved[j], r), coupling);
                    set::<S>(target, r, simd.add_f32s(get::<S>(target, r), more));
                }
            }
        }
        if columns.end == run + RUN {
            add_products(simd, self.target, columns.end..length, moved, run..run + RUN, coupling);
        }
    }
}

pub(super) fn recoder(ty: GgmlType) -> Option<&'static dyn Recoder> {
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
