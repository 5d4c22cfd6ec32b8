//! From a scale to the codewords that cost least, for 16 sub-blocks at a time.

use std::marker::PhantomData;

use pulp::{Scalar, Simd};

use super::book::{Book, Word};
use super::nearest::{Half, HalfCosts, Halves, get, get_bits, nearest, nearest_flipped, registers, set, set_bits};
use super::signs::factor;
use crate::quant::lanes::{LANES, Lanes, SubBlocks, Tile, ZERO, map};
use crate::quant::recode::Choice;

/// Codewords of sub-blocks of `GROUPS` groups; bits above them are the coder's.
pub type Words<const GROUPS: usize> = [[Word; LANES]; GROUPS];

/// The best codes for a scale.
pub struct Trial<const GROUPS: usize> {
    /// `sum w (decoded^2 - 2 decoded x)`: the error without the constant `sum w x^2`.
    pub cost: Lanes,
    /// `sum w level^2`.
    pub squares: Lanes,
    pub words: Words<GROUPS>,
}

impl<const GROUPS: usize> Trial<GROUPS> {
    pub const ZERO: Self = Trial { cost: ZERO, squares: ZERO, words: [[0; LANES]; GROUPS] };
}

/// Finds codes for 16 sub-blocks.
pub trait Coder<const GROUPS: usize> {
    /// Codes that cost least when levels are multiplied by `scale`, which is not negative.
    fn code(&mut self, scale: &Lanes) -> Trial<GROUPS>;
}

/// The levels of a format and how its signs are stored.
pub trait Signed {
    type Half: Half;
    /// Codewords that share a parity: the number of minus signs in their weights is even. 0 if every sign is free.
    const PARITY: usize;

    fn book() -> &'static Book;

    /// The numbers that levels stand for, before scales.
    fn values<S: Simd>(simd: S, levels: S::u32s) -> S::f32s;

    fn value(level: u32) -> f32 {
        Self::values(Scalar, level)
    }
}

/// The level of weight `n` of codewords.
#[inline(always)]
pub fn level<S: Simd, H: Half>(simd: S, words: S::u32s, n: usize) -> S::u32s {
    let shifted = simd.wrapping_dyn_shr_u32s(words, simd.splat_u32s(H::BITS * n as u32));
    simd.and_u32s(shifted, simd.splat_u32s((1 << H::BITS) - 1))
}

/// Codes magnitudes, with signs apart.
pub struct SignedCoder<'a, S: Simd, F: Signed, const N: usize, const GROUPS: usize> {
    simd: S,
    w: &'a Tile<N>,
    /// `2 w |x|`.
    slope: Tile<N>,
    /// 1 where the number of negative weights is odd, for each group of signs.
    odd: [[u32; LANES]; GROUPS],
    costs: Halves,
    flipped: Halves,
    format: PhantomData<F>,
}

impl<'a, S: Simd, F: Signed, const N: usize, const GROUPS: usize> SignedCoder<'a, S, F, N, GROUPS> {
    #[inline(always)]
    pub fn new(simd: S, tile: &'a SubBlocks<N>) -> Self {
        let mut slope = [ZERO; N];
        let mut odd = [[0; LANES]; GROUPS];
        for n in 0..N {
            slope[n] = map(|i| 2.0 * tile.w[n][i] * tile.x[n][i].abs());
            if F::PARITY > 0 {
                let signs = &mut odd[n / (F::PARITY * N / GROUPS)];
                for (sign, x) in signs.iter_mut().zip(&tile.x[n]) {
                    *sign ^= (*x < 0.0) as u32;
                }
            }
        }
        let (costs, flipped) = (Halves::ZERO, Halves::ZERO);
        SignedCoder { simd, w: &tile.w, slope, odd, costs, flipped, format: PhantomData }
    }

    /// Costs of the halves of a group for levels `step`, and the cheapest costs with one sign turned.
    #[inline(always)]
    fn fill(&mut self, group: usize, step: &[S::f32s; 8], r: usize) {
        let start = group * N / GROUPS;
        let first = self.half_costs(start, step, r);
        let second = self.half_costs(start + F::Half::WEIGHTS, step, r);
        let (costs, flipped) = (&mut self.costs, &mut self.flipped);
        F::Half::fill::<S, false>(&first, &mut costs.first, (F::PARITY > 0).then_some(&mut flipped.first), r);
        F::Half::fill::<S, true>(&second, &mut costs.second, (F::PARITY > 0).then_some(&mut flipped.second), r);
    }

