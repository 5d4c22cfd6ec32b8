// Sums over a workgroup, in a fixed tree: the same bits on every device.
override WORKGROUP: u32 = 256u;

var<workgroup> partial: array<f32, WORKGROUP>;

// Every invocation of the workgroup must call it. A power of two of invocations.
fn reduce_sum(local: u32, value: f32) -> f32 {
    // What an earlier call left has been read by all.
    workgroupBarrier();
    partial[local] = value;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            partial[local] += partial[local + half];
        }
    }
    workgroupBarrier();
    return partial[0];
}
