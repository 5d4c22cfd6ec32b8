//! OLMo 2 and 3: norms behind each half of a layer and none before, queries and keys normed over all heads together. OLMo 3 has
//! windows in three of four layers.

use anyhow::{Result, bail};
use serde_json::Value;

use super::hparams::{Keys, Layers};
use super::keys::{self, Defaults};
use super::layout::{HeadNorms, Layout, Norms};
use super::{Family, HfConfig, Hparams, names};
use crate::gguf::Metadata;
use crate::kernels::rope::RopeStyle;

pub(super) struct Olmo2;

const LAYOUT: Layout = Layout {
    names: &[names::NORMS_BEHIND, names::ATTENTION, names::GATED_MLP],
    norms: Norms::BEHIND,
    head_norms: HeadNorms::Rows,
    ..Layout::LLAMA
};

/// transformers' defaults: `Olmo2Config`, `Olmo3Config`.
const DEFAULTS: Defaults = Defaults { eps: 1e-5, ..Defaults::USUAL };
/// Of OLMo 3, which has a window.
const OLMO3: &str = "Olmo3ForCausalLM";
const WINDOW: u32 = 4096;
/// One layer in so many sees all tokens.
const PATTERN: usize = 4;

/// Which layers have a window.
fn windowed(config: &HfConfig) -> Result<Vec<bool>> {
    let count = config.size("num_hidden_layers")? as usize;
    let Some(kinds) = config.get("layer_types").and_then(Value::as_array) else {
        return Ok((0..count).map(|il| !Layers::Each(PATTERN).contain(il)).collect());
    };
    if kinds.len() != count {
        bail!("`layer_types` has {} entries for {count} layers: `{}`", kinds.len(), config.path().display());
    }
    Ok(kinds.iter().map(|kind| kind == "sliding_attention").collect())
}

impl Family for Olmo2 {
    fn architecture(&self) -> &'static str {
        "olmo2"
    }

    fn hf_architectures(&self) -> &'static [&'static str] {
        &["Olmo2ForCausalLM", OLMO3]
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn rope_style(&self) -> RopeStyle {
        RopeStyle::Neox
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let mut metadata = keys::common(self.architecture(), config, &DEFAULTS, &LAYOUT, file_type)?;
        if config.architecture()? == OLMO3 {
            metadata.set("olmo2.attention.sliding_window", config.size_or("sliding_window", WINDOW)?);
            metadata.set("olmo2.attention.sliding_window_pattern", windowed(config)?);
        }
        Ok(metadata)
    }

    fn complete(&self, hparams: &mut Hparams, _: &Keys) -> Result<()> {
        if hparams.window.is_some() {
            hparams.unwindowed.get_or_insert(Layers::Each(PATTERN));
            // of the same base, but not stretched
            let local = hparams.rope.local(hparams.rope.freq_base);
            hparams.local_rope.get_or_insert(local);
        }
        Ok(())
    }
}
