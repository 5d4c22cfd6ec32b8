//! H += X^T X: the Hessian of a linear layer's output error with respect to its weights.

use anyhow::Result;
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
    pad: [u32; 2],
}

/// Adds x^T x of x `[n, k]` to the symmetric h `[k, k]`; only one triangle is computed, both are written.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn gram(dev: &Device, x: &Buffer, h: &Buffer, n: usize, k: usize) -> Result<()> {
    x.expect_words("x of gram", n * k)?;
    h.expect_words("h of gram", k * k)?;
    match dev {
        Device::Cpu(_) => {
            twin(&x.view()?, &mut h.view_mut()?, n, k);
            Ok(())
        }
        Device::Gpu(gpu) => {
            let tiles = k.div_ceil(TILE_ROWS);
            gpu.run(&Call {
                shader: "gram",
                weight: None,
                // Square tiles, so that the diagonal is made of whole ones.
                overrides: &[("TILE_A", TILE_ROWS as f64)],
                bindings: &[x, h],
                params: bytemuck::bytes_of(&Params { n: word(n)?, k: word(k)?, pad: [0; 2] }),
                groups: tiles * tiles,
                // Half of the workgroups leave at once.
                group_cost: (TILE_ROWS * TILE_ROWS * n) as f64,
            })
        }
    }
}

pub fn twin(x: &[f32], h: &mut [f32], n: usize, k: usize) {
    let x = &x[..n * k];
    let h = Disjoint::new(&mut h[..k * k]);
    let blocks = k.div_ceil(BLOCK);
    let pairs: Vec<(usize, usize)> = (0..blocks).flat_map(|i| (i..blocks).map(move |j| (i, j))).collect();
    if n == 0 {
        return;
    }
    // Task (i, j) writes blocks (i, j) and (j, i) of h.
    pairs.into_par_iter().for_each(|(i, j)| {
        let (top, left) = (i * BLOCK, j * BLOCK);
        let (rows, cols) = (BLOCK.min(k - top), BLOCK.min(k - left));
        let (a, b) = (Mat::rows(&x[top..], k).transposed(), Mat::rows(&x[left..], k));
        // SAFETY: the task's own block, within h.
        unsafe { multiply_into(h.at(top * k + left), k, [rows, cols, n], a, b, true, Threads::One) };
        mirror(h, k, top..top + rows, left..left + cols);
    });
}

/// Copies the part of a block above the diagonal to its mirror image.
fn mirror(h: Disjoint, k: usize, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) {
    for row in rows {
        for col in cols.clone().filter(|col| *col > row) {
            // SAFETY: the task's own blocks, within h.
            unsafe { *h.at(col * k + row) = *h.at(row * k + col) };
        }
    }
}
