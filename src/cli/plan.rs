//! `dq-gpu plan`: an analysis and a target become a plan, in seconds and without a GPU.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueHint};

use super::Global;
use super::common::{self, KeepArgs, TargetArgs, TypeArgs};
use super::output::{self, PlanReport, TypeShare};
use crate::plan::{Analysis, solve_near};

const EXAMPLES: &str = "\
Examples:
  dq-gpu plan qwen3-8b.analysis.json --size 4.7GiB -o plan.json
  dq-gpu plan qwen3-8b.analysis.json --bpw 4.5 --types Q4_K,Q5_K,Q6_K -o plan.json
  dq-gpu plan qwen3-8b.analysis.json --max-kld 0.02 --keep 'token_embd=Q6_K' -o plan.json
  dq-gpu plan qwen3-8b.analysis.json --type Q4_K_M -o plan.json --tensor-types types.txt";

/// Choose a type for every tensor: the lowest KL divergence for the bytes, from an analysis.
///
/// `dq-gpu quantize --plan` writes the model, or `llama-quantize --tensor-type-file` with the file of --tensor-types.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct PlanArgs {
    /// What `dq-gpu analyze` wrote
    #[arg(value_hint = ValueHint::FilePath)]
    pub analysis: PathBuf,
    /// The plan to write
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Also write the types as a file for `llama-quantize --tensor-type-file`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tensor_types: Option<PathBuf>,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub types: TypeArgs,
    #[command(flatten)]
    pub keep: KeepArgs,
}

pub fn run(args: &PlanArgs, global: &Global) -> Result<()> {
    for output in [&args.output].into_iter().chain(&args.tensor_types) {
        common::check_output(output, [&args.analysis])?;
    }
    ensure!(
        args.tensor_types.as_ref() != Some(&args.output),
        "two outputs have the same name: `{}`",
        args.output.display()
    );
    let target = args.target.target().context("a target is missing")?;
    let analysis = Analysis::read(&args.analysis)?;
    // an analysis of real activations is importance data
    let has_imatrix = !analysis.calibration_hash.is_empty();
    let plan = solve_near(&analysis, &target, &common::constraints(&args.types, &args.keep, has_imatrix))?;
    if let Some(path) = &args.tensor_types {
        write_text(path, &plan.to_tensor_types()?)?;
    }
    plan.write(&args.output)?;
    let report = PlanReport {
        output: args.output.clone(),
        tensor_types: args.tensor_types.clone(),
        bytes: plan.bytes,
        bpw: plan.bpw,
        predicted_kld: plan.predicted_kld,
        types: TypeShare::list(&plan.types()),
        fallbacks: plan.fallbacks,
    };
    output::print(global, &report)
}

/// Writes a file that gets its name only when complete.
fn write_text(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write the file: `{}`", path.display()))
}
