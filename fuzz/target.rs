//! One parser on one input, in a folder that holds good files for all the others.

#[path = "../tests/mutations/parsers.rs"]
mod parsers;

use std::path::Path;

use parsers::{Bench, PARSERS};

thread_local! {
    static BENCH: Bench = Bench::new(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")));
}

pub fn run(name: &str, data: &[u8]) {
    let parser = PARSERS.iter().find(|parser| parser.name == name).expect("a parser of this name");
    BENCH.with(|bench| bench.run(parser, data));
}
