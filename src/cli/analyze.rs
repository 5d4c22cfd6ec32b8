//! `dq-gpu analyze`: what every type would cost every tensor.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueHint};

use super::Global;
use super::common::{self, CalibrationArgs, DeviceArgs, MixArgs, TypeArgs, WorkArgs};
use super::objective::SensitivityArgs;
use super::output::{self, AnalyzeReport};
use super::outputs;
use super::progress::Bars;
use super::rounding::RoundingArgs;
use super::text::Reader;
use crate::pipeline::quantize::{Clock, Goal, Job};
use crate::plan::{Constraints, Objective, Target};
use crate::source::Model;

const EXAMPLES: &str = "\
Examples:
  dq-gpu analyze ./Qwen3-8B -o qwen3-8b.analysis.json
  dq-gpu analyze ./Qwen3-8B --imatrix qwen3-8b.imatrix.gguf -o qwen3-8b.analysis.json
  dq-gpu analyze ./Qwen3-8B --probes -o qwen3-8b.analysis.json
  dq-gpu analyze ./Qwen3-8B --types Q3_K,Q4_K,Q5_K,Q6_K --calibration chats.jsonl -o qwen3-8b.analysis.json";

/// Measure the error of every type for every tensor, and what it costs in KL divergence.
///
/// One analysis serves any number of plans: see `dq-gpu plan`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct AnalyzeArgs {
    /// A Hugging Face folder, or a GGUF (of a split model, any of its files)
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// The analysis to write
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    #[command(flatten)]
    pub types: TypeArgs,
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
    pub sensitivity: SensitivityArgs,
    /// Also keep what errors of each group of tensors do to each token, for `plan --objective`
    #[arg(long, help_heading = "Planning")]
    pub probes: bool,
    #[command(flatten)]
    pub rounding: RoundingArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub work: WorkArgs,
}

pub fn run(args: &AnalyzeArgs, global: &Global) -> Result<()> {
    common::require("model", [&args.model])?;
    common::require("importance matrix", &args.imatrix)?;
    common::require("calibration text", &args.text.calibration)?;
    let inputs = [&args.model].into_iter().chain(&args.imatrix).chain(&args.text.calibration);
    let output = std::slice::from_ref(&args.output);
    outputs::check(output, inputs)?;
    outputs::check_folder(output, args.work.work.as_deref())?;
    let bars = global.bars();
    let report = work(args, &bars)?;
    drop(bars);
    output::print(global, &report)
}

fn work(args: &AnalyzeArgs, bars: &Bars) -> Result<AnalyzeReport> {
    let device = args.device.open()?;
    let model = Model::open(&args.model)?;
    if let Some(types) = model.quantized_types() {
        log::warn!(
            "the model is quantized already ({types}), and errors are measured against it: `{}`",
            model.path.display()
        );
    }
    let reader = Reader::new(&model, bars)?;
    let (calibration, dataset) = reader.mixed_calibration(&args.text, &args.mix)?;
    let heldout = reader.held_out(args.text.ctx, args.text.chunks)?;
    drop(reader);
    let types = args.types.candidates(&model, &[]);
    let job = Job {
        device: &device,
        model: &model,
        calibration: &calibration,
        dataset: &dataset,
        imatrix: common::read_imatrix(args.imatrix.as_deref())?,
        heldout: &heldout,
        types: &types,
        constraints: Constraints::default(),
        // any goal that needs the whole analysis: the job ends before it plans
        goals: &[Goal::Target(Target::MaxKld(0.0))],
        seed: args.seed,
        sensitivity: args.sensitivity.way(),
        objective: Objective::Mean,
        probes: args.probes,
        rounding: args.rounding.method(),
        rounding_tokens: args.rounding.effort().tokens(),
        rounds: 0,
        memory: args.device.memory(),
        checkpoints: &args.work.checkpoints()?,
    };
    let analysis = job.learn(&mut Clock::default(), bars)?.analysis;
    analysis.write(&args.output)?;
    Ok(AnalyzeReport {
        output: args.output.clone(),
        tensors: analysis.quantizable().count(),
        types,
        sensitivity: analysis.sensitivity,
        device: device.name(),
        seconds: bars.steps(),
    })
}
