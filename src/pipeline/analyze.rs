//! Weighing: the exact error of every candidate type of every tensor, and what it costs in nats.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use anyhow::Result;

use super::metadata::fixed_bytes;
use crate::arch::tensor_class::{importance_names, may_quantize};
use crate::calibration::Chunks;
use crate::device::{Buffer, Device};
use crate::forward::tap::Tap;
use crate::forward::{Stream, StreamOptions};
use crate::gguf::Metadata;
use crate::imatrix::Imatrix;
use crate::kernels::encode::encode;
use crate::kernels::matmul::matmul;
use crate::kernels::row_dot::row_dot;
use crate::kernels::row_error::row_error;
use crate::kernels::weight::Weight;
use crate::kernels::weight_difference::weight_difference;
use crate::plan::analysis::ANALYSIS_VERSION;
use crate::plan::{Analysis, Candidate, ModelShape, RunShape, TensorAnalysis};
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::rounding::hessian::HessianTap;
use crate::sensitivity::{Factor, Sensitivities};
use crate::source::{Model, Tensor};

/// Bytes of f32 weights that are worked on at once.
const SLAB_BYTES: usize = 32 << 20;

/// Rows of a tensor on which errors are measured with the full second moments.
const SAMPLED_ROWS: usize = 512;

/// What an analysis is made from.
pub struct AnalysisInputs<'a> {
    pub model: &'a Model,
    pub imatrix: &'a Imatrix,
    pub sensitivities: &'a Sensitivities,
    pub calibration_hash: &'a str,
    /// Types to measure; those that do not fit a tensor's rows are left out there.
    pub types: &'a [GgmlType],
    /// Text from which the second moments are taken.
    pub chunks: &'a Chunks,
    pub memory: StreamOptions,
    /// Metadata of the file to be written, which counts in its size.
    pub metadata: &'a Metadata,
}

/// The rows of a matrix in pieces of at most [`SLAB_BYTES`] as f32.
pub(super) fn slabs(tensor: &Tensor) -> impl Iterator<Item = Range<usize>> + use<> {
    let (rows, step) = (tensor.rows, (SLAB_BYTES / (tensor.cols * size_of::<f32>())).max(1));
    (0..rows).step_by(step).map(move |first| first..(first + step).min(rows))
}

/// The importance of the columns of `tensor`: its own statistics, or those of a matrix that reads the same vector.
pub fn importance(imatrix: &Imatrix, tensor: &Tensor) -> Option<Vec<f32>> {
    let found = importance_names(&tensor.name).into_iter().find_map(|name| imatrix.mean2(&name));
    found.filter(|values| values.len() == tensor.cols)
}

/// The tensors of `model` and the size of the rest of the file, nothing measured: enough for plans by fixed rules.
pub fn bare_analysis(model: &Model, metadata: &Metadata, calibration_hash: &str) -> Result<Analysis> {
    let hparams = &model.hparams;
    let architecture = model.family.architecture();
    let tensors = model.tensors.iter().map(|tensor| {
        let quantizable = may_quantize(&tensor.name, &tensor.dims, architecture);
        TensorAnalysis::new(&tensor.name, &tensor.dims, tensor.ty, quantizable)
    });
    Ok(Analysis {
        version: ANALYSIS_VERSION,
        model: model.path.display().to_string(),
        fingerprint: model.fingerprint(),
        calibration_hash: calibration_hash.to_string(),
        sensitivity: String::new(),
        shape: ModelShape {
            architecture: architecture.to_string(),
            block_count: hparams.n_layer as u32,
            head_count: hparams.n_head as u32,
            head_count_kv: hparams.n_head_kv as u32,
            expert_count: 0,
            run: Some(RunShape::of(hparams)),
        },
        fixed_bytes: fixed_bytes(model, metadata)?,
        tensors: tensors.collect(),
        ties: Vec::new(),
    })
}

