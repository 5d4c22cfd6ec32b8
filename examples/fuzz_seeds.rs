//! Writes a good file of every kind, made from the fixtures of the tests, for the fuzzer to start from:
//! `cargo run --example fuzz_seeds -- fuzz/corpus`.

#[path = "../tests/mutations/parsers.rs"]
mod parsers;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use parsers::{Bench, PARSERS};

fn main() -> Result<()> {
    let corpus = PathBuf::from(std::env::args_os().nth(1).context("a folder is missing")?);
    let bench = Bench::new("tests/fixtures".as_ref());
    for parser in PARSERS {
        let folder = corpus.join(parser.name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("seed"), bench.seed(parser))?;
    }
    Ok(())
}
