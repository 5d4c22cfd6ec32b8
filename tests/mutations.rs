//! Good files of every kind, damaged in a thousand ways: no parser panics, and what one accepts holds together.

#[path = "mutations/parsers.rs"]
mod parsers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parsers::{Bench, PARSERS};

/// Damaged files for each parser: seconds in all.
const COUNT: u64 = 600;

/// Numbers on which readers stumble.
const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0xff, 0xffff, 1 << 24, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 53, i64::MAX as u64, u64::MAX];

/// What JSON, Jinja and terminals take for something else than text.
const WORDS: [&str; 20] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "-1",
    "1e999",
    "NaN",
    "99999999999999999999",
    "{{",
    "%}",
    "\u{1b}[2J",
    "\\ud800",
    "../",
    "\u{feff}",
];

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// A place in the file, often near its start: headers are where the decisions are.
fn place(random: &mut Random, len: usize) -> usize {
    let end = if random.below(2) == 0 { len.min(2048) } else { len };
    random.below(end)
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = place(random, bytes.len());
    let len = (1 + random.below(16)).min(bytes.len() - at);
    match random.below(8) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..at + len)),
        4 => {
            let copy = bytes[at..at + len].to_vec();
            bytes.splice(at..at, copy);
        }
        5 | 6 => {
            let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        _ => {
            let word = WORDS[random.below(WORDS.len())];
            bytes.splice(at..at + random.below(2) * len, word.bytes());
        }
    }
}

#[test]
fn damaged_files_are_refused_or_hold_together() {
    let bench = Bench::new(Path::new("tests/fixtures"));
    let mut failures = Vec::new();
    for parser in PARSERS {
        let seed = bench.seed(parser);
        bench.run(parser, &seed);
        for number in 0..COUNT {
            let mut random = Random(number);
            let mut bytes = seed.clone();
            for _ in 0..1 + random.below(3) {
                damage(&mut bytes, &mut random);
            }
            if catch_unwind(AssertUnwindSafe(|| bench.run(parser, &bytes))).is_err() {
                failures.push(format!("{} {number}", parser.name));
            }
        }
        bench.restore(parser, &seed);
    }
    assert!(failures.is_empty(), "panics: {failures:?}");
}
