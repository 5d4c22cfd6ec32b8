//! Causal grouped-query attention with a running softmax: no `seq x seq` matrix exists, on any device.

use std::ops::Range;

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::gemm::{Mat, Threads, multiply};
use super::{Call, Disjoint, exp, tanh, word};
use crate::device::{Buffer, Device};

/// Queries and keys of one tile of the twins.
pub(super) const QUERIES: usize = 64;
pub(super) const KEYS: usize = 128;
/// Rows of one workgroup of the shaders: queries, or keys backwards.
pub(super) const GROUP_ROWS: usize = 16;
/// Columns of a result that one workgroup makes: a wider head has several parts, each with all of the scores.
pub(super) const PART: usize = 256;

/// The shape of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionParams {
    /// Independent sequences of `seq_len` tokens each, one after the other.
    pub sequences: usize,
    pub seq_len: usize,
    pub heads: usize,
    /// Divides `heads`; head h uses keys and values `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements of a head of queries and keys.
    pub head_dim: usize,
    /// Elements of a head of values and of the output.
    pub value_dim: usize,
    /// Factor of the scores, usually 1/sqrt(head_dim).
    pub scale: f32,
    /// Keys that a query sees, its own included; all before it if none.
    pub window: Option<usize>,
    /// A scaled score s becomes softcap tanh(s / softcap).
    pub softcap: Option<f32>,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    seq_len: u32,
    heads: u32,
    kv_heads: u32,
    quads: u32,
    value_quads: u32,
    window: u32,
    scale: f32,
    /// 0 if there is none.
    softcap: f32,
    has_sinks: u32,
}

impl AttentionParams {
    pub(super) fn tokens(&self) -> usize {
        self.sequences * self.seq_len
    }

    pub(super) fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(super) fn k_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    pub(super) fn v_width(&self) -> usize {
        self.kv_heads * self.value_dim
    }

    pub(super) fn out_width(&self) -> usize {
        self.heads * self.value_dim
    }

    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{} heads cannot share {} key heads",
            self.heads,
            self.kv_heads
        );
        ensure!(self.window != Some(0), "an attention window of no tokens");
        let caps = |cap: f32| cap > 0.0 && cap.is_finite();
        ensure!(self.softcap.is_none_or(caps), "scores of attention cannot be capped at `{:?}`", self.softcap);
        Ok(())
    }

    /// Fails unless buffers have a row of their width for each token, and there is a sink for each head.
    pub(super) fn expect(&self, buffers: &[(&str, &Buffer, usize)], sinks: Option<&Buffer>) -> Result<()> {
        for (role, buffer, width) in buffers {
            buffer.expect_words(&format!("{role} of attention"), self.tokens() * width)?;
        }
        sinks.map_or(Ok(()), |sinks| sinks.expect_words("sinks of attention", self.heads))
    }

    pub(super) fn shader_params(&self, has_sinks: bool) -> Result<Params> {
        for dim in [self.head_dim, self.value_dim] {
            ensure!(dim.is_multiple_of(4), "heads must be of a multiple of 4 elements on a GPU: `{dim}`");
        }
        Ok(Params {
            seq_len: word(self.seq_len)?,
            heads: word(self.heads)?,
            kv_heads: word(self.kv_heads)?,
            quads: word(self.head_dim / 4)?,
            value_quads: word(self.value_dim / 4)?,
            window: word(self.window.unwrap_or(self.seq_len).min(self.seq_len))?,
            scale: self.scale,
            softcap: self.softcap.unwrap_or(0.0),
            has_sinks: has_sinks.into(),
        })
    }

    /// The factor that [`Inputs::scores`] still lacks.
    pub(super) fn missing_scale(&self) -> f32 {
        if self.softcap.is_some() { 1.0 } else { self.scale }
    }

    /// Operations of 16 rows with all the keys they see, on average: their scores, what a softmax takes, and products
    /// of `elements` more per pair.
    pub(super) fn group_cost(&self, elements: usize) -> f64 {
        let seen = self.window.unwrap_or(self.seq_len).min(self.seq_len).div_ceil(2).max(32);
        (2 * GROUP_ROWS * seen * (2 * self.head_dim + elements)) as f64
    }

    /// The keys that a query sees, both counted from the start of the sequence.
    pub(super) fn seen(&self, query: usize) -> Range<usize> {
        (query + 1).saturating_sub(self.window.unwrap_or(usize::MAX))..query + 1
    }
}

