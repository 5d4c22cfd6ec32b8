//! Rounding behind quantized layers: what later layers give back, and what few tokens must not spoil.

mod common;

use std::collections::HashMap;

use assert_cmd::Command;
use dq_gpu::calibration::Chunks;
use dq_gpu::device::Device;
use dq_gpu::forward::StreamOptions;
use dq_gpu::forward::lanes::{LaneInputs, LaneTap};
use dq_gpu::graph::{LinearInput, Matrix};
use dq_gpu::pipeline::{RoundingInputs, round};
use dq_gpu::progress::Silent;
use dq_gpu::quant::{self, GgmlType};
use dq_gpu::rounding::coupling::Factored;
use dq_gpu::rounding::drift::{REPAIR, Repair};
use dq_gpu::rounding::hessian::{HeldOut, HessianTap, Texts};
use dq_gpu::rounding::{DAMPING, Method, Prefix};
use dq_gpu::source::Model;
use serde_json::Value;

/// Measured KL of a file on the built-in held-out text.
fn measured(options: &[&str]) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let mut command = Command::cargo_bin("dq-gpu").unwrap();
    command
        .args(["quantize", "models/tiny-llama", "--device", "cpu", "--ctx", "256", "--json", "-q", "-o"])
        .arg(output);
    let output = command.args(options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["measured_kld"].as_f64().unwrap()
}

#[test]
fn layers_make_up_for_those_before_them() {
    let options = ["--pure", "Q2_K", "--chunks", "16", "--effort", "fast", "--prefix"];
    let [original, quantized] = ["original", "quantized"].map(|prefix| measured(&[&options[..], &[prefix]].concat()));
    println!("KL {original:.6} behind the original's layers, {quantized:.6} behind quantized ones");
    assert!(quantized < 0.95 * original, "{quantized} instead of {original}");
}

/// Eight texts, of which one is held out: what fits them only is told apart.
#[test]
fn two_thousand_tokens_do_no_harm() {
    let options = ["--pure", "Q3_K", "--chunks", "8"];
    let plain = measured(&[&options[..], &["--rounding", "search", "--effort", "fast"]].concat());
    let rounded = measured(&options);
    println!("KL {plain:.6} plainly, {rounded:.6} rounded with 2,048 tokens");
    assert!(rounded < 0.8 * plain, "{rounded} instead of {plain}");
}

/// Text of pseudo-random tokens.
fn chunks(count: usize, ctx: usize) -> Chunks {
    let mut random = common::Random::new(3);
    let tokens: Vec<u32> = (0..count * ctx).map(|_| 300 + (random.next_u64() % 3000) as u32).collect();
    Chunks {
        ctx,
        first: tokens.iter().step_by(ctx).copied().collect(),
        tokens,
        domain: vec![0; count],
        domains: vec!["text".to_owned()],
        hash: String::new(),
    }
}

/// Tensors as they are written, decoded.
fn rounded(device: &Device, model: &str, names: &[&str], moments_budget: usize) -> HashMap<String, Vec<f32>> {
    let model = Model::open(model.as_ref()).unwrap();
    let text = chunks(8, 32);
    let types = names.iter().map(|name| (name.to_string(), GgmlType::Q3_K)).collect();
    let method = Method { feedback: true, descents: 1, prefix: Prefix::Quantized };
    let memory = StreamOptions { moments_budget, ..StreamOptions::default() };
    let inputs = RoundingInputs { method, chunks: &text, sensitivities: None, memory, kept: None };
    let mut written: HashMap<String, Vec<f32>> = HashMap::new();
    let mut sink = |tensor: &dq_gpu::source::Tensor, bytes: &[u8]| {
        let mut values = vec![0f32; bytes.len() / GgmlType::Q3_K.block_bytes() * 256];
        quant::decode(GgmlType::Q3_K, bytes, &mut values)?;
        written.entry(tensor.name.clone()).or_default().extend(values);
        Ok(())
    };
    round(device, &model, &types, None, &inputs, &mut sink, &Silent).unwrap();
    written
}

/// An embedding that is the output too is rounded first, once, and the first layer makes up for its errors.
#[test]
fn layers_see_the_errors_of_a_tied_embedding() {
    let (embedding, reader) = ("token_embd.weight", "blk.0.attn_v.weight");
    for device in common::devices() {
        let run = |names: &[&str]| rounded(&device, "models/tiny-qwen3", names, 1 << 30);
        let (alone, both) = (run(&[reader]), run(&[embedding, reader]));
        let tensor = Model::open("models/tiny-qwen3".as_ref()).unwrap().require(embedding).unwrap().elements();
        assert_eq!(both[embedding].len() as u64, tensor, "on {}", device.name());
        assert_eq!(both[embedding], run(&[embedding])[embedding], "on {}", device.name());
        assert_ne!(both[reader], alone[reader], "the layer reads the original embedding on {}", device.name());
    }
}

