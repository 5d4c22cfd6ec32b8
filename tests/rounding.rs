//! Rounding with feedback: what it reaches under the whole H, for every block type.

mod common;

use dq_gpu::device::Device;
use dq_gpu::quant::recode::{Columns, Within, recode, unit};
use dq_gpu::quant::{self, GgmlType};
use dq_gpu::rounding::coupling::Factored;
use dq_gpu::rounding::feedback::Rounders;
use dq_gpu::rounding::{DAMPING, Method, Prefix, by_blocks};
use proptest::prelude::*;

const WIDTH: usize = 512;
const ROWS: usize = 20;

fn block_types() -> Vec<GgmlType> {
    GgmlType::all().filter(|ty| unit(*ty).is_some()).collect()
}

fn noise(seed: u64, count: usize) -> Vec<f32> {
    common::Random::new(seed).normals(count, 0.7)
}

/// E[x x^T] of inputs that share `directions` strong directions.
fn correlated(seed: u64, width: usize, directions: usize) -> Vec<f32> {
    let basis = noise(seed, directions * width);
    let own = noise(seed + 1, width);
    let mut h = vec![0f32; width * width];
    for i in 0..width {
        for j in 0..width {
            let shared: f32 = (0..directions).map(|d| basis[d * width + i] * basis[d * width + j]).sum();
            h[i * width + j] = shared + if i == j { 0.05 + own[i] * own[i] } else { 0.0 };
        }
    }
    h
}

/// `sum_r e_r H e_r^T` of what was written, in f64.
fn error(ty: GgmlType, bytes: &[u8], values: &[f32], h: &[f32]) -> f64 {
    let width = (h.len() as f64).sqrt() as usize;
    let mut decoded = vec![0f32; values.len()];
    quant::decode(ty, bytes, &mut decoded).unwrap();
    let rows = values.chunks_exact(width).zip(decoded.chunks_exact(width));
    rows.map(|(values, decoded)| {
        let e: Vec<f64> = values.iter().zip(decoded).map(|(x, d)| f64::from(x - d)).collect();
        (0..width).map(|i| e[i] * (0..width).map(|j| f64::from(h[i * width + j]) * e[j]).sum::<f64>()).sum::<f64>()
    })
    .sum()
}

fn round(ty: GgmlType, values: &[f32], h: &[f32], method: Method) -> Vec<u8> {
    round_on(&Device::cpu(), ty, values, h, method)
}

fn round_on(device: &Device, ty: GgmlType, values: &[f32], h: &[f32], method: Method) -> Vec<u8> {
    let width = (h.len() as f64).sqrt() as usize;
    let importance: Vec<f32> = (0..width).map(|j| h[j * width + j]).collect();
    let mut rounders = Rounders::new(device, h.to_vec(), width, method).unwrap();
    rounders.round(ty, values, &importance).unwrap()
}

const FEEDBACK: Method = Method { feedback: true, descents: 0, prefix: Prefix::Original };

#[test]
fn feedback_beats_encoding_every_block_alone_and_descents_beat_both() {
    let (h, values) = (correlated(1, WIDTH, 12), noise(2, ROWS * WIDTH));
    let importance: Vec<f32> = (0..WIDTH).map(|j| h[j * WIDTH + j]).collect();
    for ty in block_types() {
        let mut bytes = vec![0; ty.bytes_for(values.len() as u64) as usize];
        quant::encode(ty, &values, &importance, &mut bytes).unwrap();
        let plain = error(ty, &bytes, &values, &h);
        let feedback = error(ty, &round(ty, &values, &h, FEEDBACK), &values, &h);
        let polished = error(ty, &round(ty, &values, &h, Method { descents: 2, ..FEEDBACK }), &values, &h);
        let searched = error(ty, &round(ty, &values, &h, Method { descents: 2, ..Method::PLAIN }), &values, &h);
        println!(
            "{ty:<8} feedback {:.3} polished {:.3} searched {:.3}",
            feedback / plain,
            polished / plain,
            searched / plain
        );
        // types of one bit have little to choose from
        let most = if ty.bpw() < 2.0 { 0.9 } else { 0.6 };
        assert!(feedback < most * plain, "{ty}: {feedback} of {plain}");
        assert!(polished <= feedback * 1.001, "{ty}: {polished} after {feedback}");
        assert!(searched < 0.9 * plain, "{ty}: {searched} of {plain}");
    }
}

