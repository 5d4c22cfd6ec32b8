//! Qwen2 and 2.5, whose queries, keys and values have biases, and Qwen3, whose queries and keys have a norm of their own: dense, or
//! with experts.

use anyhow::{Result, bail};

use super::hf_config::HfScaling;
use super::hparams::Keys;
use super::keys::{self, Defaults};
use super::layout::{HeadNorms, Layout};
use super::{Family, HfConfig, Hparams, experts, names};
use crate::gguf::Metadata;
use crate::kernels::rope::RopeStyle;

pub(super) struct Qwen {
    architecture: &'static str,
    hf_architectures: &'static [&'static str],
    layout: Layout,
    /// Elements of a head, where config.json leaves them out; else the hidden size is shared between the heads.
    head_dim: Option<u32>,
}

const NORMED_HEADS: Layout = Layout { head_norms: HeadNorms::Heads, ..Layout::LLAMA };

pub(super) static QWEN2: Qwen =
    Qwen { architecture: "qwen2", hf_architectures: &["Qwen2ForCausalLM"], layout: Layout::LLAMA, head_dim: None };

pub(super) static QWEN2_MOE: Qwen = Qwen {
    architecture: "qwen2moe",
    hf_architectures: &["Qwen2MoeForCausalLM"],
    layout: Layout {
        names: &[names::NORMS_BEFORE, names::ATTENTION, experts::SHARED_WITH_GATE],
        shared_gate: true,
        experts: Some(&experts::MLP_EXPERTS),
        ..Layout::LLAMA
    },
    head_dim: None,
};

pub(super) static QWEN3: Qwen =
    Qwen { architecture: "qwen3", hf_architectures: &["Qwen3ForCausalLM"], layout: NORMED_HEADS, head_dim: Some(128) };

pub(super) static QWEN3_MOE: Qwen = Qwen {
    architecture: "qwen3moe",
    hf_architectures: &["Qwen3MoeForCausalLM"],
    layout: Layout { experts: Some(&experts::MLP_EXPERTS), ..NORMED_HEADS },
    head_dim: Some(128),
};

impl Qwen {
    /// transformers' defaults: `Qwen2Config`, `Qwen3Config`.
    fn defaults(&self, config: &HfConfig) -> Defaults {
        // a key that is null is not absent: it means as many as there are heads
        let is_null = config.json().get("num_key_value_heads").is_some_and(|value| value.is_null());
        let kv_heads = Some(32).filter(|_| !is_null);
        Defaults { context: 32_768, kv_heads, head_dim: self.head_dim, ..Defaults::USUAL }
    }

    /// Fails on a config that llama.cpp would run in another way.
    fn check(&self, config: &HfConfig, context: u32) -> Result<()> {
        let refuse = |what: &str| -> Result<()> {
            bail!("{what} is not supported for {}: `{}`", self.architecture, config.path().display())
        };
        if config.bool("use_sliding_window")?.unwrap_or(false) && config.get("sliding_window").is_some() {
            refuse("`use_sliding_window`")?;
        }
        if let HfScaling::Llama3 { .. } = config.rope(context)?.scaling {
            refuse("rope scaling `llama3`")?;
        }
        if self.layout.experts.is_none() {
            return Ok(());
        }
        experts::check_all_layers(config, &refuse)?;
        let normalizes = config.bool("norm_topk_prob")?.unwrap_or(false);
        if normalizes == self.layout.shared_gate {
            refuse(&format!("`norm_topk_prob` of {normalizes}"))?;
        }
        Ok(())
    }
}

impl Family for Qwen {
    fn architecture(&self) -> &'static str {
        self.architecture
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        self.hf_architectures
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Neox
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let defaults = self.defaults(config);
        self.check(config, config.size_or("max_position_embeddings", defaults.context)?)?;
        let mut metadata = keys::common(self.architecture, config, &defaults, &self.layout, file_type)?;
        if self.layout.experts.is_some() {
            let hidden = config.size("moe_intermediate_size")?;
            metadata.set(format!("{}.expert_feed_forward_length", self.architecture), hidden);
        }
        if let Some(width) = config.u32("shared_expert_intermediate_size")?.filter(|_| self.layout.shared_gate) {
            metadata.set(format!("{}.expert_shared_feed_forward_length", self.architecture), width);
        }
        Ok(metadata)
    }

    fn complete(&self, hparams: &mut Hparams, _: &Keys) -> Result<()> {
        if self.layout.experts.is_some() {
            hparams.check_mixture()?;
        }
        if let Some(mixture) = hparams.mixture.as_mut().filter(|_| self.layout.shared_gate) {
            mixture.routing.normalizes = false;
            mixture.shared_ff.get_or_insert(hparams.n_ff);
        }
        Ok(())
    }
}
