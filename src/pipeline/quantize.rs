//! The whole job: from a model to a proven file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::guard::Guard;
use super::metadata::{MEASURED_KLD, MEASURED_TOKENS};
use super::reference::{Reference, mean};
use super::refine::{Round, TUNING_TOKENS, Tuning, moved, repredicted};
use super::{
    AnalysisInputs, FileInputs, ProbeInputs, Provenance, RoundingInputs, Scoring, analyze, bare_analysis, listen,
    output_metadata, probe, prove, sense, write,
};
use crate::calibration::Chunks;
use crate::device::Device;
use crate::forward::{Stream, StreamOptions};
use crate::gguf::{GgufWriter, Metadata, Value};
use crate::imatrix::Imatrix;
use crate::kld::{Report, compare};
use crate::plan::{Analysis, Constraints, Objective, Outlook, Plan, Rule, Target, check_budget, solve_for};
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::rounding::Method;
use crate::sensitivity::probe::{Probes, groups, unit_factors};
use crate::sensitivity::{Sensitivities, SweepOptions, Way};
use crate::source::Model;

/// Tokens of the reverse sweep: enough for sensitivities within a few per cent.
const SWEEP_TOKENS: usize = 16 << 10;

/// Tokens behind the second moments with which errors are weighed.
pub(super) const HESSIAN_TOKENS: usize = 24 << 10;

/// Tokens of the group probes: enough to tell the worst 2 in 1000 from the others.
const PROBE_TOKENS: usize = 16 << 10;

/// Times that a plan for `--max-kld` is tightened after its file was measured.
const TIGHTENINGS: usize = 4;

/// Fits a plan made before to the model.
pub type PlanReader = dyn Fn(&Analysis) -> Result<Plan>;

/// What decides the types.
pub enum Goal {
    Target(Target),
    /// Reads a plan made before and fits it to the model.
    Plan(Box<PlanReader>),
}

impl Goal {
    /// Whether errors and sensitivities must be known, or names and shapes are enough.
    fn needs_analysis(&self) -> bool {
        matches!(self, Goal::Target(Target::Size(_) | Target::Bpw(_) | Target::MaxKld(_)))
    }

    /// Whether anything is encoded by importance. Plain floats are not: they are conversions.
    fn needs_importance(&self, rules: &[Rule]) -> bool {
        !matches!(self, Goal::Target(Target::Pure(ty)) if !ty.is_quantized() && rules.is_empty())
    }
}

/// Everything the job starts from.
pub struct Job<'a> {
    pub device: &'a Device,
    pub model: &'a Model,
    /// Calibration text, and what to call it in the file.
    pub calibration: &'a Chunks,
    pub dataset: &'a str,
    /// An importance matrix made before, and what to call it in the file.
    pub imatrix: Option<(Imatrix, String)>,
    /// Text for the proof, disjoint from the calibration text.
    pub heldout: &'a Chunks,
    pub types: &'a [GgmlType],
    pub constraints: Constraints,
    /// What to make, each a file of its own, from one analysis.
    pub goals: &'a [Goal],
    pub seed: u64,
    /// How sensitivities are found.
    pub sensitivity: Way,
    /// What plans make small. For more than the mean, groups are probed.
    pub objective: Objective,
    /// Whether groups are probed whatever the objective, for the analysis to keep.
    pub probes: bool,
    pub memory: StreamOptions,
    pub rounding: Method,
    /// Times that the plan may be moved after its file was measured.
    pub rounds: usize,
}

/// A plan and its file, which has no name yet.
pub(super) struct Draft {
    pub(super) plan: Plan,
    pub(super) writer: GgufWriter,
}

/// What the job did.
pub struct Outcome {
    pub output: PathBuf,
    pub plan: Plan,
    pub bytes: u64,
    pub report: Report,
    /// How it was found out what errors cost; empty where the plan did not need it.
    pub sensitivity: String,
    /// What an objective beyond the mean predicts of the plan.
    pub outlook: Option<Outlook>,
    /// What rounding is worth, where it was measured.
    pub guard: Option<Guard>,
    /// What each round of refinement found.
    pub rounds: Vec<Round>,
    /// Name and seconds of each step, in order.
    pub steps: Vec<(String, f64)>,
}

