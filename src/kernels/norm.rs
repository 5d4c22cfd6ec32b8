//! y = x / rms(x) * weight, row by row, or the same of x - mean(x).

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, dot, word};
use crate::device::{Buffer, Device, GpuDevice};

/// What is divided by its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormKind {
    /// x: nearly all families.
    #[default]
    Rms,
    /// x - mean(x), a layer norm without a bias: Cohere.
    Layer,
}

impl NormKind {
    /// The row that is divided by its size, in `room` if it is not x.
    pub(super) fn centred<'a>(self, x: &'a [f32], room: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            NormKind::Rms => x,
            NormKind::Layer => {
                let mean = mean(x.iter().copied());
                room.clear();
                room.extend(x.iter().map(|x| x - mean));
                room
            }
        }
    }
}

/// The shape of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormParams {
    pub kind: NormKind,
    pub rows: usize,
    pub width: usize,
    pub eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    width: u32,
    eps: f32,
    centres: u32,
    accumulate: u32,
}

impl NormParams {
    /// Fails unless all are `[rows, width]`.
    pub(super) fn expect(&self, matrices: &[(&str, &Buffer)]) -> Result<()> {
        let len = self.rows * self.width;
        matrices.iter().try_for_each(|(role, buffer)| buffer.expect_words(role, len))
    }

    /// Runs a shader, a workgroup per row.
    pub(super) fn run(
        &self,
        gpu: &GpuDevice,
        shader: &'static str,
        bindings: &[&Buffer],
        accumulate: bool,
        element_cost: usize,
    ) -> Result<()> {
        let centres = (self.kind == NormKind::Layer).into();
        let params = Params { width: word(self.width)?, eps: self.eps, centres, accumulate: accumulate.into() };
        gpu.run(&Call {
            shader,
            weight: None,
            overrides: &[("WORKGROUP", workgroup(self.width) as f64)],
            bindings,
            params: bytemuck::bytes_of(&params),
            groups: self.rows,
            group_cost: (element_cost * self.width) as f64,
        })
    }
}

/// Invocations per row: heads are narrow, hidden states wide.
pub(super) fn workgroup(width: usize) -> usize {
    if width <= 256 { 64 } else { 256 }
}

/// y `[rows, width]` = x / sqrt(mean(x^2) + eps) * `weight` `[width]`, with x `[rows, width]` or its distance from the mean of the row.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn norm(dev: &Device, x: &Buffer, weight: &Buffer, y: &Buffer, params: NormParams) -> Result<()> {
    params.expect(&[("x of norm", x), ("y of norm", y)])?;
    weight.expect_words("the weight of norm", params.width)?;
    match dev {
        Device::Cpu(_) => {
            twin(&x.view()?, &weight.view()?, &mut y.view_mut()?, params);
            Ok(())
        }
        Device::Gpu(gpu) => params.run(gpu, "norm", &[x, weight, y], false, 8),
    }
}

pub fn twin(x: &[f32], weight: &[f32], y: &mut [f32], params: NormParams) {
    let NormParams { kind, rows, width, eps } = params;
    let (x, y) = (&x[..rows * width], &mut y[..rows * width]);
    let rows = y.par_chunks_mut(width).zip(x.par_chunks(width)).with_min_len(8);
    rows.for_each_init(Vec::new, |room, (y, x)| {
        let x = kind.centred(x, room);
        let scale = inverse_rms(x, eps);
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = x * scale * weight;
        }
    });
}

pub(super) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

pub(super) fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = values.len() as f64;
    (values.map(f64::from).sum::<f64>() / count) as f32
}
