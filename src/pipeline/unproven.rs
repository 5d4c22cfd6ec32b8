//! The job for weights that cannot be run: a GGUF whose architecture has no forward pass here.
//!
//! Names and shapes give types by rule, errors of every type those for a size. Nothing is known of what an error costs in nats, no input
//! is seen while rounding, and the file is not proven.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::analyze::unmeasured;
use super::checkpoint::Checkpoints;
use super::encoded::importance;
use super::learn::fitted;
use super::quantize::{Clock, Goal, Outcome, check_importance, check_targets, considered, is_conversion, targets};
use super::slabs::{of_matrix, slabs};
use super::weigh::{Trials, Weighing};
use super::{FileInputs, Provenance, output_metadata, write};
use crate::arch::tensor_class::{Class, layer_index};
use crate::device::Device;
use crate::gguf::Value;
use crate::imatrix::Imatrix;
use crate::imatrix::fit::needs_importance;
use crate::plan::{Analysis, Constraints, ModelShape, Target, solve_near};
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::source::{Tensor, Weights};

/// Everything the job starts from.
pub struct Unproven<'a> {
    pub device: &'a Device,
    pub weights: &'a Weights,
    /// An importance matrix, and what to call it in the file. Without one all columns count the same.
    pub imatrix: Option<(Imatrix, String)>,
    pub types: &'a [GgmlType],
    pub constraints: Constraints,
    /// What to make, each a file of its own.
    pub goals: &'a [Goal],
    /// Where the errors are kept.
    pub checkpoints: &'a Checkpoints,
}

/// What plans and files are made from.
struct Known {
    /// Where a candidate's prediction should be, what the planner keeps small: see [`worth`].
    analysis: Analysis,
    imatrix: Option<Imatrix>,
    provenance: Provenance,
}

impl Unproven<'_> {
    /// Makes one file for each goal. `done` hears of each when it has got its name.
    pub fn run(
        &self,
        outputs: &[PathBuf],
        progress: &dyn Progress,
        mut done: impl FnMut(Outcome) -> Result<()>,
    ) -> Result<()> {
        let mut clock = Clock::default();
        let known = self.learn(outputs, &mut clock, progress)?;
        for (goal, output) in self.goals.iter().zip(outputs) {
            done(self.make(goal, output, &known, clock, progress)?)?;
            clock = Clock::default();
        }
        self.checkpoints.finish()
    }

    /// Refuses what cannot be met, and measures errors if a goal needs them.
    fn learn(&self, outputs: &[PathBuf], clock: &mut Clock, progress: &dyn Progress) -> Result<Known> {
        let is_conversion = is_conversion(self.goals, &self.constraints);
        let imatrix = match &self.imatrix {
            Some((imatrix, name)) if !is_conversion => Some(fitted(self.weights, imatrix, name)?),
            _ => None,
        };
        let imatrix_name = self.imatrix.as_ref().map_or(String::new(), |(_, name)| name.clone());
        let provenance = Provenance { imatrix_name, is_conversion, ..Provenance::default() };
        let metadata = output_metadata(self.weights, imatrix.as_ref(), &provenance, None);
        let mut analysis = unmeasured(self.weights, shape(self.weights)?, &metadata)?;
        let types = self.types.iter().copied().filter(|ty| imatrix.is_some() || !needs_importance(*ty));
        let types: Vec<GgmlType> = types.collect();
        check_targets(&analysis, self.goals, &self.constraints, &types, outputs)?;
        if self.goals.iter().any(Goal::needs_analysis) {
            let has_kld = targets(self.goals).any(|target| matches!(target, Target::MaxKld(_)));
            ensure!(!has_kld, "a KL divergence cannot be met: {}", no_forward_pass(self.weights.architecture()));
            let types = considered(&analysis, self.goals, &self.constraints, &types);
            analysis = self.weigh(imatrix.as_ref(), &types, analysis, progress)?;
            clock.lap("weigh");
        }
        Ok(Known { analysis, imatrix, provenance })
    }

    fn make(
        &self,
        goal: &Goal,
        output: &Path,
        known: &Known,
        mut clock: Clock,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let Known { analysis, imatrix, provenance } = known;
        let plan = match goal {
            Goal::Plan(read) => read(analysis)?,
            Goal::Target(target) => solve_near(analysis, target, &self.constraints)?,
        };
        let plan = plan.unpredicted();
        check_importance(&plan, imatrix.as_ref(), &provenance.imatrix_name)?;
        clock.lap("plan");
        let metadata = output_metadata(self.weights, imatrix.as_ref(), provenance, Some(&plan));
        let inputs = FileInputs {
            weights: self.weights,
            plan: &plan,
            imatrix: imatrix.as_ref(),
            rounding: None,
            metadata: &metadata,
        };
        let bytes = write(self.device, &inputs, output, progress)?.finish()?;
        clock.lap("write");
        Ok(Outcome {
            output: output.to_owned(),
            plan,
            bytes,
            report: None,
            sensitivity: String::new(),
            outlook: None,
            experts: imatrix.as_ref().and_then(Imatrix::coverage),
            guard: None,
            rounds: Vec::new(),
            steps: clock.laps,
        })
    }

    /// Encodes every tensor in every type. What errors are worth stands where predictions would.
    fn weigh(
        &self,
        imatrix: Option<&Imatrix>,
        types: &[GgmlType],
        bare: Analysis,
        progress: &dyn Progress,
    ) -> Result<Analysis> {
        let imatrix = imatrix.cloned().unwrap_or_default();
        let key = self
            .checkpoints
            .key()
            .with("weights", (self.weights.fingerprint()?, self.weights.architecture(), self.weights.changed()))
            .with("device", self.device.name())
            .with("types", types)
            .with_content("imatrix", &imatrix)?;
        let measured = self.checkpoints.step("errors", &key, || {
            let trials = Trials { weights: self.weights, imatrix: &imatrix, types };
            let mut measured = bare.clone();
            progress.begin("weighing types", bare.quantizable().map(|tensor| tensor.elements()).sum());
            for entry in measured.tensors.iter_mut().filter(|tensor| tensor.quantizable) {
                let tensor = self.weights.require(&entry.name)?;
                let worth = worth(self.weights, tensor, energy(self.weights, &imatrix, tensor)?);
                // without factors the errors alone are measured
                entry.candidates = Weighing::new(self.device, trials, tensor, Some(&[]))?.candidates();
                entry.candidates.iter_mut().for_each(|candidate| candidate.predicted = candidate.error * worth);
                progress.advance(tensor.elements())?;
            }
            progress.end();
            Ok(measured)
        })?;
        // of this file's metadata and name, whatever was kept
        Ok(Analysis { fixed_bytes: bare.fixed_bytes, model: bare.model, ..measured })
    }
}

