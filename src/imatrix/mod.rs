//! Activation statistics and the two file formats that llama.cpp reads.
//!
//! For every linear layer: the sum of x_j^2 over the tokens it saw, optionally the sum of x_j, and how many tokens
//! there were. Sums and counts add, so files merge. Formats: llama.cpp `common/imatrix-loader.cpp` (reading),
//! `tools/imatrix/imatrix.cpp` (writing, merging), `tools/quantize/quantize.cpp` (what a missing expert weighs).

pub mod collect;
pub mod fit;
mod gguf_file;
mod legacy;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::arch::tensor_class::importance_names;
use crate::files::InputFile;
use crate::gguf::Value;

/// Importance matrix: statistics of the inputs of linear layers, by weight name (`blk.0.attn_q.weight`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Imatrix {
    pub entries: BTreeMap<String, Entry>,
    /// Names of the calibration texts.
    pub datasets: Vec<String>,
    /// Number of chunks seen.
    pub chunk_count: u32,
    /// Tokens per chunk; 0 when unknown (the legacy format does not store it, and counts are then chunks).
    pub chunk_size: u32,
    /// Our own keys (`dq_gpu.*`), in file order. Other readers ignore them; the legacy format cannot hold them.
    pub extra: Vec<(String, Value)>,
}

/// How far calibration text reaches the experts of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// In all layers.
    pub experts: usize,
    /// Those that fewer than [`FEW_TOKENS`] tokens were sent to.
    pub few: usize,
    /// Tokens of the expert that has fewest.
    pub fewest_tokens: u64,
}

/// Fewer tokens say little of what an expert reads.
pub const FEW_TOKENS: f64 = 100.0;

/// Tokens that the mean of all experts weighs as much as, beside those of an expert itself.
const COMMON_TOKENS: f64 = 16.0;

/// The statistics of one weight tensor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Sum of x_j^2, `[matrices, cols]`.
    pub sum2: Vec<f64>,
    /// Sum of x_j, `[matrices, cols]`. llama.cpp has no such statistic.
    pub sum: Option<Vec<f64>>,
    /// Tokens seen, one count per expert matrix; length 1 for a dense layer.
    pub counts: Vec<f64>,
}

impl Imatrix {
    /// Reads either format, told apart by content.
    ///
    /// Errors: not an importance matrix, cut short, missing keys, lengths that do not match, values that are not
    /// finite. The message names the file and the entry.
    pub fn read(path: &Path) -> Result<Self> {
        let at = || cannot_use(path);
        let file = InputFile::open(path).with_context(at)?;
        let imatrix = match file.read(0..file.len().min(4)).with_context(at)?.as_slice() {
            b"GGUF" => gguf_file::read(path)?,
            _ => legacy::parse(&file.read_all().with_context(at)?).with_context(at)?,
        };
        imatrix.validate().with_context(at)?;
        Ok(imatrix)
    }

    /// Writes llama.cpp's GGUF format; sums of x_j and `extra` keys go beside what llama.cpp reads.
    pub fn write_gguf(&self, path: &Path) -> Result<()> {
        self.validate()?;
        self.check_f32()?;
        gguf_file::write(self, path)
    }

    /// Writes the legacy format. It has no room for sums of x_j, counts per expert and `extra` keys.
    pub fn write_dat(&self, path: &Path) -> Result<()> {
        self.validate()?;
        legacy::write(self, path)
    }

