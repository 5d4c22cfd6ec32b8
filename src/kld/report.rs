//! The result of `dq-gpu kld`: all tokens and each domain, as JSON and as a table for people.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::stats::{Statistics, TokenRecord};

/// Statistics of a whole run. In JSON the fields of [`Statistics`] stand at the top.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    #[serde(flatten)]
    pub all: Statistics,
    /// Size of the base model's file, where there is one.
    pub bytes_base: Option<u64>,
    /// Size of the quantized file.
    pub bytes_quant: Option<u64>,
    /// The mean of the domains' means: every domain counts the same, however many tokens it has.
    pub domain_mean_kld: f64,
    /// Domains that have tokens, in the order of their indices.
    pub domains: Vec<Domain>,
}

/// Statistics of one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    pub domain: String,
    #[serde(flatten)]
    pub statistics: Statistics,
}

impl Report {
    /// `domains[record.domain]` is the name of a record's domain.
    pub fn new(records: &[TokenRecord], domains: &[String]) -> Result<Report> {
        let all = Statistics::new(records)?;
        let mut by_domain: Vec<Vec<TokenRecord>> = vec![Vec::new(); domains.len()];
        for record in records {
            let of = by_domain.get_mut(usize::from(record.domain));
            of.with_context(|| format!("a scored token has the unknown domain {}", record.domain))?.push(*record);
        }
        let named = domains.iter().zip(&by_domain).filter(|(_, records)| !records.is_empty());
        let domains = named
            .map(|(name, records)| Ok(Domain { domain: name.clone(), statistics: Statistics::new(records)? }))
            .collect::<Result<Vec<Domain>>>()?;
        let domain_mean_kld = domains.iter().map(|d| d.statistics.mean_kld).sum::<f64>() / domains.len() as f64;
        Ok(Report { all, bytes_base: None, bytes_quant: None, domain_mean_kld, domains })
    }

    /// The report for people, in the order of llama-perplexity.
    pub fn table(&self) -> String {
        let all = &self.all;
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<26} {value}");
        };
        line("tokens", format!("{} in {} chunks", all.tokens, all.chunks));
        if let (Some(base), Some(quant)) = (self.bytes_base, self.bytes_quant) {
            line("bytes", format!("{quant} of {base} ({:.2} %)", quant as f64 * 100.0 / base as f64));
        }
        line("mean KLD", format!("{:.6} ± {:.6} nats", all.mean_kld, all.mean_kld_se));
        line("  95 % interval", format!("{:.6} .. {:.6}", all.mean_kld_ci95[0], all.mean_kld_ci95[1]));
        let klds = [
            ("max", all.max_kld),
            ("99.9 %", all.p999_kld),
            ("99 %", all.p99_kld),
            ("95 %", all.p95_kld),
            ("90 %", all.p90_kld),
            ("median", all.median_kld),
            ("10 %", all.p10_kld),
            ("5 %", all.p05_kld),
            ("1 %", all.p01_kld),
            ("0.1 %", all.p001_kld),
            ("min", all.min_kld),
        ];
        for (name, value) in klds {
            line(&format!("  {name} KLD"), format!("{value:.6}"));
        }
        let percent = |value: f64, error: f64| format!("{:.3} ± {:.3} %", 100.0 * value, 100.0 * error);
        line("same top token", percent(all.same_top, all.same_top_se));
        line("mean Δp", percent(all.mean_dp, all.mean_dp_se));
        line("RMS Δp", percent(all.rms_dp, all.rms_dp_se));
        let dps = [
            ("max", all.max_dp),
            ("99.9 %", all.p999_dp),
            ("99 %", all.p99_dp),
            ("95 %", all.p95_dp),
            ("90 %", all.p90_dp),
            ("75 %", all.p75_dp),
            ("median", all.median_dp),
            ("25 %", all.p25_dp),
            ("10 %", all.p10_dp),
            ("5 %", all.p05_dp),
            ("1 %", all.p01_dp),
            ("0.1 %", all.p001_dp),
            ("min", all.min_dp),
        ];
        for (name, value) in dps {
            line(&format!("  {name} Δp"), format!("{:.3} %", 100.0 * value));
        }
        line("PPL(base)", format!("{:.6} ± {:.6}", all.ppl_base, all.ppl_base_se));
        line("PPL(Q)", format!("{:.6} ± {:.6}", all.ppl_quant, all.ppl_quant_se));
        line("ln(PPL(Q)/PPL(base))", format!("{:.6} ± {:.6}", all.ln_ppl_ratio, all.ln_ppl_ratio_se));
        line("PPL(Q)/PPL(base)", format!("{:.6} ± {:.6}", all.ppl_ratio, all.ppl_ratio_se));
        line("PPL(Q)-PPL(base)", format!("{:.6} ± {:.6}", all.ppl_diff, all.ppl_diff_se));
        line("correlation of ln PPL", format!("{:.2} %", 100.0 * all.ppl_correlation));
        if self.domains.len() > 1 {
            out.push('\n');
            self.domain_table(&mut out);
        }
        out
    }

    fn domain_table(&self, out: &mut String) {
        let width = self.domains.iter().map(|d| d.domain.chars().count()).max().unwrap_or(0).max("domain".len());
        let _ = writeln!(
            out,
            "{:<width$} {:>8} {:>10} {:>10} {:>10} {:>10} {:>9}",
            "domain", "tokens", "mean KLD", "±", "99 %", "99.9 %", "same top"
        );
        for Domain { domain, statistics: s } in &self.domains {
            let _ = writeln!(
                out,
                "{domain:<width$} {:>8} {:>10.6} {:>10.6} {:>10.6} {:>10.6} {:>7.2} %",
                s.tokens,
                s.mean_kld,
                s.mean_kld_se,
                s.p99_kld,
                s.p999_kld,
                100.0 * s.same_top
            );
        }
        let _ = writeln!(out, "{:<width$} {:>8} {:>10.6}", "mean", "", self.domain_mean_kld);
    }
}
