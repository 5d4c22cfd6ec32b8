//! Predicted against true KL divergence of single tensors: for every matrix of a model and each of a few types, the planner's
//! prediction, and the KL of the model with that matrix alone in that type, on text that no prediction has seen.
//!
//!     cargo run --release --example predictions -- models/tiny-llama --csv /tmp/predictions.csv
//!
//! Prints a table in Markdown. `tests/interop/plot_predictions.py` draws the CSV.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use dq_gpu::calibration::{ChatTemplate, Chunks, built_in, held_out};
use dq_gpu::device::Device;
use dq_gpu::forward::weights::WeightSource;
use dq_gpu::forward::{FinalStatesOf, Side, Stream, StreamOptions, diverge};
use dq_gpu::imatrix::Imatrix;
use dq_gpu::kernels::encode::encode;
use dq_gpu::pipeline::checkpoint::Checkpoints;
use dq_gpu::pipeline::quantize::{Clock, Goal, Job};
use dq_gpu::plan::constraints::parse_types;
use dq_gpu::plan::{Constraints, Objective, Target};
use dq_gpu::progress::Silent;
use dq_gpu::quant::GgmlType;
use dq_gpu::rounding::Method;
use dq_gpu::sensitivity::Way;
use dq_gpu::source::{Model, Tensor};
use dq_gpu::tokenizer::Tokenizer;

#[derive(Parser)]
#[command(about = "Predicted against true KL divergence of single tensors")]
struct Options {
    /// A Hugging Face folder or a GGUF
    model: PathBuf,
    #[arg(long, default_value = "Q2_K,IQ3_S,Q4_K,IQ4_XS")]
    types: String,
    /// Chunks of held-out text
    #[arg(long, default_value_t = 8)]
    chunks: usize,
    #[arg(long, default_value_t = 512)]
    ctx: usize,
    #[arg(long, default_value = "auto")]
    device: String,
    /// Predict from group probes instead of a reverse sweep
    #[arg(long)]
    probes: bool,
    /// Every pair, for plots: tensor, type, predicted, measured
    #[arg(long)]
    csv: Option<PathBuf>,
}

/// One tensor in one type.
struct Pair {
    tensor: String,
    ty: GgmlType,
    predicted: f64,
    measured: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let device = Device::open(&options.device)?;
    let model = Model::open(&options.model)?;
    let types = parse_types(&options.types)?;
    let tokenizer = Tokenizer::from_gguf(&model.metadata)?;
    let template = ChatTemplate::new(&tokenizer)?;
    let calibration = Chunks::cut(&built_in(&template)?, &tokenizer, options.ctx, None)?;
    let heldout = Chunks::cut(&held_out(&template)?, &tokenizer, options.ctx, Some(options.chunks))?;
    let sensitivity = if options.probes { Way::Probes } else { Way::Sweep };
    let pairs = pairs(&device, &model, &types, &calibration, &heldout, sensitivity)?;
    if let Some(path) = &options.csv {
        let mut text = "tensor,type,predicted,measured\n".to_owned();
        for Pair { tensor, ty, predicted, measured } in &pairs {
            writeln!(text, "{tensor},{ty},{predicted:e},{measured:e}")?;
        }
        std::fs::write(path, text).with_context(|| format!("cannot write: `{}`", path.display()))?;
    }
    let name = model.path.file_name().unwrap_or_default().to_string_lossy();
    let tokens = heldout.len() * (heldout.ctx - 1);
    println!("{name}: {} pairs, {tokens} held-out tokens, {}\n", pairs.len(), device.name());
    print!("{}", table(&types, &pairs)?);
    Ok(())
}

