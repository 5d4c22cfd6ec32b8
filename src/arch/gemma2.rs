//! Gemma 2: norms before and behind both halves of a layer, soft caps on scores and logits, a window in every second layer.

use anyhow::Result;
use serde_json::{Value, json};

use super::hparams::{Keys, Layers};
use super::keys::{self, Defaults};
use super::layout::{Layout, Norms};
use super::{Family, HfConfig, Hparams, Transform, gemma, names};
use crate::gguf::Metadata;
use crate::kernels::glu::Activation;
use crate::kernels::rope::RopeStyle;

pub(super) struct Gemma2;

const ARCHITECTURE: &str = "gemma2";
const LAYOUT: Layout = Layout {
    names: &[names::NORMS_AROUND, names::ATTENTION, names::GATED_MLP],
    norms: Norms::AROUND,
    activation: Activation::GeluTanh,
    ..Layout::LLAMA
};

/// transformers' defaults: `Gemma2Config`.
const DEFAULTS: Defaults =
    Defaults { context: 8192, kv_heads: Some(4), head_dim: Some(gemma::HEAD_DIM), ..Defaults::USUAL };
const WINDOW: u32 = 4096;
const SCORE_CAP: f64 = 50.0;
const LOGIT_CAP: f64 = 30.0;
/// The last of each so many layers sees all tokens. llama.cpp's converter writes no key for it.
const PATTERN: usize = 2;
/// The number of layers by which llama.cpp knows the 27 B model, whose attention is scaled in another way.
const LAYERS_OF_27B: usize = 46;

impl Gemma2 {
    /// Fails on a config that llama.cpp would run in another way: it has no keys for these.
    fn check(&self, config: &HfConfig) -> Result<()> {
        let refuse = |key| keys::refuse(config, "Gemma 2", key);
        if !keys::has_usual_windows(config, PATTERN) {
            refuse("layer_types")?;
        }
        if !gemma::has_usual_scale(config, &DEFAULTS, LAYERS_OF_27B)? {
            refuse("query_pre_attn_scalar")?;
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            // a null would be no cap, an absent key the usual one
            if config.json().get(key).is_some_and(Value::is_null) {
                refuse(key)?;
            }
        }
        Ok(())
    }
}

impl Family for Gemma2 {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["Gemma2ForCausalLM"]
    }

    fn config_defaults(&self) -> Vec<(&'static str, Value)> {
        vec![("vocab_size", json!(256_000)), ("tie_word_embeddings", json!(true))]
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Neox
    }

    /// In the order of the converter, which has a function of its own for it.
    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        self.check(config)?;
        let common = keys::common(ARCHITECTURE, config, &DEFAULTS, &LAYOUT, file_type)?;
        let mut metadata = keys::some(
            &common,
            ARCHITECTURE,
            &[
                "context_length",
                "embedding_length",
                "block_count",
                "feed_forward_length",
                "attention.head_count",
                "attention.head_count_kv",
                "attention.layer_norm_rms_epsilon",
                "attention.key_length",
                "attention.value_length",
            ],
        );
        metadata.set("general.file_type", file_type);
        let cap = |key: &str, usual: f64| Ok::<_, anyhow::Error>(config.f64(key)?.unwrap_or(usual) as f32);
        metadata.set("gemma2.attn_logit_softcapping", cap("attn_logit_softcapping", SCORE_CAP)?);
        metadata.set("gemma2.final_logit_softcapping", cap("final_logit_softcapping", LOGIT_CAP)?);
        metadata.set("gemma2.attention.sliding_window", config.size_or("sliding_window", WINDOW)?);
        Ok(metadata)
    }

    fn transform(&self, _: &Hparams, gguf_name: &str) -> Transform {
        gemma::transform(gguf_name)
    }

    fn complete(&self, hparams: &mut Hparams, keys: &Keys) -> Result<()> {
        // llama.cpp's defaults
        hparams.window.get_or_insert(WINDOW as usize);
        hparams.unwindowed.get_or_insert(Layers::Each(PATTERN));
        hparams.attention_softcap = Some(keys.f32_or("attn_logit_softcapping", SCORE_CAP as f32)?);
        hparams.logits.softcap = Some(keys.f32_or("final_logit_softcapping", LOGIT_CAP as f32)?);
        gemma::complete(hparams, LAYERS_OF_27B);
        Ok(())
    }
}
