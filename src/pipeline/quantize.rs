//! The whole job: from a model to a proven file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::checkpoint::Checkpoints;
use super::guard::{GUARD_TOKENS, Guard};
use super::learn::Knowledge;
use super::metadata::{MEASURED_KLD, MEASURED_TOKENS};
use super::reference::{Reference, mean, mean_as_in};
use super::refine::{Round, TUNING_TOKENS, Tuning, moved, repredicted};
use super::{FileInputs, Provenance, RoundingInputs, Scoring, bare_analysis, output_metadata, prove, write};
use crate::arch::tensor_class::importance_names;
use crate::calibration::Chunks;
use crate::device::Device;
use crate::forward::{Stream, StreamOptions};
use crate::gguf::{GgufWriter, Value};
use crate::imatrix::{Coverage, Imatrix};
use crate::kld::{Report, TokenRecord, compare};
use crate::plan::mixes::needs_imatrix;
use crate::plan::{
    Analysis, Constraints, Ftype, Objective, Outlook, Plan, Rule, Target, check_budget, least_bytes, solve_for,
};
use crate::progress::Progress;
use crate::quant::GgmlType;
use crate::rounding::Method;
use crate::sensitivity::Way;
use crate::source::{Model, listing};
use crate::whole_file::check_room;

/// Tokens behind the second moments with which errors are weighed.
pub(super) const HESSIAN_TOKENS: usize = 24 << 10;

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
    pub fn needs_analysis(&self) -> bool {
        matches!(self, Goal::Target(Target::Size(_) | Target::Bpw(_) | Target::MaxKld(_)))
    }

    /// Whether anything is encoded by importance. Plain floats are not: they are conversions, which decode what is quantized.
    pub fn needs_importance(&self, rules: &[Rule]) -> bool {
        let ty = match self {
            Goal::Target(Target::Pure(ty)) => *ty,
            Goal::Target(Target::Type(ftype)) => ftype.default_type(),
            _ => return true,
        };
        ty.is_quantized() || !rules.is_empty()
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
    /// Calibration tokens whose second moments rounding has in view.
    pub rounding_tokens: usize,
    /// Times that the plan may be moved after its file was measured.
    pub rounds: usize,
    /// Where finished steps are kept.
    pub checkpoints: &'a Checkpoints,
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
    /// What the proof measured; none of weights that cannot be run.
    pub report: Option<Report>,
    /// How it was found out what errors cost; empty where the plan did not need it.
    pub sensitivity: String,
    /// What an objective beyond the mean predicts of the plan.
    pub outlook: Option<Outlook>,
    /// How far the calibration text reached the experts, where there are any.
    pub experts: Option<Coverage>,
    /// What rounding is worth, where it was measured.
    pub guard: Option<Guard>,
    /// What each round of refinement found.
    pub rounds: Vec<Round>,
    /// Name and seconds of each step, in order.
    pub steps: Vec<(String, f64)>,
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
        self.check_goals(outputs)?;
        let knowledge = self.learn(&mut clock, progress)?;
        for (goal, output) in self.goals.iter().zip(outputs) {
            done(self.make(goal, output, &knowledge, clock, progress)?)?;
            clock = Clock::default();
        }
        self.checkpoints.finish()
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
            check_importance(&plan, knowledge.imatrix.as_ref(), &knowledge.provenance.imatrix_name)?;
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
                report: Some(report),
                sensitivity: analysis.sensitivity.clone(),
                outlook,
                experts: knowledge.imatrix.as_ref().and_then(Imatrix::coverage),
                guard,
                rounds,
                steps: clock.laps,
            });
        }
        unreachable!("the last attempt returns")
    }

    fn plan(&self, analysis: &Analysis, target: &Target) -> Result<(Plan, Option<Outlook>)> {
        let (plan, outlook) = solve_for(analysis, target, &self.constraints, self.objective)?;
        let most = (self.model.hparams.n_vocab as f64).ln();
        if let Some(kld) = plan.predicted_kld.filter(|kld| *kld > most) {
            log::warn!(
                "the plan's predicted KL of {kld:.2} nats is more than a model without any knowledge has ({most:.2}): predictions do not \
                 hold so far from the original"
            );
        }
        Ok((plan, outlook))
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
        let Knowledge { imatrix, sensitivities, provenance, key, .. } = knowledge;
        let metadata = output_metadata(self.model, imatrix.as_ref(), provenance, Some(&plan));
        let chunks = self.calibration.prefix(self.rounding_chunks());
        let key =
            key.clone().with("plan", &plan.hash).with("rounding", (method, chunks.len(), self.memory.moments_budget));
        let is_rounded = imatrix.is_some() && method != Method::PLAIN;
        let kept = if is_rounded { self.checkpoints.rounded(&key) } else { None };
        let rounding = RoundingInputs {
            method,
            chunks: &chunks,
            sensitivities: sensitivities.as_ref(),
            memory: self.memory,
            kept: kept.as_ref(),
        };
        let rounding = is_rounded.then_some((self.model, &rounding));
        let inputs =
            FileInputs { weights: self.model, plan: &plan, imatrix: imatrix.as_ref(), rounding, metadata: &metadata };
        let writer = write(self.device, &inputs, output, progress)?;
        Ok(Draft { plan, writer })
    }

    /// The first chunks of the calibration text, which rounding sees. A long text leaves what is measured on for itself.
    pub(super) fn rounding_chunks(&self) -> usize {
        let ctx = self.calibration.ctx;
        let unseen = if self.rounds > 0 { TUNING_TOKENS } else { GUARD_TOKENS };
        let most = self.calibration.len().saturating_sub(unseen / ctx).max(HESSIAN_TOKENS / ctx);
        (self.rounding_tokens / ctx).clamp(1, most.max(1))
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
        let chunks = self.calibration.after(self.rounding_chunks(), TUNING_TOKENS / ctx);
        if self.rounds == 0 {
            return Ok(rounds);
        }
        if chunks.len() < 2 {
            log::warn!("--rounds: no calibration text is left to measure on, so the plan stays as it is");
            return Ok(rounds);
        }
        let stream = Stream::new(self.device, self.model, &chunks.tokens, ctx, self.memory)?;
        let tuning = Tuning { reference: Reference::new(&stream, &chunks, progress)? };
        let expected = |measured: &[TokenRecord]| mean_as_in(measured, &chunks.domains, self.heldout);
        let mut measured = tuning.measure(draft.writer.readable()?, None, progress)?;
        for _ in 0..self.rounds {
            let analysis = &knowledge.analysis;
            let corrections = tuning.corrections(draft.writer.readable()?, &draft.plan, analysis, progress)?;
            draft.plan = repredicted(&draft.plan, analysis, &corrections)?.scaled_to(expected(&measured));
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
            let plan = trial.plan.scaled_to(expected(&trial_measured));
            (*draft, measured) = (Draft { plan, ..trial }, trial_measured);
        }
        Ok(rounds)
    }

    /// Refuses what no plan can meet before anything is measured. The stand-in for the importance matrix makes metadata of
    /// the very size of the file's.
    fn check_goals(&self, outputs: &[PathBuf]) -> Result<()> {
        let provenance = self.provenance();
        let unmeasured = Imatrix { datasets: vec![self.dataset.to_string()], ..Default::default() };
        let imatrix = self.imatrix.as_ref().map_or(&unmeasured, |(imatrix, _)| imatrix);
        let metadata = output_metadata(self.model, Some(imatrix), &provenance, None);
        let bare = bare_analysis(self.model, &metadata, "")?;
        check_targets(&bare, self.goals, &self.constraints, self.types, outputs)
    }

    pub(super) fn provenance(&self) -> Provenance {
        Provenance {
            imatrix_name: self.imatrix.as_ref().map_or(self.dataset, |(_, name)| name).to_string(),
            calibration_hash: self.calibration.hash.clone(),
            is_conversion: is_conversion(self.goals, &self.constraints),
            heldout_hash: Some(self.heldout.hash.clone()),
        }
    }

    fn measure(&self, written: &Path, progress: &dyn Progress) -> Result<Report> {
        let quant = Model::open(written).context("the written file cannot be read back")?;
        let divergence =
            prove(self.device, self.model, &quant, self.heldout, Scoring::SecondHalf, self.memory, progress)?;
        super::prove::report(&divergence, self.heldout)
    }
}