/// Streams `chunks` through the model and, layer by layer, encodes every quantizable tensor in every type and measures
/// what would be written against the second moments of its input.
pub fn analyze(device: &Device, inputs: &AnalysisInputs, progress: &dyn Progress) -> Result<Analysis> {
    let mut analysis = bare_analysis(inputs.model, inputs.metadata, inputs.calibration_hash)?;
    analysis.sensitivity = "reverse sweep".to_string();
    let chunks = inputs.chunks;
    let stream = Stream::new(device, inputs.model, &chunks.tokens, chunks.ctx, inputs.memory)?;
    let mut weigher = Weigher {
        device,
        inputs,
        hessians: HessianTap::new(device),
        quantizable: analysis.quantizable().map(|tensor| tensor.name.clone()).collect(),
        found: HashMap::new(),
    };
    progress.begin("weighing types", stream.work());
    stream.final_states(inputs.model, 0..chunks.ctx, &mut weigher, progress)?;
    for entry in analysis.tensors.iter_mut().filter(|tensor| tensor.quantizable) {
        entry.candidates = match weigher.found.remove(&entry.name) {
            Some(candidates) => candidates,
            // Read by no linear layer: an embedding of its own.
            None => candidates(device, inputs, inputs.model.require(&entry.name)?, None)?,
        };
    }
    progress.end();
    Ok(analysis)
}

/// Weighs the tensors of a layer when all tokens have passed it, so that only one layer's second moments exist.
struct Weigher<'a> {
    device: &'a Device,
    inputs: &'a AnalysisInputs<'a>,
    hessians: HessianTap<'a>,
    quantizable: HashSet<String>,
    found: HashMap<String, Vec<Candidate>>,
}

impl Tap for Weigher<'_> {
    fn linear_input(&mut self, weights: &[&str], x: &Buffer, tokens: usize, width: usize) -> Result<()> {
        self.hessians.linear_input(weights, x, tokens, width)
    }

    fn layer_done(&mut self) -> Result<()> {
        for hessian in self.hessians.take() {
            let moments = hessian.normalized(self.device)?;
            for name in hessian.weights.iter().filter(|name| self.quantizable.contains(*name)) {
                let tensor = self.inputs.model.require(name)?;
                let found = candidates(self.device, self.inputs, tensor, Some(&moments))?;
                self.found.insert(name.clone(), found);
            }
        }
        Ok(())
    }
}

/// `hessian`, if there is one, is E[x x^T] of the input that the tensor's first factor belongs to.
fn candidates(
    device: &Device,
    inputs: &AnalysisInputs,
    tensor: &Tensor,
    hessian: Option<&Weight>,
) -> Result<Vec<Candidate>> {
    let weights = importance(inputs.imatrix, tensor).unwrap_or_else(|| vec![1.0; tensor.cols]);
    let Some(factors) = inputs.sensitivities.factors.get(&tensor.name) else {
        log::warn!("no sensitivity is known, so its type stays: `{}`", tensor.name);
        return Ok(vec![blank(tensor.ty, tensor)]);
    };
    let encode_weights = device.upload("importance", &weights)?;
    let no_means = device.upload("means", &vec![0f32; tensor.cols])?;
    let columns = factors.iter().map(|factor| device.upload("error weights", &factor.cols));
    let columns = columns.collect::<Result<Vec<_>>>()?;

    let types: Vec<GgmlType> = inputs.types.iter().copied().filter(|ty| ty.fits(tensor.cols)).collect();
    let mut found: Vec<Candidate> = types.iter().map(|ty| blank(*ty, tensor)).collect();
    // Nats by factor: the first one is corrected by what the sampled rows say of its diagonal.
    let mut nats = vec![vec![0f64; factors.len()]; found.len()];
    for rows in slabs(tensor) {
        let x = device.upload(&tensor.name, &inputs.model.f32_rows(tensor, rows.clone())?)?;
        let errors = device.alloc("row errors", 2 * rows.len() * size_of::<f32>())?;
        for (candidate, nats) in found.iter_mut().zip(&mut nats) {
            let encoded = encode(device, candidate.ty, &x, &encode_weights, rows.len(), tensor.cols)?;
            let measure = |weights: &Buffer| -> Result<Vec<f32>> {
                row_error(device, &x, &encoded, 0..rows.len(), (weights, &no_means), &errors)?;
                Ok(device.read::<f32>(&errors)?.into_iter().step_by(2).collect())
            };
            candidate.error += measure(&encode_weights)?.into_iter().map(f64::from).sum::<f64>();
            for ((factor, columns), nats) in factors.iter().zip(&columns).zip(nats) {
                *nats += factor.nats(rows.clone(), measure(columns)?);
            }
        }
    }
    if let Some(hessian) = hessian {
        let sample = Sample::new(device, inputs.model, tensor)?;
        for (candidate, nats) in found.iter().zip(&mut nats) {
            nats[0] *= sample.correction(candidate.ty, &encode_weights, (&factors[0], &columns[0]), hessian)?;
        }
    }
    for (candidate, nats) in found.iter_mut().zip(&nats) {
        candidate.predicted = nats.iter().sum();
    }
    found.retain(|candidate| candidate.ty != tensor.ty);
    found.push(blank(tensor.ty, tensor));
    Ok(found)
}

