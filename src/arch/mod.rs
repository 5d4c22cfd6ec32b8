//! One file per model family: hyper-parameters, tensor names both ways, transforms, layer graph.

pub mod graph;
