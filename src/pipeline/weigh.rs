//! What each type of a tensor costs: exact errors by the diagonals of the second moments, corrected by what all of H says of sampled
//! rows as they will be rounded.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use anyhow::Result;

use super::analyze::{AnalysisInputs, exact_types, role_mixture};
use super::sample::Sample;
use super::slabs::{of_matrix, slabs};
use crate::device::{Buffer, Device};
use crate::graph::{LinearInput, Matrix, Tap};
use crate::imatrix::Imatrix;
use crate::kernels::encode::encode;
use crate::kernels::row_error::row_error;
use crate::kernels::weight::Weight;
use crate::plan::mixes::needs_imatrix;
use crate::plan::{Candidate, Ftype};
use crate::quant::GgmlType;
use crate::quant::lossless;
use crate::rounding::feedback::Rounders;
use crate::rounding::hessian::{self, HeldOut, Hessian, HessianTap, Texts, matrix, shrunk};
use crate::rounding::{Method, SHRINK};
use crate::sensitivity::Factor;
use crate::source::{Tensor, Weights};

const EMBEDDING: &str = "token_embd.weight";

/// Rows of a tensor on which errors are measured with the full second moments.
const SAMPLED_ROWS: usize = 256;

/// Matrices of a stack that these rows are taken from.
const SAMPLED_MATRICES: usize = 8;

/// Whether rows are taken from matrix `index` of a stack.
fn is_sampled(index: usize, stack: usize) -> bool {
    index.is_multiple_of(stack.div_ceil(SAMPLED_MATRICES))
}

/// Weighs the tensors of a layer when all tokens have passed it, so that only one layer's second moments exist.
pub(super) struct Weigher<'a> {
    device: &'a Device,
    inputs: &'a AnalysisInputs<'a>,
    hessians: HessianTap<'a>,
    quantizable: HashSet<String>,
    found: HashMap<String, Vec<Candidate>>,
}

impl Tap for Weigher<'_> {
    fn linear_input(&mut self, input: &LinearInput) -> Result<()> {
        let is_seen = |matrix: &Matrix| {
            self.quantizable.contains(&matrix.tensor)
                && is_sampled(matrix.index, input.experts.map_or(1, |experts| experts.count))
        };
        if input.matrices.iter().any(is_seen) { self.hessians.linear_input(input) } else { Ok(()) }
    }

    fn layer_done(&mut self) -> Result<()> {
        let mut weighings = BTreeMap::new();
        for hessian in self.hessians.take() {
            let mut shared = Vec::new();
            for matrix in hessian.matrices.iter().filter(|matrix| self.quantizable.contains(&matrix.tensor)) {
                let tensor = self.inputs.model.require(&matrix.tensor)?;
                let weighing = match weighings.entry(&tensor.name) {
                    Entry::Occupied(begun) => begun.into_mut(),
                    Entry::Vacant(new) => new.insert(self.weighing(tensor)?),
                };
                if hessian.panels.iter().any(|panel| panel.tokens() == 0) {
                    continue;
                }
                match self.two_roles(tensor, &hessian)? {
                    Some(panel) => weighing.look_at(matrix.index, &mut [panel])?,
                    None => {
                        if shared.is_empty() {
                            let panels = hessian.panels.iter().map(|panel| self.panel(panel));
                            shared = panels.collect::<Result<Vec<_>>>()?;
                        }
                        weighing.look_at(matrix.index, &mut shared)?;
                    }
                }
            }
        }
        self.found.extend(weighings.into_iter().map(|(name, weighing)| (name.clone(), weighing.candidates())));
        Ok(())
    }
}

impl<'a> Weigher<'a> {
    pub(super) fn new(
        device: &'a Device,
        inputs: &'a AnalysisInputs<'a>,
        held_out: HeldOut,
        quantizable: HashSet<String>,
    ) -> Self {
        let hessians = HessianTap::new(device, held_out, inputs.memory.moments_budget);
        Weigher { device, inputs, hessians, quantizable, found: HashMap::new() }
    }

