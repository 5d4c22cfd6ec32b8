//! The table that `analyze` writes and `plan` reads: for every tensor, what each candidate type costs in bytes and in nats.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::mixes::{ModelShape, TensorShape};
use crate::files;
use crate::quant::GgmlType;
use crate::sensitivity::probe::Probes;
use crate::source::listing;

/// The version of the analysis file that this program writes and reads.
pub const ANALYSIS_VERSION: u32 = 1;

/// Data of each tensor starts at a multiple of this many bytes (`general.alignment`).
pub const ALIGNMENT: u64 = 32;

/// Most weights of a model, and bytes around them: what a file says beyond that is damage. Sums of sizes stay far from 2^64.
const MAX_ELEMENTS: u64 = 1 << 50;

/// `bytes` rounded up to the alignment of a GGUF.
pub fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Everything the planner knows about a model. One analysis serves every target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// [`ANALYSIS_VERSION`] of the writer.
    pub version: u32,
    /// Name or path of the model, for people.
    pub model: String,
    /// Fingerprint of the source model.
    pub fingerprint: String,
    /// Hash of the calibration tokens; empty when nothing was measured.
    #[serde(default)]
    pub calibration_hash: String,
    /// How the sensitivities were found, for people: "reverse sweep" or "group probes"; empty when nothing was measured.
    #[serde(default)]
    pub sensitivity: String,
    /// What llama.cpp's own mixture rules ask about the model.
    pub shape: ModelShape,
    /// Bytes of the written file that no plan changes: header, metadata and tensor table up to the aligned start of the
    /// data section (and the padded data of tensors that are not listed below, if any).
    pub fixed_bytes: u64,
    /// Every tensor of the file, those that are never quantized too. A tied embedding is one tensor in both roles.
    pub tensors: Vec<TensorAnalysis>,
    /// Groups of tensor names that must share one type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ties: Vec<Vec<String>>,
    /// What errors of each group of tensors do to each token: for objectives beyond the mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
}

/// One tensor and what its candidate types cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorAnalysis {
    /// GGUF name.
    pub name: String,
    /// Product of all dimensions but the first of `dims`.
    pub rows: u64,
    /// `dims[0]`: the width of a row.
    pub cols: u64,
    /// ggml's ne order.
    pub dims: Vec<u64>,
    /// False for norms, routers and other tensors that are always written in `source_type`.
    pub quantizable: bool,
    /// The type in the source model.
    pub source_type: GgmlType,
    /// Measured types, in any order; empty for a tensor that was not measured.
    #[serde(default)]
    pub candidates: Vec<Candidate>,
}

/// One type for one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub ty: GgmlType,
    /// Exact size of the encoded tensor, without padding.
    pub bytes: u64,
    /// Absolute extra output energy per token: `sum_r sum_j h_j dw_rj^2`.
    pub error: f64,
    /// Predicted KL divergence that this tensor adds, in nats per token.
    pub predicted: f64,
}

impl Candidate {
    /// Whether the type holds every weight exactly.
    pub fn is_lossless(&self) -> bool {
        self.error == 0.0 && self.predicted == 0.0
    }
}

impl TensorAnalysis {
    /// A tensor without measurements.
    pub fn new(name: &str, dims: &[u64], source_type: GgmlType, quantizable: bool) -> TensorAnalysis {
        let cols = dims.first().copied().unwrap_or(0);
        let rows = dims.iter().skip(1).product();
        TensorAnalysis {
            name: name.to_owned(),
            rows,
            cols,
            dims: dims.to_vec(),
            quantizable,
            source_type,
            candidates: Vec::new(),
        }
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.rows * self.cols
    }

    /// Bytes in type `ty`, without padding; `None` if the rows are no whole number of blocks. The number of weights has been checked
    /// to be far below the largest u64.
    pub fn bytes_as(&self, ty: GgmlType) -> Option<u64> {
        self.cols.is_multiple_of(ty.block_len() as u64).then(|| ty.bytes_for(self.elements()))
    }

    /// The measured candidate of type `ty`.
    pub fn candidate(&self, ty: GgmlType) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.ty == ty)
    }

    /// Predicted KL in nats per token if written as `ty`: as measured, or 0 when `ty` holds every source value exactly.
    pub fn predicted(&self, ty: GgmlType) -> Option<f64> {
        let lossless =
            ty == self.source_type || ty == GgmlType::F32 && matches!(self.source_type, GgmlType::F16 | GgmlType::BF16);
        match self.candidate(ty) {
            Some(candidate) => Some(candidate.predicted),
            None if lossless => Some(0.0),
            None => None,
        }
    }

    fn validate(&self) -> Result<()> {
        ensure!(!self.name.is_empty(), "a tensor has no name");
        let elements = self.dims.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
        ensure!(
            !self.dims.is_empty() && elements.is_some_and(|n| (1..=MAX_ELEMENTS).contains(&n)),
            "the dimensions {:?} are empty or too large",
            self.dims
        );
        ensure!(
            self.cols == self.dims[0] && self.rows.checked_mul(self.cols) == elements,
            "{} rows x {} columns do not agree with the dimensions {:?}",
            self.rows,
            self.cols,
            self.dims
        );
        ensure!(
            self.bytes_as(self.source_type).is_some(),
            "rows of {} weights do not fit its source type {}",
            self.cols,
            self.source_type
        );
        let mut seen = HashSet::new();
        for candidate in &self.candidates {
            let Candidate { ty, bytes, error, predicted } = *candidate;
            ensure!(seen.insert(ty), "the candidate {ty} appears twice");
            match self.bytes_as(ty) {
                None => bail!("rows of {} weights do not fit the candidate {ty}", self.cols),
                Some(exact) => ensure!(bytes == exact, "the candidate {ty} has {exact} bytes, not {bytes}"),
            }
            for (what, value) in [("error", error), ("predicted KL", predicted)] {
                ensure!(value.is_finite() && value >= 0.0, "the {what} of the candidate {ty} is {value}");
            }
        }
        Ok(())
    }
}

