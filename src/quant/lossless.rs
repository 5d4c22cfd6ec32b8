//! Weights that already lie on the grid of a type, as those of models trained in it do, and so are stored exactly.

use super::{GgmlType, format};

/// Blocks that are checked at a time, so that other weights are turned down early.
const BLOCKS: usize = 16;

/// Whether `values`, whole rows, can be stored in type `ty` without any loss: what is encoded decodes to the same numbers.
/// Exact for types with independent scales (`Q8_0`, `Q4_0`, `Q5_0`, `IQ4_NL`, `MXFP4`, `NVFP4`, `TQ1_0`, `TQ2_0`, `Q1_0`, `Q2_0`
/// and plain numbers); for the others true is right, but false may be wrong.
pub fn on_grid(ty: GgmlType, values: &[f32]) -> bool {
    let Some(format) = format(ty) else { return false };
    let block = ty.block_len();
    if !values.len().is_multiple_of(block) {
        return false;
    }
    let importance = vec![1.0; block];
    let mut bytes = vec![0; BLOCKS * ty.block_bytes()];
    let mut decoded = vec![0.0; BLOCKS * block];
    values.chunks(BLOCKS * block).all(|values| {
        let bytes = &mut bytes[..values.len() / block * ty.block_bytes()];
        let decoded = &mut decoded[..values.len()];
        format.encode_rows(values, &importance, bytes);
        format.decode_rows(bytes, decoded);
        values == decoded
    })
}
