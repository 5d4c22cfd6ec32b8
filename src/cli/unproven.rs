//! `dq-gpu quantize` on a GGUF of an architecture that has no forward pass here: what it cannot do, and what it says of its files.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::common;
use super::progress::Bars;
use super::quantize::QuantizeArgs;
use super::rounding::{Effort, PrefixArg, Rounding};
use crate::device::Device;
use crate::imatrix::fit::needs_importance;
use crate::pipeline::quantize::{Goal, Outcome};
use crate::pipeline::unproven::{Unproven, no_forward_pass};
use crate::quant::GgmlType;
use crate::source::Weights;

/// Refuses what was asked for in so many words and cannot be had.
pub fn check(args: &QuantizeArgs, weights: &Weights) -> Result<()> {
    let rounding = &args.rounding;
    let asked = [
        ("--max-kld", !args.target.max_kld.is_empty()),
        ("--vram", !args.target.vram.is_empty()),
        ("--calibration", !args.text.calibration.is_empty()),
        ("--objective", args.objective.objective.is_some()),
        ("--sensitivity", args.sensitivity.sensitivity.is_some()),
        ("--rounding feedback", rounding.rounding == Some(Rounding::Feedback)),
        ("--effort normal", rounding.effort == Some(Effort::Normal)),
        ("--effort max", rounding.effort == Some(Effort::Max)),
        ("--prefix quantized", rounding.prefix == Some(PrefixArg::Quantized)),
        ("--rounds", args.rounds.is_some_and(|rounds| rounds > 0)),
    ];
    let why = no_forward_pass(weights.architecture());
    if let Some((option, _)) = asked.into_iter().find(|(_, is_asked)| *is_asked) {
        bail!("{option} needs the model to be run, and {why}: `{}`", args.model.display());
    }
    let listed: Vec<GgmlType> = args.types.types.iter().flatten().copied().filter(|ty| needs_importance(*ty)).collect();
    match listed.first() {
        Some(ty) if args.imatrix.is_none() => {
            bail!("--types: {ty} needs an importance matrix (--imatrix), which cannot be made here, since {why}")
        }
        _ => Ok(()),
    }
}

/// Why there is no measured KL, and what else is missing.
pub fn note(args: &QuantizeArgs, weights: &Weights, goals: &[Goal], is_conversion: bool) -> String {
    let mut missing = vec!["no KL is measured"];
    if !is_conversion {
        if goals.iter().any(Goal::needs_analysis) {
            missing.push("no sensitivities are known, so that types are chosen by the relative errors of tensors");
        }
        missing.push("every block is rounded alone");
        if args.imatrix.is_none() {
            missing.push("all columns count the same (no --imatrix)");
        }
    }
    format!("{}: {}", no_forward_pass(weights.architecture()), missing.join(", "))
}

/// Makes all files.
pub fn run(
    args: &QuantizeArgs,
    device: &Device,
    weights: &Weights,
    goals: &[Goal],
    files: &[PathBuf],
    bars: &Bars,
    done: &mut dyn FnMut(Outcome) -> Result<()>,
) -> Result<()> {
    let job = Unproven {
        device,
        weights,
        imatrix: common::read_imatrix(args.imatrix.as_deref())?,
        types: &args.types.candidates(weights, &args.keep.keep),
        constraints: common::constraints(&args.types, &args.keep, args.imatrix.is_some()),
        goals,
        checkpoints: &args.work.checkpoints()?,
    };
    job.run(files, bars, done)
}
