//! The codebook, ternary and four-bit float formats from outside: decoding against gguf-py and ggml, encoding against its
//! promises.

use dq_gpu::quant::lossless::{Precision, on_grid};
use dq_gpu::quant::{self, GgmlType};
use proptest::prelude::*;

const TYPES: [GgmlType; 13] = [
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

/// Relative mean square error that Gaussian weights must stay below.
fn bound(ty: GgmlType) -> f64 {
    match ty {
        GgmlType::IQ1_S => 0.22,
        GgmlType::IQ1_M => 0.20,
        GgmlType::IQ2_XXS => 0.11,
        GgmlType::IQ2_XS => 0.085,
        GgmlType::IQ2_S => 0.065,
        GgmlType::IQ3_XXS => 0.032,
        GgmlType::IQ3_S => 0.019,
        GgmlType::TQ1_0 => 0.20,
        GgmlType::TQ2_0 | GgmlType::Q2_0 => 0.16,
        GgmlType::Q1_0 => 0.37,
        GgmlType::MXFP4 => 0.015,
        GgmlType::NVFP4 => 0.010,
        _ => unreachable!("not in the list"),
    }
}

/// Cheap deterministic numbers, close to a normal distribution.
fn gaussian(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

fn encode(ty: GgmlType, values: &[f32], importance: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xaa; ty.bytes_for(values.len() as u64) as usize];
    quant::encode(ty, values, importance, &mut bytes).unwrap();
    bytes
}

fn decode(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / ty.block_bytes() * ty.block_len()];
    quant::decode(ty, bytes, &mut out).unwrap();
    out
}

fn weighted_error(values: &[f32], decoded: &[f32], importance: &[f32]) -> f64 {
    let squares = values.iter().zip(decoded).zip(importance.iter().cycle());
    squares.map(|((x, y), h)| *h as f64 * (*x as f64 - *y as f64).powi(2)).sum()
}

/// Type, bytes and decoded weights of every entry of the fixture.
fn fixture() -> Vec<(GgmlType, &'static [u8], Vec<f32>)> {
    let mut rest: &'static [u8] = include_bytes!("fixtures/codebook_blocks.bin");
    let mut take = |count: usize| {
        let (head, tail) = rest.split_at(count);
        rest = tail;
        head
    };
    let entry = |_| {
        let [id, size, weights] = std::array::from_fn(|_| u32::from_le_bytes(take(4).try_into().unwrap()));
        let bytes = take(size as usize);
        let weights = take(weights as usize * 4).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        (GgmlType::from_id(id).unwrap(), bytes, weights.collect())
    };
    (0..TYPES.len()).map(entry).collect()
}

#[test]
fn decoding_equals_the_references_bit_for_bit() {
    let entries = fixture();
    assert!(TYPES.iter().all(|ty| entries.iter().any(|entry| entry.0 == *ty)));
    for (ty, bytes, expected) in entries {
        let decoded = decode(ty, bytes);
        assert_eq!(decoded.len(), expected.len());
        for (i, (a, b)) in decoded.iter().zip(&expected).enumerate() {
            // the sign of zero differs between numpy and ggml
            assert!(a.to_bits() == b.to_bits() || (*a == 0.0 && *b == 0.0), "{ty} weight {i}: {a:e} is not {b:e}");
        }
    }
}

#[test]
fn gaussian_weights_stay_within_the_bound_of_the_type() {
    let values = gaussian(7, 32 * 256);
    for ty in TYPES {
        let decoded = decode(ty, &encode(ty, &values, &[1.0; 256]));
        let energy = weighted_error(&values, &vec![0.0; values.len()], &[1.0]);
        let relative = weighted_error(&values, &decoded, &[1.0]) / energy;
        assert!(relative < bound(ty), "{ty}: {relative}");
    }
}

#[test]
fn important_columns_are_kept_better() {
    let values = gaussian(3, 16 * 256);
    let importance: Vec<f32> = (0..256).map(|j| if j % 8 == 0 { 100.0 } else { 1.0 }).collect();
    for ty in TYPES {
        let flat = decode(ty, &encode(ty, &values, &[1.0; 256]));
        let weighted = decode(ty, &encode(ty, &values, &importance));
        let (before, after) =
            (weighted_error(&values, &flat, &importance), weighted_error(&values, &weighted, &importance));
        assert!(after < 0.99 * before, "{ty}: {after} is not below {before}");
    }
}

#[test]
fn weights_on_the_grid_are_found_again() {
    use GgmlType::*;
    for ty in [TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0] {
        let len = ty.block_len();
        let bytes = valid_blocks(ty, 64, 5);
        let weights = decode(ty, &bytes);
        let importance: Vec<f32> = gaussian(6, len).iter().map(|x| x.exp()).collect();
        let again = decode(ty, &encode(ty, &weights, &importance));
        for (block, (a, b)) in weights.chunks(len).zip(again.chunks(len)).enumerate() {
            assert_eq!(a, b, "{ty} block {block}");
        }
    }
}

#[test]
fn weights_on_a_grid_are_told_from_others() {
    use GgmlType::*;
    for ty in [TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0] {
        let mut weights = decode(ty, &valid_blocks(ty, 40, 7));
        assert!(on_grid(ty, &weights, Precision::F32), "{ty}");
        let last = weights.len() - 1;
        weights[last] = weights[last] * 1.01 + 1e-4;
        assert!(!on_grid(ty, &weights, Precision::F32), "{ty}");
        assert!(!on_grid(ty, &gaussian(9, 512), Precision::F32), "{ty}");
        assert!(!on_grid(ty, &[0.0; 31], Precision::F32), "{ty}: not a whole block");
    }
    // four-bit integers are not on the grid of four-bit floats, nor the other way round
    let integers: Vec<f32> = (0..512).map(|i| ((i * 7 % 16) as f32 - 8.0) * 0.25).collect();
    assert!(on_grid(Q4_0, &integers, Precision::F32) && !on_grid(MXFP4, &integers, Precision::F32));
}

