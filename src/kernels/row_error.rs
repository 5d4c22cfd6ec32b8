//! What each row of a quantized matrix loses, weighted by importance.

use std::ops::Range;

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::weight::{Weight, decode_rows};
use super::{Call, word};
use crate::device::{Buffer, Device};
use crate::quant::GgmlType;

/// Rows of one task of the twin.
const ROWS: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    cols: u32,
    first_row: u32,
    weight_row: u32,
    pad: u32,
}

/// For every row r of `rows`, with dw = decoded w - x: `out[2 r] = sum_j importance[j] dw_j^2`, the extra output energy per
/// token, and `out[2 r + 1] = sum_j mean[j] dw_j`, the shift of the output's mean. x is `[rows.len(), cols]`, `importance`
/// and `mean` `[cols]` (zeros where the means are not known), `out` `[rows.len(), 2]`.
///
/// # Errors
/// If the type cannot be decoded, a buffer is too small, or on a GPU larger than a binding.
pub fn row_error(
    dev: &Device,
    x: &Buffer,
    w: &Weight,
    rows: Range<usize>,
    (importance, mean): (&Buffer, &Buffer),
    out: &Buffer,
) -> Result<()> {
    ensure!(rows.end <= w.rows, "row {} is beyond the {} rows of the matrix", rows.end, w.rows);
    x.expect_words("x of row_error", rows.len() * w.cols)?;
    importance.expect_words("importance of row_error", w.cols)?;
    mean.expect_words("mean of row_error", w.cols)?;
    out.expect_words("out of row_error", 2 * rows.len())?;
    for (slab, rows, first) in w.parts(rows) {
        match dev {
            Device::Cpu(_) => {
                let row = w.file_row_bytes();
                let bytes = &slab.buffer.view::<u8>()?[rows.start * row..rows.end * row];
                let x = &x.view::<f32>()?[first * w.cols..(first + rows.len()) * w.cols];
                let out = &mut out.view_mut::<f32>()?[2 * first..2 * (first + rows.len())];
                twin(x, (w.ty, bytes), &importance.view::<f32>()?[..w.cols], &mean.view::<f32>()?[..w.cols], out)?;
            }
            Device::Gpu(gpu) => gpu.run(&Call {
                shader: "row_error",
                weight: Some(w.ty),
                overrides: &[],
                bindings: &[x, &slab.buffer, importance, mean, out],
                params: bytemuck::bytes_of(&Params {
                    cols: word(w.cols)?,
                    first_row: word(first)?,
                    weight_row: word(rows.start)?,
                    pad: 0,
                }),
                groups: rows.len(),
                group_cost: (30 * w.cols) as f64,
            })?,
        }
    }
    Ok(())
}

/// As [`row_error`], for rows in host memory; sums are in f64.
pub fn twin(
    x: &[f32],
    (ty, bytes): (GgmlType, &[u8]),
    importance: &[f32],
    mean: &[f32],
    out: &mut [f32],
) -> Result<()> {
    let cols = importance.len();
    let row_bytes = cols / ty.block_len() * ty.block_bytes();
    let groups = x.par_chunks(ROWS * cols).zip(bytes.par_chunks(ROWS * row_bytes)).zip(out.par_chunks_mut(2 * ROWS));
    groups.try_for_each_init(
        || vec![0.0; ROWS * cols],
        |decoded, ((x, bytes), out)| {
            let decoded = &mut decoded[..x.len()];
            decode_rows(ty, bytes, decoded)?;
            if x.len() == ROWS * cols {
                errors::<ROWS>(x, decoded, importance, mean, out);
                return Ok(());
            }
            let rows = x.chunks(cols).zip(decoded.chunks(cols)).zip(out.chunks_mut(2));
            rows.for_each(|((x, decoded), out)| errors::<1>(x, decoded, importance, mean, out));
            Ok(())
        },
    )
}

/// The sums of `N` rows side by side, since each addition to one of them waits for the last.
fn errors<const N: usize>(x: &[f32], decoded: &[f32], importance: &[f32], mean: &[f32], out: &mut [f32]) {
    let cols = importance.len();
    let x: [&[f32]; N] = std::array::from_fn(|row| &x[row * cols..][..cols]);
    let decoded: [&[f32]; N] = std::array::from_fn(|row| &decoded[row * cols..][..cols]);
    let (mut squares, mut shift) = ([0.0f64; N], [0.0f64; N]);
    for j in 0..cols {
        for row in 0..N {
            let miss = f64::from(decoded[row][j] - x[row][j]);
            squares[row] += f64::from(importance[j]) * miss * miss;
            shift[row] += f64::from(mean[j]) * miss;
        }
    }
    for row in 0..N {
        (out[2 * row], out[2 * row + 1]) = (squares[row] as f32, shift[row] as f32);
    }
}
