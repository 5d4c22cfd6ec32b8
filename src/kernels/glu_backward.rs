//! The gradients of `glu`.

use anyhow::Result;
use rayon::prelude::*;

use super::glu::{Activation, Params};
use super::{Call, ELEMENTS_PER_GROUP};
use crate::device::{Buffer, Device};

/// dgate = dout * up * activation'(gate), dup = dout * activation(gate), for `len` elements; 0 beyond a bound.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn glu_backward(
    dev: &Device,
    activation: Activation,
    [gate, up, dout]: [&Buffer; 3],
    [dgate, dup]: [&Buffer; 2],
    len: usize,
) -> Result<()> {
    for (name, buffer) in [("gate", gate), ("up", up), ("dout", dout), ("dgate", dgate), ("dup", dup)] {
        buffer.expect_words(&format!("{name} of glu_backward"), len)?;
    }
    match dev {
        Device::Cpu(_) => {
            let (gate, up, dout) = (gate.view::<f32>()?, up.view()?, dout.view()?);
            twin(activation, [&gate[..len], &up, &dout], &mut dgate.view_mut()?, &mut dup.view_mut()?);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "glu_backward",
            weight: None,
            overrides: &[],
            bindings: &[gate, up, dout, dgate, dup],
            params: bytemuck::bytes_of(&Params::new(activation, len)?),
            groups: len.div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (48 * ELEMENTS_PER_GROUP) as f64,
        }),
    }
}

fn twin(activation: Activation, [gate, up, dout]: [&[f32]; 3], dgate: &mut [f32], dup: &mut [f32]) {
    let all = dgate.par_iter_mut().zip(dup).zip(gate).zip(up).zip(dout).with_min_len(4096);
    all.for_each(|((((dgate, dup), gate), up), dout)| {
        let ([gate, up], inside) = activation.bounded(*gate, *up);
        let (s, slope) = activation.gate(gate);
        *dgate = dout * up * s * (1.0 + gate * slope * (1.0 - s)) * inside[0];
        *dup = dout * gate * s * inside[1];
    });
}
