//! What each expert counts for each token: `[tokens, experts]`, 0 where an expert is not asked.
//!
//! Worked out on the host on both devices: the experts need to know who is asked anyway, and the numbers are few.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::{Operation, Value, WeightUse};

/// What scores become before experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Of all experts.
    Softmax,
    /// Of each by itself.
    Sigmoid,
}

/// How experts are chosen and weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    pub experts: usize,
    /// Experts that are asked for each token: those that count most.
    pub used: usize,
    pub gating: Gating,
    /// Neighbouring experts form so many groups ...
    pub groups: usize,
    /// ... of which so many are asked: those whose best two experts count most.
    pub groups_used: usize,
    /// Whether the shares of those that are asked sum up to `scale`; else they keep those that they have among all, times `scale`.
    pub normalizes: bool,
    pub scale: f32,
}

impl Routing {
    /// The shares of one token's experts, from its scores. `bias` counts where experts are chosen, but not in their shares.
    fn shares(self, scores: &[f32], bias: Option<&[f32]>, shares: &mut [f32]) {
        self.gate(scores, shares);
        let worth: Vec<f32> = match bias {
            None => shares.to_vec(),
            Some(bias) => shares.iter().zip(bias).map(|(share, bias)| share + bias).collect(),
        };
        let mut order = self.candidates(&worth);
        // of equal ones the larger score, though rounding may hide it; then the first
        order.sort_by(|a, b| worth[*b].total_cmp(&worth[*a]).then(scores[*b].total_cmp(&scores[*a])));
        let asked = &order[..self.used.min(order.len())];
        let sum: f32 = asked.iter().map(|expert| shares[*expert]).sum();
        let whole = if self.normalizes { sum.max(SMALLEST_SUM) } else { 1.0 };
        let mut kept = vec![0.0; self.experts];
        asked.iter().for_each(|expert| kept[*expert] = shares[*expert] / whole * self.scale);
        shares.copy_from_slice(&kept);
    }

    fn gate(self, scores: &[f32], out: &mut [f32]) {
        match self.gating {
            Gating::Softmax => softmax(scores, out),
            Gating::Sigmoid => out.iter_mut().zip(scores).for_each(|(out, score)| *out = 1.0 / (1.0 + (-score).exp())),
        }
    }

    /// The experts of the groups that are asked.
    fn candidates(self, worth: &[f32]) -> Vec<usize> {
        if self.groups <= 1 {
            return (0..self.experts).collect();
        }
        let size = self.experts / self.groups;
        let best_two = |group: &usize| {
            let mut members = worth[group * size..(group + 1) * size].to_vec();
            members.sort_by(|a, b| b.total_cmp(a));
            members.iter().take(2).sum::<f32>()
        };
        let mut groups: Vec<usize> = (0..self.groups).collect();
        groups.sort_by(|a, b| best_two(b).total_cmp(&best_two(a)));
        groups.truncate(self.groups_used);
        groups.sort_unstable();
        groups.iter().flat_map(|group| group * size..(group + 1) * size).collect()
    }

    /// The gradient at one token's scores, from its shares and theirs.
    fn gradient(self, scores: &[f32], shares: &[f32], dshares: &[f32], dscores: &mut [f32]) {
        let mut gated = vec![0.0; self.experts];
        self.gate(scores, &mut gated);
        let sum: f32 = shares.iter().zip(&gated).filter(|(share, _)| **share != 0.0).map(|(_, gated)| gated).sum();
        let mean: f32 = shares.iter().zip(dshares).map(|(share, d)| share * d).sum();
        // at what the gating has made
        let each = dscores.iter_mut().zip(shares).zip(dshares);
        each.for_each(|((out, share), d)| {
            *out = match self.normalizes {
                _ if *share == 0.0 => 0.0,
                true => (self.scale * d - mean) / sum.max(SMALLEST_SUM),
                false => self.scale * d,
            }
        });
        match self.gating {
            Gating::Softmax => {
                let mean: f32 = gated.iter().zip(&*dscores).map(|(gated, d)| gated * d).sum();
                dscores.iter_mut().zip(&gated).for_each(|(d, gated)| *d = gated * (*d - mean));
            }
            Gating::Sigmoid => dscores.iter_mut().zip(&gated).for_each(|(d, gated)| *d *= gated * (1.0 - gated)),
        }
    }
}

