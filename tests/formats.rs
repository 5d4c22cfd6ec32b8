//! Block formats from outside: decoding against gguf-py, encoding against its promises.

use dq_gpu::quant::{self, GgmlType, device_layout};
use proptest::prelude::*;

const QUANTIZED: [GgmlType; 12] = [
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
];

/// Relative root mean square error that Gaussian weights must stay below.
fn bound(ty: GgmlType) -> f64 {
    match ty {
        GgmlType::Q8_0 => 0.006,
        GgmlType::Q6_K => 0.02,
        GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5_K => 0.05,
        GgmlType::Q3_K => 0.20,
        GgmlType::Q2_K => 0.37,
        _ => 0.10,
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

#[test]
fn decoding_equals_gguf_py_bit_for_bit() {
    let mut fixture: &[u8] = include_bytes!("fixtures/blocks.bin");
    let mut take = |count: usize| {
        let (head, tail) = fixture.split_at(count);
        fixture = tail;
        head
    };
    let mut seen = Vec::new();
    for _ in 0..14 {
        let [id, size, weights] = std::array::from_fn(|_| u32::from_le_bytes(take(4).try_into().unwrap()));
        let ty = GgmlType::from_id(id).unwrap();
        let bytes = take(size as usize);
        let expected = take(weights as usize * 4).as_chunks().0;
        let decoded = decode(ty, bytes);
        assert_eq!(decoded.len(), expected.len());
        for (i, (a, b)) in decoded.iter().zip(expected).enumerate() {
            let b = f32::from_le_bytes(*b);
            // the sign of zero is of no consequence and numpy's negation of it differs from ggml's
            assert!(
                a.to_bits() == b.to_bits() || (*a == 0.0 && b == 0.0) || (a.is_nan() && b.is_nan()),
                "{ty} weight {i}: {a} is not {b}"
            );
        }
        seen.push(ty);
    }
    assert!(QUANTIZED.iter().all(|ty| seen.contains(ty)));
    assert!(fixture.is_empty());
}

#[test]
fn gaussian_weights_stay_within_the_bound_of_the_type() {
    let values = gaussian(7, 64 * 256);
    for ty in QUANTIZED {
        let decoded = decode(ty, &encode(ty, &values, &[1.0; 256]));
        let relative =
            (weighted_error(&values, &decoded, &[1.0]) / weighted_error(&values, &[0.0; 64 * 256], &[1.0])).sqrt();
        assert!(relative < bound(ty), "{ty}: {relative}");
    }
}

#[test]
fn important_columns_are_kept_better() {
    let values = gaussian(3, 32 * 256);
    let importance: Vec<f32> = (0..256).map(|j| if j % 8 == 0 { 100.0 } else { 1.0 }).collect();
    for ty in QUANTIZED {
        let flat = decode(ty, &encode(ty, &values, &[1.0; 256]));
        let weighted = decode(ty, &encode(ty, &values, &importance));
        let (before, after) =
            (weighted_error(&values, &flat, &importance), weighted_error(&values, &weighted, &importance));
        assert!(after < 0.9 * before, "{ty}: {after} is not clearly below {before}");
    }
}

#[test]
fn weights_on_the_grid_are_found_again() {
    let values = gaussian(11, 32 * 256);
    for ty in QUANTIZED {
        let once = decode(ty, &encode(ty, &values, &[1.0; 256]));
        let twice = decode(ty, &encode(ty, &once, &[1.0; 256]));
        let lost = weighted_error(&once, &twice, &[1.0]);
        if matches!(ty, GgmlType::Q8_0 | GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::IQ4_NL) {
            assert_eq!(lost, 0.0, "{ty}");
        } else {
            assert!(lost < 0.05 * weighted_error(&values, &once, &[1.0]), "{ty}: {lost}");
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_the_bytes() {
    let (rows, cols) = (67, 768);
    let values = gaussian(5, rows * cols);
    let importance: Vec<f32> = gaussian(6, cols).iter().map(|x| x.exp()).collect();
    for ty in QUANTIZED {
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
        ("not finite", mixed),
        ("all NaN", vec![f32::NAN; cols]),
        ("all infinite", vec![f32::INFINITY; cols]),
    ];
    let importances: Vec<(&str, Vec<f32>)> = vec![
        ("flat", vec![1.0; cols]),
        ("none", vec![0.0; cols]),
        ("half none", (0..cols).map(|j| (j % 2) as f32).collect()),
        ("first half none", (0..cols).map(|j| (j / 128) as f32).collect()),
        ("tiny", vec![1e-40; cols]),
        ("huge", vec![1e38; cols]),
        ("steep", (0..cols).map(|j| 10f32.powi(j as i32 % 40 - 20)).collect()),
        ("not finite", (0..cols).map(|j| if j == 9 { f32::NAN } else { 1.0 }).collect()),
        ("infinite", (0..cols).map(|j| if j == 9 { f32::INFINITY } else { 1.0 }).collect()),
        ("negative", vec![-1.0; cols]),
    ];
    for ty in QUANTIZED.into_iter().chain([GgmlType::F16, GgmlType::BF16, GgmlType::F32]) {
        for (name, row) in &rows {
            for (weights, importance) in &importances {
                let decoded = decode(ty, &encode(ty, row, importance));
                assert!(decoded.iter().all(|x| x.is_finite()), "{ty}: {name} with {weights} importance");
            }
        }
        let zeros = decode(ty, &encode(ty, &rows[0].1, &importances[0].1));
        assert!(zeros.iter().all(|x| *x == 0.0), "{ty}");
        if ty.is_quantized() {
            for row in [&rows[2].1, &rows[3].1] {
                let decoded = decode(ty, &encode(ty, row, &importances[1].1));
                let worst = decoded.iter().zip(row).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 0.006, "{ty}: a constant row misses by {worst}");
            }
        }
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let mut bytes = vec![0; 144];
    assert!(quant::encode(GgmlType::Q4_K, &[0.0; 128], &[1.0; 128], &mut bytes).is_err());
    assert!(quant::encode(GgmlType::Q4_K, &[0.0; 512], &[1.0; 256], &mut bytes).is_err());
    assert!(quant::decode(GgmlType::Q4_K, &bytes, &mut [0.0; 128]).is_err());
    assert!(quant::decode(GgmlType::IQ2_XS, &bytes, &mut [0.0; 256]).is_err());
    assert!(quant::encode(GgmlType::Q4_K, &[], &[1.0; 256], &mut []).is_ok());
}

#[test]
fn shapes_that_do_not_fit_fall_back_as_in_llama_cpp() {
    use GgmlType::*;
    assert_eq!(quant::fallback(Q4_K, 512).unwrap(), Q4_K);
    for (ty, at_2880) in
        [(Q2_K, Q4_0), (Q3_K, Q4_0), (Q4_K, Q5_0), (Q5_K, Q5_1), (Q6_K, Q8_0), (IQ4_XS, IQ4_NL), (IQ3_S, IQ4_NL)]
    {
        assert_eq!(quant::fallback(ty, 2880).unwrap(), at_2880);
        assert_eq!(quant::fallback(ty, 33).unwrap(), F16);
    }
    assert_eq!(quant::fallback(Q8_0, 40).unwrap(), F16);
    assert_eq!(quant::fallback(BF16, 7).unwrap(), BF16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn encoding_is_never_worse_than_zero(
        seed in 0u64..1000,
        scale in -20i32..20,
        spread in 0f32..3.0,
        ty in prop::sample::select(QUANTIZED.to_vec()),
    ) {
        let cols = 512;
        let values: Vec<f32> = gaussian(seed, 2 * cols).iter().map(|x| x * (scale as f32).exp2() * 0.01).collect();
        let importance: Vec<f32> = gaussian(seed + 1, cols).iter().map(|x| (x * spread).exp()).collect();
        let decoded = decode(ty, &encode(ty, &values, &importance));
        prop_assert!(decoded.iter().all(|x| x.is_finite()));
        let nothing = weighted_error(&values, &vec![0.0; values.len()], &importance);
        prop_assert!(weighted_error(&values, &decoded, &importance) <= nothing * 1.000001);
    }

    #[test]
    fn padding_round_trips(blocks in 1usize..5, ty in prop::sample::select(QUANTIZED.to_vec()), seed in any::<u8>()) {
        let bytes: Vec<u8> = (0..blocks * ty.block_bytes()).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
        let device = device_layout::pad_blocks(ty, &bytes);
        prop_assert_eq!(device.len() % 4, 0);
        prop_assert_eq!(device_layout::strip_blocks(ty, &device), bytes);
    }
}
