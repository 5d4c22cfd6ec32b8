//! The gradients of `sigmoid_gate`.

use anyhow::Result;
use rayon::prelude::*;

use super::glu::sigmoid;
use super::norm::workgroup;
use super::sigmoid_gate::GateShape;
use super::{Call, dot};
use crate::device::{Buffer, Device};

/// dx = dy * s and dgate = dy * x * s (1 - s) with s = sigmoid(gate), summed over the columns that share a gate.
///
/// # Errors
/// As [`super::sigmoid_gate::sigmoid_gate`].
pub fn sigmoid_gate_backward(
    dev: &Device,
    [x, gate, dy]: [&Buffer; 3],
    [dx, dgate]: [&Buffer; 2],
    shape: GateShape,
) -> Result<()> {
    let wide =
        [("x of sigmoid_gate_backward", x), ("dy of sigmoid_gate_backward", dy), ("dx of sigmoid_gate_backward", dx)];
    shape.expect(&wide, &[("gate of sigmoid_gate_backward", gate), ("dgate of sigmoid_gate_backward", dgate)])?;
    match dev {
        Device::Cpu(_) => {
            let (x, gate, dy) = (x.view()?, gate.view()?, dy.view()?);
            twin([&x, &gate, &dy], &mut dx.view_mut()?, &mut dgate.view_mut()?, shape);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "sigmoid_gate_backward",
            weight: None,
            overrides: &[("WORKGROUP", workgroup(shape.width) as f64)],
            bindings: &[x, gate, dy, dx, dgate],
            params: bytemuck::bytes_of(&shape.params()?),
            groups: shape.rows,
            group_cost: (32 * shape.width) as f64,
        }),
    }
}

fn twin([x, gate, dy]: [&[f32]; 3], dx: &mut [f32], dgate: &mut [f32], shape: GateShape) {
    let GateShape { rows, width, gate_width } = shape;
    let inputs = x.par_chunks(width).zip(dy.par_chunks(width)).zip(gate.par_chunks(gate_width));
    let outputs = dx[..rows * width].par_chunks_mut(width).zip(dgate.par_chunks_mut(gate_width));
    outputs.zip(inputs).with_min_len(8).for_each(|((dx, dgate), ((x, dy), gate))| match gate {
        [gate] => {
            let s = sigmoid(*gate);
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * s);
            dgate[0] = dot(x, dy) * s * (1.0 - s);
        }
        gates => {
            let columns = dx.iter_mut().zip(dgate).zip(x).zip(dy).zip(gates);
            columns.for_each(|((((dx, dgate), x), dy), gate)| {
                let s = sigmoid(*gate);
                *dx = dy * s;
                *dgate = dy * x * s * (1.0 - s);
            });
        }
    });
}
