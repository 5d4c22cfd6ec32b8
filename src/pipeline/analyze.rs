//! Weighing: the exact error of every candidate type of every tensor, and what it costs in nats.

use anyhow::Result;

use super::metadata::fixed_bytes;
use super::slabs::slabs;
use super::weigh::{Trials, Weigher};
use crate::arch::tensor_class::may_quantize;
use crate::calibration::Chunks;
use crate::device::Device;
use crate::forward::{Stream, StreamOptions};
use crate::gguf::Metadata;
use crate::imatrix::Imatrix;
use crate::plan::analysis::ANALYSIS_VERSION;
use crate::plan::{Analysis, ModelShape, RunShape, TensorAnalysis};
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::quant::lossless::{self, Precision};
use crate::rounding::hessian::{HeldOut, Hessian, Texts, shrunk};
use crate::rounding::{Method, SHRINK};
use crate::sensitivity::{Factor, Sensitivities};
use crate::source::{Model, Tensor, Weights};

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
    /// How tensors will be rounded.
    pub rounding: Method,
    /// Metadata of the file to be written, which counts in its size.
    pub metadata: &'a Metadata,
}

impl AnalysisInputs<'_> {
    /// What types are tried with.
    pub(super) fn trials(&self) -> Trials<'_> {
        Trials { weights: self.model, imatrix: self.imatrix, types: self.types }
    }
}

/// Rows looked at, evenly spaced, before all are.
const FIRST_ROWS: usize = 8;

/// Those of `types` on whose grid all weights of `tensor` lie, so that it is stored exactly.
pub(super) fn exact_types(weights: &Weights, tensor: &Tensor, types: &[GgmlType]) -> Result<Vec<GgmlType>> {
    let precision = Precision::of(tensor.ty);
    let mut types: Vec<GgmlType> = types.iter().copied().filter(|ty| ty.fits(tensor.cols)).collect();
    let first_rows = (0..tensor.rows).step_by(tensor.rows.div_ceil(FIRST_ROWS).max(1)).map(|row| row..row + 1);
    for rows in first_rows.chain(slabs(tensor)) {
        if types.is_empty() {
            break;
        }
        let values = weights.f32_rows(tensor, rows)?;
        types.retain(|ty| lossless::on_grid(*ty, &values, precision));
    }
    Ok(types)
}

/// The tensors of `model` and the size of the rest of the file, nothing measured: enough for plans by fixed rules.
pub fn bare_analysis(model: &Model, metadata: &Metadata, calibration_hash: &str) -> Result<Analysis> {
    let hparams = &model.hparams;
    let shape = ModelShape {
        architecture: model.family.architecture().to_string(),
        block_count: hparams.n_layer as u32,
        head_count: hparams.n_head as u32,
        head_count_kv: hparams.n_head_kv as u32,
        expert_count: hparams.n_expert() as u32,
        run: Some(RunShape::of(hparams)),
    };
    Ok(Analysis { calibration_hash: calibration_hash.to_string(), ..unmeasured(model, shape, metadata)? })
}

/// The same of weights of any architecture.
pub(super) fn unmeasured(weights: &Weights, shape: ModelShape, metadata: &Metadata) -> Result<Analysis> {
    let tensors = weights.tensors.iter().map(|tensor| {
        let quantizable = may_quantize(&tensor.name, &tensor.dims, &shape.architecture);
        TensorAnalysis::new(&tensor.name, &tensor.dims, tensor.ty, quantizable)
    });
    Ok(Analysis {
        version: ANALYSIS_VERSION,
        model: weights.path.display().to_string(),
        fingerprint: weights.fingerprint()?,
        calibration_hash: String::new(),
        sensitivity: String::new(),
        fixed_bytes: fixed_bytes(weights, metadata)?,
        tensors: tensors.collect(),
        shape,
        ties: Vec::new(),
        probes: None,
    })
}

/// Streams `chunks` through the model and, layer by layer, encodes every quantizable tensor in every type and measures
/// what would be written against the second moments of its input.
pub fn analyze(device: &Device, inputs: &AnalysisInputs, progress: &dyn Progress) -> Result<Analysis> {
    let mut analysis = bare_analysis(inputs.model, inputs.metadata, inputs.calibration_hash)?;
    let chunks = inputs.chunks;
    // half of the texts to round with, half to judge by
    let is_split = inputs.rounding != Method::PLAIN && chunks.len() > 1;
    let halves = if is_split { HeldOut::OneIn(2) } else { HeldOut::Nothing };
    let stream = Stream::new(device, inputs.model, &chunks.tokens, chunks.ctx, inputs.memory)?;
    let quantizable = analysis.quantizable().map(|tensor| tensor.name.clone()).collect();
    let mut weigher = Weigher::new(device, inputs, halves, quantizable);
    progress.begin("weighing types", stream.work());
    stream.final_states(inputs.model, 0..chunks.ctx, &mut weigher, progress)?;
    for entry in analysis.tensors.iter_mut().filter(|tensor| tensor.quantizable) {
        entry.candidates = weigher.take(&entry.name)?;
    }
    progress.end();
    Ok(analysis)
}

/// The second moments to round with for a tensor that is read by a linear layer and is the token embedding too: those of both
/// roles, each counting what its errors cost. None for tensors of one role, and where the input is seen in panels.
pub fn role_mixture(
    device: &Device,
    sensitivities: &Sensitivities,
    name: &str,
    hessian: &Hessian,
    texts: Texts,
) -> Result<Option<Vec<f32>>> {
    let Some([reader, embedding]) = sensitivities.factors.get(name).map(Vec::as_slice) else { return Ok(None) };
    let Some(gradient) = &sensitivities.embedding_moments else { return Ok(None) };
    let [whole] = hessian.panels.as_slice() else { return Ok(None) };
    let worth = |factor: &Factor| factor.rows.iter().map(|row| f64::from(*row)).sum::<f64>() as f32;
    // to eight bits: the last bits of sums over tokens would change every code that follows
    let ratio = half::bf16::from_f32(worth(embedding) / worth(reader).max(f32::MIN_POSITIVE)).to_f32();
    let h = shrunk(whole.h(device, texts)?, SHRINK);
    Ok(Some(h.iter().zip(gradient).map(|(h, g)| h + ratio * g).collect()))
}
