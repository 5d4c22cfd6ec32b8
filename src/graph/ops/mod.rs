//! One file per operation: what it reads and writes, the way forward and the way back.

mod add;
mod attention;
mod gated;
mod linear;
mod norm;
mod rope;

pub use add::Add;
pub use attention::{Attend, Attention};
pub use gated::Gated;
pub use linear::Linear;
pub use norm::Norm;
pub use rope::{Rope, Rotate};

/// Every operation; `tests/graph.rs` compares the two ways of each.
pub const NAMES: [&str; 6] = ["add", "attention", "gated", "linear", "norm", "rope"];
