//! out = activation(gate) * up, or the same of bounded values.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device};

/// What a gate goes through: x times the sigmoid of some a(x).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// a = x: Llama, Qwen, Mistral.
    Silu,
    /// a = sqrt(8 / pi) (x + 0.044715 x^3), the approximation with tanh: Gemma.
    GeluTanh,
    /// a = 1.702 x for x up to 7, and up + 1 in place of up, which is bounded to -7 to 7: gpt-oss.
    ClampedSwiglu,
}

impl Activation {
    pub const ALL: [Activation; 3] = [Activation::Silu, Activation::GeluTanh, Activation::ClampedSwiglu];

    /// What is taken in place of gate and up, and the derivative of each: 0 where it is bounded, else 1.
    pub(super) fn bounded(self, gate: f32, up: f32) -> ([f32; 2], [f32; 2]) {
        match self {
            Activation::Silu | Activation::GeluTanh => ([gate, up], [1.0; 2]),
            Activation::ClampedSwiglu => {
                let inside = [gate <= LIMIT, up.abs() <= LIMIT].map(|inside| f32::from(u8::from(inside)));
                ([gate.min(LIMIT), up.clamp(-LIMIT, LIMIT) + 1.0], inside)
            }
        }
    }

    /// sigmoid(a(x)) and a'(x).
    pub(super) fn gate(self, x: f32) -> (f32, f32) {
        match self {
            Activation::Silu => (sigmoid(x), 1.0),
            Activation::GeluTanh => {
                // beyond, the sigmoid is 0 or 1, and a cube might be no number
                let bounded = x.clamp(-100.0, 100.0);
                let square = bounded * bounded;
                let inner = GELU_SCALE * bounded * (1.0 + GELU_CUBE * square);
                (sigmoid(inner), GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * square))
            }
            Activation::ClampedSwiglu => (sigmoid(STEEPNESS * x), STEEPNESS),
        }
    }
}

/// sqrt(8 / pi)
const GELU_SCALE: f32 = 1.595_769_2;
const GELU_CUBE: f32 = 0.044_715;

/// Of the activation of gpt-oss.
const STEEPNESS: f32 = 1.702;
const LIMIT: f32 = 7.0;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    len: u32,
    activation: u32,
    pad: [u32; 2],
}

impl Params {
    pub(super) fn new(activation: Activation, len: usize) -> Result<Params> {
        let activation = match activation {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
            Activation::ClampedSwiglu => 2,
        };
        Ok(Params { len: word(len)?, activation, pad: [0; 2] })
    }
}

/// `out[i] = activation(gate[i]) * up[i]` for `len` elements, each bounded as the activation says.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn glu(dev: &Device, activation: Activation, gate: &Buffer, up: &Buffer, out: &Buffer, len: usize) -> Result<()> {
    for (role, buffer) in [("gate of glu", gate), ("up of glu", up), ("out of glu", out)] {
        buffer.expect_words(role, len)?;
    }
    match dev {
        Device::Cpu(_) => {
            twin(activation, &gate.view::<f32>()?[..len], &up.view()?, &mut out.view_mut()?);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "glu",
            weight: None,
            overrides: &[],
            bindings: &[gate, up, out],
            params: bytemuck::bytes_of(&Params::new(activation, len)?),
            groups: len.div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (32 * ELEMENTS_PER_GROUP) as f64,
        }),
    }
}

fn twin(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let all = out.par_iter_mut().zip(gate).zip(up).with_min_len(4096);
    all.for_each(|((out, gate), up)| {
        let ([gate, up], _) = activation.bounded(*gate, *up);
        *out = gate * activation.gate(gate).0 * up;
    });
}

/// 1 / (1 + exp(-x)), without ever making an infinity: shaders may not have them.
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).min(80.0).exp())
}