    fn weighing(&self, tensor: &'a Tensor) -> Result<Weighing<'a>> {
        let factors = self.inputs.sensitivities.factors.get(&tensor.name).map(Vec::as_slice);
        Weighing::new(self.device, self.inputs.trials(), tensor, factors)
    }

    /// The types of a tensor. What has no input, such as an embedding, is weighed here.
    pub(super) fn take(&mut self, name: &str) -> Result<Vec<Candidate>> {
        if let Some(candidates) = self.found.remove(name) {
            return Ok(candidates);
        }
        let tensor = self.inputs.model.require(name)?;
        let mut weighing = self.weighing(tensor)?;
        if name == EMBEDDING
            && let Some(judge) = self.embedding_judge(tensor)?
        {
            let h = self.inputs.sensitivities.embedding_moments.clone().unwrap_or_default();
            let rounders = self.rounders(h, tensor.cols)?;
            weighing.look_at(0, &mut [Panel { cols: 0..tensor.cols, judges: vec![judge], rounders }])?;
        }
        Ok(weighing.candidates())
    }

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

/// Some columns of an input and the second moments behind the factors of what reads it.
struct Panel<'a> {
    cols: Range<usize>,
    /// What errors are measured with, in the order of the factors; those that are missing have their diagonal only.
    judges: Vec<Rc<Weight>>,
    /// How the columns will be rounded, if not by plain encoding.
    rounders: Option<Rounders<'a>>,
}

/// What types are tried with.
#[derive(Clone, Copy)]
pub(super) struct Trials<'a> {
    pub weights: &'a Weights,
    pub imatrix: &'a Imatrix,
    pub types: &'a [GgmlType],
}

/// A tensor while its types are weighed.
pub(super) struct Weighing<'a> {
    device: &'a Device,
    trials: Trials<'a>,
    tensor: &'a Tensor,
    /// None if nothing is known.
    factors: Option<&'a [Factor]>,
    /// Importance of the columns, `[matrices, cols]`.
    weights: Vec<f32>,
    /// Types that hold every weight as it is.
    exact: Vec<GgmlType>,
    measured: Vec<Measured>,
}

/// One type.
struct Measured {
    candidate: Candidate,
    /// By factor, of plain encoding by the diagonal.
    nats: Vec<f64>,
    /// By factor, the error of sampled rows as rounded, and of plain encoding by the diagonal.
    sampled: Vec<(f64, f64)>,
}

impl<'a> Weighing<'a> {
    /// Encodes all of `tensor` in every type.
    pub(super) fn new(
        device: &'a Device,
        trials: Trials<'a>,
        tensor: &'a Tensor,
        factors: Option<&'a [Factor]>,
    ) -> Result<Self> {
        let known = trials.imatrix.known_importance(&tensor.name, tensor.cols, tensor.matrices());
        let may_have = |ty: GgmlType| known.is_some() || !needs_imatrix(&tensor.name, ty, Ftype::F16);
        let (mut exact, mut measured) = (Vec::new(), Vec::new());
        match factors {
            None => log::warn!("no sensitivity is known, so its type stays: `{}`", tensor.name),
            Some(factors) => {
                exact = exact_types(trials.weights, tensor, &lossless::TYPES)?;
                let is_measured = |ty: &GgmlType| ty.fits(tensor.cols) && !exact.contains(ty) && may_have(*ty);
                measured.extend(trials.types.iter().copied().filter(is_measured).map(|ty| Measured {
                    candidate: blank(ty, tensor),
                    nats: vec![0.0; factors.len()],
                    sampled: vec![(0.0, 0.0); factors.len()],
                }));
            }
        }
        let weights = known.unwrap_or_else(|| vec![1.0; tensor.cols * tensor.matrices()]);
        let mut weighing = Weighing { device, trials, tensor, factors, weights, exact, measured };
        for rows in slabs(tensor) {
            weighing.encode_plainly(rows)?;
        }
        Ok(weighing)
    }

