//! MXFP4: 32 four-bit floats and a power of two.

use super::codec::BlockFormat;
use super::lanes::{LANES, Lanes, Rows, SubBlocks, clamp, map};
use super::recode::Stepped;
use super::refit::Scaled;
use super::search::{level_codes, scale_error};
use super::{GgmlType, e2m1, nibbles};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Block {
    /// `2^(exponent - 127)` is the scale.
    exponent: u8,
    codes: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 17);

pub(super) struct Mxfp4;

/// Exponents tried, relative to the largest that does not clip. Weights on a grid are exact with that one: where the largest
/// is a lower level, all levels are also levels of a finer grid.
const OFFSETS: std::ops::RangeInclusive<i32> = -1..=1;

/// Exponents written: smaller scales are those of weights that are zero for every format, and their reciprocals overflow.
const EXPONENTS: (f32, f32) = (60.0, 254.0);

/// Half the scale, for doubled levels.
#[inline(always)]
fn half_scale(exponent: u8) -> f32 {
    let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (exponent as u32 - 1) << 23 };
    f32::from_bits(bits)
}

impl BlockFormat for Mxfp4 {
    const TYPE: GgmlType = GgmlType::MXFP4;
    const GROUP: usize = LANES;
    type Block = Block;

    #[inline(always)]
    fn decode(block: &Block, out: &mut [f32]) {
        let scale = half_scale(block.exponent);
        for (out, code) in out.iter_mut().zip(nibbles::unpack(&block.codes)) {
            *out = e2m1::level(code) * scale;
        }
    }

    fn exact(values: &[f32], precision: super::lossless::Precision) -> Option<Block> {
        // powers of two have no fraction bits
        let power = |half: f32| {
            Some(half).filter(|x| x.to_bits() & 0x007f_ffff == 0 && (1..254).contains(&(x.to_bits() >> 23)))
        };
        let levels = e2m1::anchors();
        let (half, codes) = super::lossless::scaled::<e2m1::Levels, 32, _>(values, precision, levels, power)?;
        let exponent = if half > 0.0 { (half.to_bits() >> 23) as u8 + 1 } else { 0 };
        Some(Block { exponent, codes: nibbles::pack(&codes) })
    }

    #[inline(always)]
    fn encode(rows: Rows, first: usize, blocks: &mut [Block]) {
        let tile = SubBlocks::<32>::load(rows, first, 1);
        let largest = e2m1::largest(&tile);
        // 2^exponent * 4 <= largest < 2^exponent * 8
        let base: Lanes = map(|i| (largest[i].to_bits() >> 23) as f32 - 2.0);
        let mut best = [0.0; LANES];
        let mut error = [f32::INFINITY; LANES];
        for offset in OFFSETS {
            let exponent = map(|i| clamp(base[i] + offset as f32, EXPONENTS.0, EXPONENTS.1));
            let trial = scale_error::<e2m1::Levels, 32>(&tile, &map(|i| half_scale(exponent[i] as u8)));
            for i in 0..LANES {
                let better = trial[i] < error[i];
                best[i] = if better { exponent[i] } else { best[i] };
                error[i] = if better { trial[i] } else { error[i] };
            }
        }
        let codes = level_codes::<e2m1::Levels, 32>(&tile, &map(|i| half_scale(best[i] as u8)));
        for (i, block) in blocks.iter_mut().enumerate() {
            *block = Block { exponent: best[i] as u8, codes: nibbles::pack(&codes[i]) };
        }
    }
}

impl Scaled for Mxfp4 {
    const SUB: usize = 32;
    const SCALES: usize = 0;

    /// Scales that are powers of two or small floats have few neighbours.
    fn turn(_: &mut Block, _: usize, _: f32) -> f32 {
        0.0
    }
}

impl Stepped for Mxfp4 {
    type Levels = e2m1::Levels;

    fn step(block: &Block, _: usize) -> (f32, f32) {
        (half_scale(block.exponent), 0.0)
    }

    fn set_codes(block: &mut Block, codes: &[u8]) {
        block.codes = nibbles::pack(codes);
    }
}
