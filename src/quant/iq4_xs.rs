//! IQ4_XS: 256 weights in 8 sub-blocks of 32, `d * (scale - 32) * level` with the levels of IQ4_NL.

use super::codec::BlockFormat;
use super::iq4_nl::{LEVELS, Table};
use super::lanes::{LANES, Rows, SubBlocks, map, read_f16, small_integer, write_f16};
use super::recode::Stepped;
use super::refit::{Scaled, turn_half, turn_integer};
use super::search::{Grid, Integers, level_codes};
use super::super_block::{SymmetricPlan, anchors, symmetric};
use super::{GgmlType, nibbles};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    /// Bits 4 and 5 of the scale of sub-block `b` in bits `2b` and `2b + 1`.
    scales_high: [u8; 2],
    /// Low nibbles of the scales, two per byte.
    scales_low: [u8; 4],
    /// Each sub-block as in IQ4_NL.
    codes: [[u8; 16]; 8],
}

const _: () = assert!(size_of::<Block>() == 136);

pub(super) struct Iq4Xs;

const PLAN: SymmetricPlan = SymmetricPlan {
    front: Grid { first: -190.0, step: 6.0, count: 19 },
    back: Grid { first: 170.0, step: -6.0, count: 18 },
    alternations: 1,
    anchors: anchors(-32.0, 31.0, 1.0),
    window: 1,
};

impl BlockFormat for Iq4Xs {
    const TYPE: GgmlType = GgmlType::IQ4_XS;
    const GROUP: usize = LANES / 8;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let step = d * scale(block, b);
            for (out, code) in out.iter_mut().zip(nibbles::unpack(&block.codes[b])) {
                *out = step * LEVELS[code as usize] as f32;
            }
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<32>::load(rows, first * 8, 8);
        let fit = symmetric::<Table, Integers<-32, 31>, 32>(&tile, 8, &PLAN);
        let codes = level_codes::<Table, 32>(&tile, &map(|i| fit.d[i] * fit.integer[i]));
        for (block, lanes) in blocks.iter_mut().zip([0, 8]) {
            let mut high = 0u16;
            block.d = write_f16(fit.d[lanes]);
            block.scales_low = [0; 4];
            for b in 0..8 {
                let scale = small_integer(fit.integer[lanes + b] + 32.0);
                block.scales_low[b / 2] |= (scale & 15) << (4 * (b % 2));
                high |= ((scale >> 4) as u16) << (2 * b);
            }
            block.scales_high = high.to_le_bytes();
            Self::set_codes(block, codes[lanes..lanes + 8].as_flattened());
        }
    }
}

impl Scaled for Iq4Xs {
    const SUB: usize = 32;
    const SCALES: usize = 9;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        if scale == 0 {
            return turn_half(&mut block.d, by);
        }
        let b = scale - 1;
        let (after, moved) = turn_integer(self::scale(block, b) as i32, by, (-32, 31));
        let code = (after + 32) as u8;
        let high = &mut block.scales_high[b / 4];
        *high = *high & !(3 << (2 * (b % 4))) | (code >> 4) << (2 * (b % 4));
        let low = &mut block.scales_low[b / 2];
        *low = *low & !(15 << (4 * (b % 2))) | (code & 15) << (4 * (b % 2));
        moved
    }
}

impl Stepped for Iq4Xs {
    type Levels = Table;

    fn step(block: &Block, sub: usize) -> (f32, f32) {
        (read_f16(block.d) * scale(block, sub), 0.0)
    }

    #[inline(always)]
    fn set_codes(block: &mut Block, codes: &[u8]) {
        for (bytes, codes) in block.codes.iter_mut().zip(codes.as_chunks::<32>().0) {
            *bytes = nibbles::pack(codes);
        }
    }
}

/// The integer scale of a sub-block.
#[inline(always)]
fn scale(block: &Block, sub: usize) -> f32 {
    let low = block.scales_low[sub / 2] >> (4 * (sub % 2)) & 15;
    let high = u16::from_le_bytes(block.scales_high) >> (2 * sub) & 3;
    (low as i32 + 16 * high as i32 - 32) as f32
}
