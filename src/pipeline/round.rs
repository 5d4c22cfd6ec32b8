//! Rounding: a pass over the calibration text that encodes every layer's tensors with their second moments in view.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context, Result};

use super::analyze::role_mixture;
use super::checkpoint::KeptTensors;
use super::encoded::importance;
use super::round_matrix::{MatrixRounding, Panel, Way};
use super::slabs::of_matrix;
use super::strength::shrink;
use crate::calibration::Chunks;
use crate::device::Device;
use crate::forward::lanes::{LaneInputs, LaneTap, Lanes};
use crate::forward::weights::{WeightSource, rows_of};
use crate::forward::{Stream, StreamOptions};
use crate::graph::{LinearInput, Matrix, Tap};
use crate::imatrix::Imatrix;
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::rounding::hessian::{HeldOut, Hessian, HessianTap, Texts};
use crate::rounding::{Method, Prefix};
use crate::sensitivity::Sensitivities;
use crate::source::{Model, Tensor};

/// How a file's tensors are rounded, and the text whose second moments are in view.
pub struct RoundingInputs<'a> {
    pub method: Method,
    pub chunks: &'a Chunks,
    /// What errors cost, where it is known: the embedding is rounded by it.
    pub sensitivities: Option<&'a Sensitivities>,
    pub memory: StreamOptions,
    /// Where rounded tensors are kept, so that a job that was stopped goes on behind them.
    pub kept: Option<&'a KeptTensors>,
}

/// Receives the bytes of some rows of a tensor, the first rows first.
pub type Sink<'a> = dyn FnMut(&Tensor, &[u8]) -> Result<()> + 'a;

const EMBEDDING: &str = "token_embd.weight";

/// One text in so many is held out where domains are too few, to see whether rounding fits more than the text it saw.
const HELD_OUT: usize = 8;

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
    let mut rounded = Rounded { model, kept: inputs.kept, restored: HashMap::new(), tensors: HashMap::new() };
    let mut missing = rounded.restore(types, sink)?;
    let is_tied = model.output_tensor() == EMBEDDING;
    let moments = inputs.sensitivities.and_then(|known| known.embedding_moments.as_ref()).filter(|_| !is_tied);
    if !is_tied && moments.is_none() {
        // it has no input, and its gradients are unknown
        missing.remove(EMBEDDING);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let step = match rounded.restored.len() {
        0 => "rounding".to_owned(),
        kept => format!("rounding, {kept} of {} kept", types.len()),
    };
    let chunks = inputs.chunks;
    let stream = Stream::new(device, model, &chunks.tokens, chunks.ctx, inputs.memory)?;
    let held_out = HeldOut::of(&chunks.domain, HELD_OUT);
    let hessians = HessianTap::new(device, held_out, inputs.memory.moments_budget);
    let unfinished = HashMap::new();
    let mut rounding = Rounding { device, model, missing, imatrix, inputs, hessians, rounded, unfinished, sink };
    match inputs.method.prefix {
        Prefix::Original => {
            progress.begin(&step, stream.work());
            stream.final_states(model, 0..chunks.ctx, &mut rounding, progress)?;
            rounding.round_embedding(moments)?;
        }
        Prefix::Quantized => {
            let is_first = is_tied && rounding.missing.contains_key(EMBEDDING);
            progress.begin(&step, Lanes::work(&stream) + if is_first { stream.work() } else { 0 });
            if is_first {
                rounding.round_tied_embedding(&stream, progress)?;
            }
            rounding.round_embedding(moments)?;
            rounding.walk(&stream, progress)?;
        }
    }
    progress.end();
    Ok(())
}

struct Rounding<'a, 'b> {
    device: &'a Device,
    model: &'a Model,
    /// Types of the tensors that are not rounded yet.
    missing: HashMap<String, GgmlType>,
    imatrix: Option<&'a Imatrix>,
    inputs: &'a RoundingInputs<'a>,
    hessians: HessianTap<'a>,
    rounded: Rounded<'a>,
    unfinished: HashMap<String, Unfinished>,
    sink: &'a mut Sink<'b>,
}

/// The model with the tensors that a quantized lane still needs in their new types.
struct Rounded<'a> {
    model: &'a Model,
    kept: Option<&'a KeptTensors>,
    /// Tensors that an earlier run has kept, read again when they are needed.
    restored: HashMap<String, GgmlType>,
    /// Tensors of this layer.
    tensors: HashMap<String, (GgmlType, Vec<u8>)>,
}

