//! From a scale to the codewords that cost least, for 16 sub-blocks at a time.

use super::book::{self, Book, Half, Halves, Nearest, Table};
use crate::quant::lanes::{LANES, Lanes, SubBlocks, Tile, ZERO, map};

/// Codewords of sub-blocks of `GROUPS` groups; the top bit is the coder's.
pub type Words<const GROUPS: usize> = [[book::Word; LANES]; GROUPS];

/// The best codes for a scale.
pub struct Trial<const GROUPS: usize> {
    /// `sum w (decoded^2 - 2 decoded x)`: the error without the constant `sum w x^2`.
    pub cost: Lanes,
    /// `sum w level^2`.
    pub squares: Lanes,
    pub words: Words<GROUPS>,
}

/// Finds codes for 16 sub-blocks.
pub trait Coder<const GROUPS: usize> {
    /// Codes that cost least when levels are multiplied by `scale`, which is positive.
    fn code(&self, scale: &Lanes) -> Trial<GROUPS>;
}

/// The levels of a format and how its signs are stored.
pub trait Signed {
    type Half: Half;
    /// Codewords that share a parity: the number of minus signs in their weights is even. 0 if every sign is free.
    const PARITY: usize;

    fn book() -> &'static Book;
    /// The number that a level stands for, before scales.
    fn value(level: u32) -> f32;
}

/// Codes magnitudes, with signs apart.
pub struct SignedCoder<'a, F: Signed, const N: usize, const GROUPS: usize> {
    w: &'a Tile<N>,
    /// `2 w |x|`.
    slope: Tile<N>,
    /// Whether the number of negative weights is odd, for each group of signs.
    odd: [[bool; LANES]; GROUPS],
    format: std::marker::PhantomData<F>,
}

impl<'a, F: Signed, const N: usize, const GROUPS: usize> SignedCoder<'a, F, N, GROUPS> {
    #[inline(always)]
    pub fn new(tile: &'a SubBlocks<N>) -> Self {
        let mut slope = [ZERO; N];
        for n in 0..N {
            slope[n] = map(|i| 2.0 * tile.w[n][i] * tile.x[n][i].abs());
        }
        let mut odd = [[false; LANES]; GROUPS];
        if F::PARITY > 0 {
            let span = F::PARITY * N / GROUPS;
            for n in 0..N {
                for i in 0..LANES {
                    odd[n / span][i] ^= tile.x[n][i] < 0.0;
                }
            }
        }
        SignedCoder { w: &tile.w, slope, odd, format: std::marker::PhantomData }
    }

    /// Costs of the halves of a group, and the cheapest costs with one sign flipped.
    #[inline(always)]
    fn costs(&self, group: usize, step: &[Lanes; 8], costs: &mut Halves, flipped: &mut Halves) {
        let first = group * N / GROUPS;
        self.half_costs(first, step, &mut costs.first, &mut flipped.first);
        self.half_costs(first + F::Half::WEIGHTS, step, &mut costs.second, &mut flipped.second);
        book::mark::<F::Half>(&mut costs.second);
        if F::PARITY > 0 {
            book::mark::<F::Half>(&mut flipped.second);
        }
    }

    #[inline(always)]
    fn half_costs(&self, start: usize, step: &[Lanes; 8], table: &mut Table, flipped: &mut Table) {
        let mut costs = [[ZERO; 8]; 4];
        let mut flips = [[ZERO; 8]; 4];
        for n in 0..F::Half::WEIGHTS {
            for level in 0..F::Half::LEVELS {
                for i in 0..LANES {
                    let step = step[level][i];
                    let slope = self.slope[start + n][i];
                    costs[n][level][i] = step * (self.w[start + n][i] * step - slope);
                    flips[n][level][i] = 2.0 * slope * step;
                }
            }
        }
        if F::PARITY > 0 {
            F::Half::sums_flipped(&costs, &flips, table, flipped);
        } else {
            F::Half::sums(&costs, table);
        }
    }

    /// `sum w level^2` of a group.
    #[inline(always)]
    fn squares(&self, group: usize, words: &[book::Word; LANES], sum: &mut Lanes) {
        let mut levels = [0u32; LANES];
        for i in 0..LANES {
            levels[i] = F::Half::unpack(words[i]);
        }
        let first = group * N / GROUPS;
        for n in 0..N / GROUPS {
            for i in 0..LANES {
                let value = F::value(F::Half::level(levels[i], n));
                sum[i] += self.w[first + n][i] * value * value;
            }
        }
    }
}