/// Why something cannot be had.
pub fn no_forward_pass(architecture: &str) -> String {
    format!("dq-gpu has no forward pass for architecture `{architecture}`")
}

/// `sum_r sum_j h_j w_rj^2`: the energy of the output, as far as the diagonal tells.
fn energy(weights: &Weights, imatrix: &Imatrix, tensor: &Tensor) -> Result<f64> {
    let importance = importance(Some(imatrix), tensor);
    let mut energy = 0.0;
    for rows in slabs(tensor) {
        let h = of_matrix(tensor, &importance, &rows);
        let values = weights.f32_rows(tensor, rows)?;
        let of_row = |row: &[f32]| -> f64 {
            row.iter().zip(h).map(|(w, h)| f64::from(*h) * f64::from(*w) * f64::from(*w)).sum()
        };
        energy += values.chunks_exact(tensor.cols).map(of_row).sum::<f64>();
    }
    Ok(energy)
}

/// How much a weight of the embedding or the output counts, against one in the layers: two bits more, as llama.cpp's mixtures have it.
const OUTSIDE: f64 = 16.0;

/// What an error of 1 costs, in units that mean nothing: errors count relative to the output's energy, tensors by the weights that a token
/// meets in them. `docs/formulas.md` has the reasons.
fn worth(weights: &Weights, tensor: &Tensor, energy: f64) -> f64 {
    let matrices = tensor.matrices() as f64;
    let used =
        weights.metadata.u32(&format!("{}.expert_used_count", weights.architecture())).map_or(matrices, f64::from);
    let met = tensor.elements() as f64 * (used / matrices).min(1.0);
    let share = match Class::of(&tensor.name) {
        Class::TokenEmbd | Class::Output => OUTSIDE,
        _ => 1.0,
    };
    if energy > 0.0 { share * met / energy } else { 0.0 }
}

/// What llama.cpp's rules ask of the model, from its metadata. Layers are counted where no key says how many there are.
fn shape(weights: &Weights) -> Result<ModelShape> {
    let number = |key: &str| match weights.metadata.get(key)? {
        Value::Array(array) => array.whole_numbers()?.first().and_then(|&number| number.try_into().ok()),
        _ => weights.metadata.u32(key),
    };
    let layers = || weights.tensors.iter().filter_map(|tensor| layer_index(&tensor.name)).max();
    let counted = |key: &str| key.ends_with(".block_count").then(|| layers().map_or(0, |last| last as u32 + 1));
    ModelShape::from_keys(weights.architecture(), |key| number(key).or_else(|| counted(key)))
}
