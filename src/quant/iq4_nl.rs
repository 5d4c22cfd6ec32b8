//! IQ4_NL: 32 weights, `d * level` with 16 unevenly spaced levels.

use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, map, read_f16, round_f16, write_f16};
use super::recode::Stepped;
use super::refit::{Scaled, turn_half};
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

/// The levels of IQ4_NL, nearest by value.
pub(super) struct Table;

impl Levels for Table {
    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        let mut level = LEVELS[0] as f32;
        for k in 0..15 {
            let (low, high) = (LEVELS[k] as f32, LEVELS[k + 1] as f32);
            level += if y >= 0.5 * (low + high) { high - low } else { 0.0 };
        }
        level
    }

    #[inline(always)]
    fn code(y: f32) -> u8 {
        let mut code = 0;
        for pair in LEVELS.windows(2) {
            code += u8::from(y >= 0.5 * (pair[0] as f32 + pair[1] as f32));
        }
        code
    }
}

/// Levels to which the extreme weight is sent, far beyond the last one in case it matters little.
const FRONT: Grid = Grid { first: -190.0, step: 6.0, count: 19 };
const BACK: Grid = Grid { first: 170.0, step: -6.0, count: 18 };

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

    fn exact(values: &[f32], precision: super::lossless::Precision) -> Option<Block> {
        let (levels, scales) = (LEVELS.into_iter().map(f32::from), super::lossless::halves(precision));
        let (d, codes) = super::lossless::scaled::<Table, 32, _>(values, precision, levels, scales)?;
        Some(Block { d: write_f16(d), codes: nibbles::pack(&codes) })
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<32>::load(rows, first, 1);
        let extreme = extremes(&tile.x);
        let mut fit = ScaleFit::NONE;
        fit.try_anchors::<Table, 32>(&tile, &extreme, FRONT);
        fit.try_anchors::<Table, 32>(&tile, &extreme, BACK);
        fit.alternate::<Table, 32>(&tile, 1);
        let codes = level_codes::<Table, 32>(&tile, &map(|i| round_f16(fit.scale[i])));
        for (i, block) in blocks.iter_mut().enumerate() {
            *block = Block { d: write_f16(fit.scale[i]), codes: nibbles::pack(&codes[i]) };
        }
    }
}

impl Scaled for Iq4Nl {
    const SUB: usize = 32;
    const SCALES: usize = 1;

    fn turn(block: &mut Block, _: usize, by: f32) -> f32 {
        turn_half(&mut block.d, by)
    }
}

impl Stepped for Iq4Nl {
    type Levels = Table;

    fn step(block: &Block, _: usize) -> (f32, f32) {
        (read_f16(block.d), 0.0)
    }

    fn set_codes(block: &mut Block, codes: &[u8]) {
        block.codes = nibbles::pack(codes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_level_is_found() {
        for step in -6000..=6000 {
            let y = step as f32 / 32.0;
            let nearest = LEVELS.iter().map(|&level| (level as f32 - y).abs()).fold(f32::INFINITY, f32::min);
            assert_eq!((Table::nearest(y) - y).abs(), nearest, "{y}");
            assert_eq!(LEVELS[Table::code(y) as usize] as f32, Table::nearest(y));
        }
    }
}
