//! The exact search for codewords, on vector registers.
//!
//! The cost of a codeword is the cost of its first half plus that of its second. There are at most 81 different halves, so
//! all their costs fit in two small tables, and the nearest of all codewords is found with one addition per first half and
//! one minimum per codeword. The low eight bits of the costs of second halves are replaced by the half itself, so a minimum
//! also tells where it is; what is lost is below 2^-15 of that cost.
//!
//! Every function here handles the lanes of one register `r` of [`Lanes`].

use pulp::Simd;

use super::book::Book;
use crate::quant::lanes::{LANES, Lanes, ZERO};

/// The bits of a cost that hold a half.
const HALF: u32 = 255;

/// A number per half and lane; halves are packed levels.
#[repr(align(64))]
pub struct Table([Lanes; HALF as usize + 1]);

/// Costs of the halves of a group of weights, for one scale.
pub struct Halves {
    pub first: Table,
    pub second: Table,
}

impl Halves {
    pub const ZERO: Halves = Halves { first: Table([ZERO; 256]), second: Table([ZERO; 256]) };
}

/// Registers that hold [`Lanes`].
pub const fn registers<S: Simd>() -> usize {
    LANES / S::F32_LANES
}

#[inline(always)]
pub fn get<S: Simd>(lanes: &Lanes, r: usize) -> S::f32s {
    S::as_simd_f32s(lanes).0[r]
}

#[inline(always)]
pub fn set<S: Simd>(lanes: &mut Lanes, r: usize, value: S::f32s) {
    S::as_mut_simd_f32s(lanes).0[r] = value;
}

#[inline(always)]
pub fn get_bits<S: Simd>(lanes: &[u32; LANES], r: usize) -> S::u32s {
    S::as_simd_u32s(lanes).0[r]
}

#[inline(always)]
pub fn set_bits<S: Simd>(lanes: &mut [u32; LANES], r: usize, value: S::u32s) {
    S::as_mut_simd_u32s(lanes).0[r] = value;
}

/// A number per weight of a half and level.
pub type PerLevel<S> = [[<S as Simd>::f32s; 8]; 4];

/// What is known of one half of a group: costs, and what it costs to turn the sign of each weight.
pub struct HalfCosts<S: Simd> {
    pub simd: S,
    pub costs: PerLevel<S>,
    pub flips: PerLevel<S>,
}

/// How half a codeword is made of levels.
pub trait Half {
    const WEIGHTS: usize;
    const LEVELS: usize;
    /// Bits of a level.
    const BITS: u32;

    /// Fills `table` with the sum of the costs of the weights of every half, and `flipped` with that sum and the cheapest
    /// flip. With `MARK` the numbers are marked with the half.
    fn fill<S: Simd, const MARK: bool>(half: &HalfCosts<S>, table: &mut Table, flipped: Option<&mut Table>, r: usize);
}

/// Four weights of three levels.
pub struct Ternary;

/// Two weights of eight levels.
pub struct Octal;

impl Half for Ternary {
    const WEIGHTS: usize = 4;
    const LEVELS: usize = 3;
    const BITS: u32 = 2;

    #[inline(always)]
    fn fill<S: Simd, const MARK: bool>(
        half: &HalfCosts<S>,
        table: &mut Table,
        mut flipped: Option<&mut Table>,
        r: usize,
    ) {
        let simd = half.simd;
        let mut low = [(simd.splat_f32s(0.0), simd.splat_f32s(0.0)); 9];
        for (i, low) in low.iter_mut().enumerate() {
            low.0 = simd.add_f32s(half.costs[0][i % 3], half.costs[1][i / 3]);
            low.1 = simd.min_f32s(half.flips[0][i % 3], half.flips[1][i / 3]);
        }
        for j in 0..9 {
            let high = simd.add_f32s(half.costs[2][j % 3], half.costs[3][j / 3]);
            let high_flip = simd.min_f32s(half.flips[2][j % 3], half.flips[3][j / 3]);
            for (i, low) in low.iter().enumerate() {
                let row = (i % 3) | ((i / 3) << 2) | ((j % 3) << 4) | ((j / 3) << 6);
                let cost = simd.add_f32s(low.0, high);
                put::<S, MARK>(simd, table, row, r, cost);
                if let Some(flipped) = &mut flipped {
                    let flip = simd.min_f32s(low.1, high_flip);
                    put::<S, MARK>(simd, flipped, row, r, simd.add_f32s(cost, flip));
                }
            }
        }
    }
}

impl Half for Octal {
    const WEIGHTS: usize = 2;
    const LEVELS: usize = 8;
    const BITS: u32 = 3;

