//! What a plan makes small: the mean KL, its tail, or its average over domains. All from the probes' KL of every token.
//!
//! A plan's predicted KL of token i is `k_i = sum_g D_g p_g[i]`: D_g is the plan's predicted KL in group g and p_g the profile of its
//! probe, which has mean 1. An objective is a weighted sum of the k_i, with weights that follow the plan where it is a tail: so costs
//! are scaled group by group and the problem solved again.

use std::collections::HashMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Analysis, Constraints, Plan, Target, best_near, solve_near};
use crate::sensitivity::probe::Probes;

/// What a plan makes small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The mean KL over all tokens.
    #[default]
    Mean,
    /// The mean KL and that of the tokens that are hit worst.
    Tail,
    /// The mean of the domains' mean KLs.
    Balanced,
}

/// What a plan's objective predicts, against the plan for the mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outlook {
    pub objective: Objective,
    /// Probed tokens behind it.
    pub tokens: usize,
    /// Share of the tokens that counts as the tail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail_share: Option<f64>,
    /// Of the plan for the mean: of the same target.
    pub before: Figures,
    /// Of this plan.
    pub after: Figures,
}

/// Predicted of one plan, nats per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub mean: f64,
    /// Mean of the tail, or of the domains' means.
    pub focus: f64,
    /// What the objective makes small.
    pub score: f64,
}

/// How much the tail counts against the mean over all tokens.
const TAIL_WEIGHT: f64 = 0.1;

/// Tokens of the tail: as many for a mean that another text would confirm, and at least this share of all.
const TAIL_TOKENS: usize = 30;
const TAIL_SHARE: f64 = 0.001;

/// Times that the weights follow the plan.
const ITERATIONS: usize = 5;

/// Sizes tried for the smallest plan that keeps to a mean KL.
const BISECTIONS: usize = 10;

/// As [`solve_near`], for an objective, and what it predicts. Mixes and single types leave nothing to choose.
///
/// The plan is never worse than that for the mean, as the objective counts. For a KL divergence, which is always the mean, it
/// is larger by what the objective costs.
pub fn solve_for(
    analysis: &Analysis,
    target: &Target,
    constraints: &Constraints,
    objective: Objective,
) -> Result<(Plan, Option<Outlook>)> {
    let by_mean = solve_near(analysis, target, constraints)?;
    improved(analysis, by_mean, constraints, objective)
}

/// The plan for an objective with the target of `by_mean`, the plan for the mean.
pub(super) fn improved(
    analysis: &Analysis,
    by_mean: Plan,
    constraints: &Constraints,
    objective: Objective,
) -> Result<(Plan, Option<Outlook>)> {
    if objective == Objective::Mean || matches!(by_mean.target, Target::Type(_) | Target::Pure(_)) {
        return Ok((by_mean, None));
    }
    let probes = analysis.probes.as_ref().context(
        "--objective: the analysis does not tell tokens apart; make it again with `dq-gpu analyze --probes`",
    )?;
    let judge = Judge::new(analysis, probes, objective);
    let before = judge.figures(&judge.tokens(&by_mean));
    let (mut best, mut after) = (by_mean.clone(), before);
    // Weights of all plans so far together: following the last alone would go to and fro.
    let mut weights = vec![0.0; probes.tokens()];
    let mut current = by_mean.clone();
    for iteration in 1..=ITERATIONS {
        let steepest = judge.weights(&judge.tokens(&current));
        for (weight, new) in weights.iter_mut().zip(steepest) {
            *weight += (new - *weight) / iteration as f64;
        }
        let plan = judge.plan(&weights, &by_mean, constraints)?;
        let figures = judge.figures(&judge.tokens(&plan));
        if figures.score < after.score {
            (best, after) = (plan.clone(), figures);
        }
        if plan.hash == current.hash {
            break;
        }
        current = plan;
    }
    let tail_share = (objective == Objective::Tail).then(|| judge.tail as f64 / probes.tokens() as f64);
    Ok((best, Some(Outlook { objective, tokens: probes.tokens(), tail_share, before, after })))
}

/// Predicts tokens and weighs them.
struct Judge<'a> {
    analysis: &'a Analysis,
    objective: Objective,
    /// KL of every token over their mean, group by group; the last is that of tensors without a probe, 1 for all.
    profiles: Vec<Vec<f64>>,
    /// Index into `profiles`.
    group: HashMap<&'a str, usize>,
    /// Worth of each token in the average over domains.
    balance: Vec<f64>,
    /// Tokens of the tail.
    tail: usize,
}

