//! The gradient of `short_conv` with respect to its input.

use anyhow::Result;
use rayon::prelude::*;

use super::glu::sigmoid;
use super::short_conv::ConvShape;
use crate::device::{Buffer, Device};

/// dx = J^T dy, both `[tokens, channels]`; x and `weight` are the inputs of the forward kernel.
///
/// # Errors
/// As [`super::short_conv::short_conv`].
pub fn short_conv_backward(
    dev: &Device,
    x: &Buffer,
    weight: &Buffer,
    dy: &Buffer,
    dx: &Buffer,
    shape: ConvShape,
) -> Result<()> {
    let all = [("x of short_conv_backward", x), ("dy of short_conv_backward", dy), ("dx of short_conv_backward", dx)];
    shape.expect(&all, weight)?;
    match dev {
        Device::Cpu(_) => {
            twin(&x.view()?, &weight.view()?, &dy.view()?, &mut dx.view_mut()?, shape);
            Ok(())
        }
        Device::Gpu(gpu) => shape.run(gpu, "short_conv_backward", &[x, weight, dy, dx], shape.taps),
    }
}

fn twin(x: &[f32], weight: &[f32], dy: &[f32], dx: &mut [f32], shape: ConvShape) {
    let ConvShape { channels, seq_len, .. } = shape;
    let weight = shape.by_distance(weight);
    // the gradients of the sums
    let mut changes = vec![0.0; shape.len()];
    let rows = changes.par_chunks_mut(channels).zip(dy.par_chunks(channels)).enumerate().with_min_len(4);
    rows.for_each(|(row, (changes, dy))| {
        shape.convolve(x, &weight, row, changes);
        for (change, dy) in changes.iter_mut().zip(dy) {
            let (sum, s) = (*change, sigmoid(*change));
            *change = dy * s * (1.0 + sum * (1.0 - s));
        }
    });
    let rows = dx[..shape.len()].par_chunks_mut(channels).enumerate().with_min_len(4);
    rows.for_each(|(row, dx)| {
        dx.fill(0.0);
        let tokens_left = seq_len - row % seq_len;
        for (ahead, weight) in weight.chunks_exact(channels).enumerate().take(tokens_left) {
            let changes = &changes[(row + ahead) * channels..][..channels];
            dx.iter_mut().zip(changes).zip(weight).for_each(|((dx, change), weight)| *dx += weight * change);
        }
    });
}