#[test]
fn without_correlations_nothing_is_lost() {
    let values = noise(3, ROWS * WIDTH);
    let spread = noise(4, WIDTH);
    let mut h = vec![0f32; WIDTH * WIDTH];
    (0..WIDTH).for_each(|j| h[j * WIDTH + j] = 0.1 + spread[j] * spread[j]);
    let importance: Vec<f32> = (0..WIDTH).map(|j| h[j * WIDTH + j]).collect();
    for ty in block_types() {
        let mut bytes = vec![0; ty.bytes_for(values.len() as u64) as usize];
        quant::encode(ty, &values, &importance, &mut bytes).unwrap();
        let plain = error(ty, &bytes, &values, &h);
        let rounded = error(ty, &round(ty, &values, &h, Method { descents: 1, ..FEEDBACK }), &values, &h);
        // damping makes the weights of the search a little more equal
        assert!(rounded <= 1.01 * plain, "{ty}: {rounded} of {plain}");
    }
}

#[test]
fn a_row_is_rounded_the_same_whatever_its_neighbours() {
    let (h, values) = (correlated(5, WIDTH, 4), noise(6, ROWS * WIDTH));
    for ty in [GgmlType::Q4_K, GgmlType::IQ3_XXS, GgmlType::Q8_0] {
        let method = Method { descents: 1, ..FEEDBACK };
        let row = ty.bytes_for(WIDTH as u64) as usize;
        let all = round(ty, &values, &h, method);
        let last = round(ty, &values[(ROWS - 1) * WIDTH..], &h, method);
        assert!(all[(ROWS - 1) * row..] == last, "{ty}");
    }
}

#[test]
fn odd_weights_and_dead_inputs_give_finite_blocks() {
    let mut values = noise(7, ROWS * WIDTH);
    values[..WIDTH].fill(0.0);
    values[WIDTH..2 * WIDTH].fill(f32::NAN);
    values[2 * WIDTH] = f32::INFINITY;
    values[3 * WIDTH..4 * WIDTH].fill(1e-30);
    values[4 * WIDTH..5 * WIDTH].fill(3e30);
    let dead = vec![0f32; WIDTH * WIDTH];
    for h in [correlated(8, WIDTH, 3), dead] {
        for ty in block_types() {
            let bytes = round(ty, &values, &h, Method { descents: 1, ..FEEDBACK });
            let mut decoded = vec![0f32; values.len()];
            quant::decode(ty, &bytes, &mut decoded).unwrap();
            assert!(decoded.iter().all(|x| x.is_finite()), "{ty}");
        }
    }
}

/// Sums of products differ by rounding, so codes do; what they reach does not.
#[test]
fn a_gpu_rounds_as_well_as_the_cpu() {
    let Some(device) = common::gpu() else { return };
    let (h, values) = (correlated(9, WIDTH, 12), noise(10, ROWS * WIDTH));
    let method = Method { descents: 1, ..FEEDBACK };
    for ty in block_types() {
        let cpu = error(ty, &round(ty, &values, &h, method), &values, &h);
        let gpu = error(ty, &round_on(device, ty, &values, &h, method), &values, &h);
        println!("{ty:<8} {:.4} of the error on the CPU", gpu / cpu);
        assert!((gpu / cpu - 1.0).abs() < 0.05, "{ty}: {gpu} on the GPU, {cpu} on the CPU");
    }
}

