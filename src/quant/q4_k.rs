//! Q4_K: 256 weights in 8 sub-blocks of 32, `d * scale * code - d_min * min`.

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
    d: [u8; 2],
    d_min: [u8; 2],
    /// See [`pack_scales`].
    scales: [u8; 12],
    /// Byte `l` of chunk `c`: weights `64 c + l` low, `64 c + l + 32` high.
    codes: [[u8; 32]; 4],
}

const _: () = assert!(size_of::<Block>() == 144);

pub(super) struct Q4K;

const TOP: f32 = 15.0;
const PLAN: AffinePlan = AffinePlan {
    top: TOP,
    spreads: Grid { first: -3.0, step: 1.0, count: 6 },
    shifts: Grid { first: -0.5, step: 0.25, count: 10 },
    alternations: 1,
    anchors: anchors(63.0, 48.0, -1.0),
    window: 1,
};

impl BlockFormat for Q4K {
    const TYPE: GgmlType = GgmlType::Q4_K;
    const GROUP: usize = LANES / 8;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let (d, d_min) = (read_f16(block.d), read_f16(block.d_min));
        let (scales, mins) = unpack_scales(&block.scales);
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let (step, min) = (d * scales[b] as f32, d_min * mins[b] as f32);
            for (out, code) in out.iter_mut().zip(block.codes[b / 2]) {
                *out = step * (code >> (4 * (b % 2)) & 15) as f32 - min;
            }
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<32>::load(rows, first * 8, 8);
        let fit = affine::<Integers<0, 63>, 32>(&tile, 8, &PLAN);
        let codes = affine_codes(&tile, &map(|i| fit.d[i] * fit.scale[i]), &map(|i| -(fit.d_min[i] * fit.min[i])), TOP);
        for (block, lanes) in blocks.iter_mut().zip([0, 8]) {
            block.d = write_f16(fit.d[lanes]);
            block.d_min = write_f16(fit.d_min[lanes]);
            block.scales = pack_scales(&fit.scale[lanes..lanes + 8], &fit.min[lanes..lanes + 8]);
            Self::set_codes(block, codes[lanes..lanes + 8].as_flattened());
        }
    }
}

impl Scaled for Q4K {
    const SUB: usize = 32;
    const SCALES: usize = 18;
    const WHOLE: usize = 2;

    fn turn(block: &mut Block, scale: usize, by: f32) -> f32 {
        match scale {
            0 => turn_half(&mut block.d, by),
            1 => turn_half(&mut block.d_min, by),
            _ => turn_scale(&mut block.scales, scale - 2, by),
        }
    }
}

impl Stepped for Q4K {
    type Levels = Integers<0, 15>;

    fn step(block: &Block, sub: usize) -> (f32, f32) {
        let (scales, mins) = unpack_scales(&block.scales);
        (read_f16(block.d) * scales[sub] as f32, -(read_f16(block.d_min) * mins[sub] as f32))
    }

    #[inline(always)]
    fn set_codes(block: &mut Block, codes: &[u8]) {
        for (bytes, codes) in block.codes.iter_mut().zip(codes.as_chunks::<64>().0) {
            *bytes = std::array::from_fn(|l| codes[l] | codes[l + 32] << 4);
        }
    }
}

/// Packs 8 scales and 8 mins of 6 bits: the first four of each in bytes 0 to 7, and of the others the low nibbles in bytes
/// 8 to 11, the two high bits on top of the first eight bytes.
#[inline(always)]
pub(super) fn pack_scales(scales: &[f32], mins: &[f32]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for j in 0..4 {
        let (scale, min) = (small_integer(scales[j + 4]), small_integer(mins[j + 4]));
        bytes[j] = small_integer(scales[j]) | (scale >> 4) << 6;
        bytes[j + 4] = small_integer(mins[j]) | (min >> 4) << 6;
        bytes[j + 8] = (scale & 15) | min << 4;
    }
    bytes
}

/// Moves one of the 8 scales, or of the 8 mins after them.
#[inline(always)]
pub(super) fn turn_scale(bytes: &mut [u8; 12], number: usize, by: f32) -> f32 {
    let (mut scales, mut mins) = unpack_scales(bytes);
    let moved = turn_bits(if number < 8 { &mut scales[number] } else { &mut mins[number - 8] }, (0, 6), by);
    *bytes = pack_scales(&scales.map(f32::from), &mins.map(f32::from));
    moved
}

/// The scales and mins packed by [`pack_scales`].
#[inline(always)]
pub(super) fn unpack_scales(bytes: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        (scales[j], mins[j]) = (bytes[j] & 63, bytes[j + 4] & 63);
        scales[j + 4] = (bytes[j + 8] & 15) | (bytes[j] >> 6) << 4;
        mins[j + 4] = (bytes[j + 8] >> 4) | (bytes[j + 4] >> 6) << 4;
    }
    (scales, mins)
}
