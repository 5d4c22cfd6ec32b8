//! Layers with a mixture of experts in place of one feed-forward part.

use anyhow::{Result, bail};

use super::HfConfig;
use super::hparams::Mixture;
use super::layout::Layout;
use super::names;
use crate::gguf::Metadata;
use crate::graph::{Builder, Value};

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

/// Where those of all experts are one tensor, which the names of other tensors tell.
pub(super) const FUSED: Names = Names { router: "", experts: "", matrices: [(DOWN, ""), (GATE, ""), (UP, "")] };

/// The expert that all tokens ask, of Qwen.
pub(super) const SHARED_WITH_GATE: names::Names = &[
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

/// The same of DeepSeek and GLM.
pub(super) const SHARED: names::Names = &[
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
];

/// What counts where experts are chosen, but not in their shares.
pub(super) const CORRECTION: names::Names = &[("exp_probs_b.bias", "mlp.gate.e_score_correction_bias")];

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
    let keys: [(&str, &[&str]); 4] = [
        ("expert_count", &["num_local_experts", "num_experts", "n_routed_experts"]),
        ("expert_used_count", &["num_experts_per_tok"]),
        ("expert_group_count", &["n_group"]),
        ("expert_group_used_count", &["topk_group"]),
    ];
    for (key, names) in keys {
        let name = names.iter().find(|name| config.get(name).is_some());
        if let Some(count) = name.map_or(Ok(None), |name| config.u32(name))? {
            metadata.set(format!("{architecture}.{key}"), count);
        }
    }
    // llama.cpp's enumeration
    let gating = match config.get("scoring_func").map(|name| name.as_str().unwrap_or_default()) {
        None => return Ok(()),
        Some("softmax") => 1u32,
        Some("sigmoid") => 2,
        Some(other) => bail!("unsupported `scoring_func` `{other}`: `{}`", config.path().display()),
    };
    metadata.set(format!("{architecture}.expert_gating_func"), gating);
    Ok(())
}

/// Fails where some layers have no experts: llama.cpp has no key for it. `refuse` says that something is not supported.
pub(super) fn check_all_layers(config: &HfConfig, refuse: &dyn Fn(&str) -> Result<()>) -> Result<()> {
    if config.u32("decoder_sparse_step")?.unwrap_or(1) != 1 {
        refuse("this `decoder_sparse_step`")?;
    }
    if config.get("mlp_only_layers").is_some_and(|layers| layers.as_array().is_none_or(|layers| !layers.is_empty())) {
        refuse("`mlp_only_layers`")?;
    }
    Ok(())
}

/// What the experts add to the residual stream, the shared one among them, which may have a gate.
pub(super) fn feed_forward(layer: &mut Builder, normed: Value, mixture: &Mixture, layout: &Layout) -> Value {
    let scores = layer.linear(normed, ROUTER, mixture.routing.experts);
    let shares = layer.router(scores, mixture.routing);
    let asked = layer.experts(normed, shares, [GATE, UP, DOWN], mixture.n_ff, layout.activation);
    let Some(width) = mixture.shared_ff else { return asked };
    let gate = layer.linear(normed, "ffn_gate_shexp", width);
    let up = layer.linear(normed, "ffn_up_shexp", width);
    let act = layer.gated(gate, up, layout.activation);
    let mut shared = layer.linear(act, "ffn_down_shexp", layer.width(normed));
    if layout.shared_gate {
        let gate = layer.linear(normed, "ffn_gate_inp_shexp", 1);
        shared = layer.sigmoid_gate(shared, gate);
    }
    layer.add(asked, shared)
}
