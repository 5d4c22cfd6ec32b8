//! y = x / rms(x) * weight, row by row.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, dot, word};
use crate::device::{Buffer, Device};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    width: u32,
    eps: f32,
    pad: [u32; 2],
}

/// Invocations per row: heads are narrow, hidden states wide.
pub(super) fn workgroup(width: usize) -> usize {
    if width <= 256 { 64 } else { 256 }
}

/// y `[rows, width]` = x `[rows, width]` / sqrt(mean(x^2) + eps) * `weight` `[width]`.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn rms_norm(
    dev: &Device,
    x: &Buffer,
    weight: &Buffer,
    y: &Buffer,
    rows: usize,
    width: usize,
    eps: f32,
) -> Result<()> {
    x.expect_words("x of rms_norm", rows * width)?;
    weight.expect_words("the weight of rms_norm", width)?;
    y.expect_words("y of rms_norm", rows * width)?;
    match dev {
        Device::Cpu(_) => {
            twin(&x.view()?, &weight.view()?, &mut y.view_mut()?, rows, width, eps);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "rms_norm",
            weight: None,
            overrides: &[("WORKGROUP", workgroup(width) as f64)],
            bindings: &[x, weight, y],
            params: bytemuck::bytes_of(&Params { width: word(width)?, eps, pad: [0; 2] }),
            groups: rows,
            group_cost: (8 * width) as f64,
        }),
    }
}

pub fn twin(x: &[f32], weight: &[f32], y: &mut [f32], rows: usize, width: usize, eps: f32) {
    let (x, y) = (&x[..rows * width], &mut y[..rows * width]);
    y.par_chunks_mut(width).zip(x.par_chunks(width)).with_min_len(8).for_each(|(y, x)| {
        let scale = inverse_rms(x, eps);
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = x * scale * weight;
        }
    });
}

pub(super) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}
