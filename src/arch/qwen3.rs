//! Qwen3, dense: queries and keys have a norm of their own, and heads are as wide as the config says.

use anyhow::{Result, bail};

use super::dense::{self, Defaults, Layout};
use super::hf_config::HfScaling;
use super::{Expected, Extra, Family, HfConfig, Hparams, Transform};
use crate::gguf::Metadata;
use crate::graph::Graph;
use crate::kernels::glu::Activation;
use crate::kernels::rope::RopeStyle;

pub(super) struct Qwen3;

const ARCHITECTURE: &str = "qwen3";
const LAYOUT: Layout =
    Layout { qk_norm: true, names: dense::NORMED_BEFORE, norms_behind: false, activation: Activation::Silu };

/// transformers' defaults: `Qwen3Config`.
fn defaults(config: &HfConfig) -> Result<Defaults> {
    // a key that is null is not absent: it means as many as there are heads
    let is_null = config.json().get("num_key_value_heads").is_some_and(|value| value.is_null());
    let kv_heads = if is_null { config.size("num_attention_heads")? } else { 32 };
    Ok(Defaults { context: 32_768, kv_heads, head_dim: 128 })
}

/// Fails on a config whose layers attend in different ways.
fn check_attention(config: &HfConfig) -> Result<()> {
    if config.bool("use_sliding_window")?.unwrap_or(false) && config.get("sliding_window").is_some() {
        bail!("`use_sliding_window` is not supported for Qwen3: `{}`", config.path().display());
    }
    Ok(())
}

impl Family for Qwen3 {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["Qwen3ForCausalLM"]
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Neox
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        check_attention(config)?;
        let defaults = defaults(config)?;
        let context = config.size_or("max_position_embeddings", defaults.context)?;
        if let HfScaling::Llama3 { .. } = config.rope(context)?.scaling {
            bail!("rope scaling `llama3` is not supported for Qwen3: `{}`", config.path().display());
        }
        dense::metadata(ARCHITECTURE, config, &defaults, LAYOUT, file_type)
    }

    fn gguf_name(&self, hf_name: &str) -> Option<String> {
        dense::gguf_name(hf_name, LAYOUT)
    }

    fn hf_name(&self, gguf_name: &str) -> Option<String> {
        dense::hf_name(gguf_name, LAYOUT)
    }

    fn transform(&self, _: &Hparams, _: &str) -> Transform {
        Transform::None
    }

    fn extra_tensors(&self, _: &HfConfig) -> Result<Vec<Extra>> {
        Ok(Vec::new())
    }

    fn hparams(&self, metadata: &Metadata, rows: &dyn Fn(&str) -> Option<usize>) -> Result<Hparams> {
        Hparams::read(metadata, ARCHITECTURE, self.rope_style(), rows("token_embd.weight"))
    }

    fn expected(&self, hparams: &Hparams) -> Vec<Expected> {
        dense::expected(hparams, LAYOUT)
    }

    fn layer(&self, hparams: &Hparams, il: usize, has_tensor: &dyn Fn(&str) -> bool) -> Graph {
        dense::layer(hparams, il, LAYOUT, has_tensor)
    }
}
