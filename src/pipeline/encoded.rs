//! Tensors with every block encoded for itself, by importance.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::Result;

use super::slabs::{of_matrix, slabs_of};
use crate::device::Device;
use crate::forward::weights::WeightSource;
use crate::imatrix::Imatrix;
use crate::kernels::encode::encode_values;
use crate::quant::GgmlType;
use crate::quant::lossless::{self, Precision};
use crate::source::{Model, Tensor, Weights};

/// Types by tensor.
pub(super) type Types = BTreeMap<String, GgmlType>;

/// Encodes rows of one matrix of `tensor` as `ty`; `sink` receives the bytes of each slab and the number of weights in it. Weights on
/// the grid of the type stay what they are. `importance` is that of all matrices.
fn encode_rows(
    device: &Device,
    source: &Weights,
    importance: &[f32],
    (tensor, rows): (&Tensor, Range<usize>),
    ty: GgmlType,
    sink: &mut dyn FnMut(&[u8], u64) -> Result<()>,
) -> Result<()> {
    let weights = device.upload("importance", of_matrix(tensor, importance, &rows))?;
    for rows in slabs_of(tensor, rows) {
        let values = source.f32_rows(tensor, rows.clone())?;
        let bytes = match lossless::encode(ty, &values, Precision::of(tensor.ty)) {
            Some(exact) => exact,
            None => encode_values(device, ty, &values, &weights, tensor.cols)?,
        };
        sink(&bytes, (rows.len() * tensor.cols) as u64)?;
    }
    Ok(())
}

/// Encodes all of `tensor` so.
pub(super) fn encode_tensor(
    device: &Device,
    source: &Weights,
    imatrix: Option<&Imatrix>,
    tensor: &Tensor,
    ty: GgmlType,
    mut sink: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<()> {
    let importance = importance(imatrix, tensor);
    let mut matrices = tensor.by_matrix(0..tensor.rows);
    matrices.try_for_each(|rows| encode_rows(device, source, &importance, (tensor, rows), ty, &mut sink))
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
        self.read_rows(tensor, 0..tensor.rows)
    }

    fn read_rows<'a>(&'a self, tensor: &Tensor, rows: Range<usize>) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        let Some(ty) = self.types.get(&tensor.name).copied().filter(|ty| *ty != tensor.ty) else {
            return self.model.read_rows(tensor, rows);
        };
        let mut bytes = Vec::new();
        let mut sink = |slab: &[u8], _| {
            bytes.extend_from_slice(slab);
            Ok(())
        };
        let importance = importance(self.imatrix, tensor);
        for rows in tensor.by_matrix(rows) {
            encode_rows(self.device, self.model, &importance, (tensor, rows), ty, &mut sink)?;
        }
        Ok((ty, Cow::Owned(bytes)))
    }
}