/// What a sum of shares is at least when it divides, as llama.cpp has it.
const SMALLEST_SUM: f32 = 6.103_515_6e-5;

fn softmax(scores: &[f32], out: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::MIN, f32::max);
    out.iter_mut().zip(scores).for_each(|(out, score)| *out = (score - largest).exp());
    let sum: f32 = out.iter().sum();
    out.iter_mut().for_each(|out| *out /= sum);
}

#[derive(Clone, Debug)]
pub struct Router {
    /// Scores, `[tokens, experts]`.
    pub src: Value,
    pub dst: Value,
    /// What experts count more or less when they are chosen, if the model says so.
    pub bias: Option<String>,
    pub routing: Routing,
}

impl Operation for Router {
    fn name(&self) -> &'static str {
        "router"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.src]
    }

    fn writes(&self) -> Value {
        self.dst
    }

    fn keeps(&self) -> Vec<Value> {
        vec![self.src, self.dst]
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        self.bias.as_deref().map(WeightUse::Vector).into_iter().collect()
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let out = pass.output()?;
        let (device, experts) = (pass.batch.device, self.routing.experts);
        let scores = device.read_range::<f32>(pass.get(self.src), 0, pass.len(self.src))?;
        let bias = self.bias.as_ref().map(|name| device.read_range::<f32>(pass.weights.vector(name), 0, experts));
        let bias = bias.transpose()?;
        let mut shares = vec![0f32; scores.len()];
        let tokens = scores.chunks_exact(experts).zip(shares.chunks_exact_mut(experts));
        tokens.for_each(|(scores, shares)| self.routing.shares(scores, bias.as_deref(), shares));
        device.write(&out, 0, &shares)
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let (device, experts, len) = (pass.batch.device, self.routing.experts, pass.len(self.dst));
        let [scores, shares, dshares] = [pass.get(self.src), pass.get(self.dst), &dy];
        let read = |buffer| device.read_range::<f32>(buffer, 0, len);
        let [scores, shares, dshares] = [read(scores)?, read(shares)?, read(dshares)?];
        let mut dscores = vec![0f32; len];
        for (token, out) in dscores.chunks_exact_mut(experts).enumerate() {
            let row = token * experts..(token + 1) * experts;
            self.routing.gradient(&scores[row.clone()], &shares[row.clone()], &dshares[row], out);
        }
        device.write(&dy, 0, &dscores)?;
        pass.give(self.src, dy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Routing = Routing {
        experts: 4,
        used: 2,
        gating: Gating::Softmax,
        groups: 1,
        groups_used: 1,
        normalizes: true,
        scale: 1.0,
    };

    fn shares(routing: Routing, scores: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let mut shares = vec![9.0; scores.len()];
        routing.shares(scores, bias, &mut shares);
        shares
    }

    #[test]
    fn the_largest_scores_are_asked_and_share() {
        let scores = [0.0f32, 2.0, 1.0, 2.0];
        let e = std::f32::consts::E;
        assert_eq!(shares(PLAIN, &scores, None), [0.0, 0.5, 0.0, 0.5]);
        let one = shares(Routing { used: 1, normalizes: false, scale: 3.0, ..PLAIN }, &scores, None);
        let all = 1.0 + e + 2.0 * e * e;
        assert!((one[1] - 3.0 * e * e / all).abs() < 1e-6, "{one:?}");
        assert_eq!(one[3], 0.0, "of equal ones the first");
    }

    #[test]
    fn a_bias_chooses_but_does_not_share() {
        let sigmoid = Routing { gating: Gating::Sigmoid, normalizes: false, used: 1, ..PLAIN };
        let shares = shares(sigmoid, &[0.0, 2.0, 1.0, 2.0], Some(&[0.9, 0.0, 0.0, 0.0]));
        assert_eq!(shares, [0.5, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn groups_are_asked_by_their_best_two() {
        let grouped = Routing { experts: 6, groups: 2, gating: Gating::Sigmoid, ..PLAIN };
        let shares = shares(grouped, &[3.0, -3.0, -3.0, 1.0, 2.0, -3.0], None);
        assert!(shares[..3].iter().all(|share| *share == 0.0), "the best expert is in the other group: {shares:?}");
        assert!((shares[3] + shares[4] - 1.0).abs() < 1e-6);
    }
}
