//! `dq-gpu plan`: an analysis and a target become a plan, in seconds and without a GPU.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueHint};

use super::Global;
use super::common::{self, KeepArgs, TypeArgs};
use super::objective::ObjectiveArgs;
use super::output::{Printer, TypeShare};
use super::outputs;
use super::plan_report::PlanReport;
use super::target::{self, TargetArgs, VramArgs, Wanted};
use crate::plan::{Analysis, Target, report, solve_for};
use crate::whole_file::write_whole;

const EXAMPLES: &str = "\
Examples:
  dq-gpu plan qwen3-8b.analysis.json --size 4.7GiB -o plan.json
  dq-gpu plan qwen3-8b.analysis.json --bpw 4.5 --types Q4_K,Q5_K,Q6_K -o plan.json
  dq-gpu plan qwen3-8b.analysis.json --max-kld 0.02 --keep 'token_embd=Q6_K' -o plan.json
  dq-gpu plan qwen3-8b.analysis.json --vram 8GiB --ctx 16384 -o plan.json
  dq-gpu plan qwen3-8b.analysis.json --bpw 2.5,3,3.5,4,5,6 -o plan-{target}.json
  dq-gpu plan qwen3-8b.analysis.json --type Q4_K_M -o plan.json --tensor-types types.txt";

/// Choose a type for every tensor: the lowest KL divergence for the bytes, from an analysis.
///
/// `dq-gpu quantize --plan` writes the model, or `llama-quantize --tensor-type-file` with the file of --tensor-types.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, mut_arg("vram_ctx", |arg| arg.visible_alias("ctx")))]
pub struct PlanArgs {
    /// What `dq-gpu analyze` wrote
    #[arg(value_hint = ValueHint::FilePath)]
    pub analysis: PathBuf,
    /// The plan to write; {target} in its name stands for the target. For several targets such a name, or a folder
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Also write the types as a file for `llama-quantize --tensor-type-file`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tensor_types: Option<PathBuf>,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub vram: VramArgs,
    #[command(flatten)]
    pub types: TypeArgs,
    #[command(flatten)]
    pub keep: KeepArgs,
    #[command(flatten)]
    pub objective: ObjectiveArgs,
}

pub fn run(args: &PlanArgs, global: &Global) -> Result<()> {
    common::require("GGUF", &args.target.like)?;
    let wanted = args.target.wanted();
    let labels: Vec<String> = wanted.iter().map(Wanted::label).collect();
    let name = target::stem(&args.analysis);
    let name = name.strip_suffix(".analysis").unwrap_or(&name);
    let plans = target::outputs(&args.output, &labels, name, "plan.json")?;
    let tensor_types = match &args.tensor_types {
        Some(path) => target::outputs(path, &labels, name, "txt")?,
        None => Vec::new(),
    };
    target::distinct(plans.iter().chain(&tensor_types))?;
    let files: Vec<PathBuf> = plans.iter().chain(&tensor_types).cloned().collect();
    outputs::check(&files, [&args.analysis].into_iter().chain(&args.target.like))?;
    let analysis = Analysis::read(&args.analysis)?;
    let mut printer = Printer::new(global);
    for (place, (wanted, output)) in wanted.iter().zip(plans).enumerate() {
        let target = wanted.resolve(&args.vram, analysis.shape.run.as_ref())?;
        let report = plan(args, &analysis, &target, output, tensor_types.get(place).cloned())?;
        if place > 0 {
            printer.part();
        }
        printer.print(&report);
    }
    printer.end()
}

fn plan(
    args: &PlanArgs,
    analysis: &Analysis,
    target: &Target,
    output: PathBuf,
    tensor_types: Option<PathBuf>,
) -> Result<PlanReport> {
    // an analysis of real activations is importance data
    let has_imatrix = !analysis.calibration_hash.is_empty();
    let constraints = common::constraints(&args.types, &args.keep, has_imatrix);
    let objective = args.objective.objective();
    let (plan, outlook) = solve_for(analysis, target, &constraints, objective)?;
    if let Some(path) = &tensor_types {
        write_text(path, &plan.to_tensor_types()?)?;
    }
    plan.write(&output)?;
    let [less, more] = report::neighbours(analysis, &plan, &constraints, objective);
    Ok(PlanReport {
        output,
        tensor_types,
        bytes: plan.bytes,
        bpw: plan.bpw,
        predicted_kld: plan.predicted_kld,
        objective: outlook,
        types: TypeShare::list(&plan.types()),
        groups: report::groups(analysis, &plan),
        worst: report::worst(&plan),
        less,
        more,
        fallbacks: plan.fallbacks,
    })
}

/// Writes a file that gets its name only when complete.
fn write_text(path: &Path, text: &str) -> Result<()> {
    let written = write_whole(path, |file| Ok(file.write_all(text.as_bytes())?));
    written.with_context(|| format!("cannot write the file: `{}`", path.display()))
}
