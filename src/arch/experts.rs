//! Layers with a mixture of experts in place of one feed-forward part.

use anyhow::Result;

use super::HfConfig;
use super::hparams::Mixture;
use crate::gguf::Metadata;
use crate::graph::{Builder, Value};
use crate::kernels::glu::Activation;

/// Router and stacks of matrices inside `blk.N.`, without `.weight`.
const ROUTER: &str = "ffn_gate_inp";
const GATE: &str = "ffn_gate_exps";
const UP: &str = "ffn_up_exps";
const DOWN: &str = "ffn_down_exps";

/// What a family's Hugging Face tensors are called inside `model.layers.N.`, without `.weight`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    router: &'static str,
    /// Followed by the number of the expert.
    experts: &'static str,
    /// Stacks and the matrices in them.
    matrices: [(&'static str, &'static str); 3],
}

/// Of Qwen, DeepSeek and others.
pub(super) const MLP_EXPERTS: Names = Names {
    router: "mlp.gate",
    experts: "mlp.experts.",
    matrices: [(DOWN, "down_proj"), (GATE, "gate_proj"), (UP, "up_proj")],
};

/// Of Mixtral.
pub(super) const BLOCK_SPARSE_MOE: Names = Names {
    router: "block_sparse_moe.gate",
    experts: "block_sparse_moe.experts.",
    matrices: [(GATE, "w1"), (DOWN, "w2"), (UP, "w3")],
};

impl Names {
    /// The GGUF name inside its layer of a Hugging Face tensor, and its place in the stack if it is in one.
    pub(super) fn place(&self, stem: &str) -> Option<(&'static str, Option<usize>)> {
        if stem == self.router {
            return Some((ROUTER, None));
        }
        let (expert, matrix) = stem.strip_prefix(self.experts)?.split_once('.')?;
        let (stack, _) = self.matrices.iter().find(|(_, name)| *name == matrix)?;
        Some((stack, Some(expert.parse().ok()?)))
    }

    /// The Hugging Face name of a GGUF tensor inside its layer, of one expert if it is a stack.
    pub(super) fn hf_name(&self, stem: &str, expert: usize) -> Option<String> {
        if stem == ROUTER {
            return Some(self.router.to_owned());
        }
        let (_, matrix) = self.matrices.iter().find(|(stack, _)| *stack == stem)?;
        Some(format!("{}{expert}.{matrix}", self.experts))
    }
}

/// The keys that llama.cpp's converter writes of the numbers of experts, where there are any.
pub(super) fn counts(architecture: &str, config: &HfConfig, metadata: &mut Metadata) -> Result<()> {
    let keys: [(&str, &[&str]); 2] =
        [("expert_count", &["num_local_experts", "num_experts"]), ("expert_used_count", &["num_experts_per_tok"])];
    for (key, names) in keys {
        let name = names.iter().find(|name| config.get(name).is_some());
        if let Some(count) = name.map_or(Ok(None), |name| config.u32(name))? {
            metadata.set(format!("{architecture}.{key}"), count);
        }
    }
    Ok(())
}

/// What the experts add to the residual stream.
pub(super) fn feed_forward(layer: &mut Builder, normed: Value, mixture: &Mixture, activation: Activation) -> Value {
    let scores = layer.linear(normed, ROUTER, mixture.routing.experts);
    let shares = layer.router(scores, mixture.routing);
    layer.experts(normed, shares, [GATE, UP, DOWN], mixture.n_ff, activation)
}
