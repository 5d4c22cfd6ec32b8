//! Codewords arranged for search: split into two halves, grouped by equal first halves.
//!
//! The cost of a codeword is the cost of its first half plus that of its second. There are at most 81 different halves, so
//! all their costs fit in two small tables, and the nearest of all codewords is found with one addition per first half and
//! one minimum per codeword. The low seven bits of the costs of second halves are replaced by the number of the half, so a
//! minimum also tells where it is; what is lost is below 2^-16 of that cost.

use super::grids;
use crate::quant::lanes::{LANES, Lanes, ZERO, min};

/// Halves of a codeword: 3^4 or 8^2 possibilities.
pub const MAX_HALVES: usize = 81;

/// The bits of a cost that hold the number of a half.
const HALF_BITS: u32 = 127;

/// A number per half and lane; as long as its index has bits.
#[repr(align(64))]
pub struct Table([Lanes; HALF_BITS as usize + 1]);

impl Table {
    pub const ZERO: Table = Table([ZERO; HALF_BITS as usize + 1]);
}

/// Two halves of a codeword, the first in the low byte.
pub type Word = u16;

/// Codewords sorted by first half.
pub struct Book {
    /// Where the codewords of each first half begin; the last entry is their number.
    starts: [u16; MAX_HALVES + 1],
    /// Second half and number in the file of each codeword.
    seconds: &'static [u8],
    numbers: &'static [u16],
}

pub static IQ1: Book = IQ1_SORTED.book();
pub static IQ2_XXS: Book = IQ2_XXS_SORTED.book();
pub static IQ2_XS: Book = IQ2_XS_SORTED.book();
pub static IQ2_S: Book = IQ2_S_SORTED.book();
pub static IQ3_XXS: Book = IQ3_XXS_SORTED.book();
pub static IQ3_S: Book = IQ3_S_SORTED.book();

static IQ1_SORTED: Sorted<2048> = Sorted::ternary(&grids::IQ1_S);
static IQ2_XXS_SORTED: Sorted<256> = Sorted::ternary(&grids::IQ2_XXS);
static IQ2_XS_SORTED: Sorted<512> = Sorted::ternary(&grids::IQ2_XS);
static IQ2_S_SORTED: Sorted<1024> = Sorted::ternary(&grids::IQ2_S);
static IQ3_XXS_SORTED: Sorted<256> = Sorted::octal(&grids::IQ3_XXS);
static IQ3_S_SORTED: Sorted<512> = Sorted::octal(&grids::IQ3_S);

/// What a [`Book`] refers to.
struct Sorted<const WORDS: usize> {
    starts: [u16; MAX_HALVES + 1],
    seconds: [u8; WORDS],
    numbers: [u16; WORDS],
}

/// The number of a half of four weights of three levels: base 3, first weight lowest.
const fn ternary_half(bits: u16) -> u8 {
    ((bits & 3) + 3 * (bits >> 2 & 3) + 9 * (bits >> 4 & 3) + 27 * (bits >> 6 & 3)) as u8
}

impl<const WORDS: usize> Sorted<WORDS> {
    const fn ternary(grid: &[u16; WORDS]) -> Self {
        let mut halves = [[0; WORDS]; 2];
        let mut k = 0;
        while k < WORDS {
            halves[0][k] = ternary_half(grid[k] & 255);
            halves[1][k] = ternary_half(grid[k] >> 8);
            k += 1;
        }
        Self::sorted(halves)
    }

    const fn octal(grid: &[u16; WORDS]) -> Self {
        let mut halves = [[0; WORDS]; 2];
        let mut k = 0;
        while k < WORDS {
            halves[0][k] = (grid[k] & 63) as u8;
            halves[1][k] = (grid[k] >> 6) as u8;
            k += 1;
        }
        Self::sorted(halves)
    }

    /// Counting sort by first half; equal ones stay in the order of the file.
    const fn sorted(halves: [[u8; WORDS]; 2]) -> Self {
        let mut starts = [0; MAX_HALVES + 1];
        let mut k = 0;
        while k < WORDS {
            starts[halves[0][k] as usize + 1] += 1;
            k += 1;
        }
        let mut h = 0;
        while h < MAX_HALVES {
            starts[h + 1] += starts[h];
            h += 1;
        }
        let mut next = starts;
        let mut sorted = Sorted { starts, seconds: [0; WORDS], numbers: [0; WORDS] };
        k = 0;
        while k < WORDS {
            let place = next[halves[0][k] as usize] as usize;
            next[halves[0][k] as usize] += 1;
            sorted.seconds[place] = halves[1][k];
            sorted.numbers[place] = k as u16;
            k += 1;
        }
        sorted
    }