    /// Costs of half a group that begins with a weight.
    #[inline(always)]
    fn half_costs(&self, start: usize, step: &[S::f32s; 8], r: usize) -> HalfCosts<S> {
        let simd = self.simd;
        let zero = [[simd.splat_f32s(0.0); 8]; 4];
        let mut half = HalfCosts { simd, costs: zero, flips: zero };
        for n in 0..F::Half::WEIGHTS {
            let (w, slope) = (get::<S>(&self.w[start + n], r), get::<S>(&self.slope[start + n], r));
            let double = simd.add_f32s(slope, slope);
            for level in 0..F::Half::LEVELS {
                let step = step[level];
                half.costs[n][level] = simd.mul_f32s(step, simd.sub_f32s(simd.mul_f32s(w, step), slope));
                half.flips[n][level] = simd.mul_f32s(double, step);
            }
        }
        half
    }

    /// The best words of the groups that share a parity, or of one group if signs are free, and their cost.
    #[inline(always)]
    fn code_signs(&mut self, signs: usize, step: &[S::f32s; 8], r: usize) -> (S::f32s, [S::u32s; 2]) {
        let simd = self.simd;
        if F::PARITY == 0 {
            self.fill(signs, step, r);
            let found = nearest(simd, F::book(), &self.costs, r);
            return (found.cost, [found.word; 2]);
        }
        let zero = simd.splat_f32s(0.0);
        let (mut plain, mut flipped) = (zero, zero);
        let mut plain_words = [simd.splat_u32s(0); 2];
        let mut flipped_words = plain_words;
        for member in 0..F::PARITY {
            self.fill(signs * F::PARITY + member, step, r);
            let [even, odd] = nearest_flipped(simd, F::book(), &self.costs, &self.flipped, r);
            // the turned sign is in this codeword, or in the one before it
            let here = simd.add_f32s(plain, odd.cost);
            if member == 0 {
                flipped = here;
                flipped_words[0] = odd.word;
            } else {
                let before = simd.add_f32s(flipped, even.cost);
                let is_here = simd.less_than_f32s(here, before);
                flipped = simd.select_f32s(is_here, here, before);
                flipped_words[0] = simd.select_u32s(is_here, plain_words[0], flipped_words[0]);
                flipped_words[1] = simd.select_u32s(is_here, odd.word, even.word);
            }
            plain = simd.add_f32s(plain, even.cost);
            plain_words[member] = even.word;
        }
        let odd = simd.equal_u32s(get_bits::<S>(&self.odd[signs], r), simd.splat_u32s(1));
        let words = [0, 1].map(|member| simd.select_u32s(odd, flipped_words[member], plain_words[member]));
        (simd.select_f32s(odd, flipped, plain), words)
    }

    /// Adds `w level^2` of the weights of a group to a sum.
    #[inline(always)]
    fn squares(&self, group: usize, words: S::u32s, mut sum: S::f32s, r: usize) -> S::f32s {
        let simd = self.simd;
        for n in 0..N / GROUPS {
            let value = F::values(simd, level::<S, F::Half>(simd, words, n));
            let w = get::<S>(&self.w[group * N / GROUPS + n], r);
            sum = simd.add_f32s(sum, simd.mul_f32s(simd.mul_f32s(w, value), value));
        }
        sum
    }
}

impl<S: Simd, F: Signed, const N: usize, const GROUPS: usize> Coder<GROUPS> for SignedCoder<'_, S, F, N, GROUPS> {
    #[inline(always)]
    fn code(&mut self, scale: &Lanes) -> Trial<GROUPS> {
        let simd = self.simd;
        let mut trial = Trial::ZERO;
        for r in 0..registers::<S>() {
            let scale = get::<S>(scale, r);
            let mut step = [scale; 8];
            for (level, step) in step.iter_mut().enumerate().take(F::Half::LEVELS) {
                *step = simd.mul_f32s(scale, simd.splat_f32s(F::value(level as u32)));
            }
            let (mut cost, mut squares) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
            let per_signs = F::PARITY.max(1);
            for signs in 0..GROUPS / per_signs {
                let (more, words) = self.code_signs(signs, &step, r);
                cost = simd.add_f32s(cost, more);
                for (member, word) in words.into_iter().enumerate().take(per_signs) {
                    let group = signs * per_signs + member;
                    squares = self.squares(group, word, squares, r);
                    set_bits::<S>(&mut trial.words[group], r, word);
                }
            }
            set::<S>(&mut trial.cost, r, cost);
            set::<S>(&mut trial.squares, r, squares);
        }
        trial
    }
}

/// The signs of eight weights of one lane, with the cheapest one turned if their number must be even and is not.
#[inline(always)]
pub fn signs<F: Signed, const N: usize>(tile: &SubBlocks<N>, lane: usize, first: usize, words: &[Word]) -> u32 {
    let per_word = 2 * F::Half::WEIGHTS;
    let (mut signs, mut cheapest, mut cost) = (0u32, 0, f32::INFINITY);
    for n in 0..N.min(8) {
        let (x, w) = (tile.x[first + n][lane], tile.w[first + n][lane]);
        signs |= ((x < 0.0) as u32) << n;
        let level = level::<Scalar, F::Half>(Scalar, words[n / per_word], n % per_word);
        let flip = w * x.abs() * F::value(level);
        if flip < cost {
            (cheapest, cost) = (n, flip);
        }
    }
    if F::PARITY > 0 && signs.count_ones() % 2 == 1 { signs ^ 1 << cheapest } else { signs }
}

