//! A place that stores tensors under its own names.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;

use crate::quant::GgmlType;

/// A tensor as its container stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The container's own name for it.
    pub name: String,
    /// In ggml's order, columns first.
    pub dims: Vec<u64>,
    pub ty: GgmlType,
}

/// Stored tensors, read when asked for.
pub trait Container: Send + Sync {
    /// The file or folder that was opened.
    fn path(&self) -> &Path;

    /// What is stored, in the container's order.
    fn tensors(&self) -> &[Stored];

    /// Some of the bytes of tensor `index` of [`Container::tensors`]. Fails if the file no longer has them.
    fn read(&self, index: usize, range: Range<u64>) -> Result<Vec<u8>>;
}
