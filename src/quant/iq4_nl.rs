//! IQ4_NL: 32 weights, `d * level` with 16 unevenly spaced levels.

use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, clamp, map, read_f16, round_f16, write_f16};
use super::search::{Grid, Levels, ScaleFit, extremes, level_codes};
use super::{GgmlType, nibbles};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    /// Byte `j`: weight `j` low, weight `j + 16` high.
    codes: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 18);

pub(super) struct Iq4Nl;

/// The levels of IQ4_NL and IQ4_XS.
pub(super) const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Every boundary between levels is a multiple of 1/2, so the cell `floor(2 y)` decides the level.
const CELLS: usize = 482;

/// Code of each cell, the first being `y = -127`.
static CODES: [u8; CELLS] = {
    let mut codes = [0; CELLS];
    let mut cell = 0;
    let mut code = 0;
    while cell < CELLS {
        // boundary between code and code + 1, in halves from -127
        while code < 15 && cell as i32 - 254 >= LEVELS[code] as i32 + LEVELS[code + 1] as i32 {
            code += 1;
        }
        codes[cell] = code as u8;
        cell += 1;
    }
    codes
};

/// Level of each cell.
static NEAREST: [f32; CELLS] = {
    let mut levels = [0.0; CELLS];
    let mut cell = 0;
    while cell < CELLS {
        levels[cell] = LEVELS[CODES[cell] as usize] as f32;
        cell += 1;
    }
    levels
};

/// Cell of `y`; a `y` on a boundary belongs to the level above it.
#[inline(always)]
fn cell(y: f32) -> usize {
    // exact: between 0 and 481
    let position = (clamp(y, -127.0, 113.0) + 127.0) * 2.0;
    (position as i32 as usize).min(CELLS - 1)
}

/// The levels of IQ4_NL, nearest by value.
pub(super) struct Table;

impl Levels for Table {
    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        NEAREST[cell(y)]
    }

    #[inline(always)]
    fn code(y: f32) -> u8 {
        CODES[cell(y)]
    }
}

const FRONT: Grid = Grid { first: -140.0, step: 4.0, count: 14 };
const BACK: Grid = Grid { first: 80.0, step: 4.0, count: 12 };

impl BlockFormat for Iq4Nl {
    const TYPE: GgmlType = GgmlType::IQ4_NL;
    const GROUP: usize = LANES;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (out, code) in out.iter_mut().zip(nibbles::unpack(&block.codes)) {
            *out = LEVELS[code as usize] as f32 * d;
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<32>::load(rows, first, 1);
        let extreme = extremes(&tile.x);
        let mut fit = ScaleFit::NONE;
        fit.try_anchors::<Table, 32>(&tile, &extreme, FRONT);
        fit.try_anchors::<Table, 32>(&tile, &extreme, BACK);
        fit.alternate::<Table, 32>(&tile, 2);
        let codes = level_codes::<Table, 32>(&tile, &map(|i| round_f16(fit.scale[i])));
        for (i, block) in blocks.iter_mut().enumerate() {
            *block = Block { d: write_f16(fit.scale[i]), codes: nibbles::pack(&codes[i]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_give_the_nearest_level() {
        for step in -6000..=6000 {
            let y = step as f32 / 32.0;
            let nearest = LEVELS.iter().map(|&level| (level as f32 - y).abs()).fold(f32::INFINITY, f32::min);
            assert_eq!((Table::nearest(y) - y).abs(), nearest, "{y}");
            assert_eq!(LEVELS[Table::code(y) as usize] as f32, Table::nearest(y));
        }
    }
}