impl Rounded<'_> {
    /// Gives the sink what is kept of `types`; returns the others.
    fn restore(&mut self, types: &HashMap<String, GgmlType>, sink: &mut Sink) -> Result<HashMap<String, GgmlType>> {
        let mut missing = types.clone();
        let Some(kept) = self.kept else { return Ok(missing) };
        for (name, ty) in types {
            let tensor = self.model.require(name)?;
            if let Some(bytes) = kept.read(tensor, *ty)? {
                sink(tensor, &bytes)?;
                missing.remove(name);
                self.restored.insert(name.clone(), *ty);
            }
        }
        Ok(missing)
    }
}

impl WeightSource for Rounded<'_> {
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        self.read_rows(tensor, 0..tensor.rows)
    }

    fn read_rows<'a>(&'a self, tensor: &Tensor, rows: Range<usize>) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        if let Some((ty, bytes)) = self.tensors.get(&tensor.name) {
            return Ok((*ty, rows_of(*ty, Cow::Borrowed(bytes), tensor.cols, rows)));
        }
        let Some((kept, ty)) = self.kept.zip(self.restored.get(&tensor.name)) else {
            return self.model.read_rows(tensor, rows);
        };
        let bytes = kept.read(tensor, *ty)?;
        let bytes = bytes.with_context(|| format!("a kept tensor is gone: `{}`", tensor.name))?;
        Ok((*ty, rows_of(*ty, Cow::Owned(bytes), tensor.cols, rows)))
    }
}

/// All layers are the original's.
impl Tap for Rounding<'_, '_> {
    fn linear_input(&mut self, input: &LinearInput) -> Result<()> {
        if self.is_wanted(input) { self.hessians.linear_input(input) } else { Ok(()) }
    }

    fn layer_done(&mut self) -> Result<()> {
        self.round_layer()
    }
}

impl LaneTap for Rounding<'_, '_> {
    fn linear_inputs(&mut self, inputs: &LaneInputs) -> Result<()> {
        if self.is_wanted(&inputs.quantized) { self.hessians.linear_inputs(inputs) } else { Ok(()) }
    }
}

/// Gathers the second moments of what a tied output matrix reads.
struct HeadTap<'a, 'b>(&'b mut HessianTap<'a>);

impl Tap for HeadTap<'_, '_> {
    fn linear_input(&mut self, input: &LinearInput) -> Result<()> {
        let is_head = input.matrices.iter().any(|matrix| matrix.tensor == EMBEDDING);
        if is_head { self.0.linear_input(input) } else { Ok(()) }
    }
}

