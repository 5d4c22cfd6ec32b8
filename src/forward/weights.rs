//! Which bytes a pass runs with: the model's own, or others in their place.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::{Context, Result};

use crate::arch::graph::Op;
use crate::device::{Buffer, Device, shader};
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

/// The weights of one layer on the device.
pub(super) struct LayerWeights {
    matrices: HashMap<String, Weight>,
    vectors: HashMap<String, Buffer>,
}

impl LayerWeights {
    /// Uploads every tensor that `ops` name.
    pub(super) fn load(device: &Device, model: &Model, weights: &dyn WeightSource, ops: &[Op]) -> Result<Self> {
        let mut layer = LayerWeights { matrices: HashMap::new(), vectors: HashMap::new() };
        for op in ops {
            match op {
                Op::RmsNorm { weight, .. } => layer.load_vector(device, model, weight)?,
                Op::Linear { weight, bias, .. } => {
                    layer.matrices.insert(weight.clone(), load_matrix(device, model, weights, weight)?);
                    if let Some(bias) = bias {
                        layer.load_vector(device, model, bias)?;
                    }
                }
                Op::Rope { .. } | Op::Attention { .. } | Op::SwiGlu { .. } => {}
            }
        }
        Ok(layer)
    }

    fn load_vector(&mut self, device: &Device, model: &Model, name: &str) -> Result<()> {
        self.vectors.insert(name.to_string(), load_vector(device, model, name)?);
        Ok(())
    }

    pub(super) fn matrix(&self, name: &str) -> &Weight {
        &self.matrices[name]
    }

    pub(super) fn vector(&self, name: &str) -> &Buffer {
        &self.vectors[name]
    }
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
