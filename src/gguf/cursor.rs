//! A checked walk over the bytes of a file's header.

use anyhow::{Result, bail};

/// The header goes on behind the bytes that were read of the file so far.
#[derive(Debug, thiserror::Error)]
#[error("the header is longer than what was read of it")]
pub(super) struct NeedsMore;

/// Reads forward through the first `bytes` of a file of `len`. Every read is checked against the end before a slice is taken.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    len: u64,
    position: usize,
    /// What is being read, for error messages: `the value of key`, and its name.
    what: &'static str,
    name: String,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], len: u64) -> Self {
        Cursor { bytes, len, position: 0, what: "the header", name: String::new() }
    }

    /// Says what the next reads are for.
    pub(super) fn enter(&mut self, what: &'static str, name: &str) {
        self.what = what;
        self.name.clear();
        self.name.push_str(name);
    }

    /// What is being read, for error messages.
    pub(super) fn place(&self) -> String {
        if self.name.is_empty() { self.what.to_owned() } else { format!("{} `{}`", self.what, self.name) }
    }

    pub(super) fn position(&self) -> u64 {
        self.position as u64
    }

    fn remaining(&self) -> u64 {
        self.len - self.position()
    }

    /// Fails unless `count` items of at least `size` bytes can still follow.
    pub(super) fn expect(&self, count: u64, size: u64) -> Result<()> {
        match count.checked_mul(size) {
            Some(bytes) if bytes <= self.remaining() => Ok(()),
            _ => bail!("truncated: the file ends at byte {} inside {}", self.len, self.place()),
        }
    }

    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        self.expect(len, 1)?;
        if len > (self.bytes.len() - self.position) as u64 {
            bail!(NeedsMore);
        }
        let end = self.position + len as usize;
        let bytes = &self.bytes[self.position..end];
        self.position = end;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N as u64)?.try_into().expect("take returns N bytes"))
    }
}
