// sigmoid(a(x)) and a'(x), by the number of src/kernels/glu.rs: SiLU has a = x, GELU (tanh) sqrt(8 / pi) (x + 0.044715 x^3).
#import sigmoid

fn activation_gate(kind: u32, x: f32) -> vec2<f32> {
    if kind == 0u {
        return vec2(sigmoid(x), 1.0);
    }
    // beyond, the sigmoid is 0 or 1, and a cube might be no number
    let bounded = clamp(x, -100.0, 100.0);
    let square = bounded * bounded;
    let inner = 1.5957691 * bounded * (1.0 + 0.044715 * square);
    return vec2(sigmoid(inner), 1.5957691 * (1.0 + 0.134145 * square));
}
