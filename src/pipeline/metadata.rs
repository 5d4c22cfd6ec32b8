//! Metadata of the written file, and the part of its size that no plan changes.

use anyhow::Result;

use crate::gguf::{Metadata, TensorPlan, Value, file_size};
use crate::imatrix::Imatrix;
use crate::plan::Plan;
use crate::plan::analysis::padded;
use crate::source::Weights;

/// The key under which the measured mean KL divergence is stored.
pub(super) const MEASURED_KLD: &str = "dq_gpu.kld.mean";
/// Positions behind [`MEASURED_KLD`].
pub(super) const MEASURED_TOKENS: &str = "dq_gpu.kld.tokens";

/// Hash of the text of the proof.
const HELDOUT_HASH: &str = "dq_gpu.heldout_hash";

/// The types of the source's weights, where they were quantized again.
const QUANTIZED_SOURCE: &str = "dq_gpu.quantized_source";

/// What the written file says about its making.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    /// Name of the importance matrix: a file, or the built-in calibration set.
    pub imatrix_name: String,
    pub calibration_hash: String,
    /// Whether all that is done is to decode what is quantized.
    pub is_conversion: bool,
    /// Of the text of the proof; none where there is no proof.
    pub heldout_hash: Option<String>,
}

/// The source's metadata with what quantization adds. `plan` is none while only the size matters: values that depend on
/// it have a fixed size.
pub fn output_metadata(
    weights: &Weights,
    imatrix: Option<&Imatrix>,
    provenance: &Provenance,
    plan: Option<&Plan>,
) -> Metadata {
    let mut metadata = weights.metadata.clone();
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    // of an importance matrix behind the source
    for key in ["file", "dataset", "entries_count", "chunks_count"] {
        metadata.remove(&format!("quantize.imatrix.{key}"));
    }
    metadata.set("general.quantization_version", Value::U32(2));
    metadata.set("general.file_type", Value::U32(plan.map_or(0, |plan| plan.file_type.id())));
    if let Some(imatrix) = imatrix {
        metadata.set("quantize.imatrix.file", Value::String(provenance.imatrix_name.clone()));
        if let Some(dataset) = imatrix.datasets.first() {
            metadata.set("quantize.imatrix.dataset", Value::String(dataset.clone()));
        }
        metadata.set("quantize.imatrix.entries_count", Value::U32(imatrix.entries.len() as u32));
        metadata.set("quantize.imatrix.chunks_count", Value::U32(imatrix.chunk_count));
    }
    metadata.set("dq_gpu.version", Value::String(env!("CARGO_PKG_VERSION").to_string()));
    metadata.set("dq_gpu.plan_hash", Value::String(plan.map_or("0".repeat(64), |plan| plan.hash.clone())));
    metadata.set("dq_gpu.calibration_hash", Value::String(provenance.calibration_hash.clone()));
    if let Some(types) = weights.quantized_types().filter(|_| !provenance.is_conversion) {
        metadata.set(QUANTIZED_SOURCE, Value::String(types));
    }
    match &provenance.heldout_hash {
        Some(hash) => {
            metadata.set(HELDOUT_HASH, Value::String(hash.clone()));
            // NaN until the proof has run.
            metadata.set(MEASURED_KLD, Value::F32(f32::NAN));
            metadata.set(MEASURED_TOKENS, Value::U32(0));
        }
        // those of the source are not about this file
        None => [HELDOUT_HASH, MEASURED_KLD, MEASURED_TOKENS].into_iter().for_each(|key| drop(metadata.remove(key))),
    }
    metadata
}

/// Bytes of the file that hold no tensor data: everything but the tensors, each padded.
pub(super) fn fixed_bytes(weights: &Weights, metadata: &Metadata) -> Result<u64> {
    let tensors: Vec<TensorPlan> = weights
        .tensors
        .iter()
        .map(|tensor| TensorPlan { name: tensor.name.clone(), dims: tensor.dims.clone(), ty: tensor.ty })
        .collect();
    let data = weights.tensors.iter().map(|tensor| padded(tensor.ty.bytes_for((tensor.rows * tensor.cols) as u64)));
    Ok(file_size(metadata, &tensors)? - data.sum::<u64>())
}
