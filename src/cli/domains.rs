//! How well a file does on each kind of text.

use serde::Serialize;

use super::table::{Align, Table, grouped};
use crate::kld::{Domain, Report};

/// A domain whose mean KL is this many times that of all tokens is named: calibration lacks its kind of text.
const FAR: f64 = 2.0;

/// What was measured on held-out text of one domain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DomainShare {
    pub domain: String,
    pub tokens: usize,
    /// Nats per token.
    pub mean_kld: f64,
    pub p99_kld: f64,
    /// Share of tokens with the same most probable next token, 0 to 1.
    pub same_top: f64,
    /// Whether it is far worse than the mean.
    pub far: bool,
}

impl DomainShare {
    /// Every domain of a report; a single one tells nothing.
    pub fn list(report: &Report) -> Vec<DomainShare> {
        let share = |Domain { domain, statistics: s }: &Domain| DomainShare {
            domain: domain.clone(),
            tokens: s.tokens,
            mean_kld: s.mean_kld,
            p99_kld: s.p99_kld,
            same_top: s.same_top,
            far: s.mean_kld > FAR * report.all.mean_kld,
        };
        match report.domains.len() {
            0 | 1 => Vec::new(),
            _ => report.domains.iter().map(share).collect(),
        }
    }
}

/// Domain by domain, then advice where one is far worse than the others.
pub fn domains_text(domains: &[DomainShare]) -> String {
    let right = |title| (title, Align::Right);
    let titles = [("domain", Align::Left), right("tokens"), right("mean KL"), right("99 %"), right("same top")];
    let mut table = Table::new(&titles);
    for share in domains {
        table.row([
            share.domain.clone(),
            grouped(share.tokens as u64),
            format!("{:.6}", share.mean_kld),
            format!("{:.5}", share.p99_kld),
            format!("{:.2} %", share.same_top * 100.0),
        ]);
    }
    let far: Vec<&str> = domains.iter().filter(|share| share.far).map(|share| share.domain.as_str()).collect();
    match far.as_slice() {
        [] => format!("{table}\n"),
        far => format!(
            "{table}far above the mean: {}; text of this kind in --calibration would lower it\n\n",
            far.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kld::TokenRecord;

    #[test]
    fn a_domain_far_above_the_mean_is_named() {
        let record = |domain, kld| TokenRecord { kld, lp_base: -1.0, lp_quant: -1.0, same_top: true, chunk: 0, domain };
        let names = ["prose", "code"].map(str::to_owned);
        let records = [record(0, 0.01), record(0, 0.01), record(0, 0.01), record(1, 0.09)];
        let domains = DomainShare::list(&Report::new(&records, &names).unwrap());
        assert_eq!(domains.iter().map(|share| share.far).collect::<Vec<_>>(), [false, true]);
        assert!(domains_text(&domains).contains("far above the mean: code;"));
        let even = [record(0, 0.01), record(1, 0.02)];
        assert!(!domains_text(&DomainShare::list(&Report::new(&even, &names).unwrap())).contains("far above"));
        assert!(DomainShare::list(&Report::new(&records[..3], &names).unwrap()).is_empty());
    }
}
