//! Q2_K: 256 weights in 16 sub-blocks of 16, `d * scale * code - d_min * min`.

use super::GgmlType;
use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, map, read_f16, small_integer, write_f16};
use super::recode::Stepped;
use super::refit::{Scaled, turn_bits, turn_half};
use super::search::{Grid, Integers, affine_codes};
use super::super_block::{AffinePlan, affine, anchors};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    /// Scale low, min high, of each sub-block.
    scales: [u8; 16],
    /// Byte `l` of each half holds weights `l`, `l + 32`, `l + 64`, `l + 96` of 128.
    codes: [[u8; 32]; 2],
    d: [u8; 2],
    d_min: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == 84);

pub(super) struct Q2K;

const TOP: f32 = 3.0;
const PLAN: AffinePlan = AffinePlan {
    top: TOP,
    spreads: Grid { first: -1.0, step: 0.5, count: 8 },
    shifts: Grid { first: 0.0, step: 0.2, count: 6 },
    alternations: 1,
    anchors: anchors(16.0, 8.5, -0.5),
    window: 1,
};

impl BlockFormat for Q2K {
    const TYPE: GgmlType = GgmlType::Q2_K;
    const GROUP: usize = 1;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let (d, d_min) = (read_f16(block.d), read_f16(block.d_min));
        for (k, out) in out.chunks_exact_mut(32).enumerate() {
            let codes = &block.codes[k / 4];
            for (s, out) in out.chunks_exact_mut(16).enumerate() {
                let scale = block.scales[2 * k + s];
                let (step, min) = (d * (scale & 15) as f32, d_min * (scale >> 4) as f32);
                for (l, out) in out.iter_mut().enumerate() {
                    *out = step * (codes[16 * s + l] >> (2 * (k % 4)) & 3) as f32 - min;
                }
            }
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<16>::load(rows, first * LANES, LANES);
        let fit = affine::<Integers<0, 15>, 16>(&tile, LANES, &PLAN);
        let codes = affine_codes(&tile, &map(|i| fit.d[i] * fit.scale[i]), &map(|i| -(fit.d_min[i] * fit.min[i])), TOP);
        blocks[0] = Block {
            scales: std::array::from_fn(|i| small_integer(fit.scale[i]) | small_integer(fit.min[i]) << 4),
            codes: pack(codes.as_flattened()),
            d: write_f16(fit.d[0]),
            d_min: write_f16(fit.d_min[0]),
        };
    }
}

#[inline(always)]
fn pack(codes: &[u8]) -> [[u8; 32]; 2] {
    let mut bytes = [[0; 32]; 2];
    for (s, codes) in codes.as_chunks::<16>().0.iter().enumerate() {
        let (k, start) = (s / 2, 16 * (s % 2));
        for (l, code) in codes.iter().enumerate() {
            bytes[k / 4][start + l] |= code << (2 * (k % 4));
        }
    }
    bytes
}

impl Scaled for Q2K {
    const SUB: usize = 16;
    const SCALES: usize = 34;
    const WHOLE: usize = 2;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        match scale {
            0 => turn_half(&mut block.d, by),
            1 => turn_half(&mut block.d_min, by),
            2..18 => turn_bits(&mut block.scales[scale - 2], (0, 4), by),
            _ => turn_bits(&mut block.scales[scale - 18], (4, 4), by),
        }
    }
}

impl Stepped for Q2K {
    type Levels = Integers<0, 3>;

    fn step(block: &Block, sub: usize) -> (f32, f32) {
        let scale = block.scales[sub];
        (read_f16(block.d) * (scale & 15) as f32, -(read_f16(block.d_min) * (scale >> 4) as f32))
    }

    fn set_codes(block: &mut Block, codes: &[u8]) {
        block.codes = pack(codes);
    }
}
