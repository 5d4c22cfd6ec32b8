//! Some rows of a tensor, evenly spread: enough to judge how well it is encoded.

use std::ops::Range;

use anyhow::Result;

use crate::device::{Buffer, Device};
use crate::kernels::encode::encode;
use crate::kernels::matmul::matmul;
use crate::kernels::row_dot::row_dot;
use crate::kernels::row_error::row_error;
use crate::kernels::weight::Weight;
use crate::kernels::weight_difference::weight_difference;
use crate::quant::GgmlType;
use crate::sensitivity::Factor;
use crate::source::{Tensor, Weights};

/// Sampled rows and their numbers in the tensor.
pub struct Sample<'a> {
    pub device: &'a Device,
    pub rows: Vec<usize>,
    pub values: Vec<f32>,
    cols: usize,
    x: Buffer,
}

impl<'a> Sample<'a> {
    /// At most `most` of the rows `rows`.
    pub fn new(
        device: &'a Device,
        weights: &Weights,
        tensor: &Tensor,
        rows: Range<usize>,
        most: usize,
    ) -> Result<Self> {
        let step = rows.len().div_ceil(most);
        let rows: Vec<usize> = rows.step_by(step).collect();
        let mut values = Vec::with_capacity(rows.len() * tensor.cols);
        for row in &rows {
            values.extend(weights.f32_rows(tensor, *row..row + 1)?);
        }
        Ok(Sample { device, cols: tensor.cols, x: device.upload("sampled rows", &values)?, rows, values })
    }

    /// The same rows of some columns.
    pub fn columns(&self, cols: Range<usize>) -> Result<Self> {
        let values = columns(&self.values, self.cols, &cols);
        let x = self.device.upload("sampled rows", &values)?;
        Ok(Sample { device: self.device, rows: self.rows.clone(), cols: cols.len(), values, x })
    }

    /// The rows, each block encoded for itself.
    pub fn encode(&self, ty: GgmlType, importance: &Buffer) -> Result<Weight> {
        encode(self.device, ty, &self.x, importance, self.rows.len(), self.cols)
    }

    /// The rows from the bytes of a GGUF tensor.
    pub fn upload(&self, ty: GgmlType, bytes: &[u8]) -> Result<Weight> {
        Weight::upload(self.device, "sampled rows", ty, self.rows.len(), self.cols, bytes)
    }

    /// `dw H dw^T` of each row.
    pub fn errors(&self, encoded: &Weight, h: &Weight) -> Result<Vec<f32>> {
        let (device, n, k) = (self.device, self.rows.len(), self.cols);
        let dw = device.alloc("weight differences", n * k * size_of::<f32>())?;
        let product = device.alloc("weight differences times H", n * k * size_of::<f32>())?;
        let out = device.alloc("row errors", n * size_of::<f32>())?;
        weight_difference(device, &self.x, encoded, &dw)?;
        matmul(device, &dw, h, None, &product, n, false)?;
        row_dot(device, &dw, &product, &out, n, k)?;
        device.read::<f32>(&out)
    }

    /// `dw b^T` of each row, b `[rows, cols]`.
    pub fn products(&self, encoded: &Weight, b: &Buffer) -> Result<Vec<f32>> {
        let (device, n, k) = (self.device, self.rows.len(), self.cols);
        let dw = device.alloc("weight differences", n * k * size_of::<f32>())?;
        let out = device.alloc("products", n * size_of::<f32>())?;
        weight_difference(device, &self.x, encoded, &dw)?;
        row_dot(device, &dw, b, &out, n, k)?;
        device.read::<f32>(&out)
    }

    /// `sum_j cols[j] dw_j^2` of each row.
    pub fn diagonal_errors(&self, encoded: &Weight, cols: &Buffer) -> Result<Vec<f32>> {
        let (device, n) = (self.device, self.rows.len());
        let out = device.alloc("row errors", 2 * n * size_of::<f32>())?;
        let no_means = device.upload("means", &vec![0f32; self.cols])?;
        row_error(device, &self.x, encoded, 0..n, (cols, &no_means), &out)?;
        Ok(device.read::<f32>(&out)?.into_iter().step_by(2).collect())
    }

    /// The sum of row errors as `factor` weighs the rows, or plainly.
    pub fn total(&self, errors: &[f32], factor: Option<&Factor>) -> f64 {
        let weight = |row: usize| factor.map_or(1.0, |factor| f64::from(factor.rows[row]));
        self.rows.iter().zip(errors).map(|(row, error)| weight(*row) * f64::from(*error)).sum()
    }
}

/// Columns `cols` of `values`, which have `width`.
pub fn columns(values: &[f32], width: usize, cols: &Range<usize>) -> Vec<f32> {
    if *cols == (0..width) {
        return values.to_vec();
    }
    values.chunks_exact(width).flat_map(|row| &row[cols.clone()]).copied().collect()
}
