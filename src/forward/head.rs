//! The end of a pass: final norm, and the vocabulary in tiles, so that logits never exist for all positions at once.

use std::ops::Range;

use anyhow::{Result, ensure};

use super::store::HiddenStates;
use super::stream::Stream;
use super::weights::{WeightSource, load_vector, upload};
use crate::device::{Buffer, Device};
use crate::graph::{LinearInput, Matrix, NoTap, Tap};
use crate::kernels::kld::{self, KldState, TokenStats};
use crate::kernels::logit_shape::{LogitShape, shape_logits};
use crate::kernels::matmul::matmul;
use crate::kernels::norm::{NormParams, norm};
use crate::kernels::weight::Weight;
use crate::progress::Progress;
use crate::source::Model;

/// The normed hidden states of the positions of interest, one `[positions, hidden]` buffer per batch.
pub struct FinalStates {
    states: HiddenStates,
    /// Positions of each batch.
    positions: Vec<usize>,
    /// Positions of each chunk that were kept.
    scored: Range<usize>,
}

impl FinalStates {
    pub(super) fn batch_count(&self) -> usize {
        self.positions.len()
    }

    pub(super) fn positions(&self, batch: usize) -> usize {
        self.positions[batch]
    }

    /// Positions of the largest batch.
    pub(super) fn most_positions(&self) -> usize {
        self.positions.iter().copied().max().expect("a stream has a batch")
    }

    /// Runs `work` on the states of one batch.
    pub(super) fn with(&mut self, batch: usize, work: impl FnOnce(&Buffer) -> Result<()>) -> Result<()> {
        let buffer = self.states.take(batch)?;
        work(&buffer)?;
        self.states.put(batch, buffer)
    }
}

impl Stream<'_> {
    /// Runs the whole model up to its final norm, keeping the positions `scored` of each chunk.
    pub fn final_states(
        &self,
        weights: &dyn WeightSource,
        scored: Range<usize>,
        tap: &mut dyn Tap,
        progress: &dyn Progress,
    ) -> Result<FinalStates> {
        let hidden = self.run(weights, tap, None, progress)?;
        self.norm_states(hidden, scored, tap)
    }

    /// The final norm of `hidden` at the positions `scored` of each chunk; the tap sees the input of the output matrix.
    pub(super) fn norm_states(
        &self,
        mut hidden: HiddenStates,
        scored: Range<usize>,
        tap: &mut dyn Tap,
    ) -> Result<FinalStates> {
        ensure!(!scored.is_empty() && scored.end <= self.seq_len, "no position to score in chunks of {}", self.seq_len);
        let width = self.model.hparams.n_embd;
        let norm = self.load_final_norm()?;
        let matrices = [Matrix::whole(self.model.output_tensor())];
        let positions: Vec<usize> = (0..self.batch_count()).map(|b| self.batch(b).sequences * scored.len()).collect();
        let bytes = positions.iter().map(|count| count * width * size_of::<f32>()).collect();
        let mut states = HiddenStates::new(self.device, bytes, self.options.hidden_budget)?;
        for batch in 0..positions.len() {
            let normed = self.norm_batch(&norm, batch, &hidden.take(batch)?, &scored)?;
            let ctx = self.batch(batch);
            tap.linear_input(&LinearInput {
                matrices: &matrices,
                x: &normed,
                width,
                texts: &vec![scored.len(); ctx.sequences],
                first_text: ctx.first_sequence,
                experts: None,
            })?;
            states.put(batch, normed)?;
        }
        tap.layer_done()?;
        Ok(FinalStates { states, positions, scored })
    }

    /// The weights of the final norm.
    pub(super) fn load_final_norm(&self) -> Result<Buffer> {
        load_vector(self.device, self.model, self.model.family.output_norm())
    }

    /// The final norm of the hidden states of one batch at the positions `scored` of each chunk.
    pub(super) fn norm_batch(
        &self,
        weight: &Buffer,
        batch: usize,
        hidden: &Buffer,
        scored: &Range<usize>,
    ) -> Result<Buffer> {
        let hparams = &self.model.hparams;
        let (width, row) = (hparams.n_embd, hparams.n_embd * size_of::<f32>());
        let sequences = self.batch(batch).sequences;
        let count = sequences * scored.len();
        let picked = self.device.alloc("scored positions", count * row)?;
        for sequence in 0..sequences {
            let from = (sequence * self.seq_len + scored.start) * row;
            let to = sequence * scored.len() * row;
            self.device.copy(hidden, from, &picked, to, scored.len() * row)?;
        }
        let normed = self.device.alloc("final states", count * row)?;
        let params = NormParams { kind: hparams.norm, rows: count, width, eps: hparams.norm_eps };
        norm(self.device, &picked, weight, &normed, params)?;
        Ok(normed)
    }
}

