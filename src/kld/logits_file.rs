//! llama.cpp's file of base log-probabilities (`llama-perplexity --kl-divergence-base`), written and read.
//!
//! Little endian: `_logits_`, i32 n_ctx, i32 n_vocab, i32 n_chunk, i32 tokens of all chunks; then, chunk by chunk, one record
//! for each of the positions n_ctx/2 .. n_ctx-1 (the last has no next token): f32 scale, f32 minimum, u16 of every
//! vocabulary entry (and one more if their number is odd). ln p = scale * q + minimum; what lies more than 16 nats below
//! the largest is raised to that floor.

use std::fs::File;
use std::io::{BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use memmap2::Mmap;

use crate::whole_file::WholeFile;

const MAGIC: &[u8; 8] = b"_logits_";

/// Bytes before the tokens.
const HEADER: usize = 20;

/// Log-probabilities reach at most this far below the largest logit.
const RANGE: f32 = 16.0;

/// Positions of a chunk that are scored: the second half, but for the last, which has no next token.
fn scored(n_ctx: usize) -> usize {
    (n_ctx - 1).saturating_sub(n_ctx / 2)
}

/// Bytes of one record: two f32, then u16 for an even number of entries.
fn record_bytes(n_vocab: usize) -> usize {
    8 + 2 * n_vocab.next_multiple_of(2)
}

/// Writes such a file row by row. The final name appears only when [`LogitsWriter::finish`] succeeds.
pub struct LogitsWriter {
    path: PathBuf,
    file: BufWriter<WholeFile>,
    n_vocab: usize,
    rows_left: usize,
    record: Vec<u8>,
}

impl LogitsWriter {
    /// `tokens` are those of all chunks, `n_ctx` each, before any BOS is put in their first place.
    pub fn create(path: &Path, n_ctx: usize, n_vocab: usize, tokens: &[u32]) -> Result<LogitsWriter> {
        let shown = path.display();
        ensure!(scored(n_ctx) > 0, "a context of {n_ctx} tokens scores none of them");
        ensure!(n_vocab > 0, "the vocabulary is empty");
        ensure!(
            !tokens.is_empty() && tokens.len().is_multiple_of(n_ctx),
            "{} tokens are not a whole number of chunks of {n_ctx}",
            tokens.len()
        );
        let n_chunk = tokens.len() / n_ctx;
        let file = WholeFile::create(path).with_context(|| format!("cannot write the logits file: `{shown}`"))?;
        let mut writer = LogitsWriter {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 20, file),
            n_vocab,
            rows_left: n_chunk * scored(n_ctx),
            record: Vec::with_capacity(record_bytes(n_vocab)),
        };
        let mut header = MAGIC.to_vec();
        for (what, value) in [("context", n_ctx), ("vocabulary", n_vocab), ("number of chunks", n_chunk)] {
            let value = i32::try_from(value).with_context(|| format!("the {what} is too large: `{value}`"))?;
            header.extend(value.to_le_bytes());
        }
        for &token in tokens {
            ensure!((token as usize) < n_vocab, "token {token} is not among the {n_vocab} of the vocabulary");
            header.extend(token.to_le_bytes());
        }
        writer.put(&header)?;
        Ok(writer)
    }

    /// The next row: logits of the whole vocabulary at the next scored position. `-inf` is allowed, NaN and `inf` are not.
    pub fn row(&mut self, logits: &[f32]) -> Result<()> {
        ensure!(self.rows_left > 0, "more rows than the logits file holds: `{}`", self.path.display());
        ensure!(logits.len() == self.n_vocab, "a row has {} logits instead of {}", logits.len(), self.n_vocab);
        self.record.clear();
        pack(logits, &mut self.record)?;
        self.record.resize(record_bytes(self.n_vocab), 0);
        self.rows_left -= 1;
        let record = std::mem::take(&mut self.record);
        let written = self.put(&record);
        self.record = record;
        written
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("cannot write the logits file: `{}`", self.path.display()))
    }

    /// Completes the file; an error if rows are missing.
    pub fn finish(self) -> Result<()> {
        let shown = self.path.display();
        ensure!(self.rows_left == 0, "{} rows of the logits file are missing: `{shown}`", self.rows_left);
        let end = || -> Result<()> {
            self.file.into_inner().map_err(IntoInnerError::into_error)?.finish()?;
            Ok(())
        };
        end().with_context(|| format!("cannot write the logits file: `{shown}`"))
    }
}

/// Appends scale, minimum and the 16-bit steps of one row.
fn pack(logits: &[f32], record: &mut Vec<u8>) -> Result<()> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let valid = max.is_finite() && logits.iter().all(|x| !x.is_nan());
    ensure!(valid, "a row of logits holds a value that is not a number");
    let least = logits.iter().copied().fold(f32::INFINITY, f32::min);
    let min = least.max(max - RANGE);
    let sum: f64 = logits.iter().map(|x| f64::from((x - max).exp())).sum();
    let scale = (max - min) / 65535.0;
    record.extend(scale.to_le_bytes());
    record.extend((min - max - sum.ln() as f32).to_le_bytes());
    let steps = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for &x in logits {
        let step = if x > min { (steps * (x - min)).round_ties_even() } else { 0.0 };
        record.extend((step as u16).to_le_bytes());
    }
    Ok(())
}