/// Some rows of a tensor, evenly spread: enough to tell how far the diagonal of H misjudges a type's errors.
struct Sample<'a> {
    device: &'a Device,
    rows: Vec<usize>,
    cols: usize,
    x: Buffer,
}

impl<'a> Sample<'a> {
    fn new(device: &'a Device, model: &Model, tensor: &Tensor) -> Result<Self> {
        let rows: Vec<usize> = (0..tensor.rows).step_by(tensor.rows.div_ceil(SAMPLED_ROWS)).collect();
        let mut values = Vec::with_capacity(rows.len() * tensor.cols);
        for row in &rows {
            values.extend(model.f32_rows(tensor, *row..row + 1)?);
        }
        Ok(Sample { device, cols: tensor.cols, x: device.upload("sampled rows", &values)?, rows })
    }

    /// sum g dw^T H dw over sum g dw^T diag(H) dw of the sampled rows.
    fn correction(
        &self,
        ty: GgmlType,
        importance: &Buffer,
        (factor, columns): (&Factor, &Buffer),
        hessian: &Weight,
    ) -> Result<f64> {
        let (device, n, k) = (self.device, self.rows.len(), self.cols);
        let encoded = encode(device, ty, &self.x, importance, n, k)?;
        let dw = device.alloc("weight differences", n * k * size_of::<f32>())?;
        let product = device.alloc("weight differences times H", n * k * size_of::<f32>())?;
        let out = device.alloc("row errors", 2 * n * size_of::<f32>())?;
        weight_difference(device, &self.x, &encoded, &dw)?;
        matmul(device, &dw, hessian, None, &product, n, false)?;
        row_dot(device, &dw, &product, &out, n, k)?;
        let full = device.read_range::<f32>(&out, 0, n)?;
        let no_means = device.upload("means", &vec![0f32; k])?;
        row_error(device, &self.x, &encoded, 0..n, (columns, &no_means), &out)?;
        let diagonal: Vec<f32> = device.read::<f32>(&out)?.into_iter().step_by(2).collect();
        let weighted = |errors: &[f32]| -> f64 {
            self.rows.iter().zip(errors).map(|(row, e)| f64::from(factor.rows[*row]) * f64::from(*e)).sum()
        };
        let (full, diagonal) = (weighted(&full), weighted(&diagonal));
        Ok(if full > 0.0 && diagonal > 0.0 { full / diagonal } else { 1.0 })
    }
}

/// A candidate that costs nothing yet; the source type stays so, since its bytes are copied.
fn blank(ty: GgmlType, tensor: &Tensor) -> Candidate {
    Candidate { ty, bytes: ty.bytes_for((tensor.rows * tensor.cols) as u64), error: 0.0, predicted: 0.0 }
}
