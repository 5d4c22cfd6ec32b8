//! What each expert counts for each token: `[tokens, experts]`, 0 where an expert is not asked.
//!
//! Worked out on the host on both devices: the experts need to know who is asked anyway, and the numbers are few.

use anyhow::Result;

use crate::graph::back::Backward;
use crate::graph::run::Forward;
use crate::graph::{Operation, Value, WeightUse};

/// How experts are chosen and weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    pub experts: usize,
    /// Experts that are asked for each token: those with the largest scores.
    pub used: usize,
    /// Whether the shares of those that are asked sum up to 1; else they keep those that they have among all.
    pub normalizes: bool,
}

impl Routing {
    /// The shares of one token's experts, from its scores: a softmax.
    fn shares(self, scores: &[f32], shares: &mut [f32]) {
        softmax(scores, shares);
        let mut order: Vec<usize> = (0..self.experts).collect();
        // of equal ones the first
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let (asked, others) = order.split_at(self.used);
        others.iter().for_each(|expert| shares[*expert] = 0.0);
        if self.normalizes {
            let sum: f32 = asked.iter().map(|expert| shares[*expert]).sum();
            asked.iter().for_each(|expert| shares[*expert] /= sum);
        }
    }

    /// The gradient at one token's scores, from its shares and theirs.
    fn gradient(self, scores: &[f32], shares: &[f32], dshares: &[f32], dscores: &mut [f32]) {
        let mean: f32 = shares.iter().zip(dshares).map(|(share, d)| share * d).sum();
        if self.normalizes {
            // a softmax over those that are asked
            let each = dscores.iter_mut().zip(shares).zip(dshares);
            each.for_each(|((out, share), d)| *out = share * (d - mean));
            return;
        }
        softmax(scores, dscores);
        let each = dscores.iter_mut().zip(shares).zip(dshares);
        each.for_each(|((out, share), d)| *out = share * d - *out * mean);
    }
}

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
        Vec::new()
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let out = pass.output()?;
        let (device, experts) = (pass.batch.device, self.routing.experts);
        let scores = device.read_range::<f32>(pass.get(self.src), 0, pass.len(self.src))?;
        let mut shares = vec![0f32; scores.len()];
        let tokens = scores.chunks_exact(experts).zip(shares.chunks_exact_mut(experts));
        tokens.for_each(|(scores, shares)| self.routing.shares(scores, shares));
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

    #[test]
    fn the_largest_scores_are_asked_and_share() {
        let scores = [0.0f32, 2.0, 1.0, 2.0];
        let mut shares = [9.0f32; 4];
        let e = std::f32::consts::E;
        Routing { experts: 4, used: 2, normalizes: true }.shares(&scores, &mut shares);
        assert_eq!(shares, [0.0, 0.5, 0.0, 0.5]);
        Routing { experts: 4, used: 1, normalizes: false }.shares(&scores, &mut shares);
        let all = 1.0 + e + 2.0 * e * e;
        assert!((shares[1] - e * e / all).abs() < 1e-6, "{shares:?}");
        assert_eq!(shares[3], 0.0, "of equal ones the first");
    }
}