/// Errors, sensitivities and importance, as far as a goal needs them.
pub struct Knowledge {
    pub analysis: Analysis,
    /// None where the goal has no use for it.
    pub imatrix: Option<Imatrix>,
    pub sensitivities: Option<Sensitivities>,
    pub provenance: Provenance,
}

impl Job<'_> {
    /// Runs all steps and makes one file for each goal. `done` hears of each when it has got its name, after it has been
    /// measured.
    pub fn run(
        &self,
        outputs: &[PathBuf],
        progress: &dyn Progress,
        mut done: impl FnMut(Outcome) -> Result<()>,
    ) -> Result<()> {
        let mut clock = Clock::default();
        self.check_goals()?;
        let knowledge = self.learn(&mut clock, progress)?;
        for (goal, output) in self.goals.iter().zip(outputs) {
            done(self.make(goal, output, &knowledge, clock, progress)?)?;
            clock = Clock::default();
        }
        Ok(())
    }

    fn make(
        &self,
        goal: &Goal,
        output: &Path,
        knowledge: &Knowledge,
        mut clock: Clock,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let analysis = &knowledge.analysis;
        let mut target = match goal {
            Goal::Target(target) => Some(*target),
            Goal::Plan(_) => None,
        };
        for attempt in 0..=TIGHTENINGS {
            let (plan, mut outlook) = match (goal, &target) {
                (Goal::Plan(read), _) => (read(analysis)?, None),
                (Goal::Target(_), Some(target)) => self.plan(analysis, target)?,
                (Goal::Target(_), None) => unreachable!("a target goal has a target"),
            };
            clock.lap("plan");
            let mut draft = self.write(plan, self.rounding, knowledge, output, progress)?;
            clock.lap("write");
            let guard = self.guard(&mut draft, knowledge, output, progress)?;
            if guard.is_some() {
                clock.lap("guard");
            }
            let mut rounds = Vec::new();
            let is_rounded = guard.as_ref().is_none_or(Guard::keeps_rounding);
            if let Some(Target::Size(_) | Target::Bpw(_)) = target.filter(|_| is_rounded) {
                rounds = self.refine(&mut draft, knowledge, output, progress)?;
                if self.rounds > 0 {
                    clock.lap("refine");
                }
                // it was about the plan before it moved
                outlook = outlook.filter(|_| rounds.iter().all(|round| !round.accepted));
            }
            let Draft { plan, mut writer } = draft;
            let report = self.measure(writer.readable()?, progress)?;
            clock.lap("prove");
            if let (Some(Target::MaxKld(wanted)), Goal::Target(Target::MaxKld(asked))) = (&mut target, goal)
                && report.all.mean_kld > *asked
            {
                if attempt == TIGHTENINGS {
                    bail!(
                        "--max-kld: the file measures {:.6} after {attempt} tighter plans: `{asked}`",
                        report.all.mean_kld
                    );
                }
                log::warn!("measured KL {:.6} misses {asked}: planning again", report.all.mean_kld);
                *wanted *= 0.95 * asked / report.all.mean_kld;
                continue;
            }
            writer.patch(MEASURED_KLD, Value::F32(report.all.mean_kld as f32))?;
            writer.patch(MEASURED_TOKENS, Value::U32(report.all.tokens as u32))?;
            let bytes = writer.finish()?;
            return Ok(Outcome {
                output: output.to_owned(),
                plan,
                bytes,
                report,
                sensitivity: analysis.sensitivity.clone(),
                outlook,
                guard,
                rounds,
                steps: clock.laps,
            });
        }
        unreachable!("the last attempt returns")
    }

    fn plan(&self, analysis: &Analysis, target: &Target) -> Result<(Plan, Option<Outlook>)> {
        solve_for(analysis, target, &self.constraints, self.objective)
    }

    /// Writes a file that has no name yet.
    pub(super) fn write(
        &self,
        plan: Plan,
        method: Method,
        knowledge: &Knowledge,
        output: &Path,
        progress: &dyn Progress,
    ) -> Result<Draft> {
        let Knowledge { imatrix, sensitivities, provenance, .. } = knowledge;
        let metadata = output_metadata(self.model, imatrix.as_ref(), provenance, Some(&plan));
        let chunks = self.calibration.prefix(HESSIAN_TOKENS / self.calibration.ctx);
        let rounding =
            RoundingInputs { method, chunks: &chunks, sensitivities: sensitivities.as_ref(), memory: self.memory };
        let rounding = (imatrix.is_some() && method != Method::PLAIN).then_some(&rounding);
        let inputs =
            FileInputs { model: self.model, plan: &plan, imatrix: imatrix.as_ref(), rounding, metadata: &metadata };
        let writer = write(self.device, &inputs, output, progress)?;
        Ok(Draft { plan, writer })
    }

    /// Moves the plan of `draft` while that lowers the KL on text that neither rounding nor the proof uses.
    fn refine(
        &self,
        draft: &mut Draft,
        knowledge: &Knowledge,
        output: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<Round>> {
        let mut rounds = Vec::new();
        let ctx = self.calibration.ctx;
        let chunks = self.calibration.after(HESSIAN_TOKENS / ctx, TUNING_TOKENS / ctx);
        if self.rounds == 0 {
            return Ok(rounds);
        }
        if chunks.len() < 2 {
            log::warn!("--rounds: no calibration text is left to measure on, so the plan stays as it is");
            return Ok(rounds);
        }
        let stream = Stream::new(self.device, self.model, &chunks.tokens, ctx, self.memory)?;
        let tuning = Tuning { reference: Reference::new(&stream, &chunks, progress)? };
        let mut measured = tuning.measure(draft.writer.readable()?, None, progress)?;
        for _ in 0..self.rounds {
            let analysis = &knowledge.analysis;
            let corrections = tuning.corrections(draft.writer.readable()?, &draft.plan, analysis, progress)?;
            draft.plan = repredicted(&draft.plan, analysis, &corrections)?;
            let solve = |analysis: &Analysis| Ok(self.plan(analysis, &draft.plan.target)?.0);
            let Some((plan, moved_bytes)) = moved(analysis, &draft.plan, &corrections, solve)? else { break };
            let mut trial = self.write(plan, self.rounding, knowledge, output, progress)?;
            let trial_measured = tuning.measure(trial.writer.readable()?, None, progress)?;
            let comparison = compare(&measured, &trial_measured)?;
            let accepted = comparison.improves();
            rounds.push(Round { corrections, moved_bytes, before: mean(&measured), comparison, accepted });
            if !accepted {
                break;
            }
            (*draft, measured) = (trial, trial_measured);
        }
        Ok(rounds)
    }

    /// Refuses what no plan can meet before anything is measured. The stand-in for the importance matrix makes metadata of
    /// the very size of the file's.
    fn check_goals(&self) -> Result<()> {
        let provenance = self.provenance();
        let unmeasured = Imatrix { datasets: vec![self.dataset.to_string()], ..Default::default() };
        let imatrix = self.imatrix.as_ref().map_or(&unmeasured, |(imatrix, _)| imatrix);
        let metadata = output_metadata(self.model, Some(imatrix), &provenance, None);
        let bare = bare_analysis(self.model, &metadata, "")?;
        self.targets().try_for_each(|target| check_budget(&bare, target, &self.constraints, self.types))
    }

    fn targets(&self) -> impl Iterator<Item = &Target> {
        self.goals.iter().filter_map(|goal| match goal {
            Goal::Target(target) => Some(target),
            Goal::Plan(_) => None,
        })
    }

    fn provenance(&self) -> Provenance {
        Provenance {
            imatrix_name: self.imatrix.as_ref().map_or(self.dataset, |(_, name)| name).to_string(),
            calibration_hash: self.calibration.hash.clone(),
            heldout_hash: self.heldout.hash.clone(),
        }
    }

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

    fn measure(&self, written: &Path, progress: &dyn Progress) -> Result<Report> {
        let quant = Model::open(written).context("the written file cannot be read back")?;
        let divergence =
            prove(self.device, self.model, &quant, self.heldout, Scoring::SecondHalf, self.memory, progress)?;
        super::prove::report(&divergence, self.heldout)
    }
}

/// Seconds by step; laps of the same name add up.
pub struct Clock {
    since: Instant,
    pub laps: Vec<(String, f64)>,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { since: Instant::now(), laps: Vec::new() }
    }
}

impl Clock {
    /// The time since the last lap belongs to `step`.
    pub fn lap(&mut self, step: &str) {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        match self.laps.iter_mut().find(|(name, _)| name == step) {
            Some((_, total)) => *total += seconds,
            None => self.laps.push((step.to_string(), seconds)),
        }
    }
}
