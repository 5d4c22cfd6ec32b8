//! From the memory of a graphics card to a size for the file: what a running model needs besides its weights.
//!
//! Sizes follow llama.cpp with its defaults: the whole model on the device, an f16 cache, flash attention, one sequence,
//! batches of 512 tokens. `docs/formulas.md` has the formulas.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::bytes_text;
use crate::arch::Hparams;

/// Tokens that llama.cpp computes at once (`--ubatch-size`).
const UBATCH: u64 = 512;

/// llama.cpp rounds contexts up to this many tokens.
const CONTEXT_STEP: u64 = 256;

/// Left to the driver: its context, its kernels, the allocator's losses.
pub const DRIVER_BYTES: u64 = 256 << 20;

/// What the memory of a running model depends on besides its weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunShape {
    /// Layers that keep keys and values of all tokens.
    pub full_layers: u64,
    /// Layers that keep those of the last `window` tokens only.
    #[serde(default)]
    pub windowed_layers: u64,
    #[serde(default)]
    pub window: u64,
    /// Elements of the keys and values that one layer keeps for one token, together.
    pub kv_width: u64,
    pub n_embd: u64,
    pub n_ff: u64,
    pub n_vocab: u64,
    /// What layers with linear attention keep, of contexts of any length.
    #[serde(default)]
    pub state_bytes: u64,
}

impl RunShape {
    /// Windows count where the family has a pattern of them: llama.cpp's graphs of the others know none, whatever the model's config says.
    pub fn of(hparams: &Hparams) -> RunShape {
        let linear = (0..hparams.n_layer).filter(|il| hparams.linear(*il).is_some()).count();
        let window = hparams.window.filter(|_| hparams.unwindowed.is_some());
        let windowed = (0..hparams.n_layer).filter(|il| window.is_some() && hparams.window(*il).is_some()).count();
        // values are a part of the latent
        let v_width = if hparams.mla.is_some() { 0 } else { hparams.v_width() };
        RunShape {
            full_layers: (hparams.n_layer - windowed - linear) as u64,
            windowed_layers: windowed as u64,
            window: window.unwrap_or(0) as u64,
            kv_width: (hparams.k_width() + v_width) as u64,
            n_embd: hparams.n_embd as u64,
            n_ff: hparams.n_ff as u64,
            n_vocab: hparams.n_vocab as u64,
            state_bytes: hparams.linear.as_ref().map_or(0, |kind| linear * kind.state_bytes()) as u64,
        }
    }

    /// The cache of keys and values in f16 for a context of `ctx` tokens, and states.
    pub fn kv_bytes(&self, ctx: u64) -> u64 {
        let ctx = whole_steps(ctx);
        let windowed = whole_steps(self.window.saturating_add(UBATCH)).min(ctx);
        let full = self.full_layers.saturating_mul(ctx);
        let cells = full.saturating_add(self.windowed_layers.saturating_mul(windowed));
        let kv = cells.saturating_mul(self.kv_width).saturating_mul(size_of::<half::f16>() as u64);
        kv.saturating_add(self.state_bytes)
    }

    /// Values between the weights: the logits of a batch, or a layer's activations and the f16 mask of attention.
    pub fn compute_bytes(&self, ctx: u64) -> u64 {
        let f32s = |elements: u64| elements.saturating_mul(size_of::<f32>() as u64);
        let logits = f32s(self.n_vocab.saturating_add(self.n_embd.saturating_mul(2)));
        let mask = whole_steps(ctx).saturating_mul(size_of::<half::f16>() as u64);
        let layer =
            f32s(self.n_embd.saturating_mul(4).saturating_add(self.n_ff.saturating_mul(3))).saturating_add(mask);
        UBATCH.saturating_mul(logits.max(layer))
    }

    /// Bytes left for the weights in `vram` bytes with a context of `ctx` tokens.
    pub fn budget(&self, vram: u64, ctx: u64) -> Result<u64> {
        let (kv, compute) = (self.kv_bytes(ctx), self.compute_bytes(ctx));
        if kv >= vram {
            bail!(
                "the KV cache of {ctx} tokens alone takes {}, and the memory is {}",
                bytes_text(kv),
                bytes_text(vram)
            );
        }
        let rest = kv.saturating_add(compute).saturating_add(DRIVER_BYTES);
        vram.checked_sub(rest).filter(|&left| left > 0).with_context(|| {
            format!(
                "nothing is left for the weights: the KV cache of {ctx} tokens takes {}, compute buffers {}, the driver {}, \
                 and the memory is {}",
                bytes_text(kv),
                bytes_text(compute),
                bytes_text(DRIVER_BYTES),
                bytes_text(vram)
            )
        })
    }
}

/// A context as llama.cpp rounds it. Sizes here saturate: an analysis file may hold any number.
fn whole_steps(ctx: u64) -> u64 {
    ctx.checked_next_multiple_of(CONTEXT_STEP).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `models/tiny-llama`.
    fn tiny() -> RunShape {
        RunShape { full_layers: 8, kv_width: 2 * 2 * 64, n_embd: 256, n_ff: 768, n_vocab: 4096, ..RunShape::default() }
    }

    /// What `llama-perplexity -v` printed for models/tiny-llama with flash attention: KV cells and compute buffers in KiB.
    #[test]
    fn sizes_are_those_of_llama_cpp() {
        assert_eq!([512, 8000, 8192].map(|ctx| tiny().kv_bytes(ctx) >> 20), [2, 32, 32]);
        let compute = [512, 2048, 8192, 16384].map(|ctx| tiny().compute_bytes(ctx) as f64 / f64::from(1 << 20));
        for (ours, theirs) in compute.into_iter().zip([9.0020, 9.0020, 14.5137, 22.5137]) {
            assert!((ours - theirs).abs() < 0.02, "{ours} and {theirs} MiB");
        }
    }

    #[test]
    fn windowed_layers_keep_their_window_only() {
        let windowed = RunShape { full_layers: 2, windowed_layers: 6, window: 1000, ..tiny() };
        // 1000 and a batch of 512, rounded up to 1536
        assert_eq!(windowed.kv_bytes(8192), (2 * 8192 + 6 * 1536) * 256 * 2);
        assert_eq!(windowed.kv_bytes(512), tiny().kv_bytes(512));
    }

    #[test]
    fn a_budget_is_what_the_rest_leaves() {
        let rest = tiny().kv_bytes(8192) + tiny().compute_bytes(8192) + DRIVER_BYTES;
        assert_eq!(tiny().budget(rest + 5, 8192).unwrap(), 5);
        let error = |vram| tiny().budget(vram, 8192).unwrap_err().to_string();
        assert!(error(rest).starts_with("nothing is left for the weights"));
        assert!(error(32 << 20).starts_with("the KV cache of 8192 tokens alone takes 33,554,432 bytes (32.00 MiB)"));
    }
}