/// The cheapest codewords and signs of `WORDS` groups of weights `x`, whose errors count `w`.
#[inline(always)]
pub fn choose<S: Simd, F: Signed, const N: usize, const WORDS: usize>(
    simd: S,
    x: &[Lanes; 8],
    w: &[f32; 8],
    step: &Lanes,
) -> Choice {
    let tile = SubBlocks::<N> { x: std::array::from_fn(|n| x[n]), w: std::array::from_fn(|n| [w[n]; LANES]) };
    let trial = SignedCoder::<S, F, N, WORDS>::new(simd, &tile).code(step);
    let mut choice = Choice { words: [[0; LANES]; 2], signs: [0; LANES], values: [ZERO; 8], kept: [false; LANES] };
    choice.words[..WORDS].copy_from_slice(&trial.words);
    for lane in 0..LANES {
        let words: [Word; WORDS] = std::array::from_fn(|word| trial.words[word][lane]);
        let signs = signs::<F, N>(&tile, lane, 0, &words);
        choice.signs[lane] = signs;
        for n in 0..N {
            let level = level::<Scalar, F::Half>(Scalar, words[n * WORDS / N], n % (N / WORDS));
            choice.values[n][lane] = step[lane] * F::value(level) * factor(signs, n);
        }
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::codebook::grids;
    use crate::quant::iq2_s::Iq2S;
    use crate::quant::iq2_xs::Iq2Xs;
    use crate::quant::iq3_xxs::Iq3Xxs;
    use crate::quant::lanes::Rows;

    /// The least cost of a group of signs over every codeword and every allowed choice of signs.
    fn brute_force<F: Signed>(grid: &[u16], x: &[f32], w: &[f32], scale: f32) -> f32 {
        let (weights, words) = (2 * F::Half::WEIGHTS, F::PARITY.max(1));
        // cheapest cost of the words so far with an even and an odd number of turned signs
        let mut cost = [0.0, f32::INFINITY];
        for word in 0..words {
            let mut best = [f32::INFINITY; 2];
            for levels in grid {
                let (mut sum, mut flip) = (0.0, f32::INFINITY);
                for n in 0..weights {
                    let i = word * weights + n;
                    let level = scale * F::value(level::<Scalar, F::Half>(Scalar, *levels as Word, n));
                    sum += w[i] * level * (level - 2.0 * x[i].abs());
                    flip = f32::min(flip, 4.0 * w[i] * level * x[i].abs());
                }
                best = [f32::min(best[0], sum), f32::min(best[1], sum + flip)];
            }
            cost = [cost[0] + best[0], f32::min(cost[0] + best[1], cost[1] + best[0])];
        }
        let odd = F::PARITY > 0 && x.iter().filter(|x| **x < 0.0).count() % 2 == 1;
        cost[odd as usize]
    }

    fn check<F: Signed, const N: usize, const GROUPS: usize>(grid: &[u16]) {
        let wave = |i: usize, seed: f32| ((i * i) as f32 * 0.37 + seed).sin();
        let values: Vec<f32> = (0..LANES * N).map(|i| wave(i, 1.0) * (1.0 + 2.0 * wave(i, 2.0))).collect();
        let importance: Vec<f32> = (0..LANES * N).map(|i| (2.0 * wave(i, 3.0)).exp()).collect();
        let tile = SubBlocks::<N>::load(Rows { values: &values, importance: &importance }, 0, 1);
        let mut coder = SignedCoder::<Scalar, F, N, GROUPS>::new(Scalar, &tile);
        for scale in [0.1, 0.3, 0.5] {
            let trial = coder.code(&[scale; LANES]);
            for lane in 0..LANES {
                let lane_of = |tile: &Tile<N>| tile.iter().map(|row| row[lane]).collect::<Vec<f32>>();
                let (x, w) = (lane_of(&tile.x), lane_of(&tile.w));
                let span = F::PARITY.max(1) * N / GROUPS;
                let groups = x.chunks(span).zip(w.chunks(span));
                let expected: f32 = groups.map(|(x, w)| brute_force::<F>(grid, x, w, scale)).sum();
                let found = trial.cost[lane];
                assert!((found - expected).abs() <= 1e-4 * expected.abs(), "{found} is not {expected}");
            }
        }
    }

    #[test]
    fn the_cheapest_codewords_and_signs_are_found() {
        check::<Iq2S, 16, 2>(&grids::IQ2_S);
        check::<Iq2Xs, 16, 2>(&grids::IQ2_XS);
        check::<Iq3Xxs, 32, 8>(&grids::IQ3_XXS);
    }
}
