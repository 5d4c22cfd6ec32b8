//! Llama 1 to 3, and the Mistral and Mixtral models that share its layers.

use anyhow::Result;

use super::decoder::{self, Defaults, Layout};
use super::hf_config::THETA;
use super::rope::llama3_factors;
use super::{Expected, Extra, Family, HfConfig, Hparams, Place, Transform, experts};
use crate::gguf::Metadata;
use crate::graph::Graph;
use crate::kernels::rope::RopeStyle;

pub(super) struct Llama;

const ARCHITECTURE: &str = "llama";
const MISTRAL: &str = "MistralForCausalLM";
const MIXTRAL: &str = "MixtralForCausalLM";
const LAYOUT: Layout = Layout { experts: Some(&experts::BLOCK_SPARSE_MOE), ..Layout::llama(false) };

/// transformers' defaults: `LlamaConfig`, `MistralConfig`, `MixtralConfig`.
fn defaults(config: &HfConfig) -> Result<Defaults> {
    let heads = config.size("num_attention_heads")?;
    let (context, kv_heads) = match config.architecture()? {
        // a null counts as absent here; Mistral reads it as the number of heads
        MISTRAL | MIXTRAL if !config.json().get("num_key_value_heads").is_some_and(|value| value.is_null()) => {
            (131_072, 8)
        }
        MISTRAL | MIXTRAL => (131_072, heads),
        _ => (2048, heads),
    };
    // the class of Mixtral leaves it out
    let head_dim = match config.architecture()? {
        MIXTRAL => None,
        _ => Some(config.size("hidden_size")? / heads),
    };
    Ok(Defaults { context, kv_heads, head_dim, theta: THETA, local_theta: None })
}

/// Elements of a head.
fn head_dim(config: &HfConfig) -> Result<u32> {
    config.size_or("head_dim", config.size("hidden_size")? / config.size("num_attention_heads")?)
}

impl Family for Llama {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["LlamaForCausalLM", MISTRAL, MIXTRAL]
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Norm
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let defaults = defaults(config)?;
        let mut metadata = decoder::metadata(ARCHITECTURE, config, &defaults, LAYOUT, file_type)?;
        metadata.set("llama.vocab_size", config.size("vocab_size")?);
        metadata.set("llama.rope.dimension_count", head_dim(config)?);
        Ok(metadata)
    }

    /// Mistral's window is in config.json alone: llama.cpp's converter writes no key for it, and its `llama` graph
    /// has no window.
    fn config_window(&self, config: &HfConfig) -> Result<Option<usize>> {
        let window = match config.architecture()? {
            MISTRAL if config.json().get("sliding_window").is_none() => Some(4096),
            MISTRAL | MIXTRAL => config.u32("sliding_window")?,
            _ => None,
        };
        Ok(window.map(|window| window as usize))
    }

    fn place(&self, hf_name: &str) -> Option<Place> {
        decoder::place(hf_name, LAYOUT)
    }

    fn hf_name(&self, place: &Place) -> Option<String> {
        decoder::hf_name(place, LAYOUT)
    }

    fn transform(&self, hparams: &Hparams, gguf_name: &str) -> Transform {
        let is = |stem: &str| {
            gguf_name.ends_with(&format!(".{stem}.weight")) || gguf_name.ends_with(&format!(".{stem}.bias"))
        };
        if is("attn_q") {
            Transform::PairRows { heads: hparams.n_head }
        } else if is("attn_k") {
            Transform::PairRows { heads: hparams.n_head_kv }
        } else {
            Transform::None
        }
    }

    fn extra_tensors(&self, config: &HfConfig) -> Result<Vec<Extra>> {
        let defaults = defaults(config)?;
        let rope = config.rope(config.size_or("max_position_embeddings", defaults.context)?)?;
        let rot = head_dim(config)? as usize;
        let factors = llama3_factors(&rope.scaling, rope.theta, rot);
        Ok(factors.map(|values| Extra { name: "rope_freqs.weight".into(), values }).into_iter().collect())
    }

    fn hparams(&self, metadata: &Metadata, rows: &dyn Fn(&str) -> Option<usize>) -> Result<Hparams> {
        Hparams::read(metadata, ARCHITECTURE, self.rope_style(), rows("token_embd.weight"))
    }

    fn expected(&self, hparams: &Hparams) -> Vec<Expected> {
        decoder::expected(hparams, LAYOUT)
    }

    fn layer(&self, hparams: &Hparams, il: usize, has_tensor: &dyn Fn(&str) -> bool) -> Graph {
        decoder::layer(hparams, il, LAYOUT, has_tensor)
    }
}
