//! The loop: the file is measured on text of its own, types whose errors cost more or less than predicted are told apart, and
//! the plan moves where a paired comparison says that it pays.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::reference::{Reference, mean};
use crate::forward::weights::WeightSource;
use crate::kld::{Comparison, TokenRecord};
use crate::plan::{Analysis, Plan};
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::source::{Model, Tensor};

/// Tokens of calibration text, unseen by rounding, that the loop measures on.
pub const TUNING_TOKENS: usize = 12 << 10;

/// Most of the tensor data that a round may move to other types.
const MOST_MOVED: f64 = 0.2;

/// Types with a smaller share of the predicted KL are not told apart.
const LEAST_SHARE: f64 = 0.03;

/// Corrections beyond these are no property of a type.
const CORRECTIONS: (f64, f64) = (0.4, 2.5);

/// What one round found.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Measured over predicted KL, type by type.
    pub corrections: BTreeMap<GgmlType, f64>,
    /// Bytes of the tensors that changed their type.
    pub moved_bytes: u64,
    /// Mean KL of the plan so far, on the tuning text.
    pub before: f64,
    /// The new plan against it, token by token.
    pub comparison: Comparison,
    pub accepted: bool,
}

/// Files are compared with the original model on the tuning text.
pub struct Tuning<'a, 's> {
    pub reference: Reference<'a, 's>,
}

/// The tensors of a written file that have one type, and the original's for all others.
struct OnlyType<'a> {
    base: &'a Model,
    quant: &'a Model,
    ty: Option<GgmlType>,
}

impl WeightSource for OnlyType<'_> {
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        let quantized = self.quant.require(&tensor.name)?;
        if self.ty.is_none_or(|ty| ty == quantized.ty) { self.quant.read(quantized) } else { self.base.read(tensor) }
    }
}

impl Tuning<'_, '_> {
    /// The KL of every token with the file's tensors of type `ty`, or with all of them.
    pub fn measure(&self, file: &Path, ty: Option<GgmlType>, progress: &dyn Progress) -> Result<Vec<TokenRecord>> {
        let quant = Model::open(file).context("the written file cannot be read back")?;
        self.reference.compare(&OnlyType { base: self.reference.stream.model, quant: &quant, ty }, progress)
    }

    /// Measured over predicted KL of every type that matters in `plan`, whose file is `file`.
    pub fn corrections(
        &self,
        file: &Path,
        plan: &Plan,
        analysis: &Analysis,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<GgmlType, f64>> {
        let mut predicted: BTreeMap<GgmlType, f64> = BTreeMap::new();
        for tensor in analysis.quantizable() {
            let Some(ty) = plan.ty(&tensor.name) else { continue };
            *predicted.entry(ty).or_default() += tensor.predicted(ty).unwrap_or(0.0);
        }
        let all: f64 = predicted.values().sum();
        predicted.retain(|_, nats| *nats > LEAST_SHARE * all);
        let mut corrections = BTreeMap::new();
        for (ty, nats) in predicted {
            let measured = mean(&self.measure(file, Some(ty), progress)?);
            corrections.insert(ty, (measured / nats).clamp(CORRECTIONS.0, CORRECTIONS.1));
        }
        Ok(corrections)
    }
}

/// The plan that `solve` finds once predictions are corrected, as far as it moves no more than a fifth of the bytes: else with
/// weaker corrections. Its predictions are corrected ones. None if nothing moves.
pub fn moved(
    analysis: &Analysis,
    current: &Plan,
    corrections: &BTreeMap<GgmlType, f64>,
    solve: impl Fn(&Analysis) -> Result<Plan>,
) -> Result<Option<(Plan, u64)>> {
    for strength in [1.0, 0.5, 0.25] {
        let plan = solve(&corrected(analysis, corrections, strength))?;
        let changed: BTreeSet<&String> = plan
            .tensors
            .iter()
            .filter(|(name, found)| current.ty(name) != Some(found.ty))
            .map(|(name, _)| name)
            .collect();
        let bytes: u64 = changed.iter().map(|name| plan.tensors[*name].bytes).sum();
        if bytes == 0 {
            return Ok(None);
        }
        let all: u64 = plan.tensors.values().map(|assignment| assignment.bytes).sum();
        if bytes as f64 <= MOST_MOVED * all as f64 {
            return Ok(Some((repredicted(&plan, analysis, corrections)?, bytes)));
        }
    }
    Ok(None)
}

/// The same plan with corrected predictions.
pub fn repredicted(plan: &Plan, analysis: &Analysis, corrections: &BTreeMap<GgmlType, f64>) -> Result<Plan> {
    let types = plan.tensors.iter().map(|(name, assignment)| (name.clone(), assignment.ty)).collect();
    Plan::new(&corrected(analysis, corrections, 1.0), plan.target, &types, plan.fallbacks.clone())
}

fn corrected(analysis: &Analysis, corrections: &BTreeMap<GgmlType, f64>, strength: f64) -> Analysis {
    let mut corrected = analysis.clone();
    for candidate in corrected.tensors.iter_mut().flat_map(|tensor| &mut tensor.candidates) {
        candidate.predicted *= correction(corrections, candidate.ty).powf(strength);
    }
    corrected
}

/// The correction of a type: its own, or that of the measured type with the nearest bits per weight.
fn correction(corrections: &BTreeMap<GgmlType, f64>, ty: GgmlType) -> f64 {
    if let Some(own) = corrections.get(&ty) {
        return *own;
    }
    let distance = |other: &GgmlType| (other.bpw() - ty.bpw()).abs();
    let nearest = corrections.iter().min_by(|a, b| distance(a.0).total_cmp(&distance(b.0)));
    nearest.map_or(1.0, |(_, correction)| *correction)
}
