//! `dq-gpu kld`: how far one model is from another.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueHint, value_parser};

use super::Global;
use super::common::{self, DeviceArgs};
use super::output::{self, KldReport};
use super::progress::Bars;
use super::text::Reader;
use crate::pipeline::{Scoring, prove, report};
use crate::source::Model;

const EXAMPLES: &str = "\
Examples:
  dq-gpu kld ./Qwen3-8B qwen3-8b-4.5bpw.gguf
  dq-gpu kld qwen3-8b-bf16.gguf qwen3-8b-Q4_K_M.gguf --text wiki.test.txt --chunks 64
  dq-gpu kld ./Qwen3-8B qwen3-8b-4.5bpw.gguf --text chats.jsonl --json";

/// Measure the KL divergence of a quantized model from its original.
///
/// Every statistic that llama-perplexity prints, from logits in full precision, and by domain of the text.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct KldArgs {
    /// The original: a Hugging Face folder, or a GGUF
    #[arg(value_hint = ValueHint::AnyPath)]
    pub base: PathBuf,
    /// The quantized model: a GGUF, or a Hugging Face folder
    #[arg(value_hint = ValueHint::AnyPath)]
    pub quant: PathBuf,
    /// Plain text, .jsonl of messages, or a folder of such files [default: the built-in held-out set]
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Text", value_hint = ValueHint::AnyPath)]
    pub text: Vec<PathBuf>,
    /// Tokens per chunk
    #[arg(long, value_name = "TOKENS", help_heading = "Text", default_value_t = 512)]
    #[arg(value_parser = value_parser!(u32).range(16..=1 << 20))]
    pub ctx: u32,
    /// Read at most this many chunks [default: all]
    #[arg(long, value_name = "N", help_heading = "Text", value_parser = value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Score every position, not only the second half of each chunk as llama-perplexity does
    #[arg(long, help_heading = "Text")]
    pub all_positions: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

pub fn run(args: &KldArgs, global: &Global) -> Result<()> {
    common::require("model", [&args.base, &args.quant])?;
    common::require("text", &args.text)?;
    let bars = global.bars();
    let report = work(args, &bars)?;
    drop(bars);
    output::print(global, &report)
}

fn work(args: &KldArgs, bars: &Bars) -> Result<KldReport> {
    let device = args.device.open()?;
    let base = Model::open(&args.base)?;
    let quant = Model::open(&args.quant)?;
    let chunks = Reader::new(&base, bars)?.measured(&args.text, args.ctx, args.chunks)?;
    let scoring = if args.all_positions { Scoring::All } else { Scoring::SecondHalf };
    let divergence = prove(&device, &base, &quant, &chunks, scoring, args.device.memory(), bars)?;
    let mut statistics = report(&divergence, &chunks)?;
    statistics.bytes_base = Some(common::model_bytes(&args.base)?);
    statistics.bytes_quant = Some(common::model_bytes(&args.quant)?);
    Ok(KldReport { statistics, device: device.name(), seconds: bars.steps() })
}