/// The output matrix in tiles of rows.
pub(super) struct OutputTiles<'a> {
    device: &'a Device,
    name: &'a str,
    ty: crate::quant::GgmlType,
    bytes: std::borrow::Cow<'a, [u8]>,
    cols: usize,
    pub rows: usize,
    tile: usize,
    pub shape: LogitShape,
}

impl<'a> OutputTiles<'a> {
    /// `positions` is the largest number of positions that a tile of logits must hold.
    pub(super) fn new(stream: &Stream<'a>, weights: &'a dyn WeightSource, positions: usize) -> Result<Self> {
        let name = stream.model.output_tensor();
        let info = stream.model.require(name)?;
        let (ty, bytes) = weights.read(info)?;
        let budget = stream.options.logits_tile_bytes.min(stream.device.max_binding_bytes());
        let tile = (budget / (positions * size_of::<f32>())).clamp(1, info.rows);
        let shape = stream.model.hparams.logits;
        Ok(OutputTiles { device: stream.device, name, ty, bytes, cols: info.cols, rows: info.rows, tile, shape })
    }

    /// Writes the logits of a tile, `[positions, rows of w]`, to `z`; `x` are final states.
    pub(super) fn logits(&self, x: &Buffer, w: &Weight, z: &Buffer, positions: usize) -> Result<()> {
        matmul(self.device, x, w, None, z, positions, false)?;
        match self.shape {
            LogitShape::PLAIN => Ok(()),
            shape => shape_logits(self.device, z, positions * w.rows, shape),
        }
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, tile) = (self.rows, self.tile);
        (0..rows).step_by(tile).map(move |first| first..(first + tile).min(rows))
    }

    /// Most rows of a tile.
    pub(super) fn tile_rows(&self) -> usize {
        self.tile
    }

    pub(super) fn load(&self, rows: Range<usize>) -> Result<Weight> {
        let row_bytes = self.ty.bytes_for(self.cols as u64) as usize;
        let bytes = &self.bytes[rows.start * row_bytes..rows.end * row_bytes];
        upload(self.device, self.name, self.ty, rows.len(), self.cols, bytes)
    }
}

/// One side of a comparison: a stream and the weights it runs with.
pub struct Side<'a, 's> {
    pub stream: &'s Stream<'a>,
    pub weights: &'a dyn WeightSource,
}

/// What [`diverge`] found, position by position, in the order of the tokens.
pub struct Divergence {
    pub tokens: Vec<TokenStats>,
    /// Chunk of each entry.
    pub chunks: Vec<u32>,
}

/// Fails, naming both, if the distributions of two models are not over the same tokens.
pub fn same_vocabulary(base: &Model, quant: &Model) -> Result<()> {
    let (left, right) = (base.hparams.n_vocab, quant.hparams.n_vocab);
    ensure!(
        left == right,
        "models of different vocabularies cannot be compared: `{}` has {left} tokens, `{}` has {right}",
        base.path.display(),
        quant.path.display()
    );
    let tokens = |model: &Model| model.metadata.strings("tokenizer.ggml.tokens").unwrap_or_default().to_vec();
    let (left, right) = (tokens(base), tokens(quant));
    if let Some(id) = left.iter().zip(&right).position(|(left, right)| left != right) {
        // No error: what fills a vocabulary up has other names in other files.
        log::warn!("token {id} is `{}` in the one model and `{}` in the other", left[id], right[id]);
    }
    Ok(())
}

