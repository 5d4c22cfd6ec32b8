//! The gradients of `delta_gates`.

use anyhow::Result;
use rayon::prelude::*;

use super::delta_gates::GateInputs;
use super::glu::sigmoid;
use crate::device::{Buffer, Device};

/// dalpha and dbeta `[tokens, heads]` for the gradient `dgates` `[tokens, 2 heads]`.
///
/// # Errors
/// As [`super::delta_gates::delta_gates`].
pub fn delta_gates_backward(
    dev: &Device,
    inputs: GateInputs,
    dgates: &Buffer,
    [dalpha, dbeta]: [&Buffer; 2],
) -> Result<()> {
    inputs.expect(dgates)?;
    for (role, buffer) in [("dalpha of delta_gates_backward", dalpha), ("dbeta of delta_gates_backward", dbeta)] {
        buffer.expect_words(role, inputs.tokens * inputs.heads)?;
    }
    match dev {
        Device::Cpu(_) => {
            let GateInputs { alpha, beta, rate, shift, tokens, heads } = inputs;
            let (alpha, beta, dgates) = (alpha.view()?, beta.view()?, dgates.view()?);
            let (rate, shift) = (rate.view()?, shift.view()?);
            let vectors = [&rate[..heads], &shift[..heads]];
            let outputs = [&mut *dalpha.view_mut()?, &mut *dbeta.view_mut()?];
            twin([&alpha, &beta, &dgates], vectors, outputs, tokens);
            Ok(())
        }
        Device::Gpu(gpu) => inputs.run(gpu, "delta_gates_backward", &[dgates, dalpha, dbeta]),
    }
}

fn twin(
    [alpha, beta, dgates]: [&[f32]; 3],
    [rate, shift]: [&[f32]; 2],
    [dalpha, dbeta]: [&mut [f32]; 2],
    tokens: usize,
) {
    let heads = rate.len();
    let inputs = alpha.par_chunks(heads).zip(beta.par_chunks(heads)).zip(dgates.par_chunks(2 * heads));
    let outputs = dalpha.par_chunks_mut(heads).zip(dbeta.par_chunks_mut(heads));
    outputs.zip(inputs).take(tokens).with_min_len(64).for_each(|((dalpha, dbeta), ((alpha, beta), dgates))| {
        for head in 0..heads {
            let s = sigmoid(beta[head]);
            dalpha[head] = dgates[head] * rate[head] * sigmoid(alpha[head] + shift[head]);
            dbeta[head] = dgates[heads + head] * s * (1.0 - s);
        }
    });
}
