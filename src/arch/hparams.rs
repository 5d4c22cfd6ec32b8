//! Hyper-parameters, read from GGUF metadata alone with the defaults of llama.cpp's loader
//! (`src/llama-model.cpp`, `load_hparams`).

use anyhow::{Result, bail};

use super::deepseek::Mla;
use super::linear::LinearAttention;
use super::ranges;
use super::rope::{Rope, Scaling, Yarn};
use crate::gguf::{Array, Metadata, Value};
use crate::graph::ops::{Gating, Routing};
use crate::kernels::logit_shape::LogitShape;
use crate::kernels::norm::NormKind;
use crate::kernels::rope::RopeStyle;

/// The sizes and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Hparams {
    pub architecture: String,
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width between the feed-forward matrices.
    pub n_ff: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    /// Elements of one head of queries and keys.
    pub head_dim: usize,
    /// Elements of one head of values.
    pub value_dim: usize,
    /// What heads are made of where they come out of a latent.
    pub mla: Option<Mla>,
    pub n_vocab: usize,
    /// Longest context the model was trained for, in tokens.
    pub n_ctx_train: usize,
    pub norm: NormKind,
    pub norm_eps: f32,
    pub rope: Rope,
    /// Of layers with a window, where they have their own.
    pub local_rope: Option<Rope>,
    /// Tokens that attention sees, itself included, in layers that do not see all.
    pub window: Option<usize>,
    /// The layers that see all tokens all the same.
    pub unwindowed: Option<Layers>,
    /// The layers whose queries and keys are not rotated.
    pub unrotated: Option<Layers>,
    /// What attention scores are multiplied by.
    pub attention_scale: f32,
    /// Scaled scores s become softcap tanh(s / softcap).
    pub attention_softcap: Option<f32>,
    /// What rows of the embedding are multiplied by.
    pub embedding_scale: f32,
    /// What each half of a layer is multiplied by before it is added.
    pub residual_scale: f32,
    /// What becomes of the products with the output matrix.
    pub logits: LogitShape,
    /// What layers have in place of one feed-forward part, in families with experts.
    pub mixture: Option<Mixture>,
    /// Layers before those with experts.
    pub dense_layers: usize,
    /// What most layers have in place of attention, in families with linear attention.
    pub linear: Option<LinearAttention>,
}

/// Some of the layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    /// The last of each so many.
    Each(usize),
    /// By their numbers.
    Listed(Vec<bool>),
}

impl Layers {
    pub fn contain(&self, il: usize) -> bool {
        match self {
            Layers::Each(count) => (il + 1).is_multiple_of(*count),
            Layers::Listed(list) => list.get(il).copied().unwrap_or(false),
        }
    }
}

/// The experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixture {
    pub routing: Routing,
    /// Width between an expert's matrices.
    pub n_ff: usize,
    /// The same of the expert that all tokens ask; none without.
    pub shared_ff: Option<usize>,
}

