//! Which bytes a pass runs with: the model's own, or others in their place.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::{Context, Result};

use crate::arch::graph::Op;
use crate::device::{Buffer, Device};
use crate::kernels::weight::Weight;
use crate::quant::GgmlType;
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

/// A model with some tensors replaced by encoded ones.
pub struct Overlay<'a> {
    pub base: &'a Model,
    pub replaced: HashMap<String, (GgmlType, Vec<u8>)>,
}

impl WeightSource for Overlay<'_> {
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        match self.replaced.get(&tensor.name) {
            Some((ty, bytes)) => Ok((*ty, Cow::Borrowed(bytes))),
            None => self.base.read(tensor),
        }
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
    Weight::upload(device, name, ty, info.rows, info.cols, &bytes)
}