/// out `[tokens, heads, value_dim]` = softmax(q k^T scale, causal per sequence) v, with q `[tokens, heads, head_dim]`,
/// k `[tokens, kv_heads, head_dim]` and v `[tokens, kv_heads, value_dim]`.
/// `sinks` `[heads]` are one more score for every query of a head, whose probability goes nowhere.
///
/// # Errors
/// If a buffer is too small, on a GPU larger than a binding, or if the heads do not divide.
pub fn attention(
    dev: &Device,
    q: &Buffer,
    k: &Buffer,
    v: &Buffer,
    sinks: Option<&Buffer>,
    out: &Buffer,
    params: AttentionParams,
) -> Result<()> {
    params.check()?;
    let buffers = [
        ("q", q, params.q_width()),
        ("k", k, params.k_width()),
        ("v", v, params.v_width()),
        ("out", out, params.out_width()),
    ];
    params.expect(&buffers, sinks)?;
    match dev {
        Device::Cpu(_) => {
            let sinks = sinks.map(Buffer::view).transpose()?;
            twin(&q.view()?, &k.view()?, &v.view()?, sinks.as_deref(), &mut out.view_mut()?, params);
            Ok(())
        }
        Device::Gpu(gpu) => gpu.run(&Call {
            shader: "attention",
            weight: None,
            overrides: &[],
            // something has to be bound
            bindings: &[q, k, v, sinks.unwrap_or(q), out],
            params: bytemuck::bytes_of(&params.shader_params(sinks.is_some())?),
            groups: params.sequences
                * params.heads
                * params.seq_len.div_ceil(GROUP_ROWS)
                * params.value_dim.div_ceil(PART),
            group_cost: params.group_cost(params.value_dim.min(PART)),
        }),
    }
}

pub fn twin(q: &[f32], k: &[f32], v: &[f32], sinks: Option<&[f32]>, out: &mut [f32], params: AttentionParams) {
    let AttentionParams { sequences, seq_len, heads, value_dim, .. } = params;
    let inputs = Inputs { q, k, v, sinks, params };
    let width = params.out_width();
    let blocks = seq_len.div_ceil(QUERIES);
    let out = Disjoint::new(&mut out[..params.tokens() * width]);
    // Task (sequence, head, block) writes the rows of its queries, the columns of its head.
    (0..sequences * heads * blocks).into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        let (block, head, sequence) = (task % blocks, task / blocks % heads, task / blocks / heads);
        let queries = block * QUERIES..seq_len.min((block + 1) * QUERIES);
        inputs.attend(sequence, head, queries.clone(), scratch);
        for (row, query) in scratch.mixed.chunks_exact(value_dim).zip(queries) {
            let target = out.at((sequence * seq_len + query) * width + head * value_dim);
            // SAFETY: a row of this task's head, within out; no other task touches it.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), target, value_dim) };
        }
    });
}

/// The inputs of one call.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) sinks: Option<&'a [f32]>,
    pub(super) params: AttentionParams,
}

/// One task's memory, reused.
#[derive(Default)]
pub(super) struct Scratch {
    /// Scores, then probabilities, `[queries, keys]`.
    pub(super) tile: Vec<f32>,
    /// Output of the block of queries, `[queries, value_dim]`.
    pub(super) mixed: Vec<f32>,
    /// Per query of the block: running maximum, and sum of the softmax, those of the sink included.
    pub(super) largest: Vec<f32>,
    pub(super) total: Vec<f32>,
}

