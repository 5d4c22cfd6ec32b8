//! How long work tells what it is doing, and how it learns that the user has had enough.

use anyhow::Result;

/// Receives the progress of one long step at a time. The command line draws bars; tests and libraries may use [`Silent`].
pub trait Progress: Sync {
    /// A step begins that will take `total` units of work.
    fn begin(&self, step: &str, total: u64);
    /// `amount` more units are done. An error (the user interrupted) must be passed on at once.
    fn advance(&self, amount: u64) -> Result<()>;
    /// The current step is over.
    fn end(&self);
}

/// Says nothing, never interrupts.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _step: &str, _total: u64) {}
    fn advance(&self, _amount: u64) -> Result<()> {
        Ok(())
    }
    fn end(&self) {}
}
