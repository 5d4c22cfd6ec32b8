//! Llama 1 to 3, the Mistral and Mixtral models that share its layers, and SmolLM3, which leaves the rotation out in every fourth of them.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::hparams::{Keys, Layers};
use super::keys::{self, Defaults};
use super::layout::Layout;
use super::rope::{FACTORS, llama3_factors};
use super::{Extra, Family, HfConfig, Hparams, Transform, experts};
use crate::gguf::Metadata;
use crate::kernels::rope::RopeStyle;

pub(super) struct Llama;

const MISTRAL: &str = "MistralForCausalLM";
const MIXTRAL: &str = "MixtralForCausalLM";
const LAYOUT: Layout = Layout { experts: Some(&experts::BLOCK_SPARSE_MOE), ..Layout::LLAMA };

/// transformers' defaults: `LlamaConfig`, `MistralConfig`, `MixtralConfig`.
fn defaults(config: &HfConfig) -> Result<Defaults> {
    // a null counts as absent here; Mistral reads it as the number of heads
    let is_null = config.json().get("num_key_value_heads").is_some_and(|value| value.is_null());
    let (context, kv_heads) = match config.architecture()? {
        MISTRAL | MIXTRAL => (131_072, Some(8).filter(|_| !is_null)),
        _ => (2048, None),
    };
    // the class of Mixtral leaves it out
    let head_dim = match config.architecture()? {
        MIXTRAL => None,
        _ => Some(config.size("hidden_size")? / config.size("num_attention_heads")?),
    };
    Ok(Defaults { context, kv_heads, head_dim, ..Defaults::USUAL })
}

/// The keys of llama.cpp's converter for models that it treats as Llama.
pub(super) fn metadata(
    architecture: &str,
    config: &HfConfig,
    defaults: &Defaults,
    layout: &Layout,
    file_type: u32,
) -> Result<Metadata> {
    let mut metadata = keys::common(architecture, config, defaults, layout, file_type)?;
    metadata.set(format!("{architecture}.vocab_size"), config.size("vocab_size")?);
    metadata.set(format!("{architecture}.rope.dimension_count"), keys::head_dim(config, defaults)?);
    Ok(metadata)
}

/// Rows of queries and keys in the order of neighbours that rotate together.
pub(super) fn paired(hparams: &Hparams, gguf_name: &str) -> Transform {
    let is =
        |stem: &str| gguf_name.ends_with(&format!(".{stem}.weight")) || gguf_name.ends_with(&format!(".{stem}.bias"));
    if is("attn_q") {
        Transform::PairRows { heads: hparams.n_head }
    } else if is("attn_k") {
        Transform::PairRows { heads: hparams.n_head_kv }
    } else {
        Transform::None
    }
}

/// The tensor of Llama 3's scaling, in models that have it.
pub(super) fn factors(config: &HfConfig, defaults: &Defaults) -> Result<Vec<Extra>> {
    let rope = config.rope(config.size_or("max_position_embeddings", defaults.context)?)?;
    let rot = keys::head_dim(config, defaults)? as usize;
    let factors = llama3_factors(&rope.scaling, rope.theta, rot);
    Ok(factors.map(|values| Extra { name: FACTORS[0].into(), values }).into_iter().collect())
}

impl Family for Llama {
    fn architecture(&self) -> &'static str {
        "llama"
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["LlamaForCausalLM", MISTRAL, MIXTRAL]
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Norm
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        metadata(self.architecture(), config, &defaults(config)?, &LAYOUT, file_type)
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

    fn transform(&self, hparams: &Hparams, gguf_name: &str) -> Transform {
        paired(hparams, gguf_name)
    }

    fn extra_tensors(&self, config: &HfConfig) -> Result<Vec<Extra>> {
        factors(config, &defaults(config)?)
    }
}

pub(super) struct SmolLm3;

/// The last of each so many layers does not rotate. llama.cpp has no key for it.
const UNROTATED: usize = 4;

/// transformers' defaults: `SmolLM3Config`.
const SMOLLM3: Defaults = Defaults { context: 32_768, kv_heads: Some(4), theta: 2_000_000.0, ..Defaults::USUAL };

impl Family for SmolLm3 {
    fn architecture(&self) -> &'static str {
        "smollm3"
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["SmolLM3ForCausalLM"]
    }

    fn config_defaults(&self) -> Vec<(&'static str, Value)> {
        vec![("vocab_size", json!(128_256)), ("tie_word_embeddings", json!(true))]
    }

    fn layout(&self) -> &Layout {
        &Layout::LLAMA
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Norm
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let rotates = |il: usize| !Layers::Each(UNROTATED).contain(il);
        let listed = config.get("no_rope_layers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let is_usual = |(il, flag): (usize, &Value)| flag.as_u64() == Some(u64::from(rotates(il)));
        // a list that is there overrules the interval
        let interval = config.u32("no_rope_layer_interval")?.filter(|_| listed.is_empty());
        let is_other = interval.is_some_and(|interval| interval != UNROTATED as u32);
        if is_other || !listed.iter().enumerate().all(is_usual) {
            keys::refuse(config, "SmolLM3", "no_rope_layers")?;
        }
        if config.bool("use_sliding_window")?.unwrap_or(false) {
            bail!("`use_sliding_window` is not supported for SmolLM3: `{}`", config.path().display());
        }
        metadata(self.architecture(), config, &SMOLLM3, self.layout(), file_type)
    }

    fn transform(&self, hparams: &Hparams, gguf_name: &str) -> Transform {
        paired(hparams, gguf_name)
    }

    fn extra_tensors(&self, config: &HfConfig) -> Result<Vec<Extra>> {
        factors(config, &SMOLLM3)
    }

    fn complete(&self, hparams: &mut Hparams, _: &Keys) -> Result<()> {
        hparams.unrotated = Some(Layers::Each(UNROTATED));
        Ok(())
    }
}
