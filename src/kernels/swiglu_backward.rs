//! The gradients of `swiglu`.

use anyhow::Result;
use rayon::prelude::*;

use super::swiglu::{Params, sigmoid};
use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device};

/// With s = sigmoid(gate): dgate = dout * up * s * (1 + gate * (1 - s)), dup = dout * gate * s, for `len` elements.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn swiglu_backward(
    dev: &Device,
    gate: &Buffer,
    up: &Buffer,
    dout: &Buffer,
    dgate: &Buffer,
    dup: &Buffer,
    len: usize,
) -> Result<()> {
    for (name, buffer) in [("gate", gate), ("up", up), ("dout", dout), ("dgate", dgate), ("dup", dup)] {
        buffer.expect_words(&format!("{name} of swiglu_backward"), len)?;
    }
    match dev {
        Device::Cpu(_) => {
            let (gate, up, dout) = (gate.view::<f32>()?, up.view()?, dout.view()?);
            twin(&gate[..len], &up, &dout, &mut dgate.view_mut()?, &mut dup.view_mut()?);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "swiglu_backward",
            weight: None,
            overrides: &[],
            bindings: &[gate, up, dout, dgate, dup],
            params: bytemuck::bytes_of(&Params { len: word(len)?, pad: [0; 3] }),
            groups: len.div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (48 * ELEMENTS_PER_GROUP) as f64,
        }),
    }
}

pub fn twin(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let all = dgate.par_iter_mut().zip(dup).zip(gate).zip(up).zip(dout).with_min_len(4096);
    all.for_each(|((((dgate, dup), gate), up), dout)| {
        let s = sigmoid(*gate);
        *dgate = dout * up * s * (1.0 + gate * (1.0 - s));
        *dup = dout * gate * s;
    });
}
