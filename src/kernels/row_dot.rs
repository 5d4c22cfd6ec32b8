//! Inner products of the rows of two matrices.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, word};
use crate::device::{Buffer, Device};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    cols: u32,
    pad: [u32; 3],
}

/// `out[r] = sum_j a[r, j] b[r, j]` of a and b `[rows, cols]`.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn row_dot(dev: &Device, a: &Buffer, b: &Buffer, out: &Buffer, rows: usize, cols: usize) -> Result<()> {
    a.expect_words("a of row_dot", rows * cols)?;
    b.expect_words("b of row_dot", rows * cols)?;
    out.expect_words("out of row_dot", rows)?;
    match dev {
        Device::Cpu(_) => {
            twin(&a.view::<f32>()?[..rows * cols], &b.view()?, &mut out.view_mut::<f32>()?[..rows], cols);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "row_dot",
            weight: None,
            overrides: &[],
            bindings: &[a, b, out],
            params: bytemuck::bytes_of(&Params { cols: word(cols)?, pad: [0; 3] }),
            groups: rows,
            group_cost: (4 * cols) as f64,
        }),
    }
}

pub fn twin(a: &[f32], b: &[f32], out: &mut [f32], cols: usize) {
    out.par_iter_mut().zip(a.par_chunks_exact(cols)).zip(b.par_chunks_exact(cols)).for_each(|((out, a), b)| {
        *out = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
    });
}
