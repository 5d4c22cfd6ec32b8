//! The streamed pass: embed, then layer after layer, each with all batches of tokens.

use std::ops::Range;

use anyhow::{Result, ensure};

use super::store::{HiddenStates, SpillFile};
use super::weights::{WeightSource, load_layer};
use crate::device::{Buffer, Device};
use crate::graph::run::{Batch, Keep};
use crate::graph::{Arena, Graph, LayerWeights, Tap};
use crate::progress::Progress;
use crate::quant;
use crate::source::Model;

/// How a pass uses memory.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Most tokens that pass a layer together.
    pub batch_tokens: usize,
    /// Most bytes of a set of hidden states that is kept on the device; a larger set goes to a temporary file.
    pub hidden_budget: usize,
    /// Most bytes of activations inside a layer: this sets how many sequences pass together, one at least.
    pub activation_budget: usize,
    /// Most bytes for the second moments of an input and what is made of them: wider inputs are seen in panels.
    pub moments_budget: usize,
    /// Most bytes of the experts of a layer that are on the device together; of more, one at a time is.
    pub experts_budget: usize,
    /// Bytes of one tile of logits `[tokens of a batch, part of the vocabulary]`; results do not depend on it.
    pub logits_tile_bytes: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            batch_tokens: 2048,
            hidden_budget: 512 << 20,
            activation_budget: 1 << 30,
            moments_budget: 4 << 30,
            experts_budget: 4 << 30,
            logits_tile_bytes: 32 << 20,
        }
    }
}

impl StreamOptions {
    /// Keeps the states of the text within `bytes`: half inside a layer, and two sets between layers at a time.
    pub fn within(bytes: usize) -> Self {
        StreamOptions {
            hidden_budget: bytes / 4,
            activation_budget: bytes / 2,
            moments_budget: bytes,
            experts_budget: bytes,
            ..StreamOptions::default()
        }
    }
}

/// Bytes of activations that a token needs in a layer at most: in the reverse sweep, which keeps every value, its gradient
/// and the states around the layer.
fn activation_bytes(model: &Model, layer: usize) -> usize {
    (2 * model.layer(layer).width() + 3 * model.hparams.n_embd) * size_of::<f32>()
}

/// Most families do not scale.
pub(super) fn scale(values: &mut [f32], by: f32) {
    if by != 1.0 {
        values.iter_mut().for_each(|value| *value *= by);
    }
}

/// A model, a device and the tokens that go through: chunks of `seq_len` tokens, each its own sequence from position 0.
pub struct Stream<'a> {
    pub device: &'a Device,
    pub model: &'a Model,
    pub(super) tokens: &'a [u32],
    pub(super) seq_len: usize,
    pub(super) arena: Arena,
    rope_tables: Vec<Buffer>,
    pub(super) options: StreamOptions,
    batches: Vec<Range<usize>>,
}

impl<'a> Stream<'a> {
    pub fn new(
        device: &'a Device,
        model: &'a Model,
        tokens: &'a [u32],
        seq_len: usize,
        options: StreamOptions,
    ) -> Result<Self> {
        ensure!(!tokens.is_empty() && tokens.len().is_multiple_of(seq_len), "no whole chunk of {seq_len} tokens");
        let vocabulary = model.hparams.n_vocab as u32;
        if let Some(id) = tokens.iter().find(|id| **id >= vocabulary) {
            anyhow::bail!("{}: token id {id} is outside the vocabulary of {vocabulary}", model.path.display());
        }
        let widest = model
            .tensors
            .iter()
            .filter(|t| t.name.starts_with("blk."))
            .map(|t| (t.rows / t.matrices()).max(t.cols))
            .max();
        let fitting = device.max_binding_bytes() / (widest.unwrap_or(1) * size_of::<f32>());
        ensure!(fitting >= seq_len, "--ctx {seq_len}: one sequence does not fit the device's largest binding");
        let per_token = (0..model.hparams.n_layer).map(|layer| activation_bytes(model, layer)).max().unwrap_or(0);
        ensure!(
            options.activation_budget >= per_token * seq_len,
            "--memory: activations of one sequence of {seq_len} tokens take {} MiB, half of the memory, so the least is: `{}MiB`",
            (per_token * seq_len).div_ceil(1 << 20),
            (2 * per_token * seq_len).div_ceil(1 << 20)
        );
        let within_memory = options.activation_budget / per_token.max(1);
        let per_batch = (options.batch_tokens.min(fitting).min(within_memory) / seq_len).max(1);
        let chunks = tokens.len() / seq_len;
        let batches = (0..chunks).step_by(per_batch).map(|first| first..(first + per_batch).min(chunks)).collect();
        let factors = model.rope_factors(seq_len)?;
        let tables = model.hparams.ropes().map(|rope| rope.table(seq_len, factors.as_deref()));
        let rope_tables = tables.map(|table| device.upload("rope table", &table)).collect::<Result<_>>()?;
        Ok(Stream { device, model, tokens, seq_len, arena: Arena::new(device), rope_tables, options, batches })
    }

