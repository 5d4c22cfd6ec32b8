//! What `llama-perplexity --kl-divergence` prints, computed in f64 from one record per scored token.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::interval;

/// One scored position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenRecord {
    /// KL(base || quantized) of the next-token distributions, in nats.
    pub kld: f64,
    /// Natural log of the base model's probability of the true next token.
    pub lp_base: f64,
    /// The same of the quantized model.
    pub lp_quant: f64,
    /// Whether both models rank the same token first.
    pub same_top: bool,
    /// The chunk of text it belongs to. Tokens of one chunk are not independent.
    pub chunk: u32,
    /// Index of the chunk's domain.
    pub domain: u16,
}

impl TokenRecord {
    /// Change of the probability of the true token, quantized minus base.
    pub fn dp(&self) -> f64 {
        self.lp_quant.exp() - self.lp_base.exp()
    }
}

/// Statistics over a set of tokens. Fields that end in `_se` are standard errors; digits in `pNN` are those of the fraction:
/// `p999` is the 99.9th percentile, `p01` the first. Probabilities and shares are fractions, not percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub tokens: usize,
    pub chunks: usize,
    pub mean_kld: f64,
    /// Robust to the dependence of tokens within a chunk.
    pub mean_kld_se: f64,
    /// As if tokens were independent; what llama-perplexity prints.
    pub mean_kld_se_naive: f64,
    /// 95 % interval of the mean, from resampling chunks.
    pub mean_kld_ci95: [f64; 2],
    pub max_kld: f64,
    pub p999_kld: f64,
    pub p99_kld: f64,
    pub p95_kld: f64,
    pub p90_kld: f64,
    pub median_kld: f64,
    pub p10_kld: f64,
    pub p05_kld: f64,
    pub p01_kld: f64,
    pub p001_kld: f64,
    pub min_kld: f64,
    /// Share of tokens for which both models rank the same token first.
    pub same_top: f64,
    pub same_top_se: f64,
    /// Mean change of the true token's probability.
    pub mean_dp: f64,
    pub mean_dp_se: f64,
    /// Root of the mean square of that change.
    pub rms_dp: f64,
    pub rms_dp_se: f64,
    pub max_dp: f64,
    pub p999_dp: f64,
    pub p99_dp: f64,
    pub p95_dp: f64,
    pub p90_dp: f64,
    pub p75_dp: f64,
    pub median_dp: f64,
    pub p25_dp: f64,
    pub p10_dp: f64,
    pub p05_dp: f64,
    pub p01_dp: f64,
    pub p001_dp: f64,
    pub min_dp: f64,
    pub ppl_base: f64,
    pub ppl_base_se: f64,
    pub ppl_quant: f64,
    pub ppl_quant_se: f64,
    /// Correlation of the two models' log-probabilities of the true token.
    pub ppl_correlation: f64,
    /// ln(ppl_quant / ppl_base).
    pub ln_ppl_ratio: f64,
    pub ln_ppl_ratio_se: f64,
    pub ppl_ratio: f64,
    pub ppl_ratio_se: f64,
    /// ppl_quant - ppl_base.
    pub ppl_diff: f64,
    pub ppl_diff_se: f64,
}

impl Statistics {
    /// Statistics of at least one record. The order of records does not matter beyond rounding.
    pub fn new(records: &[TokenRecord]) -> Result<Statistics> {
        check(records)?;
        let column = |of: fn(&TokenRecord) -> f64| records.iter().map(of).collect::<Vec<f64>>();
        let (kld, dp) = (column(|r| r.kld), column(TokenRecord::dp));
        let squares: Vec<f64> = dp.iter().map(|dp| dp * dp).collect();
        let n = records.len() as f64;

        let (mean_kld, mean_kld_se_naive) = mean_and_error(&kld);
        let clusters = interval::Clusters::new(records, |r| r.kld);
        let (mean_dp, mean_dp_se) = mean_and_error(&dp);
        let (mean_square, mean_square_se) = mean_and_error(&squares);
        let rms_dp = mean_square.sqrt();
        let same_top = records.iter().filter(|r| r.same_top).count() as f64 / n;
        let perplexity = Perplexity::new(&column(|r| -r.lp_base), &column(|r| -r.lp_quant));

        let kld = Sorted::new(kld);
        let dp = Sorted::new(dp);
        Ok(Statistics {
            tokens: records.len(),
            chunks: clusters.len(),
            mean_kld,
            mean_kld_se: clusters.standard_error().unwrap_or(mean_kld_se_naive),
            mean_kld_se_naive,
            mean_kld_ci95: clusters.mean_interval().unwrap_or_else(|| interval::normal(mean_kld, mean_kld_se_naive)),
            max_kld: kld.at(1.0),
            p999_kld: kld.at(0.999),
            p99_kld: kld.at(0.99),
            p95_kld: kld.at(0.95),
            p90_kld: kld.at(0.9),
            median_kld: kld.at(0.5),
            p10_kld: kld.at(0.1),
            p05_kld: kld.at(0.05),
            p01_kld: kld.at(0.01),
            p001_kld: kld.at(0.001),
            min_kld: kld.at(0.0),
            same_top,
            same_top_se: if records.len() > 1 { (same_top * (1.0 - same_top) / (n - 1.0)).sqrt() } else { 0.0 },
            mean_dp,
            mean_dp_se,
            rms_dp,
            rms_dp_se: if rms_dp > 0.0 { 0.5 / rms_dp * mean_square_se } else { 0.0 },
            max_dp: dp.at(1.0),
            p999_dp: dp.at(0.999),
            p99_dp: dp.at(0.99),
            p95_dp: dp.at(0.95),
            p90_dp: dp.at(0.9),
            p75_dp: dp.at(0.75),
            median_dp: dp.at(0.5),
            p25_dp: dp.at(0.25),
            p10_dp: dp.at(0.1),
            p05_dp: dp.at(0.05),
            p01_dp: dp.at(0.01),
            p001_dp: dp.at(0.001),
            min_dp: dp.at(0.0),
            ppl_base: perplexity.base,
            ppl_base_se: perplexity.base_se,
            ppl_quant: perplexity.quant,
            ppl_quant_se: perplexity.quant_se,
            ppl_correlation: perplexity.correlation,
            ln_ppl_ratio: perplexity.ln_ratio,
            ln_ppl_ratio_se: perplexity.ln_ratio_se,
            ppl_ratio: perplexity.ln_ratio.exp(),
            ppl_ratio_se: perplexity.ln_ratio.exp() * perplexity.ln_ratio_se,
            ppl_diff: perplexity.quant - perplexity.base,
            ppl_diff_se: perplexity.diff_se,
        })
    }
}

