//! Stored bytes to f32.

use anyhow::{Result, bail};
use half::{bf16, f16};

use crate::quant::GgmlType;

/// Decodes one row of `bytes` into `out`. Fails on a type that has no decoder.
pub(super) fn decode_row(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    match ty {
        GgmlType::F32 => decode_with(bytes, out, f32::from_le_bytes),
        GgmlType::F16 => decode_with(bytes, out, |word| f16::from_le_bytes(word).to_f32()),
        GgmlType::BF16 => decode_with(bytes, out, |word| bf16::from_le_bytes(word).to_f32()),
        _ => decode_blocks(ty, bytes, out)?,
    }
    Ok(())
}

fn decode_with<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let (words, rest) = bytes.as_chunks::<N>();
    debug_assert!(rest.is_empty() && words.len() == out.len());
    for (slot, word) in out.iter_mut().zip(words) {
        *slot = value(*word);
    }
}

/// Decodes a row of a block format.
fn decode_blocks(ty: GgmlType, _bytes: &[u8], _out: &mut [f32]) -> Result<()> {
    bail!("there is no decoder for the tensor type: `{ty}`")
}
