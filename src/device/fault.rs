//! Failures on demand, so that tests see what a job makes of them. No device that a user opens has any.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Result, bail};

/// How a device is to fail.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It is gone after so many allocations, writes, copies and reads.
    LostAfter(u64),
    /// Its buffers may take so many bytes together.
    Memory(usize),
}

/// A fault, and how near it is.
pub(super) struct Injected {
    fault: Fault,
    calls: AtomicU64,
    bytes: AtomicUsize,
}

/// The memory of one buffer of a device that may run out of it.
pub(super) struct Held {
    injected: Arc<Injected>,
    bytes: usize,
}

impl Injected {
    pub(super) fn new(fault: Fault) -> Arc<Injected> {
        Arc::new(Injected { fault, calls: AtomicU64::new(0), bytes: AtomicUsize::new(0) })
    }

    /// Any use of the device.
    pub(super) fn call(&self) -> Result<()> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::LostAfter(limit) if calls >= limit => bail!("the device was lost: unplugged by a test"),
            _ => Ok(()),
        }
    }

    pub(super) fn hold(self: &Arc<Self>, label: &str, bytes: usize) -> Result<Held> {
        let held = Held { injected: self.clone(), bytes };
        let all = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match self.fault {
            Fault::Memory(limit) if all > limit => Err(super::out_of_memory(label, bytes, "the device of a test")),
            _ => Ok(held),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.injected.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
