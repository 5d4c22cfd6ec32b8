//! One matrix, rounded by panels of columns: how each is rounded is decided on tokens that rounding has not seen.

use std::ops::Range;

use anyhow::Result;

use super::sample::{Sample, columns};
use super::slabs::slabs_of;
use super::strength::Reader;
use crate::device::{Buffer, Device};
use crate::kernels::encode::encode_values;
use crate::kernels::weight::Weight;
use crate::quant::GgmlType;
use crate::rounding::Method;
use crate::rounding::drift::{Drift, Repair};
use crate::rounding::feedback::Rounders;
use crate::rounding::hessian::{self, Texts, shrunk};
use crate::source::{Model, Tensor};

/// Rows on which ways to round are judged.
const JUDGED_ROWS: usize = 128;

/// Some columns of a linear input, with what rounding its readers needs.
pub struct Panel<'a> {
    device: &'a Device,
    method: Method,
    cols: Range<usize>,
    source: Source<'a>,
    /// Made when they are needed, and only the last one kept: each is several times as large as H.
    fitted: Option<(Texts, Fitted<'a>)>,
    judge: Option<Judge>,
}

/// Where H comes from.
enum Source<'a> {
    /// And the share of what it says of pairs of columns that is left out.
    Gathered(&'a hessian::Panel, f32),
    Given(Vec<f32>),
}

/// Fitted to some texts.
struct Fitted<'a> {
    rounders: Rounders<'a>,
    repair: Option<Repair>,
}

/// Measures errors on held-out tokens.
struct Judge {
    h: Weight,
    drift: Option<Drift>,
}

/// A way to round some columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// Each block for itself.
    Plain,
    Rounded,
    /// Rounded to weights that make up for what earlier layers have lost.
    Repaired,
}

impl<'a> Panel<'a> {
    /// `shrink` is the share of what H says of pairs of columns that is left out.
    pub fn new(device: &'a Device, panel: &'a hessian::Panel, shrink: f32, method: Method) -> Result<Self> {
        let judge = Judge { h: panel.matrix(device, Texts::HeldOut)?, drift: panel.drift(device, Texts::HeldOut)? };
        let (cols, source) = (panel.cols.clone(), Source::Gathered(panel, shrink));
        Ok(Panel { device, method, cols, source, fitted: None, judge: Some(judge) })
    }

    /// All columns, rounded by `h`, whatever that gives.
    pub fn unjudged(device: &'a Device, h: Vec<f32>, width: usize, method: Method) -> Result<Self> {
        Ok(Panel { device, method, cols: 0..width, source: Source::Given(h), fitted: None, judge: None })
    }

