//! The coder of IQ1: signed ternary codewords, all moved up or down by an eighth.

use super::book::{self, Half, Halves, Nearest, Ternary, Word};
use super::coder::{Coder, Trial, Words};
use crate::quant::lanes::{LANES, Lanes, SubBlocks, Tile, ZERO, map};

/// What a codeword is moved by; the sign is chosen.
pub const SHIFT: f32 = 0.125;

/// The bit of a word that says that it is moved down.
const DOWN: Word = 1 << 15;

/// Codes groups of eight weights; `SHARED` if all groups of a sub-block move the same way.
pub struct ShiftedCoder<'a, const N: usize, const GROUPS: usize, const SHARED: bool> {
    w: &'a Tile<N>,
    /// `2 w x`.
    slope: Tile<N>,
}

impl<'a, const N: usize, const GROUPS: usize, const SHARED: bool> ShiftedCoder<'a, N, GROUPS, SHARED> {
    #[inline(always)]
    pub fn new(tile: &'a SubBlocks<N>) -> Self {
        let mut slope = [ZERO; N];
        for n in 0..N {
            slope[n] = map(|i| 2.0 * tile.w[n][i] * tile.x[n][i]);
        }
        ShiftedCoder { w: &tile.w, slope }
    }

    #[inline(always)]
    fn nearest(&self, group: usize, scale: &Lanes, shift: f32) -> Nearest {
        let mut costs = Halves::ZERO;
        let mut step = [ZERO; 3];
        for (level, step) in step.iter_mut().enumerate() {
            *step = map(|i| scale[i] * (level as f32 - 1.0 + shift));
        }
        let first = 8 * group;
        for (start, table) in [(first, &mut costs.first), (first + 4, &mut costs.second)] {
            let mut values = [[ZERO; 8]; 4];
            for n in 0..4 {
                for (level, step) in step.iter().enumerate() {
                    for i in 0..LANES {
                        values[n][level][i] = step[i] * (self.w[start + n][i] * step[i] - self.slope[start + n][i]);
                    }
                }
            }
            Ternary::sums(&values, table);
        }
        book::mark::<Ternary>(&mut costs.second);
        book::IQ1.nearest::<Ternary>(&costs)
    }

    #[inline(always)]
    fn squares(&self, words: &Words<GROUPS>) -> Lanes {
        let mut sum = ZERO;
        for group in 0..GROUPS {
            let (mut levels, mut shift) = ([0u32; LANES], ZERO);
            for i in 0..LANES {
                levels[i] = Ternary::unpack(words[group][i]);
                shift[i] = self::shift(words[group][i]);
            }
            for n in 0..8 {
                for i in 0..LANES {
                    let value = Ternary::level(levels[i], n) as f32 - 1.0 + shift[i];
                    sum[i] += self.w[8 * group + n][i] * value * value;
                }
            }
        }
        sum
    }
}

/// Whether a word moves down.
#[inline(always)]
pub fn is_down(word: Word) -> bool {
    word & DOWN != 0
}

#[inline(always)]
fn shift(word: Word) -> f32 {
    if is_down(word) { -SHIFT } else { SHIFT }
}

impl<const N: usize, const GROUPS: usize, const SHARED: bool> Coder<GROUPS> for ShiftedCoder<'_, N, GROUPS, SHARED> {
    #[inline(always)]
    fn code(&self, scale: &Lanes) -> Trial<GROUPS> {
        let mut cost = [ZERO; 2];
        let mut words = [[[0; LANES]; GROUPS]; 2];
        for group in 0..GROUPS {
            let up = self.nearest(group, scale, SHIFT);
            let down = self.nearest(group, scale, -SHIFT);
            for i in 0..LANES {
                let falls = !SHARED && down.cost[i] < up.cost[i];
                cost[0][i] += if falls { down.cost[i] } else { up.cost[i] };
                words[0][group][i] = if falls { down.word[i] | DOWN } else { up.word[i] };
                cost[1][i] += down.cost[i];
                words[1][group][i] = down.word[i] | DOWN;
            }
        }
        if SHARED {
            for i in 0..LANES {
                if cost[1][i] < cost[0][i] {
                    cost[0][i] = cost[1][i];
                    for group in 0..GROUPS {
                        words[0][group][i] = words[1][group][i];
                    }
                }
            }
        }
        let squares = self.squares(&words[0]);
        Trial { cost: cost[0], squares, words: words[0] }
    }
}