fn pairs(
    device: &Device,
    model: &Model,
    types: &[GgmlType],
    calibration: &Chunks,
    heldout: &Chunks,
    sensitivity: Way,
) -> Result<Vec<Pair>> {
    let memory = StreamOptions::default();
    let job = Job {
        device,
        model,
        calibration,
        dataset: "dq-gpu built-in",
        imatrix: None,
        heldout,
        types,
        constraints: Constraints::default(),
        goals: &[Goal::Target(Target::MaxKld(0.0))],
        seed: 0,
        sensitivity,
        objective: Objective::Mean,
        probes: false,
        memory,
        rounds: 0,
        rounding: Method::PLAIN,
        rounding_tokens: 0,
        checkpoints: &Checkpoints::default(),
    };
    let known = job.learn(&mut Clock::default(), &Silent)?;
    let imatrix = known.imatrix.context("the analysis has no importance matrix")?;
    let stream = Stream::new(device, model, &heldout.tokens, heldout.ctx, memory)?;
    // the last position of a chunk has no next token
    let scored = 0..heldout.ctx - 1;
    let base = Side { stream: &stream, weights: model }.run(scored.clone(), "running the original", &Silent)?;
    let mut pairs = Vec::new();
    for entry in known.analysis.quantizable() {
        for candidate in entry.candidates.iter().filter(|candidate| types.contains(&candidate.ty)) {
            let tensor = model.require(&entry.name)?;
            let bytes = encoded(device, model, &imatrix, tensor, candidate.ty)?;
            let replaced = Replaced { model, name: &entry.name, ty: candidate.ty, bytes };
            let side = Side { stream: &stream, weights: &replaced };
            let quant = side.run(scored.clone(), "running the changed", &Silent)?;
            let measured = mean_kld(&base, &quant, scored.clone())?;
            eprintln!("{:<28} {:<7} {:.3e} {measured:.3e}", entry.name, candidate.ty, candidate.predicted);
            let (tensor, predicted) = (entry.name.clone(), candidate.predicted);
            pairs.push(Pair { tensor, ty: candidate.ty, predicted, measured });
        }
    }
    Ok(pairs)
}

fn mean_kld(base: &FinalStatesOf, quant: &FinalStatesOf, scored: Range<usize>) -> Result<f64> {
    let tokens = diverge(base, quant, scored, &Silent)?.tokens;
    Ok(tokens.iter().map(|token| token.kld).sum::<f64>() / tokens.len() as f64)
}

/// The bytes that the whole job would write.
fn encoded(device: &Device, model: &Model, imatrix: &Imatrix, tensor: &Tensor, ty: GgmlType) -> Result<Vec<u8>> {
    let importance = imatrix.importance(&tensor.name, tensor.cols, tensor.matrices());
    let mut bytes = Vec::new();
    for (index, weights) in importance.chunks_exact(tensor.cols).enumerate() {
        let (rows, weights) = (tensor.matrix_rows(index), device.upload("importance", weights)?);
        let x = device.upload(&tensor.name, &model.f32_rows(tensor, rows.clone())?)?;
        bytes.extend(encode(device, ty, &x, &weights, rows.len(), tensor.cols)?.download(device)?);
    }
    Ok(bytes)
}

/// A model with other bytes in one tensor.
struct Replaced<'a> {
    model: &'a Model,
    name: &'a str,
    ty: GgmlType,
    bytes: Vec<u8>,
}

impl WeightSource for Replaced<'_> {
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        if tensor.name == self.name { Ok((self.ty, Cow::Borrowed(&self.bytes))) } else { self.model.read(tensor) }
    }
}

/// Agreement by type and in all.
fn table(types: &[GgmlType], pairs: &[Pair]) -> Result<String> {
    let mut rows: BTreeMap<usize, (String, Vec<&Pair>)> = BTreeMap::new();
    for (place, ty) in types.iter().enumerate() {
        rows.insert(place, (ty.to_string(), pairs.iter().filter(|pair| pair.ty == *ty).collect()));
    }
    rows.insert(types.len(), ("all".to_owned(), pairs.iter().collect()));
    let mut text =
        "| type | pairs | correlation of logs | slope of logs | sum predicted | sum measured | predicted / measured \
                    | middle 90 % of predicted / measured |\n|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for (name, pairs) in rows.values().filter(|(_, pairs)| pairs.len() > 1) {
        let (predicted, measured) =
            (pairs.iter().map(|p| p.predicted).sum::<f64>(), pairs.iter().map(|p| p.measured).sum::<f64>());
        let (correlation, slope) = log_fit(pairs);
        let mut ratios: Vec<f64> = pairs.iter().map(|pair| pair.predicted / pair.measured).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: f64| ratios[((ratios.len() - 1) as f64 * share).round() as usize];
        writeln!(
            text,
            "| {name} | {} | {correlation:.4} | {slope:.3} | {predicted:.5} | {measured:.5} | {:.3} | {:.2} to {:.2} |",
            pairs.len(),
            predicted / measured,
            at(0.05),
            at(0.95)
        )?;
    }
    Ok(text)
}

/// Correlation of ln predicted and ln measured, and the slope of the least squares line of ln measured on ln predicted.
fn log_fit(pairs: &[&Pair]) -> (f64, f64) {
    let points: Vec<(f64, f64)> = pairs.iter().map(|pair| (pair.predicted.ln(), pair.measured.ln())).collect();
    let n = points.len() as f64;
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| of(x - mx, y - my)).sum::<f64>();
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    (xy / (xx * yy).sqrt(), xy / xx)
}
