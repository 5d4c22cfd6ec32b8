//! How sure a mean is when tokens come in chunks: cluster-robust errors, resampling of chunks, paired comparisons.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::stats::{Sorted, TokenRecord, check};
use crate::random::splitmix64;

/// Resamples per interval: the ends are then good to about 3 % of its width.
const RESAMPLES: usize = 2000;

/// Fixed, so that the same records give the same interval.
const SEED: u64 = 0x6b6c_645f_6369_3935;

/// Sums per chunk of one quantity.
pub(super) struct Clusters {
    /// For each chunk, in the order of chunk numbers: number of tokens, sum of values.
    sums: Vec<(f64, f64)>,
}

impl Clusters {
    pub(super) fn new(records: &[TokenRecord], value: impl Fn(&TokenRecord) -> f64) -> Clusters {
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for record in records {
            let (count, sum) = sums.entry(record.chunk).or_default();
            *count += 1.0;
            *sum += value(record);
        }
        Clusters { sums: sums.into_values().collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    fn mean(&self) -> f64 {
        let (count, sum) = self.sums.iter().fold((0.0, 0.0), |(n, s), (count, sum)| (n + count, s + sum));
        sum / count
    }

    /// Standard error of the mean over tokens with chunks as the independent units; none for a single chunk.
    pub(super) fn standard_error(&self) -> Option<f64> {
        let chunks = self.len() as f64;
        let mean = self.mean();
        let count: f64 = self.sums.iter().map(|(count, _)| count).sum();
        let squares: f64 = self.sums.iter().map(|(count, sum)| (sum - mean * count).powi(2)).sum();
        (self.len() > 1).then(|| (chunks / (chunks - 1.0) * squares).sqrt() / count)
    }

    /// 95 % interval of the mean; none for a single chunk.
    pub(super) fn mean_interval(&self) -> Option<[f64; 2]> {
        (self.len() > 1).then(|| {
            resample(self.len(), |drawn| {
                let (mut count, mut sum) = (0.0, 0.0);
                for &chunk in drawn {
                    count += self.sums[chunk].0;
                    sum += self.sums[chunk].1;
                }
                sum / count
            })
        })
    }
}

/// The 95 % interval of a statistic over resampled chunks. Percentiles of few chunks are too narrow, so they are widened
/// by the square root of n / (n - 1) about their middle, which makes the spread unbiased.
fn resample(chunks: usize, statistic: impl Fn(&[usize]) -> f64) -> [f64; 2] {
    let (mut drawn, mut index) = (vec![0; chunks], 0..);
    let values = Sorted::new(
        (0..RESAMPLES)
            .map(|_| {
                drawn.fill_with(|| below(chunks, index.next().expect("without end")));
                statistic(&drawn)
            })
            .collect(),
    );
    let widen = (chunks as f64 / (chunks as f64 - 1.0)).sqrt();
    let middle = values.at(0.5);
    [0.025, 0.975].map(|fraction| middle + (values.at(fraction) - middle) * widen)
}

/// The 95 % interval of a normal estimate.
pub(super) fn normal(mean: f64, error: f64) -> [f64; 2] {
    [mean - 1.959964 * error, mean + 1.959964 * error]
}

/// Number `index` of those drawn, uniform in 0..n up to a bias of n / 2^64.
fn below(n: usize, index: u64) -> usize {
    ((u128::from(splitmix64(SEED, index)) * n as u128) >> 64) as usize
}

/// Two quantized models on the same tokens of the same base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub tokens: usize,
    pub chunks: usize,
    /// Mean KL of the second minus mean KL of the first, in nats: negative if the second is better.
    pub difference: f64,
    /// Cluster-robust standard error of the difference; 0 for a single chunk.
    pub difference_se: f64,
    pub difference_ci95: [f64; 2],
    /// Mean KL of the second over that of the first; none if the first is 0.
    pub ratio: Option<f64>,
    pub ratio_ci95: Option<[f64; 2]>,
    /// Share of tokens on which the second is strictly better.
    pub better: f64,
}

impl Comparison {
    /// Whether the second model is better beyond doubt.
    pub fn improves(&self) -> bool {
        self.difference_ci95[1] < 0.0
    }
}

/// Compares two runs token by token. Pairing removes what both have in common, so far fewer tokens tell them apart than two
/// separate means would need. Both runs must hold the same tokens in the same order, in at least two chunks.
pub fn compare(first: &[TokenRecord], second: &[TokenRecord]) -> Result<Comparison> {
    check(first)?;
    check(second)?;
    ensure!(
        first.len() == second.len()
            && first.iter().zip(second).all(|(a, b)| a.chunk == b.chunk && a.domain == b.domain),
        "the two runs did not score the same tokens ({} and {}), so they cannot be compared in pairs",
        first.len(),
        second.len()
    );
    let (a, b) = (Clusters::new(first, |r| r.kld), Clusters::new(second, |r| r.kld));
    ensure!(a.len() > 1, "a paired comparison needs at least two chunks of text");
    let differences =
        Clusters { sums: a.sums.iter().zip(&b.sums).map(|(&(count, a), &(_, b))| (count, b - a)).collect() };
    let ratio_of = |drawn: &[usize]| {
        let sum = |clusters: &Clusters| drawn.iter().map(|&chunk| clusters.sums[chunk].1).sum::<f64>();
        sum(&b) / sum(&a)
    };
    let divisible = a.sums.iter().all(|&(_, sum)| sum > 0.0);
    let better = first.iter().zip(second).filter(|(a, b)| b.kld < a.kld).count();
    Ok(Comparison {
        tokens: first.len(),
        chunks: a.len(),
        difference: differences.mean(),
        difference_se: differences.standard_error().unwrap_or(0.0),
        difference_ci95: differences.mean_interval().unwrap_or_default(),
        ratio: divisible.then(|| b.mean() / a.mean()),
        ratio_ci95: divisible.then(|| resample(a.len(), ratio_of)),
        better: better as f64 / first.len() as f64,
    })
}
