//! Checkpoints whose weights are kept in fewer bits, beside their scales.

use dq_gpu::quant::GgmlType;
use dq_gpu::source::Model;
use safetensors::Dtype;
use serde_json::json;

use crate::Copy;

const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";

fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let size = if exponent == 0 { fraction * 2f32.powi(-6) } else { (1.0 + fraction) * 2f32.powi(exponent - 7) };
    if code >= 128 { -size } else { size }
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn rows(model: &Model, name: &str) -> Vec<f32> {
    let tensor = model.require(name).unwrap();
    model.f32_rows(tensor, 0..tensor.rows).unwrap()
}

/// All codes but those that are no numbers.
fn code(at: usize) -> u8 {
    let code = (at * 37 % 256) as u8;
    if code & 0x7f == 0x7f { 0 } else { code }
}

#[test]
fn floats_of_eight_bits_are_read_with_the_scales_of_their_blocks() {
    let mut copy = Copy::of("tiny-qwen3");
    copy.config["quantization_config"] = json!({ "quant_method": "fp8", "weight_block_size": [128, 128] });
    let (_, shape, _) = &copy.tensors[Q_PROJ];
    let [rows_, cols] = [shape[0], shape[1]];
    let blocks = [rows_.div_ceil(128), cols.div_ceil(128)];
    let scales: Vec<f32> = (0..blocks[0] * blocks[1]).map(|at| 0.001 * (at + 1) as f32).collect();
    let codes: Vec<u8> = (0..rows_ * cols).map(code).collect();
    copy.tensors.insert(Q_PROJ.to_owned(), (Dtype::F8_E4M3, vec![rows_, cols], codes.clone()));
    copy.tensors.insert(format!("{Q_PROJ}_scale_inv"), (Dtype::F32, blocks.to_vec(), f32_bytes(&scales)));
    let model = copy.open().unwrap();
    let tensor = model.require("blk.1.attn_q.weight").unwrap();
    assert_eq!(tensor.ty, GgmlType::BF16, "as llama.cpp's converter has it");
    let wanted: Vec<f32> = codes
        .iter()
        .enumerate()
        .map(|(at, code)| e4m3(*code) * scales[at / cols / 128 * blocks[1] + at % cols / 128])
        .map(|value| half::bf16::from_f32(value).to_f32())
        .collect();
    assert_eq!(rows(&model, "blk.1.attn_q.weight"), wanted);
    let some = model.f32_rows(tensor, 100..131).unwrap();
    assert_eq!(some, wanted[100 * cols..131 * cols]);

    let half: Vec<f32> = scales[..blocks[1]].to_vec();
    copy.tensors.insert(
        format!("{Q_PROJ}_scale_inv"),
        (Dtype::F32, vec![1, blocks[1] + 7], f32_bytes(&[half, vec![1.0; 7]].concat())),
    );
    let message = copy.message();
    assert!(message.contains("_scale_inv") && message.contains("scales for"), "{message}");
}

/// Value of an element of four bits.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

#[test]
fn packed_experts_are_read_as_blocks_of_mxfp4() {
    let mut copy = Copy::of("gptoss");
    let (experts, width, hidden) = (4, 64, 32);
    let code = |expert: usize, row: usize, col: usize| ((expert * 7 + row * 5 + col * 3) % 16) as u8;
    let scale = |expert: usize, row: usize, group: usize| (118 + (expert + row + 3 * group) % 9) as u8;
    for layer in 0..2 {
        for (name, rows, cols) in [("gate_up_proj", 2 * hidden, width), ("down_proj", width, hidden)] {
            let stem = format!("model.layers.{layer}.mlp.experts.{name}");
            copy.tensors.remove(&stem).unwrap();
            let (mut codes, mut scales) = (Vec::new(), Vec::new());
            for (expert, row) in (0..experts).flat_map(|expert| (0..rows).map(move |row| (expert, row))) {
                // neighbours share a byte, the first in its low half
                codes.extend((0..cols / 2).map(|at| code(expert, row, 2 * at) | code(expert, row, 2 * at + 1) << 4));
                scales.extend((0..cols / 32).map(|group| scale(expert, row, group)));
            }
            let shape = vec![experts, rows, cols / 32, 16];
            copy.tensors.insert(format!("{stem}_blocks"), (Dtype::U8, shape, codes));
            copy.tensors.insert(format!("{stem}_scales"), (Dtype::U8, vec![experts, rows, cols / 32], scales));
        }
    }
    let model = copy.open().unwrap();
    let value = |expert: usize, row: usize, col: usize| {
        let code = code(expert, row, col);
        let size = E2M1[usize::from(code & 7)] * 2f32.powi(i32::from(scale(expert, row, col / 32)) - 127);
        if code >= 8 { -size } else { size }
    };
    // gate and up take turns
    for (name, row_of, rows_, cols) in [
        ("blk.1.ffn_gate_exps.weight", (2, 0), hidden, width),
        ("blk.1.ffn_up_exps.weight", (2, 1), hidden, width),
        ("blk.1.ffn_down_exps.weight", (1, 0), width, hidden),
    ] {
        let tensor = model.require(name).unwrap();
        assert_eq!((tensor.ty, tensor.dims.clone()), (GgmlType::MXFP4, vec![cols as u64, rows_ as u64, 4]), "{name}");
        let mut wanted = Vec::new();
        for (expert, row) in (0..experts).flat_map(|expert| (0..rows_).map(move |row| (expert, row))) {
            wanted.extend((0..cols).map(|col| value(expert, row_of.0 * row + row_of.1, col)));
        }
        assert_eq!(rows(&model, name), wanted, "{name}");
        // some rows, across the border of two experts
        let some = model.f32_rows(tensor, rows_ - 3..rows_ + 2).unwrap();
        assert_eq!(some, wanted[(rows_ - 3) * cols..(rows_ + 2) * cols], "{name}");
    }
}
