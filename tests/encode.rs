//! Encoding, decoding and their error on every device: the GPU makes the bytes of the CPU.

mod common;

use common::Random;
use dq_gpu::device::Device;
use dq_gpu::kernels::{
    decode::{decode, decode_rows},
    encode::{encode, encode_rows},
    row_error::row_error,
    weight::Weight,
};
use dq_gpu::quant::{self, GgmlType};

const TYPES: [GgmlType; 28] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
    GgmlType::IQ2_XXS,
    GgmlType::IQ2_XS,
    GgmlType::IQ2_S,
    GgmlType::IQ3_XXS,
    GgmlType::IQ3_S,
    GgmlType::IQ1_S,
    GgmlType::IQ1_M,
    GgmlType::TQ1_0,
    GgmlType::TQ2_0,
    GgmlType::MXFP4,
    GgmlType::NVFP4,
    GgmlType::Q1_0,
    GgmlType::Q2_0,
];

/// Weights of a few magnitudes and importances with a heavy tail.
fn sample(random: &mut Random, rows: usize, cols: usize) -> (Vec<f32>, Vec<f32>) {
    let mut x = Vec::with_capacity(rows * cols);
    for row in 0..rows {
        x.extend(random.normals(cols, 0.02 * 4f32.powi(row as i32 % 5 - 2)));
    }
    let importance = (0..cols).map(|_| (1.5 * random.normal()).exp()).collect();
    (x, importance)
}

fn on(device: &Device, ty: GgmlType, x: &[f32], importance: &[f32]) -> Vec<u8> {
    let cols = importance.len();
    let (x, h) = (device.upload("x", x).unwrap(), device.upload("h", importance).unwrap());
    encode(device, ty, &x, &h, x.bytes() / 4 / cols, cols).unwrap().download(device).unwrap()
}

fn weighted_error(ty: GgmlType, bytes: &[u8], x: &[f32], importance: &[f32]) -> f64 {
    let mut decoded = vec![0.0; x.len()];
    quant::decode(ty, bytes, &mut decoded).unwrap();
    let terms = decoded.iter().zip(x).zip(importance.iter().cycle());
    terms.map(|((y, x), h)| f64::from(*h) * f64::from(y - x).powi(2)).sum()
}

/// The CPU, and llvmpipe, which rounds every operation as IEEE asks.
fn is_exact(device: &Device) -> bool {
    !device.is_gpu() || device.name().contains("llvmpipe")
}

/// Equal bytes where arithmetic is exact. Elsewhere division may be off by an ulp, so a few
/// near ties may fall the other way; what counts is then the error.
#[track_caller]
fn assert_same_blocks(device: &Device, ty: GgmlType, x: &[f32], importance: &[f32]) {
    let (expected, got) = (on(&Device::cpu(), ty, x, importance), on(device, ty, x, importance));
    let blocks = expected.chunks(ty.block_bytes()).zip(got.chunks(ty.block_bytes()));
    let different = blocks.clone().filter(|(a, b)| a != b).count();
    let of = blocks.len();
    println!("{ty}: {different} of {of} blocks differ");
    if is_exact(device) {
        assert_eq!(different, 0, "{ty}: blocks differ of {of}");
    } else {
        let (cpu, gpu) = (weighted_error(ty, &expected, x, importance), weighted_error(ty, &got, x, importance));
        assert!(different * 50 <= of, "{ty}: {different} of {of} blocks differ");
        assert!(gpu <= cpu * 1.001 + f64::MIN_POSITIVE, "{ty}: error {gpu} on the GPU, {cpu} on the CPU");
    }
}

#[test]
fn a_gpu_makes_the_bytes_of_the_cpu() {
    let Some(device) = common::gpu() else { return };
    let mut random = Random::new(1);
    // 37 rows leave the last workgroup partly empty
    let (x, importance) = sample(&mut random, 37, 768);
    for ty in TYPES {
        assert_same_blocks(device, ty, &x, &importance);
    }
    for cols in [32, 96, 160] {
        let (x, importance) = sample(&mut random, 5, cols);
        for ty in TYPES.into_iter().filter(|ty| ty.fits(cols)) {
            assert_same_blocks(device, ty, &x, &importance);
        }
    }
}

/// A matrix in slabs of five rows, encoded and decoded in pieces of seven, is the matrix done at once.
#[test]
fn slabs_and_pieces_do_not_change_the_bytes() {
    let (rows, cols) = (24, 512);
    let (x, importance) = sample(&mut Random::new(2), rows, cols);
    for ty in TYPES {
        let expected = on(&Device::cpu(), ty, &x, &importance);
        let mut decoded = vec![0.0; x.len()];
        quant::decode(ty, &expected, &mut decoded).unwrap();
        for device in common::devices() {
            let block = if ty.is_quantized() { ty.block_bytes().next_multiple_of(4) } else { ty.block_bytes() };
            let five_rows = device.with_max_binding_bytes(5 * cols / ty.block_len() * block);
            let weight = Weight::zeroed(&five_rows, "weight", ty, rows, cols).unwrap();
            assert!(weight.slabs().len() > 4);
            let h = device.upload("h", &importance).unwrap();
            let out = device.alloc("out", 4 * 7 * cols).unwrap();
            for first in (0..rows).step_by(7) {
                let piece = first..(first + 7).min(rows);
                let x = device.upload("x", &x[piece.start * cols..piece.end * cols]).unwrap();
                encode_rows(&device, &x, &h, &weight, piece).unwrap();
            }
            assert!(weight.download(&device).unwrap() == expected || !is_exact(&device), "{ty} on {}", device.name());
            for first in (0..rows).step_by(7) {
                let piece = first..(first + 7).min(rows);
                decode_rows(&device, &weight, piece.clone(), &out).unwrap();
                let got = device.read_range::<f32>(&out, 0, piece.len() * cols).unwrap();
                let want = &decoded[piece.start * cols..piece.end * cols];
                assert!(got == want || !is_exact(&device), "{ty} on {}", device.name());
            }
        }
    }
}