    fn fitted(&mut self, texts: Texts) -> Result<&mut Fitted<'a>> {
        if self.fitted.as_ref().is_none_or(|(kept, _)| *kept != texts) {
            self.fitted = None;
            let (device, width) = (self.device, self.cols.len());
            let (h, drift) = match &self.source {
                Source::Gathered(panel, share) => {
                    (shrunk(panel.h(device, texts)?, *share), panel.drift(device, texts)?)
                }
                Source::Given(h) => (h.clone(), None),
            };
            let rounders = Rounders::new(device, h, width, self.method)?;
            let repair = drift.map(|drift| Repair::new(device, drift, &rounders.inverse())).transpose()?;
            self.fitted = Some((texts, Fitted { rounders, repair }));
        }
        Ok(&mut self.fitted.as_mut().expect("just made").1)
    }

    /// The best way for these rows, on held-out tokens.
    fn way(&mut self, sample: &Sample, ty: GgmlType, weights: &[f32]) -> Result<Way> {
        let device = self.device;
        let part = sample.columns(self.cols.clone())?;
        let weights = &weights[self.cols.clone()];
        // put back below: what is fitted borrows the panel as a whole
        let Some(judge) = self.judge.take() else { return Ok(Way::Rounded) };
        let missed = judge.missed(device, &part)?;
        let cost = |encoded: &Weight| judge.cost(&part, encoded, missed.as_ref());
        let plain = cost(&part.encode(ty, &device.upload("importance", weights)?)?)?;
        let fitted = self.fitted(Texts::Fit)?;
        let (mut wanted, mut way) = (part.values.clone(), Way::Rounded);
        if let Some(repair) = &fitted.repair {
            let shift = repair.shift(device, &part.values, part.rows.iter().copied())?;
            let moved: Vec<f32> = part.values.iter().zip(&shift).map(|(value, shift)| value + shift).collect();
            if cost(&part.upload(GgmlType::F32, bytemuck::cast_slice(&moved))?)? < 0.0 {
                (wanted, way) = (moved, Way::Repaired);
            }
        }
        let rounded = fitted.rounders.round(ty, &wanted, weights)?;
        let rounded = cost(&part.upload(ty, &rounded)?)?;
        self.judge = Some(judge);
        Ok(if rounded < plain { way } else { Way::Plain })
    }

    /// These columns of the rows `rows`, whose `values` have all columns, in view of all texts.
    fn round(
        &mut self,
        (ty, way): (GgmlType, Way),
        values: &[f32],
        rows: Range<usize>,
        weights: &[f32],
    ) -> Result<Vec<u8>> {
        let (device, cols, weights) = (self.device, self.cols.len(), &weights[self.cols.clone()]);
        let mut values = columns(values, values.len() / rows.len(), &self.cols);
        if way == Way::Plain {
            return encode_values(device, ty, &values, &device.upload("importance", weights)?, cols);
        }
        let fitted = self.fitted(Texts::All)?;
        if let Some(repair) = fitted.repair.as_ref().filter(|_| way == Way::Repaired) {
            let shift = repair.shift(device, &values, rows)?;
            values.iter_mut().zip(shift).for_each(|(value, shift)| *value += shift);
        }
        fitted.rounders.round(ty, &values, weights)
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

/// A matrix and what it is to become.
pub struct MatrixRounding<'a> {
    pub device: &'a Device,
    pub model: &'a Model,
    pub tensor: &'a Tensor,
    /// Of the tensor.
    pub rows: Range<usize>,
    pub ty: GgmlType,
    /// Importance of the columns.
    pub weights: Vec<f32>,
}

impl<'a> MatrixRounding<'a> {
    /// Some rows, to judge by.
    pub fn reader(&self) -> Result<Reader<'a>> {
        let sample = Sample::new(self.device, self.model, self.tensor, self.rows.clone(), JUDGED_ROWS)?;
        Ok(Reader { sample, ty: self.ty, weights: self.weights.clone() })
    }

    /// How each panel is to be rounded.
    pub fn ways(&self, sample: &Sample, panels: &mut [Panel]) -> Result<Vec<Way>> {
        let ways: Vec<Way> =
            panels.iter_mut().map(|panel| panel.way(sample, self.ty, &self.weights)).collect::<Result<_>>()?;
        if ways.contains(&Way::Plain) {
            log::info!("rounding fits the text it saw only, so blocks are encoded alone: `{}`", self.tensor.name);
        }
        Ok(ways)
    }

    /// `sink` receives the bytes of some rows after the other.
    pub fn round(&self, panels: &mut [Panel], ways: &[Way], sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for rows in slabs_of(self.tensor, self.rows.clone()) {
            let values = self.model.f32_rows(self.tensor, rows.clone())?;
            let parts = panels.iter_mut().zip(ways);
            let parts = parts.map(|(panel, way)| panel.round((self.ty, *way), &values, rows.clone(), &self.weights));
            sink(&side_by_side(parts.collect::<Result<Vec<_>>>()?, rows.len()))?;
        }
        Ok(())
    }

    /// The same with each block for itself.
    pub fn encode(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let weights = self.device.upload("importance", &self.weights)?;
        for rows in slabs_of(self.tensor, self.rows.clone()) {
            let values = self.model.f32_rows(self.tensor, rows)?;
            sink(&encode_values(self.device, self.ty, &values, &weights, self.tensor.cols)?)?;
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
