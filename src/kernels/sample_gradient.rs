//! The gradient of -log p(label) with labels drawn from the model's own distribution, over tiles of the vocabulary.
//!
//! Three passes over the same logits: [`lse_tile`] finds the softmax's denominator, [`cdf_tile`] the label whose cumulative
//! probability passes a uniform number, [`gradient_tile`] turns logits into softmax - one-hot.

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::kld::{merge, top};
use super::{Call, exp, word};
use crate::device::{Buffer, Device};

/// State of one position. Token ids are exact in f32 below 2^24.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Position {
    max: f32,
    /// Sum of exp(z - max).
    sum: f32,
    /// The part of `sum` before the current tile.
    cumulative: f32,
    /// The drawn label, or the most probable one until it is found.
    label: f32,
    found: f32,
    pad: [f32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tile: u32,
    first: u32,
    pad: [u32; 2],
}

/// Running state of `n` positions on the device.
pub struct SampleState {
    n: usize,
    state: Buffer,
}

/// Fresh state of `n` positions.
pub fn start(dev: &Device, n: usize) -> Result<SampleState> {
    let fresh = Position { max: -1e30, ..Position::zeroed() };
    Ok(SampleState { n, state: dev.upload("sampling state", &vec![fresh; n])? })
}

impl SampleState {
    fn expect(&self, z: &Buffer, n: usize, tile: usize) -> Result<()> {
        ensure!(n == self.n, "sampling state of {} positions got {n}", self.n);
        ensure!(tile > 0, "an empty tile of the vocabulary");
        z.expect_words("logits of sample_gradient", n * tile)
    }
}

fn record(
    dev: &Device,
    shader: &'static str,
    bindings: &[&Buffer],
    groups: usize,
    tile: usize,
    first: usize,
) -> Result<()> {
    let Device::Gpu(gpu) = dev else { unreachable!("only called for a GPU") };
    gpu.run(&Call {
        shader,
        weight: None,
        overrides: &[],
        bindings,
        params: bytemuck::bytes_of(&Params { tile: word(tile)?, first: word(first)?, pad: [0; 2] }),
        groups,
        group_cost: (32 * tile) as f64,
    })
}

/// First pass: adds the logits z `[n, tile]` from token `first` on to the denominators.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding. The same holds for the other passes.
pub fn lse_tile(dev: &Device, state: &SampleState, z: &Buffer, n: usize, tile: usize, first: usize) -> Result<()> {
    state.expect(z, n, tile)?;
    if dev.is_gpu() {
        return record(dev, "sample_lse", &[z, &state.state], n, tile, first);
    }
    twin_lse(&mut state.state.view_mut()?, &z.view()?, tile, first);
    Ok(())
}

/// Second pass, over the same tiles in ascending order: finds the labels for `uniforms` `[n]` in [0, 1).
pub fn cdf_tile(
    dev: &Device,
    state: &SampleState,
    z: &Buffer,
    uniforms: &Buffer,
    n: usize,
    tile: usize,
    first: usize,
) -> Result<()> {
    state.expect(z, n, tile)?;
    uniforms.expect_words("uniform numbers of sample_gradient", n)?;
    if dev.is_gpu() {
        return record(dev, "sample_cdf", &[z, &state.state, uniforms], n, tile, first);
    }
    twin_cdf(&mut state.state.view_mut()?, &z.view()?, &uniforms.view()?, tile, first);
    Ok(())
}

/// Third pass, over the same tiles in any order: z becomes softmax(z) - [label == first + column].
pub fn gradient_tile(dev: &Device, state: &SampleState, z: &Buffer, n: usize, tile: usize, first: usize) -> Result<()> {
    state.expect(z, n, tile)?;
    if dev.is_gpu() {
        return record(dev, "sample_gradient", &[&state.state, z], n, tile, first);
    }
    twin_gradient(&state.state.view()?, &mut z.view_mut()?, tile, first);
    Ok(())
}

/// The labels that were drawn, once [`cdf_tile`] has seen every tile.
pub fn labels(dev: &Device, state: &SampleState) -> Result<Vec<u32>> {
    let positions: Vec<Position> = dev.read_range(&state.state, 0, state.n)?;
    Ok(positions.iter().map(|position| position.label as u32).collect())
}

pub fn twin_lse(state: &mut [f32], z: &[f32], tile: usize, first: usize) {
    let state: &mut [Position] = bytemuck::cast_slice_mut(state);
    state.par_iter_mut().zip(z.par_chunks_exact(tile)).for_each(|(position, z)| {
        let (at, max) = top(z);
        let sum: f64 = z.chunks(1024).map(|z| f64::from(sum_exp(z, max))).sum();
        let (old, new) = merge(position.max, max);
        position.sum = (f64::from(position.sum) * old + sum * new) as f32;
        if max > position.max {
            (position.max, position.label) = (max, (first + at) as f32);
        }
    });
}

fn sum_exp(z: &[f32], max: f32) -> f32 {
    let (lanes, rest) = z.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for lane in lanes {
        for i in 0..16 {
            sums[i] += exp(lane[i] - max);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|z| exp(z - max)).sum::<f32>()
}

pub fn twin_cdf(state: &mut [f32], z: &[f32], uniforms: &[f32], tile: usize, first: usize) {
    let state: &mut [Position] = bytemuck::cast_slice_mut(state);
    let rows = z.par_chunks_exact(tile).zip(uniforms);
    state.par_iter_mut().zip(rows).filter(|(position, _)| position.found == 0.0).for_each(
        |(position, (z, uniform))| {
            let threshold = f64::from(*uniform) * f64::from(position.sum);
            let mut cumulative = f64::from(position.cumulative);
            for (i, z) in z.iter().enumerate() {
                cumulative += f64::from(exp(z - position.max));
                if cumulative > threshold {
                    (position.label, position.found) = ((first + i) as f32, 1.0);
                    return;
                }
            }
            position.cumulative = cumulative as f32;
        },
    );
}

pub fn twin_gradient(state: &[f32], z: &mut [f32], tile: usize, first: usize) {
    let state: &[Position] = bytemuck::cast_slice(state);
    z.par_chunks_exact_mut(tile).zip(state).for_each(|(z, position)| {
        let share = 1.0 / position.sum;
        for value in z.iter_mut() {
            *value = exp(*value - position.max) * share;
        }
        if let Some(at) = (position.label as usize).checked_sub(first).filter(|at| *at < z.len()) {
            z[at] -= 1.0;
        }
    });
}
