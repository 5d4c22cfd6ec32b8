//! Rates of the encoders of every type on a device, beside those of the CPU in the same run:
//! `cargo bench --bench encode [-- DEVICE]`.

use std::time::Instant;

use anyhow::Result;
use dq_gpu::device::Device;
use dq_gpu::kernels::encode::encode;
use dq_gpu::quant::GgmlType;
use dq_gpu::quant::recode::unit;

/// Rows and columns of the matrix.
const SHAPE: (usize, usize) = (256, 4096);

fn main() -> Result<()> {
    let name = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let device = Device::open(name.as_deref().unwrap_or("auto"))?;
    let (rows, cols) = SHAPE;
    println!(
        "{rows} x {cols} weights, million weights per second on {} and on {}",
        device.name(),
        Device::cpu().name()
    );
    println!("| type | device | CPU | ratio |\n|---|---|---|---|");
    for ty in GgmlType::all().filter(|ty| unit(*ty).is_some()) {
        let [device, cpu] = [rate(&device, ty)?, rate(&Device::cpu(), ty)?];
        println!("| {ty} | {device:.2} | {cpu:.2} | {:.3} |", device / cpu);
    }
    Ok(())
}

/// Million weights per second: the best of three runs after one that is not counted.
fn rate(device: &Device, ty: GgmlType) -> Result<f64> {
    let (rows, cols) = SHAPE;
    // sums of three waves look like weights: many small ones, few large
    let wave = |at: usize| [0.7, 1.3, 2.9].iter().map(|f| (at as f32 * f).sin().powi(3)).sum::<f32>();
    let values: Vec<f32> = (0..rows * cols).map(wave).collect();
    let importance: Vec<f32> = (0..cols).map(|at| 1.0 + wave(at).abs()).collect();
    let (values, importance) = (device.upload("weights", &values)?, device.upload("importance", &importance)?);
    let mut best = f64::MAX;
    for run in 0..4 {
        let start = Instant::now();
        let encoded = encode(device, ty, &values, &importance, rows, cols)?;
        // wait until it is done
        for slab in encoded.parts(0..1) {
            device.read_range::<u8>(&slab.0.buffer, 0, 4)?;
        }
        if run > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok((rows * cols) as f64 / best / 1e6)
}
