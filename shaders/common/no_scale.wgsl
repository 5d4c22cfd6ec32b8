// Scales that are powers of two or small floats have few neighbours: none is changed.
const SCALES: u32 = 0u;
const WHOLE: u32 = 0u;

fn turn(block: u32, scale: u32, by: f32) -> f32 {
    return 0.0;
}