/// An input of 768 columns in three panels gives other codes than in one, in every panel, and nearly as good ones.
#[test]
fn wide_inputs_are_rounded_in_panels() {
    let model = Model::open("models/tiny-llama".as_ref()).unwrap();
    for device in common::devices() {
        let names = ["blk.0.ffn_up.weight", "blk.0.ffn_down.weight"];
        let whole = rounded(&device, "models/tiny-llama", &names, 1 << 30);
        let panels = rounded(&device, "models/tiny-llama", &names, 64 * 300 * 300);
        assert_eq!(whole["blk.0.ffn_up.weight"], panels["blk.0.ffn_up.weight"], "256 columns are one panel");
        let tensor = model.require("blk.0.ffn_down.weight").unwrap();
        let values = model.f32_rows(tensor, 0..tensor.rows).unwrap();
        let (whole, panels) = (&whole["blk.0.ffn_down.weight"], &panels["blk.0.ffn_down.weight"]);
        for first in [0, 256, 512] {
            let rows = whole.chunks(768).zip(panels.chunks(768));
            let same = rows.filter(|(a, b)| a[first..first + 256] == b[first..first + 256]).count();
            assert!(same < tensor.rows / 2, "{same} rows of columns {first}.. are the same on {}", device.name());
        }
        let square = |decoded: &[f32]| values.iter().zip(decoded).map(|(x, d)| f64::from(x - d).powi(2)).sum::<f64>();
        let ratio = square(panels) / square(whole);
        assert!((0.5..2.0).contains(&ratio), "{ratio} on {}", device.name());
    }
}

/// Weights that read a moved input give back a share of what the original's gave, as the normal equations say.
#[test]
fn repair_solves_the_normal_equations() {
    let (tokens, width, rows) = (96, 24, 5);
    let mut random = common::Random::new(5);
    let (x, h) = (random.normals(tokens * width, 1.0), random.normals(tokens * rows, 1.0));
    let moved: Vec<f32> = x.iter().map(|v| 0.9 * v + 0.1 * random.normal()).collect();
    let other: Vec<f32> = (0..tokens * rows).map(|at| h[at] - 0.2 * moved[at / rows * width + at % rows]).collect();
    let weights = random.normals(rows * width, 1.0);
    for device in common::devices() {
        let upload = |values: &[f32]| device.upload("states", values).unwrap();
        let (original, quantized, residuals) = (upload(&x), upload(&moved), [upload(&h), upload(&other)]);
        let mut tap = HessianTap::new(&device, HeldOut::Nothing, 1 << 30);
        let quantized = LinearInput {
            matrices: &[Matrix::whole("w")],
            x: &quantized,
            width,
            texts: &[tokens / 3; 3],
            first_text: 0,
            experts: None,
        };
        let residuals = Some([&residuals[0], &residuals[1]]);
        tap.linear_inputs(&LaneInputs { quantized, original: Some(&original), residuals }).unwrap();
        let hessian = tap.take().remove(0);
        let panel = &hessian.panels[0];
        let factored = Factored::new(panel.h(&device, Texts::All).unwrap(), width, DAMPING).unwrap();
        let drift = panel.drift(&device, Texts::All).unwrap().unwrap();
        let repair = Repair::new(&device, drift, &factored.inverse()).unwrap();
        let shift = repair.shift(&device, &weights, 0..rows).unwrap();

        // (shift / s) (E[x' x'^T] + damping) = E[missed x'^T]
        let at = |values: &[f32], row: usize, col: usize, cols: usize| f64::from(values[row * cols + col]);
        let mean = |f: &dyn Fn(usize) -> f64| (0..tokens).map(f).sum::<f64>() / tokens as f64;
        let second = |i: usize, j: usize| mean(&|t| at(&moved, t, i, width) * at(&moved, t, j, width));
        let damping = f64::from(DAMPING) * (0..width).map(|i| second(i, i)).sum::<f64>() / width as f64;
        for row in 0..rows {
            let missed = |t: usize| {
                let lost = |i: usize| at(&weights, row, i, width) * (at(&x, t, i, width) - at(&moved, t, i, width));
                (0..width).map(lost).sum::<f64>() + at(&h, t, row, rows) - at(&other, t, row, rows)
            };
            for j in 0..width {
                let part = |i: usize| at(&shift, row, i, width) / f64::from(REPAIR) * second(i, j);
                let left = (0..width).map(part).sum::<f64>() + damping * at(&shift, row, j, width) / f64::from(REPAIR);
                let right = mean(&|t| missed(t) * at(&moved, t, j, width));
                assert!(
                    (left - right).abs() < 1e-4,
                    "row {row}, column {j}: {left} is not {right} on {}",
                    device.name()
                );
            }
        }
    }
}
