//! Writes a random Hugging Face model folder of any size, for speed and memory tests.
//!
//!     cargo run --release --example random_model -- --tokenizer models/tiny-llama --layers 16 --hidden 2048 /tmp/random
//!
//! The weights are noise, but of a sane scale: activations stay finite at any depth, attention is not uniform and a few
//! columns are much louder than the rest, as in trained models. Every row has its own random stream, so the same options
//! give the same bytes on any number of threads. The folder is streamed: memory stays at a few tens of MiB.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

/// Values generated before they are written.
const BATCH: usize = 4 << 20;
/// One column in so many is louder than the rest.
const LOUD_COLUMNS: u64 = 64;

#[derive(Parser)]
#[command(about = "Write a random Hugging Face model folder")]
struct Options {
    /// Folder to create
    output: PathBuf,
    /// Folder whose tokenizer files are copied
    #[arg(long)]
    tokenizer: PathBuf,
    #[arg(long, value_enum, default_value = "llama")]
    family: FamilyName,
    #[arg(long, default_value_t = 4)]
    layers: usize,
    #[arg(long, default_value_t = 256)]
    hidden: usize,
    /// Width of the feed-forward layers, or of an expert [default: 3 x hidden]
    #[arg(long)]
    ffn: Option<usize>,
    #[arg(long, default_value_t = 4)]
    heads: usize,
    #[arg(long, default_value_t = 2)]
    kv_heads: usize,
    /// [default: hidden / heads]
    #[arg(long)]
    head_dim: Option<usize>,
    /// Of a layer, with `--family qwen3-moe`
    #[arg(long, default_value_t = 8)]
    experts: usize,
    /// Experts asked for each token
    #[arg(long, default_value_t = 2)]
    experts_used: usize,
    /// Rows of the embeddings; at least the tokenizer's vocabulary
    #[arg(long, default_value_t = 4096)]
    vocab: usize,
    /// Share the embeddings with the output layer
    #[arg(long)]
    tied: bool,
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: Dtype,
    #[arg(long, default_value_t = 1)]
    shards: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum FamilyName {
    Llama,
    Qwen3,
    Qwen3Moe,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    Bf16,
    F16,
    F32,
}

impl Dtype {
    /// Name in safetensors, name in config.json, bytes of a value.
    fn layout(self) -> (&'static str, &'static str, usize) {
        match self {
            Dtype::Bf16 => ("BF16", "bfloat16", 2),
            Dtype::F16 => ("F16", "float16", 2),
            Dtype::F32 => ("F32", "float32", 4),
        }
    }

