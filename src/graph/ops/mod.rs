//! One file per operation: what it reads and writes, the way forward and the way back.

mod add;
mod attention;
mod columns;
mod experts;
mod gated;
mod linear;
mod norm;
mod rope;
mod router;
mod scale;
mod sigmoid_gate;

pub use add::Add;
pub use attention::{Attend, Attention};
pub use columns::Columns;
pub use experts::Experts;
pub use gated::Gated;
pub use linear::Linear;
pub use norm::Norm;
pub use rope::{Rope, Rotate};
pub use router::{Gating, Router, Routing};
pub use scale::Scale;
pub use sigmoid_gate::SigmoidGate;

/// Every operation; `tests/graph.rs` compares the two ways of each.
pub const NAMES: [&str; 11] =
    ["add", "attention", "columns", "experts", "gated", "linear", "norm", "rope", "router", "scale", "sigmoid_gate"];
