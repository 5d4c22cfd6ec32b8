//! `dq-gpu quantize`: the whole job.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum, ValueHint};

use super::common::{self, CalibrationArgs, DeviceArgs, KeepArgs, TargetArgs, TypeArgs};
use super::output::{self, QuantizeReport, StepTime, TypeShare};
use super::progress::Bars;
use super::text::Reader;
use super::{Global, table};
use crate::gguf::{GgufFile, SplitName};
use crate::pipeline::quantize::{Goal, Job};
use crate::plan::{Plan, Target};
use crate::rounding::Method;
use crate::source::Model;

const EXAMPLES: &str = "\
Examples:
  dq-gpu quantize ./Qwen3-8B --size 4.7GiB -o qwen3-8b.gguf
  dq-gpu quantize ./Qwen3-8B --bpw 4.5 --keep 'token_embd=Q6_K'
  dq-gpu quantize ./Qwen3-8B --max-kld 0.02 --profile apple
  dq-gpu quantize qwen3-8b-bf16.gguf --type Q4_K_M --imatrix qwen3-8b.imatrix.gguf
  dq-gpu quantize ./Qwen3-8B --plan plan.json --device cpu";

/// Turn a model into the best GGUF of a given size: measure, plan, write, and prove.
///
/// The model is read once to learn how its layers are used, every tensor is tried in every type, the planner gives each
/// the type that buys the lowest KL divergence for the bytes, and the written file is measured against the original.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct QuantizeArgs {
    /// A Hugging Face folder, or a GGUF (of a split model, any of its files)
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// The GGUF to write [default: the model's name and the target, in the current folder]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub target: TargetArgs,
    /// The types in a plan file (see `dq-gpu plan`)
    #[arg(long, value_name = "FILE", group = "target", conflicts_with_all = ["types", "profile", "keep"])]
    #[arg(help_heading = "Target (exactly one)", value_hint = ValueHint::FilePath)]
    pub plan: Option<PathBuf>,
    #[command(flatten)]
    pub types: TypeArgs,
    #[command(flatten)]
    pub keep: KeepArgs,
    #[command(flatten)]
    pub text: CalibrationArgs,
    /// Importance matrix, ours or llama.cpp's, instead of one made from the calibration text
    #[arg(long, value_name = "FILE", help_heading = "Text", value_hint = ValueHint::FilePath)]
    pub imatrix: Option<PathBuf>,
    /// Seed of everything random
    #[arg(long, value_name = "N", help_heading = "Text", default_value_t = 0)]
    pub seed: u64,
    /// search: every block for itself; feedback: the columns of a matrix make good each other's errors
    #[arg(long, value_enum, default_value_t, help_heading = "Rounding")]
    pub rounding: Rounding,
    /// How long to look for better codes
    #[arg(long, value_enum, default_value_t, help_heading = "Rounding")]
    pub effort: Effort,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Rounding {
    Search,
    #[default]
    Feedback,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Effort {
    Fast,
    #[default]
    Normal,
    Max,
}

/// What the two options mean together.
fn method(rounding: Rounding, effort: Effort) -> Method {
    let feedback = matches!(rounding, Rounding::Feedback);
    let descents = match effort {
        Effort::Fast => 0,
        Effort::Normal => 1,
        Effort::Max => 4,
    };
    Method { feedback, descents }
}

pub fn run(args: &QuantizeArgs, global: &Global) -> Result<()> {
    common::require("model", [&args.model])?;
    common::require("importance matrix", &args.imatrix)?;
    common::require("plan", &args.plan)?;
    common::require("calibration text", &args.text.calibration)?;
    let file = match &args.output {
        Some(path) => path.clone(),
        None => default_output(args)?,
    };
    let inputs = [&args.model].into_iter().chain(&args.imatrix).chain(&args.plan).chain(&args.text.calibration);
    common::check_output(&file, inputs)?;
    let bars = global.bars()?;
    let report = work(args, &file, &bars)?;
    // the last step's bar is gone before the result appears
    drop(bars);
    output::print(global, &report)
}

fn work(args: &QuantizeArgs, file: &Path, bars: &Bars) -> Result<QuantizeReport> {
    let device = args.device.open()?;
    let model = Model::open(&args.model)?;
    let reader = Reader::new(&model)?;
    let (calibration, dataset) = reader.calibration(&args.text.calibration, args.text.ctx, args.text.chunks)?;
    let heldout = reader.held_out(args.text.ctx, args.text.chunks)?;
    let job = Job {
        device: &device,
        model: &model,
        calibration: &calibration,
        dataset: &dataset,
        imatrix: common::read_imatrix(args.imatrix.as_deref())?,
        heldout: &heldout,
        types: &args.types.candidates(&model, &args.keep.keep),
        constraints: common::constraints(&args.types, &args.keep, true),
        goal: goal(args),
        seed: args.seed,
        rounding: method(args.rounding, args.effort),
        memory: args.device.memory(),
        output: file,
    };
    let outcome = job.run(bars)?;
    Ok(QuantizeReport {
        output: file.to_owned(),
        bytes: outcome.bytes,
        bpw: outcome.plan.bpw,
        predicted_kld: outcome.plan.predicted_kld,
        measured_kld: outcome.report.all.mean_kld,
        measured_kld_se: outcome.report.all.mean_kld_se,
        same_top: outcome.report.all.same_top,
        tokens: outcome.report.all.tokens,
        device: device.name(),
        seconds: outcome.steps.into_iter().map(|(step, seconds)| StepTime { step, seconds }).collect(),
        types: TypeShare::of_file(&GgufFile::open(file)?.summary()),
        fallbacks: outcome.plan.fallbacks,
    })
}

fn goal(args: &QuantizeArgs) -> Goal {
    match (args.target.target(), args.plan.clone()) {
        (Some(target), _) => Goal::Target(target),
        (None, Some(path)) => Goal::Plan(Box::new(move |analysis| Plan::read(&path, analysis))),
        (None, None) => unreachable!("clap asks for a target"),
    }
}

/// `<model>-<target>.gguf` in the current folder.
fn default_output(args: &QuantizeArgs) -> Result<PathBuf> {
    let target = match (args.target.target(), &args.plan) {
        (Some(target), _) => target_label(target),
        (None, Some(plan)) => plan.file_stem().context("the plan has no file name")?.to_string_lossy().into_owned(),
        (None, None) => unreachable!("clap asks for a target"),
    };
    Ok(format!("{}-{target}.gguf", model_name(&args.model)?).into())
}

/// Name of the folder, or of the file without its ending and split number.
fn model_name(model: &Path) -> Result<String> {
    let shown = || format!("cannot find the name of the model: `{}`", model.display());
    // `.` and `..` have a name only when resolved
    let path = model.canonicalize().with_context(shown)?;
    if path.is_dir() {
        return Ok(path.file_name().with_context(shown)?.to_string_lossy().into_owned());
    }
    let stem = path.file_stem().with_context(shown)?.to_string_lossy().into_owned();
    match SplitName::parse(&path) {
        Some(split) => {
            let ending = format!("-{:05}-of-{:05}", split.number, split.count);
            Ok(stem.strip_suffix(&ending).unwrap_or(&stem).to_owned())
        }
        None => Ok(stem),
    }
}

fn target_label(target: Target) -> String {
    match target {
        Target::Size(size) => table::bytes(size).replace(' ', ""),
        Target::Bpw(bits) => format!("{bits}bpw"),
        Target::MaxKld(nats) => format!("kld{nats}"),
        Target::Type(mix) => mix.name().to_owned(),
        Target::Pure(ty) => ty.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Ftype;
    use crate::quant::GgmlType;

    #[test]
    fn the_default_name_tells_model_and_target() {
        let labels = [
            Target::Size(5_046_586_572),
            Target::Bpw(4.5),
            Target::MaxKld(0.02),
            Target::Type(Ftype::Q4_K_M),
            Target::Pure(GgmlType::IQ4_XS),
        ];
        assert_eq!(labels.map(target_label), ["4.70GiB", "4.5bpw", "kld0.02", "Q4_K_M", "IQ4_XS"]);
        let folder = tempfile::Builder::new().prefix("Qwen3-8B").tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy();
        assert_eq!(model_name(&folder.path().join(".")).unwrap(), name);
        let split = folder.path().join("qwen-00001-of-00003.gguf");
        std::fs::write(&split, "").unwrap();
        assert_eq!(model_name(&split).unwrap(), "qwen");
    }
}