impl Hparams {
    /// Width of the queries of one token.
    pub fn q_width(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Width of the keys of one token.
    pub fn k_width(&self) -> usize {
        self.n_head_kv * self.head_dim
    }

    /// Width of the values of one token.
    pub fn v_width(&self) -> usize {
        self.n_head_kv * self.value_dim
    }

    /// Tokens that attention of layer `il` sees, itself included, where it does not see all.
    pub fn window(&self, il: usize) -> Option<usize> {
        self.window.filter(|_| !self.unwindowed.as_ref().is_some_and(|layers| layers.contain(il)))
    }

    /// Place of the layer's table among those of [`Hparams::ropes`]; none if it does not rotate.
    pub fn rope_table(&self, il: usize) -> Option<usize> {
        let is_rotated = !self.unrotated.as_ref().is_some_and(|layers| layers.contain(il));
        is_rotated.then_some(usize::from(self.local_rope.is_some() && self.window(il).is_some()))
    }

    /// The experts of layer `il`, if it has any.
    pub fn mixture(&self, il: usize) -> Option<&Mixture> {
        self.mixture.as_ref().filter(|_| il >= self.dense_layers)
    }

    /// The linear attention of layer `il`, if it has that.
    pub fn linear(&self, il: usize) -> Option<&LinearAttention> {
        self.linear.as_ref().filter(|linear| !linear.others.contain(il))
    }

    /// How positions become angles: in most layers, and in those with a window where they have their own.
    pub fn ropes(&self) -> impl Iterator<Item = &Rope> {
        [&self.rope].into_iter().chain(&self.local_rope)
    }

    /// Reads the keys of `architecture`. `n_vocab` is the number of rows of the embedding, if known.
    ///
    /// Fails if a key that llama.cpp needs is missing, or describes a model that is not a plain decoder.
    pub fn read(metadata: &Metadata, architecture: &str, style: RopeStyle, n_vocab: Option<usize>) -> Result<Hparams> {
        let keys = Keys { metadata, architecture };
        let n_embd = keys.size("embedding_length")?;
        let n_head = keys.size("attention.head_count")?;
        let head_dim = keys.size_or("attention.key_length", n_embd / n_head)?;
        let value_dim = keys.size_or("attention.value_length", n_embd / n_head)?;
        let n_head_kv = keys.size_or("attention.head_count_kv", n_head)?;
        if head_dim == 0 || value_dim == 0 || n_head_kv == 0 || !n_head.is_multiple_of(n_head_kv) {
            bail!("{n_head} heads cannot share {n_head_kv} key-value heads: `{architecture}.attention.head_count_kv`");
        }
        let n_ctx_train = keys.size("context_length")?;
        let rope = keys.rope(style, head_dim, n_ctx_train)?;
        Ok(Hparams {
            architecture: architecture.to_owned(),
            n_layer: keys.size("block_count")?,
            n_embd,
            n_ff: keys.size("feed_forward_length")?,
            n_head,
            n_head_kv,
            head_dim,
            value_dim,
            mla: None,
            n_vocab: n_vocab.map_or_else(|| keys.vocabulary(), Ok)?,
            n_ctx_train,
            norm: NormKind::Rms,
            norm_eps: keys.norm_eps()?,
            local_rope: keys.optional_f32("rope.freq_base_swa")?.map(|base| rope.local(base)),
            rope,
            window: Some(keys.size_or("attention.sliding_window", 0)?).filter(|&window| window > 0),
            unwindowed: keys.unwindowed()?,
            unrotated: None,
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
            attention_softcap: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logits: LogitShape::PLAIN,
            mixture: keys.mixture()?,
            dense_layers: 0,
            linear: None,
        })
    }

    /// Number of experts of a layer, 0 without.
    pub fn n_expert(&self) -> usize {
        self.mixture.map_or(0, |mixture| mixture.routing.experts)
    }

    /// Fails on a mixture of experts, in families that have none here.
    pub fn check_dense(&self) -> Result<()> {
        match self.mixture {
            None => Ok(()),
            Some(_) => {
                bail!("mixture-of-experts models are not supported for it: `{}.expert_count`", self.architecture)
            }
        }
    }

    /// Fails where a part of each head is rotated, in families in which llama.cpp rotates all.
    pub fn check_whole_heads_rotate(&self) -> Result<()> {
        let (rot, head_dim) = (self.rope.rot, self.head_dim);
        if rot != head_dim {
            bail!(
                "heads of {head_dim} with {rot} rotated elements are not supported: `{}.rope.dimension_count`",
                self.architecture
            );
        }
        Ok(())
    }

    /// Takes off the layers that predict tokens further ahead, which stand behind the others and take no part here.
    pub(super) fn leave_out_prediction(&mut self, keys: &Keys) -> Result<()> {
        let count = keys.size_or("nextn_predict_layers", 0)?;
        if count >= self.n_layer {
            bail!("{count} of {} layers cannot be left out: `{}`", self.n_layer, keys.name("nextn_predict_layers"));
        }
        self.n_layer -= count;
        Ok(())
    }

    /// Fails without a mixture of experts, in families that always have one.
    pub fn check_mixture(&self) -> Result<()> {
        match self.mixture {
            Some(_) => Ok(()),
            None => bail!("metadata key is missing: `{}.expert_count`", self.architecture),
        }
    }
}

/// The metadata under one architecture's prefix.
pub struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) architecture: &'a str,
}

