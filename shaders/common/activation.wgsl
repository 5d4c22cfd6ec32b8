// What src/kernels/glu.rs has under the same numbers: SiLU, GELU (tanh), the clamped SwiGLU of gpt-oss.
#import sigmoid

const CLAMPED: u32 = 2u;
const LIMIT: f32 = 7.0;

// What is taken in place of gate and up.
fn bounded_pair(kind: u32, pair: vec2<f32>) -> vec2<f32> {
    if kind == CLAMPED {
        return vec2(min(pair.x, LIMIT), clamp(pair.y, -LIMIT, LIMIT) + 1.0);
    }
    return pair;
}

// The derivatives of that: 0 where it is bounded, else 1.
fn inside(kind: u32, pair: vec2<f32>) -> vec2<f32> {
    if kind == CLAMPED {
        return select(vec2<f32>(), vec2<f32>(1.0), vec2(pair.x, abs(pair.y)) <= vec2<f32>(LIMIT));
    }
    return vec2<f32>(1.0);
}

// sigmoid(a(x)) and a'(x).
fn activation_gate(kind: u32, x: f32) -> vec2<f32> {
    if kind == 0u {
        return vec2(sigmoid(x), 1.0);
    }
    if kind == CLAMPED {
        return vec2(sigmoid(1.702 * x), 1.702);
    }
    // beyond, the sigmoid is 0 or 1, and a cube might be no number
    let bounded = clamp(x, -100.0, 100.0);
    let square = bounded * bounded;
    let inner = 1.5957691 * bounded * (1.0 + 0.044715 * square);
    return vec2(sigmoid(inner), 1.5957691 * (1.0 + 0.134145 * square));
}
