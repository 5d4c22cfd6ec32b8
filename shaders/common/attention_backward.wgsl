// What both gradients need: the probabilities and the gradients of the scores, recomputed tile by tile.
@group(0) @binding(4) var<storage, read> dout: array<vec4<f32>>;
// See attention_stats.
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;

fn dout_at(sequence: u32, query: u32, head: u32, quad: u32) -> vec4<f32> {
    if query < params.seq_len && quad < params.value_quads {
        return dout[query_row(sequence, query, head) * params.value_quads + quad];
    }
    return vec4<f32>();
}

// (log denominator, dout . out) of a query.
fn stats_at(sequence: u32, query: u32, head: u32) -> vec2<f32> {
    return stats[query_row(sequence, min(query, params.seq_len - 1u), head)];
}
