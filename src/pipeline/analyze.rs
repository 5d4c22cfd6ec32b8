//! Weighing: the exact error of every candidate type of every tensor, and what it costs in nats.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use anyhow::Result;

use super::metadata::fixed_bytes;
use super::sample::Sample;
use crate::arch::tensor_class::may_quantize;
use crate::calibration::Chunks;
use crate::device::{Buffer, Device};
use crate::forward::{Stream, StreamOptions};
use crate::gguf::Metadata;
use crate::graph::Tap;
use crate::imatrix::Imatrix;
use crate::kernels::encode::encode;
use crate::kernels::row_error::row_error;
use crate::kernels::weight::Weight;
use crate::plan::Ftype;
use crate::plan::analysis::ANALYSIS_VERSION;
use crate::plan::mixes::needs_imatrix;
use crate::plan::{Analysis, Candidate, ModelShape, RunShape, TensorAnalysis};
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::quant::lossless::{self, Precision};
use crate::rounding::feedback::Rounders;
use crate::rounding::hessian::{self, HeldOut, Hessian, HessianTap, Texts, matrix, shrunk};
use crate::rounding::{Method, SHRINK};
use crate::sensitivity::{Factor, Sensitivities};
use crate::source::{Model, Tensor};

/// Bytes of f32 weights that are worked on at once.
const SLAB_BYTES: usize = 32 << 20;

/// Rows of a tensor on which errors are measured with the full second moments.
const SAMPLED_ROWS: usize = 256;

/// What an analysis is made from.
pub struct AnalysisInputs<'a> {
    pub model: &'a Model,
    pub imatrix: &'a Imatrix,
    pub sensitivities: &'a Sensitivities,
    pub calibration_hash: &'a str,
    /// Types to measure; those that do not fit a tensor's rows are left out there.
    pub types: &'a [GgmlType],
    /// Text from which the second moments are taken.
    pub chunks: &'a Chunks,
    pub memory: StreamOptions,
    /// How tensors will be rounded.
    pub rounding: Method,
    /// Metadata of the file to be written, which counts in its size.
    pub metadata: &'a Metadata,
}

/// The rows of a matrix in pieces of at most [`SLAB_BYTES`] as f32.
pub(super) fn slabs(tensor: &Tensor) -> impl Iterator<Item = Range<usize>> + use<> {
    let (rows, step) = (tensor.rows, (SLAB_BYTES / (tensor.cols * size_of::<f32>())).max(1));
    (0..rows).step_by(step).map(move |first| first..(first + step).min(rows))
}

/// Rows looked at, evenly spaced, before all are.
const FIRST_ROWS: usize = 8;

/// Those of `types` on whose grid all weights of `tensor` lie, so that it is stored exactly.
pub(super) fn exact_types(model: &Model, tensor: &Tensor, types: &[GgmlType]) -> Result<Vec<GgmlType>> {
    let precision = Precision::of(tensor.ty);
    let mut types: Vec<GgmlType> = types.iter().copied().filter(|ty| ty.fits(tensor.cols)).collect();
    let first_rows = (0..tensor.rows).step_by(tensor.rows.div_ceil(FIRST_ROWS).max(1)).map(|row| row..row + 1);
    for rows in first_rows.chain(slabs(tensor)) {
        if types.is_empty() {
            break;
        }
        let values = model.f32_rows(tensor, rows)?;
        types.retain(|ty| lossless::on_grid(*ty, &values, precision));
    }
    Ok(types)
}

/// The tensors of `model` and the size of the rest of the file, nothing measured: enough for plans by fixed rules.
pub fn bare_analysis(model: &Model, metadata: &Metadata, calibration_hash: &str) -> Result<Analysis> {
    let hparams = &model.hparams;
    let architecture = model.family.architecture();
    let tensors = model.tensors.iter().map(|tensor| {
        let quantizable = may_quantize(&tensor.name, &tensor.dims, architecture);
        TensorAnalysis::new(&tensor.name, &tensor.dims, tensor.ty, quantizable)
    });
    Ok(Analysis {
        version: ANALYSIS_VERSION,
        model: model.path.display().to_string(),
        fingerprint: model.fingerprint()?,
        calibration_hash: calibration_hash.to_string(),
        sensitivity: String::new(),
        shape: ModelShape {
            architecture: architecture.to_string(),
            block_count: hparams.n_layer as u32,
            head_count: hparams.n_head as u32,
            head_count_kv: hparams.n_head_kv as u32,
            expert_count: 0,
            run: Some(RunShape::of(hparams)),
        },
        fixed_bytes: fixed_bytes(model, metadata)?,
        tensors: tensors.collect(),
        ties: Vec::new(),
        probes: None,
    })
}