impl<'a> Judge<'a> {
    fn new(analysis: &'a Analysis, probes: &'a Probes, objective: Objective) -> Self {
        let tokens = probes.tokens();
        let mut profiles = Vec::new();
        let mut group = HashMap::new();
        for (index, probe) in probes.groups.iter().enumerate() {
            let mean = probe.mean();
            let relative = |kld: &f32| if mean > 0.0 { f64::from(*kld) / mean } else { 1.0 };
            profiles.push(probe.kld.iter().map(relative).collect());
            group.extend(probe.types.keys().map(|name| (name.as_str(), index)));
        }
        profiles.push(vec![1.0; tokens]);
        let mut counts = vec![0usize; probes.domains.len()];
        probes.token_domains().for_each(|domain| counts[usize::from(domain)] += 1);
        let domains = counts.iter().filter(|count| **count > 0).count() as f64;
        let balance = probes.token_domains().map(|domain| 1.0 / (domains * counts[usize::from(domain)] as f64));
        let tail = ((tokens as f64 * TAIL_SHARE) as usize).max(TAIL_TOKENS).min(tokens.div_ceil(2));
        Judge { analysis, objective, profiles, group, balance: balance.collect(), tail }
    }

    fn profile_of(&self, name: &str) -> usize {
        self.group.get(name).copied().unwrap_or(self.profiles.len() - 1)
    }

    /// Predicted KL of every token.
    fn tokens(&self, plan: &Plan) -> Vec<f64> {
        let mut costs = vec![0.0; self.profiles.len()];
        for (name, assignment) in &plan.tensors {
            costs[self.profile_of(name)] += assignment.predicted.unwrap_or(0.0);
        }
        let mut tokens = vec![0.0; self.balance.len()];
        for (profile, cost) in self.profiles.iter().zip(costs) {
            tokens.iter_mut().zip(profile).for_each(|(token, share)| *token += cost * share);
        }
        tokens
    }

    /// The tokens of the tail.
    fn worst(&self, tokens: &[f64]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by(|a, b| tokens[*b].total_cmp(&tokens[*a]));
        order.truncate(self.tail);
        order
    }

    fn figures(&self, tokens: &[f64]) -> Figures {
        let mean = tokens.iter().sum::<f64>() / tokens.len() as f64;
        let focus = match self.objective {
            Objective::Mean => mean,
            Objective::Tail => self.worst(tokens).iter().map(|token| tokens[*token]).sum::<f64>() / self.tail as f64,
            Objective::Balanced => tokens.iter().zip(&self.balance).map(|(kld, worth)| kld * worth).sum(),
        };
        let score = match self.objective {
            Objective::Tail => (1.0 - TAIL_WEIGHT) * mean + TAIL_WEIGHT * focus,
            Objective::Mean | Objective::Balanced => focus,
        };
        Figures { mean, focus, score }
    }

    /// How fast the score grows with the KL of each token. The weights sum to 1.
    fn weights(&self, tokens: &[f64]) -> Vec<f64> {
        match self.objective {
            Objective::Mean => vec![1.0 / tokens.len() as f64; tokens.len()],
            Objective::Balanced => self.balance.clone(),
            Objective::Tail => {
                let mut weights = vec![(1.0 - TAIL_WEIGHT) / tokens.len() as f64; tokens.len()];
                for token in self.worst(tokens) {
                    weights[token] += TAIL_WEIGHT / self.tail as f64;
                }
                weights
            }
        }
    }

    /// The analysis with costs as the weights count them.
    fn scaled(&self, weights: &[f64]) -> Analysis {
        let scale = |profile: &Vec<f64>| profile.iter().zip(weights).map(|(share, weight)| share * weight).sum();
        let scales: Vec<f64> = self.profiles.iter().map(scale).collect();
        let mut scaled = Analysis { probes: None, ..self.analysis.clone() };
        for tensor in &mut scaled.tensors {
            let scale = scales[self.profile_of(&tensor.name)];
            tensor.candidates.iter_mut().for_each(|candidate| candidate.predicted *= scale);
        }
        scaled
    }

    /// The best plan under `weights` with the target of `by_mean`; its predictions are those of the mean.
    fn plan(&self, weights: &[f64], by_mean: &Plan, constraints: &Constraints) -> Result<Plan> {
        let scaled = self.scaled(weights);
        let within = |target: &Target| -> Result<Plan> {
            let plan = best_near(&scaled, target, constraints)?;
            Plan::new(self.analysis, by_mean.target, &plan.assignments(), plan.fallbacks)
        };
        let Target::MaxKld(nats) = by_mean.target else { return within(&by_mean.target) };
        // No plan that keeps to the mean is smaller than `by_mean`; of twice its size there is one, unless by_mean is the only one.
        let keeps = |plan: &Plan| plan.predicted_kld.is_some_and(|kld| kld <= nats);
        let (mut least, mut most) = (by_mean.bytes, 2 * by_mean.bytes);
        let mut smallest = None;
        for _ in 0..BISECTIONS {
            let bytes = least + (most - least) / 2;
            let plan = within(&Target::Size(bytes))?;
            if keeps(&plan) {
                (most, smallest) = (bytes, Some(plan));
            } else {
                least = bytes;
            }
        }
        Ok(smallest.unwrap_or_else(|| by_mean.clone()))
    }
}