impl Keys<'_> {
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A whole number above 0.
    pub(super) fn size(&self, key: &str) -> Result<usize> {
        match self.optional_size(key)? {
            Some(0) => bail!("metadata key is 0: `{}`", self.name(key)),
            Some(size) => Ok(size),
            None => bail!("metadata key is missing: `{}`", self.name(key)),
        }
    }

    pub(super) fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    /// A whole number; or an array of one number per layer, all equal.
    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let name = self.name(key);
        let size = match self.metadata.get(&name) {
            None => return Ok(None),
            Some(Value::Array(array)) => match equal_items(array) {
                Some(size) => size,
                None => bail!("layers that differ from each other are not supported: `{name}`"),
            },
            Some(_) => self.metadata.require_u32(&name)?.into(),
        };
        // of 0 the caller knows more
        if size > 0 {
            ranges::check_gguf(self.architecture, key, size as f64)?;
        }
        Ok(Some(size as usize))
    }

    pub(super) fn f32(&self, key: &str) -> Result<f32> {
        let number = self.metadata.require_f32(&self.name(key))?;
        ranges::check_gguf(self.architecture, key, number.into())?;
        Ok(number)
    }

    pub(super) fn optional_f32(&self, key: &str) -> Result<Option<f32>> {
        self.metadata.contains(&self.name(key)).then(|| self.f32(key)).transpose()
    }

    pub(super) fn f32_or(&self, key: &str, default: f32) -> Result<f32> {
        Ok(self.optional_f32(key)?.unwrap_or(default))
    }

    fn mixture(&self) -> Result<Option<Mixture>> {
        let experts = self.size_or("expert_count", 0)?;
        if experts == 0 {
            return Ok(None);
        }
        let used = self.size("expert_used_count")?;
        if used > experts {
            bail!("{used} of {experts} experts cannot be used: `{}`", self.name("expert_used_count"));
        }
        let n_ff = match self.optional_size("expert_feed_forward_length")? {
            Some(n_ff) if n_ff > 0 => n_ff,
            _ => self.size("feed_forward_length")?,
        };
        let shared_count = self.size_or("expert_shared_count", 0)?;
        let shared_ff = self.size_or("expert_shared_feed_forward_length", n_ff * shared_count)?;
        let routing = self.routing(experts, used)?;
        Ok(Some(Mixture { routing, n_ff, shared_ff: Some(shared_ff).filter(|&width| width > 0) }))
    }

    fn routing(&self, experts: usize, used: usize) -> Result<Routing> {
        // llama.cpp's enumeration; the third is a softmax of those that are asked, which is the same as shares that sum up to 1
        let gating = match self.size_or("expert_gating_func", 1)? {
            0 | 1 | 3 => Gating::Softmax,
            2 => Gating::Sigmoid,
            other => bail!("unsupported gating of experts: `{other}` under `{}`", self.name("expert_gating_func")),
        };
        let (groups, groups_used) =
            (self.size_or("expert_group_count", 1)?, self.size_or("expert_group_used_count", 1)?);
        if groups > 1
            && (groups_used > groups || !experts.is_multiple_of(groups) || used > experts / groups * groups_used)
        {
            bail!(
                "{used} of {experts} experts cannot be used in {groups_used} of {groups} groups: `{}`",
                self.name("expert_group_count")
            );
        }
        let scale = self.f32_or("expert_weights_scale", 1.0)?;
        let normalizes = self.metadata.bool(&self.name("expert_weights_norm")).unwrap_or(true);
        // 0 and absence both mean 1
        let scale = if scale == 0.0 { 1.0 } else { scale };
        Ok(Routing { experts, used, gating, groups: groups.max(1), groups_used: groups_used.max(1), normalizes, scale })
    }

    /// Of whichever kind of norm the architecture has.
    fn norm_eps(&self) -> Result<f32> {
        match self.optional_f32("attention.layer_norm_epsilon")? {
            Some(eps) if !self.metadata.contains(&self.name("attention.layer_norm_rms_epsilon")) => Ok(eps),
            _ => self.f32("attention.layer_norm_rms_epsilon"),
        }
    }

    /// The pattern is a number, or says of each layer whether it has a window.
    fn unwindowed(&self) -> Result<Option<Layers>> {
        const KEY: &str = "attention.sliding_window_pattern";
        if let Some(Value::Array(Array::Bool(windowed))) = self.metadata.get(&self.name(KEY)) {
            return Ok(Some(Layers::Listed(windowed.iter().map(|windowed| !windowed).collect())));
        }
        Ok(self.optional_size(KEY)?.filter(|&pattern| pattern > 0).map(Layers::Each))
    }

    fn vocabulary(&self) -> Result<usize> {
        match self.metadata.strings("tokenizer.ggml.tokens") {
            Some(tokens) => Ok(tokens.len()),
            None => self.size("vocab_size"),
        }
    }

    fn rope(&self, style: RopeStyle, head_dim: usize, n_ctx_train: usize) -> Result<Rope> {
        let rot = self.size_or("rope.dimension_count", head_dim)?;
        if rot == 0 || rot > head_dim || !rot.is_multiple_of(2) {
            bail!("heads of {head_dim} cannot have {rot} rotated elements: `{}`", self.name("rope.dimension_count"));
        }
        let freq_base = self.f32_or("rope.freq_base", 10_000.0)?;
        let attn_factor = self.f32_or("rope.scaling.attn_factor", 1.0)?;
        let original_context = self.size_or("rope.scaling.original_context_length", n_ctx_train)? as u32;
        Ok(Rope { style, rot, freq_base, attn_factor, original_context, scaling: self.scaling()? })
    }

    fn scaling(&self) -> Result<Scaling> {
        // the second is the old name; 0 and absence both mean 1
        let given = ["rope.scaling.factor", "rope.scale_linear"]
            .into_iter()
            .find(|key| self.metadata.contains(&self.name(key)) && self.metadata.f32(&self.name(key)) != Some(0.0));
        let factor = given.map_or(Ok(1.0), |key| self.f32(key))?;
        let name = self.name("rope.scaling.type");
        match self.metadata.str(&name).unwrap_or("linear") {
            // the tensors of factors say it all
            "none" | "longrope" => Ok(Scaling::None),
            "linear" if factor == 1.0 => Ok(Scaling::None),
            "linear" => Ok(Scaling::Linear { factor }),
            "yarn" => Ok(Scaling::Yarn(self.yarn(factor)?)),
            other => bail!("unsupported rope scaling: `{other}` under `{name}`"),
        }
    }

    fn yarn(&self, factor: f32) -> Result<Yarn> {
        let attention_factor = self.f32_or("rope.scaling.yarn_attn_factor", -1.0)?;
        let ext_factor = self.f32_or("rope.scaling.yarn_ext_factor", -1.0)?;
        Ok(Yarn {
            factor,
            ext_factor: if ext_factor < 0.0 { 1.0 } else { ext_factor },
            beta_fast: self.f32_or("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: self.f32_or("rope.scaling.yarn_beta_slow", 1.0)?,
            attention_factor: Some(attention_factor).filter(|&factor| factor >= 0.0),
            log_multiplier: self.f32_or("rope.scaling.yarn_log_multiplier", 0.0)?,
        })
    }
}

/// The value of a non-empty array whose items are all the same whole number.
fn equal_items(array: &Array) -> Option<u64> {
    let items = array.whole_numbers()?;
    let first = *items.first()?;
    items.iter().all(|&item| item == first).then_some(first)?.try_into().ok()
}
