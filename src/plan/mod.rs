//! From errors and sensitivities to a type for each tensor.
//!
//! [`analysis`] is what was measured, [`constraints`] what the user demands, [`solver`] finds the best types for a target,
//! [`objective`] says what best means, [`mixes`] are llama.cpp's own rules, [`file`](mod@file) is the result.

pub mod analysis;
pub mod constraints;
pub mod file;
pub mod ftype;
mod gap;
pub mod hull;
pub mod mixes;
pub mod objective;
pub mod report;
pub mod solver;
mod units;
pub mod vram;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

pub use analysis::{Analysis, Candidate, TensorAnalysis};
pub use constraints::{Constraints, Profile, Rule};
pub use file::{Assignment, Plan};
pub use ftype::Ftype;
pub use mixes::{Fallback, Mix, ModelShape};
pub use objective::{Objective, Outlook, solve_for};
pub use vram::RunShape;

use crate::quant::{GgmlType, fallback};
use solver::{Problem, Solution};
use units::Units;

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At most this many bytes for the whole file.
    Size(u64),
    /// At most this many bits per weight: the bits of all tensor data (unquantized tensors included, metadata and padding
    /// not) over the number of all weights, the figure that llama.cpp prints.
    Bpw(f64),
    /// The smallest file whose predicted KL divergence is at most this many nats per token.
    MaxKld(f64),
    /// llama.cpp's own mixture of this name.
    Type(Ftype),
    /// One type for every tensor that can be quantized.
    Pure(GgmlType),
}

/// Finds the plan. Deterministic: the same arguments give the same plan.
///
/// Errors: a rule that matches nothing, a tensor without an allowed type, a target that no plan meets. A budget beyond the
/// largest plan is no error: the largest is taken, with a warning.
pub fn solve(analysis: &Analysis, target: &Target, constraints: &Constraints) -> Result<Plan> {
    analysis.validate()?;
    constraints.check(analysis)?;
    match *target {
        Target::Size(bytes) => within_size(analysis, constraints, bytes),
        Target::Bpw(bpw) => within_bpw(analysis, constraints, bpw),
        Target::MaxKld(nats) => meeting(analysis, constraints, nats),
        Target::Type(ftype) => mixture(analysis, constraints, ftype),
        Target::Pure(ty) => pure(analysis, constraints, ty),
    }
}

/// As [`solve`], without types far coarser than the target unless only they can meet it: see [`Constraints::for_target`].
pub fn solve_near(analysis: &Analysis, target: &Target, constraints: &Constraints) -> Result<Plan> {
    if let Target::MaxKld(_) = target {
        // How coarse is too coarse shows when there is a plan.
        let free = solve(analysis, target, constraints)?;
        let near = constraints.for_target(&Target::Bpw(free.bpw), analysis);
        return Ok(solve(analysis, target, &near).unwrap_or(free));
    }
    solve(analysis, target, &constraints.for_target(target, analysis)).or_else(|_| solve(analysis, target, constraints))
}

/// Fails if even the smallest plan of these types misses the size or the bits per weight asked for, or if a rule matches
/// nothing. Sizes need no measurements, so hours of them can be spared: `bare` has none.
pub fn check_budget(bare: &Analysis, target: &Target, constraints: &Constraints, types: &[GgmlType]) -> Result<()> {
    constraints.check(bare)?;
    let mut unmeasured = bare.clone();
    for tensor in unmeasured.tensors.iter_mut().filter(|tensor| tensor.quantizable) {
        let types: BTreeSet<GgmlType> = types.iter().copied().chain([tensor.source_type]).collect();
        let sized = types.into_iter().filter_map(|ty| Some((ty, tensor.bytes_as(ty)?)));
        tensor.candidates = sized.map(|(ty, bytes)| Candidate { ty, bytes, error: 0.0, predicted: 0.0 }).collect();
    }
    match *target {
        Target::Size(bytes) => size_problem(&unmeasured, constraints, bytes).map(drop),
        Target::Bpw(bpw) => bpw_problem(&unmeasured, constraints, bpw).map(drop),
        Target::MaxKld(_) | Target::Type(_) | Target::Pure(_) => Ok(()),
    }
}

