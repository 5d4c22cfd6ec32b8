//! Weights on the grid of a type are recognized and stored exactly; others never are.

use dq_gpu::gguf::GgufFile;
use dq_gpu::quant::lossless::{Precision, TYPES, encode};
use dq_gpu::quant::{self, GgmlType};
use half::{bf16, f16};
use proptest::prelude::*;

const BLOCKS: usize = 6;

fn decode(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
    quant::decode(ty, bytes, &mut out).unwrap();
    out
}

fn to_bf16(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
}

/// Where a type keeps its 16-bit scale.
fn half_at(ty: GgmlType) -> Option<usize> {
    use GgmlType::*;
    match ty {
        TQ1_0 => Some(52),
        TQ2_0 => Some(64),
        MXFP4 | NVFP4 => None,
        _ => Some(0),
    }
}

/// Blocks of random codes and scales: any that an encoder could have written.
fn blocks() -> impl Strategy<Value = (GgmlType, Vec<u8>)> {
    let ty = proptest::sample::select(&TYPES[..]);
    let bytes = proptest::collection::vec(any::<u8>(), BLOCKS * 66);
    let scales = proptest::collection::vec((0x0400u16..0x5000, any::<bool>(), any::<u8>()), BLOCKS);
    (ty, bytes, scales).prop_map(|(ty, bytes, scales)| {
        let mut bytes = bytes[..BLOCKS * ty.block_bytes()].to_vec();
        for (block, (half, minus, small)) in bytes.chunks_mut(ty.block_bytes()).zip(scales) {
            if let Some(at) = half_at(ty) {
                block[at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
            match ty {
                GgmlType::TQ1_0 => {
                    for byte in &mut block[..48] {
                        *byte = (u32::from(*byte) * 242 / 255 * 256).div_ceil(243) as u8;
                    }
                    for byte in &mut block[48..52] {
                        *byte = (u32::from(*byte) * 80 / 255 * 3 * 256).div_ceil(243) as u8;
                    }
                }
                GgmlType::MXFP4 => block[0] = 90 + small % 60,
                GgmlType::NVFP4 => block[..4].iter_mut().for_each(|scale| *scale = 1 + *scale % 126),
                GgmlType::Q8_0 => block[2..].iter_mut().filter(|code| **code == 128).for_each(|code| *code = 0),
                // an offset that is a multiple of the scale, as that of integers is, and the smallest code in use
                GgmlType::Q4_1 | GgmlType::Q5_1 => {
                    let offset = f16::from_f32(f16::from_bits(half).to_f32() * -f32::from(small % 16));
                    block[2..4].copy_from_slice(&offset.to_le_bytes());
                    let last = block.len() - 1;
                    block[last] = 0;
                    if ty == GgmlType::Q5_1 {
                        block[4..8].fill(0);
                    }
                }
                // negative scales are as good
                GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::IQ4_NL => block[1] |= u8::from(minus) << 7,
                _ => {}
            }
        }
        (ty, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn decoded_blocks_are_stored_exactly((ty, bytes) in blocks()) {
        let weights = decode(ty, &bytes);
        let again = encode(ty, &weights, Precision::F32);
        prop_assert!(again.is_some(), "{ty}");
        prop_assert_eq!(decode(ty, &again.unwrap()), weights, "{}", ty);
    }

    #[test]
    fn also_when_the_source_rounds_them((ty, bytes) in blocks()) {
        // offsets are not searched
        prop_assume!(!matches!(ty, GgmlType::Q4_1 | GgmlType::Q5_1));
        let mut bytes = bytes;
        if matches!(ty, GgmlType::TQ1_0 | GgmlType::TQ2_0 | GgmlType::Q1_0 | GgmlType::Q2_0) {
            // a single level: the scale itself must be a bf16
            let at = half_at(ty).unwrap();
            bytes.chunks_mut(ty.block_bytes()).for_each(|block| block[at] &= 0xf8);
        }
        let weights = to_bf16(&decode(ty, &bytes));
        let again = encode(ty, &weights, Precision::Bf16);
        prop_assert!(again.is_some(), "{ty}");
        prop_assert_eq!(to_bf16(&decode(ty, &again.unwrap())), weights, "{}", ty);
    }

    #[test]
    fn a_weight_off_the_grid_is_noticed((ty, bytes) in blocks(), place in any::<prop::sample::Index>()) {
        let mut weights = decode(ty, &bytes);
        let place = place.index(weights.len());
        let largest = weights.iter().fold(0f32, |top, x| top.max(x.abs()));
        weights[place] += 0.123_456 * largest + f32::MIN_POSITIVE;
        if let Some(again) = encode(ty, &weights, Precision::F32) {
            // a block of few levels may have room for one more
            prop_assert_eq!(decode(ty, &again), weights, "{}", ty);
        }
    }

    #[test]
    fn noise_is_on_no_grid(values in proptest::collection::vec(-1f32..1.0, 512)) {
        let rounded = to_bf16(&values);
        for ty in TYPES {
            prop_assert!(encode(ty, &values, Precision::F32).is_none(), "{ty}");
            prop_assert!(encode(ty, &rounded, Precision::Bf16).is_none(), "{ty}");
        }
    }
}

/// The bytes are those that llama.cpp's plain encoders write: the extreme weight has the level -8, scales are positive where
/// both signs will do, four-bit floats use the largest scale that does not waste levels.
#[test]
fn the_bytes_are_the_usual_ones() {
    let block = |d: f32, codes: [u8; 16]| [&f16::from_f32(d).to_le_bytes()[..], &codes].concat();
    let codes = |first: u8| std::array::from_fn(|i| if i == 0 { first } else { 0x9a ^ (i as u8 & 1) });
    for bytes in [block(0.031, codes(0x80)), block(-0.031, codes(0x80)), block(0.0, [0x88; 16])] {
        assert_eq!(encode(GgmlType::Q4_0, &decode(GgmlType::Q4_0, &bytes), Precision::F32), Some(bytes));
    }
    let four_bit_floats = [&[121][..], &codes(0x7f)].concat();
    let weights = decode(GgmlType::MXFP4, &four_bit_floats);
    assert_eq!(encode(GgmlType::MXFP4, &weights, Precision::F32), Some(four_bit_floats));
}

#[test]
fn what_is_not_finite_or_not_whole_is_on_no_grid() {
    for ty in TYPES {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            let mut weights = vec![0.5; ty.block_len()];
            weights[3] = bad;
            assert!(encode(ty, &weights, Precision::F32).is_none(), "{ty}: {bad}");
        }
        assert!(encode(ty, &[0.0; 31], Precision::F32).is_none(), "{ty}");
        let zeros = vec![0.0; ty.block_len()];
        assert_eq!(decode(ty, &encode(ty, &zeros, Precision::F32).unwrap()), zeros, "{ty}");
    }
}

/// Four-bit integers in groups of 128 with bf16 scales, multiplied out in bf16, as models trained for them are published.
#[test]
fn four_bit_integers_rounded_to_bf16_are_found() {
    let mut state = 1u64;
    let mut random = move |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut weights = Vec::new();
    for _ in 0..64 {
        let scale = bf16::from_f32(0.001 + random(1000) as f32 * 1e-5).to_f32();
        weights.extend((0..128).map(|_| (random(15) as f32 - 7.0) * scale));
    }
    let weights = to_bf16(&weights);
    assert!(encode(GgmlType::Q4_0, &weights, Precision::F32).is_none());
    let bytes = encode(GgmlType::Q4_0, &weights, Precision::Bf16).unwrap();
    assert_eq!(to_bf16(&decode(GgmlType::Q4_0, &bytes)), weights);
}

/// Runs `dq-gpu` with little text and returns its report.
fn run(args: &[&str]) -> serde_json::Value {
    let quick = ["--device", "cpu", "--ctx", "64", "--chunks", "4", "--json"];
    let output = assert_cmd::Command::cargo_bin("dq-gpu").unwrap().args(args).args(quick).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A model of one type, decoded to F32 and quantized to the size of the first file, is the first file again.
#[test]
fn a_decoded_model_finds_its_type_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for ty in ["Q4_0", "MXFP4"] {
        let (first, decoded, again) = (at("first.gguf"), at("decoded.gguf"), at("again.gguf"));
        run(&["quantize", "tests/fixtures/models/llama-tied", "--pure", ty, "-o", &first]);
        run(&["quantize", &first, "--pure", "F32", "-o", &decoded]);
        // what is said of the text in the metadata may be longer
        let size = format!("{}B", std::fs::metadata(&first).unwrap().len() + 256);
        let report = run(&["quantize", &decoded, "--size", &size, "-o", &again]);

        assert_eq!(report["predicted_kld"], 0.0, "{ty}");
        assert_eq!(report["measured_kld"], 0.0, "{ty}");
        let [first, again] = [first, again].map(|file| GgufFile::open(file.as_ref()).unwrap());
        assert_same_weights(&first, &again);
        // the type alone is enough, whatever the importance of columns
        let pure = at("pure.gguf");
        run(&["quantize", &decoded, "--pure", ty, "-o", &pure]);
        assert_same_weights(&first, &GgufFile::open(pure.as_ref()).unwrap());
    }
}

/// Equal types and values everywhere, and equal bytes but for blocks that can be written in two ways: with one level only, or
/// with both signs of the scale.
fn assert_same_weights(a: &GgufFile, b: &GgufFile) {
    let (mut blocks, mut equal) = (0, 0);
    for tensor in &a.tensors {
        let other = b.tensor(&tensor.name).unwrap();
        let (ty, name) = (tensor.ty, &tensor.name);
        assert_eq!(other.ty, ty, "{name}");
        let (left, right) = (a.data(tensor).unwrap(), b.data(other).unwrap());
        assert!(decode(ty, &left) == decode(ty, &right), "other weights in {name}");
        let pairs = left.chunks(ty.block_bytes()).zip(right.chunks(ty.block_bytes()));
        blocks += pairs.len();
        equal += pairs.filter(|(a, b)| a == b).count();
    }
    assert!(equal as f64 > 0.95 * blocks as f64, "{equal} of {blocks} blocks have the same bytes");
}
