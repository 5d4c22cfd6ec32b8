//! The original model on some text, run once and compared with any number of other weights.

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
