//! What quantization changed: decoded weight - original.

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::weight::{Weight, decode_rows};
use super::{Call, word};
use crate::device::{Buffer, Device};
use crate::quant::GgmlType;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    cols: u32,
    first_row: u32,
    weight_row: u32,
    pad: u32,
}

/// `out = decoded w - x`, all `[rows, cols]`.
///
/// # Errors
/// If the type cannot be decoded, a buffer is too small, or on a GPU larger than a binding.
pub fn weight_difference(dev: &Device, x: &Buffer, w: &Weight, out: &Buffer) -> Result<()> {
    x.expect_words("x of weight_difference", w.rows * w.cols)?;
    out.expect_words("out of weight_difference", w.rows * w.cols)?;
    ensure!(!x.is_same(out), "weight_difference cannot work in place");
    for (slab, rows, first) in w.parts(0..w.rows) {
        match dev {
            Device::Cpu(_) => {
                let row = w.file_row_bytes();
                let bytes = &slab.buffer.view::<u8>()?[rows.start * row..rows.end * row];
                let part = first * w.cols..(first + rows.len()) * w.cols;
                twin(&x.view::<f32>()?[part.clone()], (w.ty, bytes), w.cols, &mut out.view_mut::<f32>()?[part])?;
            }
            Device::Gpu(gpu) => gpu.run(&Call {
                shader: "weight_difference",
                weight: Some(w.ty),
                overrides: &[],
                bindings: &[x, &slab.buffer, out],
                params: bytemuck::bytes_of(&Params {
                    cols: word(w.cols)?,
                    first_row: word(first)?,
                    weight_row: word(rows.start)?,
                    pad: 0,
                }),
                groups: rows.len(),
                group_cost: (16 * w.cols) as f64,
            })?,
        }
    }
    Ok(())
}

pub fn twin(x: &[f32], (ty, bytes): (GgmlType, &[u8]), cols: usize, out: &mut [f32]) -> Result<()> {
    let row_bytes = ty.bytes_for(cols as u64) as usize;
    let rows = out.par_chunks_exact_mut(cols).zip(x.par_chunks_exact(cols)).zip(bytes.par_chunks_exact(row_bytes));
    rows.try_for_each(|((out, x), bytes)| {
        decode_rows(ty, bytes, out)?;
        out.iter_mut().zip(x).for_each(|(out, x)| *out -= x);
        Ok(())
    })
}
