//! The gradients of `attention`. Probabilities are recomputed tile by tile, so memory does not grow with `seq_len^2`.

use anyhow::Result;
use rayon::prelude::*;

use super::attention::{AttentionParams, GROUP_ROWS, Inputs, PART, QUERIES, Scratch, within};
use super::gemm::{Mat, Threads, multiply, multiply_into};
use super::{Call, Disjoint, dot, exp};
use crate::device::{Buffer, Device, GpuDevice};

/// Writes dq, dk and dv for the gradient `dout` of the output; shapes as in [`super::attention::attention`], each
/// gradient's as that of its input.
///
/// # Errors
/// If a buffer is too small, on a GPU larger than a binding, or if the heads do not divide.
#[expect(clippy::too_many_arguments)]
pub fn attention_backward(
    dev: &Device,
    q: &Buffer,
    k: &Buffer,
    v: &Buffer,
    sinks: Option<&Buffer>,
    dout: &Buffer,
    dq: &Buffer,
    dk: &Buffer,
    dv: &Buffer,
    params: AttentionParams,
) -> Result<()> {
    params.check()?;
    let buffers = [
        ("q", q, params.q_width()),
        ("k", k, params.k_width()),
        ("v", v, params.v_width()),
        ("dout", dout, params.out_width()),
        ("dq", dq, params.q_width()),
        ("dk", dk, params.k_width()),
        ("dv", dv, params.v_width()),
    ];
    params.expect(&buffers, sinks)?;
    match dev {
        Device::Cpu(_) => {
            let (q, k, v, dout) = (q.view()?, k.view()?, v.view()?, dout.view()?);
            let gradients = [&mut *dq.view_mut()?, &mut *dk.view_mut()?, &mut *dv.view_mut()?];
            let sinks = sinks.map(Buffer::view).transpose()?;
            twin(&q, &k, &v, sinks.as_deref(), &dout, gradients, params);
            Ok(())
        }
        Device::Gpu(gpu) => {
            let stats = dev.alloc("attention statistics", params.tokens() * params.heads * 8)?;
            record(gpu, [q, k, v, dout], sinks, &stats, [dq, dk, dv], params)
        }
    }
}

fn record(
    gpu: &GpuDevice,
    [q, k, v, dout]: [&Buffer; 4],
    sinks: Option<&Buffer>,
    stats: &Buffer,
    [dq, dk, dv]: [&Buffer; 3],
    params: AttentionParams,
) -> Result<()> {
    let AttentionParams { heads, kv_heads, head_dim, value_dim, .. } = params;
    let blocks = params.sequences * params.seq_len.div_ceil(GROUP_ROWS);
    let shader_params = params.shader_params(sinks.is_some())?;
    let call = |shader, bindings: &[&Buffer], groups, group_cost| {
        gpu.run(&Call {
            shader,
            weight: None,
            overrides: &[],
            bindings,
            params: bytemuck::bytes_of(&shader_params),
            groups,
            group_cost,
        })
    };
    let [parts, value_parts] = [head_dim, value_dim].map(|dim| dim.div_ceil(PART));
    let [part, value_part] = [head_dim, value_dim].map(|dim| dim.min(PART));
    // one workgroup does all parts of the output; something has to be bound
    let cost = value_parts as f64 * params.group_cost(value_part);
    call("attention_stats", &[q, k, v, sinks.unwrap_or(q), dout, stats], blocks * heads, cost)?;
    let cost = params.group_cost(value_dim + part);
    call("attention_backward_q", &[q, k, v, dout, stats, dq], blocks * heads * parts, cost)?;
    let cost = (heads / kv_heads) as f64 * params.group_cost(value_dim + part + value_part);
    let groups = blocks * kv_heads * parts.max(value_parts);
    call("attention_backward_kv", &[q, k, v, dout, stats, dk, dv], groups, cost)
}

/// `gradients` are dq, dk, dv.
pub fn twin(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    sinks: Option<&[f32]>,
    dout: &[f32],
    gradients: [&mut [f32]; 3],
    params: AttentionParams,
) {
    let [dq, dk, dv] = gradients;
    dq[..params.tokens() * params.q_width()].fill(0.0);
    dk[..params.tokens() * params.k_width()].fill(0.0);
    dv[..params.tokens() * params.v_width()].fill(0.0);
    let backward = Backward {
        inputs: Inputs { q, k, v, sinks, params },
        dout,
        dq: Disjoint::new(dq),
        dk: Disjoint::new(dk),
        dv: Disjoint::new(dv),
    };
    // Task (sequence, kv_head) writes the columns of its key head and of the heads that share it.
    let tasks = params.sequences * params.kv_heads;
    (0..tasks).into_par_iter().for_each_init(Tiles::default, |tiles, task| {
        let (sequence, kv_head) = (task / params.kv_heads, task % params.kv_heads);
        let sharing = params.heads / params.kv_heads;
        for head in kv_head * sharing..(kv_head + 1) * sharing {
            for first in (0..params.seq_len).step_by(QUERIES) {
                backward.block(sequence, head, first..params.seq_len.min(first + QUERIES), tiles);
            }
        }
    });
}

