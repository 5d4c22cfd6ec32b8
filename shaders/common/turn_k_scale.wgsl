// The scales of Q4_K and Q5_K: d, d_min, 8 scales and 8 mins. Layout: `put_k_scale`.
const SCALES: u32 = 18u;
const WHOLE: u32 = 2u;

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    if scale < WHOLE {
        return turn_half(block, 16u * scale, by);
    }
    let is_min = (scale - WHOLE) / 8u;
    let b = (scale - WHOLE) % 8u;
    let six = 32u + 32u * is_min + 8u * (b % 4u);
    if b < 4u {
        return turn_bits(block, six, 6u, by);
    }
    return turn_split(block, 96u + 8u * (b % 4u) + 4u * is_min, six + 6u, by);
}