/// Such a file, memory-mapped.
pub struct LogitsFile {
    map: Mmap,
    n_ctx: usize,
    n_vocab: usize,
    n_chunk: usize,
}

impl LogitsFile {
    /// Opens and checks a file; one that was cut short is refused.
    pub fn open(path: &Path) -> Result<LogitsFile> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot open the logits file: `{shown}`"))?;
        // SAFETY: the map is read-only; a file that another program shortens meanwhile ends this one, as with any map.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map the logits file: `{shown}`"))?;
        ensure!(map.len() >= HEADER && map[..8] == *MAGIC, "not a file of llama.cpp's base logits: `{shown}`");
        let field = |at: usize| usize::try_from(i32::from_le_bytes(map[at..at + 4].try_into().expect("four bytes")));
        let (n_ctx, n_vocab, n_chunk) = match (field(8), field(12), field(16)) {
            (Ok(n_ctx @ 3..), Ok(n_vocab @ 1..), Ok(n_chunk @ 1..)) => (n_ctx, n_vocab, n_chunk),
            _ => anyhow::bail!("the header of the logits file is damaged: `{shown}`"),
        };
        let file = LogitsFile { map, n_ctx, n_vocab, n_chunk };
        let tokens = n_ctx as u128 * n_chunk as u128 * 4;
        let records = n_chunk as u128 * scored(n_ctx) as u128 * record_bytes(n_vocab) as u128;
        let expected = HEADER as u128 + tokens + records;
        ensure!(
            file.map.len() as u128 == expected,
            "the logits file has {} bytes instead of {expected}: `{shown}`",
            file.map.len()
        );
        for position in 0..n_ctx * n_chunk {
            let token = file.token(position);
            ensure!((token as usize) < n_vocab, "the logits file holds the unknown token {token}: `{shown}`");
        }
        Ok(file)
    }

    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    pub fn n_chunk(&self) -> usize {
        self.n_chunk
    }

    /// Scored positions per chunk.
    pub fn rows_per_chunk(&self) -> usize {
        scored(self.n_ctx)
    }

    fn token(&self, position: usize) -> u32 {
        let at = HEADER + 4 * position;
        u32::from_le_bytes(self.map[at..at + 4].try_into().expect("four bytes"))
    }

    /// The tokens of all chunks, as they were before a BOS was put in the first place of each.
    pub fn tokens(&self) -> Vec<u32> {
        (0..self.n_ctx * self.n_chunk).map(|position| self.token(position)).collect()
    }

    /// The true next token at scored position `row` of `chunk`.
    pub fn target(&self, chunk: usize, row: usize) -> u32 {
        assert!(chunk < self.n_chunk && row < self.rows_per_chunk(), "row {row} of chunk {chunk} is out of range");
        self.token(chunk * self.n_ctx + self.n_ctx / 2 + row + 1)
    }

    /// Natural log-probabilities (`out[n_vocab]`) at scored position `row` of `chunk`.
    pub fn log_probs(&self, chunk: usize, row: usize, out: &mut [f32]) {
        assert!(chunk < self.n_chunk && row < self.rows_per_chunk(), "row {row} of chunk {chunk} is out of range");
        assert_eq!(out.len(), self.n_vocab);
        let bytes = record_bytes(self.n_vocab);
        let start = HEADER + 4 * self.n_ctx * self.n_chunk + (chunk * self.rows_per_chunk() + row) * bytes;
        let record = &self.map[start..start + bytes];
        let float = |at: usize| f32::from_le_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let (scale, minimum) = (float(0), float(4));
        for (out, step) in out.iter_mut().zip(record[8..].chunks_exact(2)) {
            *out = scale * f32::from(u16::from_le_bytes([step[0], step[1]])) + minimum;
        }
    }
}

/// The divergence of one position as llama-perplexity computes it from such a file: base log-probabilities below -16 are
/// left out. Gives (KL in nats, ln p of the target in the base, ln p of the target in the other model, same top token).
pub fn divergence(base: &[f32], logits: &[f32], target: u32) -> (f64, f64, f64, bool) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    let log_sum = f64::from(max) + sum.ln();
    let kld = base.iter().zip(logits).filter(|(p, _)| **p > -RANGE).map(|(&p, &z)| {
        let p = f64::from(p);
        p.exp() * (p - (f64::from(z) - log_sum))
    });
    let target = target as usize;
    (kld.sum(), f64::from(base[target]), f64::from(logits[target]) - log_sum, top(base) == top(logits))
}

/// Index of the first largest value.
fn top(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}
