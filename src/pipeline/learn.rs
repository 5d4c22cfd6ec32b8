//! What a plan is made from: importance, sensitivities and errors, as far as the goals of a job need them.

use anyhow::{Context, Result};

use super::checkpoint::Key;
use super::quantize::{Clock, Goal, HESSIAN_TOKENS, Job, considered};
use super::{AnalysisInputs, ProbeInputs, Provenance, analyze, bare_analysis, listen, output_metadata, probe, sense};
use crate::gguf::Metadata;
use crate::imatrix::Imatrix;
use crate::plan::{Analysis, Objective};
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::rounding::Method;
use crate::sensitivity::probe::{Probes, groups, unit_factors};
use crate::sensitivity::{Sensitivities, SweepOptions, Way};
use crate::source::{Weights, listing};

/// Tokens of the reverse sweep: enough for sensitivities within a few per cent.
const SWEEP_TOKENS: usize = 16 << 10;

/// Tokens of the group probes: enough to tell the worst 2 in 1000 from the others.
const PROBE_TOKENS: usize = 16 << 10;

/// Errors, sensitivities and importance, as far as a goal needs them.
pub struct Knowledge {
    pub analysis: Analysis,
    /// None where the goal has no use for it.
    pub imatrix: Option<Imatrix>,
    pub sensitivities: Option<Sensitivities>,
    pub provenance: Provenance,
    /// What all of this depends on.
    pub(super) key: Key,
}

