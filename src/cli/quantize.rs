//! `dq-gpu quantize`: the whole job.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueHint};

use super::Global;
use super::common::{self, CalibrationArgs, DeviceArgs, KeepArgs, MixArgs, TypeArgs, WorkArgs};
use super::domains::DomainShare;
use super::objective::{ObjectiveArgs, SensitivityArgs};
use super::output::{Printer, StepTime, TypeShare};
use super::outputs;
use super::progress::Bars;
use super::quantize_report::{Ladder, QuantizeReport};
use super::rounding::RoundingArgs;
use super::target::{self, TargetArgs, VramArgs, Wanted};
use super::text::Reader;
use super::unproven;
use crate::device::Device;
use crate::gguf::GgufFile;
use crate::pipeline::quantize::{Goal, Job, Outcome};
use crate::plan::{Plan, RunShape};
use crate::source::{Model, Opened, folder_name};

const EXAMPLES: &str = "\
Examples:
  dq-gpu quantize ./Qwen3-8B --size 4.7GiB -o qwen3-8b.gguf
  dq-gpu quantize ./Qwen3-8B --bpw 4.5 --keep 'token_embd=Q6_K'
  dq-gpu quantize ./Qwen3-8B --max-kld 0.02 --profile apple
  dq-gpu quantize ./Qwen3-8B --vram 8GiB --vram-ctx 16384
  dq-gpu quantize ./Qwen3-8B --like other/qwen3-8b-Q4_K_M.gguf -o qwen3-8b.gguf
  dq-gpu quantize ./Qwen3-8B --bpw 2.5,3,3.5,4,5,6 -o ladder/{target}.gguf
  dq-gpu quantize qwen3-8b-bf16.gguf --type Q4_K_M --imatrix qwen3-8b.imatrix.gguf
  dq-gpu quantize ./Qwen3-8B --plan plan.json --device cpu";

/// Turn a model into the best GGUF of a given size: measure, plan, write, and prove.
///
/// The model is read once to learn how its layers are used, every tensor is tried in every type, the planner gives each
/// the type that buys the lowest KL divergence for the bytes, and the written file is measured against the original.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct QuantizeArgs {
    /// A Hugging Face folder, or a GGUF (of a split model, any of its files). Of an architecture without a forward pass here, types are
    /// chosen by rule or by the errors of the weights alone, and the file is not proven
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// The GGUF to write; {target} in its name stands for the target. For several targets such a name, or a folder
    /// [default: the model's name and the target, in the current folder]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub vram: VramArgs,
    /// The types in a plan file (see `dq-gpu plan`)
    #[arg(long, value_name = "FILE", group = "target", conflicts_with_all = ["types", "profile", "keep", "objective"])]
    #[arg(help_heading = target::HEADING, value_hint = ValueHint::FilePath)]
    pub plan: Option<PathBuf>,
    #[command(flatten)]
    pub types: TypeArgs,
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Quantize a model again that is quantized already: the result is worse than from the original, and its KL is measured against
    /// the quantized model
    #[arg(long, help_heading = "Types")]
    pub allow_requantize: bool,
    #[command(flatten)]
    pub text: CalibrationArgs,
    #[command(flatten)]
    pub mix: MixArgs,
    /// Importance matrix, ours or llama.cpp's, instead of one made from the calibration text
    #[arg(long, value_name = "FILE", help_heading = "Text", value_hint = ValueHint::FilePath)]
    pub imatrix: Option<PathBuf>,
    /// Seed of everything random
    #[arg(long, value_name = "N", help_heading = "Text", default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    #[command(flatten)]
    pub sensitivity: SensitivityArgs,
    #[command(flatten)]
    pub rounding: RoundingArgs,
    /// Times that the plan is moved after its file was measured, while that lowers the KL [default: 0, or 2 with --effort max]
    #[arg(long, value_name = "N", help_heading = "Rounding")]
    pub rounds: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub work: WorkArgs,
}

pub fn run(args: &QuantizeArgs, global: &Global) -> Result<()> {
    common::require("model", [&args.model])?;
    common::require("importance matrix", &args.imatrix)?;
    common::require("plan", &args.plan)?;
    common::require("GGUF", &args.target.like)?;
    common::require("calibration text", &args.text.calibration)?;
    let wanted = args.target.wanted();
    let files = output_files(args, &wanted)?;
    let inputs = [&args.model].into_iter().chain(&args.imatrix).chain(&args.plan).chain(&args.target.like);
    outputs::check(&files, inputs.chain(&args.text.calibration))?;
    outputs::check_folder(&files, args.work.work.as_deref())?;
    let bars = global.bars();
    let mut printer = Printer::new(global);
    let reports = work(args, &wanted, &files, &bars, &mut printer)?;
    drop(bars);
    if reports.len() > 1 && !global.json {
        printer.print(&Ladder(reports));
    }
    printer.end()
}