/// Bytes that a file for the target will have at least, for what must be known before it is planned.
pub fn least_bytes(bare: &Analysis, target: &Target, constraints: &Constraints, types: &[GgmlType]) -> Result<u64> {
    /// Plans fill their budget up to a fraction of this size.
    const FILLED: f64 = 0.9;
    let types = || types.iter().copied();
    let largest: u64 = bare
        .quantizable()
        .map(|tensor| types().chain([tensor.source_type]).filter_map(|ty| tensor.bytes_as(ty)).max().unwrap_or(0))
        .sum();
    let within = |bytes: f64| (FILLED * bytes.min((bare.base_bytes() + largest) as f64)) as u64;
    match *target {
        Target::Size(bytes) => Ok(within(bytes as f64)),
        Target::Bpw(bpw) => Ok(within(bpw * bare.elements() as f64 / 8.0)),
        Target::MaxKld(_) => Ok(bare.base_bytes()),
        Target::Type(_) | Target::Pure(_) => Ok(solve(bare, target, constraints)?.bytes),
    }
}

/// The items, their problem, and the bytes that they may take.
type Budgeted = (Units, Problem, u64);

fn size_problem(analysis: &Analysis, constraints: &Constraints, budget: u64) -> Result<Budgeted> {
    let units = Units::new(analysis, constraints, analysis::padded)?;
    let problem = Problem::new(&units.choices);
    let base = analysis.base_bytes();
    let smallest = base + problem.min_bytes();
    ensure!(
        budget >= smallest,
        "the smallest possible file has {} but the budget is {}{}",
        bytes_text(smallest),
        bytes_text(budget),
        narrow_rows(analysis)
    );
    Ok((units, problem, budget - base))
}

fn within_size(analysis: &Analysis, constraints: &Constraints, budget: u64) -> Result<Plan> {
    let (plan, is_largest) = best_within(analysis, constraints, budget)?;
    if is_largest && plan.bytes < budget {
        log::warn!("the largest plan has {}, less than the budget of {}", bytes_text(plan.bytes), bytes_text(budget));
    }
    Ok(plan)
}

/// The best plan of at most `budget` bytes, and whether it is the one that no budget can improve.
fn best_within(analysis: &Analysis, constraints: &Constraints, budget: u64) -> Result<(Plan, bool)> {
    let (units, problem, capacity) = size_problem(analysis, constraints, budget)?;
    let solution = problem.within(capacity).context("no plan fits the budget")?;
    let is_largest = is_largest(&problem, &solution);
    Ok((units.plan(analysis, Target::Size(budget), &solution)?, is_largest))
}

fn bpw_problem(analysis: &Analysis, constraints: &Constraints, bpw: f64) -> Result<Budgeted> {
    ensure!(bpw.is_finite() && bpw > 0.0, "bits per weight must be a positive number: `{bpw}`");
    let units = Units::new(analysis, constraints, |bytes| bytes)?;
    let problem = Problem::new(&units.choices);
    let elements = analysis.elements() as f64;
    let base = analysis.unquantizable_bytes(|bytes| bytes);
    // Bytes are whole: a plan of exactly `bpw` must not fail on the last bit of a product.
    let budget = (bpw * elements / 8.0 * (1.0 + 1e-12)).floor() as u64;
    let smallest = base + problem.min_bytes();
    ensure!(
        budget >= smallest,
        "the smallest possible plan has {:.4} bits per weight but {bpw} were asked for{}",
        smallest as f64 * 8.0 / elements,
        narrow_rows(analysis)
    );
    Ok((units, problem, budget - base))
}

fn within_bpw(analysis: &Analysis, constraints: &Constraints, bpw: f64) -> Result<Plan> {
    let (plan, is_largest) = best_of_bpw(analysis, constraints, bpw)?;
    if is_largest && plan.bpw < bpw {
        log::warn!("the largest plan has {:.4} bits per weight, less than the {bpw} asked for", plan.bpw);
    }
    Ok(plan)
}

/// The best plan of at most `bpw` bits per weight, and whether it is the one that no budget can improve.
fn best_of_bpw(analysis: &Analysis, constraints: &Constraints, bpw: f64) -> Result<(Plan, bool)> {
    let (units, problem, capacity) = bpw_problem(analysis, constraints, bpw)?;
    let solution = problem.within(capacity).context("no plan fits the budget")?;
    let is_largest = is_largest(&problem, &solution);
    Ok((units.plan(analysis, Target::Bpw(bpw), &solution)?, is_largest))
}

