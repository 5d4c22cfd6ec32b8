//! Q5_K: 256 weights in 8 sub-blocks of 32, `d * scale * code - d_min * min`.

use super::GgmlType;
use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, map, read_f16, write_f16};
use super::q4_k::{pack_scales, turn_scale, unpack_scales};
use super::recode::Stepped;
use super::refit::{Scaled, turn_half};
use super::search::{Grid, Integers, affine_codes};
use super::super_block::{AffinePlan, affine, anchors};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    d_min: [u8; 2],
    /// As in Q4_K.
    scales: [u8; 12],
    /// Bit 4 of the codes: bit `b` of byte `l` belongs to weight `32 b + l`.
    high: [u8; 32],
    /// Byte `l` of chunk `c`: weights `64 c + l` low, `64 c + l + 32` high.
    codes: [[u8; 32]; 4],
}

const _: () = assert!(size_of::<Block>() == 176);

pub(super) struct Q5K;

const TOP: f32 = 31.0;
const PLAN: AffinePlan = AffinePlan {
    top: TOP,
    spreads: Grid { first: -3.0, step: 1.0, count: 6 },
    shifts: Grid { first: -0.5, step: 0.25, count: 10 },
    alternations: 1,
    anchors: anchors(63.0, 48.0, -1.0),
    window: 1,
};

impl BlockFormat for Q5K {
    const TYPE: GgmlType = GgmlType::Q5_K;
    const GROUP: usize = LANES / 8;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let (d, d_min) = (read_f16(block.d), read_f16(block.d_min));
        let (scales, mins) = unpack_scales(&block.scales);
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let (step, min) = (d * scales[b] as f32, d_min * mins[b] as f32);
            for (l, out) in out.iter_mut().enumerate() {
                let code = (block.codes[b / 2][l] >> (4 * (b % 2)) & 15) | (block.high[l] >> b & 1) << 4;
                *out = step * code as f32 - min;
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

impl Scaled for Q5K {
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

impl Stepped for Q5K {
    type Levels = Integers<0, 31>;

    fn step(block: &Block, sub: usize) -> (f32, f32) {
        let (scales, mins) = unpack_scales(&block.scales);
        (read_f16(block.d) * scales[sub] as f32, -(read_f16(block.d_min) * mins[sub] as f32))
    }

    #[inline(always)]
    fn set_codes(block: &mut Block, codes: &[u8]) {
        let codes = codes.as_chunks::<32>().0;
        // one byte after the other: this order vectorizes
        block.high = std::array::from_fn(|l| (0..8).fold(0, |bits, b| bits | (codes[b][l] >> 4) << b));
        for (c, bytes) in block.codes.iter_mut().enumerate() {
            let (even, odd) = (&codes[2 * c], &codes[2 * c + 1]);
            *bytes = std::array::from_fn(|l| (even[l] & 15) | odd[l] << 4);
        }
    }
}
