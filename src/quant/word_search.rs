//! Choosing a codeword under the whole matrix of what the errors of its columns cost.

use pulp::Simd;

use super::lanes::{LANES, Lanes, ZERO, map, max, reciprocal};
use super::recode::{Choice, LARGEST_UNIT, Worded};

/// Times that a codeword is searched again with the errors between its own columns in view.
const DESCENTS: usize = 3;

/// The cost of a unit's errors: the symmetric matrix, its diagonal, and a diagonal that is nowhere less than the matrix.
pub(super) struct Metric {
    matrix: [[f32; LARGEST_UNIT]; LARGEST_UNIT],
    diagonal: [f32; LARGEST_UNIT],
    majorant: [f32; LARGEST_UNIT],
    unit: usize,
}

impl Metric {
    #[inline(always)]
    pub(super) fn new(rows: &[f32], unit: usize) -> Self {
        let largest = (0..unit).fold(0.0, |top, n| max(top, rows[n * unit + n]));
        let scale = reciprocal(largest);
        let mut metric = Metric { matrix: [[0.0; 8]; 8], diagonal: [1.0; 8], majorant: [1.0; 8], unit };
        for n in 0..unit {
            for m in 0..unit {
                metric.matrix[n][m] = rows[n * unit + m] * scale;
            }
            metric.diagonal[n] = max(metric.matrix[n][n], 1e-12);
        }
        for n in 0..unit {
            // correlations, summed: Gershgorin's bound for the matrix scaled to a unit diagonal
            let mut sum = 0.0;
            for m in 0..unit {
                sum += metric.matrix[n][m].abs() / (metric.diagonal[n] * metric.diagonal[m]).sqrt();
            }
            metric.majorant[n] = metric.diagonal[n] * max(sum, 1.0);
        }
        metric
    }

    /// `M (target - value)` of each lane, and the cost of that difference.
    #[inline(always)]
    fn pull(&self, target: &[Lanes; LARGEST_UNIT], value: &[Lanes; LARGEST_UNIT]) -> ([Lanes; LARGEST_UNIT], Lanes) {
        let mut pull = [ZERO; LARGEST_UNIT];
        let mut cost = ZERO;
        for n in 0..self.unit {
            for m in 0..self.unit {
                for i in 0..LANES {
                    pull[n][i] += self.matrix[n][m] * (target[m][i] - value[m][i]);
                }
            }
            for i in 0..LANES {
                cost[i] += pull[n][i] * (target[n][i] - value[n][i]);
            }
        }
        (pull, cost)
    }
}

/// A cheap code under the whole metric: the current one or that of the diagonal, then steps that each lower the cost (of a
/// separable bound).
#[inline(always)]
pub(super) fn search<F: Worded, S: Simd>(
    simd: S,
    metric: &Metric,
    target: &[Lanes; LARGEST_UNIT],
    step: &Lanes,
    current: Option<&[Lanes; LARGEST_UNIT]>,
) -> Choice {
    let mut best = F::choose(simd, target, &metric.diagonal, step);
    let (mut pull, mut cost) = metric.pull(target, &best.values);
    if let Some(current) = current {
        let (current_pull, current_cost) = metric.pull(target, current);
        for i in 0..LANES {
            if current_cost[i] <= cost[i] {
                best.kept[i] = true;
                cost[i] = current_cost[i];
                for n in 0..LARGEST_UNIT {
                    best.values[n][i] = current[n][i];
                    pull[n][i] = current_pull[n][i];
                }
            }
        }
    }
    for _ in 0..DESCENTS {
        let mut moved = [ZERO; LARGEST_UNIT];
        for n in 0..metric.unit {
            moved[n] = map(|i| best.values[n][i] + pull[n][i] / metric.majorant[n]);
        }
        let trial = F::choose(simd, &moved, &metric.majorant, step);
        let (trial_pull, trial_cost) = metric.pull(target, &trial.values);
        let mut improved = false;
        for i in 0..LANES {
            if trial_cost[i] < cost[i] {
                improved = true;
                best.kept[i] = false;
                cost[i] = trial_cost[i];
                best.signs[i] = trial.signs[i];
                for half in 0..2 {
                    best.words[half][i] = trial.words[half][i];
                }
                for n in 0..LARGEST_UNIT {
                    best.values[n][i] = trial.values[n][i];
                    pull[n][i] = trial_pull[n][i];
                }
            }
        }
        if !improved {
            break;
        }
    }
    best
}