    /// Some rows of a matrix, in every type.
    fn encode_plainly(&mut self, rows: Range<usize>) -> Result<()> {
        let (device, tensor) = (self.device, self.tensor);
        let Some(factors) = self.factors else { return Ok(()) };
        let weights = of_matrix(tensor, &self.weights, &rows);
        let encode_weights = device.upload("importance", weights)?;
        let no_means = device.upload("means", &vec![0f32; tensor.cols])?;
        // the importance matrix is the factor of most tensors
        let of_factor = |factor: &Factor| {
            let columns = of_matrix(tensor, &factor.cols, &rows);
            (columns != weights).then(|| device.upload("error weights", columns)).transpose()
        };
        let columns = factors.iter().map(of_factor).collect::<Result<Vec<_>>>()?;
        let x = device.upload(&tensor.name, &self.trials.weights.f32_rows(tensor, rows.clone())?)?;
        let errors = device.alloc("row errors", 2 * rows.len() * size_of::<f32>())?;
        for Measured { candidate, nats, .. } in &mut self.measured {
            let encoded = encode(device, candidate.ty, &x, &encode_weights, rows.len(), tensor.cols)?;
            let measure = |weights: &Buffer| -> Result<Vec<f32>> {
                row_error(device, &x, &encoded, 0..rows.len(), (weights, &no_means), &errors)?;
                Ok(device.read::<f32>(&errors)?.into_iter().step_by(2).collect())
            };
            let errors = measure(&encode_weights)?;
            candidate.error += errors.iter().copied().map(f64::from).sum::<f64>();
            for ((factor, columns), nats) in factors.iter().zip(&columns).zip(nats) {
                let errors = columns.as_ref().map_or_else(|| Ok(errors.clone()), measure)?;
                *nats += factor.nats(rows.clone(), errors);
            }
        }
        Ok(())
    }

    /// Rounds sampled rows of matrix `index`, if rows are taken from it.
    fn look_at(&mut self, index: usize, panels: &mut [Panel]) -> Result<()> {
        let (device, tensor) = (self.device, self.tensor);
        let Some(factors) = self.factors.filter(|_| is_sampled(index, tensor.matrices())) else { return Ok(()) };
        let rows = tensor.matrix_rows(index);
        let weights = of_matrix(tensor, &self.weights, &rows);
        let most = SAMPLED_ROWS / tensor.matrices().min(SAMPLED_MATRICES);
        let sample = Sample::new(device, self.trials.weights, tensor, rows.clone(), most)?;
        for Panel { cols, judges, rounders } in panels {
            let part = sample.columns(cols.clone())?;
            let importance = device.upload("importance", &weights[cols.clone()])?;
            for Measured { candidate: Candidate { ty, .. }, sampled, .. } in &mut self.measured {
                let encoded = part.encode(*ty, &importance)?;
                let rounded = match rounders {
                    Some(rounders) => {
                        Some(part.upload(*ty, &rounders.round(*ty, &part.values, &weights[cols.clone()])?)?)
                    }
                    None => None,
                };
                let rounded = rounded.as_ref().unwrap_or(&encoded);
                for (role, (factor, (real, plain))) in factors.iter().zip(sampled).enumerate() {
                    let columns = &of_matrix(tensor, &factor.cols, &rows)[cols.clone()];
                    let columns = device.upload("error weights", columns)?;
                    *plain += part.total(&part.diagonal_errors(&encoded, &columns)?, Some(factor));
                    let errors = match judges.get(role) {
                        Some(h) => part.errors(rounded, h)?,
                        None => part.diagonal_errors(rounded, &columns)?,
                    };
                    *real += part.total(&errors, Some(factor));
                }
            }
        }
        Ok(())
    }

    pub(super) fn candidates(self) -> Vec<Candidate> {
        let Weighing { tensor, exact, measured, .. } = self;
        let ratio = |(real, plain)| if real > 0.0 && plain > 0.0 { real / plain } else { 1.0 };
        let found = measured.into_iter().map(|Measured { candidate, nats, sampled }| Candidate {
            predicted: nats.iter().zip(sampled).map(|(nats, sampled)| nats * ratio(sampled)).sum(),
            ..candidate
        });
        let lossless = exact.into_iter().filter(|ty| *ty != tensor.ty).chain([tensor.ty]);
        let lossless = lossless.map(|ty| blank(ty, tensor));
        found.filter(|candidate| candidate.ty != tensor.ty).chain(lossless).collect()
    }
}

/// A candidate that costs nothing yet; the source type stays so, since its bytes are copied, and types that are exact.
fn blank(ty: GgmlType, tensor: &Tensor) -> Candidate {
    Candidate { ty, bytes: ty.bytes_for((tensor.rows * tensor.cols) as u64), error: 0.0, predicted: 0.0 }
}
