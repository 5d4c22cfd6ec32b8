//! The 4-bit float of MXFP4 and NVFP4: a sign, two bits of exponent, one of mantissa. Everything here is doubled, so that the
//! levels are integers and the scales are halved.

use super::lanes::{Lanes, SubBlocks, clamp, round_even};
use super::search::{self, extremes};

/// The levels of codes 0 to 7; codes 8 to 15 are their negatives.
const MAGNITUDES: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];

/// The levels, for searches.
pub(super) struct Levels;

impl search::Levels for Levels {
    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        let y = clamp(y, -12.0, 12.0);
        let magnitude = y.abs();
        let step = if magnitude < 4.0 { 1.0 } else { 2.0 };
        let step = if magnitude < 8.0 { step } else { 4.0 };
        let inverse = if magnitude < 4.0 { 1.0 } else { 0.5 };
        let inverse = if magnitude < 8.0 { inverse } else { 0.25 };
        round_even(y * inverse) * step
    }

    #[inline(always)]
    fn code(y: f32) -> u8 {
        let level = Self::nearest(y);
        let magnitude = level.abs();
        let code = magnitude as u8;
        let gaps = (magnitude > 4.0) as u8 + (magnitude > 6.0) as u8 + 3 * (magnitude > 8.0) as u8;
        (code - gaps) | ((level < 0.0) as u8 * 8)
    }
}

/// The levels without zero, large ones first, the positive of each two before the negative.
pub(super) fn anchors() -> impl Iterator<Item = f32> + Clone {
    MAGNITUDES[1..].iter().rev().flat_map(|&level| [level, -level])
}

/// The level of a code.
#[inline(always)]
pub(super) fn level(code: u8) -> f32 {
    // an integer conversion, so that minus zero is plus zero as in ggml
    let magnitude = MAGNITUDES[(code & 7) as usize];
    if code & 8 == 8 { 0.0 - magnitude } else { magnitude }
}

/// Largest magnitude of each lane.
#[inline(always)]
pub(super) fn largest<const N: usize>(tile: &SubBlocks<N>) -> Lanes {
    extremes(&tile.x).map(f32::abs)
}

#[cfg(test)]
mod tests {
    use super::search::Levels as _;
    use super::*;

    #[test]
    fn every_level_has_its_code_and_is_nearest_to_itself() {
        for c in 0..16 {
            let expected = if c == 8 { 0 } else { c };
            assert_eq!(Levels::code(level(c)), expected);
            assert_eq!(Levels::nearest(level(c)), level(c));
        }
    }

    #[test]
    fn no_level_is_nearer() {
        for i in -1300..1300 {
            let y = i as f32 / 100.0;
            let found = (Levels::nearest(y) - y).abs();
            let least = (0..16).map(|c| (level(c) - y).abs()).fold(f32::INFINITY, f32::min);
            assert!(found <= least + 1e-6, "{y}");
        }
    }
}
