//! Weighing: the exact error of every candidate type of every tensor, and what it costs in nats.

use std::ops::Range;

use anyhow::Result;

use super::metadata::fixed_bytes;
use crate::arch::tensor_class::{importance_names, may_quantize};
use crate::device::{Buffer, Device};
use crate::gguf::Metadata;
use crate::imatrix::Imatrix;
use crate::kernels::encode::encode;
use crate::kernels::row_error::row_error;
use crate::plan::analysis::ANALYSIS_VERSION;
use crate::plan::{Analysis, Candidate, ModelShape, TensorAnalysis};
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::sensitivity::{Factor, Sensitivities};
use crate::source::{Model, Tensor};

/// Bytes of f32 weights that are worked on at once.
const SLAB_BYTES: usize = 32 << 20;

/// What an analysis is made from.
pub struct AnalysisInputs<'a> {
    pub model: &'a Model,
    pub imatrix: &'a Imatrix,
    pub sensitivities: &'a Sensitivities,
    pub calibration_hash: &'a str,
    /// Types to measure; those that do not fit a tensor's rows are left out there.
    pub types: &'a [GgmlType],
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
        },
        fixed_bytes: fixed_bytes(model, metadata)?,
        tensors: tensors.collect(),
        ties: Vec::new(),
    })
}

/// Encodes every quantizable tensor in every type and measures what would be written.
pub fn analyze(device: &Device, inputs: &AnalysisInputs, progress: &dyn Progress) -> Result<Analysis> {
    let mut analysis = bare_analysis(inputs.model, inputs.metadata, inputs.calibration_hash)?;
    analysis.sensitivity = "reverse sweep".to_string();
    let elements: u64 = analysis.quantizable().map(TensorAnalysis::elements).sum();
    progress.begin("weighing types", elements);
    for entry in analysis.tensors.iter_mut().filter(|tensor| tensor.quantizable) {
        let tensor = inputs.model.tensor(&entry.name).expect("the analysis lists the model's tensors");
        entry.candidates = candidates(device, inputs, tensor, progress)?;
    }
    progress.end();
    Ok(analysis)
}

fn candidates(
    device: &Device,
    inputs: &AnalysisInputs,
    tensor: &Tensor,
    progress: &dyn Progress,
) -> Result<Vec<Candidate>> {
    let weights = importance(inputs.imatrix, tensor).unwrap_or_else(|| vec![1.0; tensor.cols]);
    let unknown = [Factor { rows: vec![0.0; tensor.rows], cols: weights.clone() }];
    let factors = inputs.sensitivities.factors.get(&tensor.name).map_or(&unknown[..], |factors| &factors[..]);
    let encode_weights = device.upload("importance", &weights)?;
    let no_means = device.upload("means", &vec![0f32; tensor.cols])?;
    let columns = factors.iter().map(|factor| device.upload("error weights", &factor.cols));
    let columns = columns.collect::<Result<Vec<_>>>()?;

    let types: Vec<GgmlType> = inputs.types.iter().copied().filter(|ty| ty.fits(tensor.cols)).collect();
    let mut found: Vec<Candidate> = types.iter().map(|ty| blank(*ty, tensor)).collect();
    for rows in slabs(tensor) {
        let x = device.upload(&tensor.name, &inputs.model.f32_rows(tensor, rows.clone())?)?;
        let errors = device.alloc("row errors", 2 * rows.len() * size_of::<f32>())?;
        for candidate in &mut found {
            let encoded = encode(device, candidate.ty, &x, &encode_weights, rows.len(), tensor.cols)?;
            let measure = |weights: &Buffer| -> Result<Vec<f32>> {
                row_error(device, &x, &encoded, 0..rows.len(), (weights, &no_means), &errors)?;
                Ok(device.read::<f32>(&errors)?.into_iter().step_by(2).collect())
            };
            candidate.error += measure(&encode_weights)?.into_iter().map(f64::from).sum::<f64>();
            for (factor, columns) in factors.iter().zip(&columns) {
                candidate.predicted += factor.nats(rows.clone(), measure(columns)?);
            }
        }
        progress.advance((rows.len() * tensor.cols) as u64)?;
    }
    found.retain(|candidate| candidate.ty != tensor.ty);
    found.push(blank(tensor.ty, tensor));
    Ok(found)
}

/// A candidate that costs nothing yet; the source type stays so, since its bytes are copied.
fn blank(ty: GgmlType, tensor: &Tensor) -> Candidate {
    Candidate { ty, bytes: ty.bytes_for((tensor.rows * tensor.cols) as u64), error: 0.0, predicted: 0.0 }
}
