// The largest value of a workgroup and its index; the lowest index among equals.
struct Best {
    value: f32,
    index: u32,
}

var<workgroup> best_values: array<f32, WORKGROUP>;
var<workgroup> best_indices: array<u32, WORKGROUP>;

// Every invocation of the workgroup must call it. A power of two of invocations.
fn reduce_max(local: u32, mine: Best) -> Best {
    // What an earlier call left has been read by all.
    workgroupBarrier();
    best_values[local] = mine.value;
    best_indices[local] = mine.index;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            let value = best_values[local + half];
            let index = best_indices[local + half];
            let ties = value == best_values[local] && index < best_indices[local];
            if value > best_values[local] || ties {
                best_values[local] = value;
                best_indices[local] = index;
            }
        }
    }
    workgroupBarrier();
    return Best(best_values[0], best_indices[0]);
}
