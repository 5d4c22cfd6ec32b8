//! KL divergence of two sets of logits, in a running form over tiles of the vocabulary.
//!
//! Per position: the softmax's maximum and sum of both, the base-weighted sum of logit differences, the arg-max of both and
//! the logits of the target. No logits are kept, and equal logits give exactly 0.

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Call, exp, word};
use crate::device::{Buffer, Device};

/// State of one position. Token ids are exact in f32 below 2^24.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Position {
    base_max: f32,
    base_sum: f32,
    /// Sum of exp(base - base_max) * (base - quant).
    base_difference: f32,
    base_top: f32,
    quant_max: f32,
    quant_sum: f32,
    quant_top: f32,
    base_target: f32,
    quant_target: f32,
    pad: [f32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    tile: u32,
    first: u32,
    pad: [u32; 2],
}

/// Running statistics of `n` positions on the device.
pub struct KldState {
    n: usize,
    state: Buffer,
}

/// What one position contributes, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenStats {
    /// KL(base || quant). Rounding may leave it a little below zero.
    pub kld: f64,
    /// Log probability of the target under each model.
    pub lp_base: f64,
    pub lp_quant: f64,
    /// Whether both models rank the same token first.
    pub same_top: bool,
}

/// Fresh statistics of `n` positions.
pub fn start(dev: &Device, n: usize) -> Result<KldState> {
    let fresh = Position { base_max: -1e30, quant_max: -1e30, ..Position::zeroed() };
    Ok(KldState { n, state: dev.upload("divergence statistics", &vec![fresh; n])? })
}

/// Adds the logits `[n, tile]` of the vocabulary from token `first` on. `targets` are `[n]` token ids, u32.
///
/// # Errors
/// If a buffer is too small, or on a GPU larger than a binding.
#[expect(clippy::too_many_arguments)]
pub fn tile(
    dev: &Device,
    state: &KldState,
    base: &Buffer,
    quant: &Buffer,
    targets: &Buffer,
    n: usize,
    tile: usize,
    first: usize,
) -> Result<()> {
    ensure!(n == state.n, "divergence statistics of {} positions got {n}", state.n);
    ensure!(tile > 0, "an empty tile of the vocabulary");
    base.expect_words("base logits of kld", n * tile)?;
    quant.expect_words("quant logits of kld", n * tile)?;
    targets.expect_words("targets of kld", n)?;
    match dev {
        Device::Cpu(_) => {
            let (base, quant, targets) = (base.view()?, quant.view()?, targets.view()?);
            twin(&mut state.state.view_mut()?, &base, &quant, &targets, tile, first);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "kld",
            weight: None,
            overrides: &[],
            bindings: &[base, quant, targets, &state.state],
            params: bytemuck::bytes_of(&Params { tile: word(tile)?, first: word(first)?, pad: [0; 2] }),
            groups: n,
            group_cost: (50 * tile) as f64,
        }),
    }
}

/// The statistics of every position, once all tiles were added.
pub fn finish(dev: &Device, state: &KldState) -> Result<Vec<TokenStats>> {
    let positions: Vec<Position> = dev.read_range(&state.state, 0, state.n)?;
    Ok(positions.iter().map(Position::finish).collect())
}

impl Position {
    fn finish(&self) -> TokenStats {
        let log_total = |max: f32, sum: f32| f64::from(max) + f64::from(sum).ln();
        let base = log_total(self.base_max, self.base_sum);
        let quant = log_total(self.quant_max, self.quant_sum);
        TokenStats {
            kld: f64::from(self.base_difference) / f64::from(self.base_sum) + (quant - base),
            lp_base: f64::from(self.base_target) - base,
            lp_quant: f64::from(self.quant_target) - quant,
            same_top: self.base_top == self.quant_top,
        }
    }

    fn add(&mut self, base: &[f32], quant: &[f32], target: u32, first: usize) {
        let (base_at, base_max) = top(base);
        let (quant_at, quant_max) = top(quant);
        let sums = sums(base, quant, base_max, quant_max);

        let (old, new) = merge(self.base_max, base_max);
        self.base_sum = (f64::from(self.base_sum) * old + sums[0] * new) as f32;
        self.base_difference = (f64::from(self.base_difference) * old + sums[1] * new) as f32;
        let (old, new) = merge(self.quant_max, quant_max);
        self.quant_sum = (f64::from(self.quant_sum) * old + sums[2] * new) as f32;
        if base_max > self.base_max {
            (self.base_max, self.base_top) = (base_max, (first + base_at) as f32);
        }
        if quant_max > self.quant_max {
            (self.quant_max, self.quant_top) = (quant_max, (first + quant_at) as f32);
        }
        if let Some(at) = (target as usize).checked_sub(first).filter(|at| *at < base.len()) {
            (self.base_target, self.quant_target) = (base[at], quant[at]);
        }
    }
}

/// Factors that bring old and new sums to the larger maximum.
pub(super) fn merge(old: f32, new: f32) -> (f64, f64) {
    let max = f64::from(old.max(new));
    ((f64::from(old) - max).exp(), (f64::from(new) - max).exp())
}

/// Place and value of the largest element, the first among equals.
pub(super) fn top(values: &[f32]) -> (usize, f32) {
    // Two passes, since a search for the value alone vectorizes.
    let (lanes, rest) = values.as_chunks::<16>();
    let mut best = [-1e30f32; 16];
    for lane in lanes {
        for i in 0..16 {
            best[i] = if lane[i] > best[i] { lane[i] } else { best[i] };
        }
    }
    let max = best.iter().chain(rest).fold(-1e30f32, |a, b| a.max(*b));
    (values.iter().position(|value| *value == max).unwrap_or(0), max)
}

/// Sums of exp(base - base_max), the same times (base - quant), and of exp(quant - quant_max): f32 within short runs, f64
/// across them.
fn sums(base: &[f32], quant: &[f32], base_max: f32, quant_max: f32) -> [f64; 3] {
    let mut totals = [0.0f64; 3];
    for (base, quant) in base.chunks(1024).zip(quant.chunks(1024)) {
        let mut lanes = [[0.0f32; 16]; 3];
        let (base_lanes, base_rest) = base.as_chunks::<16>();
        let (quant_lanes, quant_rest) = quant.as_chunks::<16>();
        for (base, quant) in base_lanes.iter().zip(quant_lanes) {
            for i in 0..16 {
                let weight = exp(base[i] - base_max);
                lanes[0][i] += weight;
                lanes[1][i] += weight * (base[i] - quant[i]);
                lanes[2][i] += exp(quant[i] - quant_max);
            }
        }
        for (i, (base, quant)) in base_rest.iter().zip(quant_rest).enumerate() {
            let weight = exp(base - base_max);
            lanes[0][i] += weight;
            lanes[1][i] += weight * (base - quant);
            lanes[2][i] += exp(quant - quant_max);
        }
        for (total, lanes) in totals.iter_mut().zip(lanes) {
            *total += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        }
    }
    totals
}

/// `state` is `[n, 12]`; see [`tile`].
pub fn twin(state: &mut [f32], base: &[f32], quant: &[f32], targets: &[u32], tile: usize, first: usize) {
    let state: &mut [Position] = bytemuck::cast_slice_mut(state);
    let rows = base.par_chunks_exact(tile).zip(quant.par_chunks_exact(tile)).zip(targets);
    state.par_iter_mut().zip(rows).for_each(|(position, ((base, quant), target))| {
        position.add(base, quant, *target, first);
    });
}
