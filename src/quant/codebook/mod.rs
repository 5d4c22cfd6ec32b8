//! What the IQ formats share: their codewords, the exact search among them, and the search for block scales.

pub mod book;
pub mod coder;
pub mod grids;
pub mod scales;
pub mod shifted;
pub mod signs;

/// The levels of IQ2 codewords; a sub-block's scale is in eighths.
pub const IQ2_LEVELS: [f32; 3] = [8.0, 25.0, 43.0];

/// The levels of IQ2 codewords for searches, without tables.
#[inline(always)]
pub fn iq2_value(level: u32) -> f32 {
    let high = if level == 1 { 3.125 } else { 5.375 };
    if level == 0 { 1.0 } else { high }
}
