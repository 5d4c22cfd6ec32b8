//! Seconds that planning takes from a finished analysis: `cargo bench --bench planner [-- NAME]`.
//!
//! - `deepseek`: the shapes of DeepSeek-V3.1, 671 billion weights (`tests/data/mixes/deepseek-v3.1.txt`)
//! - `random`: 1,500 tensors of random sizes
//! - `stacked`: 1,500 tensors of ten sizes
//! - `rough`: as `random`, with errors that hardly follow the bits
//!
//! 20 types each. The predicted KL falls by a factor of 4 a bit, as in measured models, times a random factor by tensor and type,
//! and spans four decades between tensors.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use dq_gpu::plan::analysis::ANALYSIS_VERSION;
use dq_gpu::plan::{Analysis, Candidate, Constraints, ModelShape, Profile, Target, TensorAnalysis, solve};
use dq_gpu::quant::GgmlType;

/// How far a type's KL is from the rule, either way.
const NOISE: f64 = 1.6;

const SHAPES: &str = "tests/data/mixes/deepseek-v3.1.txt";

fn main() -> Result<()> {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    println!("{:<12} {:>7} {:<16} {:>9} {:>8} {:>12}", "instance", "tensors", "target", "seconds", "bpw", "nats");
    let instances = [
        ("deepseek", deepseek()?),
        ("random", random(1500, 1500, NOISE)),
        ("stacked", random(1500, 10, NOISE)),
        ("rough", random(1500, 1500, 30.0)),
    ];
    for (name, analysis) in instances {
        if only.as_ref().is_none_or(|only| only == name) {
            run(name, &analysis)?;
        }
    }
    Ok(())
}

fn run(name: &str, analysis: &Analysis) -> Result<()> {
    let constraints = Constraints::default();
    let mut slowest = 0f64;
    let mut time = |label: String, target: Target| -> Result<(f64, u64)> {
        let start = Instant::now();
        let plan = solve(analysis, &target, &constraints)?;
        let took = start.elapsed().as_secs_f64();
        slowest = slowest.max(took);
        let nats = plan.predicted_kld.context("everything was measured")?;
        println!("{name:<12} {:>7} {label:<16} {took:>9.3} {:>8.4} {nats:>12.6}", analysis.tensors.len(), plan.bpw);
        Ok((nats, plan.bytes))
    };
    for step in 0..12 {
        let bpw = 2.1 + 0.37 * f64::from(step);
        let (nats, bytes) = time(format!("--bpw {bpw:.2}"), Target::Bpw(bpw))?;
        time("  --size".to_owned(), Target::Size(bytes + bytes / 1009))?;
        time("  --max-kld".to_owned(), Target::MaxKld(nats * 1.003))?;
    }
    println!("{name:<12} slowest: {slowest:.3} s");
    Ok(())
}

/// Numbers from 0 to 1, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }

    /// From `1 / factor` to `factor`, evenly in the logarithm.
    fn around_one(&mut self, factor: f64) -> f64 {
        factor.powf(2.0 * self.next() - 1.0)
    }
}

fn types() -> Vec<GgmlType> {
    GgmlType::all().filter(|&ty| ty.is_quantized() && Profile::Quality.allows(ty)).collect()
}

fn analysis(architecture: &str, tensors: Vec<TensorAnalysis>) -> Analysis {
    Analysis {
        version: ANALYSIS_VERSION,
        model: architecture.to_owned(),
        shape: ModelShape { architecture: architecture.to_owned(), block_count: 61, ..ModelShape::default() },
        fixed_bytes: 5 << 20,
        tensors,
        ..Analysis::default()
    }
}

/// A tensor of made-up errors; `weight` is what it adds at 0 bits.
fn tensor(name: &str, dims: &[u64], weight: f64, noise: f64, random: &mut Random) -> TensorAnalysis {
    let mut tensor = TensorAnalysis::new(name, dims, GgmlType::BF16, true);
    let fitting: Vec<GgmlType> = types().into_iter().filter(|&ty| tensor.bytes_as(ty).is_some()).collect();
    for ty in fitting {
        let predicted = weight * random.around_one(noise) * 4f64.powf(-ty.bpw());
        let bytes = tensor.bytes_as(ty).expect("it fits");
        tensor.candidates.push(Candidate { ty, bytes, error: predicted, predicted });
    }
    let bytes = tensor.bytes_as(GgmlType::BF16).expect("it fits");
    tensor.candidates.push(Candidate { ty: GgmlType::BF16, bytes, error: 0.0, predicted: 0.0 });
    tensor
}

/// Every matrix of DeepSeek-V3.1: the experts of a layer are one tensor.
fn deepseek() -> Result<Analysis> {
    let text = fs::read_to_string(SHAPES).with_context(|| format!("run this in the repository: `{SHAPES}`"))?;
    let mut random = Random(7);
    let mut tensors = Vec::new();
    for line in text.lines() {
        let ["tensor", name, cols, matrices, layers] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        let (cols, matrices): (u64, u64) = (cols.parse()?, matrices.parse()?);
        // the file holds what the mixture rules ask; the rows are these
        let rows = match name {
            "token_embd" | "output" => 129_280,
            "attn_q_a" => 1536,
            "attn_q_b" => 24_576,
            "attn_kv_a_mqa" => 576,
            "attn_k_b" => 512,
            "attn_output" => 7168,
            "ffn_up" | "ffn_gate" => 18_432,
            "ffn_up_exps" | "ffn_gate_exps" | "ffn_up_shexp" | "ffn_gate_shexp" => 2048,
            _ => 7168,
        };
        let (first, last): (i64, i64) = match layers.split_once('-') {
            Some((first, last)) if !first.is_empty() => (first.parse()?, last.parse()?),
            _ => (-1, -1),
        };
        for layer in first..=last {
            let full = if layer < 0 { format!("{name}.weight") } else { format!("blk.{layer}.{name}.weight") };
            let weight = 0.2 * random.around_one(100.0);
            tensors.push(tensor(&full, &[cols, rows, matrices], weight, NOISE, &mut random));
        }
    }
    Ok(analysis("deepseek2", tensors))
}

/// `count` tensors of `shapes` random shapes.
fn random(count: usize, shapes: usize, noise: f64) -> Analysis {
    let mut random = Random(3);
    let mut shape = || [256 * (1 + (random.next() * 64.0) as u64), 1 + (random.next() * 20_000.0) as u64];
    let shapes: Vec<[u64; 2]> = (0..shapes).map(|_| shape()).collect();
    let tensors = (0..count).map(|i| {
        let weight = 0.2 * random.around_one(100.0);
        tensor(&format!("blk.{i}.ffn_up.weight"), &shapes[i % shapes.len()], weight, noise, &mut random)
    });
    analysis("llama", tensors.collect())
}
