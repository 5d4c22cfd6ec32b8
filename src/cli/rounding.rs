//! How codes are chosen, as options.

use clap::{Args, ValueEnum};

use crate::rounding::Method;

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Rounding")]
pub struct RoundingArgs {
    /// search: scales and codes of every block for itself; feedback: columns make good each other's errors
    #[arg(long, value_enum, default_value_t)]
    pub rounding: Rounding,
    /// How long to look for better codes with all of a layer's errors in view; fast does not, after a search
    #[arg(long, value_enum, default_value_t)]
    pub effort: Effort,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Rounding {
    Search,
    #[default]
    Feedback,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Effort {
    Fast,
    #[default]
    Normal,
    Max,
}

impl RoundingArgs {
    /// What the two options mean together.
    pub fn method(&self) -> Method {
        let descents = match self.effort {
            Effort::Fast => 0,
            Effort::Normal => 2,
            Effort::Max => 8,
        };
        Method { feedback: matches!(self.rounding, Rounding::Feedback), descents }
    }
}