impl Analysis {
    /// Reads and checks an analysis file.
    pub fn read(path: &Path) -> Result<Analysis> {
        let text = files::text(path).with_context(|| format!("cannot read the analysis: `{}`", path.display()))?;
        let analysis: Analysis =
            serde_json::from_str(&text).with_context(|| format!("not an analysis file: `{}`", path.display()))?;
        analysis.validate().with_context(|| format!("the analysis is damaged: `{}`", path.display()))?;
        Ok(analysis)
    }

    /// Checks and writes an analysis file, through a temporary file beside it.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.validate()?;
        super::file::write_json(path, self)
    }

    /// Checks every number; the message names the tensor.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            self.version == ANALYSIS_VERSION,
            "analysis version {} is not the version {ANALYSIS_VERSION} that this program reads",
            self.version
        );
        ensure!(!self.tensors.is_empty(), "the analysis holds no tensors");
        ensure!(self.fixed_bytes <= MAX_ELEMENTS, "{} fixed bytes are too many", self.fixed_bytes);
        let mut names = HashSet::new();
        let mut elements = 0u64;
        for tensor in &self.tensors {
            tensor.validate().with_context(|| format!("tensor: `{}`", tensor.name))?;
            ensure!(names.insert(tensor.name.as_str()), "the tensor appears twice: `{}`", tensor.name);
            elements = elements.saturating_add(tensor.elements());
            ensure!(elements <= MAX_ELEMENTS, "all tensors together hold too many weights");
        }
        for name in self.ties.iter().flatten() {
            ensure!(names.contains(name.as_str()), "a tie names an unknown tensor: `{name}`");
        }
        if let Some(probes) = &self.probes {
            probes.validate()?;
            let probed = || probes.groups.iter().flat_map(|group| group.types.keys());
            for name in probed() {
                ensure!(names.contains(name.as_str()), "a probe names an unknown tensor: `{name}`");
            }
            let distinct: HashSet<&String> = probed().collect();
            ensure!(distinct.len() == probed().count(), "a tensor is in two probes");
        }
        Ok(())
    }

    /// Bounds every predicted KL by `most`, that of a model without any knowledge: ln(vocabulary). Says so if one is above it, and
    /// fails if one is no number.
    pub fn bound_predictions(&mut self, most: f64) -> Result<()> {
        let mut above = Vec::new();
        for tensor in &mut self.tensors {
            for candidate in &mut tensor.candidates {
                let Candidate { ty, predicted, .. } = *candidate;
                ensure!(
                    predicted.is_finite() && predicted >= 0.0,
                    "the predicted KL of `{}` in {ty} is {predicted}: what errors cost is unknown; `--sensitivity probes` measures it",
                    tensor.name
                );
                if predicted > most {
                    candidate.predicted = most;
                    above.push(format!("{} in {ty}", tensor.name));
                }
            }
        }
        if !above.is_empty() {
            log::warn!(
                "{} predictions of the KL of a tensor in a type are above {most:.2} nats, which a model without any knowledge has, and are \
                 taken as that: {}",
                above.len(),
                listing(&above)
            );
        }
        Ok(())
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorAnalysis> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Tensors that a plan gives a type.
    pub fn quantizable(&self) -> impl Iterator<Item = &TensorAnalysis> {
        self.tensors.iter().filter(|tensor| tensor.quantizable)
    }

    /// Names and dimensions of all tensors, for llama.cpp's rules.
    pub fn shapes(&self) -> Vec<TensorShape<'_>> {
        self.tensors.iter().map(|tensor| TensorShape { name: &tensor.name, dims: &tensor.dims }).collect()
    }

    /// Number of weights in all tensors, the denominator of bits per weight.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(TensorAnalysis::elements).sum()
    }

    /// Bytes of the written file that do not depend on the plan: `fixed_bytes` and every unquantizable tensor, padded.
    pub fn base_bytes(&self) -> u64 {
        self.fixed_bytes + self.unquantizable_bytes(padded)
    }

    /// Sum over the tensors that are always written in their source type of `size(bytes)`.
    pub(super) fn unquantizable_bytes(&self, size: impl Fn(u64) -> u64) -> u64 {
        let fixed = self.tensors.iter().filter(|tensor| !tensor.quantizable);
        fixed.map(|tensor| size(tensor.source_type.bytes_for(tensor.elements()))).sum()
    }
}
