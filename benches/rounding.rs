//! What rounding with feedback costs beside encoding every block alone, as inputs get wider.
//!
//!     cargo bench --bench rounding -- [--device NAME] [--type NAME] [WIDTH...]
//!
//! For each width: seconds to factor H and to invert it for `--prefix quantized` (once per input and layer), and million weights per second of a matrix of 1,024 rows, for
//! plain encoding, feedback, and feedback with two descents. Then the peak memory of the process so far.

use std::time::Instant;

use anyhow::Result;
use dq_gpu::device::Device;
use dq_gpu::kernels::encode::encode;
use dq_gpu::quant::GgmlType;
use dq_gpu::rounding::coupling::Factored;
use dq_gpu::rounding::feedback::Rounders;
use dq_gpu::rounding::{DAMPING, Method};

const ROWS: usize = 1024;
const TYPES: [GgmlType; 4] = [GgmlType::Q4_K, GgmlType::Q2_K, GgmlType::IQ3_S, GgmlType::IQ2_S];

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.drain(at..at + 2).nth(1)
    };
    let device = option("--device").map_or(Ok(Device::cpu()), |name| Device::open(&name))?;
    let types = option("--type").and_then(|name| GgmlType::from_name(&name)).map_or(TYPES.to_vec(), |ty| vec![ty]);
    let mut widths: Vec<usize> = arguments.iter().map(|argument| argument.parse()).collect::<Result<_, _>>()?;
    if widths.is_empty() {
        widths = vec![1024, 2048, 4096];
    }
    println!("{}", device.name());
    println!("| width | factor H, s | invert | type | plain, Mw/s | feedback | with two descents | peak memory, MiB |");
    println!("|---|---|---|---|---|---|---|---|");
    for width in widths {
        measure(&device, &types, width)?;
    }
    Ok(())
}

fn measure(device: &Device, types: &[GgmlType], width: usize) -> Result<()> {
    let (h, values) = (second_moments(width), noise(7, ROWS * width));
    let importance: Vec<f32> = (0..width).map(|j| h[j * width + j]).collect();
    let start = Instant::now();
    let factored = Factored::new(h.clone(), width, DAMPING)?;
    let factor = start.elapsed().as_secs_f64();
    let start = Instant::now();
    drop(factored.inverse());
    let invert = start.elapsed().as_secs_f64();
    drop(factored);
    for ty in types.iter().copied() {
        let (x, weights) = (device.upload("weights", &values)?, device.upload("importance", &importance)?);
        let plain = seconds(|| encode(device, ty, &x, &weights, ROWS, width)?.download(device).map(drop))?;
        let mut rounded = [0.0; 2];
        for (seconds_of, descents) in rounded.iter_mut().zip([0, 2]) {
            let mut rounders =
                Rounders::new(device, h.clone(), width, Method { feedback: true, descents, ..Method::PLAIN })?;
            // the first call makes the couplings, which all matrices of an input share
            rounders.round(ty, &values[..16 * width], &importance)?;
            *seconds_of = seconds(|| rounders.round(ty, &values, &importance).map(drop))?;
        }
        let rate = |seconds: f64| (ROWS * width) as f64 / seconds * 1e-6;
        println!(
            "| {width} | {factor:.2} | {invert:.2} | {ty} | {:.1} | {:.2} | {:.2} | {} |",
            rate(plain),
            rate(rounded[0]),
            rate(rounded[1]),
            peak_mebibytes()
        );
    }
    Ok(())
}

fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// E[x x^T] of inputs with a few strong directions.
fn second_moments(width: usize) -> Vec<f32> {
    const DIRECTIONS: usize = 8;
    let basis = noise(1, DIRECTIONS * width);
    let mut h = vec![0f32; width * width];
    for (i, row) in h.chunks_exact_mut(width).enumerate() {
        for d in 0..DIRECTIONS {
            let factor = basis[d * width + i];
            row.iter_mut().zip(&basis[d * width..(d + 1) * width]).for_each(|(h, b)| *h += factor * b);
        }
        row[i] += 0.1;
    }
    h
}

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| uniform() + uniform() + uniform()).collect()
}

/// Of this process, where the system tells.
fn peak_mebibytes() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or("-".into(), |kib| (kib / 1024).to_string())
}
