//! The coder of IQ1: signed ternary codewords, all moved up or down by an eighth.

use pulp::{Scalar, Simd};

use super::book::{self, Word};
use super::coder::{Coder, Trial, level};
use super::nearest::{Half, HalfCosts, Halves, Nearest, Ternary, get, nearest, registers, set, set_bits};
use crate::quant::lanes::{LANES, Lanes, SubBlocks, Tile, ZERO, map};
use crate::quant::recode::Choice;

/// What a codeword is moved by; the sign is chosen.
pub const SHIFT: f32 = 0.125;

/// The bit of a word that says that it is moved down.
const DOWN: Word = 1 << 16;

/// Codes groups of eight weights; `SHARED` if all groups of a sub-block move the same way.
pub struct ShiftedCoder<'a, S: Simd, const N: usize, const GROUPS: usize, const SHARED: bool> {
    simd: S,
    w: &'a Tile<N>,
    /// `2 w x`.
    slope: Tile<N>,
    costs: Halves,
}

impl<'a, S: Simd, const N: usize, const GROUPS: usize, const SHARED: bool> ShiftedCoder<'a, S, N, GROUPS, SHARED> {
    #[inline(always)]
    pub fn new(simd: S, tile: &'a SubBlocks<N>) -> Self {
        let mut slope = [ZERO; N];
        for (n, slope) in slope.iter_mut().enumerate() {
            *slope = map(|i| 2.0 * tile.w[n][i] * tile.x[n][i]);
        }
        ShiftedCoder { simd, w: &tile.w, slope, costs: Halves::ZERO }
    }

    #[inline(always)]
    fn half_costs(&self, start: usize, step: &[S::f32s; 3], r: usize) -> HalfCosts<S> {
        let simd = self.simd;
        let zero = [[simd.splat_f32s(0.0); 8]; 4];
        let mut half = HalfCosts { simd, costs: zero, flips: zero };
        for n in 0..4 {
            let (w, slope) = (get::<S>(&self.w[start + n], r), get::<S>(&self.slope[start + n], r));
            for level in 0..3 {
                let step = step[level];
                half.costs[n][level] = simd.mul_f32s(step, simd.sub_f32s(simd.mul_f32s(w, step), slope));
            }
        }
        half
    }

    /// The best codeword of a group moved by `shift`.
    #[inline(always)]
    fn nearest(&mut self, group: usize, scale: S::f32s, shift: f32, r: usize) -> Nearest<S> {
        let simd = self.simd;
        let step = [-1.0, 0.0, 1.0].map(|level| simd.mul_f32s(scale, simd.splat_f32s(level + shift)));
        let half = self.half_costs(8 * group, &step, r);
        Ternary::fill::<S, false>(&half, &mut self.costs.first, None, r);
        let half = self.half_costs(8 * group + 4, &step, r);
        Ternary::fill::<S, true>(&half, &mut self.costs.second, None, r);
        let found = nearest(simd, &book::IQ1, &self.costs, r);
        let flag = simd.splat_u32s(if shift < 0.0 { DOWN } else { 0 });
        Nearest { word: simd.or_u32s(found.word, flag), ..found }
    }

    /// Adds `w level^2` of the weights of a group to a sum.
    #[inline(always)]
    fn squares(&self, group: usize, words: S::u32s, mut sum: S::f32s, r: usize) -> S::f32s {
        let simd = self.simd;
        let down = simd.splat_u32s(DOWN);
        let is_down = simd.equal_u32s(simd.and_u32s(words, down), down);
        let shift = simd.select_f32s(is_down, simd.splat_f32s(-SHIFT), simd.splat_f32s(SHIFT));
        for n in 0..8 {
            let level = level::<S, Ternary>(simd, words, n);
            let is_one = simd.equal_u32s(level, simd.splat_u32s(1));
            let is_two = simd.equal_u32s(level, simd.splat_u32s(2));
            let value = simd.select_f32s(is_one, simd.splat_f32s(0.0), simd.splat_f32s(-1.0));
            let value = simd.add_f32s(simd.select_f32s(is_two, simd.splat_f32s(1.0), value), shift);
            let w = get::<S>(&self.w[8 * group + n], r);
            sum = simd.add_f32s(sum, simd.mul_f32s(simd.mul_f32s(w, value), value));
        }
        sum
    }

