//! How codes are chosen, as options.

use clap::{Args, ValueEnum};

use crate::rounding::{Method, Prefix};

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Rounding")]
pub struct RoundingArgs {
    /// search: scales and codes of every block for itself; feedback: columns make good each other's errors
    /// [default: feedback]
    #[arg(long, value_enum)]
    pub rounding: Option<Rounding>,
    /// How long to look for better codes with all of a layer's errors in view, and how much text to see them in; fast does not look after a search
    /// [default: normal]
    #[arg(long, value_enum)]
    pub effort: Option<Effort>,
    /// The layers before the one that is rounded: with quantized, it makes up for what they have lost. Default: quantized with
    /// feedback, original with search and with fast
    #[arg(long, value_enum)]
    pub prefix: Option<PrefixArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrefixArg {
    Original,
    Quantized,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rounding {
    Search,
    Feedback,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Effort {
    Fast,
    #[default]
    Normal,
    Max,
}

impl Effort {
    /// Calibration tokens whose second moments rounding has in view.
    pub fn tokens(self) -> usize {
        match self {
            Effort::Fast => 24 << 10,
            Effort::Normal => 48 << 10,
            Effort::Max => 96 << 10,
        }
    }

    /// Rounds of refinement unless the user says how many.
    pub fn rounds(self) -> usize {
        if matches!(self, Effort::Max) { 2 } else { 0 }
    }
}

impl RoundingArgs {
    pub fn effort(&self) -> Effort {
        self.effort.unwrap_or_default()
    }

    /// What the options mean together.
    pub fn method(&self) -> Method {
        let descents = match self.effort() {
            Effort::Fast => 0,
            Effort::Normal => 2,
            Effort::Max => 8,
        };
        let feedback = self.rounding != Some(Rounding::Search);
        let prefix = match self.prefix {
            Some(PrefixArg::Original) => Prefix::Original,
            Some(PrefixArg::Quantized) => Prefix::Quantized,
            None if feedback && descents > 0 => Prefix::Quantized,
            None => Prefix::Original,
        };
        Method { feedback, descents, prefix }
    }
}
