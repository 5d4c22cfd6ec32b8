//! TQ2_0: 256 weights, `d * (code - 1)`. Made for ternary models; code 3 is a level like the others.

use super::GgmlType;
use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, f16_bits, f16_value, map, read_f16};
use super::search::{Integers, level_codes};
use super::ternary;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    /// Each half for 128 weights: byte `m` holds weights `m`, `m + 32`, `m + 64`, `m + 96`, the first lowest.
    codes: [[u8; 32]; 2],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == 66);

pub(super) struct Tq2_0;

type Levels = Integers<-1, 2>;

impl BlockFormat for Tq2_0 {
    const TYPE: GgmlType = GgmlType::TQ2_0;
    const GROUP: usize = LANES;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (out, codes) in out.chunks_exact_mut(128).zip(&block.codes) {
            for (n, out) in out.iter_mut().enumerate() {
                *out = ((codes[n % 32] >> (n / 32 * 2) & 3) as i32 - 1) as f32 * d;
            }
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<256>::load(rows, first, 1);
        let d = ternary::scale::<Levels, true, 256>(&tile).map(f16_bits);
        let codes = level_codes::<Levels, 256>(&tile, &map(|i| f16_value(d[i])));
        for (i, block) in blocks.iter_mut().enumerate() {
            block.d = d[i].to_le_bytes();
            for (half, bytes) in block.codes.iter_mut().enumerate() {
                let codes = &codes[i][128 * half..];
                *bytes =
                    std::array::from_fn(|m| codes[m] | codes[m + 32] << 2 | codes[m + 64] << 4 | codes[m + 96] << 6);
            }
        }
    }
}
