//! What quantized layers change in the input of those behind them, and which weights make up for it.
//!
//! A row w of a weight gives w x + h in the original model, h being what its output is added to; behind quantized layers
//! it reads x' and is added to h'. Its output misses w (x - x') + (h - h') there. Weights w + s E[missed x'^T] E[x' x'^T]^-1
//! give that back as far as x' tells it.

use std::ops::Range;

use anyhow::Result;

use super::hessian::{Moments, matrix, text};
use crate::device::{Buffer, Device};
use crate::forward::lanes::LaneInputs;
use crate::kernels::gram::Columns;
use crate::kernels::matmul::matmul;
use crate::kernels::sum::difference;
use crate::kernels::weight::Weight;

/// s: the share of what is missed that a layer gives back; those behind it see the rest. From measurements (docs/rounding.md).
pub const REPAIR: f32 = 0.5;

/// By how much the values of one text have moved: the original's less those behind quantized layers.
pub(super) struct Moved {
    input: Buffer,
    residual: Option<Buffer>,
}

impl Moved {
    /// Of the text at these rows, where the input is `[tokens, width]` in the original model; behind quantized layers it is the text
    /// alone.
    pub(super) fn of_text(
        device: &Device,
        inputs: &LaneInputs,
        [original, quantized]: [&Buffer; 2],
        rows: Range<usize>,
    ) -> Result<Self> {
        let moved = |original: &Buffer, quantized: &Buffer, width: usize| -> Result<Buffer> {
            let original = text(device, original, width, rows.clone())?;
            let out = device.alloc("what has moved", rows.len() * width * size_of::<f32>())?;
            difference(device, &original, quantized, &out, rows.len() * width)?;
            Ok(out)
        };
        let residual = |[original, quantized]: [&Buffer; 2]| -> Result<Buffer> {
            let width = inputs.residual_width();
            moved(original, &text(device, quantized, width, rows.clone())?, width)
        };
        Ok(Moved {
            input: moved(original, quantized, inputs.quantized.width)?,
            residual: inputs.residuals.map(residual).transpose()?,
        })
    }
}

/// Sums over tokens for some columns of an input.
pub(super) struct DriftSums {
    /// x' (x - x')^T, `[cols, cols]`.
    input: Moments,
    /// (h - h') x'^T, `[width of h, cols]`.
    residual: Option<(usize, Moments)>,
}

impl DriftSums {
    /// `residual` is the width of h, 0 if nothing is added.
    pub(super) fn zeroed(device: &Device, cols: usize, residual: usize) -> Result<Self> {
        let residual =
            (residual > 0).then(|| Ok::<_, anyhow::Error>((residual, Moments::zeroed(device, residual, cols)?)));
        Ok(DriftSums { input: Moments::zeroed(device, cols, cols)?, residual: residual.transpose()? })
    }

    pub(super) fn add(&mut self, device: &Device, x: &Columns, moved: &Moved, tokens: usize) -> Result<()> {
        let input = Columns { matrix: &moved.input, width: x.width, range: x.range.clone() };
        self.input.add_product(device, x, &input, tokens)?;
        if let (Some((width, sum)), Some(residual)) = (&mut self.residual, &moved.residual) {
            sum.add_product(device, &Columns::all(residual, *width), x, tokens)?;
        }
        Ok(())
    }

    pub(super) fn mean(device: &Device, parts: &[&DriftSums]) -> Result<Drift> {
        let input = Moments::mean(device, &parts.iter().map(|part| &part.input).collect::<Vec<_>>())?;
        let residuals: Option<Vec<&Moments>> =
            parts.iter().map(|part| part.residual.as_ref().map(|(_, sum)| sum)).collect();
        let residual = residuals.map(|sums| Moments::mean(device, &sums)).transpose()?;
        let cols = input.len().isqrt();
        Ok(Drift { cols, input: matrix(device, &input, cols)?, residual })
    }
}

/// Means of what some columns of an input say about the output that is missed.
pub struct Drift {
    cols: usize,
    input: Weight,
    residual: Option<Vec<f32>>,
}

impl Drift {
    /// E[missed x'^T] for the rows `rows` of a weight, whose `values` in these columns are `[rows, cols]`.
    pub fn missed(
        &self,
        device: &Device,
        values: &Buffer,
        rows: impl ExactSizeIterator<Item = usize>,
    ) -> Result<Buffer> {
        let (count, row) = (rows.len(), |index: usize| index * self.cols..(index + 1) * self.cols);
        let out = match &self.residual {
            Some(residual) => {
                let residual: Vec<f32> = rows.flat_map(|index| &residual[row(index)]).copied().collect();
                device.upload("missed outputs", &residual)?
            }
            None => device.alloc("missed outputs", count * self.cols * size_of::<f32>())?,
        };
        matmul(device, values, &self.input, None, &out, count, true)?;
        Ok(out)
    }
}

/// Makes up for drift.
pub struct Repair {
    drift: Drift,
    /// E[x' x'^T]^-1, damped.
    inverse: Weight,
}

impl Repair {
    /// `inverse` is E[x' x'^T]^-1, `[cols, cols]`.
    pub fn new(device: &Device, drift: Drift, inverse: &[f32]) -> Result<Self> {
        Ok(Repair { inverse: matrix(device, inverse, drift.cols)?, drift })
    }

    /// What is to be added to the `values` `[rows, cols]` of the rows `rows`.
    pub fn shift(
        &self,
        device: &Device,
        values: &[f32],
        rows: impl ExactSizeIterator<Item = usize>,
    ) -> Result<Vec<f32>> {
        let count = rows.len();
        let missed = self.drift.missed(device, &device.upload("weights", values)?, rows)?;
        let shift = device.alloc("shift", count * self.drift.cols * size_of::<f32>())?;
        matmul(device, &missed, &self.inverse, None, &shift, count, false)?;
        let mut shift = device.read_range::<f32>(&shift, 0, count * self.drift.cols)?;
        shift.iter_mut().for_each(|value| *value *= REPAIR);
        Ok(shift)
    }
}
