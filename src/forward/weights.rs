//! Which bytes a pass runs with: the model's own, or others in their place.

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;

use anyhow::{Context, Result};

use crate::device::{Buffer, Device, shader};
use crate::graph::{Graph, LayerWeights, Stack, WeightUse};
use crate::kernels::weight::Weight;
use crate::quant::{self, GgmlType};
use crate::source::{Model, Tensor};

/// Where a pass takes the bytes of a tensor from.
pub trait WeightSource: Sync {
    /// Type and GGUF bytes of `tensor`.
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)>;

    /// The same of some rows.
    fn read_rows<'a>(&'a self, tensor: &Tensor, rows: Range<usize>) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        let (ty, bytes) = self.read(tensor)?;
        Ok((ty, rows_of(ty, bytes, tensor.cols, rows)))
    }
}

/// Some rows of a tensor's bytes.
pub fn rows_of(ty: GgmlType, bytes: Cow<[u8]>, cols: usize, rows: Range<usize>) -> Cow<[u8]> {
    let row = ty.bytes_for(cols as u64) as usize;
    let range = rows.start * row..rows.end * row;
    match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[range]),
        Cow::Owned(bytes) => Cow::Owned(bytes[range].to_vec()),
    }
}

impl WeightSource for Model {
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        Ok((tensor.ty, self.bytes(tensor)?))
    }

    fn read_rows<'a>(&'a self, tensor: &Tensor, rows: Range<usize>) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        Ok((tensor.ty, self.bytes_of_rows(tensor, rows)?))
    }
}

/// Uploads every tensor that `layer` uses. Stacks that take more than `budget` bytes together are loaded one matrix at a time.
pub(super) fn load_layer<'a>(
    device: &'a Device,
    model: &'a Model,
    weights: &'a dyn WeightSource,
    layer: &Graph,
    budget: usize,
) -> Result<LayerWeights<'a>> {
    let stacks = layer.weights().filter_map(|tensor| match tensor {
        WeightUse::Stack(name) => model.tensor(name),
        _ => None,
    });
    let are_small = stacks.map(|stack| stack.ty.bytes_for(stack.elements())).sum::<u64>() <= budget as u64;
    let mut loaded = LayerWeights::default();
    for tensor in layer.weights() {
        match tensor {
            WeightUse::Matrix(name) => {
                loaded.matrices.insert(name.to_owned(), load_matrix(device, model, weights, name)?);
            }
            WeightUse::Stack(name) => {
                let stack = if are_small {
                    Stack::Whole(Rc::new(load_matrix(device, model, weights, name)?))
                } else {
                    let info = model.require(name)?;
                    Stack::Each(Box::new(move |index| load_part(device, weights, info, index)))
                };
                loaded.stacks.insert(name.to_owned(), stack);
            }
            WeightUse::Vector(name) => {
                loaded.vectors.insert(name.to_owned(), load_vector(device, model, name)?);
            }
        }
    }
    Ok(loaded)
}

/// Uploads a 1-D tensor as f32.
pub(super) fn load_vector(device: &Device, model: &Model, name: &str) -> Result<Buffer> {
    let info = model.require(name)?;
    device.upload(name, &model.f32_rows(info, 0..info.rows)?)
}

/// Matrix `index` of a stack.
fn load_part(device: &Device, weights: &dyn WeightSource, stack: &Tensor, index: usize) -> Result<Weight> {
    let rows = stack.matrix_rows(index);
    let (ty, bytes) = weights.read_rows(stack, rows.clone())?;
    upload(device, &stack.name, ty, rows.len(), stack.cols, &bytes)
}

fn load_matrix(device: &Device, model: &Model, weights: &dyn WeightSource, name: &str) -> Result<Weight> {
    let info = model.require(name)?;
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
