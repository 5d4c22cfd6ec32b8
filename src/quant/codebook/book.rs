//! Codewords arranged for search: split into two halves, grouped by equal first halves.
//!
//! The cost of a codeword is the cost of its first half plus that of its second. There are at most 81 different halves, so
//! all their costs fit in two small tables, and the nearest of all codewords is found with one addition per first half and
//! one minimum per codeword, exactly as if every codeword had been summed up.

use super::super::lanes::{LANES, Lanes, ZERO};
use super::grids;

/// Halves of a codeword: 3^4 or 8^2 possibilities.
pub const MAX_HALVES: usize = 81;

/// A number per half and lane.
pub type Table = [Lanes; MAX_HALVES];

/// Codewords sorted by first half.
pub struct Book {
    /// Where the codewords of each first half begin; the last entry is their number.
    starts: [u16; MAX_HALVES + 1],
    /// Second half of each codeword.
    seconds: &'static [u8],
    /// Number in the file and packed levels of each codeword.
    numbers: &'static [u16],
    words: &'static [u16],
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
    words: [u16; WORDS],
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
        Self::sorted(grid, halves)
    }

    const fn octal(grid: &[u16; WORDS]) -> Self {
        let mut halves = [[0; WORDS]; 2];
        let mut k = 0;
        while k < WORDS {
            halves[0][k] = (grid[k] & 63) as u8;
            halves[1][k] = (grid[k] >> 6) as u8;
            k += 1;
        }
        Self::sorted(grid, halves)
    }

    /// Counting sort by first half; equal ones stay in the order of the file.
    const fn sorted(grid: &[u16; WORDS], halves: [[u8; WORDS]; 2]) -> Self {
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
        let mut sorted = Sorted { starts, seconds: [0; WORDS], numbers: [0; WORDS], words: [0; WORDS] };
        k = 0;
        while k < WORDS {
            let place = next[halves[0][k] as usize] as usize;
            next[halves[0][k] as usize] += 1;
            sorted.seconds[place] = halves[1][k];
            sorted.numbers[place] = k as u16;
            sorted.words[place] = grid[k];
            k += 1;
        }
        sorted
    }

    const fn book(&'static self) -> Book {
        Book { starts: self.starts, seconds: &self.seconds, numbers: &self.numbers, words: &self.words }
    }
}

impl Book {
    /// The number in the file of the codeword at a place of the sorted order.
    #[inline(always)]
    pub fn number(&self, place: u16) -> u16 {
        self.numbers[place as usize]
    }

    /// The packed levels of the codeword at a place of the sorted order.
    #[inline(always)]
    pub fn word(&self, place: u16) -> u16 {
        self.words[place as usize]
    }

    #[inline(always)]
    fn bucket(&self, first: usize) -> std::ops::Range<usize> {
        self.starts[first] as usize..self.starts[first + 1] as usize
    }
}

/// How half a codeword is made of levels.
pub trait Half {
    const WEIGHTS: usize;
    const LEVELS: usize;
    const COUNT: usize;

    /// Fills `table[half]` with `value(weight, level)` of all weights of the half, joined by `join` in a fixed order.
    fn fold(value: impl Fn(usize, usize) -> Lanes, join: impl Fn(&Lanes, &Lanes) -> Lanes, table: &mut Table);

    /// Level of a weight of a packed codeword.
    fn level(word: u32, weight: usize) -> u32;
}

/// Four weights of three levels.
pub struct Ternary;

impl Half for Ternary {
    const WEIGHTS: usize = 4;
    const LEVELS: usize = 3;
    const COUNT: usize = 81;

    #[inline(always)]
    fn fold(value: impl Fn(usize, usize) -> Lanes, join: impl Fn(&Lanes, &Lanes) -> Lanes, table: &mut Table) {
        let mut pairs = [[ZERO; 9]; 2];
        for (pair, sums) in pairs.iter_mut().enumerate() {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = join(&value(2 * pair, i % 3), &value(2 * pair + 1, i / 3));
            }
        }
        for j in 0..9 {
            for i in 0..9 {
                table[9 * j + i] = join(&pairs[0][i], &pairs[1][j]);
            }
        }
    }

    #[inline(always)]
    fn level(word: u32, weight: usize) -> u32 {
        word >> (2 * weight) & 3
    }
}