/// Streams `chunks` through the model and, layer by layer, encodes every quantizable tensor in every type and measures
/// what would be written against the second moments of its input.
pub fn analyze(device: &Device, inputs: &AnalysisInputs, progress: &dyn Progress) -> Result<Analysis> {
    let mut analysis = bare_analysis(inputs.model, inputs.metadata, inputs.calibration_hash)?;
    let chunks = inputs.chunks;
    // half of the texts to round with, half to judge by
    let is_split = inputs.rounding != Method::PLAIN && chunks.len() > 1;
    let halves = if is_split { HeldOut::OneIn(2) } else { HeldOut::Nothing };
    let stream = Stream::new(device, inputs.model, &chunks.tokens, chunks.ctx, inputs.memory)?;
    let mut weigher = Weigher {
        device,
        inputs,
        hessians: HessianTap::new(device, chunks.ctx, halves, inputs.memory.moments_budget),
        quantizable: analysis.quantizable().map(|tensor| tensor.name.clone()).collect(),
        found: HashMap::new(),
    };
    progress.begin("weighing types", stream.work());
    stream.final_states(inputs.model, 0..chunks.ctx, &mut weigher, progress)?;
    for entry in analysis.tensors.iter_mut().filter(|tensor| tensor.quantizable) {
        entry.candidates = match weigher.found.remove(&entry.name) {
            Some(candidates) => candidates,
            // Read by no linear layer: an embedding of its own.
            None => {
                let tensor = inputs.model.require(&entry.name)?;
                let mut panels = Vec::new();
                if let Some(judge) = weigher.embedding_judge(tensor)? {
                    let h = inputs.sensitivities.embedding_moments.clone().unwrap_or_default();
                    panels.push(Panel {
                        cols: 0..tensor.cols,
                        judges: vec![judge],
                        rounders: weigher.rounders(h, tensor.cols)?,
                    });
                }
                candidates(device, inputs, tensor, &mut panels)?
            }
        };
    }
    progress.end();
    Ok(analysis)
}

/// Weighs the tensors of a layer when all tokens have passed it, so that only one layer's second moments exist.
struct Weigher<'a> {
    device: &'a Device,
    inputs: &'a AnalysisInputs<'a>,
    hessians: HessianTap<'a>,
    quantizable: HashSet<String>,
    found: HashMap<String, Vec<Candidate>>,
}

impl Tap for Weigher<'_> {
    fn linear_input(&mut self, weights: &[&str], x: &Buffer, tokens: usize, width: usize) -> Result<()> {
        self.hessians.linear_input(weights, x, tokens, width)
    }

    fn layer_done(&mut self) -> Result<()> {
        for hessian in self.hessians.take() {
            let mut shared = Vec::new();
            for name in hessian.weights.iter().filter(|name| self.quantizable.contains(*name)) {
                let tensor = self.inputs.model.require(name)?;
                let found = match self.two_roles(tensor, &hessian)? {
                    Some(panel) => candidates(self.device, self.inputs, tensor, &mut [panel])?,
                    None => {
                        if shared.is_empty() {
                            let panels = hessian.panels.iter().map(|panel| self.panel(panel));
                            shared = panels.collect::<Result<Vec<_>>>()?;
                        }
                        candidates(self.device, self.inputs, tensor, &mut shared)?
                    }
                };
                self.found.insert(name.clone(), found);
            }
        }
        Ok(())
    }
}

/// Some columns of a tensor and the second moments behind its factors.
struct Panel<'a> {
    cols: Range<usize>,
    /// What errors are measured with, in the order of the factors; those that are missing have their diagonal only.
    judges: Vec<Rc<Weight>>,
    /// How the columns will be rounded, if not by plain encoding.
    rounders: Option<Rounders<'a>>,
}

