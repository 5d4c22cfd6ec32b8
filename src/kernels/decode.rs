//! A quantized matrix as f32. Twin: [`crate::quant::decode`].

use std::ops::Range;

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};

use super::weight::{Weight, row_bytes};
use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device};
use crate::quant;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    first: u32,
    first_word: u32,
    pad: u32,
}

/// Writes the weights of `w` to `out` `[rows, cols]`, exactly as ggml decodes them.
///
/// # Errors
/// If the type cannot be decoded, `out` is too small, or on a GPU larger than a binding.
pub fn decode(dev: &Device, w: &Weight, out: &Buffer) -> Result<()> {
    decode_rows(dev, w, 0..w.rows, out)
}

/// As [`decode`], some rows: `out` is `[rows.len(), cols]`.
pub fn decode_rows(dev: &Device, w: &Weight, rows: Range<usize>, out: &Buffer) -> Result<()> {
    ensure!(rows.end <= w.rows, "row {} is beyond the {} rows of the matrix", rows.end, w.rows);
    out.expect_words("out of decode", rows.len() * w.cols)?;
    for (slab, rows, first) in w.parts(rows) {
        let (first, len) = (first * w.cols, rows.len() * w.cols);
        match dev {
            Device::Cpu(_) => {
                let row = w.file_row_bytes();
                let bytes = &slab.buffer.view::<u8>()?[rows.start * row..rows.end * row];
                quant::decode(w.ty, bytes, &mut out.view_mut::<f32>()?[first..first + len])?;
            }
            Device::Gpu(gpu) => {
                let start = rows.start * row_bytes(dev, w.ty, w.cols);
                let params = Params { len: word(len)?, first: word(first)?, first_word: word(start / 4)?, pad: 0 };
                gpu.run(&Call {
                    shader: "decode",
                    weight: Some(w.ty),
                    overrides: &[],
                    bindings: &[&slab.buffer, out],
                    params: bytemuck::bytes_of(&params),
                    groups: len.div_ceil(ELEMENTS_PER_GROUP),
                    group_cost: (20 * ELEMENTS_PER_GROUP) as f64,
                })?;
            }
        }
    }
    Ok(())
}
