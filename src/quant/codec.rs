//! From rows to blocks and back: the loops that every block format shares, compiled for each instruction set.

use bytemuck::{Pod, Zeroable};
use pulp::{Arch, Simd, WithSimd};

use super::lanes::Rows;
use super::lossless::Precision;
use super::{Format, GgmlType};

/// Weights of the largest block.
const LARGEST_BLOCK: usize = 256;

/// A format made of blocks of fixed size.
pub(super) trait BlockFormat: Sync {
    const TYPE: GgmlType;
    /// The bytes of a block, in file order and without alignment.
    type Block: Pod;
    /// Blocks that fill the lanes of a tile.
    const GROUP: usize;

    /// Decodes one block into as many floats as it holds.
    fn decode(block: &Self::Block, out: &mut [f32]);

    /// The block that holds exactly these values, see [`super::lossless`]. By default what the search finds, if it is exact.
    fn exact(values: &[f32], precision: Precision) -> Option<Self::Block> {
        let mut block = Self::Block::zeroed();
        let rows = Rows { values, importance: &[1.0; LARGEST_BLOCK][..values.len()] };
        Self::encode(rows, 0, std::slice::from_mut(&mut block));
        let mut decoded = [0.0; LARGEST_BLOCK];
        Self::decode(&block, &mut decoded[..values.len()]);
        precision.holds(&decoded[..values.len()], values).then_some(block)
    }

    /// Encodes up to [`Self::GROUP`] blocks from block number `first` of `rows` on.
    fn encode(rows: Rows, first: usize, blocks: &mut [Self::Block]);

    /// The same for formats that name vector instructions rather than leave them to the compiler.
    #[inline(always)]
    fn encode_with<S: Simd>(_: S, rows: Rows, first: usize, blocks: &mut [Self::Block]) {
        Self::encode(rows, first, blocks);
    }
}

/// Gives a [`BlockFormat`] the interface of [`Format`].
pub(super) struct Blocks<F>(pub F);

impl<F: BlockFormat> Format for Blocks<F> {
    fn ty(&self) -> GgmlType {
        F::TYPE
    }

    fn decode_rows(&self, bytes: &[u8], out: &mut [f32]) {
        Arch::new().dispatch(Decode::<F> { blocks: bytemuck::cast_slice(bytes), out });
    }

    fn encode_rows(&self, values: &[f32], importance: &[f32], bytes: &mut [u8]) {
        let rows = Rows { values, importance };
        Arch::new().dispatch(Encode::<F> { rows, blocks: bytemuck::cast_slice_mut(bytes) });
    }

    fn encode_exactly(&self, values: &[f32], precision: Precision, bytes: &mut [u8]) -> bool {
        let blocks: &mut [F::Block] = bytemuck::cast_slice_mut(bytes);
        blocks.iter_mut().zip(values.chunks_exact(F::TYPE.block_len())).all(|(block, values)| {
            let exact = F::exact(values, precision);
            exact.inspect(|exact| *block = *exact).is_some()
        })
    }
}

struct Decode<'a, F: BlockFormat> {
    blocks: &'a [F::Block],
    out: &'a mut [f32],
}

impl<F: BlockFormat> WithSimd for Decode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (block, out) in self.blocks.iter().zip(self.out.chunks_exact_mut(F::TYPE.block_len())) {
            F::decode(block, out);
        }
    }
}

struct Encode<'a, F: BlockFormat> {
    rows: Rows<'a>,
    blocks: &'a mut [F::Block],
}

impl<F: BlockFormat> WithSimd for Encode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (group, blocks) in self.blocks.chunks_mut(F::GROUP).enumerate() {
            F::encode_with(simd, self.rows, group * F::GROUP, blocks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::iq1_m::Iq1M;
    use crate::quant::iq1_s::Iq1S;
    use crate::quant::iq2_s::Iq2S;
    use crate::quant::iq2_xxs::Iq2Xxs;
    use crate::quant::iq3_xxs::Iq3Xxs;
    use crate::quant::nvfp4::Nvfp4;
    use crate::quant::tq1_0::Tq1_0;
    use crate::quant::tq2_0::Tq2_0;
    use crate::quant::{iq4_nl::Iq4Nl, q4_1::Q4_1, q4_k::Q4K, q6_k::Q6K, q8_0::Q8_0};

    fn encoded<F: BlockFormat>(simd: impl Simd, rows: Rows) -> Vec<u8> {
        let mut bytes = vec![0; F::TYPE.bytes_for(rows.values.len() as u64) as usize];
        simd.vectorize(Encode::<F> { rows, blocks: bytemuck::cast_slice_mut(&mut bytes) });
        bytes
    }

    fn check<F: BlockFormat>(format: F, rows: Rows) {
        let scalar = encoded::<F>(pulp::Scalar, rows);
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V3::try_new() {
                assert!(encoded::<F>(simd, rows) == scalar, "{} with AVX2", F::TYPE);
            }
            if let Some(simd) = pulp::x86::V4::try_new() {
                assert!(encoded::<F>(simd, rows) == scalar, "{} with AVX-512", F::TYPE);
            }
        }
        let mut detected = vec![0; scalar.len()];
        Blocks(format).encode_rows(rows.values, rows.importance, &mut detected);
        assert!(detected == scalar, "{}", F::TYPE);
    }

    #[test]
    fn every_instruction_set_makes_the_same_bytes() {
        let wave = |i: usize| ((i * i) as f32 * 0.37).sin() * (1.0 + (i % 7) as f32);
        let values: Vec<f32> = (0..8 * 256).map(wave).collect();
        let importance: Vec<f32> = (0..256).map(|i| wave(i + 3).exp()).collect();
        let rows = Rows { values: &values, importance: &importance };
        check(Q8_0, rows);
        check(Q4_1, rows);
        check(Q4K, rows);
        check(Q6K, rows);
        check(Iq4Nl, rows);
        check(Iq1S, rows);
        check(Iq1M, rows);
        check(Iq2Xxs, rows);
        check(Iq2S, rows);
        check(Iq3Xxs, rows);
        check(Nvfp4, rows);
        check(Tq1_0, rows);
        check(Tq2_0, rows);
    }
}
