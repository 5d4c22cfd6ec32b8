//! Q2_0: 64 weights, `d * (code - 1)`. Builds of llama.cpp older than the type reject it.

use super::GgmlType;
use super::codec::BlockFormat;
use super::lanes::{LANES, Rows, SubBlocks, f16_bits, f16_value, map, read_f16};
use super::search::{Integers, level_codes};
use super::ternary;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    d: [u8; 2],
    /// Four weights in a byte, the first lowest.
    codes: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 18);

pub(super) struct Q2_0;

type Levels = Integers<-1, 2>;

impl BlockFormat for Q2_0 {
    const TYPE: GgmlType = GgmlType::Q2_0;
    const GROUP: usize = LANES;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let d = read_f16(block.d);
        for (n, out) in out.iter_mut().enumerate() {
            *out = ((block.codes[n / 4] >> (n % 4 * 2) & 3) as i32 - 1) as f32 * d;
        }
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<64>::load(rows, first, 1);
        let d = ternary::scale::<Levels, true, 64>(&tile).map(f16_bits);
        let codes = level_codes::<Levels, 64>(&tile, &map(|i| f16_value(d[i])));
        for (i, block) in blocks.iter_mut().enumerate() {
            let codes = codes[i].as_chunks::<4>().0;
            block.d = d[i].to_le_bytes();
            block.codes = std::array::from_fn(|m| codes[m][0] | codes[m][1] << 2 | codes[m][2] << 4 | codes[m][3] << 6);
        }
    }
}