struct Backward<'a> {
    inputs: Inputs<'a>,
    dout: &'a [f32],
    dq: Disjoint,
    dk: Disjoint,
    dv: Disjoint,
}

#[derive(Default)]
struct Tiles {
    forward: Scratch,
    /// Gradients of the probabilities, then of the scores, `[queries, keys]`.
    changes: Vec<f32>,
}

impl Backward<'_> {
    /// Adds what a block of queries of one head contributes.
    fn block(&self, sequence: usize, head: usize, queries: std::ops::Range<usize>, tiles: &mut Tiles) {
        let params = self.inputs.params;
        let AttentionParams { seq_len, head_dim, value_dim, .. } = params;
        let Tiles { forward, changes } = tiles;
        self.inputs.attend(sequence, head, queries.clone(), forward);
        let dout = self.inputs.out_rows(self.dout, sequence, head, queries.start);
        let known: Vec<(f32, f32)> = (0..queries.len())
            .map(|i| {
                let along =
                    dot(&dout.data[i * dout.row_stride..][..value_dim], &forward.mixed[i * value_dim..][..value_dim]);
                (forward.largest[i] + forward.total[i].ln(), along)
            })
            .collect();

        let kv_head = self.inputs.kv_head(head);
        let q_rows = self.inputs.q_rows(sequence, head, queries.start);
        for keys in self.inputs.key_tiles(&queries) {
            let [m, n] = [queries.len(), keys.len()];
            let (k_rows, v_rows) =
                (self.inputs.k_rows(sequence, kv_head, keys.start), self.inputs.v_rows(sequence, kv_head, keys.start));
            self.inputs.scores(sequence, head, &queries, &keys, &mut forward.tile);
            changes.resize(m * n, 0.0);
            multiply(changes, n, [m, n, value_dim], dout, v_rows.transposed(), false, Threads::One);
            let rows = forward.tile.chunks_exact_mut(n).zip(changes.chunks_exact_mut(n)).zip(&known);
            for (i, ((tile, changes), known)) in rows.enumerate() {
                let seen = within(&params.seen(queries.start + i), &keys);
                differentiate(tile, changes, seen, &params, *known);
            }
            let (p, ds) = (Mat::rows(&forward.tile, n), Mat::rows(changes, n));
            let (first_key, first_query) = (sequence * seq_len + keys.start, sequence * seq_len + queries.start);
            let at_k = first_key * params.k_width() + kv_head * head_dim;
            let at_v = first_key * params.v_width() + kv_head * value_dim;
            let at_q = first_query * params.q_width() + head * head_dim;
            // SAFETY: columns of this task's heads, within the gradients; no other task touches them.
            unsafe {
                let (shape, stride) = ([n, value_dim, m], params.v_width());
                multiply_into(self.dv.at(at_v), stride, shape, p.transposed(), dout, true, Threads::One);
                let (shape, stride) = ([n, head_dim, m], params.k_width());
                multiply_into(self.dk.at(at_k), stride, shape, ds.transposed(), q_rows, true, Threads::One);
                let (shape, stride) = ([m, head_dim, n], params.q_width());
                multiply_into(self.dq.at(at_q), stride, shape, ds, k_rows, true, Threads::One);
            }
        }
    }
}

/// Scores become probabilities, gradients of probabilities become gradients of the products; zero where not seen.
fn differentiate(
    tile: &mut [f32],
    changes: &mut [f32],
    seen: std::ops::Range<usize>,
    params: &AttentionParams,
    (log_total, along): (f32, f32),
) {
    for outside in [0..seen.start, seen.end..tile.len()] {
        tile[outside.clone()].fill(0.0);
        changes[outside].fill(0.0);
    }
    for (score, change) in tile[seen.clone()].iter_mut().zip(&mut changes[seen]) {
        let probability = exp(*score * params.missing_scale() - log_total);
        let slope = params.softcap.map_or(1.0, |cap| 1.0 - (*score / cap).powi(2));
        *score = probability;
        *change = probability * (*change - along) * params.scale * slope;
    }
}