    /// Adds another file's sums and counts.
    ///
    /// Errors: an entry with another number of values; nothing is merged then.
    pub fn merge(&mut self, other: &Imatrix) -> Result<()> {
        for (name, theirs) in &other.entries {
            let Some(ours) = self.entries.get(name) else { continue };
            ensure!(
                ours.sum2.len() == theirs.sum2.len(),
                "importance matrices do not fit together: `{name}` has {} values in one and {} in the other",
                ours.sum2.len(),
                theirs.sum2.len()
            );
            ensure!(
                ours.counts.len() == theirs.counts.len() || ours.counts.len() == 1 || theirs.counts.len() == 1,
                "importance matrices do not fit together: `{name}` has {} experts in one and {} in the other",
                ours.counts.len(),
                theirs.counts.len()
            );
        }
        // Legacy counts are chunks; make them tokens once the size of a chunk is known.
        let mut other = other.clone();
        match (self.chunk_size, other.chunk_size) {
            (0, size) => self.set_chunk_size(size),
            (size, 0) => other.set_chunk_size(size),
            _ => {}
        }
        for (name, theirs) in other.entries {
            match self.entries.get_mut(&name) {
                Some(ours) => ours.add(theirs),
                None => {
                    self.entries.insert(name, theirs);
                }
            }
        }
        self.datasets.extend(other.datasets);
        for (key, value) in other.extra {
            if self.extra.iter().all(|(k, _)| *k != key) {
                self.extra.push((key, value));
            }
        }
        self.validate()?;
        self.chunk_count = match self.chunk_size {
            0 => self.chunk_count.saturating_add(other.chunk_count),
            size => (self.max_count() / f64::from(size)) as u32,
        };
        Ok(())
    }

    fn set_chunk_size(&mut self, size: u32) {
        if self.chunk_size == 0 && size > 0 {
            self.chunk_size = size;
            self.entries.values_mut().for_each(|entry| entry.scale(f64::from(size)));
        }
    }

    fn max_count(&self) -> f64 {
        self.entries.values().flat_map(|entry| &entry.counts).copied().fold(0.0, f64::max)
    }

    /// E[x_j^2], `[matrices, cols]`: the weights of quantization errors. An expert that saw no token weighs all its
    /// columns 1, as in llama-quantize.
    pub fn mean2(&self, name: &str) -> Option<Vec<f32>> {
        let entry = self.entries.get(name)?;
        Some(entry.means(&entry.sum2, 1.0))
    }

    /// The importance of the columns of each matrix of a tensor, `[matrices, cols]`: [`Imatrix::known_importance`], or ones.
    pub fn importance(&self, name: &str, cols: usize, matrices: usize) -> Vec<f32> {
        self.known_importance(name, cols, matrices).unwrap_or_else(|| vec![1.0; cols * matrices])
    }

    /// E[x_j^2] of the tensor's own statistics, or of a tensor that reads the same vector, `[matrices, cols]`. Experts that few tokens
    /// were sent to are drawn towards all of them.
    pub fn known_importance(&self, name: &str, cols: usize, matrices: usize) -> Option<Vec<f32>> {
        let known = importance_names(name).into_iter().find_map(|name| self.entries.get(&name));
        let values = known?.drawn_together();
        (values.len() == cols * matrices).then_some(values)
    }

    /// How far the text reached the experts; none for a model without, and where counts are not by expert.
    pub fn coverage(&self) -> Option<Coverage> {
        let is_stack = |(name, entry): &(&String, &Entry)| name.contains(".ffn_down_exps.") && entry.counts.len() > 1;
        let counts: Vec<f64> =
            self.entries.iter().filter(is_stack).flat_map(|(_, entry)| &entry.counts).copied().collect();
        let fewest_tokens = counts.iter().copied().reduce(f64::min)? as u64;
        let few = counts.iter().filter(|count| **count < FEW_TOKENS).count();
        Some(Coverage { experts: counts.len(), few, fewest_tokens })
    }

    /// E[x_j], `[matrices, cols]`, where the file has it. An expert that saw no token has zeros.
    pub fn mean(&self, name: &str) -> Option<Vec<f32>> {
        let entry = self.entries.get(name)?;
        Some(entry.means(entry.sum.as_ref()?, 0.0))
    }

    /// [`Imatrix::mean2`] for a tensor of known shape.
    ///
    /// Errors: the entry is of another model (its length is not `matrices * cols`).
    pub fn mean2_for(&self, name: &str, cols: usize, matrices: usize) -> Result<Option<Vec<f32>>> {
        let means = self.mean2(name);
        if let Some(means) = &means {
            ensure!(
                means.len() == cols * matrices,
                "the importance matrix is of another model: `{name}` has {} values, not {cols} x {matrices}",
                means.len()
            );
        }
        Ok(means)
    }