    const fn book(&'static self) -> Book {
        Book { starts: self.starts, seconds: &self.seconds, numbers: &self.numbers }
    }
}

impl Book {
    /// The number in the file of a codeword.
    #[inline(always)]
    pub fn number(&self, word: Word) -> u16 {
        let (first, second) = split(word);
        for k in self.bucket(first) {
            if self.seconds[k] as usize == second {
                return self.numbers[k];
            }
        }
        0
    }

    #[inline(always)]
    fn bucket(&self, first: usize) -> std::ops::Range<usize> {
        self.starts[first] as usize..self.starts[first + 1] as usize
    }
}

#[inline(always)]
fn split(word: Word) -> (usize, usize) {
    ((word & 127) as usize, (word >> 8 & 127) as usize)
}

/// A number per weight of a half and level.
pub type PerLevel = [[Lanes; 8]; 4];

#[inline(always)]
fn sum(a: &Lanes, b: &Lanes) -> Lanes {
    let mut out = ZERO;
    for i in 0..LANES {
        out[i] = a[i] + b[i];
    }
    out
}

#[inline(always)]
fn least(a: &Lanes, b: &Lanes) -> Lanes {
    let mut out = ZERO;
    for i in 0..LANES {
        out[i] = min(a[i], b[i]);
    }
    out
}

/// How half a codeword is made of levels.
pub trait Half {
    const WEIGHTS: usize;
    const LEVELS: usize;
    const COUNT: usize;

    /// Fills `costs[half]` with the sum of the costs of the half's weights, added in a fixed order.
    fn sums(costs: &PerLevel, table: &mut Table);

    /// Fills `flipped[half]` with that sum and the cheapest of the half's `flips`.
    fn sums_flipped(costs: &PerLevel, flips: &PerLevel, table: &mut Table, flipped: &mut Table);

    /// The levels of a codeword, packed as in the grids.
    fn unpack(word: Word) -> u32;

    /// Level of a weight of packed levels.
    fn level(levels: u32, weight: usize) -> u32;
}

/// Four weights of three levels.
pub struct Ternary;

impl Half for Ternary {
    const WEIGHTS: usize = 4;
    const LEVELS: usize = 3;
    const COUNT: usize = 81;

    #[inline(always)]
    fn sums(costs: &PerLevel, table: &mut Table) {
        let mut low = [ZERO; 9];
        for i in 0..9 {
            low[i] = sum(&costs[0][i % 3], &costs[1][i / 3]);
        }
        for j in 0..9 {
            let high = sum(&costs[2][j % 3], &costs[3][j / 3]);
            for i in 0..9 {
                table.0[9 * j + i] = sum(&low[i], &high);
            }
        }
    }

    #[inline(always)]
    fn sums_flipped(costs: &PerLevel, flips: &PerLevel, table: &mut Table, flipped: &mut Table) {
        let (mut low, mut low_flip) = ([ZERO; 9], [ZERO; 9]);
        for i in 0..9 {
            low[i] = sum(&costs[0][i % 3], &costs[1][i / 3]);
            low_flip[i] = least(&flips[0][i % 3], &flips[1][i / 3]);
        }
        for j in 0..9 {
            let high = sum(&costs[2][j % 3], &costs[3][j / 3]);
            let high_flip = least(&flips[2][j % 3], &flips[3][j / 3]);
            for i in 0..9 {
                let cost = sum(&low[i], &high);
                table.0[9 * j + i] = cost;
                flipped.0[9 * j + i] = sum(&cost, &least(&low_flip[i], &high_flip));
            }
        }
    }

    #[inline(always)]
    fn unpack(word: Word) -> u32 {
        let (first, second) = split(word);
        TERNARY_LEVELS[first] as u32 | (TERNARY_LEVELS[second] as u32) << 8
    }

    #[inline(always)]
    fn level(levels: u32, weight: usize) -> u32 {
        levels >> (2 * weight) & 3
    }
}

/// Packed levels of each half.
static TERNARY_LEVELS: [u8; HALF_BITS as usize + 1] = {
    let mut levels = [0; HALF_BITS as usize + 1];
    let mut half = 0;
    while half < MAX_HALVES {
        levels[half] = (half % 3 | half / 3 % 3 << 2 | half / 9 % 3 << 4 | half / 27 << 6) as u8;
        half += 1;
    }
    levels
};

/// Two weights of eight levels.
pub struct Octal;

impl Half for Octal {
    const WEIGHTS: usize = 2;
    const LEVELS: usize = 8;
    const COUNT: usize = 64;

    #[inline(always)]
    fn sums(costs: &PerLevel, table: &mut Table) {
        for j in 0..8 {
            for i in 0..8 {
                table.0[8 * j + i] = sum(&costs[0][i], &costs[1][j]);
            }
        }
    }

