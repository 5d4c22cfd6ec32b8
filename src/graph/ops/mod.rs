//! One file per operation: what it reads and writes, the way forward and the way back.

mod add;
mod attention;
mod columns;
mod concat;
mod delta_gates;
mod experts;
mod gated;
mod gated_delta;
mod heads_linear;
mod linear;
mod norm;
mod rope;
mod router;
mod scale;
mod short_conv;
mod sigmoid_gate;

pub use add::Add;
pub use attention::{Attend, Attention};
pub use columns::Columns;
pub use concat::Concat;
pub use delta_gates::DeltaGates;
pub use experts::Experts;
pub use gated::Gated;
pub use gated_delta::GatedDelta;
pub use heads_linear::HeadsLinear;
pub use linear::Linear;
pub use norm::Norm;
pub use rope::{Rope, Rotate};
pub use router::{Gating, Router, Routing};
pub use scale::Scale;
pub use short_conv::ShortConv;
pub use sigmoid_gate::SigmoidGate;

/// Every operation; `tests/graph.rs` compares the two ways of each.
pub const NAMES: [&str; 16] = [
    "add",
    "attention",
    "columns",
    "concat",
    "delta_gates",
    "experts",
    "gated",
    "gated_delta",
    "heads_linear",
    "linear",
    "norm",
    "rope",
    "router",
    "scale",
    "short_conv",
    "sigmoid_gate",
];