/// As [`solve_near`] for budgets, without warnings.
fn best_near(analysis: &Analysis, target: &Target, constraints: &Constraints) -> Result<Plan> {
    let best = |constraints: &Constraints| match *target {
        Target::Size(bytes) => best_within(analysis, constraints, bytes).map(|(plan, _)| plan),
        Target::Bpw(bpw) => best_of_bpw(analysis, constraints, bpw).map(|(plan, _)| plan),
        _ => solve(analysis, target, constraints),
    };
    best(&constraints.for_target(target, analysis)).or_else(|_| best(constraints))
}

fn meeting(analysis: &Analysis, constraints: &Constraints, nats: f64) -> Result<Plan> {
    ensure!(nats.is_finite() && nats >= 0.0, "a KL divergence must be a number from 0 up: `{nats}`");
    let units = Units::new(analysis, constraints, analysis::padded)?;
    let pinned = units.pinned_cost()?;
    let problem = Problem::new(&units.choices);
    let Some(solution) = problem.cheapest_meeting(nats - pinned) else {
        bail!("the best possible plan has a predicted KL of {:.6} but at most {nats} was asked for", {
            problem.largest().cost + pinned
        });
    };
    units.plan(analysis, Target::MaxKld(nats), &solution)
}

fn mixture(analysis: &Analysis, constraints: &Constraints, ftype: Ftype) -> Result<Plan> {
    let kept = |name: &str| constraints.kept(name);
    let options = mixes::MixOptions { pure: false, has_imatrix: constraints.has_imatrix, pinned: Some(&kept) };
    let mix = mixes::mix(ftype, &analysis.shape, &analysis.shapes(), options)?;
    // The analysis may know better which tensors are fixed, so only its own are planned.
    let types = analysis.quantizable().filter_map(|tensor| {
        let ty = mix.types.get(&tensor.name)?;
        Some((tensor.name.clone(), *ty))
    });
    Plan::new(analysis, Target::Type(ftype), &types.collect(), mix.fallbacks)
}

fn pure(analysis: &Analysis, constraints: &Constraints, ty: GgmlType) -> Result<Plan> {
    let (mut types, mut fallbacks) = (BTreeMap::new(), Vec::new());
    for tensor in analysis.quantizable() {
        let wanted = constraints.kept(&tensor.name).unwrap_or(ty);
        let used = fallback(wanted, tensor.cols as usize).with_context(|| format!("tensor: `{}`", tensor.name))?;
        if used != wanted {
            fallbacks.push(Fallback { tensor: tensor.name.clone(), wanted, used });
        }
        types.insert(tensor.name.clone(), used);
    }
    Plan::new(analysis, Target::Pure(ty), &types, fallbacks)
}

/// Why plans cannot be small where many rows do not fit the smallest types; empty where they do.
fn narrow_rows(analysis: &Analysis) -> String {
    /// Weights in a block of the smallest types.
    const SUPER_BLOCK: u64 = 256;
    let narrow = || analysis.quantizable().filter(|tensor| !tensor.cols.is_multiple_of(SUPER_BLOCK));
    let weights: u64 = narrow().map(TensorAnalysis::elements).sum();
    let percent = weights as f64 * 100.0 / analysis.elements().max(1) as f64;
    let Some(most) = narrow().max_by_key(|tensor| tensor.elements()).filter(|_| percent >= 0.5) else {
        return String::new();
    };
    format!(
        "; {percent:.0} % of the weights are in rows that are no multiple of {SUPER_BLOCK} wide ({} in `{}`), which only types with smaller \
         blocks fit, of more bits",
        most.cols, most.name
    )
}

/// Whether the solution is the one that no budget can improve.
fn is_largest(problem: &Problem, solution: &Solution) -> bool {
    problem.largest().picks == solution.picks
}

/// `1,234 bytes (1.21 KiB)`.
fn bytes_text(bytes: u64) -> String {
    let digits = bytes.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let (mut value, mut unit) = (bytes as f64, "bytes");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value >= 1024.0 {
            (value, unit) = (value / 1024.0, larger);
        }
    }
    if unit == "bytes" { format!("{grouped} bytes") } else { format!("{grouped} bytes ({value:.2} {unit})") }
}
