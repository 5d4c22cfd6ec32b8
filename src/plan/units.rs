//! From an analysis and constraints to the items of the solver: a tensor, or a group of tensors that share one type.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};

use super::Target;
use super::analysis::{Analysis, TensorAnalysis};
use super::constraints::Constraints;
use super::file::Plan;
use super::hull::Choice;
use super::mixes::Fallback;
use super::solver::Solution;
use crate::quant::{GgmlType, fallback};

/// The items of a problem and how to read its solution.
pub(super) struct Units {
    /// For each item the tensors in it.
    members: Vec<Vec<String>>,
    /// For each item the types it may take, in step with `choices`.
    types: Vec<Vec<GgmlType>>,
    pub(super) choices: Vec<Vec<Choice>>,
    /// Predicted KL of the pinned tensors, which cost the solver nothing; the name of one whose type was not measured.
    pinned: std::result::Result<f64, String>,
    fallbacks: Vec<Fallback>,
    /// Replacements of listed types, which become fallbacks where the solution takes them.
    replacements: Vec<Fallback>,
}

impl Units {
    /// `size` turns the bytes of a tensor into what it takes from the budget.
    pub(super) fn new(analysis: &Analysis, constraints: &Constraints, size: impl Fn(u64) -> u64) -> Result<Units> {
        let mut units = Units {
            members: Vec::new(),
            types: Vec::new(),
            choices: Vec::new(),
            pinned: Ok(0.0),
            fallbacks: Vec::new(),
            replacements: Vec::new(),
        };
        for group in groups(analysis, constraints) {
            units.add(&group, constraints, &size)?;
        }
        Ok(units)
    }

    fn add(&mut self, group: &[&TensorAnalysis], constraints: &Constraints, size: &impl Fn(u64) -> u64) -> Result<()> {
        let bytes = |ty: GgmlType| -> u64 { group.iter().filter_map(|t| t.bytes_as(ty)).map(size).sum() };
        let (types, choices) = match self.pinned_type(group, constraints)? {
            Some(ty) => {
                for tensor in group {
                    match (tensor.predicted(ty), &mut self.pinned) {
                        (Some(nats), Ok(sum)) => *sum += nats,
                        (None, pinned @ Ok(_)) => *pinned = Err(tensor.name.clone()),
                        (_, Err(_)) => {}
                    }
                }
                (vec![ty], vec![Choice { bytes: bytes(ty), cost: 0.0 }])
            }
            None => {
                let types = shared_types(group, constraints)?;
                self.replacements.extend(group.iter().flat_map(|tensor| constraints.replacements(tensor)));
                let cost = |ty| group.iter().filter_map(|tensor| tensor.predicted(ty)).sum();
                let choices = types.iter().map(|&ty| Choice { bytes: bytes(ty), cost: cost(ty) }).collect();
                (types, choices)
            }
        };
        self.members.push(group.iter().map(|tensor| tensor.name.clone()).collect());
        self.types.push(types);
        self.choices.push(choices);
        Ok(())
    }

    /// The type that `--keep` rules give the group, replaced where rows do not fit.
    fn pinned_type(&mut self, group: &[&TensorAnalysis], constraints: &Constraints) -> Result<Option<GgmlType>> {
        let mut pinned: Option<(GgmlType, &str)> = None;
        for tensor in group {
            let Some(wanted) = constraints.kept(&tensor.name) else { continue };
            let used = fallback(wanted, tensor.cols as usize).with_context(|| format!("tensor: `{}`", tensor.name))?;
            if used != wanted {
                self.fallbacks.push(Fallback { tensor: tensor.name.clone(), wanted, used });
            }
            match pinned {
                Some((ty, other)) if ty != used => {
                    bail!("tied tensors are kept in different types, {ty} and {used}: `{other}` and `{}`", tensor.name)
                }
                _ => pinned = Some((used, &tensor.name)),
            }
        }
        if let Some((ty, name)) = pinned {
            let misfit = group.iter().find(|tensor| tensor.bytes_as(ty).is_none());
            if let Some(tensor) = misfit {
                bail!("the type {ty} kept for `{name}` does not fit the tied tensor: `{}`", tensor.name);
            }
        }
        Ok(pinned.map(|(ty, _)| ty))
    }

    /// Predicted KL of the pinned tensors; an error if it is unknown.
    pub(super) fn pinned_cost(&self) -> Result<f64> {
        match &self.pinned {
            Ok(nats) => Ok(*nats),
            Err(name) => bail!("the type kept for a tensor was not measured, so the KL is unknown: `{name}`"),
        }
    }

    /// The plan that a solution stands for.
    pub(super) fn plan(self, analysis: &Analysis, target: Target, solution: &Solution) -> Result<Plan> {
        let mut types = BTreeMap::new();
        for ((members, unit_types), &pick) in self.members.into_iter().zip(&self.types).zip(&solution.picks) {
            types.extend(members.into_iter().map(|name| (name, unit_types[pick])));
        }
        let taken = self.replacements.into_iter().filter(|note| types.get(&note.tensor) == Some(&note.used));
        let fallbacks = self.fallbacks.into_iter().chain(taken).collect();
        Plan::new(analysis, target, &types, fallbacks)
    }
}

/// Types that every tensor of the group may take, in the order of their ids.
fn shared_types(group: &[&TensorAnalysis], constraints: &Constraints) -> Result<Vec<GgmlType>> {
    let mut types = constraints.allowed(group[0])?;
    for tensor in &group[1..] {
        let also = constraints.allowed(tensor)?;
        types.retain(|ty| also.contains(ty));
    }
    ensure!(!types.is_empty(), "tied tensors have no allowed type in common: `{}` ...", group[0].name);
    types.sort();
    Ok(types)
}

/// Quantizable tensors in groups: tied ones together (ties that overlap are merged), all others alone.
fn groups<'a>(analysis: &'a Analysis, constraints: &Constraints) -> Vec<Vec<&'a TensorAnalysis>> {
    let tensors: Vec<&TensorAnalysis> = analysis.quantizable().collect();
    let index: HashMap<&str, usize> = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect();
    // Each tensor's group is the lowest index in it.
    let mut group: Vec<usize> = (0..tensors.len()).collect();
    for tie in analysis.ties.iter().chain(&constraints.ties) {
        let tied: Vec<usize> = tie.iter().filter_map(|name| index.get(name.as_str())).map(|&i| group[i]).collect();
        let Some(&least) = tied.iter().min() else { continue };
        for of in &mut group {
            if tied.contains(of) {
                *of = least;
            }
        }
    }
    let mut groups: BTreeMap<usize, Vec<&TensorAnalysis>> = BTreeMap::new();
    for (tensor, of) in tensors.into_iter().zip(group) {
        groups.entry(of).or_default().push(tensor);
    }
    groups.into_values().collect()
}
