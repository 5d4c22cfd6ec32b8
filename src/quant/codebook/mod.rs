//! What the IQ formats share: their codewords, the exact search among them, and the search for block scales.

pub mod book;
pub mod coder;
pub mod grids;
pub mod scales;
pub mod shifted;
pub mod signs;

/// The levels of IQ2 codewords; a sub-block's scale is in eighths.
pub const IQ2_LEVELS: [f32; 3] = [8.0, 25.0, 43.0];