    /// Two models on the same tokens in the same batches, as [`diverge`](super::diverge) needs them: those that fit both.
    pub fn pair(
        device: &'a Device,
        models: [&'a Model; 2],
        tokens: &'a [u32],
        seq_len: usize,
        options: StreamOptions,
    ) -> Result<[Self; 2]> {
        let [left, right] = models;
        let stream = |model, options| Stream::new(device, model, tokens, seq_len, options);
        let (first, second) = (stream(left, options)?, stream(right, options)?);
        if first.batches == second.batches {
            return Ok([first, second]);
        }
        let batch_tokens = first.batch_tokens(0).len().min(second.batch_tokens(0).len());
        let options = StreamOptions { batch_tokens, ..options };
        Ok([stream(left, options)?, stream(right, options)?])
    }

    /// Tokens of a chunk.
    pub fn sequence_len(&self) -> usize {
        self.seq_len
    }

    /// Tokens in all.
    pub fn token_count(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn batch_count(&self) -> usize {
        self.batches.len()
    }

    /// Tokens of batch `index` as a range of the whole.
    pub(super) fn batch_tokens(&self, index: usize) -> Range<usize> {
        self.batches[index].start * self.seq_len..self.batches[index].end * self.seq_len
    }

    pub(super) fn hidden_bytes(&self) -> Vec<usize> {
        let width = self.model.hparams.n_embd * size_of::<f32>();
        (0..self.batch_count()).map(|index| self.batch_tokens(index).len() * width).collect()
    }

    pub(super) fn batch(&self, index: usize) -> Batch<'_> {
        Batch {
            device: self.device,
            arena: &self.arena,
            rope_tables: &self.rope_tables,
            sequences: self.batches[index].len(),
            first_sequence: self.batches[index].start,
            seq_len: self.seq_len,
        }
    }

    pub(super) fn load_layer<'w>(&'w self, weights: &'w dyn WeightSource, layer: &Graph) -> Result<LayerWeights<'w>> {
        load_layer(self.device, self.model, weights, layer, self.options.experts_budget)
    }

    /// Work units of [`Stream::run`]: tokens times layers.
    pub fn work(&self) -> u64 {
        (self.token_count() * self.model.hparams.n_layer) as u64
    }

    /// Passes all tokens through all layers. `layer_inputs`, if given, receives the hidden states before each layer
    /// (record `layer * batches + batch`).
    pub(super) fn run(
        &self,
        weights: &dyn WeightSource,
        tap: &mut dyn Tap,
        mut layer_inputs: Option<&mut SpillFile>,
        progress: &dyn Progress,
    ) -> Result<HiddenStates> {
        let mut hidden = self.embed(weights)?;
        for layer in 0..self.model.hparams.n_layer {
            self.pass(layer, weights, &mut hidden, tap, layer_inputs.as_deref_mut(), progress)?;
            tap.layer_done()?;
        }
        Ok(hidden)
    }

    /// Passes all tokens through one layer.
    pub(super) fn pass(
        &self,
        layer: usize,
        weights: &dyn WeightSource,
        hidden: &mut HiddenStates,
        tap: &mut dyn Tap,
        mut layer_inputs: Option<&mut SpillFile>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let graph = self.model.layer(layer);
        let layer_weights = self.load_layer(weights, &graph)?;
        for batch in 0..self.batch_count() {
            let state = hidden.take(batch)?;
            if let Some(file) = layer_inputs.as_deref_mut() {
                file.write(layer * self.batch_count() + batch, &self.device.read::<u8>(&state)?)?;
            }
            let tokens = self.batch_tokens(batch).len();
            let values = graph.run(self.batch(batch), &layer_weights, state.clone(), Keep::Unread, tap)?;
            self.keep_state(values.get(graph.output()), &state, tokens)?;
            hidden.put(batch, state)?;
            self.arena.reset();
            self.device.flush()?;
            progress.advance(tokens as u64)?;
        }
        Ok(())
    }

    /// Takes a state out of the arena, if it is not in the room of `state` anyway.
    pub(super) fn keep_state(&self, from: &Buffer, state: &Buffer, tokens: usize) -> Result<()> {
        if from.is_same(state) {
            return Ok(());
        }
        self.device.copy(from, 0, state, 0, tokens * self.model.hparams.n_embd * size_of::<f32>())
    }

    /// The embedding rows of all tokens, gathered on the host: only the rows in use are decoded.
    pub(super) fn embed(&self, weights: &dyn WeightSource) -> Result<HiddenStates> {
        let table = self.model.require("token_embd.weight")?;
        let (ty, bytes) = weights.read(table)?;
        let row_bytes = ty.bytes_for(table.cols as u64) as usize;
        let mut hidden = HiddenStates::new(self.device, self.hidden_bytes(), self.options.hidden_budget)?;
        for batch in 0..self.batch_count() {
            let ids = &self.tokens[self.batch_tokens(batch)];
            let mut states = vec![0f32; ids.len() * table.cols];
            for (id, row) in ids.iter().zip(states.chunks_exact_mut(table.cols)) {
                let at = *id as usize * row_bytes;
                quant::decode(ty, &bytes[at..at + row_bytes], row)?;
                scale(row, self.model.hparams.embedding_scale);
            }
            hidden.put(batch, self.device.upload("embeddings", &states)?)?;
        }
        Ok(hidden)
    }
}
