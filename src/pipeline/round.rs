//! Rounding: a pass over the calibration text that encodes every layer's tensors with their second moments in view.

use std::collections::HashMap;

use anyhow::Result;

use super::analyze::{importance, role_mixture, slabs};
use super::sample::Sample;
use crate::calibration::Chunks;
use crate::device::{Buffer, Device};
use crate::forward::tap::Tap;
use crate::forward::{Stream, StreamOptions};
use crate::imatrix::Imatrix;
use crate::kernels::weight::Weight;
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::rounding::Method;
use crate::rounding::feedback::Rounders;
use crate::rounding::hessian::{Hessian, HessianTap};
use crate::sensitivity::Sensitivities;
use crate::source::{Model, Tensor};

/// How a file's tensors are rounded, and the text whose second moments are in view.
pub struct RoundingInputs<'a> {
    pub method: Method,
    pub chunks: &'a Chunks,
    /// What errors cost, where it is known: the embedding is rounded by it.
    pub sensitivities: Option<&'a Sensitivities>,
    pub memory: StreamOptions,
}

/// Receives the bytes of some rows of a tensor, the first rows first.
pub type Sink<'a> = dyn FnMut(&Tensor, &[u8]) -> Result<()> + 'a;

/// One text in so many is held out, to see whether rounding fits more than the text it saw.
const HELD_OUT: usize = 8;

/// Rows on which that is judged.
const JUDGED_ROWS: usize = 128;

/// Rounds the tensors that `types` names and whose second moments are known; the others are left to the caller.
pub fn round(
    device: &Device,
    model: &Model,
    types: &HashMap<String, GgmlType>,
    imatrix: Option<&Imatrix>,
    inputs: &RoundingInputs,
    sink: &mut Sink,
    progress: &dyn Progress,
) -> Result<()> {
    let (chunks, held_out) = (inputs.chunks, HELD_OUT.min(inputs.chunks.len()));
    let stream = Stream::new(device, model, &chunks.tokens, chunks.ctx, inputs.memory)?;
    let hessians = HessianTap::new(device, chunks.ctx, (held_out > 1).then_some(held_out));
    let mut tap = RoundingTap { device, model, types, imatrix, inputs, hessians, sink };
    progress.begin("rounding", stream.work());
    stream.final_states(model, 0..inputs.chunks.ctx, &mut tap, progress)?;
    tap.round_embedding()?;
    progress.end();
    Ok(())
}

struct RoundingTap<'a, 'b> {
    device: &'a Device,
    model: &'a Model,
    types: &'a HashMap<String, GgmlType>,
    imatrix: Option<&'a Imatrix>,
    inputs: &'a RoundingInputs<'a>,
    hessians: HessianTap<'a>,
    sink: &'a mut Sink<'b>,
}

impl Tap for RoundingTap<'_, '_> {
    fn linear_input(&mut self, weights: &[&str], x: &Buffer, tokens: usize, width: usize) -> Result<()> {
        if weights.iter().any(|name| self.types.contains_key(*name)) {
            self.hessians.linear_input(weights, x, tokens, width)?;
        }
        Ok(())
    }

    fn layer_done(&mut self) -> Result<()> {
        for hessian in self.hessians.take() {
            self.round_readers(&hessian)?;
        }
        Ok(())
    }
}

impl<'a> RoundingTap<'a, '_> {
    /// Rounds every weight that reads this input.
    fn round_readers(&mut self, hessian: &Hessian) -> Result<()> {
        let fit = hessian.fit.mean(self.device)?;
        let judge = hessian.judge_matrix(self.device)?;
        let mut shared = None;
        for name in &hessian.weights {
            let Some(ty) = self.types.get(name).copied() else { continue };
            let tensor = self.model.require(name)?;
            let mixture = self.inputs.sensitivities.and_then(|known| role_mixture(known, name, &fit));
            match mixture {
                Some(h) => {
                    let mut own = self.rounders(h, tensor.cols)?;
                    self.round_tensor(tensor, ty, &mut own, None)?;
                }
                None => {
                    let rounders = match &mut shared {
                        Some(rounders) => rounders,
                        None => shared.insert(self.rounders(fit.clone(), hessian.width)?),
                    };
                    self.round_tensor(tensor, ty, rounders, Some(&judge))?;
                }
            }
        }
        Ok(())
    }

    /// The token embedding has no input: its errors are worth what the gradients say that arrive there.
    fn round_embedding(&mut self) -> Result<()> {
        let name = "token_embd.weight";
        let Some(ty) = self.types.get(name).copied() else { return Ok(()) };
        let moments = self.inputs.sensitivities.and_then(|known| known.embedding_moments.clone());
        let Some(moments) = moments.filter(|_| self.model.output_tensor() != name) else { return Ok(()) };
        let tensor = self.model.require(name)?;
        let mut rounders = self.rounders(moments, tensor.cols)?;
        self.round_tensor(tensor, ty, &mut rounders, None)
    }

    fn rounders(&self, h: Vec<f32>, width: usize) -> Result<Rounders<'a>> {
        Rounders::new(self.device, h, width, self.inputs.method)
    }

    /// With a `judge`, plain encoding is kept where rounding is no better on the tokens it has not seen.
    fn round_tensor(
        &mut self,
        tensor: &Tensor,
        ty: GgmlType,
        rounders: &mut Rounders,
        judge: Option<&Weight>,
    ) -> Result<()> {
        let weights = self.imatrix.and_then(|imatrix| importance(imatrix, tensor));
        let weights = weights.unwrap_or_else(|| vec![1.0; tensor.cols]);
        if let Some(judge) = judge {
            let sample = Sample::new(self.device, self.model, tensor, JUDGED_ROWS)?;
            let importance = self.device.upload("importance", &weights)?;
            let plain = sample.errors(&sample.encode(ty, &importance)?, judge)?;
            let rounded = sample.upload(ty, &rounders.round(ty, &sample.values, &weights)?)?;
            let rounded = sample.errors(&rounded, judge)?;
            if sample.total(&rounded, None) >= sample.total(&plain, None) {
                log::info!("rounding fits the calibration text only, so blocks are encoded alone: `{}`", tensor.name);
                return Ok(());
            }
        }
        for rows in slabs(tensor) {
            let bytes = rounders.round(ty, &self.model.f32_rows(tensor, rows)?, &weights)?;
            (self.sink)(tensor, &bytes)?;
        }
        Ok(())
    }
}
