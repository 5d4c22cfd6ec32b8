//! y = x * sigmoid(gate), with a gate for each element or one for each row.

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::glu::sigmoid;
use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device};

/// The shape of values that go through gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateShape {
    pub rows: usize,
    pub width: usize,
    /// 1 or `width`.
    pub gate_width: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    len: u32,
    width: u32,
    gate_width: u32,
    pad: u32,
}

impl GateShape {
    pub(super) fn len(&self) -> usize {
        self.rows * self.width
    }

    pub(super) fn params(&self) -> Result<Params> {
        let [len, width, gate_width] = [self.len(), self.width, self.gate_width].map(word);
        Ok(Params { len: len?, width: width?, gate_width: gate_width?, pad: 0 })
    }

    /// Fails unless `wide` are `[rows, width]` and `gates` `[rows, gate_width]`.
    pub(super) fn expect(&self, wide: &[(&str, &Buffer)], gates: &[(&str, &Buffer)]) -> Result<()> {
        let GateShape { rows, width, gate_width } = *self;
        ensure!(gate_width == 1 || gate_width == width, "`{gate_width}` gates for rows of `{width}` elements");
        wide.iter().try_for_each(|(role, buffer)| buffer.expect_words(role, rows * width))?;
        gates.iter().try_for_each(|(role, buffer)| buffer.expect_words(role, rows * gate_width))
    }
}

/// y `[rows, width]` = x `[rows, width]` * sigmoid(gate), gate `[rows, gate_width]`.
///
/// # Errors
/// If a buffer is too small, on a GPU larger than a binding, or if `gate_width` is neither 1 nor `width`.
pub fn sigmoid_gate(dev: &Device, x: &Buffer, gate: &Buffer, y: &Buffer, shape: GateShape) -> Result<()> {
    shape.expect(&[("x of sigmoid_gate", x), ("y of sigmoid_gate", y)], &[("gate of sigmoid_gate", gate)])?;
    match dev {
        Device::Cpu(_) => {
            twin(&x.view()?, &gate.view()?, &mut y.view_mut()?, shape);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "sigmoid_gate",
            weight: None,
            overrides: &[],
            bindings: &[x, gate, y],
            params: bytemuck::bytes_of(&shape.params()?),
            groups: shape.len().div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (24 * ELEMENTS_PER_GROUP) as f64,
        }),
    }
}

fn twin(x: &[f32], gate: &[f32], y: &mut [f32], shape: GateShape) {
    let GateShape { width, gate_width, .. } = shape;
    let rows = y[..shape.len()].par_chunks_mut(width).zip(x.par_chunks(width)).zip(gate.par_chunks(gate_width));
    rows.with_min_len(8).for_each(|((y, x), gate)| match gate {
        [gate] => {
            let s = sigmoid(*gate);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * s);
        }
        gates => y.iter_mut().zip(x).zip(gates).for_each(|((y, x), gate)| *y = x * sigmoid(*gate)),
    });
}
