//! One tensor, rounded by panels of columns: how each is rounded is decided on tokens that rounding has not seen.

use std::ops::Range;

use anyhow::Result;

use super::sample::{Sample, columns};
use crate::device::{Buffer, Device};
use crate::kernels::encode::encode_values;
use crate::kernels::weight::Weight;
use crate::quant::GgmlType;
use crate::rounding::Method;
use crate::rounding::drift::{Drift, Repair};
use crate::rounding::feedback::Rounders;
use crate::rounding::hessian;
use crate::source::{Model, Tensor};

/// Rows on which ways to round are judged.
const JUDGED_ROWS: usize = 128;

/// Some columns of a linear input, with what rounding its readers needs.
pub struct Panel<'a> {
    cols: Range<usize>,
    rounders: Rounders<'a>,
    judge: Option<Judge>,
    repair: Option<Repair>,
}

/// Measures errors on held-out tokens.
struct Judge {
    h: Weight,
    drift: Option<Drift>,
}

/// A way to round.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Each block for itself.
    Plain,
    Rounded,
    /// Rounded to weights that make up for what earlier layers have lost.
    Repaired,
}

impl<'a> Panel<'a> {
    pub fn new(device: &'a Device, panel: &hessian::Panel, method: Method) -> Result<Self> {
        let width = panel.cols.len();
        let rounders = Rounders::new(device, panel.fit.h(device)?, width, method)?;
        let drift = panel.fit.drift(device)?;
        let repair = drift.map(|drift| Repair::new(device, drift, &rounders.inverse())).transpose()?;
        let judge = Judge { h: panel.judge_matrix(device)?, drift: panel.judge().drift(device)? };
        Ok(Panel { cols: panel.cols.clone(), rounders, judge: Some(judge), repair })
    }

    /// All columns, rounded by `h`, whatever that gives.
    pub fn unjudged(device: &'a Device, h: Vec<f32>, width: usize, method: Method) -> Result<Self> {
        Ok(Panel { cols: 0..width, rounders: Rounders::new(device, h, width, method)?, judge: None, repair: None })
    }

    /// The best way for these rows, on held-out tokens.
    fn way(&mut self, device: &Device, sample: &Sample, ty: GgmlType, weights: &[f32]) -> Result<Way> {
        let Some(judge) = &self.judge else { return Ok(Way::Rounded) };
        let part = sample.columns(self.cols.clone())?;
        let importance = device.upload("importance", &weights[self.cols.clone()])?;
        let missed = judge.missed(device, &part)?;
        let cost = |encoded: &Weight| judge.cost(&part, encoded, missed.as_ref());
        let plain = cost(&part.encode(ty, &importance)?)?;
        let mut wanted = part.values.clone();
        let mut way = Way::Rounded;
        if let Some(repair) = &self.repair {
            let shift = repair.shift(device, &part.values, part.rows.iter().copied())?;
            let repaired: Vec<f32> = part.values.iter().zip(&shift).map(|(value, shift)| value + shift).collect();
            if cost(&part.upload(GgmlType::F32, bytemuck::cast_slice(&repaired))?)? < 0.0 {
                (wanted, way) = (repaired, Way::Repaired);
            }
        }
        let rounded = self.rounders.round(ty, &wanted, &weights[self.cols.clone()])?;
        let rounded = cost(&part.upload(ty, &rounded)?)?;
        Ok(if rounded < plain { way } else { Way::Plain })
    }

    /// These columns of the rows `rows`, whose `values` have all columns.
    fn round(
        &mut self,
        device: &Device,
        (ty, way): (GgmlType, Way),
        values: &[f32],
        rows: Range<usize>,
        weights: &[f32],
    ) -> Result<Vec<u8>> {
        let (cols, weights) = (self.cols.len(), &weights[self.cols.clone()]);
        let mut values = columns(values, values.len() / rows.len(), &self.cols);
        if way == Way::Plain {
            return encode_values(device, ty, &values, &device.upload("importance", weights)?, cols);
        }
        if let (Way::Repaired, Some(repair)) = (way, &self.repair) {
            let shift = repair.shift(device, &values, rows)?;
            values.iter_mut().zip(shift).for_each(|(value, shift)| *value += shift);
        }
        self.rounders.round(ty, &values, weights)
    }
}

impl Judge {
    /// E[missed x'^T] of the sampled rows, where that is known.
    fn missed(&self, device: &Device, sample: &Sample) -> Result<Option<Buffer>> {
        let Some(drift) = &self.drift else { return Ok(None) };
        let values = device.upload("sampled rows", &sample.values)?;
        drift.missed(device, &values, sample.rows.iter().copied()).map(Some)
    }

    /// The mean square of what the outputs of the sampled rows are off by, less that of the original weights.
    fn cost(&self, sample: &Sample, encoded: &Weight, missed: Option<&Buffer>) -> Result<f64> {
        let errors = sample.total(&sample.errors(encoded, &self.h)?, None);
        let Some(missed) = missed else { return Ok(errors) };
        Ok(errors - 2.0 * sample.total(&sample.products(encoded, missed)?, None))
    }
}

/// A tensor and what it is to become.
pub struct TensorRounding<'a> {
    pub device: &'a Device,
    pub model: &'a Model,
    pub tensor: &'a Tensor,
    pub ty: GgmlType,
    /// Importance of the columns.
    pub weights: Vec<f32>,
}

impl TensorRounding<'_> {
    /// `sink` receives the bytes of each of `slabs`, which are rows.
    pub fn round(
        &self,
        panels: &mut [Panel],
        slabs: impl Iterator<Item = Range<usize>>,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let TensorRounding { device, model, tensor, ty, weights } = self;
        let sample = Sample::new(device, model, tensor, JUDGED_ROWS)?;
        let ways =
            panels.iter_mut().map(|panel| panel.way(device, &sample, *ty, weights)).collect::<Result<Vec<_>>>()?;
        if ways.contains(&Way::Plain) {
            log::info!("rounding fits the calibration text only, so blocks are encoded alone: `{}`", tensor.name);
        }
        for rows in slabs {
            let values = model.f32_rows(tensor, rows.clone())?;
            let parts = panels.iter_mut().zip(&ways);
            let parts = parts.map(|(panel, way)| panel.round(device, (*ty, *way), &values, rows.clone(), weights));
            sink(&side_by_side(parts.collect::<Result<Vec<_>>>()?, rows.len()))?;
        }
        Ok(())
    }
}

/// The rows of some matrices, joined.
fn side_by_side(mut parts: Vec<Vec<u8>>, rows: usize) -> Vec<u8> {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let row = |part: &Vec<u8>, index: usize| part.len() / rows * index..part.len() / rows * (index + 1);
    (0..rows).flat_map(|index| parts.iter().flat_map(move |part| part[row(part, index)].to_vec())).collect()
}
