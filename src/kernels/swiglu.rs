//! out = silu(gate) * up.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    pub(super) len: u32,
    pub(super) pad: [u32; 3],
}

/// `out[i] = gate[i] / (1 + exp(-gate[i])) * up[i]` for `len` elements.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn swiglu(dev: &Device, gate: &Buffer, up: &Buffer, out: &Buffer, len: usize) -> Result<()> {
    for (role, buffer) in [("gate of swiglu", gate), ("up of swiglu", up), ("out of swiglu", out)] {
        buffer.expect_words(role, len)?;
    }
    match dev {
        Device::Cpu(_) => {
            twin(&gate.view::<f32>()?[..len], &up.view()?, &mut out.view_mut()?);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "swiglu",
            weight: None,
            overrides: &[],
            bindings: &[gate, up, out],
            params: bytemuck::bytes_of(&Params { len: word(len)?, pad: [0; 3] }),
            groups: len.div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (32 * ELEMENTS_PER_GROUP) as f64,
        }),
    }
}

pub fn twin(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let all = out.par_iter_mut().zip(gate).zip(up).with_min_len(4096);
    all.for_each(|((out, gate), up)| *out = gate * sigmoid(*gate) * up);
}

/// 1 / (1 + exp(-x)), without ever making an infinity: shaders may not have them.
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).min(80.0).exp())
}
