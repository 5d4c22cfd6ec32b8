//! F32, F16 and BF16: no blocks, importance does not matter.

use half::bf16;

use super::lanes::{read_f16, write_f16};
use super::{Format, GgmlType};

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

/// Largest finite bf16, as an f32.
const BF16_MAX: f32 = f32::from_bits(0x7f7f_0000);

impl Format for F32 {
    fn ty(&self) -> GgmlType {
        GgmlType::F32
    }

    fn decode_rows(&self, bytes: &[u8], out: &mut [f32]) {
        for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
            *out = f32::from_le_bytes(*bytes);
        }
    }

    fn encode_rows(&self, values: &[f32], _: &[f32], bytes: &mut [u8]) {
        for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = finite(*value, f32::MAX).to_le_bytes();
        }
    }
}

impl Format for F16 {
    fn ty(&self) -> GgmlType {
        GgmlType::F16
    }

    fn decode_rows(&self, bytes: &[u8], out: &mut [f32]) {
        for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
            *out = read_f16(*bytes);
        }
    }

    fn encode_rows(&self, values: &[f32], _: &[f32], bytes: &mut [u8]) {
        for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = write_f16(finite(*value, f32::MAX));
        }
    }
}

impl Format for Bf16 {
    fn ty(&self) -> GgmlType {
        GgmlType::BF16
    }

    fn decode_rows(&self, bytes: &[u8], out: &mut [f32]) {
        for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
        }
    }

    fn encode_rows(&self, values: &[f32], _: &[f32], bytes: &mut [u8]) {
        for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = bf16::from_f32(finite(*value, BF16_MAX)).to_le_bytes();
        }
    }
}

/// NaN becomes zero, what is beyond `largest` saturates.
fn finite(value: f32, largest: f32) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(-largest, largest) }
}