impl<'a> Rounding<'a, '_> {
    /// Whether a tensor that reads this input is still to be rounded.
    fn is_wanted(&self, input: &LinearInput) -> bool {
        input.matrices.iter().any(|matrix| self.missing.contains_key(&matrix.tensor))
    }

    /// Layer by layer, each behind the ones that are rounded already.
    fn walk(&mut self, stream: &Stream, progress: &dyn Progress) -> Result<()> {
        let mut lanes = Lanes::new(stream, &self.rounded)?;
        for layer in 0..self.model.hparams.n_layer {
            self.rounded.tensors.clear();
            lanes.compare(layer, self, progress)?;
            self.round_layer()?;
            lanes.follow(layer, &self.rounded, progress)?;
        }
        lanes.compare_heads(self)?;
        self.round_layer()
    }

    /// Rounds all that the layer's inputs were gathered for.
    fn round_layer(&mut self) -> Result<()> {
        for hessian in self.hessians.take() {
            self.round_readers(&hessian)?;
        }
        Ok(())
    }

    /// Rounds every matrix that reads this input.
    fn round_readers(&mut self, hessian: &Hessian) -> Result<()> {
        let (device, method) = (self.device, self.inputs.method);
        let (mut readers, mut alone) = (Vec::new(), Vec::new());
        for Matrix { tensor, index } in &hessian.matrices {
            let missing = self.missing.get(tensor).copied();
            // what is kept from an earlier run helped to choose there, so it does here
            let Some(ty) = missing.or_else(|| self.rounded.restored.get(tensor).copied()) else { continue };
            let tensor = self.model.require(tensor)?;
            let rounding = self.matrix_rounding(tensor, *index, ty);
            let mixture = match self.inputs.sensitivities {
                Some(known) => role_mixture(device, known, &tensor.name, hessian, Texts::All)?,
                None => None,
            };
            match (mixture, missing) {
                (Some(h), Some(_)) => {
                    let mut panel = Panel::unjudged(device, h, tensor.cols, method)?;
                    self.finish(&rounding, |sink| {
                        rounding.round(std::slice::from_mut(&mut panel), &[Way::Rounded], sink)
                    })?;
                }
                (Some(_), None) => {}
                (None, missing) => {
                    readers.push(rounding.reader()?);
                    alone.extend(missing.map(|_| (rounding, readers.len() - 1)));
                }
            }
        }
        if alone.is_empty() {
            return Ok(());
        }
        if hessian.panels.iter().any(|panel| panel.tokens() == 0) {
            // no token was sent to the expert
            return alone.iter().try_for_each(|(rounding, _)| self.finish(rounding, |sink| rounding.encode(sink)));
        }
        let panel = |panel| Panel::new(device, panel, shrink(device, panel, &readers, method)?, method);
        let mut panels: Vec<Panel> = hessian.panels.iter().map(panel).collect::<Result<_>>()?;
        let mut judged = Vec::new();
        for (rounding, reader) in alone {
            let ways = rounding.ways(&readers[reader].sample, &mut panels)?;
            judged.push((rounding, ways));
        }
        for (rounding, ways) in judged {
            self.finish(&rounding, |sink| rounding.round(&mut panels, &ways, sink))?;
        }
        Ok(())
    }

    /// An embedding that is the output matrix too is rounded before all layers, so that they see its errors: by the inputs of the
    /// output in the original model.
    fn round_tied_embedding(&mut self, stream: &Stream, progress: &dyn Progress) -> Result<()> {
        stream.final_states(self.model, 0..stream.sequence_len(), &mut HeadTap(&mut self.hessians), progress)?;
        self.round_layer()
    }

    /// An embedding of its own has no input: its errors are worth what the gradients say that arrive there.
    fn round_embedding(&mut self, moments: Option<&Vec<f32>>) -> Result<()> {
        let Some((ty, moments)) = self.missing.get(EMBEDDING).copied().zip(moments) else { return Ok(()) };
        let tensor = self.model.require(EMBEDDING)?;
        let mut panel = Panel::unjudged(self.device, moments.clone(), tensor.cols, self.inputs.method)?;
        let rounding = self.matrix_rounding(tensor, 0, ty);
        self.finish(&rounding, |sink| rounding.round(std::slice::from_mut(&mut panel), &[Way::Rounded], sink))
    }

    fn matrix_rounding(&self, tensor: &'a Tensor, index: usize, ty: GgmlType) -> MatrixRounding<'a> {
        let rows = tensor.matrix_rows(index);
        let weights = of_matrix(tensor, &importance(self.imatrix, tensor), &rows).to_vec();
        MatrixRounding { device: self.device, model: self.model, tensor, rows, ty, weights }
    }

    /// Takes what `encode` gives its sink. The matrices of a stack come in their order.
    fn finish(
        &mut self,
        rounding: &MatrixRounding<'a>,
        encode: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let MatrixRounding { tensor, ty, .. } = *rounding;
        let is_followed = self.inputs.method.prefix == Prefix::Quantized;
        let mut done = self.unfinished.remove(&tensor.name).unwrap_or_default();
        let mut sink = |bytes: &[u8]| {
            if is_followed || self.inputs.kept.is_some() {
                done.bytes.extend_from_slice(bytes);
            }
            (self.sink)(tensor, bytes)
        };
        encode(&mut sink)?;
        done.matrices += 1;
        if done.matrices < tensor.matrices() {
            self.unfinished.insert(tensor.name.clone(), done);
            return Ok(());
        }
        if let Some(kept) = self.inputs.kept {
            kept.keep(tensor, &done.bytes)?;
        }
        self.missing.remove(&tensor.name);
        if is_followed {
            self.rounded.tensors.insert(tensor.name.clone(), (ty, done.bytes));
        }
        Ok(())
    }
}

/// The matrices of a stack that are rounded already.
#[derive(Default)]
struct Unfinished {
    matrices: usize,
    /// Where they are wanted again.
    bytes: Vec<u8>,
}
