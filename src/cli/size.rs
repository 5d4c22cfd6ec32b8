//! Sizes as people write them: `4.7GiB`, `800MB`, `5225472B`.

use anyhow::{Context, Result, bail, ensure};

/// Units and their bytes, longest names first so that `B` does not take the end of `MiB`.
const UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Bytes of a size with a unit, in any case; a fraction of a byte is dropped.
///
/// Exact for decimals: nothing passes through a float. clap puts the flag's name before the message.
pub fn parse(text: &str) -> Result<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    ensure!(!number.is_empty(), "a size starts with a number, such as 4.7GiB");
    ensure!(!unit.is_empty(), "a size needs a unit: GiB, GB, MiB, MB, KiB, KB, or B for bytes");
    let Some(&(_, scale)) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        bail!("unknown unit `{unit}`, expected GiB, GB, MiB, MB, KiB, KB or B");
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    ensure!(scale > 1 || fraction.is_empty(), "bytes are whole numbers");
    let bytes = scaled(whole, fraction, scale).context("the size is not a number, or too large")?;
    ensure!(bytes > 0, "the size is zero");
    Ok(bytes)
}

/// `whole.fraction * scale`, rounded down.
fn scaled(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // u128 holds any u64 times 10^19
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let fraction = &fraction[..fraction.len().min(19)];
    let parts = digits(fraction)? * u128::from(scale) / 10u128.pow(fraction.len() as u32);
    let bytes = digits(whole)?.checked_mul(u128::from(scale))?.checked_add(parts)?;
    u64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit() {
        for (text, bytes) in [
            ("5225472B", 5_225_472),
            ("1KiB", 1024),
            ("1KB", 1000),
            ("4.7GiB", 5_046_586_572),
            ("4.7GB", 4_700_000_000),
            ("800 MB", 800_000_000),
            ("1.5mib", 1_572_864),
            (".5gb", 500_000_000),
            ("2.GiB", 2_147_483_648),
            ("18446744073709551615B", u64::MAX),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("4.7XB", "unknown unit `XB`"),
            ("5225472", "needs a unit"),
            ("GiB", "starts with a number"),
            ("", "starts with a number"),
            ("-1GiB", "starts with a number"),
            ("1.2.3GiB", "not a number"),
            (".GiB", "not a number"),
            ("1.5B", "whole"),
            ("0MiB", "zero"),
            ("99999999999999GiB", "too large"),
            ("999999999999999999999999999999999999999999GiB", "too large"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
