//! The gradient of `norm` with respect to its input.

use anyhow::Result;
use rayon::prelude::*;

use super::norm::{NormKind, NormParams, inverse_rms, mean};
use crate::device::{Buffer, Device};

/// dx (+)= J^T dy, all `[rows, width]`; x and `weight` `[width]` are the inputs of the forward kernel.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn norm_backward(
    dev: &Device,
    x: &Buffer,
    weight: &Buffer,
    dy: &Buffer,
    dx: &Buffer,
    params: NormParams,
    accumulate: bool,
) -> Result<()> {
    params.expect(&[("x of norm_backward", x), ("dy of norm_backward", dy), ("dx of norm_backward", dx)])?;
    weight.expect_words("the weight of norm_backward", params.width)?;
    match dev {
        Device::Cpu(_) => {
            twin(&x.view()?, &weight.view()?, &dy.view()?, &mut dx.view_mut()?, params, accumulate);
            Ok(())
        }
        Device::Gpu(gpu) => params.run(gpu, "norm_backward", &[x, weight, dy, dx], accumulate, 16),
    }
}

pub fn twin(x: &[f32], weight: &[f32], dy: &[f32], dx: &mut [f32], params: NormParams, accumulate: bool) {
    let NormParams { kind, rows, width, eps } = params;
    let (x, dy, dx) = (&x[..rows * width], &dy[..rows * width], &mut dx[..rows * width]);
    let rows = dx.par_chunks_mut(width).zip(x.par_chunks(width)).zip(dy.par_chunks(width)).with_min_len(8);
    rows.for_each_init(Vec::new, |room, ((dx, x), dy)| {
        let x = kind.centred(x, room);
        let scale = inverse_rms(x, eps);
        let along: f32 = x.iter().zip(dy).zip(weight).map(|((x, dy), weight)| x * dy * weight).sum();
        let shrink = along * scale * scale * scale / width as f32;
        // what every element passes back through the mean
        let shift = match kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => scale * mean(dy.iter().zip(weight).map(|(dy, weight)| dy * weight)),
        };
        for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
            let gradient = scale * weight * dy - shrink * x - shift;
            *dx = if accumulate { *dx + gradient } else { gradient };
        }
    });
}