/// Random blocks with scales that models have.
fn valid_blocks(ty: GgmlType, count: usize, seed: u64) -> Vec<u8> {
    let mut random = gaussian(seed, count * ty.block_bytes()).into_iter().map(|x| (x * 1e4) as i32 as u8);
    let mut bytes: Vec<u8> = random.by_ref().take(count * ty.block_bytes()).collect();
    for (number, block) in bytes.chunks_mut(ty.block_bytes()).enumerate() {
        let d = half::f16::from_f32(0.01 + 0.001 * (number as f32).sin()).to_le_bytes();
        match ty {
            GgmlType::TQ1_0 => {
                // digits of a number below 243, and four of them in the last bytes
                for byte in &mut block[..48] {
                    *byte = (*byte as u32 * 242 / 255 * 256).div_ceil(243) as u8;
                }
                for byte in &mut block[48..52] {
                    *byte = (*byte as u32 * 80 / 255 * 3 * 256).div_ceil(243) as u8;
                }
                block[52..54].copy_from_slice(&d);
            }
            GgmlType::TQ2_0 => block[64..66].copy_from_slice(&d),
            GgmlType::MXFP4 => block[0] = 110 + (number % 20) as u8,
            GgmlType::NVFP4 => {
                for (i, scale) in block[..4].iter_mut().enumerate() {
                    *scale = (1 + (31 * number + 17 * i) % 126) as u8;
                }
            }
            _ => block[..2].copy_from_slice(&d),
        }
    }
    bytes
}

#[test]
fn the_number_of_threads_does_not_change_the_bytes() {
    let (rows, cols) = (23, 768);
    let values = gaussian(5, rows * cols);
    let importance: Vec<f32> = gaussian(6, cols).iter().map(|x| x.exp()).collect();
    for ty in TYPES {
        let parallel = encode(ty, &values, &importance);
        let serial: Vec<u8> = values.chunks(cols).flat_map(|row| encode(ty, row, &importance)).collect();
        assert!(parallel == serial, "{ty}");
    }
}

#[test]
fn degenerate_blocks_decode_to_finite_values() {
    let cols = 256;
    let ramp: Vec<f32> = (0..cols).map(|j| j as f32 - 100.0).collect();
    let spike = |at: f32| (0..cols).map(|j| if j == 37 { at } else { 0.01 * ramp[j] }).collect::<Vec<f32>>();
    let mut mixed = ramp.clone();
    (mixed[0], mixed[40], mixed[200]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let rows: Vec<(&str, Vec<f32>)> = vec![
        ("zero", vec![0.0; cols]),
        ("negative zero", vec![-0.0; cols]),
        ("constant", vec![0.37; cols]),
        ("negative constant", vec![-0.37; cols]),
        ("subnormal", vec![f32::from_bits(3); cols]),
        ("tiny", ramp.iter().map(|x| x * 1e-38).collect()),
        ("below f16", ramp.iter().map(|x| x * 1e-9).collect()),
        ("huge", ramp.iter().map(|x| x * 1e36).collect()),
        ("beyond f16", ramp.iter().map(|x| x * 1e5).collect()),
        ("spike", spike(1e6)),
        ("negative spike", spike(-1e6)),
        ("half zero", (0..cols).map(|j| if j < 128 { 0.0 } else { ramp[j] }).collect()),
        ("not finite", mixed),
        ("all NaN", vec![f32::NAN; cols]),
        ("all infinite", vec![f32::INFINITY; cols]),
    ];
    let importances: Vec<(&str, Vec<f32>)> = vec![
        ("flat", vec![1.0; cols]),
        ("none", vec![0.0; cols]),
        ("first half none", (0..cols).map(|j| (j / 128) as f32).collect()),
        ("tiny", vec![1e-40; cols]),
        ("huge", vec![1e38; cols]),
        ("steep", (0..cols).map(|j| 10f32.powi(j as i32 % 40 - 20)).collect()),
        ("not finite", (0..cols).map(|j| if j == 9 { f32::NAN } else { 1.0 }).collect()),
        ("negative", vec![-1.0; cols]),
    ];
    for ty in TYPES {
        for (name, row) in &rows {
            for (weights, importance) in &importances {
                let decoded = decode(ty, &encode(ty, row, importance));
                assert!(decoded.iter().all(|x| x.is_finite()), "{ty}: {name} with {weights} importance");
            }
        }
        let zeros = decode(ty, &encode(ty, &rows[0].1, &importances[0].1));
        assert!(zeros.iter().all(|x| *x == 0.0), "{ty}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn encoding_is_never_worse_than_zero(
        seed in 0u64..1000,
        scale in -12i32..20,
        spread in 0f32..3.0,
        ty in prop::sample::select(TYPES.to_vec()),
    ) {
        let cols = 512;
        let values: Vec<f32> = gaussian(seed, 2 * cols).iter().map(|x| x * (scale as f32).exp2() * 0.1).collect();
        let importance: Vec<f32> = gaussian(seed + 1, cols).iter().map(|x| (x * spread).exp()).collect();
        let decoded = decode(ty, &encode(ty, &values, &importance));
        prop_assert!(decoded.iter().all(|x| x.is_finite()));
        let nothing = weighted_error(&values, &vec![0.0; values.len()], &importance);
        prop_assert!(weighted_error(&values, &decoded, &importance) <= nothing * 1.000001);
    }
}