impl<'a> Weigher<'a> {
    fn panel(&self, panel: &hessian::Panel) -> Result<Panel<'a>> {
        Ok(Panel {
            cols: panel.cols.clone(),
            judges: vec![Rc::new(panel.matrix(self.device, Texts::HeldOut)?)],
            rounders: self.rounders(shrunk(panel.h(self.device, Texts::Fit)?, SHRINK), panel.cols.len())?,
        })
    }

    /// For a tensor that is the token embedding too.
    fn two_roles(&self, tensor: &Tensor, hessian: &Hessian) -> Result<Option<Panel<'a>>> {
        let known = self.inputs.sensitivities;
        let Some(mixture) = role_mixture(self.device, known, &tensor.name, hessian, Texts::Fit)? else {
            return Ok(None);
        };
        let mut judges = vec![Rc::new(hessian.panels[0].matrix(self.device, Texts::HeldOut)?)];
        judges.extend(self.embedding_judge(tensor)?);
        Ok(Some(Panel { cols: 0..tensor.cols, judges, rounders: self.rounders(mixture, tensor.cols)? }))
    }

    fn embedding_judge(&self, tensor: &Tensor) -> Result<Option<Rc<Weight>>> {
        let moments = self.inputs.sensitivities.embedding_moments.as_ref();
        Ok(moments.map(|values| matrix(self.device, values, tensor.cols)).transpose()?.map(Rc::new))
    }

    fn rounders(&self, h: Vec<f32>, width: usize) -> Result<Option<Rounders<'a>>> {
        let method = self.inputs.rounding;
        let rounders = (method != Method::PLAIN).then(|| Rounders::new(self.device, h, width, method));
        rounders.transpose()
    }
}

/// The second moments to round with for a tensor that is read by a linear layer and is the token embedding too: those of both
/// roles, each counting what its errors cost. None for tensors of one role, and where the input is seen in panels.
pub fn role_mixture(
    device: &Device,
    sensitivities: &Sensitivities,
    name: &str,
    hessian: &Hessian,
    texts: Texts,
) -> Result<Option<Vec<f32>>> {
    let Some([reader, embedding]) = sensitivities.factors.get(name).map(Vec::as_slice) else { return Ok(None) };
    let Some(gradient) = &sensitivities.embedding_moments else { return Ok(None) };
    let [whole] = hessian.panels.as_slice() else { return Ok(None) };
    let worth = |factor: &Factor| factor.rows.iter().map(|row| f64::from(*row)).sum::<f64>() as f32;
    // to eight bits: the last bits of sums over tokens would change every code that follows
    let ratio = half::bf16::from_f32(worth(embedding) / worth(reader).max(f32::MIN_POSITIVE)).to_f32();
    let h = shrunk(whole.h(device, texts)?, SHRINK);
    Ok(Some(h.iter().zip(gradient).map(|(h, g)| h + ratio * g).collect()))
}

