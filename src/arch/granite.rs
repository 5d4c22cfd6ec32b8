//! Granite 3: Llama's layers with constants of its own before and behind them; with experts in some models.

use anyhow::Result;

use super::hparams::Keys;
use super::keys::Defaults;
use super::layout::Layout;
use super::llama::{self, paired};
use super::names::{self, Names};
use super::tensor_class::in_layer;
use super::{Extra, Family, HfConfig, Hparams, Transform, experts};
use crate::gguf::Metadata;
use crate::kernels::rope::RopeStyle;

pub(super) struct Granite {
    architecture: &'static str,
    hf_architectures: &'static [&'static str],
    layout: Layout,
}

pub(super) static GRANITE: Granite =
    Granite { architecture: "granite", hf_architectures: &["GraniteForCausalLM"], layout: Layout::LLAMA };

pub(super) static GRANITE_MOE: Granite = Granite {
    architecture: "granitemoe",
    hf_architectures: &["GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"],
    layout: Layout {
        names: &[names::NORMS_BEFORE, names::ATTENTION, EXPERTS],
        experts: Some(&experts::FUSED),
        ..Layout::LLAMA
    },
};

/// Gate and up are one tensor, those of all experts together.
const EXPERTS: Names = &[
    ("ffn_gate_inp", "block_sparse_moe.router.layer"),
    ("ffn_gate_exps", "block_sparse_moe.input_linear"),
    ("ffn_up_exps", "block_sparse_moe.input_linear"),
    ("ffn_down_exps", "block_sparse_moe.output_linear"),
    ("ffn_gate_shexp", "shared_mlp.input_linear"),
    ("ffn_up_shexp", "shared_mlp.input_linear"),
    ("ffn_down_shexp", "shared_mlp.output_linear"),
];

/// Constants: llama.cpp's key, and that of config.json with its default.
const SCALES: [(&str, &str); 4] = [
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
];

impl Family for Granite {
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
        RopeStyle::Norm
    }

    fn metadata(&self, config: &HfConfig, file_type: u32) -> Result<Metadata> {
        let name = |key: &str| format!("{}.{key}", self.architecture);
        let mut metadata = llama::metadata(self.architecture, config, &Defaults::USUAL, &self.layout, file_type)?;
        for (key, hf) in SCALES {
            metadata.set(name(key), config.f64(hf)?.unwrap_or(1.0) as f32);
        }
        if let Some(width) = config.u32("shared_intermediate_size")?.filter(|&width| width > 0) {
            metadata.set(name("expert_shared_feed_forward_length"), width);
        }
        Ok(metadata)
    }

    fn transform(&self, hparams: &Hparams, gguf_name: &str) -> Transform {
        let Some(mixture) = &hparams.mixture else { return paired(hparams, gguf_name) };
        let half =
            |second: usize, width: usize| Transform::CutRows { period: 2 * width, first: second * width, count: width };
        match in_layer(gguf_name) {
            "ffn_gate_exps.weight" => half(0, mixture.n_ff),
            "ffn_up_exps.weight" => half(1, mixture.n_ff),
            "ffn_gate_shexp.weight" => half(0, mixture.shared_ff.unwrap_or(1)),
            "ffn_up_shexp.weight" => half(1, mixture.shared_ff.unwrap_or(1)),
            _ => paired(hparams, gguf_name),
        }
    }

    fn extra_tensors(&self, config: &HfConfig) -> Result<Vec<Extra>> {
        llama::factors(config, &Defaults::USUAL)
    }

    fn complete(&self, hparams: &mut Hparams, keys: &Keys) -> Result<()> {
        if self.layout.experts.is_some() {
            hparams.check_mixture()?;
        }
        hparams.attention_scale = keys.f32_or("attention.scale", hparams.attention_scale)?;
        hparams.embedding_scale = keys.f32_or("embedding_scale", 1.0)?;
        hparams.residual_scale = keys.f32_or("residual_scale", 1.0)?;
        // what logits are divided by
        hparams.logits.scale = 1.0 / keys.f32("logit_scale")?;
        Ok(())
    }
}