/// Makes all files, and prints the report of each as soon as it is there.
fn work(
    args: &QuantizeArgs,
    wanted: &[Wanted],
    files: &[PathBuf],
    bars: &Bars,
    printer: &mut Printer,
) -> Result<Vec<QuantizeReport>> {
    let device = args.device.open()?;
    let opened = Opened::open(&args.model)?;
    if let Opened::Weights(weights) = &opened {
        unproven::check(args, weights)?;
    }
    let goals = goals(args, wanted, &opened)?;
    let is_conversion = goals.iter().all(|goal| !goal.needs_importance(&args.keep.keep));
    let quantized_source = opened.weights().quantized_types().filter(|_| !is_conversion);
    if let Some(types) = quantized_source.as_ref().filter(|_| !args.allow_requantize) {
        bail!(
            "the model is quantized already ({types}): quantize the model that it was made from, or pass --allow-requantize: `{}`",
            args.model.display()
        );
    }
    let not_proven = match &opened {
        Opened::Model(_) => None,
        Opened::Weights(weights) => Some(unproven::note(args, weights, &goals, is_conversion)),
    };
    let mut reports: Vec<QuantizeReport> = Vec::new();
    let mut done = |outcome: Outcome| {
        let report = report(outcome, device.name(), quantized_source.clone(), not_proven.clone())?;
        // no bar is left when the result appears
        bars.part();
        printer.print(&report);
        if files.len() > 1 {
            printer.part();
        }
        reports.push(report);
        Ok(())
    };
    match &opened {
        Opened::Model(model) => prove(args, &device, model, &goals, files, bars, &mut done)?,
        Opened::Weights(weights) => unproven::run(args, &device, weights, &goals, files, bars, &mut done)?,
    }
    Ok(reports)
}

/// The whole job.
fn prove(
    args: &QuantizeArgs,
    device: &Device,
    model: &Model,
    goals: &[Goal],
    files: &[PathBuf],
    bars: &Bars,
    done: &mut dyn FnMut(Outcome) -> Result<()>,
) -> Result<()> {
    let reader = Reader::new(model, bars)?;
    let (calibration, dataset) = reader.mixed_calibration(&args.text, &args.mix)?;
    let heldout = reader.held_out(args.text.ctx, args.text.chunks)?;
    drop(reader);
    let job = Job {
        device,
        model,
        calibration: &calibration,
        dataset: &dataset,
        imatrix: common::read_imatrix(args.imatrix.as_deref())?,
        heldout: &heldout,
        types: &args.types.candidates(model, &args.keep.keep),
        constraints: common::constraints(&args.types, &args.keep, true),
        goals,
        seed: args.seed,
        sensitivity: args.sensitivity.way(),
        objective: args.objective.objective(),
        probes: false,
        rounding: args.rounding.method(),
        rounding_tokens: args.rounding.effort().tokens(),
        rounds: args.rounds.unwrap_or_else(|| args.rounding.effort().rounds()),
        memory: args.device.memory(),
        checkpoints: &args.work.checkpoints()?,
    };
    job.run(files, bars, done)
}

fn report(
    outcome: Outcome,
    device: String,
    quantized_source: Option<String>,
    not_proven: Option<String>,
) -> Result<QuantizeReport> {
    let measured = outcome.report.as_ref().map(|report| &report.all);
    Ok(QuantizeReport {
        bytes: outcome.bytes,
        bpw: outcome.plan.bpw,
        predicted_kld: outcome.plan.predicted_kld,
        measured_kld: measured.map(|all| all.mean_kld),
        measured_kld_se: measured.map(|all| all.mean_kld_se),
        same_top: measured.map(|all| all.same_top),
        tokens: measured.map(|all| all.tokens),
        not_proven,
        domains: outcome.report.as_ref().map(DomainShare::list).unwrap_or_default(),
        sensitivity: outcome.sensitivity,
        objective: outcome.outlook,
        device,
        experts: outcome.experts,
        quantized_source,
        rounding: outcome.guard,
        rounds: outcome.rounds,
        seconds: outcome.steps.into_iter().map(|(step, seconds)| StepTime { step, seconds }).collect(),
        types: TypeShare::of_file(&GgufFile::open(&outcome.output)?.summary()),
        fallbacks: outcome.plan.fallbacks,
        output: outcome.output,
    })
}

fn goals(args: &QuantizeArgs, wanted: &[Wanted], opened: &Opened) -> Result<Vec<Goal>> {
    if let Some(path) = args.plan.clone() {
        return Ok(vec![Goal::Plan(Box::new(move |analysis| Plan::read(&path, analysis)))]);
    }
    let run = match opened {
        Opened::Model(model) => Some(RunShape::of(&model.hparams)),
        Opened::Weights(_) => None,
    };
    wanted.iter().map(|wanted| Ok(Goal::Target(wanted.resolve(&args.vram, run.as_ref())?))).collect()
}

/// A file for each target; without `--output`, `<model>-<target>.gguf` in the current folder.
fn output_files(args: &QuantizeArgs, wanted: &[Wanted]) -> Result<Vec<PathBuf>> {
    let labels: Vec<String> = match &args.plan {
        Some(plan) => vec![plan.file_stem().context("the plan has no file name")?.to_string_lossy().into_owned()],
        None => wanted.iter().map(Wanted::label).collect(),
    };
    let name = model_name(&args.model)?;
    match &args.output {
        Some(output) => target::outputs(output, &labels, &name, "gguf"),
        None => target::outputs(format!("{name}-{{target}}.gguf").as_ref(), &labels, &name, "gguf"),
    }
}

/// Name of the folder, or of the file without its ending and split number.
fn model_name(model: &Path) -> Result<String> {
    let shown = || format!("cannot find the name of the model: `{}`", model.display());
    // `.` and `..` have a name only when resolved
    let path = model.canonicalize().with_context(shown)?;
    if path.is_dir() {
        return folder_name(&path).with_context(shown);
    }
    Ok(target::stem(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name_tells_the_model() {
        let folder = tempfile::Builder::new().prefix("Qwen3-8B").tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy();
        assert_eq!(model_name(&folder.path().join(".")).unwrap(), name);
        let split = folder.path().join("qwen-00001-of-00003.gguf");
        std::fs::write(&split, "").unwrap();
        assert_eq!(model_name(&split).unwrap(), "qwen");
    }
}
