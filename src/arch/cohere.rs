//! Command R7B (Cohere 2): attention and feed-forward read the same layer norm, side by side; three layers with a window and
//! rotation for each one with neither.

use anyhow::Result;
use serde_json::{Value, json};

use super::hparams::{Keys, Layers};
use super::keys::{self, Defaults};
use super::layout::{self, Join, Layout, Norms};
use super::names::{self, Names};
use super::{Family, HfConfig, Hparams};
use crate::gguf::Metadata;
use crate::graph::{Graph, Value as Stream};
use crate::kernels::norm::NormKind;
use crate::kernels::rope::RopeStyle;

pub(super) struct Cohere2;

const ARCHITECTURE: &str = "cohere2";
const NORM: &str = "attn_norm";
const NORMS: Names = &[(NORM, "input_layernorm")];
const LAYOUT: Layout = Layout {
    names: &[NORMS, names::ATTENTION, names::GATED_MLP],
    norm: NormKind::Layer,
    norms: Norms { attn: Some(NORM), behind_attn: None, ffn: None, behind_ffn: None },
    ..Layout::LLAMA
};

/// transformers' defaults: `Cohere2Config`.
const DEFAULTS: Defaults = Defaults { context: 8192, eps: 1e-5, ..Defaults::USUAL };
const WINDOW: u32 = 4096;
const LOGIT_SCALE: f64 = 0.0625;
/// The last of each so many layers sees all tokens, and does not rotate. llama.cpp's converter writes no key for it.
const PATTERN: usize = 4;

impl Family for Cohere2 {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["Cohere2ForCausalLM"]
    }

    fn config_defaults(&self) -> Vec<(&'static str, Value)> {
        vec![("vocab_size", json!(256_000)), ("tie_word_embeddings", json!(true))]
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Norm
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let refuse = |key| keys::refuse(config, "Cohere 2", key);
        if !keys::has_usual_windows(config, PATTERN) {
            refuse("layer_types")?;
        }
        if config.bool("attention_bias")?.unwrap_or(false) {
            refuse("attention_bias")?;
        }
        let mut metadata = keys::common(ARCHITECTURE, config, &DEFAULTS, &LAYOUT, file_type)?;
        metadata.set("cohere2.logit_scale", config.f64("logit_scale")?.unwrap_or(LOGIT_SCALE) as f32);
        metadata.set("cohere2.attention.sliding_window", config.size_or("sliding_window", WINDOW)?);
        metadata.set("cohere2.vocab_size", config.size("vocab_size")?);
        metadata.set("cohere2.rope.dimension_count", keys::head_dim(config, &DEFAULTS)?);
        metadata.set("cohere2.rope.scaling.type", "none");
        Ok(metadata)
    }

    fn complete(&self, hparams: &mut Hparams, keys: &Keys) -> Result<()> {
        let all = hparams.unwindowed.get_or_insert(Layers::Each(PATTERN)).clone();
        hparams.unrotated = Some(all);
        hparams.logits.scale = keys.f32("logit_scale")?;
        Ok(())
    }

    fn layer(&self, hparams: &Hparams, il: usize, has_tensor: &dyn Fn(&str) -> bool) -> Graph {
        let mut layer = layout::builder(hparams, il, has_tensor);
        let normed = layer.norm(Stream::INPUT, NORM);
        let mixed = layout::attention(&mut layer, hparams, il, normed, &LAYOUT);
        let hidden = layer.linear_onto(Stream::INPUT, mixed, "attn_output");
        let output = layout::feed_forward(&mut layer, hparams, il, [hidden, normed], &LAYOUT, Join::PLAIN);
        layer.finish(output)
    }
}
