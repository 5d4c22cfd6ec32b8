//! Encoding whole tensors, a slab of rows at a time: to a file, or for a pass that asks what another type would do.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::Result;

use super::analyze::{importance, slabs};
use crate::device::Device;
use crate::forward::weights::WeightSource;
use crate::imatrix::Imatrix;
use crate::kernels::encode::encode;
use crate::quant::GgmlType;
use crate::source::{Model, Tensor};

/// Encodes `tensor` as `ty`; `sink` receives the bytes of each slab and the number of weights in it.
pub(super) fn encode_tensor(
    device: &Device,
    model: &Model,
    imatrix: Option<&Imatrix>,
    tensor: &Tensor,
    ty: GgmlType,
    mut sink: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<()> {
    let weights = imatrix.and_then(|imatrix| importance(imatrix, tensor));
    let weights = device.upload("importance", &weights.unwrap_or_else(|| vec![1.0; tensor.cols]))?;
    for rows in slabs(tensor) {
        let x = device.upload(&tensor.name, &model.f32_rows(tensor, rows.clone())?)?;
        let encoded = encode(device, ty, &x, &weights, rows.len(), tensor.cols)?;
        sink(&encoded.download(device)?, (rows.len() * tensor.cols) as u64)?;
    }
    Ok(())
}

/// A model some of whose tensors are quantized whenever a pass reads them: no more than one of them is held at a time.
pub struct Requantized<'a> {
    pub device: &'a Device,
    pub model: &'a Model,
    pub imatrix: &'a Imatrix,
    pub types: HashMap<String, GgmlType>,
}

impl WeightSource for Requantized<'_> {
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        let Some(&ty) = self.types.get(&tensor.name) else { return self.model.read(tensor) };
        let mut bytes = Vec::with_capacity(ty.bytes_for((tensor.rows * tensor.cols) as u64) as usize);
        encode_tensor(self.device, self.model, Some(self.imatrix), tensor, ty, |slab, _| {
            bytes.extend_from_slice(slab);
            Ok(())
        })?;
        Ok((ty, Cow::Owned(bytes)))
    }
}