impl Job<'_> {
    /// Listens, senses and weighs, as far as the goal needs it.
    pub fn learn(&self, clock: &mut Clock, progress: &dyn Progress) -> Result<Knowledge> {
        let mut provenance = self.provenance();
        let key = self.key()?;
        if provenance.is_conversion {
            provenance.calibration_hash.clear();
            let metadata = output_metadata(self.model, None, &provenance, None);
            let analysis = bare_analysis(self.model, &metadata, "")?;
            return Ok(Knowledge { analysis, imatrix: None, sensitivities: None, provenance, key });
        }
        let imatrix = match &self.imatrix {
            Some((imatrix, name)) => fitted(self.model, imatrix, name)?,
            None => self.checkpoints.step("importance", &key, || {
                listen(self.device, self.model, self.calibration, self.dataset, self.memory, progress)
            })?,
        };
        clock.lap("importance");
        let metadata = output_metadata(self.model, Some(&imatrix), &provenance, None);
        let bare = bare_analysis(self.model, &metadata, &self.calibration.hash)?;
        let key = key.with_content("imatrix", &imatrix)?;
        let mut known = Knowledge { analysis: bare, imatrix: Some(imatrix), sensitivities: None, provenance, key };
        let imatrix = known.imatrix.as_ref().expect("just given");
        let needs_analysis = self.goals.iter().any(Goal::needs_analysis);
        // rounding alone uses gradients at the embedding, which probes do not give
        if !needs_analysis && (self.rounding == Method::PLAIN || self.sensitivity == Way::Probes) {
            return Ok(known);
        }
        known.key = known.key.with("sensitivity", (self.sensitivity, self.seed));
        let mut probes = None;
        let sensitivities = match self.sensitivity {
            Way::Sweep => self.checkpoints.step("sensitivities", &known.key, || self.sweep(imatrix, progress))?,
            Way::Probes => {
                let found = self.probe(&known.analysis, imatrix, &known.key, progress)?;
                let key = known.key.clone().with_content("probes", &found)?.with("moments", self.memory.moments_budget);
                let sensitivities = self
                    .checkpoints
                    .step("sensitivities", &key, || self.probed_factors(&found, imatrix, &metadata, progress))?;
                probes = Some(found);
                sensitivities
            }
        };
        clock.lap("sensitivity");
        if needs_analysis {
            let types = considered(&known.analysis, self.goals, &self.constraints, self.types);
            let key =
                known.key.clone().with("types", &types).with("rounding", (self.rounding, self.memory.moments_budget));
            let Analysis { fixed_bytes, model, .. } = known.analysis;
            known.analysis = self.checkpoints.step("analysis", &key, || {
                self.weigh(imatrix, &sensitivities, &types, self.rounding, &metadata, progress)
            })?;
            known.analysis.bound_predictions((self.model.hparams.n_vocab as f64).ln())?;
            // of this file's metadata and name, whatever was kept
            known.analysis = Analysis { fixed_bytes, model, ..known.analysis };
            known.analysis.sensitivity = self.sensitivity.name().to_owned();
            clock.lap("weigh");
        }
        if needs_analysis && (self.probes || self.objective != Objective::Mean) {
            let found = match probes {
                Some(found) => found,
                None => self.probe(&known.analysis, imatrix, &known.key, progress)?,
            };
            known.analysis.probes = Some(found);
            clock.lap("probe");
        }
        known.sensitivities = Some(sensitivities);
        Ok(known)
    }

    /// What everything that is learned depends on.
    fn key(&self) -> Result<Key> {
        let key = self
            .checkpoints
            .key()
            .with("model", (self.model.fingerprint()?, &self.model.hparams, self.model.changed()))
            .with("device", (self.device.name(), self.memory.activation_budget))
            .with("calibration", (&self.calibration.hash, self.calibration.ctx, self.dataset));
        Ok(key)
    }

    fn weigh(
        &self,
        imatrix: &Imatrix,
        sensitivities: &Sensitivities,
        types: &[GgmlType],
        rounding: Method,
        metadata: &Metadata,
        progress: &dyn Progress,
    ) -> Result<Analysis> {
        let inputs = AnalysisInputs {
            model: self.model,
            imatrix,
            sensitivities,
            calibration_hash: &self.calibration.hash,
            types,
            chunks: &self.calibration.prefix(HESSIAN_TOKENS / self.calibration.ctx),
            memory: self.memory,
            rounding,
            metadata,
        };
        analyze(self.device, &inputs, progress)
    }

    fn sweep(&self, imatrix: &Imatrix, progress: &dyn Progress) -> Result<Sensitivities> {
        let text = self.calibration.prefix(SWEEP_TOKENS / self.calibration.ctx);
        let options = SweepOptions { seed: self.seed };
        sense(self.device, self.model, &text, self.calibration, imatrix, options, self.memory, progress)
    }

    /// Probes the groups of `analysis`, whose predictions spare trials if it has any.
    fn probe(&self, analysis: &Analysis, imatrix: &Imatrix, key: &Key, progress: &dyn Progress) -> Result<Probes> {
        let ties = [&analysis.ties[..], &self.constraints.ties].concat();
        let groups = groups(analysis.quantizable().map(|tensor| tensor.name.as_str()), &ties);
        let inputs = ProbeInputs {
            model: self.model,
            imatrix,
            groups: &groups,
            chunks: &self.calibration.prefix(PROBE_TOKENS / self.calibration.ctx),
            memory: self.memory,
            predicted: &|name, ty| Some(analysis.tensor(name)?.candidate(ty)?.predicted),
        };
        let key = key.clone().with("groups", &groups).with_content("analysis", analysis)?;
        self.checkpoints.step("probes", &key, || probe(self.device, &inputs, progress))
    }

    /// Sensitivities under which the predictions of the probes are what the probes measured.
    fn probed_factors(
        &self,
        probes: &Probes,
        imatrix: &Imatrix,
        metadata: &Metadata,
        progress: &dyn Progress,
    ) -> Result<Sensitivities> {
        let counts = self.calibration.token_counts(self.model.hparams.n_vocab);
        let names = probes.groups.iter().flat_map(|group| group.types.keys());
        let units = unit_factors(self.model, imatrix, &counts, names.map(String::as_str))?;
        // plain, as the probes were encoded
        let errors = self.weigh(imatrix, &units, &probes.types(), Method::PLAIN, metadata, progress)?;
        probes.factors(units, |name, ty| errors.tensor(name)?.predicted(ty))
    }
}

/// What a model has use for of an importance matrix that was made before. Says which tensors it leaves without.
pub(super) fn fitted(weights: &Weights, imatrix: &Imatrix, name: &str) -> Result<Imatrix> {
    let mut imatrix = imatrix.clone();
    let missing = imatrix.fit(weights).with_context(|| format!("cannot use the importance matrix: `{name}`"))?;
    if !missing.is_empty() {
        log::warn!(
            "the importance matrix has no data for {} tensors, all columns of which count the same: {} (`{name}`)",
            missing.len(),
            listing(&missing)
        );
    }
    Ok(imatrix)
}
