//! dx (+)= dy W: the linear layer backwards.

use std::ops::Range;

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::gemm::{Mat, Threads, multiply};
use super::matmul::{TILE_ROWS as TILE_COLUMNS, tile_tokens};
use super::weight::{Weight, decode_rows};
use super::{Call, word};
use crate::device::{Buffer, Device, GpuDevice};
use crate::quant::GgmlType;

/// Weights that the twin decodes at a time.
const PANEL_WEIGHTS: usize = 1 << 20;
/// Tokens of one task of the twin.
const TASK_TOKENS: usize = 128;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    k: u32,
    /// Rows of W in this call, and the first of them in its slab.
    rows: u32,
    first_row: u32,
    /// The first row's gradient is column `dy_first` of rows of `dy_stride`.
    dy_stride: u32,
    dy_first: u32,
    accumulate: u32,
    pad: u32,
}

/// dx `[n, k]` = dy `[n, rows.len()]` times these rows of W, plus dx itself if `accumulate`.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn matmul_transposed(
    dev: &Device,
    dy: &Buffer,
    w: &Weight,
    dx: &Buffer,
    n: usize,
    rows: Range<usize>,
    accumulate: bool,
) -> Result<()> {
    ensure!(
        rows.start < rows.end && rows.end <= w.rows,
        "rows {rows:?} are empty or outside of a weight of {} rows",
        w.rows
    );
    let m = rows.len();
    dy.expect_words("dy of matmul_transposed", n * m)?;
    dx.expect_words("dx of matmul_transposed", n * w.cols)?;
    for (slab, part, dy_first) in w.parts(rows) {
        let accumulate = accumulate || dy_first > 0;
        let tile = Tile { n, k: w.cols, rows: part, dy_stride: m, dy_first, accumulate };
        match dev {
            Device::Gpu(gpu) => record(gpu, dy, w.ty, &slab.buffer, dx, &tile)?,
            Device::Cpu(_) => twin(&dy.view()?, w.ty, &slab.buffer.view()?, &mut dx.view_mut()?, &tile)?,
        }
    }
    Ok(())
}

/// One slab's share of the sum over rows.
#[derive(Clone, Debug)]
pub struct Tile {
    pub n: usize,
    pub k: usize,
    /// Rows of the slab.
    pub rows: Range<usize>,
    /// Width of dy, and the column of the first row's gradient.
    pub dy_stride: usize,
    pub dy_first: usize,
    pub accumulate: bool,
}

fn record(gpu: &GpuDevice, dy: &Buffer, ty: GgmlType, slab: &Buffer, dx: &Buffer, tile: &Tile) -> Result<()> {
    let tile_tokens = tile_tokens(tile.n);
    let params = Params {
        n: word(tile.n)?,
        k: word(tile.k)?,
        rows: word(tile.rows.len())?,
        first_row: word(tile.rows.start)?,
        dy_stride: word(tile.dy_stride)?,
        dy_first: word(tile.dy_first)?,
        accumulate: tile.accumulate.into(),
        pad: 0,
    };
    gpu.run(&Call {
        shader: "matmul_transposed",
        weight: Some(ty),
        overrides: &[("TILE_A", tile_tokens as f64)],
        bindings: &[dy, slab, dx],
        params: bytemuck::bytes_of(&params),
        groups: tile.n.div_ceil(tile_tokens) * tile.k.div_ceil(TILE_COLUMNS),
        group_cost: (2 * tile_tokens * TILE_COLUMNS * tile.rows.len()) as f64,
    })
}

/// Decodes a panel of rows with all threads, multiplies it with all threads, some tokens each, and goes on to the next.
pub fn twin(dy: &[f32], ty: GgmlType, slab: &[u8], dx: &mut [f32], tile: &Tile) -> Result<()> {
    let Tile { n, k, ref rows, dy_stride, dy_first, mut accumulate } = *tile;
    if n == 0 {
        return Ok(());
    }
    let row_bytes = k / ty.block_len() * ty.block_bytes();
    let bytes = &slab[rows.start * row_bytes..rows.end * row_bytes];
    let panel_rows =
        if ty == GgmlType::F32 { rows.len() } else { (PANEL_WEIGHTS / k.max(1)).clamp(16, rows.len().max(16)) };
    let mut scratch = Vec::new();
    for (panel, bytes) in bytes.chunks(panel_rows * row_bytes).enumerate() {
        let weights: &[f32] = if ty == GgmlType::F32 {
            bytemuck::cast_slice(bytes)
        } else {
            scratch.resize(bytes.len() / row_bytes * k, 0.0);
            let tasks = scratch.par_chunks_mut(4 * k).zip(bytes.par_chunks(4 * row_bytes));
            tasks.try_for_each(|(out, bytes)| decode_rows(ty, bytes, out))?;
            &scratch
        };
        // of equal size, so that none is small
        let tokens = n.div_ceil(n.div_ceil(TASK_TOKENS));
        dx[..n * k].par_chunks_mut(tokens * k).enumerate().for_each(|(task, dx)| {
            let at = task * tokens * dy_stride + dy_first + panel * panel_rows;
            let shape = [dx.len() / k, k, weights.len() / k];
            multiply(dx, k, shape, Mat::rows(&dy[at..], dy_stride), Mat::rows(weights, k), accumulate, Threads::One);
        });
        accumulate = true;
    }
    Ok(())
}
