//! What transformers computed, and streams over the same tokens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dq_gpu::device::Device;
use dq_gpu::forward::weights::WeightSource;
use dq_gpu::forward::{Stream, StreamOptions};
use dq_gpu::progress::Silent;
use dq_gpu::source::Model;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Every case, with the feature that it shows.
pub const CASES: [&str; 32] = [
    "tiny-llama",
    "tiny-qwen3",
    "llama-f32",
    "llama-bias",
    "llama-tied",
    "llama-head-dim",
    "llama-sharded",
    "llama-old-config",
    "llama-rope-linear",
    "llama-rope-llama3",
    "llama-rope-yarn",
    "mistral-window",
    "gemma3",
    "qwen2",
    "qwen3moe",
    "mixtral",
    "cohere2",
    "fused-longrope",
    "fused-qkv",
    "gemma2",
    "glm4",
    "glm4moe",
    "gptoss",
    "granite",
    "granitemoe",
    "olmo2",
    "olmo3",
    "qwen2moe",
    "qwen3next",
    "smollm3",
    "deepseek2",
    "deepseek-v2",
];

/// `NAME.json` and `NAME.f32`.
#[derive(Deserialize)]
pub struct Golden {
    model: PathBuf,
    /// Largest difference of the reference in f32 from the reference in f64.
    pub f32_noise: f64,
    tokens: Vec<Vec<u32>>,
    /// The vocabulary entries whose logits were kept.
    pub columns: Vec<usize>,
    #[serde(skip)]
    values: Vec<f32>,
}

/// `NAME.layers.json`.
#[derive(Deserialize)]
pub struct Layers {
    pub labels: Vec<Vec<u32>>,
    /// Sum of -log p(label).
    pub loss: f64,
    /// By the name of the linear layer's weight.
    pub layers: BTreeMap<String, Layer>,
}

/// Means over the tokens.
#[derive(Deserialize)]
pub struct Layer {
    /// Squared inputs, by column.
    pub input: Summary,
    /// Squared gradients at the outputs, by row.
    pub gradient: Summary,
}

/// Some numbers of a vector.
#[derive(Deserialize)]
pub struct Summary {
    sum: f64,
    first: Vec<f64>,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read<T: DeserializeOwned>(file: &str) -> T {
    let path = root().join("tests/fixtures/golden").join(file);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

impl Golden {
    pub fn read(case: &str) -> Golden {
        let mut golden: Golden = read(&format!("{case}.json"));
        let bytes = fs::read(root().join(format!("tests/fixtures/golden/{case}.f32"))).unwrap();
        golden.values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(golden.values.len(), golden.tokens().len() * (golden.columns.len() + 1));
        golden
    }

    pub fn open(&self) -> Model {
        Model::open(&root().join(&self.model)).unwrap()
    }

    pub fn seq_len(&self) -> usize {
        self.tokens[0].len()
    }

    /// One sequence after the other.
    pub fn tokens(&self) -> Vec<u32> {
        self.tokens.concat()
    }

    /// The kept logits of each position, and its log-sum-exp.
    pub fn positions(&self) -> impl Iterator<Item = (&[f32], f32)> {
        self.values
            .chunks_exact(self.columns.len() + 1)
            .map(|row| (&row[..self.columns.len()], row[self.columns.len()]))
    }
}

impl Layers {
    pub fn read(case: &str) -> Layers {
        read(&format!("{case}.layers.json"))
    }
}

impl Summary {
    /// Largest relative difference of the numbers that were kept.
    pub fn distance(&self, values: &[f32]) -> f64 {
        let relative = |got: f64, want: f64| (got - want).abs() / want.abs();
        let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
        // Against the mean of the vector where a number is far below it: rounding is relative to the vector.
        let floor = self.sum / values.len() as f64 * 1e-2;
        let firsts = values.iter().zip(&self.first).map(|(got, want)| {
            let got = f64::from(*got);
            (got - want).abs() / want.abs().max(floor)
        });
        firsts.fold(relative(sum, self.sum), f64::max)
    }
}

/// All logits of `tokens` in chunks of `seq_len`: `[tokens, vocabulary]`.
pub fn logits_of(
    device: &Device,
    model: &Model,
    weights: &dyn WeightSource,
    tokens: &[u32],
    seq_len: usize,
    options: StreamOptions,
) -> Vec<f32> {
    let stream = Stream::new(device, model, tokens, seq_len, options).unwrap();
    stream.logits(weights, 0..seq_len, &Silent).unwrap()
}

/// log of the sum of exp, in f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + logits.iter().map(|z| f64::from(z - max).exp()).sum::<f64>().ln()
}

/// Largest difference over the largest magnitude.
pub fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let magnitude = a.iter().map(|a| a.abs()).fold(0.0, f32::max);
    assert!(a.iter().chain(b).all(|z| z.is_finite()));
    f64::from(difference) / f64::from(magnitude)
}

/// The model's name for the weight of a golden layer: transformers' head is the embedding where they are tied.
pub fn own_name<'a>(model: &'a Model, name: &'a str) -> &'a str {
    if name == "output.weight" { model.output_tensor() } else { name }
}
