//! What `plan` prints: the plan by class and depth, the tensors that do the damage, and the price of the next bytes.

use std::path::PathBuf;

use serde::Serialize;

use super::objective::outlook_line;
use super::output::{Report, TypeShare, by_type, fallback_lines, line, nats, size_and_bpw, types_table, with_bits};
use super::table::{Align, Table, grouped};
use crate::plan::report::{Group, Neighbour, Suspect};
use crate::plan::{Fallback, Outlook};

/// What `plan` decided.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    pub output: PathBuf,
    /// The `--tensor-type-file` that was written too.
    pub tensor_types: Option<PathBuf>,
    /// Of the whole file that this plan makes.
    pub bytes: u64,
    pub bpw: f64,
    /// Nats per token; none if the type of a tensor was not measured.
    pub predicted_kld: Option<f64>,
    /// What an objective beyond the mean predicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<Outlook>,
    #[serde(serialize_with = "by_type")]
    pub types: Vec<TypeShare>,
    #[serde(serialize_with = "with_bits")]
    pub fallbacks: Vec<Fallback>,
    /// By class of tensor and band of depth.
    pub groups: Vec<Group>,
    /// The tensors that carry the most predicted KL.
    pub worst: Vec<Suspect>,
    /// The best plan of 1 % fewer bytes.
    pub less: Option<Neighbour>,
    /// The best plan of 1 % more bytes.
    pub more: Option<Neighbour>,
}

impl Report for PlanReport {
    fn human(&self) -> String {
        let mut text = format!("{}\n{}\n", groups_table(&self.groups), types_table(&self.types));
        if !self.worst.is_empty() {
            text += &format!("{}\n", worst_table(&self.worst));
        }
        text += &fallback_lines(&self.fallbacks);
        line(&mut text, "plan", &self.output.display().to_string());
        if let Some(path) = &self.tensor_types {
            line(&mut text, "tensor types", &path.display().to_string());
        }
        line(&mut text, "size", &size_and_bpw(self.bytes, self.bpw));
        if let Some(kld) = self.predicted_kld {
            line(&mut text, "predicted KL", &format!("{} nats per token", nats(kld)));
            for (name, neighbour) in [("1 % smaller", &self.less), ("1 % larger", &self.more)] {
                if let Some(other) = neighbour {
                    line(&mut text, name, &change(kld, other));
                }
            }
        }
        if let Some(outlook) = &self.objective {
            outlook_line(&mut text, outlook);
        }
        text
    }
}

fn groups_table(groups: &[Group]) -> Table {
    let (left, right) = (|title| (title, Align::Left), |title| (title, Align::Right));
    let numbers = [right("tensors"), right("bytes"), right("bpw"), right("KL share")];
    let mut table = Table::new(&[&[left("class"), right("layers")], &numbers[..], &[left("types")]].concat());
    for group in groups {
        let layers = match group.layers {
            None => "-".to_owned(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let mut types: Vec<_> = group.types.iter().collect();
        types.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let types: Vec<String> = types.into_iter().map(|(ty, count)| format!("{ty} x{count}")).collect();
        table.row([
            group.class.clone(),
            layers,
            grouped(group.tensors as u64),
            grouped(group.bytes),
            format!("{:.3}", group.bpw),
            percent(group.share),
            types.join(", "),
        ]);
    }
    table
}

fn worst_table(worst: &[Suspect]) -> Table {
    let mut table = Table::new(&[
        ("most damage", Align::Left),
        ("type", Align::Left),
        ("KL share", Align::Right),
        ("nats per token", Align::Right),
    ]);
    for suspect in worst {
        let share = percent(Some(suspect.share));
        table.row([suspect.tensor.clone(), suspect.ty.to_string(), share, nats(suspect.predicted_kld)]);
    }
    table
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// `0.002391 nats per token (-6.3 %)`.
fn change(now: f64, other: &Neighbour) -> String {
    let relative = match now {
        0.0 => String::new(),
        _ => format!(" ({:+.1} %)", (other.predicted_kld / now - 1.0) * 100.0),
    };
    format!("{} nats per token{relative}", nats(other.predicted_kld))
}
