//! What a plan is made from: importance, sensitivities and errors, as far as the goals of a job need them.

use anyhow::Result;

use super::quantize::{Clock, Goal, HESSIAN_TOKENS, Job};
use super::{AnalysisInputs, ProbeInputs, Provenance, analyze, bare_analysis, listen, output_metadata, probe, sense};
use crate::gguf::Metadata;
use crate::imatrix::Imatrix;
use crate::plan::{Analysis, Objective};
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::rounding::Method;
use crate::sensitivity::probe::{Probes, groups, unit_factors};
use crate::sensitivity::{Sensitivities, SweepOptions, Way};

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
}

impl Job<'_> {
    /// Listens, senses and weighs, as far as the goal needs it.
    pub fn learn(&self, clock: &mut Clock, progress: &dyn Progress) -> Result<Knowledge> {
        let mut provenance = self.provenance();
        if !self.goals.iter().any(|goal| goal.needs_importance(&self.constraints.rules)) {
            provenance.calibration_hash.clear();
            let metadata = output_metadata(self.model, None, &provenance, None);
            let analysis = bare_analysis(self.model, &metadata, "")?;
            return Ok(Knowledge { analysis, imatrix: None, sensitivities: None, provenance });
        }
        let imatrix = match &self.imatrix {
            Some((imatrix, _)) => imatrix.clone(),
            None => listen(self.device, self.model, self.calibration, self.dataset, self.memory, progress)?,
        };
        clock.lap("importance");
        let metadata = output_metadata(self.model, Some(&imatrix), &provenance, None);
        let bare = bare_analysis(self.model, &metadata, &self.calibration.hash)?;
        let needs_analysis = self.goals.iter().any(Goal::needs_analysis);
        if !needs_analysis && self.rounding == Method::PLAIN {
            return Ok(Knowledge { analysis: bare, imatrix: Some(imatrix), sensitivities: None, provenance });
        }
        if !needs_analysis && self.sensitivity == Way::Probes {
            // rounding would use gradients at the embedding, which probes do not give
            return Ok(Knowledge { analysis: bare, imatrix: Some(imatrix), sensitivities: None, provenance });
        }
        let mut probes = None;
        let sensitivities = match self.sensitivity {
            Way::Sweep => self.sweep(&imatrix, progress)?,
            Way::Probes => {
                let found = self.probe(&bare, &imatrix, progress)?;
                let sensitivities = self.probed_factors(&found, &imatrix, &metadata, progress)?;
                probes = Some(found);
                sensitivities
            }
        };
        clock.lap("sensitivity");
        if !needs_analysis {
            let sensitivities = Some(sensitivities);
            return Ok(Knowledge { analysis: bare, imatrix: Some(imatrix), sensitivities, provenance });
        }
        // What any of the targets may use.
        let considered: Vec<_> = self.targets().map(|target| self.constraints.for_target(target, &bare)).collect();
        let is_considered = |ty: &GgmlType| considered.iter().any(|constraints| constraints.is_considered(*ty));
        let types: Vec<GgmlType> = self.types.iter().copied().filter(is_considered).collect();
        let inputs = AnalysisInputs {
            model: self.model,
            imatrix: &imatrix,
            sensitivities: &sensitivities,
            calibration_hash: &self.calibration.hash,
            types: &types,
            chunks: &self.calibration.prefix(HESSIAN_TOKENS / self.calibration.ctx),
            memory: self.memory,
            rounding: self.rounding,
            metadata: &metadata,
        };
        let mut analysis = analyze(self.device, &inputs, progress)?;
        analysis.sensitivity = self.sensitivity.name().to_owned();
        clock.lap("weigh");
        if self.probes || self.objective != Objective::Mean {
            let found = match probes {
                Some(found) => found,
                None => self.probe(&analysis, &imatrix, progress)?,
            };
            analysis.probes = Some(found);
            clock.lap("probe");
        }
        Ok(Knowledge { analysis, imatrix: Some(imatrix), sensitivities: Some(sensitivities), provenance })
    }

    fn sweep(&self, imatrix: &Imatrix, progress: &dyn Progress) -> Result<Sensitivities> {
        let text = self.calibration.prefix(SWEEP_TOKENS / self.calibration.ctx);
        let options = SweepOptions { seed: self.seed };
        sense(self.device, self.model, &text, self.calibration, imatrix, options, self.memory, progress)
    }

    /// Probes the groups of `analysis`, whose predictions spare trials if it has any.
    fn probe(&self, analysis: &Analysis, imatrix: &Imatrix, progress: &dyn Progress) -> Result<Probes> {
        let ties = [&analysis.ties[..], &self.constraints.ties].concat();
        let inputs = ProbeInputs {
            model: self.model,
            imatrix,
            groups: &groups(analysis.quantizable().map(|tensor| tensor.name.as_str()), &ties),
            chunks: &self.calibration.prefix(PROBE_TOKENS / self.calibration.ctx),
            memory: self.memory,
            predicted: &|name, ty| Some(analysis.tensor(name)?.candidate(ty)?.predicted),
        };
        probe(self.device, &inputs, progress)
    }

    /// Sensitivities under which the predictions of the probes are what the probes measured.
    fn probed_factors(
        &self,
        probes: &Probes,
        imatrix: &Imatrix,
        metadata: &Metadata,
        progress: &dyn Progress,
    ) -> Result<Sensitivities> {
        let mut counts = vec![0u64; self.model.hparams.n_vocab];
        self.calibration.tokens.iter().for_each(|id| counts[*id as usize] += 1);
        let names = probes.groups.iter().flat_map(|group| group.types.keys());
        let units = unit_factors(self.model, imatrix, &counts, names.map(String::as_str))?;
        let inputs = AnalysisInputs {
            model: self.model,
            imatrix,
            sensitivities: &units,
            calibration_hash: &self.calibration.hash,
            types: &probes.types(),
            chunks: &self.calibration.prefix(HESSIAN_TOKENS / self.calibration.ctx),
            memory: self.memory,
            // as the probes were encoded
            rounding: Method::PLAIN,
            metadata,
        };
        let errors = analyze(self.device, &inputs, progress)?;
        probes.factors(units, |name, ty| errors.tensor(name)?.predicted(ty))
    }
}
