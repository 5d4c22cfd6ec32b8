// The only scale of a block: a half at bit D_AT, which the importing shader declares.
const SCALES: u32 = 1u;
const WHOLE: u32 = 1u;

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    return turn_half(block, D_AT, by);
}
