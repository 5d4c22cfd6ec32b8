//! Gemma 3, text: norms before and behind both halves of a layer, five layers with a window for each one without.

use anyhow::Result;
use serde_json::{Value, json};

use super::hparams::{Keys, Layers};
use super::keys::{self, Defaults};
use super::layout::{HeadNorms, Layout, Norms};
use super::{Family, HfConfig, Hparams, Transform, gemma, names};
use crate::gguf::Metadata;
use crate::kernels::glu::Activation;
use crate::kernels::rope::RopeStyle;

pub(super) struct Gemma3;

const ARCHITECTURE: &str = "gemma3";
const LAYOUT: Layout = Layout {
    names: &[names::NORMS_AROUND, names::ATTENTION, names::GATED_MLP],
    norms: Norms::AROUND,
    head_norms: HeadNorms::Heads,
    activation: Activation::GeluTanh,
    ..Layout::LLAMA
};

/// One layer in so many sees all tokens. llama.cpp's converter writes no key for it.
const PATTERN: u32 = 6;
/// The number of layers by which llama.cpp knows the 27 B model, whose attention is scaled in another way.
const LAYERS_OF_27B: usize = 62;

/// transformers' defaults: `Gemma3TextConfig`.
const DEFAULTS: Defaults = Defaults {
    context: 131_072,
    kv_heads: Some(4),
    head_dim: Some(gemma::HEAD_DIM),
    theta: 1_000_000.0,
    local_theta: Some(LOCAL_THETA),
    ..Defaults::USUAL
};
const LOCAL_THETA: f64 = 10_000.0;

impl Gemma3 {
    /// Fails on a config that llama.cpp would run in another way: it has no keys for these.
    fn check(&self, config: &HfConfig) -> Result<()> {
        let refuse = |key| keys::refuse(config, "Gemma 3", key);
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            config.f64(key)?.map_or(Ok(()), |_| refuse(key))?;
        }
        if config.bool("use_bidirectional_attention")?.unwrap_or(false) {
            refuse("use_bidirectional_attention")?;
        }
        for key in ["sliding_window_pattern", "_sliding_window_pattern"] {
            config.u32(key)?.filter(|pattern| *pattern != PATTERN).map_or(Ok(()), |_| refuse(key))?;
        }
        if !keys::has_usual_windows(config, PATTERN as usize) {
            refuse("layer_types")?;
        }
        if !gemma::has_usual_scale(config, &DEFAULTS, LAYERS_OF_27B)? {
            refuse("query_pre_attn_scalar")?;
        }
        Ok(())
    }
}

impl Family for Gemma3 {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"]
    }

    /// `Gemma3TextConfig`: multimodal folders leave most of it out.
    fn config_defaults(&self) -> Vec<(&'static str, Value)> {
        vec![("num_attention_heads", json!(8)), ("vocab_size", json!(262_208)), ("tie_word_embeddings", json!(true))]
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Neox
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        self.check(config)?;
        let mut metadata = keys::common(ARCHITECTURE, config, &DEFAULTS, &LAYOUT, file_type)?;
        metadata.set("gemma3.attention.sliding_window", config.size_or("sliding_window", 4096)?);
        Ok(metadata)
    }

    fn transform(&self, _: &Hparams, gguf_name: &str) -> Transform {
        gemma::transform(gguf_name)
    }

    fn complete(&self, hparams: &mut Hparams, _: &Keys) -> Result<()> {
        // llama.cpp's defaults
        hparams.unwindowed.get_or_insert(Layers::Each(PATTERN as usize));
        let local = hparams.rope.local(LOCAL_THETA as f32);
        hparams.local_rope.get_or_insert(local);
        gemma::complete(hparams, LAYERS_OF_27B);
        Ok(())
    }
}