/// Two weights of eight levels.
pub struct Octal;

impl Half for Octal {
    const WEIGHTS: usize = 2;
    const LEVELS: usize = 8;
    const COUNT: usize = 64;

    #[inline(always)]
    fn fold(value: impl Fn(usize, usize) -> Lanes, join: impl Fn(&Lanes, &Lanes) -> Lanes, table: &mut Table) {
        for j in 0..8 {
            let high = value(1, j);
            for i in 0..8 {
                table[8 * j + i] = join(&value(0, i), &high);
            }
        }
    }

    #[inline(always)]
    fn level(word: u32, weight: usize) -> u32 {
        word >> (3 * weight) & 7
    }
}

/// Costs of the halves of a group of weights, for one scale.
pub struct Halves {
    pub first: Table,
    pub second: Table,
}

/// The best codeword of each lane and what it costs.
pub struct Nearest {
    pub cost: Lanes,
    pub place: [u16; LANES],
}

impl Book {
    /// The cheapest codeword; of equal ones, that with the lowest first half, then the first of the file.
    #[inline(always)]
    pub fn nearest<H: Half>(&self, costs: &Halves) -> Nearest {
        let mut best = [f32::INFINITY; LANES];
        let mut first = [0u32; LANES];
        for half in 0..H::COUNT {
            let bucket = &self.seconds[self.bucket(half)];
            let low = lowest(&costs.second, bucket);
            for i in 0..LANES {
                let cost = costs.first[half][i] + low[i];
                let better = cost < best[i];
                best[i] = if better { cost } else { best[i] };
                first[i] = if better { half as u32 } else { first[i] };
            }
        }
        let mut place = [0; LANES];
        for i in 0..LANES {
            let half = first[i] as usize;
            place[i] = self.place_of_least(half, |second| costs.second[second][i]);
        }
        Nearest { cost: best, place }
    }

    /// The cheapest codeword and place of one sign flip. `flipped` holds the cheapest costs of halves with one flip.
    #[inline(always)]
    pub fn nearest_flipped<H: Half>(&self, costs: &Halves, flipped: &Halves) -> Nearest {
        let mut best = [f32::INFINITY; LANES];
        let mut first = [0u32; LANES];
        for half in 0..H::COUNT {
            let bucket = &self.seconds[self.bucket(half)];
            let low = lowest(&costs.second, bucket);
            let low_flipped = lowest(&flipped.second, bucket);
            for i in 0..LANES {
                let early = flipped.first[half][i] + low[i];
                let late = costs.first[half][i] + low_flipped[i];
                let cost = if late < early { late } else { early };
                let better = cost < best[i];
                best[i] = if better { cost } else { best[i] };
                first[i] = if better { half as u32 } else { first[i] };
            }
        }
        let mut place = [0; LANES];
        for i in 0..LANES {
            let half = first[i] as usize;
            place[i] = self.place_of_least(half, |second| {
                let early = flipped.first[half][i] + costs.second[second][i];
                let late = costs.first[half][i] + flipped.second[second][i];
                if late < early { late } else { early }
            });
        }
        Nearest { cost: best, place }
    }

    #[inline(always)]
    fn place_of_least(&self, half: usize, cost: impl Fn(usize) -> f32) -> u16 {
        let bucket = self.bucket(half);
        let mut best = f32::INFINITY;
        let mut place = bucket.start;
        for k in bucket {
            let cost = cost(self.seconds[k] as usize);
            place = if cost < best { k } else { place };
            best = if cost < best { cost } else { best };
        }
        place as u16
    }
}

/// The least of the table's entries named by `halves`.
#[inline(always)]
fn lowest(table: &Table, halves: &[u8]) -> Lanes {
    let mut low = [f32::INFINITY; LANES];
    for &half in halves {
        let row = &table[half as usize];
        for i in 0..LANES {
            low[i] = if row[i] < low[i] { row[i] } else { low[i] };
        }
    }
    low
}