    /// Fails on sums that the files, which hold f32, cannot.
    fn check_f32(&self) -> Result<()> {
        for (name, entry) in &self.entries {
            let values = entry.sum2.iter().chain(entry.sum.iter().flatten()).chain(&entry.counts);
            let is_f32 = |value: &f64| (*value as f32).is_finite();
            ensure!(
                values.copied().all(|value| is_f32(&value)),
                "the sums of the importance matrix are too large for a file: `{name}`"
            );
        }
        Ok(())
    }

    /// Checks lengths and values.
    pub fn validate(&self) -> Result<()> {
        ensure!(!self.entries.is_empty(), "the importance matrix has no entries");
        for (name, entry) in &self.entries {
            entry.validate().with_context(|| format!("the importance matrix is unusable at `{name}`"))?;
        }
        Ok(())
    }
}

impl Entry {
    /// Number of columns of each matrix.
    pub fn cols(&self) -> usize {
        self.sum2.len() / self.counts.len().max(1)
    }

    fn means(&self, sums: &[f64], unseen: f32) -> Vec<f32> {
        let cols = self.cols().max(1);
        let mean = |(index, &sum): (usize, &f64)| match self.counts[index / cols] {
            0.0 => unseen,
            count => (sum / count) as f32,
        };
        sums.iter().enumerate().map(mean).collect()
    }

    /// Means of x_j^2, those of matrices with few tokens drawn towards the mean of all.
    fn drawn_together(&self) -> Vec<f32> {
        let all: f64 = self.counts.iter().sum();
        if self.counts.len() == 1 || all == 0.0 {
            return self.means(&self.sum2, 1.0);
        }
        let cols = self.cols();
        let common = |column: usize| self.sum2.iter().skip(column).step_by(cols).sum::<f64>() / all;
        let common: Vec<f64> = (0..cols).map(common).collect();
        let mean = |(index, sum): (usize, &f64)| {
            let count = self.counts[index / cols];
            ((sum + COMMON_TOKENS * common[index % cols]) / (count + COMMON_TOKENS)) as f32
        };
        self.sum2.iter().enumerate().map(mean).collect()
    }

    fn scale(&mut self, factor: f64) {
        let sums = self.sum2.iter_mut().chain(self.sum.iter_mut().flatten());
        sums.chain(&mut self.counts).for_each(|value| *value *= factor);
    }

    /// A single count stands for all matrices.
    fn add(&mut self, other: Entry) {
        if self.counts.len() < other.counts.len() {
            self.counts = vec![self.counts[0]; other.counts.len()];
        }
        for (index, count) in self.counts.iter_mut().enumerate() {
            *count += other.counts[if other.counts.len() == 1 { 0 } else { index }];
        }
        add(&mut self.sum2, &other.sum2);
        self.sum = self.sum.take().zip(other.sum).map(|(mut ours, theirs)| {
            add(&mut ours, &theirs);
            ours
        });
    }

    fn validate(&self) -> Result<()> {
        ensure!(!self.sum2.is_empty() && !self.counts.is_empty(), "it is empty");
        ensure!(
            self.sum2.len().is_multiple_of(self.counts.len()),
            "its {} values do not divide into {} matrices",
            self.sum2.len(),
            self.counts.len()
        );
        let sums = self.sum.as_deref().unwrap_or_default();
        ensure!(
            self.sum.is_none() || sums.len() == self.sum2.len(),
            "it has {} sums for {} sums of squares",
            sums.len(),
            self.sum2.len()
        );
        let finite = |values: &[f64]| values.iter().all(|v| v.is_finite());
        ensure!(finite(&self.sum2) && finite(sums), "a value is not finite");
        ensure!(self.counts.iter().all(|&c| c.is_finite() && c >= 0.0), "a count is not a number of tokens");
        let means = self.means(&self.sum2, 1.0).into_iter().chain(self.means(sums, 0.0));
        ensure!(means.into_iter().all(f32::is_finite), "a mean is too large");
        ensure!(self.sum2.iter().all(|&v| v >= 0.0), "a sum of squares is negative");
        Ok(())
    }
}

fn cannot_use(path: &Path) -> String {
    format!("cannot use the importance matrix: `{}`", path.display())
}

fn add(ours: &mut [f64], theirs: &[f64]) {
    for (a, b) in ours.iter_mut().zip(theirs) {
        *a += b;
    }
}
