// Exchange between the SUBS invocations of a super-block.
var<workgroup> exchange: array<vec2<f32>, LANES>;

// Sum over the sub-blocks of a block, in order.
fn sum_block(local: u32, value: vec2<f32>) -> vec2<f32> {
    workgroupBarrier();
    exchange[local] = value;
    workgroupBarrier();
    let first = local - local % SUBS;
    var sum = vec2<f32>(0.0);
    for (var b = 0u; b < SUBS; b++) {
        sum += exchange[first + b];
    }
    return sum;
}
