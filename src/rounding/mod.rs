//! Choosing codes with all of a layer's second moments H in view: errors of columns make good each other.
//! [`hessian`] gathers H, [`drift`] makes up for layers that are quantized already, [`coupling`] says what one column's error asks of the others, [`feedback`] rounds,
//! [`by_rows`] on the CPU and [`by_blocks`] on a GPU.

pub mod by_blocks;
pub mod by_rows;
pub mod coupling;
pub mod drift;
pub mod feedback;
pub mod hessian;

/// Added to the diagonal of H, relative to its mean.
pub const DAMPING: f32 = 0.01;

/// The share of what H says of pairs of columns that is left out where held-out text does not choose it (docs/rounding.md,
/// Other kinds of text).
pub const SHRINK: f32 = 0.1;

/// How codes are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Whether columns are rounded one after the other, each making good the errors of those before it (LDLQ).
    pub feedback: bool,
    /// Times that all columns are rounded again with the errors of all others in view.
    pub descents: usize,
    /// What the inputs of a layer are taken to be.
    pub prefix: Prefix,
}

/// The layers before the one that is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// As they are in the original model.
    Original,
    /// As rounded: a layer makes up for what those before it have lost.
    Quantized,
}

impl Method {
    /// Every block for itself, by importance alone.
    pub const PLAIN: Method = Method { feedback: false, descents: 0, prefix: Prefix::Original };
}