    /// Searches every group moved up and moved down; the words and cost of what is better.
    #[inline(always)]
    fn search(&mut self, scale: S::f32s, r: usize) -> (S::f32s, [S::u32s; GROUPS]) {
        let simd = self.simd;
        let (mut up, mut down) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
        let mut words = [[simd.splat_u32s(0); 2]; GROUPS];
        for (group, words) in words.iter_mut().enumerate() {
            let high = self.nearest(group, scale, SHIFT, r);
            let low = self.nearest(group, scale, -SHIFT, r);
            *words = [high.word, low.word];
            let mut cost = high.cost;
            if !SHARED {
                let is_low = simd.less_than_f32s(low.cost, high.cost);
                cost = simd.select_f32s(is_low, low.cost, high.cost);
                words[0] = simd.select_u32s(is_low, low.word, high.word);
            }
            up = simd.add_f32s(up, cost);
            down = simd.add_f32s(down, low.cost);
        }
        if !SHARED {
            return (up, words.map(|words| words[0]));
        }
        let is_down = simd.less_than_f32s(down, up);
        let words = words.map(|words| simd.select_u32s(is_down, words[1], words[0]));
        (simd.select_f32s(is_down, down, up), words)
    }
}

/// The cheapest codewords of eight weights `x`, whose errors count `w`; moved by `shift`, or either way without one.
#[inline(always)]
pub fn choose<S: Simd>(simd: S, x: &[Lanes; 8], w: &[f32; 8], step: &Lanes, shift: Option<f32>) -> Choice {
    let tile = SubBlocks::<8> { x: *x, w: std::array::from_fn(|n| [w[n]; LANES]) };
    let mut coder = ShiftedCoder::<S, 8, 1, false>::new(simd, &tile);
    let mut choice = Choice { words: [[0; LANES]; 2], signs: [0; LANES], values: [ZERO; 8], kept: [false; LANES] };
    for r in 0..registers::<S>() {
        let scale = get::<S>(step, r);
        let word = match shift {
            Some(shift) => coder.nearest(0, scale, shift, r).word,
            None => coder.search(scale, r).1[0],
        };
        set_bits::<S>(&mut choice.words[0], r, word);
    }
    for lane in 0..LANES {
        let word = choice.words[0][lane];
        let shift = shift.unwrap_or(if is_down(word) { -SHIFT } else { SHIFT });
        for n in 0..8 {
            let level = level::<Scalar, Ternary>(Scalar, word, n) as f32 - 1.0;
            choice.values[n][lane] = step[lane] * (level + shift);
        }
    }
    choice
}

/// Whether a word moves down.
#[inline(always)]
pub fn is_down(word: Word) -> bool {
    word & DOWN != 0
}

/// The number in the file of a word.
pub fn number(word: Word) -> u16 {
    book::IQ1.number(word & !DOWN)
}

impl<S: Simd, const N: usize, const GROUPS: usize, const SHARED: bool> Coder<GROUPS>
    for ShiftedCoder<'_, S, N, GROUPS, SHARED>
{
    #[inline(always)]
    fn code(&mut self, scale: &Lanes) -> Trial<GROUPS> {
        let simd = self.simd;
        let mut trial = Trial::ZERO;
        for r in 0..registers::<S>() {
            let (cost, words) = self.search(get::<S>(scale, r), r);
            let mut squares = simd.splat_f32s(0.0);
            for (group, word) in words.into_iter().enumerate() {
                squares = self.squares(group, word, squares, r);
                set_bits::<S>(&mut trial.words[group], r, word);
            }
            set::<S>(&mut trial.cost, r, cost);
            set::<S>(&mut trial.squares, r, squares);
        }
        trial
    }
}