    #[inline(always)]
    fn sums_flipped(costs: &PerLevel, flips: &PerLevel, table: &mut Table, flipped: &mut Table) {
        for j in 0..8 {
            for i in 0..8 {
                let cost = sum(&costs[0][i], &costs[1][j]);
                table.0[8 * j + i] = cost;
                flipped.0[8 * j + i] = sum(&cost, &least(&flips[0][i], &flips[1][j]));
            }
        }
    }

    #[inline(always)]
    fn unpack(word: Word) -> u32 {
        let (first, second) = split(word);
        (first | second << 6) as u32
    }

    #[inline(always)]
    fn level(levels: u32, weight: usize) -> u32 {
        levels >> (3 * weight) & 7
    }
}

/// Costs of the halves of a group of weights, for one scale.
pub struct Halves {
    pub first: Table,
    pub second: Table,
}

impl Halves {
    pub const ZERO: Halves = Halves { first: Table::ZERO, second: Table::ZERO };
}

/// Puts the number of each half into the low bits of its cost.
#[inline(always)]
pub fn mark<H: Half>(table: &mut Table) {
    for half in 0..H::COUNT {
        for cost in &mut table.0[half] {
            *cost = f32::from_bits(cost.to_bits() & !HALF_BITS | half as u32);
        }
    }
}

/// The best codeword of each lane and what it costs.
pub struct Nearest {
    pub cost: Lanes,
    pub word: [Word; LANES],
}

/// The best codewords so far, in lanes that vectorize.
struct Best {
    cost: Lanes,
    first: [u32; LANES],
    /// The marked cost of the second half.
    second: Lanes,
}

impl Best {
    const NONE: Best = Best { cost: [f32::INFINITY; LANES], first: [0; LANES], second: ZERO };

    #[inline(always)]
    fn keep(&mut self, half: usize, cost: &Lanes, second: &Lanes) {
        for i in 0..LANES {
            let better = cost[i] < self.cost[i];
            self.cost[i] = if better { cost[i] } else { self.cost[i] };
            self.first[i] = if better { half as u32 } else { self.first[i] };
            self.second[i] = if better { second[i] } else { self.second[i] };
        }
    }

    #[inline(always)]
    fn nearest(&self) -> Nearest {
        let mut word = [0; LANES];
        for i in 0..LANES {
            word[i] = (self.first[i] | (self.second[i].to_bits() & HALF_BITS) << 8) as Word;
        }
        Nearest { cost: self.cost, word }
    }
}

impl Book {
    /// The cheapest codeword; of equally cheap ones, that with the lowest first half. Second halves are marked.
    #[inline(always)]
    pub fn nearest<H: Half>(&self, costs: &Halves) -> Nearest {
        let mut best = Best::NONE;
        for half in 0..H::COUNT {
            let low = lowest(&costs.second, &self.seconds[self.bucket(half)]);
            best.keep(half, &sum(&costs.first.0[half], &low), &low);
        }
        best.nearest()
    }

    /// The cheapest codeword and place of one sign flip. `flipped` holds the cheapest costs of halves with one flip.
    #[inline(always)]
    pub fn nearest_flipped<H: Half>(&self, costs: &Halves, flipped: &Halves) -> [Nearest; 2] {
        let (mut best, mut best_flipped) = (Best::NONE, Best::NONE);
        for half in 0..H::COUNT {
            let bucket = &self.seconds[self.bucket(half)];
            let low = lowest(&costs.second, bucket);
            let low_flipped = lowest(&flipped.second, bucket);
            best.keep(half, &sum(&costs.first.0[half], &low), &low);
            let early = sum(&flipped.first.0[half], &low);
            let late = sum(&costs.first.0[half], &low_flipped);
            let mut second = ZERO;
            for i in 0..LANES {
                second[i] = if early[i] < late[i] { low[i] } else { low_flipped[i] };
            }
            best_flipped.keep(half, &least(&early, &late), &second);
        }
        [best.nearest(), best_flipped.nearest()]
    }
}

/// The least of the table's entries named by `halves`.
#[inline(always)]
fn lowest(table: &Table, halves: &[u8]) -> Lanes {
    let mut low = [[f32::INFINITY; LANES]; 2];
    let (pairs, rest) = halves.as_chunks::<2>();
    for pair in pairs {
        low[0] = least(&low[0], &table.0[(pair[0] as u32 & HALF_BITS) as usize]);
        low[1] = least(&low[1], &table.0[(pair[1] as u32 & HALF_BITS) as usize]);
    }
    if let [last] = rest {
        low[0] = least(&low[0], &table.0[(*last as u32 & HALF_BITS) as usize]);
    }
    least(&low[0], &low[1])
}