/// Records must exist and be finite.
pub(super) fn check(records: &[TokenRecord]) -> Result<()> {
    ensure!(!records.is_empty(), "no token was scored, so there is no divergence to report");
    for (i, record) in records.iter().enumerate() {
        let finite = [record.kld, record.lp_base, record.lp_quant].iter().all(|x| x.is_finite());
        ensure!(finite, "the divergence of scored token {i} (chunk {}) is not a finite number", record.chunk);
    }
    Ok(())
}

/// Perplexities and how they differ.
struct Perplexity {
    base: f64,
    base_se: f64,
    quant: f64,
    quant_se: f64,
    correlation: f64,
    ln_ratio: f64,
    ln_ratio_se: f64,
    diff_se: f64,
}

impl Perplexity {
    /// From the negative log-likelihoods of both models, token by token.
    fn new(nll_base: &[f64], nll_quant: &[f64]) -> Perplexity {
        let ((ln_base, ln_base_se), (ln_quant, ln_quant_se)) = (mean_and_error(nll_base), mean_and_error(nll_quant));
        let n = nll_base.len() as f64;
        let products = nll_base.iter().zip(nll_quant).map(|(b, q)| (b - ln_base) * (q - ln_quant));
        // Covariance of the two means.
        let covariance = if nll_base.len() > 1 { products.sum::<f64>() / (n * (n - 1.0)) } else { 0.0 };
        let (base, quant) = (ln_base.exp(), ln_quant.exp());
        let (base_se, quant_se) = (base * ln_base_se, quant * ln_quant_se);
        let spread = ln_base_se * ln_quant_se;
        // Errors of differences token by token: equal models then differ by exactly 0.
        let ln_ratios: Vec<f64> = nll_base.iter().zip(nll_quant).map(|(b, q)| q - b).collect();
        let diffs: Vec<f64> = nll_base.iter().zip(nll_quant).map(|(b, q)| quant * q - base * b).collect();
        Perplexity {
            base,
            base_se,
            quant,
            quant_se,
            correlation: if spread > 0.0 { covariance / spread } else { 0.0 },
            ln_ratio: ln_quant - ln_base,
            ln_ratio_se: mean_and_error(&ln_ratios).1,
            diff_se: mean_and_error(&diffs).1,
        }
    }
}

/// Mean and its standard error for independent values; the error of a single value is given as 0.
pub(super) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    let error = if values.len() > 1 { (squares / (n * (n - 1.0))).sqrt() } else { 0.0 };
    (mean, error)
}

/// Sorted values.
pub(super) struct Sorted(Vec<f64>);

impl Sorted {
    pub(super) fn new(mut values: Vec<f64>) -> Sorted {
        values.sort_by(f64::total_cmp);
        Sorted(values)
    }

    /// The quantile at `fraction` in 0..=1, linear between neighbours (numpy's default and llama-perplexity's).
    pub(super) fn at(&self, fraction: f64) -> f64 {
        let position = fraction * (self.0.len() - 1) as f64;
        let below = position.floor() as usize;
        let above = (below + 1).min(self.0.len() - 1);
        let share = position - below as f64;
        self.0[below] * (1.0 - share) + self.0[above] * share
    }
}
