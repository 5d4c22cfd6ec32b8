//! Q3_K: 256 weights in 16 sub-blocks of 16, `d * (scale - 32) * (code - 4)`.

use super::GgmlType;
use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, map, read_f16, small_integer, write_f16};
use super::recode::Stepped;
use super::refit::{Scaled, turn_bits, turn_half};
use super::search::{Grid, Integers, level_codes};
use super::super_block::{SymmetricPlan, anchors, symmetric};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    /// Bit 2 of the codes: bit `k` of byte `l` belongs to weight `32 k + l`.
    high: [u8; 32],
    /// Bits 0 and 1: byte `l` of each half holds weights `l`, `l + 32`, `l + 64`, `l + 96` of 128.
    low: [[u8; 32]; 2],
    /// Bits 0 to 3 of scales `j` and `j + 8` in byte `j`, then bits 4 and 5 of scales `j`, `j + 4`, `j + 8`, `j + 12`.
    scales: [u8; 12],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == 110);

pub(super) struct Q3K;

const PLAN: SymmetricPlan = SymmetricPlan {
    front: Grid { first: -12.0, step: 0.5, count: 21 },
    back: Grid { first: 9.0, step: -0.375, count: 21 },
    alternations: 1,
    anchors: anchors(-32.0, 31.0, 1.0),
    window: 1,
};

impl BlockFormat for Q3K {
    const TYPE: GgmlType = GgmlType::Q3_K;
    const GROUP: usize = 1;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        let scales = unpack_scales(&block.scales);
        for (k, out) in out.chunks_exact_mut(32).enumerate() {
            let low = &block.low[k / 4];
            for (s, out) in out.chunks_exact_mut(16).enumerate() {
                let step = d * (scales[2 * k + s] as i32 - 32) as f32;
                for (l, out) in out.iter_mut().enumerate() {
                    let l = 16 * s + l;
                    let code = (low[l] >> (2 * (k % 4)) & 3) | (block.high[l] >> k & 1) << 2;
                    *out = step * (code as i32 - 4) as f32;
                }
            }
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<16>::load(rows, first * LANES, LANES);
        let fit = symmetric::<Integers<-4, 3>, Integers<-32, 31>, 16>(&tile, LANES, &PLAN);
        let codes = level_codes::<Integers<-4, 3>, 16>(&tile, &map(|i| fit.d[i] * fit.integer[i]));
        let scales = fit.integer.map(|scale| small_integer(scale + 32.0));
        let mut block =
            Block { high: [0; 32], low: [[0; 32]; 2], scales: pack_scales(&scales), d: write_f16(fit.d[0]) };
        Self::set_codes(&mut block, codes.as_flattened());
        blocks[0] = block;
    }
}

impl Scaled for Q3K {
    const SUB: usize = 16;
    const SCALES: usize = 17;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        if scale == 0 {
            return turn_half(&mut block.d, by);
        }
        let mut scales = unpack_scales(&block.scales);
        let moved = turn_bits(&mut scales[scale - 1], (0, 6), by);
        block.scales = pack_scales(&scales);
        moved
    }
}

impl Stepped for Q3K {
    type Levels = Integers<-4, 3>;

    fn step(block: &Block, sub: usize) -> (f32, f32) {
        (read_f16(block.d) * (unpack_scales(&block.scales)[sub] as i32 - 32) as f32, 0.0)
    }

    #[inline(always)]
    fn set_codes(block: &mut Block, codes: &[u8]) {
        (block.high, block.low) = ([0; 32], [[0; 32]; 2]);
        for (s, codes) in codes.as_chunks::<16>().0.iter().enumerate() {
            let (k, start) = (s / 2, 16 * (s % 2));
            for (l, code) in codes.iter().enumerate() {
                block.low[k / 4][start + l] |= (code & 3) << (2 * (k % 4));
                block.high[start + l] |= (code >> 2) << k;
            }
        }
    }
}

#[inline(always)]
fn pack_scales(scales: &[u8; LANES]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (j, scale) in scales.iter().enumerate() {
        bytes[j % 8] |= (scale & 15) << (4 * (j / 8));
        bytes[8 + j % 4] |= (scale >> 4) << (2 * (j / 4));
    }
    bytes
}

#[inline(always)]
fn unpack_scales(bytes: &[u8; 12]) -> [u8; 16] {
    std::array::from_fn(|j| (bytes[j % 8] >> (4 * (j / 8)) & 15) | (bytes[8 + j % 4] >> (2 * (j / 4)) & 3) << 4)
}