impl<F: Signed, const N: usize, const GROUPS: usize> Coder<GROUPS> for SignedCoder<'_, F, N, GROUPS> {
    #[inline(always)]
    fn code(&self, scale: &Lanes) -> Trial<GROUPS> {
        let mut trial = Trial { cost: ZERO, squares: ZERO, words: [[0; LANES]; GROUPS] };
        let mut step = [ZERO; 8];
        for (level, step) in step.iter_mut().enumerate().take(F::Half::LEVELS) {
            *step = map(|i| scale[i] * F::value(level as u32));
        }
        let (mut costs, mut flipped) = (Halves::ZERO, Halves::ZERO);
        let book = F::book();
        if F::PARITY == 0 {
            for group in 0..GROUPS {
                self.costs(group, &step, &mut costs, &mut flipped);
                let nearest = book.nearest::<F::Half>(&costs);
                trial.take(group, &nearest);
            }
        } else {
            let mut group = 0;
            while group < GROUPS {
                let signs = group / F::PARITY;
                let mut kept = Kept::NONE;
                for member in group..group + F::PARITY {
                    self.costs(member, &step, &mut costs, &mut flipped);
                    let [plain, flip] = book.nearest_flipped::<F::Half>(&costs, &flipped);
                    kept.add(&plain, &flip);
                }
                for i in 0..LANES {
                    let odd = self.odd[signs][i];
                    trial.cost[i] += if odd { kept.flipped[i] } else { kept.plain[i] };
                }
                for member in 0..F::PARITY {
                    for i in 0..LANES {
                        let odd = self.odd[signs][i];
                        trial.words[group + member][i] =
                            if odd { kept.flipped_words[member][i] } else { kept.plain_words[member][i] };
                    }
                }
                group += F::PARITY;
            }
        }
        for group in 0..GROUPS {
            self.squares(group, &trial.words[group], &mut trial.squares);
        }
        trial
    }
}

impl<const GROUPS: usize> Trial<GROUPS> {
    #[inline(always)]
    fn take(&mut self, group: usize, nearest: &Nearest) {
        self.words[group] = nearest.word;
        for i in 0..LANES {
            self.cost[i] += nearest.cost[i];
        }
    }
}

/// The cheapest codewords of a group of signs, up to two of them, without and with one flip.
struct Kept {
    members: usize,
    plain: Lanes,
    flipped: Lanes,
    plain_words: [[book::Word; LANES]; 2],
    flipped_words: [[book::Word; LANES]; 2],
}

impl Kept {
    const NONE: Kept =
        Kept { members: 0, plain: ZERO, flipped: ZERO, plain_words: [[0; LANES]; 2], flipped_words: [[0; LANES]; 2] };

    /// Appends a codeword: the flip is in it, or in the ones before it.
    #[inline(always)]
    fn add(&mut self, plain: &Nearest, flip: &Nearest) {
        let member = self.members;
        for i in 0..LANES {
            let here = self.plain[i] + flip.cost[i];
            let before = self.flipped[i] + plain.cost[i];
            let here_wins = member == 0 || here < before;
            self.flipped[i] = if here_wins { here } else { before };
            self.flipped_words[member][i] = if here_wins { flip.word[i] } else { plain.word[i] };
            if member > 0 && here_wins {
                self.flipped_words[0][i] = self.plain_words[0][i];
            }
            self.plain[i] += plain.cost[i];
            self.plain_words[member][i] = plain.word[i];
        }
        self.members += 1;
    }
}

/// The signs of a group of weights of one lane, with the cheapest one flipped if their number must be even and is not.
#[inline(always)]
pub fn signs<F: Signed, const N: usize>(tile: &SubBlocks<N>, lane: usize, first: usize, words: &[book::Word]) -> u32 {
    let per_word = 2 * F::Half::WEIGHTS;
    let (mut signs, mut cheapest, mut cost) = (0u32, 0, f32::INFINITY);
    for n in 0..8 {
        let (x, w) = (tile.x[first + n][lane], tile.w[first + n][lane]);
        signs |= ((x < 0.0) as u32) << n;
        let levels = F::Half::unpack(words[n / per_word]);
        let flip = w * x.abs() * F::value(F::Half::level(levels, n % per_word));
        if flip < cost {
            (cheapest, cost) = (n, flip);
        }
    }
    if F::PARITY > 0 && signs.count_ones() % 2 == 1 { signs ^ 1 << cheapest } else { signs }
}
