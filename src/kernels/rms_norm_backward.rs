//! The gradient of `rms_norm` with respect to its input.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::rms_norm::{inverse_rms, workgroup};
use super::{Call, word};
use crate::device::{Buffer, Device};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    width: u32,
    eps: f32,
    accumulate: u32,
    pad: u32,
}

/// dx (+)= J^T dy, all `[rows, width]`; x and `weight` `[width]` are the inputs of the forward kernel.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
#[expect(clippy::too_many_arguments)]
pub fn rms_norm_backward(
    dev: &Device,
    x: &Buffer,
    weight: &Buffer,
    dy: &Buffer,
    dx: &Buffer,
    rows: usize,
    width: usize,
    eps: f32,
    accumulate: bool,
) -> Result<()> {
    x.expect_words("x of rms_norm_backward", rows * width)?;
    weight.expect_words("the weight of rms_norm_backward", width)?;
    dy.expect_words("dy of rms_norm_backward", rows * width)?;
    dx.expect_words("dx of rms_norm_backward", rows * width)?;
    match dev {
        Device::Cpu(_) => {
            let (x, weight, dy) = (x.view()?, weight.view()?, dy.view()?);
            twin(&x, &weight, &dy, &mut dx.view_mut()?, rows, width, eps, accumulate);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "rms_norm_backward",
            weight: None,
            overrides: &[("WORKGROUP", workgroup(width) as f64)],
            bindings: &[x, weight, dy, dx],
            params: bytemuck::bytes_of(&Params { width: word(width)?, eps, accumulate: accumulate.into(), pad: 0 }),
            groups: rows,
            group_cost: (16 * width) as f64,
        }),
    }
}

#[expect(clippy::too_many_arguments)]
pub fn twin(
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    rows: usize,
    width: usize,
    eps: f32,
    accumulate: bool,
) {
    let (x, dy, dx) = (&x[..rows * width], &dy[..rows * width], &mut dx[..rows * width]);
    let rows = dx.par_chunks_mut(width).zip(x.par_chunks(width)).zip(dy.par_chunks(width));
    rows.with_min_len(8).for_each(|((dx, x), dy)| {
        let scale = inverse_rms(x, eps);
        let along: f32 = x.iter().zip(dy).zip(weight).map(|((x, dy), weight)| x * dy * weight).sum();
        let shrink = along * scale * scale * scale / width as f32;
        for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
            let gradient = scale * weight * dy - shrink * x;
            *dx = if accumulate { *dx + gradient } else { gradient };
        }
    });
}
