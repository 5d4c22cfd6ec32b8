//! Tensors with every block encoded for itself, by importance.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::Result;

use super::slabs::{of_matrix, slabs};
use crate::device::Device;
use crate::forward::weights::WeightSource;
use crate::imatrix::Imatrix;
use crate::kernels::encode::encode_values;
use crate::quant::GgmlType;
use crate::quant::lossless::{self, Precision};
use crate::source::{Model, Tensor};

/// Types by tensor.
pub(super) type Types = BTreeMap<String, GgmlType>;

/// Encodes `tensor` as `ty`; `sink` receives the bytes of each slab and the number of weights in it. Weights on the grid of the
/// type stay what they are; without importance all columns count the same.
pub(super) fn encode_tensor(
    device: &Device,
    model: &Model,
    imatrix: Option<&Imatrix>,
    tensor: &Tensor,
    ty: GgmlType,
    mut sink: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<()> {
    let importance = importance(imatrix, tensor);
    for rows in slabs(tensor) {
        let weights = device.upload("importance", of_matrix(tensor, &importance, &rows))?;
        let values = model.f32_rows(tensor, rows.clone())?;
        let bytes = match lossless::encode(ty, &values, Precision::of(tensor.ty)) {
            Some(exact) => exact,
            None => encode_values(device, ty, &values, &weights, tensor.cols)?,
        };
        sink(&bytes, (rows.len() * tensor.cols) as u64)?;
    }
    Ok(())
}

/// The importance of the columns of each matrix of a tensor, `[matrices, cols]`; without any all columns count the same.
pub(super) fn importance(imatrix: Option<&Imatrix>, tensor: &Tensor) -> Vec<f32> {
    let matrices = tensor.matrices();
    let known = imatrix.map(|imatrix| imatrix.importance(&tensor.name, tensor.cols, matrices));
    known.unwrap_or_else(|| vec![1.0; tensor.cols * matrices])
}

/// The model with some tensors encoded when they are read, so that no more than one is held.
pub(super) struct Encoded<'a> {
    pub device: &'a Device,
    pub model: &'a Model,
    pub imatrix: Option<&'a Imatrix>,
    pub types: &'a Types,
}

impl WeightSource for Encoded<'_> {
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        let Some(ty) = self.types.get(&tensor.name).copied().filter(|ty| *ty != tensor.ty) else {
            return self.model.read(tensor);
        };
        let mut bytes = Vec::new();
        encode_tensor(self.device, self.model, self.imatrix, tensor, ty, |slab, _| {
            bytes.extend_from_slice(slab);
            Ok(())
        })?;
        Ok((ty, Cow::Owned(bytes)))
    }
}