/// Compares the next-token distributions of two sides that have run over the same chunks, at the positions `scored` of each.
/// The last position of a chunk has no next token, so `scored.end` is at most `seq_len - 1`.
pub fn diverge(
    base: &FinalStatesOf,
    quant: &FinalStatesOf,
    scored: Range<usize>,
    progress: &dyn Progress,
) -> Result<Divergence> {
    let (left, right) = (base.side.stream, quant.side.stream);
    ensure!(scored.end < left.seq_len, "the last position of a chunk has no next token to score");
    same_vocabulary(left.model, right.model)?;
    let same_chunks = left.tokens == right.tokens && left.seq_len == right.seq_len;
    ensure!(same_chunks, "both models must be given the same chunks of tokens");
    let (mut base_states, mut quant_states) = (base.states.borrow_mut(), quant.states.borrow_mut());
    let as_run = base_states.scored == scored && quant_states.scored == scored;
    ensure!(as_run, "both models must have been run at the positions to compare: `{scored:?}`");
    ensure!(base_states.positions == quant_states.positions, "both models must have been run in the same batches");
    let device = left.device;
    let most = base_states.most_positions();
    let base_tiles = OutputTiles::new(left, base.side.weights, most)?;
    let quant_tiles = OutputTiles::new(right, quant.side.weights, most)?;

    let mut running: Vec<(KldState, Buffer)> = Vec::new();
    let mut chunks = Vec::new();
    for batch in 0..base_states.batch_count() {
        let mut targets = Vec::new();
        for sequence in left.batch_tokens(batch).step_by(left.seq_len) {
            targets.extend_from_slice(&left.tokens[sequence + scored.start + 1..sequence + scored.end + 1]);
            chunks.extend(std::iter::repeat_n((sequence / left.seq_len) as u32, scored.len()));
        }
        running.push((kld::start(device, targets.len())?, device.upload("targets", &targets)?));
    }

    let z_base = device.alloc("logits", most * base_tiles.tile * size_of::<f32>())?;
    let z_quant = device.alloc("logits", most * base_tiles.tile * size_of::<f32>())?;
    progress.begin("comparing", (base_tiles.rows * base_states.batch_count()) as u64);
    for rows in base_tiles.ranges() {
        let (w_base, w_quant) = (base_tiles.load(rows.clone())?, quant_tiles.load(rows.clone())?);
        for (batch, (state, targets)) in running.iter().enumerate() {
            let count = base_states.positions(batch);
            base_states.with(batch, |x| base_tiles.logits(x, &w_base, &z_base, count))?;
            quant_states.with(batch, |x| quant_tiles.logits(x, &w_quant, &z_quant, count))?;
            kld::tile(device, state, &z_base, &z_quant, targets, count, rows.len(), rows.start)?;
            device.flush()?;
            progress.advance(rows.len() as u64)?;
        }
    }
    progress.end();
    let mut tokens = Vec::with_capacity(chunks.len());
    for (state, _) in &running {
        tokens.extend(kld::finish(device, state)?);
    }
    Ok(Divergence { tokens, chunks })
}

/// Final states together with the side that made them; a reference is computed once and compared with many.
pub struct FinalStatesOf<'a, 's> {
    side: Side<'a, 's>,
    states: std::cell::RefCell<FinalStates>,
}

impl<'a, 's> Side<'a, 's> {
    /// Runs this side up to the head.
    pub fn run(self, scored: Range<usize>, step: &str, progress: &dyn Progress) -> Result<FinalStatesOf<'a, 's>> {
        progress.begin(step, self.stream.work());
        let states = self.stream.final_states(self.weights, scored, &mut NoTap, progress)?;
        progress.end();
        Ok(FinalStatesOf { side: self, states: std::cell::RefCell::new(states) })
    }
}
