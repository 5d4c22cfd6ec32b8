//! H += X^T X: the Hessian of a linear layer's output error with respect to its weights.
//! Whole and symmetric, or by panels of rows where H is larger than a binding.

use std::ops::Range;

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::gemm::{Mat, Threads, multiply_into};
use super::matmul::TILE_ROWS;
use super::{Call, Disjoint, word};
use crate::device::{Buffer, Device};

/// Columns of one task of the twin.
const BLOCK: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    k: u32,
    first_row: u32,
    rows: u32,
    symmetric: u32,
    pad: [u32; 3],
}

/// Adds x^T x of x `[n, k]` to the symmetric h `[k, k]`; only one triangle is computed, both are written.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn gram(dev: &Device, x: &Buffer, h: &Buffer, n: usize, k: usize) -> Result<()> {
    panel(dev, x, h, n, k, 0..k)
}

/// Adds the given rows of x^T x to h `[rows.len(), k]`: for an H larger than [`Device::max_binding_bytes`].
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn gram_rows(dev: &Device, x: &Buffer, h: &Buffer, n: usize, k: usize, rows: Range<usize>) -> Result<()> {
    ensure!(rows.start <= rows.end && rows.end <= k, "rows {rows:?} are outside of a matrix of {k} rows");
    panel(dev, x, h, n, k, rows)
}

fn panel(dev: &Device, x: &Buffer, h: &Buffer, n: usize, k: usize, rows: Range<usize>) -> Result<()> {
    x.expect_words("x of gram", n * k)?;
    h.expect_words("h of gram", rows.len() * k)?;
    let gpu = match dev {
        Device::Cpu(_) => {
            twin(&x.view()?, &mut h.view_mut()?, n, k, rows);
            return Ok(());
        }
        Device::Gpu(gpu) => gpu,
    };
    let symmetric = rows == (0..k);
    let params = Params {
        n: word(n)?,
        k: word(k)?,
        first_row: word(rows.start)?,
        rows: word(rows.len())?,
        symmetric: symmetric.into(),
        pad: [0; 3],
    };
    let whole = (2 * TILE_ROWS * TILE_ROWS * n) as f64;
    gpu.run(&Call {
        shader: "gram",
        weight: None,
        // Square tiles, so that the diagonal is made of whole ones.
        overrides: &[("TILE_A", TILE_ROWS as f64)],
        bindings: &[x, h],
        params: bytemuck::bytes_of(&params),
        groups: rows.len().div_ceil(TILE_ROWS) * k.div_ceil(TILE_ROWS),
        // Below the diagonal workgroups leave at once.
        group_cost: if symmetric { whole / 2.0 } else { whole },
    })
}

/// h holds the rows `rows` of H; the whole H is computed as one triangle and mirrored.
pub fn twin(x: &[f32], h: &mut [f32], n: usize, k: usize, rows: Range<usize>) {
    if n == 0 {
        return;
    }
    let x = &x[..n * k];
    let symmetric = rows == (0..k);
    let h = Disjoint::new(&mut h[..rows.len() * k]);
    let blocks = |len: usize| len.div_ceil(BLOCK);
    let tasks: Vec<(usize, usize)> = (0..blocks(rows.len()))
        .flat_map(|i| (0..blocks(k)).map(move |j| (i, j)))
        .filter(|(i, j)| !symmetric || i <= j)
        .collect();
    // Task (i, j) writes block (i, j) of h, and if symmetric (j, i).
    tasks.into_par_iter().for_each(|(i, j)| {
        let (top, left) = (i * BLOCK, j * BLOCK);
        let (height, width) = (BLOCK.min(rows.len() - top), BLOCK.min(k - left));
        let (a, b) = (Mat::rows(&x[rows.start + top..], k).transposed(), Mat::rows(&x[left..], k));
        // SAFETY: the task's own block, within h.
        unsafe { multiply_into(h.at(top * k + left), k, [height, width, n], a, b, true, Threads::One) };
        if symmetric {
            mirror(h, k, top..top + height, left..left + width);
        }
    });
}

/// Copies the part of a block above the diagonal to its mirror image.
fn mirror(h: Disjoint, k: usize, rows: Range<usize>, cols: Range<usize>) {
    for row in rows {
        for col in cols.clone().filter(|col| *col > row) {
            // SAFETY: the task's own blocks, within h.
            unsafe { *h.at(col * k + row) = *h.at(row * k + col) };
        }
    }
}
