//! What a plan means: where its bytes and its damage are, and what a little more or less would change.

use std::collections::BTreeMap;

use serde::Serialize;

use super::analysis::{Analysis, TensorAnalysis};
use super::file::{Assignment, Plan};
use super::objective::{Objective, improved};
use super::{Constraints, Target, best_near};
use crate::arch::tensor_class::{Bands, Class, Layers, class_name};
use crate::quant::GgmlType;

/// Tensors listed by name.
const WORST: usize = 8;

/// Totals over the tensors of one class in one band of depth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// The tensors' name without layer and `.weight`: `attn_q`.
    pub class: String,
    /// First and last layer of the band; none for tensors outside the layers.
    pub layers: Option<(usize, usize)>,
    pub tensors: usize,
    pub weights: u64,
    /// Without padding.
    pub bytes: u64,
    pub bpw: f64,
    /// Nats per token; none if the type of a tensor was not measured.
    pub predicted_kld: Option<f64>,
    /// Part of the plan's predicted KL, 0 to 1.
    pub share: Option<f64>,
    /// Number of tensors by type.
    pub types: BTreeMap<GgmlType, usize>,
}

/// One tensor and the damage that it does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suspect {
    pub tensor: String,
    #[serde(rename = "type")]
    pub ty: GgmlType,
    pub bytes: u64,
    /// Nats per token.
    pub predicted_kld: f64,
    /// Part of the plan's predicted KL, 0 to 1.
    pub share: f64,
}

/// The best plan of another size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Neighbour {
    /// Of the whole file.
    pub bytes: u64,
    pub bpw: f64,
    /// Nats per token.
    pub predicted_kld: f64,
}

/// The plan by class of tensor and depth: from the embedding over attention and feed-forward to the output, bands from the
/// first layer on.
pub fn groups(analysis: &Analysis, plan: &Plan) -> Vec<Group> {
    let bands = Bands::over(analysis.quantizable().map(|tensor| tensor.name.as_str()));
    let mut classes: Vec<String> = Vec::new();
    let mut groups: BTreeMap<(Class, usize, Option<Layers>), Group> = BTreeMap::new();
    for tensor in analysis.quantizable() {
        let Some(assignment) = plan.tensors.get(&tensor.name) else { continue };
        let class = class_name(&tensor.name);
        let place = classes.iter().position(|known| known == class).unwrap_or_else(|| {
            classes.push(class.to_owned());
            classes.len() - 1
        });
        let band = bands.of(&tensor.name);
        let key = (Class::of(&tensor.name), place, band);
        let group = groups.entry(key).or_insert_with(|| Group::new(class, band));
        group.add(tensor, assignment);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    for group in &mut groups {
        group.bpw = group.bytes as f64 * 8.0 / group.weights as f64;
        group.share = share(group.predicted_kld, plan);
    }
    groups
}

impl Group {
    fn new(class: &str, layers: Option<(usize, usize)>) -> Group {
        Group {
            class: class.to_owned(),
            layers,
            tensors: 0,
            weights: 0,
            bytes: 0,
            bpw: 0.0,
            predicted_kld: Some(0.0),
            share: None,
            types: BTreeMap::new(),
        }
    }

    fn add(&mut self, tensor: &TensorAnalysis, assignment: &Assignment) {
        self.tensors += 1;
        self.weights += tensor.elements();
        self.bytes += assignment.bytes;
        self.predicted_kld = self.predicted_kld.zip(assignment.predicted).map(|(sum, nats)| sum + nats);
        *self.types.entry(assignment.ty).or_default() += 1;
    }
}

fn share(nats: Option<f64>, plan: &Plan) -> Option<f64> {
    let total = plan.predicted_kld.filter(|&total| total > 0.0)?;
    Some(nats? / total)
}

/// The tensors that carry the most damage, the worst first. Empty where the plan's KL is unknown or nothing.
pub fn worst(plan: &Plan) -> Vec<Suspect> {
    let suspect = |(name, assignment): (&String, &Assignment)| {
        let predicted_kld = assignment.predicted.filter(|&nats| nats > 0.0)?;
        let share = share(Some(predicted_kld), plan)?;
        Some(Suspect { tensor: name.clone(), ty: assignment.ty, bytes: assignment.bytes, predicted_kld, share })
    };
    let mut worst: Vec<Suspect> = plan.tensors.iter().filter_map(suspect).collect();
    worst.sort_by(|a, b| b.predicted_kld.total_cmp(&a.predicted_kld));
    worst.truncate(WORST);
    worst
}

/// The best plans of 1 % fewer and 1 % more bytes than this one, as far as there are any: none for mixes and single types,
/// which are not the best of their size, none where the KL is unknown, and none with more bytes if those bring nothing.
pub fn neighbours(
    analysis: &Analysis,
    plan: &Plan,
    constraints: &Constraints,
    objective: Objective,
) -> [Option<Neighbour>; 2] {
    let by_rule = matches!(plan.target, Target::Type(_) | Target::Pure(_));
    let Some(now) = plan.predicted_kld.filter(|_| !by_rule) else { return [None, None] };
    let best = |bytes: u64| {
        let by_mean = best_near(analysis, &Target::Size(bytes), constraints).ok()?;
        let (plan, _) = improved(analysis, by_mean, constraints, objective).ok()?;
        Some(Neighbour { bytes: plan.bytes, bpw: plan.bpw, predicted_kld: plan.predicted_kld? })
    };
    let percent = plan.bytes / 100;
    [best(plan.bytes - percent), best(plan.bytes + percent).filter(|more| more.predicted_kld < now)]
}