impl<'a> Inputs<'a> {
    /// Rows of queries of one head.
    pub(super) fn q_rows(&self, sequence: usize, head: usize, first: usize) -> Mat<'a> {
        self.rows(self.q, [self.params.heads, self.params.head_dim], sequence, head, first)
    }

    pub(super) fn k_rows(&self, sequence: usize, kv_head: usize, first: usize) -> Mat<'a> {
        self.rows(self.k, [self.params.kv_heads, self.params.head_dim], sequence, kv_head, first)
    }

    pub(super) fn v_rows(&self, sequence: usize, kv_head: usize, first: usize) -> Mat<'a> {
        self.rows(self.v, [self.params.kv_heads, self.params.value_dim], sequence, kv_head, first)
    }

    /// Rows of anything that is shaped like the output.
    pub(super) fn out_rows(&self, x: &'a [f32], sequence: usize, head: usize, first: usize) -> Mat<'a> {
        self.rows(x, [self.params.heads, self.params.value_dim], sequence, head, first)
    }

    fn rows(&self, x: &'a [f32], [heads, dim]: [usize; 2], sequence: usize, head: usize, first: usize) -> Mat<'a> {
        Mat::rows(&x[((sequence * self.params.seq_len + first) * heads + head) * dim..], heads * dim)
    }

    pub(super) fn kv_head(&self, head: usize) -> usize {
        head / (self.params.heads / self.params.kv_heads)
    }

    /// Tiles of the keys that any of these queries sees.
    pub(super) fn key_tiles(&self, queries: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let (first, end) = (self.params.seen(queries.start).start, queries.end);
        (first..end).step_by(KEYS).map(move |key| key..end.min(key + KEYS))
    }

    /// Scores of a tile, `[queries, keys]`: unscaled ones, or scaled and capped ones.
    pub(super) fn scores(
        &self,
        sequence: usize,
        head: usize,
        queries: &Range<usize>,
        keys: &Range<usize>,
        tile: &mut Vec<f32>,
    ) {
        tile.resize(queries.len() * keys.len(), 0.0);
        let q = self.q_rows(sequence, head, queries.start);
        let k = self.k_rows(sequence, self.kv_head(head), keys.start);
        let shape = [queries.len(), keys.len(), self.params.head_dim];
        multiply(tile, keys.len(), shape, q, k.transposed(), false, Threads::One);
        if let Some(cap) = self.params.softcap {
            tile.iter_mut().for_each(|score| *score = cap * tanh(*score * self.params.scale / cap));
        }
    }

    /// Leaves the normalized output of a block of queries in `scratch.mixed`, with the state of the softmax.
    pub(super) fn attend(&self, sequence: usize, head: usize, queries: Range<usize>, scratch: &mut Scratch) {
        let value_dim = self.params.value_dim;
        let Scratch { tile, mixed, largest, total } = scratch;
        mixed.clear();
        mixed.resize(queries.len() * value_dim, 0.0);
        largest.clear();
        let (highest, sum) = self.sinks.map_or((-1e30, 0.0), |sinks| (sinks[head], 1.0));
        largest.resize(queries.len(), highest);
        total.clear();
        total.resize(queries.len(), sum);
        for keys in self.key_tiles(&queries) {
            self.scores(sequence, head, &queries, &keys, tile);
            for (i, row) in tile.chunks_exact_mut(keys.len()).enumerate() {
                let seen = within(&self.params.seen(queries.start + i), &keys);
                let shrink = soften(row, seen, self.params.missing_scale(), &mut largest[i], &mut total[i]);
                mixed[i * value_dim..][..value_dim].iter_mut().for_each(|value| *value *= shrink);
            }
            let v = self.v_rows(sequence, self.kv_head(head), keys.start);
            let shape = [queries.len(), value_dim, keys.len()];
            multiply(mixed, value_dim, shape, Mat::rows(tile, keys.len()), v, true, Threads::One);
        }
        for (row, total) in mixed.chunks_exact_mut(value_dim).zip(&*total) {
            row.iter_mut().for_each(|value| *value /= total);
        }
    }
}

/// The part of a tile's keys that is seen, counted from the tile's first.
pub(super) fn within(seen: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
    let start = seen.start.clamp(keys.start, keys.end);
    let end = seen.end.clamp(start, keys.end);
    start - keys.start..end - keys.start
}

/// Turns scores into unnormalized probabilities, zero where not seen; returns the factor for what was summed before.
fn soften(row: &mut [f32], seen: Range<usize>, scale: f32, largest: &mut f32, total: &mut f32) -> f32 {
    row[..seen.start].fill(0.0);
    row[seen.end..].fill(0.0);
    let row = &mut row[seen];
    if row.is_empty() {
        return 1.0;
    }
    let highest = row.iter().fold(*largest, |highest, score| highest.max(score * scale));
    for score in row.iter_mut() {
        *score = exp(*score * scale - highest);
    }
    let shrink = exp(*largest - highest);
    *total = *total * shrink + row.iter().sum::<f32>();
    *largest = highest;
    shrink
}