/// Whether no goal encodes anything by importance.
pub(super) fn is_conversion(goals: &[Goal], constraints: &Constraints) -> bool {
    !goals.iter().any(|goal| goal.needs_importance(&constraints.rules))
}

/// The targets among goals.
pub(super) fn targets(goals: &[Goal]) -> impl Iterator<Item = &Target> {
    goals.iter().filter_map(|goal| match goal {
        Goal::Target(target) => Some(target),
        Goal::Plan(_) => None,
    })
}

/// Refuses targets that no plan of these types can meet, and files for which there is no room.
pub(super) fn check_targets(
    bare: &Analysis,
    goals: &[Goal],
    constraints: &Constraints,
    types: &[GgmlType],
    outputs: &[PathBuf],
) -> Result<()> {
    targets(goals).try_for_each(|target| check_budget(bare, target, constraints, types))?;
    let least = targets(goals).map(|target| least_bytes(bare, target, constraints, types));
    check_room(outputs.iter().zip(least.collect::<Result<Vec<_>>>()?))
}

/// The types that any of the targets may use.
pub(super) fn considered(
    bare: &Analysis,
    goals: &[Goal],
    constraints: &Constraints,
    types: &[GgmlType],
) -> Vec<GgmlType> {
    let considered: Vec<_> = targets(goals).map(|target| constraints.for_target(target, bare)).collect();
    let is_considered = |ty: &GgmlType| considered.iter().any(|constraints| constraints.is_considered(*ty));
    types.iter().copied().filter(is_considered).collect()
}

/// Refuses types that need importance data for tensors that have none.
pub(super) fn check_importance(plan: &Plan, imatrix: Option<&Imatrix>, name: &str) -> Result<()> {
    // only of the mixture itself: a plan may be near one by chance
    let ftype = if let Target::Type(ftype) = plan.target { ftype } else { Ftype::F16 };
    let has_data = |name: &String| imatrix.is_some_and(|imatrix| imatrix.mean2(name).is_some());
    let is_blind = |name: &str, ty| needs_imatrix(name, ty, ftype) && !importance_names(name).iter().any(has_data);
    let blind: Vec<&str> =
        plan.tensors.iter().filter(|(name, to)| is_blind(name, to.ty)).map(|(name, _)| name.as_str()).collect();
    let Some(first) = blind.first() else { return Ok(()) };
    let (count, ty, blind) = (blind.len(), plan.tensors[*first].ty, listing(&blind));
    match imatrix {
        Some(_) => bail!(
            "the importance matrix has no data for {count} tensors that are to have a type which needs it, such as {ty}: {blind} (`{name}`)"
        ),
        None => bail!(
            "there is no importance matrix (--imatrix) for {count} tensors that are to have a type which needs it, such as {ty}: {blind}"
        ),
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
