//! H += X^T Y: sums over tokens of products of two vectors, such as the Hessian X^T X of a linear layer's output error.
//! Some columns of each matrix are enough: an H larger than a binding is made in parts.

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
    x_width: u32,
    x_first: u32,
    x_cols: u32,
    y_width: u32,
    y_first: u32,
    y_cols: u32,
    symmetric: u32,
}

/// Some columns of a matrix `[n, width]`.
#[derive(Clone)]
pub struct Columns<'a> {
    pub matrix: &'a Buffer,
    pub width: usize,
    pub range: Range<usize>,
}

impl<'a> Columns<'a> {
    pub fn all(matrix: &'a Buffer, width: usize) -> Self {
        Columns { matrix, width, range: 0..width }
    }

    fn check(&self, role: &str, n: usize) -> Result<()> {
        let Columns { matrix, width, range } = self;
        ensure!(
            range.start <= range.end && range.end <= *width,
            "columns {range:?} are outside of a matrix of {width}"
        );
        matrix.expect_words(role, n * width)
    }
}

/// Adds x^T x of x `[n, k]` to the symmetric h `[k, k]`; only one triangle is computed, both are written.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn gram(dev: &Device, x: &Columns, h: &Buffer, n: usize) -> Result<()> {
    add(dev, [x, x], h, n, true)
}

/// Adds x^T y of x `[n, k]` and y `[n, m]` to h `[k, m]`.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn cross_gram(dev: &Device, x: &Columns, y: &Columns, h: &Buffer, n: usize) -> Result<()> {
    add(dev, [x, y], h, n, false)
}

fn add(dev: &Device, [x, y]: [&Columns; 2], h: &Buffer, n: usize, symmetric: bool) -> Result<()> {
    x.check("x of gram", n)?;
    y.check("y of gram", n)?;
    h.expect_words("h of gram", x.range.len() * y.range.len())?;
    let gpu = match dev {
        Device::Cpu(_) => {
            let (left, right) = (x.matrix.view()?, y.matrix.view()?);
            twin((&left, x), (&right, y), &mut h.view_mut()?, n, symmetric);
            return Ok(());
        }
        Device::Gpu(gpu) => gpu,
    };
    let params = Params {
        n: word(n)?,
        x_width: word(x.width)?,
        x_first: word(x.range.start)?,
        x_cols: word(x.range.len())?,
        y_width: word(y.width)?,
        y_first: word(y.range.start)?,
        y_cols: word(y.range.len())?,
        symmetric: symmetric.into(),
    };
    let whole = (2 * TILE_ROWS * TILE_ROWS * n) as f64;
    gpu.run(&Call {
        shader: "gram",
        weight: None,
        // Square tiles, so that the diagonal is made of whole ones.
        overrides: &[("TILE_A", TILE_ROWS as f64)],
        bindings: &[x.matrix, y.matrix, h],
        params: bytemuck::bytes_of(&params),
        groups: x.range.len().div_ceil(TILE_ROWS) * y.range.len().div_ceil(TILE_ROWS),
        // Below the diagonal workgroups leave at once.
        group_cost: if symmetric { whole / 2.0 } else { whole },
    })
}

/// A symmetric h is computed as one triangle and mirrored.
fn twin((x, left): (&[f32], &Columns), (y, right): (&[f32], &Columns), h: &mut [f32], n: usize, symmetric: bool) {
    if n == 0 {
        return;
    }
    let (k, m) = (left.range.len(), right.range.len());
    let h = Disjoint::new(&mut h[..k * m]);
    let blocks = |len: usize| len.div_ceil(BLOCK);
    let tasks: Vec<(usize, usize)> = (0..blocks(k))
        .flat_map(|i| (0..blocks(m)).map(move |j| (i, j)))
        .filter(|(i, j)| !symmetric || i <= j)
        .collect();
    // Task (i, j) writes block (i, j) of h, and if symmetric (j, i).
    tasks.into_par_iter().for_each(|(i, j)| {
        let (top, across) = (i * BLOCK, j * BLOCK);
        let (height, width) = (BLOCK.min(k - top), BLOCK.min(m - across));
        let a = Mat::rows(&x[left.range.start + top..n * left.width], left.width).transposed();
        let b = Mat::rows(&y[right.range.start + across..n * right.width], right.width);
        // SAFETY: the task's own block, within h.
        unsafe { multiply_into(h.at(top * m + across), m, [height, width, n], a, b, true, Threads::One) };
        if symmetric {
            mirror(h, k, top..top + height, across..across + width);
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
