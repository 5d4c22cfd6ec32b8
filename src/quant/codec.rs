//! From rows to blocks and back: the loops that every block format shares, compiled for each instruction set.

use bytemuck::Pod;
use pulp::{Arch, Simd, WithSimd};

use super::lanes::Rows;
use super::{Format, GgmlType};

/// A format made of blocks of fixed size.
pub(super) trait BlockFormat: Sync {
    const TYPE: GgmlType;
    /// The bytes of a block, in file order and without alignment.
    type Block: Pod;
    /// Blocks that fill the lanes of a tile.
    const GROUP: usize;

    /// Decodes one block into as many floats as it holds.
    fn decode(block: &Self::Block, out: &mut [f32]);

    /// Encodes up to [`Self::GROUP`] blocks from block number `first` of `rows` on.
    fn encode(rows: Rows, first: usize, blocks: &mut [Self::Block]);
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
    fn with_simd<S: Simd>(self, _: S) {
        for (group, blocks) in self.blocks.chunks_mut(F::GROUP).enumerate() {
            F::encode(self.rows, group * F::GROUP, blocks);
        }
    }
}