    fn append(self, value: f32, bytes: &mut Vec<u8>) {
        match self {
            Dtype::Bf16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
            Dtype::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
            Dtype::F32 => bytes.extend(value.to_le_bytes()),
        }
    }
}

/// How the values of a tensor are drawn.
enum Fill {
    /// Normal with this standard deviation.
    Normal(f32),
    /// Norm weights: around one, a few of them loud.
    Norm,
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    fill: Fill,
}

impl Tensor {
    fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    check(&options)?;
    fs::create_dir_all(&options.output).with_context(|| format!("cannot create {}", options.output.display()))?;
    copy_tokenizer(&options.tokenizer, &options.output)?;
    write_json(&options.output.join("config.json"), &config(&options)?)?;
    write_weights(&options, &tensors(&options))
}

fn check(o: &Options) -> Result<()> {
    ensure!(o.layers > 0 && o.hidden > 0 && o.vocab > 0 && o.shards > 0, "sizes must be positive");
    ensure!(o.kv_heads > 0 && o.heads.is_multiple_of(o.kv_heads), "--heads must be a multiple of --kv-heads");
    ensure!(head_dim(o).is_multiple_of(2) && head_dim(o) > 0, "the head dimension must be even");
    Ok(())
}

fn head_dim(o: &Options) -> usize {
    o.head_dim.unwrap_or(o.hidden / o.heads)
}

fn ffn(o: &Options) -> usize {
    o.ffn.unwrap_or(3 * o.hidden)
}

/// Every tensor under its Hugging Face name, in layer order.
fn tensors(o: &Options) -> Vec<Tensor> {
    let (hidden, ffn, head_dim) = (o.hidden, ffn(o), head_dim(o));
    let (q_width, kv_width) = (o.heads * head_dim, o.kv_heads * head_dim);
    let linear = |name: String, rows: usize, cols: usize, gain: f32| Tensor {
        name,
        shape: vec![rows, cols],
        fill: Fill::Normal(gain / (cols as f32).sqrt()),
    };
    let norm = |name: String, width: usize| Tensor { name, shape: vec![width], fill: Fill::Norm };
    // Each layer adds two branches to the residual stream: their variance must not grow with depth.
    let branch = 1.0 / (2.0 * o.layers as f32).sqrt();

    let mut all = vec![linear("model.embed_tokens.weight".into(), o.vocab, hidden, 2.0)];
    for layer in 0..o.layers {
        let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
        all.push(norm(at("input_layernorm"), hidden));
        all.push(linear(at("self_attn.q_proj"), q_width, hidden, 1.2));
        all.push(linear(at("self_attn.k_proj"), kv_width, hidden, 1.2));
        all.push(linear(at("self_attn.v_proj"), kv_width, hidden, 1.0));
        all.push(linear(at("self_attn.o_proj"), hidden, q_width, branch));
        if o.family != FamilyName::Llama {
            all.push(norm(at("self_attn.q_norm"), head_dim));
            all.push(norm(at("self_attn.k_norm"), head_dim));
        }
        all.push(norm(at("post_attention_layernorm"), hidden));
        let mut parts = vec!["mlp".to_owned()];
        if o.family == FamilyName::Qwen3Moe {
            all.push(linear(at("mlp.gate"), o.experts, hidden, 1.0));
            parts = (0..o.experts).map(|expert| format!("mlp.experts.{expert}")).collect();
        }
        for part in parts {
            all.push(linear(at(&format!("{part}.gate_proj")), ffn, hidden, 1.0));
            all.push(linear(at(&format!("{part}.up_proj")), ffn, hidden, 1.0));
            all.push(linear(at(&format!("{part}.down_proj")), hidden, ffn, branch));
        }
    }
    all.push(norm("model.norm.weight".into(), hidden));
    if !o.tied {
        all.push(linear("lm_head.weight".into(), o.vocab, hidden, 2.0));
    }
    all
}

fn config(o: &Options) -> Result<Value> {
    let (class, model_type, theta) = match o.family {
        FamilyName::Llama => ("LlamaForCausalLM", "llama", 1e4),
        FamilyName::Qwen3 => ("Qwen3ForCausalLM", "qwen3", 1e6),
        FamilyName::Qwen3Moe => ("Qwen3MoeForCausalLM", "qwen3_moe", 1e6),
    };
    let mut config = json!({
        "architectures": [class],
        "model_type": model_type,
        "attention_bias": false,
        "dtype": o.dtype.layout().1,
        "head_dim": head_dim(o),
        "hidden_act": "silu",
        "hidden_size": o.hidden,
        "intermediate_size": ffn(o),
        "max_position_embeddings": 4096,
        "num_attention_heads": o.heads,
        "num_hidden_layers": o.layers,
        "num_key_value_heads": o.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_parameters": { "rope_theta": theta, "rope_type": "default" },
        "tie_word_embeddings": o.tied,
        "vocab_size": o.vocab,
    });
    if o.family == FamilyName::Qwen3Moe {
        config["num_experts"] = json!(o.experts);
        config["num_experts_per_tok"] = json!(o.experts_used);
        config["moe_intermediate_size"] = json!(ffn(o));
        config["norm_topk_prob"] = json!(true);
    }
    // The special tokens belong to the tokenizer.
    let source = o.tokenizer.join("config.json");
    if let Ok(text) = fs::read_to_string(&source) {
        let theirs: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", source.display()))?;
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            if let Some(id) = theirs.get(key) {
                config[key] = id.clone();
            }
        }
    }
    Ok(config)
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    let mut found = false;
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"] {
        let source = from.join(name);
        if source.is_file() {
            fs::copy(&source, to.join(name)).with_context(|| format!("cannot copy {}", source.display()))?;
            found |= name == "tokenizer.json";
        }
    }
    if !found {
        bail!("no tokenizer.json in {}", from.display());
    }
    Ok(())
}

