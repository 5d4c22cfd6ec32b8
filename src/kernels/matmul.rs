//! y (+)= x W^T (+ bias): the linear layer.

use std::ops::Range;

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::gemm::{Mat, Threads, multiply_into};
use super::weight::{Weight, decode_rows};
use super::{Call, Disjoint, word};
use crate::device::{Buffer, Device, GpuDevice};
use crate::quant::GgmlType;

/// Second side of the tiles of `shaders/common/tile.wgsl`: here rows of W.
pub(super) const TILE_ROWS: usize = 64;

/// First side of the tiles, for `n` tokens.
pub(super) fn tile_tokens(n: usize) -> usize {
    match n {
        0..=32 => 32,
        33..=64 => 64,
        _ => 128,
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    k: u32,
    /// Rows of W in this call, and the first of them in its slab.
    rows: u32,
    first_row: u32,
    /// Row r of W gives column `y_first + r` of rows of `y_stride`.
    y_stride: u32,
    y_first: u32,
    accumulate: u32,
    has_bias: u32,
}

/// y `[n, m]` = x `[n, k]` W^T, plus `bias` `[m]` if given, plus y itself if `accumulate`.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn matmul(
    dev: &Device,
    x: &Buffer,
    w: &Weight,
    bias: Option<&Buffer>,
    y: &Buffer,
    n: usize,
    accumulate: bool,
) -> Result<()> {
    product(dev, x, w, bias, y, n, 0..w.rows, accumulate)
}

/// y `[n, rows.len()]` = x `[n, k]` times the given rows of W: a tile of the vocabulary, say.
pub fn matmul_rows(dev: &Device, x: &Buffer, w: &Weight, y: &Buffer, n: usize, rows: Range<usize>) -> Result<()> {
    product(dev, x, w, None, y, n, rows, false)
}

/// y `[n, rows.len()]` += x `[n, k]` times the given rows of W.
pub fn matmul_rows_add(dev: &Device, x: &Buffer, w: &Weight, y: &Buffer, n: usize, rows: Range<usize>) -> Result<()> {
    product(dev, x, w, None, y, n, rows, true)
}

#[expect(clippy::too_many_arguments)]
fn product(
    dev: &Device,
    x: &Buffer,
    w: &Weight,
    bias: Option<&Buffer>,
    y: &Buffer,
    n: usize,
    rows: Range<usize>,
    accumulate: bool,
) -> Result<()> {
    ensure!(rows.start <= rows.end && rows.end <= w.rows, "rows {rows:?} are outside of a weight of {} rows", w.rows);
    let m = rows.len();
    x.expect_words("x of matmul", n * w.cols)?;
    y.expect_words("y of matmul", n * m)?;
    if let Some(bias) = bias {
        bias.expect_words("the bias of matmul", m)?;
    }
    for (slab, part, y_first) in w.parts(rows) {
        let tile = Tile { n, k: w.cols, rows: part, y_stride: m, y_first, accumulate };
        match dev {
            Device::Gpu(gpu) => record(gpu, x, w.ty, &slab.buffer, bias, y, &tile)?,
            Device::Cpu(_) => {
                let bias = bias.map(Buffer::view::<f32>).transpose()?;
                twin(&x.view()?, w.ty, &slab.buffer.view()?, bias.as_deref(), &mut y.view_mut()?, &tile)?;
            }
        }
    }
    Ok(())
}

/// One slab's share of a product.
#[derive(Clone, Debug)]
pub struct Tile {
    pub n: usize,
    pub k: usize,
    /// Rows of the slab.
    pub rows: Range<usize>,
    /// Width of y, and the column where the first row's result goes.
    pub y_stride: usize,
    pub y_first: usize,
    pub accumulate: bool,
}

fn record(
    gpu: &GpuDevice,
    x: &Buffer,
    ty: GgmlType,
    slab: &Buffer,
    bias: Option<&Buffer>,
    y: &Buffer,
    tile: &Tile,
) -> Result<()> {
    let tile_tokens = tile_tokens(tile.n);
    let params = Params {
        n: word(tile.n)?,
        k: word(tile.k)?,
        rows: word(tile.rows.len())?,
        first_row: word(tile.rows.start)?,
        y_stride: word(tile.y_stride)?,
        y_first: word(tile.y_first)?,
        accumulate: tile.accumulate.into(),
        has_bias: bias.is_some().into(),
    };
    gpu.run(&Call {
        shader: "matmul",
        weight: Some(ty),
        overrides: &[("TILE_A", tile_tokens as f64)],
        // Without a bias any buffer will do in its place.
        bindings: &[x, slab, bias.unwrap_or(x), y],
        params: bytemuck::bytes_of(&params),
        groups: tile.n.div_ceil(tile_tokens) * tile.rows.len().div_ceil(TILE_ROWS),
        group_cost: (2 * tile_tokens * TILE_ROWS * tile.k) as f64,
    })
}

/// Rows are decoded once and multiplied while they are in the cache; each gemm runs in one thread.
///
/// `slab` holds rows of type `ty` as in a GGUF; `bias` and y are indexed by the column of y.
pub fn twin(x: &[f32], ty: GgmlType, slab: &[u8], bias: Option<&[f32]>, y: &mut [f32], tile: &Tile) -> Result<()> {
    let Tile { n, k, ref rows, y_stride, y_first, accumulate } = *tile;
    if n == 0 || rows.is_empty() {
        return Ok(());
    }
    let row_bytes = k / ty.block_len() * ty.block_bytes();
    let block = rows_per_task(rows.len(), k);
    // Task t writes the columns `y_first + t * block ..` of y, `block` of them at most.
    let y = Disjoint::new(&mut y[..n * y_stride]);
    let blocks = rows.len().div_ceil(block);
    (0..blocks).into_par_iter().try_for_each_init(Vec::new, |scratch, task| {
        let first = task * block;
        let count = block.min(rows.len() - first);
        let bytes = &slab[(rows.start + first) * row_bytes..][..count * row_bytes];
        let weights: &[f32] = if ty == GgmlType::F32 {
            bytemuck::cast_slice(bytes)
        } else {
            scratch.resize(count * k, 0.0);
            decode_rows(ty, bytes, scratch)?;
            scratch
        };
        let column = y_first + first;
        if let Some(bias) = bias {
            add_bias(y, &bias[column..column + count], n, y_stride, column, accumulate);
        }
        let read = accumulate || bias.is_some();
        // SAFETY: the columns of this task's rows, within y; no other task touches them.
        unsafe {
            let (x, weights) = (Mat::rows(&x[..n * k], k), Mat::rows(weights, k).transposed());
            multiply_into(y.at(column), y_stride, [n, count, k], x, weights, read, Threads::One);
        }
        Ok(())
    })
}

/// About 256 KiB of decoded weights at most, which stay in the second-level cache, in whole vectors, and about as many tasks for
/// every thread.
fn rows_per_task(rows: usize, k: usize) -> usize {
    let (threads, cached) = (rayon::current_num_threads(), (1 << 18) / (4 * k.max(1)));
    let tasks = rows.div_ceil(cached.max(64)).max(4 * threads).next_multiple_of(threads);
    rows.div_ceil(tasks).next_multiple_of(16)
}

fn add_bias(y: Disjoint, bias: &[f32], n: usize, stride: usize, column: usize, accumulate: bool) {
    for token in 0..n {
        for (i, bias) in bias.iter().enumerate() {
            // SAFETY: the columns of this task's rows, within y; no other task touches them.
            unsafe {
                let target = y.at(token * stride + column + i);
                *target = if accumulate { *target + bias } else { *bias };
            }
        }
    }
}