    #[inline(always)]
    fn fill<S: Simd, const MARK: bool>(
        half: &HalfCosts<S>,
        table: &mut Table,
        mut flipped: Option<&mut Table>,
        r: usize,
    ) {
        let simd = half.simd;
        for j in 0..8 {
            for i in 0..8 {
                let row = i | j << 3;
                let cost = simd.add_f32s(half.costs[0][i], half.costs[1][j]);
                put::<S, MARK>(simd, table, row, r, cost);
                if let Some(flipped) = &mut flipped {
                    let flip = simd.min_f32s(half.flips[0][i], half.flips[1][j]);
                    put::<S, MARK>(simd, flipped, row, r, simd.add_f32s(cost, flip));
                }
            }
        }
    }
}

#[inline(always)]
fn put<S: Simd, const MARK: bool>(simd: S, table: &mut Table, half: usize, r: usize, value: S::f32s) {
    let value = if MARK {
        let rest = simd.and_u32s(simd.transmute_u32s_f32s(value), simd.splat_u32s(!HALF));
        simd.transmute_f32s_u32s(simd.or_u32s(rest, simd.splat_u32s(half as u32)))
    } else {
        value
    };
    set::<S>(&mut table.0[half & 255], r, value);
}

/// The best codeword of each lane and what it costs.
#[derive(Clone, Copy)]
pub struct Nearest<S: Simd> {
    pub cost: S::f32s,
    pub word: S::u32s,
}

/// The best codeword so far: its first half, and the marked cost of its second.
struct Best<S: Simd> {
    simd: S,
    cost: S::f32s,
    first: S::u32s,
    second: S::f32s,
}

impl<S: Simd> Best<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        let (cost, zero) = (simd.splat_f32s(f32::INFINITY), simd.splat_f32s(0.0));
        Best { simd, cost, first: simd.splat_u32s(0), second: zero }
    }

    #[inline(always)]
    fn keep(&mut self, first: u8, cost: S::f32s, second: S::f32s) {
        let simd = self.simd;
        let better = simd.less_than_f32s(cost, self.cost);
        self.cost = simd.select_f32s(better, cost, self.cost);
        self.first = simd.select_u32s(better, simd.splat_u32s(first as u32), self.first);
        self.second = simd.select_f32s(better, second, self.second);
    }

    #[inline(always)]
    fn nearest(&self, book: &Book) -> Nearest<S> {
        let simd = self.simd;
        let second = simd.and_u32s(simd.transmute_u32s_f32s(self.second), simd.splat_u32s(HALF));
        let second = simd.wrapping_dyn_shl_u32s(second, simd.splat_u32s(book.half_bits));
        Nearest { cost: self.cost, word: simd.or_u32s(self.first, second) }
    }
}

/// The cheapest codeword; of equally cheap ones, that with the lowest first half. `costs.second` is marked.
#[inline(always)]
pub fn nearest<S: Simd>(simd: S, book: &Book, costs: &Halves, r: usize) -> Nearest<S> {
    let mut best = Best::new(simd);
    for (first, seconds) in book.groups() {
        let low = lowest(simd, &costs.second, seconds, r);
        let cost = simd.add_f32s(get::<S>(&costs.first.0[first as usize], r), low);
        best.keep(first, cost, low);
    }
    best.nearest(book)
}

/// The cheapest codeword without and with one sign turned. `flipped` holds the costs of halves with their cheapest flip.
#[inline(always)]
pub fn nearest_flipped<S: Simd>(simd: S, book: &Book, costs: &Halves, flipped: &Halves, r: usize) -> [Nearest<S>; 2] {
    let mut best = [Best::new(simd), Best::new(simd)];
    for (first, seconds) in book.groups() {
        let low = lowest(simd, &costs.second, seconds, r);
        let low_flipped = lowest(simd, &flipped.second, seconds, r);
        let plain = get::<S>(&costs.first.0[first as usize], r);
        best[0].keep(first, simd.add_f32s(plain, low), low);
        let early = simd.add_f32s(get::<S>(&flipped.first.0[first as usize], r), low);
        let late = simd.add_f32s(plain, low_flipped);
        let is_early = simd.less_than_f32s(early, late);
        best[1].keep(first, simd.select_f32s(is_early, early, late), simd.select_f32s(is_early, low, low_flipped));
    }
    best.map(|best| best.nearest(book))
}

/// The least of the table's entries named by `halves`.
#[inline(always)]
fn lowest<S: Simd>(simd: S, table: &Table, halves: &[u8], r: usize) -> S::f32s {
    let mut low = [simd.splat_f32s(f32::INFINITY); 4];
    let (fours, rest) = halves.as_chunks::<4>();
    for four in fours {
        for (low, half) in low.iter_mut().zip(four) {
            *low = simd.min_f32s(*low, get::<S>(&table.0[*half as usize], r));
        }
    }
    for half in rest {
        low[0] = simd.min_f32s(low[0], get::<S>(&table.0[*half as usize], r));
    }
    simd.min_f32s(simd.min_f32s(low[0], low[1]), simd.min_f32s(low[2], low[3]))
}
