//! The gates of the delta rule: how much of its state a head keeps, and how far it steps, for each token.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::glu::sigmoid;
use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device, GpuDevice};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    heads: u32,
    pad: [u32; 2],
}

/// What decides of the gates.
#[derive(Clone, Copy)]
pub struct GateInputs<'a> {
    /// `[tokens, heads]` each.
    pub alpha: &'a Buffer,
    pub beta: &'a Buffer,
    /// `[heads]` each: rates are below 0.
    pub rate: &'a Buffer,
    pub shift: &'a Buffer,
    pub tokens: usize,
    pub heads: usize,
}

impl GateInputs<'_> {
    pub(super) fn expect(&self, gates: &Buffer) -> Result<()> {
        let GateInputs { alpha, beta, rate, shift, tokens, heads } = *self;
        alpha.expect_words("alpha of delta_gates", tokens * heads)?;
        beta.expect_words("beta of delta_gates", tokens * heads)?;
        rate.expect_words("rate of delta_gates", heads)?;
        shift.expect_words("shift of delta_gates", heads)?;
        gates.expect_words("gates of delta_gates", 2 * tokens * heads)
    }

    /// Runs a shader that binds these and others.
    pub(super) fn run(&self, gpu: &GpuDevice, shader: &'static str, others: &[&Buffer]) -> Result<()> {
        let len = self.tokens * self.heads;
        let mut bindings = vec![self.alpha, self.beta, self.rate, self.shift];
        bindings.extend(others);
        gpu.run(&Call {
            shader,
            weight: None,
            overrides: &[],
            bindings: &bindings,
            params: bytemuck::bytes_of(&Params { len: word(len)?, heads: word(self.heads)?, pad: [0; 2] }),
            groups: len.div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (64 * ELEMENTS_PER_GROUP) as f64,
        })
    }
}

/// gates `[tokens, 2 heads]`: the logarithms of what is kept, rate softplus(alpha + shift), then the steps, sigmoid(beta).
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn delta_gates(dev: &Device, inputs: GateInputs, gates: &Buffer) -> Result<()> {
    inputs.expect(gates)?;
    match dev {
        Device::Cpu(_) => {
            let GateInputs { alpha, beta, rate, shift, tokens, heads } = inputs;
            let (rate, shift) = (rate.view()?, shift.view()?);
            let vectors = [&rate[..heads], &shift[..heads]];
            twin(&alpha.view()?, &beta.view()?, vectors, &mut gates.view_mut()?, tokens);
            Ok(())
        }
        Device::Gpu(gpu) => inputs.run(gpu, "delta_gates", &[gates]),
    }
}

fn twin(alpha: &[f32], beta: &[f32], [rate, shift]: [&[f32]; 2], gates: &mut [f32], tokens: usize) {
    let heads = rate.len();
    let inputs = alpha.par_chunks(heads).zip(beta.par_chunks(heads));
    let rows = gates.par_chunks_mut(2 * heads).zip(inputs).take(tokens).with_min_len(64);
    rows.for_each(|(gates, (alpha, beta))| {
        for head in 0..heads {
            let x = alpha[head] + shift[head];
            gates[head] = rate[head] * (x.max(0.0) + (-x.abs()).exp().ln_1p());
            gates[heads + head] = sigmoid(beta[head]);
        }
    });
}