fn candidates(
    device: &Device,
    inputs: &AnalysisInputs,
    tensor: &Tensor,
    panels: &mut [Panel],
) -> Result<Vec<Candidate>> {
    let known = inputs.imatrix.known_importance(&tensor.name, tensor.cols);
    let may_have = |ty: GgmlType| known.is_some() || !needs_imatrix(&tensor.name, ty, Ftype::F16);
    let weights = known.clone().unwrap_or_else(|| vec![1.0; tensor.cols]);
    let Some(factors) = inputs.sensitivities.factors.get(&tensor.name) else {
        log::warn!("no sensitivity is known, so its type stays: `{}`", tensor.name);
        return Ok(vec![blank(tensor.ty, tensor)]);
    };
    let encode_weights = device.upload("importance", &weights)?;
    let no_means = device.upload("means", &vec![0f32; tensor.cols])?;
    let columns = factors.iter().map(|factor| device.upload("error weights", &factor.cols));
    let columns = columns.collect::<Result<Vec<_>>>()?;

    let exact = exact_types(inputs.model, tensor, &lossless::TYPES)?;
    let measured = |ty: &GgmlType| ty.fits(tensor.cols) && !exact.contains(ty) && may_have(*ty);
    let types: Vec<GgmlType> = inputs.types.iter().copied().filter(measured).collect();
    let mut found: Vec<Candidate> = types.iter().map(|ty| blank(*ty, tensor)).collect();
    // Nats by factor: the first one is corrected by what the sampled rows say of its diagonal.
    let mut nats = vec![vec![0f64; factors.len()]; found.len()];
    for rows in slabs(tensor) {
        let x = device.upload(&tensor.name, &inputs.model.f32_rows(tensor, rows.clone())?)?;
        let errors = device.alloc("row errors", 2 * rows.len() * size_of::<f32>())?;
        for (candidate, nats) in found.iter_mut().zip(&mut nats) {
            let encoded = encode(device, candidate.ty, &x, &encode_weights, rows.len(), tensor.cols)?;
            let measure = |weights: &Buffer| -> Result<Vec<f32>> {
                row_error(device, &x, &encoded, 0..rows.len(), (weights, &no_means), &errors)?;
                Ok(device.read::<f32>(&errors)?.into_iter().step_by(2).collect())
            };
            let errors = measure(&encode_weights)?;
            candidate.error += errors.iter().copied().map(f64::from).sum::<f64>();
            for ((factor, columns), nats) in factors.iter().zip(&columns).zip(nats) {
                // the importance matrix is the factor of most tensors
                let known = (factor.cols == weights).then(|| Ok(errors.clone()));
                *nats += factor.nats(rows.clone(), known.unwrap_or_else(|| measure(columns))?);
            }
        }
    }
    if !panels.is_empty() {
        let sample = Sample::new(device, inputs.model, tensor, SAMPLED_ROWS)?;
        for (candidate, nats) in found.iter().zip(&mut nats) {
            for (nats, ratio) in nats.iter_mut().zip(corrections(&sample, candidate.ty, factors, &weights, panels)?) {
                *nats *= ratio;
            }
        }
    }
    for (candidate, nats) in found.iter_mut().zip(&nats) {
        candidate.predicted = nats.iter().sum();
    }
    found.retain(|candidate| candidate.ty != tensor.ty);
    let lossless = exact.into_iter().filter(|ty| *ty != tensor.ty).chain([tensor.ty]);
    found.extend(lossless.map(|ty| blank(ty, tensor)));
    Ok(found)
}

/// By factor: the error that rounding really reaches over the diagonal error of plain encoding.
fn corrections(
    sample: &Sample,
    ty: GgmlType,
    factors: &[Factor],
    weights: &[f32],
    panels: &mut [Panel],
) -> Result<Vec<f64>> {
    let device = sample.device;
    let mut sums = vec![(0f64, 0f64); factors.len()];
    for Panel { cols, judges, rounders } in panels {
        let part = sample.columns(cols.clone())?;
        let encoded = part.encode(ty, &device.upload("importance", &weights[cols.clone()])?)?;
        let rounded = match rounders {
            Some(rounders) => Some(part.upload(ty, &rounders.round(ty, &part.values, &weights[cols.clone()])?)?),
            None => None,
        };
        let rounded = rounded.as_ref().unwrap_or(&encoded);
        for (role, (factor, (real, plain))) in factors.iter().zip(&mut sums).enumerate() {
            let columns = device.upload("error weights", &factor.cols[cols.clone()])?;
            *plain += part.total(&part.diagonal_errors(&encoded, &columns)?, Some(factor));
            let errors = match judges.get(role) {
                Some(h) => part.errors(rounded, h)?,
                None => part.diagonal_errors(rounded, &columns)?,
            };
            *real += part.total(&errors, Some(factor));
        }
    }
    let ratio = |(real, plain)| if real > 0.0 && plain > 0.0 { real / plain } else { 1.0 };
    Ok(sums.into_iter().map(ratio).collect())
}

/// A candidate that costs nothing yet; the source type stays so, since its bytes are copied, and types that are exact.
fn blank(ty: GgmlType, tensor: &Tensor) -> Candidate {
    Candidate { ty, bytes: ty.bytes_for((tensor.rows * tensor.cols) as u64), error: 0.0, predicted: 0.0 }
}