/// Scales are no longer those of the search once codes make good the errors of others; here they are simply wrong.
#[test]
fn scales_are_fitted_to_the_codes() {
    use GgmlType::*;
    let types = [
        (Q4_0, 0),
        (Q8_0, 0),
        (Q2_K, 80),
        (Q3_K, 108),
        (Q4_K, 0),
        (Q6_K, 208),
        (IQ2_S, 0),
        (IQ3_XXS, 0),
        (IQ4_XS, 0),
        (TQ2_0, 64),
    ];
    for (ty, half_at) in types {
        let (block, unit) = (ty.block_len(), unit(ty).unwrap());
        let values = noise(9, ROWS * block);
        let mut bytes = vec![0; ROWS * ty.block_bytes()];
        quant::encode(ty, &values, &vec![1.0; block], &mut bytes).unwrap();
        let mut identity = vec![0f32; block * block];
        (0..block).for_each(|j| identity[j * block + j] = 1.0);
        let searched = error(ty, &bytes, &values, &identity);
        for block in bytes.chunks_mut(ty.block_bytes()) {
            let half = half::f16::from_le_bytes([block[half_at], block[half_at + 1]]).to_f32();
            block[half_at..half_at + 2].copy_from_slice(&half::f16::from_f32(0.9 * half).to_le_bytes());
        }
        let mut decoded = vec![0f32; values.len()];
        quant::decode(ty, &bytes, &mut decoded).unwrap();
        let mut errors: Vec<f32> = values.iter().zip(&decoded).map(|(x, d)| x - d).collect();
        let metric: Vec<f32> = (0..block * unit).map(|at| f32::from(at / unit % unit == at % unit)).collect();
        let (coupling, weights) = (vec![0f32; block * block], &values[..]);
        let moments = Some(&identity[..]);
        let within = Within { coupling: &coupling, metric: &metric, moments };
        let columns = Columns { targets: weights, weights, within };
        (0..3).for_each(|_| recode(ty, columns, &mut errors, (block, 0), &mut bytes));
        let fitted = error(ty, &bytes, &values, &identity);
        assert!(fitted < 1.06 * searched, "{ty}: {fitted} where the search reaches {searched}");
        let known: f64 = errors.iter().map(|e| f64::from(*e).powi(2)).sum();
        assert!((known / fitted - 1.0).abs() < 1e-3, "{ty}: errors say {known}, the bytes {fitted}");
    }
}

#[test]
fn second_moments_that_are_not_numbers_are_refused() {
    let error = Rounders::new(&Device::cpu(), vec![f32::NAN; 256 * 256], 256, FEEDBACK).err().unwrap();
    assert!(error.to_string().contains("cannot be factored"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// One more descent never makes the error under the damped H larger, whatever the inputs.
    #[test]
    fn descents_never_lose(seed in 0u64..1000, directions in 1usize..40, which in 0usize..25) {
        let ty = block_types()[which];
        let width = 256;
        let (mut h, values) = (correlated(seed, width, directions), noise(seed + 7, 5 * width));
        let mean = (0..width).map(|j| h[j * width + j]).sum::<f32>() / width as f32;
        let undamped = h.clone();
        (0..width).for_each(|j| h[j * width + j] += dq_gpu::rounding::DAMPING * mean);
        let mut before = f64::INFINITY;
        for descents in 0..4 {
            let bytes = round(ty, &values, &undamped, Method { descents, ..FEEDBACK });
            let now = error(ty, &bytes, &values, &h);
            prop_assert!(now <= before * (1.0 + 1e-4), "{ty}: {now} after {before}");
            before = now;
        }
    }

    /// Bytes depend neither on the number of threads nor on the rows that each takes, and are those of the kernels that a GPU runs.
    #[test]
    fn rows_are_rounded_alike_however_they_are_shared_out(
        seed in 0u64..1000,
        rows in 33usize..150,
        which in 0usize..25,
        descents in 0usize..3,
        feedback in any::<bool>(),
    ) {
        let (ty, width, method) = (block_types()[which], 512, Method { feedback, descents, ..Method::PLAIN });
        let (h, values) = (correlated(seed, width, 12), noise(seed + 3, rows * width));
        let importance: Vec<f32> = (0..width).map(|j| h[j * width + j]).collect();
        let on_threads = |count: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
            pool.install(|| round(ty, &values, &h, method))
        };
        let bytes = on_threads(1);
        prop_assert!(on_threads(3) == bytes, "{ty}: other bytes on three threads");
        let first = round(ty, &values[..5 * width], &h, method);
        prop_assert!(first == bytes[..first.len()], "{ty}: other bytes for the first rows alone");
        let (device, factored) = (Device::cpu(), Factored::new(h.clone(), width, DAMPING).unwrap());
        let mut by_blocks = by_blocks::Rounder::new(&device, &factored, unit(ty).unwrap(), method).unwrap();
        prop_assert!(by_blocks.round(ty, &values, &importance).unwrap() == bytes, "{ty}: other bytes from kernels");
    }
}
