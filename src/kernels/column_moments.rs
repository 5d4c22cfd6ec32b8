//! Sums of x and x^2 per column: the activation statistics behind the importance matrix.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, word};
use crate::device::{Buffer, Device};

/// Columns of one workgroup (times 8 invocations each), and of one task of the twin.
const COLUMNS: usize = 32;
const TASK_COLUMNS: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    k: u32,
    pad: [u32; 2],
}

/// Adds the column sums of x `[n, k]` to `sums` `[2, k]`: first of x^2, then of x.
///
/// f32: read and reset the sums every few ten thousand tokens and add them up in f64.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn column_moments(dev: &Device, x: &Buffer, sums: &Buffer, n: usize, k: usize) -> Result<()> {
    x.expect_words("x of column_moments", n * k)?;
    sums.expect_words("sums of column_moments", 2 * k)?;
    match dev {
        Device::Cpu(_) => {
            twin(&x.view()?, &mut sums.view_mut()?, n, k);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "column_moments",
            weight: None,
            overrides: &[],
            bindings: &[x, sums],
            params: bytemuck::bytes_of(&Params { n: word(n)?, k: word(k)?, pad: [0; 2] }),
            groups: k.div_ceil(COLUMNS),
            group_cost: (8 * n * COLUMNS) as f64,
        }),
    }
}

pub fn twin(x: &[f32], sums: &mut [f32], n: usize, k: usize) {
    let (squares, plain) = sums[..2 * k].split_at_mut(k);
    let tasks = squares.par_chunks_mut(TASK_COLUMNS).zip(plain.par_chunks_mut(TASK_COLUMNS)).enumerate();
    tasks.for_each(|(task, (squares, plain))| {
        let mut totals = [[0.0f64; TASK_COLUMNS]; 2];
        for row in x[..n * k].chunks_exact(k) {
            let row = &row[task * TASK_COLUMNS..][..squares.len()];
            for (i, value) in row.iter().enumerate() {
                let value = f64::from(*value);
                totals[0][i] += value * value;
                totals[1][i] += value;
            }
        }
        for (i, (square, sum)) in squares.iter_mut().zip(plain).enumerate() {
            *square = (f64::from(*square) + totals[0][i]) as f32;
            *sum = (f64::from(*sum) + totals[1][i]) as f32;
        }
    });
}
