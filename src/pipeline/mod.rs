//! The steps of the job, each usable alone: listen, sense, weigh, (plan,) write, prove.
//! Steps read what earlier steps made and never call a later one; [`quantize`] is the whole job, [`unproven`] what is left of it for weights
//! that cannot be run.

mod analyze;
pub mod checkpoint;
mod encoded;
pub mod guard;
pub mod learn;
mod listen;
mod metadata;
mod probe;
mod prove;
pub mod quantize;
mod reference;
pub mod refine;
mod round;
mod round_matrix;
mod sample;
mod slabs;
mod strength;
pub mod unproven;
mod weigh;
mod write;

pub use analyze::{AnalysisInputs, analyze, bare_analysis};
pub use listen::{listen, sense};
pub use metadata::{Provenance, output_metadata};
pub use probe::{ProbeInputs, probe};
pub use prove::{Scoring, prove, report};
pub use round::{RoundingInputs, round};
pub use write::{FileInputs, write};
