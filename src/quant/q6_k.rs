//! Q6_K: 256 weights in 16 sub-blocks of 16, `d * scale * (code - 32)`.

use super::GgmlType;
use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, map, read_f16, small_integer, write_f16};
use super::recode::Stepped;
use super::refit::{Scaled, turn_half, turn_integer};
use super::search::{Grid, Integers, level_codes};
use super::super_block::{SymmetricPlan, anchors, symmetric};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    /// Bits 0 to 3: byte `l` of each half holds weights `l` (low nibble) and `l + 64` (high nibble) of 128.
    low: [[u8; 64]; 2],
    /// Bits 4 and 5: byte `l` of each half holds weights `l`, `l + 32`, `l + 64`, `l + 96` of 128.
    high: [[u8; 32]; 2],
    /// Signed.
    scales: [u8; 16],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == 210);

pub(super) struct Q6K;

const PLAN: SymmetricPlan = SymmetricPlan {
    front: Grid { first: -38.5, step: 0.75, count: 18 },
    back: Grid { first: 37.25, step: -0.75, count: 18 },
    alternations: 1,
    anchors: anchors(-128.0, 127.0, 2.0),
    window: 1,
};

impl BlockFormat for Q6K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    const GROUP: usize = 1;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (k, out) in out.chunks_exact_mut(32).enumerate() {
            let (low, high) = (&block.low[k / 4], &block.high[k / 4]);
            let k_half = k % 4;
            for (s, out) in out.chunks_exact_mut(16).enumerate() {
                let step = d * (block.scales[2 * k + s] as i8) as f32;
                for (l, out) in out.iter_mut().enumerate() {
                    let l = 16 * s + l;
                    let nibble = low[l + 32 * (k_half % 2)] >> (4 * (k_half / 2)) & 15;
                    let code = nibble | (high[l] >> (2 * k_half) & 3) << 4;
                    *out = step * (code as i32 - 32) as f32;
                }
            }
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<16>::load(rows, first * LANES, LANES);
        let fit = symmetric::<Integers<-32, 31>, Integers<-128, 127>, 16>(&tile, LANES, &PLAN);
        let codes = level_codes::<Integers<-32, 31>, 16>(&tile, &map(|i| fit.d[i] * fit.integer[i]));
        let (d, scales) = (write_f16(fit.d[0]), fit.integer.map(small_integer));
        let mut block = Block { low: [[0; 64]; 2], high: [[0; 32]; 2], scales, d };
        Self::set_codes(&mut block, codes.as_flattened());
        blocks[0] = block;
    }
}

impl Scaled for Q6K {
    const SUB: usize = 16;
    const SCALES: usize = 17;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        if scale == 0 {
            return turn_half(&mut block.d, by);
        }
        let integer = &mut block.scales[scale - 1];
        let (after, moved) = turn_integer(i32::from(*integer as i8), by, (-128, 127));
        *integer = after as u8;
        moved
    }
}

impl Stepped for Q6K {
    type Levels = Integers<-32, 31>;

    fn step(block: &Block, sub: usize) -> (f32, f32) {
        (read_f16(block.d) * (block.scales[sub] as i8) as f32, 0.0)
    }

    #[inline(always)]
    fn set_codes(block: &mut Block, codes: &[u8]) {
        (block.low, block.high) = ([[0; 64]; 2], [[0; 32]; 2]);
        for (s, codes) in codes.as_chunks::<16>().0.iter().enumerate() {
            let (k, start) = (s / 2, 16 * (s % 2));
            let k_half = k % 4;
            for (l, code) in codes.iter().enumerate() {
                let l = start + l;
                block.low[k / 4][l + 32 * (k_half % 2)] |= (code & 15) << (4 * (k_half / 2));
                block.high[k / 4][l] |= (code >> 4) << (2 * k_half);
            }
        }
    }
}
