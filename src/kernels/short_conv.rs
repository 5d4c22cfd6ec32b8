//! y\[t, c\] = SiLU(sum of w\[c, k\] x\[t - taps + 1 + k, c\]): a causal convolution of each channel, over the last tokens of a sequence.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::glu::sigmoid;
use super::{Call, ELEMENTS_PER_GROUP, word};
use crate::device::{Buffer, Device, GpuDevice};

/// The shape of a short convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Independent sequences of `seq_len` tokens each; before each of them there are zeros.
    pub sequences: usize,
    pub seq_len: usize,
    pub channels: usize,
    /// Tokens that each sees, itself included.
    pub taps: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    channels: u32,
    seq_len: u32,
    taps: u32,
}

impl ConvShape {
    pub(super) fn len(&self) -> usize {
        self.sequences * self.seq_len * self.channels
    }

    /// Fails unless all are `[tokens, channels]`, and the weight `[channels, taps]`.
    pub(super) fn expect(&self, matrices: &[(&str, &Buffer)], weight: &Buffer) -> Result<()> {
        weight.expect_words("the weight of short_conv", self.channels * self.taps)?;
        matrices.iter().try_for_each(|(role, buffer)| buffer.expect_words(role, self.len()))
    }

    /// Runs a shader that takes so many sums for each element.
    pub(super) fn run(&self, gpu: &GpuDevice, shader: &'static str, bindings: &[&Buffer], sums: usize) -> Result<()> {
        let [len, channels, seq_len, taps] = [self.len(), self.channels, self.seq_len, self.taps].map(word);
        gpu.run(&Call {
            shader,
            weight: None,
            overrides: &[],
            bindings,
            params: bytemuck::bytes_of(&Params { len: len?, channels: channels?, seq_len: seq_len?, taps: taps? }),
            groups: self.len().div_ceil(ELEMENTS_PER_GROUP),
            group_cost: (sums * (4 * self.taps + 16) * ELEMENTS_PER_GROUP) as f64,
        })
    }

    /// Rows of weights, one for each distance between tokens.
    pub(super) fn by_distance(&self, weight: &[f32]) -> Vec<f32> {
        let ConvShape { channels, taps, .. } = *self;
        let at = |back: usize, channel: usize| weight[channel * taps + taps - 1 - back];
        (0..taps).flat_map(|back| (0..channels).map(move |channel| at(back, channel))).collect()
    }

    /// The sums at one token, before their activation. `weight` is [`ConvShape::by_distance`].
    pub(super) fn convolve(&self, x: &[f32], weight: &[f32], row: usize, sums: &mut [f32]) {
        sums.fill(0.0);
        for (back, weight) in weight.chunks_exact(self.channels).enumerate().take(row % self.seq_len + 1) {
            let x = &x[(row - back) * self.channels..][..self.channels];
            sums.iter_mut().zip(x).zip(weight).for_each(|((sum, x), weight)| *sum += weight * x);
        }
    }
}

/// y `[tokens, channels]` of x `[tokens, channels]`; `weight` is `[channels, taps]`, the last of them for the token itself.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
pub fn short_conv(dev: &Device, x: &Buffer, weight: &Buffer, y: &Buffer, shape: ConvShape) -> Result<()> {
    shape.expect(&[("x of short_conv", x), ("y of short_conv", y)], weight)?;
    match dev {
        Device::Cpu(_) => {
            twin(&x.view()?, &weight.view()?, &mut y.view_mut()?, shape);
            Ok(())
        }
        Device::Gpu(gpu) => shape.run(gpu, "short_conv", &[x, weight, y], 1),
    }
}

fn twin(x: &[f32], weight: &[f32], y: &mut [f32], shape: ConvShape) {
    let weight = shape.by_distance(weight);
    let rows = y[..shape.len()].par_chunks_mut(shape.channels).enumerate().with_min_len(4);
    rows.for_each(|(row, y)| {
        shape.convolve(x, &weight, row, y);
        y.iter_mut().for_each(|y| *y *= sigmoid(*y));
    });
}
