//! The original model on some text, run once and compared with any number of other weights.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::prove::records;
use crate::calibration::Chunks;
use crate::forward::weights::WeightSource;
use crate::forward::{FinalStatesOf, Side, Stream, diverge};
use crate::kld::TokenRecord;
use crate::progress::Progress;

/// The original model on a text, all positions that have a next token.
pub struct Reference<'a, 's> {
    pub stream: &'s Stream<'a>,
    base: FinalStatesOf<'a, 's>,
    chunks: &'s Chunks,
}

impl<'a, 's> Reference<'a, 's> {
    /// `stream` streams `chunks`.
    pub fn new(stream: &'s Stream<'a>, chunks: &'s Chunks, progress: &dyn Progress) -> Result<Self> {
        let side = Side { stream, weights: stream.model };
        let base = side.run(0..chunks.ctx - 1, "running the original", progress)?;
        Ok(Reference { stream, base, chunks })
    }

    /// The KL of every token with other weights.
    pub fn compare(&self, weights: &dyn WeightSource, progress: &dyn Progress) -> Result<Vec<TokenRecord>> {
        let scored = 0..self.chunks.ctx - 1;
        let side = Side { stream: self.stream, weights };
        let states = side.run(scored.clone(), "running a trial", progress)?;
        Ok(records(&diverge(&self.base, &states, scored, progress)?, self.chunks))
    }
}

/// Mean KL.
pub fn mean(records: &[TokenRecord]) -> f64 {
    records.iter().map(|record| record.kld).sum::<f64>() / records.len() as f64
}

/// Mean KL that `text` is expected to have: each domain of `records`, whose names are `domains`, counts as it does there. The plain
/// mean where the two have no domain in common.
pub fn mean_as_in(records: &[TokenRecord], domains: &[String], text: &Chunks) -> f64 {
    let share = |domain: u16| {
        let place = text.domains.iter().position(|name| *name == domains[usize::from(domain)])?;
        Some(text.domain.iter().filter(|domain| usize::from(**domain) == place).count() as f64)
    };
    let mut sums: BTreeMap<u16, (f64, f64)> = BTreeMap::new();
    for record in records {
        let (tokens, sum) = sums.entry(record.domain).or_default();
        *tokens += 1.0;
        *sum += record.kld;
    }
    let shared: Vec<(f64, f64)> =
        sums.iter().filter_map(|(domain, (tokens, sum))| Some((share(*domain)?, sum / tokens))).collect();
    let all: f64 = shared.iter().map(|(share, _)| share).sum();
    if all == 0.0 {
        return mean(records);
    }
    shared.iter().map(|(share, mean)| share / all * mean).sum()
}

/// Many small steps shown as parts of one: each of them counts [`Parts::UNITS`] units, whatever its work.
pub struct Parts<'a> {
    whole: &'a dyn Progress,
    total: AtomicU64,
    done: AtomicU64,
}

impl<'a> Parts<'a> {
    pub const UNITS: u64 = 1000;

    pub fn new(whole: &'a dyn Progress) -> Self {
        Parts { whole, total: AtomicU64::new(0), done: AtomicU64::new(0) }
    }
}

impl Progress for Parts<'_> {
    fn begin(&self, _step: &str, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
    }

    fn advance(&self, amount: u64) -> Result<()> {
        let units = |done: u64| done * Self::UNITS / self.total.load(Ordering::Relaxed).max(1);
        let before = self.done.fetch_add(amount, Ordering::Relaxed);
        self.whole.advance(units(before + amount) - units(before))
    }

    fn end(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(names: &[&str], domain: &[u16]) -> Chunks {
        Chunks {
            ctx: 2,
            tokens: vec![0; 2 * domain.len()],
            domain: domain.to_vec(),
            domains: names.iter().map(|name| name.to_string()).collect(),
            first: vec![0; domain.len()],
            hash: String::new(),
        }
    }

    #[test]
    fn domains_count_as_they_do_in_the_other_text() {
        let record = |domain, kld| TokenRecord { kld, lp_base: 0.0, lp_quant: 0.0, same_top: true, chunk: 0, domain };
        let records = [record(0, 1.0), record(0, 3.0), record(1, 10.0), record(2, 100.0)];
        let domains = ["prose", "code", "chat"].map(str::to_owned);
        // three chunks of code and one of prose, and one that the records lack
        let other = text(&["code", "prose", "data"], &[0, 0, 1, 0, 2]);
        assert_eq!(mean_as_in(&records, &domains, &other), 0.75 * 10.0 + 0.25 * 2.0);
        assert_eq!(mean_as_in(&records, &domains, &text(&["mixed"], &[0])), mean(&records));
    }
}
