//! What plans make small and how errors are judged, as options.

use clap::{Args, ValueEnum};

use super::output::{line, nats};
use super::table::grouped;
use crate::plan::{Objective, Outlook};
use crate::sensitivity::Way;

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Planning")]
pub struct ObjectiveArgs {
    /// What the plan makes small: the mean KL; the mean together with the tokens that are hit worst; the average over the domains
    /// of the calibration text [default: mean]
    #[arg(long, value_enum, conflicts_with_all = ["mix", "pure"])]
    pub objective: Option<ObjectiveArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ObjectiveArg {
    Mean,
    Tail,
    Balanced,
}

impl ObjectiveArgs {
    pub fn objective(&self) -> Objective {
        match self.objective {
            None | Some(ObjectiveArg::Mean) => Objective::Mean,
            Some(ObjectiveArg::Tail) => Objective::Tail,
            Some(ObjectiveArg::Balanced) => Objective::Balanced,
        }
    }
}

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Planning")]
pub struct SensitivityArgs {
    /// How to find out what errors cost: a backward pass; or probes, which write one group of tensors after the other in a coarse
    /// type and measure the KL [default: sweep]
    #[arg(long, value_enum)]
    pub sensitivity: Option<SensitivityArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SensitivityArg {
    Sweep,
    Probes,
}

impl SensitivityArgs {
    pub fn way(&self) -> Way {
        match self.sensitivity {
            None | Some(SensitivityArg::Sweep) => Way::Sweep,
            Some(SensitivityArg::Probes) => Way::Probes,
        }
    }
}

/// What the objective predicts, before and after, for people.
pub fn outlook_line(text: &mut String, outlook: &Outlook) {
    let what = match (outlook.objective, outlook.tail_share) {
        (Objective::Tail, Some(share)) => format!("worst {:.2} % of tokens", share * 100.0),
        (Objective::Balanced, _) => "average over domains".to_owned(),
        (Objective::Mean | Objective::Tail, _) => "mean".to_owned(),
    };
    let (before, after) = (outlook.before, outlook.after);
    let change = |before: f64, after: f64| format!("{} instead of {}", nats(after), nats(before));
    let (focus, mean) = (change(before.focus, after.focus), change(before.mean, after.mean));
    let tokens = grouped(outlook.tokens as u64);
    line(text, "objective", &format!("predicted of the {what} {focus}, of the mean {mean} ({tokens} probed tokens)"));
}
