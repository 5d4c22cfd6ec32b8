// What both ways of a short convolution need: `taps` weights for each channel, the last one of the token itself.
#import sigmoid

struct Params { grid: Grid, len: u32, channels: u32, seq_len: u32, taps: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;

// The weight of a channel for what came so many tokens before.
fn weight_of(channel: u32, back: u32) -> f32 {
    return weight[channel * params.taps + params.taps - 1u - back];
}

// The sum at an element, before its activation.
fn convolved(index: u32) -> f32 {
    let row = index / params.channels;
    let channel = index - row * params.channels;
    let count = min(params.taps, row % params.seq_len + 1u);
    var sum = 0.0;
    for (var back = 0u; back < count; back++) {
        sum += weight_of(channel, back) * x[index - back * params.channels];
    }
    return sum;
}