fn write_weights(o: &Options, tensors: &[Tensor]) -> Result<()> {
    let total: usize = tensors.iter().map(Tensor::values).sum();
    let shards = o.shards.min(tensors.len());
    let mut index = Map::new();
    let (mut start, mut written) = (0, 0);
    for shard in 0..shards {
        // Cut where the running size passes the shard's share; leave one tensor for every later shard.
        let share = total * (shard + 1) / shards;
        let last = tensors.len() - (shards - shard - 1);
        let mut end = start;
        while end < last && (end == start || written < share) {
            written += tensors[end].values();
            end += 1;
        }
        let end = if shard + 1 == shards { tensors.len() } else { end };
        let file = match shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{shards:05}.safetensors", shard + 1),
        };
        write_shard(o, &o.output.join(&file), &tensors[start..end], start)?;
        index.extend(tensors[start..end].iter().map(|tensor| (tensor.name.clone(), json!(file))));
        start = end;
    }
    if shards > 1 {
        let bytes = total * o.dtype.layout().2;
        let index = json!({ "metadata": { "total_size": bytes }, "weight_map": index });
        write_json(&o.output.join("model.safetensors.index.json"), &index)?;
    }
    println!("{}: {:.1} M parameters in {shards} file(s)", o.output.display(), total as f64 / 1e6);
    Ok(())
}

/// `first` is the number of the first tensor in the whole model: it seeds the tensor's random stream.
fn write_shard(o: &Options, path: &Path, tensors: &[Tensor], first: usize) -> Result<()> {
    let (dtype, _, size) = o.dtype.layout();
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.values() * size;
        let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end] });
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    // The data starts at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');

    let context = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(context)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).with_context(context)?;
    file.write_all(&header).with_context(context)?;
    for (i, tensor) in tensors.iter().enumerate() {
        write_tensor(o, tensor, (first + i) as u64, &mut file).with_context(context)?;
    }
    file.flush().with_context(context)
}

fn write_tensor(o: &Options, tensor: &Tensor, number: u64, file: &mut impl Write) -> std::io::Result<()> {
    let cols = tensor.shape[tensor.shape.len() - 1];
    let rows = tensor.values() / cols;
    let batch = (BATCH / cols).max(1);
    for start in (0..rows).step_by(batch) {
        let rows: Vec<Vec<u8>> = (start..rows.min(start + batch))
            .into_par_iter()
            .map(|row| random_row(o.dtype, tensor, cols, Random::new(&[o.seed, number, row as u64])))
            .collect();
        for row in rows {
            file.write_all(&row)?;
        }
    }
    Ok(())
}

fn random_row(dtype: Dtype, tensor: &Tensor, cols: usize, mut random: Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(cols * dtype.layout().2);
    for _ in 0..cols {
        let value = match tensor.fill {
            Fill::Normal(deviation) => deviation * random.normal(),
            Fill::Norm => {
                let loud = if random.next().is_multiple_of(LOUD_COLUMNS) { 4.0 } else { 1.0 };
                loud * (0.3 * random.normal()).exp()
            }
        };
        dtype.append(value, &mut bytes);
    }
    bytes
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, serde_json::to_string_pretty(value)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

/// SplitMix64, with normal numbers by the Box-Muller transform.
struct Random {
    state: u64,
    spare: Option<f32>,
}

impl Random {
    fn new(seeds: &[u64]) -> Random {
        let mut random = Random { state: 0, spare: None };
        for &seed in seeds {
            random.state = random.next() ^ seed;
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn normal(&mut self) -> f32 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let bits = self.next();
        // 24 bits each; the first one in (0, 1], so that its logarithm is finite.
        let radius = (((bits >> 40) + 1) as f32 / (1 << 24) as f32).ln() * -2.0;
        let (sin, cos) = ((bits & 0xFF_FFFF) as f32 / (1 << 24) as f32 * std::f32::consts::TAU).sin_cos();
        self.spare = Some(radius.sqrt() * sin);
        radius.sqrt() * cos
    }
}
