//! A plan as a table for people: where the bytes go, where the damage is, what a little more would buy.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use super::analysis::{Analysis, TensorAnalysis};
use super::file::{Assignment, Plan};
use super::{Constraints, Target, solve};
use crate::arch::tensor_class::layer_index;
use crate::quant::GgmlType;

/// Bands of equal depth in the table.
const BANDS: usize = 8;

/// Tensors listed by name.
const WORST: usize = 5;

/// Totals over some tensors.
#[derive(Default)]
struct Row {
    tensors: usize,
    weights: u64,
    bytes: u64,
    predicted: f64,
    types: BTreeMap<GgmlType, usize>,
}

impl Row {
    fn add(&mut self, tensor: &TensorAnalysis, assignment: &Assignment) {
        self.tensors += 1;
        self.weights += tensor.elements();
        self.bytes += assignment.bytes;
        self.predicted += assignment.predicted.unwrap_or(0.0);
        *self.types.entry(assignment.ty).or_default() += 1;
    }

    fn types(&self) -> String {
        let mut types: Vec<(&GgmlType, &usize)> = self.types.iter().collect();
        types.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        types.iter().map(|(ty, count)| format!("{ty} x{count}")).collect::<Vec<_>>().join(", ")
    }
}

/// The plan by class of tensor and by depth, with each group's share of the predicted KL, and the tensors that cost most.
pub fn table(analysis: &Analysis, plan: &Plan) -> String {
    let (mut classes, mut depths) = (BTreeMap::<String, Row>::new(), BTreeMap::<usize, Row>::new());
    let layers = analysis.quantizable().filter_map(|tensor| layer_index(&tensor.name)).max().map_or(0, |last| last + 1);
    let width = layers.div_ceil(BANDS).max(1);
    for tensor in analysis.quantizable() {
        let Some(assignment) = plan.tensors.get(&tensor.name) else { continue };
        classes.entry(class_of(&tensor.name)).or_default().add(tensor, assignment);
        if let Some(layer) = layer_index(&tensor.name) {
            depths.entry(layer / width).or_default().add(tensor, assignment);
        }
    }
    let total: f64 = classes.values().map(|row| row.predicted).sum();
    let mut out = String::new();
    section(&mut out, "class", total, classes.iter().map(|(class, row)| (class.clone(), row)));
    out.push('\n');
    let band = |band: &usize| match (band * width, ((band + 1) * width).min(layers) - 1) {
        (first, last) if first == last => format!("layer {first}"),
        (first, last) => format!("layers {first}-{last}"),
    };
    section(&mut out, "depth", total, depths.iter().map(|(index, row)| (band(index), row)));
    let mut worst: Vec<(&String, &Assignment)> = plan.tensors.iter().collect();
    worst.sort_by(|a, b| b.1.predicted.unwrap_or(0.0).total_cmp(&a.1.predicted.unwrap_or(0.0)));
    if total > 0.0 {
        out.push_str("\nmost of the damage\n");
        for (name, assignment) in worst.into_iter().take(WORST) {
            let share = 100.0 * assignment.predicted.unwrap_or(0.0) / total;
            let _ = writeln!(out, "  {share:>5.1} %  {:<8} {name}", assignment.ty);
        }
    }
    let kld = plan.predicted_kld.map_or("not measured".to_owned(), |nats| format!("{nats:.6} nats per token"));
    let _ = writeln!(out, "\n{} bytes, {:.4} bits per weight, predicted KL {kld}", plan.bytes, plan.bpw);
    out
}

fn section<'a>(out: &mut String, title: &str, total: f64, rows: impl Iterator<Item = (String, &'a Row)>) {
    let rows: Vec<(String, &Row)> = rows.collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(title.len());
    let _ = writeln!(out, "{title:<width$} {:>7} {:>10} {:>6} {:>9}  types", "tensors", "MiB", "bpw", "KL share");
    for (name, row) in rows {
        let share = if total > 0.0 { format!("{:.1} %", 100.0 * row.predicted / total) } else { "-".to_owned() };
        let _ = writeln!(
            out,
            "{name:<width$} {:>7} {:>10.2} {:>6.3} {share:>9}  {}",
            row.tensors,
            row.bytes as f64 / f64::from(1 << 20),
            row.bytes as f64 * 8.0 / row.weights as f64,
            row.types()
        );
    }
}

/// `blk.3.attn_q.weight` and `blk.4.attn_q.weight` are both `attn_q`.
fn class_of(name: &str) -> String {
    let inner = match layer_index(name) {
        Some(_) => name.splitn(3, '.').nth(2).unwrap_or(name),
        None => name,
    };
    inner.trim_end_matches(".weight").to_owned()
}

/// The predicted KL of the best plan with 1 % more bytes than this one, and that plan's size; none if there is no more to
/// buy or the KL is not known.
pub fn next_percent(analysis: &Analysis, plan: &Plan, constraints: &Constraints) -> Result<Option<(u64, f64)>> {
    let more = solve(analysis, &Target::Size(plan.bytes + plan.bytes / 100), constraints)?;
    Ok(match (plan.predicted_kld, more.predicted_kld) {
        (Some(now), Some(then)) if then < now => Some((more.bytes, then)),
        _ => None,
    })
}
