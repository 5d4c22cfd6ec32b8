//! Layers with experts: one matrix at a time, with few tokens or none.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use common::Random;
use dq_gpu::calibration::Chunks;
use dq_gpu::device::Device;
use dq_gpu::forward::StreamOptions;
use dq_gpu::pipeline::{RoundingInputs, round};
use dq_gpu::progress::Silent;
use dq_gpu::quant::GgmlType;
use dq_gpu::rounding::{Method, Prefix};
use dq_gpu::source::Model;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

const FIXTURE: &str = "tests/fixtures/models/qwen3moe";
const WIDTH: usize = 64;
const HIDDEN: usize = 96;
const EXPERTS: usize = 5;
const LAYERS: usize = 2;

/// A random model in whose layers the last expert is never asked: its score lies between those of two pairs.
fn folder(without: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(format!("{FIXTURE}/{file}"), folder.path().join(file)).unwrap();
    }
    let config = fs::read_to_string(format!("{FIXTURE}/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    for (key, value) in [
        ("hidden_size", WIDTH),
        ("moe_intermediate_size", HIDDEN),
        ("num_experts", EXPERTS),
        ("num_hidden_layers", LAYERS),
        ("head_dim", 32),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
    ] {
        config[key] = json!(value);
    }
    config["dtype"] = json!("float32");
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();

    let mut random = Random::new(3);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let mut matrix = |tensors: &mut BTreeMap<_, _>, name: String, rows: usize, cols: usize| {
        let values = random.normals(rows * cols, 1.2 / (cols as f32).sqrt());
        tensors.insert(format!("{name}.weight"), (vec![rows, cols], values));
    };
    matrix(&mut tensors, "model.embed_tokens".to_owned(), 320, WIDTH);
    matrix(&mut tensors, "lm_head".to_owned(), 320, WIDTH);
    tensors.insert("model.norm.weight".to_owned(), (vec![WIDTH], vec![1.0; WIDTH]));
    for layer in 0..LAYERS {
        let at = format!("model.layers.{layer}");
        for (name, len) in [
            ("input_layernorm", WIDTH),
            ("post_attention_layernorm", WIDTH),
            ("self_attn.q_norm", 32),
            ("self_attn.k_norm", 32),
        ] {
            tensors.insert(format!("{at}.{name}.weight"), (vec![len], vec![1.0; len]));
        }
        for (name, rows) in [("q_proj", 64), ("k_proj", 32), ("v_proj", 32), ("o_proj", 64)] {
            matrix(&mut tensors, format!("{at}.self_attn.{name}"), rows, 64);
        }
        for expert in 0..EXPERTS {
            let at = format!("{at}.mlp.experts.{expert}");
            matrix(&mut tensors, format!("{at}.gate_proj"), HIDDEN, WIDTH);
            matrix(&mut tensors, format!("{at}.up_proj"), HIDDEN, WIDTH);
            matrix(&mut tensors, format!("{at}.down_proj"), WIDTH, HIDDEN);
        }
        matrix(&mut tensors, format!("{at}.mlp.gate"), 1, WIDTH);
        let (shape, row) = tensors.get_mut(&format!("{at}.mlp.gate.weight")).unwrap();
        *shape = vec![EXPERTS, WIDTH];
        *row = [1.0f32, -1.0, -2.0, 2.0, 0.0].iter().flat_map(|by| row.iter().map(move |w| by * w)).collect();
    }
    tensors.remove(without);
    let bytes: BTreeMap<&String, (&Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, (shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())))
        .collect();
    let views = bytes
        .iter()
        .map(|(name, (shape, bytes))| (name.as_str(), TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

/// The tensors of experts as rounded with feedback in Q4_0.
fn rounded(device: &Device, folder: &Path, prefix: Prefix, memory: StreamOptions) -> BTreeMap<String, Vec<u8>> {
    let model = Model::open(folder).unwrap();
    let tokens: Vec<u32> = (0..512u32).map(|at| at * at % 313).collect();
    let first = tokens.iter().copied().step_by(64).collect();
    let chunks =
        Chunks { tokens, ctx: 64, domain: vec![0; 8], domains: vec!["text".to_owned()], hash: String::new(), first };
    let inputs = RoundingInputs {
        method: Method { feedback: true, descents: 1, prefix },
        chunks: &chunks,
        sensitivities: None,
        memory,
        kept: None,
    };
    let stacks = model.tensors.iter().filter(|tensor| tensor.matrices() > 1);
    let types: HashMap<String, GgmlType> = stacks.map(|tensor| (tensor.name.clone(), GgmlType::Q4_0)).collect();
    let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut sink = |tensor: &dq_gpu::source::Tensor, bytes: &[u8]| {
        found.entry(tensor.name.clone()).or_default().extend_from_slice(bytes);
        Ok(())
    };
    round(device, &model, &types, None, &inputs, &mut sink, &Silent).unwrap();
    found
}

#[test]
fn experts_may_be_loaded_one_at_a_time() {
    let folder = folder("");
    for device in common::devices() {
        for prefix in [Prefix::Original, Prefix::Quantized] {
            let together = rounded(&device, folder.path(), prefix, StreamOptions::default());
            assert_eq!(together.len(), 3 * LAYERS);
            for (name, bytes) in &together {
                assert_eq!(bytes.len(), EXPERTS * WIDTH * HIDDEN / 32 * 18, "{name}");
            }
            let memory = StreamOptions { experts_budget: 0, ..StreamOptions::default() };
            assert!(together == rounded(&device, folder.path(), prefix, memory), "on {}", device.name());
        }
    }
}

/// 5 x 2 inputs of 64 columns take 160 KiB, those of 96 take 360.
#[test]
fn experts_share_second_moments_that_would_not_fit() {
    let (folder, device) = (folder(""), Device::cpu());
    let apart = rounded(&device, folder.path(), Prefix::Original, StreamOptions::default());
    let with = |moments_budget| {
        let memory = StreamOptions { moments_budget, ..StreamOptions::default() };
        rounded(&device, folder.path(), Prefix::Original, memory)
    };
    let is_down = |name: &str| name.contains("ffn_down");
    let some = with(200 << 10);
    let own: BTreeMap<_, _> = apart.clone().into_iter().filter(|(name, _)| !is_down(name)).collect();
    assert!(some == own, "down matrices are left to plain encoding, the others are what they were");
    let shared = with(150 << 10);
    assert_eq!(shared.keys().collect::<Vec<_>>(), own.keys().collect::<Vec<_>>());
    assert!(shared.iter().all(|(name, bytes)| *bytes != own[name]));
}

fn run(arguments: &[&str]) -> std::process::Output {
    Command::cargo_bin("dq-gpu").unwrap().args(arguments).args(["--device", "cpu", "-q"]).output().unwrap()
}

#[test]
fn an_expert_that_is_never_asked_is_told_and_written() {
    let (folder, output) = (folder(""), TempDir::new().unwrap());
    let (model, target) = (folder.path().to_str().unwrap(), output.path().join("out.gguf"));
    let target = target.to_str().unwrap();
    let result = run(&["quantize", model, "--bpw", "5", "--chunks", "16", "--ctx", "64", "--json", "-o", target]);
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    let report: Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!(report["experts"]["experts"], EXPERTS * LAYERS);
    assert!(report["experts"]["few"].as_u64().unwrap() >= LAYERS as u64, "{report}");
    assert_eq!(report["experts"]["fewest_tokens"], 0);
    assert!(report["measured_kld"].as_f64().unwrap() < 0.2, "{report}");

    let matrix = output.path().join("imatrix.gguf");
    let matrix = matrix.to_str().unwrap();
    let result = run(&["imatrix", model, "--chunks", "16", "--ctx", "64", "--json", "-o", matrix]);
    let heard: Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!(heard["unseen"].as_array().unwrap().len(), 3 * LAYERS, "{heard}");
    // read again, it gives the same plan
    let again = output.path().join("again.gguf");
    let again = again.to_str().unwrap();
    let options = ["--bpw", "5", "--chunks", "16", "--ctx", "64", "--imatrix", matrix, "--json", "-o", again];
    let result = run(&[&["quantize", model], &options[..]].concat());
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    let second: Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!(second["types"], report["types"]);
}

#[test]
fn a_missing_expert_is_named() {
    let name = "model.layers.1.mlp.experts.2.up_proj.weight";
    let error = match Model::open(folder(name).path()) {
        Ok(_) => panic!("it opened"),
        Err(error) => format!("{error:#}"),
    };
    assert!(error.contains(&format!("the model has no tensor `{name}`")), "{error}");
}