#[test]
fn degenerate_blocks_are_the_same_everywhere() {
    let Some(device) = common::gpu() else { return };
    let cols = 256;
    let ramp: Vec<f32> = (0..cols).map(|j| j as f32 - 100.0).collect();
    let scaled = |factor: f32| ramp.iter().map(|x| x * factor).collect::<Vec<f32>>();
    let mut mixed = ramp.clone();
    (mixed[0], mixed[40], mixed[200]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let mut spike = scaled(0.01);
    spike[37] = -1e6;
    let rows =
        [vec![0.0; cols], vec![0.37; cols], vec![-0.37; cols], scaled(1e-9), scaled(1e5), scaled(1e36), mixed, spike];
    let importances = [
        vec![1.0; cols],
        vec![0.0; cols],
        (0..cols).map(|j| (j / 128) as f32).collect(),
        (0..cols).map(|j| 10f32.powi(j as i32 % 30 - 15)).collect(),
        (0..cols).map(|j| if j == 9 { f32::NAN } else { 1.0 }).collect(),
    ];
    for ty in TYPES.into_iter().filter(|ty| *ty != GgmlType::F32) {
        for importance in &importances {
            assert_same_blocks(device, ty, &rows.concat(), importance);
        }
    }
}

#[test]
fn decoding_is_exact_on_every_device() {
    let mut random = Random::new(3);
    let (x, importance) = sample(&mut random, 11, 512);
    for ty in TYPES {
        let bytes = on(&Device::cpu(), ty, &x, &importance);
        let mut expected = vec![0.0; x.len()];
        quant::decode(ty, &bytes, &mut expected).unwrap();
        for device in common::devices() {
            let weight = Weight::upload(&device, "weight", ty, 11, 512, &bytes).unwrap();
            let out = device.alloc("out", 4 * x.len()).unwrap();
            decode(&device, &weight, &out).unwrap();
            assert_eq!(device.read::<f32>(&out).unwrap(), expected, "{ty} on {}", device.name());
        }
    }
}

#[test]
fn row_errors_are_those_of_the_decoded_rows() {
    let mut random = Random::new(4);
    let (rows, cols) = (9, 512);
    let (x, importance) = sample(&mut random, rows, cols);
    let mean = random.normals(cols, 1.0);
    for ty in TYPES {
        let bytes = on(&Device::cpu(), ty, &x, &importance);
        let mut decoded = vec![0.0; x.len()];
        quant::decode(ty, &bytes, &mut decoded).unwrap();
        let mut expected = Vec::new();
        for r in 0..rows {
            let misses = || (0..cols).map(|j| (j, f64::from(decoded[r * cols + j] - x[r * cols + j])));
            expected.push(misses().map(|(j, miss)| f64::from(importance[j]) * miss * miss).sum::<f64>());
            expected.push(misses().map(|(j, miss)| f64::from(mean[j]) * miss).sum::<f64>());
        }
        for device in common::devices() {
            // two slabs, and the first row left out
            let small = device.with_max_binding_bytes(5 * cols * 4);
            let weight = Weight::upload(&small, "weight", ty, rows, cols, &bytes).unwrap();
            let upload = |values: &[f32]| device.upload("input", values).unwrap();
            let out = device.alloc("out", 8 * rows).unwrap();
            let columns = (upload(&importance), upload(&mean));
            row_error(&device, &upload(&x[cols..]), &weight, 1..rows, (&columns.0, &columns.1), &out).unwrap();
            let got = device.read_range::<f32>(&out, 0, 2 * rows - 2).unwrap();
            for (got, want) in got.chunks(2).zip(expected[2..].chunks(2)) {
                let scale = want[0].sqrt();
                assert!((f64::from(got[0]) - want[0]).abs() <= 1e-5 * want[0], "{ty}: {} is not {}", got[0], want[0]);
                assert!((f64::from(got[1]) - want[1]).abs() <= 1e-4 * scale, "{ty}: {} is not {}", got[1], want[1]);
            }
        }
    }
}

#[test]
fn what_cannot_be_encoded_is_an_error() {
    for device in common::devices() {
        let x = device.alloc("x", 4 * 512).unwrap();
        let h = device.alloc("h", 4 * 256).unwrap();
        assert!(encode(&device, GgmlType::I32, &x, &h, 2, 256).is_err());
        assert!(encode(&device, GgmlType::Q4_K, &x, &h, 4, 128).is_err());
        assert!(encode(&device, GgmlType::Q4_K, &x, &h, 3, 256).is_err());
        assert!(encode(&device, GgmlType::Q4_K, &x, &h, 1, 512).is_err());
    }
}
