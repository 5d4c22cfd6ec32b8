//! Writing: every tensor in its planned type, streamed to the file.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;

use super::analyze::exact_types;
use super::encoded::encode_tensor;
use super::round::{RoundingInputs, round};
use super::slabs::slabs;
use crate::device::Device;
use crate::gguf::{GgufWriter, Metadata, TensorPlan};
use crate::imatrix::Imatrix;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::source::{Model, Tensor, Weights};

/// What a file is made from.
#[derive(Clone, Copy)]
pub struct FileInputs<'a> {
    pub weights: &'a Weights,
    pub plan: &'a Plan,
    /// Without it all columns count the same.
    pub imatrix: Option<&'a Imatrix>,
    /// The model that text is passed through, and how. Without it every block is encoded for itself.
    pub rounding: Option<(&'a Model, &'a RoundingInputs<'a>)>,
    pub metadata: &'a Metadata,
}

/// Encodes the weights as planned. The file appears under `target` only when the returned writer is finished.
pub fn write(device: &Device, inputs: &FileInputs, target: &Path, progress: &dyn Progress) -> Result<GgufWriter> {
    let FileInputs { weights, plan, imatrix, rounding, metadata } = *inputs;
    let ty_of = |name: &str, source| plan.ty(name).unwrap_or(source);
    let tensors: Vec<TensorPlan> = weights
        .tensors
        .iter()
        .map(|tensor| TensorPlan {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            ty: ty_of(&tensor.name, tensor.ty),
        })
        .collect();
    let mut writer = GgufWriter::new(target, metadata, &tensors)?;
    if let Some((model, rounding)) = rounding {
        let mut changed = HashMap::new();
        for tensor in &weights.tensors {
            let ty = ty_of(&tensor.name, tensor.ty);
            // weights on the grid of the type stay what they are
            if ty != tensor.ty && exact_types(weights, tensor, &[ty])?.is_empty() {
                changed.insert(tensor.name.clone(), ty);
            }
        }
        let mut sink = |tensor: &Tensor, bytes: &[u8]| writer.write_tensor(&tensor.name, bytes);
        round(device, model, &changed, imatrix, rounding, &mut sink, progress)?;
    }
    progress.begin("writing", weights.tensors.iter().map(|tensor| (tensor.rows * tensor.cols) as u64).sum());
    for tensor in &weights.tensors {
        let ty = ty_of(&tensor.name, tensor.ty);
        if writer.is_written(&tensor.name) {
            progress.advance((tensor.rows * tensor.cols) as u64)?;
            continue;
        }
        if ty == tensor.ty {
            for rows in slabs(tensor) {
                writer.write_tensor(&tensor.name, &weights.bytes_of_rows(tensor, rows.clone())?)?;
                progress.advance((rows.len() * tensor.cols) as u64)?;
            }
            continue;
        }
        encode_tensor(device, weights, imatrix, tensor, ty, |bytes, count| {
            writer.write_tensor(&tensor.name, bytes)?;
            progress.advance(count)
        })?;
    }
    progress.end();
    Ok(writer)
}
