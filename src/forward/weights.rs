//! Which bytes a pass runs with: the model's own, or others in their place.

use std::borrow::Cow;

use anyhow::{Context, Result};

use crate::device::{Buffer, Device, shader};
use crate::graph::{Graph, LayerWeights, WeightUse};
use crate::kernels::weight::Weight;
use crate::quant::{self, GgmlType};
use crate::source::{Model, Tensor};

/// Where a pass takes the bytes of a tensor from.
pub trait WeightSource: Sync {
    /// Type and GGUF bytes of `tensor`.
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)>;
}

impl WeightSource for Model {
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        Ok((tensor.ty, self.bytes(tensor)?))
    }
}

/// Uploads every tensor that `layer` uses.
pub(super) fn load_layer(
    device: &Device,
    model: &Model,
    weights: &dyn WeightSource,
    layer: &Graph,
) -> Result<LayerWeights> {
    let mut loaded = LayerWeights::default();
    for tensor in layer.weights() {
        match tensor {
            WeightUse::Matrix(name) => {
                loaded.matrices.insert(name.to_owned(), load_matrix(device, model, weights, name)?);
            }
            WeightUse::Vector(name) => {
                loaded.vectors.insert(name.to_owned(), load_vector(device, model, name)?);
            }
        }
    }
    Ok(loaded)
}

/// The tensor of that name, or an error that says which is missing.
pub(super) fn tensor<'a>(model: &'a Model, name: &str) -> Result<&'a Tensor> {
    model.tensor(name).with_context(|| format!("{}: tensor missing: `{name}`", model.path.display()))
}

/// Uploads a 1-D tensor as f32.
pub(super) fn load_vector(device: &Device, model: &Model, name: &str) -> Result<Buffer> {
    let info = tensor(model, name)?;
    device.upload(name, &model.f32_rows(info, 0..info.rows)?)
}

fn load_matrix(device: &Device, model: &Model, weights: &dyn WeightSource, name: &str) -> Result<Weight> {
    let info = tensor(model, name)?;
    let (ty, bytes) = weights.read(info)?;
    upload(device, name, ty, info.rows, info.cols, &bytes)
}

/// Uploads a matrix that kernels can read: in F32 if it is of a type that a GPU has no decoder for.
pub(super) fn upload(
    device: &Device,
    name: &str,
    ty: GgmlType,
    rows: usize,
    cols: usize,
    bytes: &[u8],
) -> Result<Weight> {
    if !device.is_gpu() || shader::decoders().any(|decoded| decoded == ty) {
        return Weight::upload(device, name, ty, rows, cols, bytes);
    }
    let mut values = vec![0f32; rows * cols];
    quant::decode(ty, bytes, &mut values).with_context(|| format!("cannot read tensor `{name}`"))?;
    Weight::upload(device, name, GgmlType::F32, rows, cols, bytemuck::cast_slice(&values))
}
