//! `dq-gpu imatrix`: the importance matrix alone.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum, ValueHint};

use super::Global;
use super::common::{self, CalibrationArgs, DeviceArgs};
use super::output::{self, ImatrixReport, StepTime};
use super::outputs;
use super::progress::Bars;
use super::text::Reader;
use crate::imatrix::Imatrix;
use crate::pipeline::listen;
use crate::source::Model;

const EXAMPLES: &str = "\
Examples:
  dq-gpu imatrix ./Qwen3-8B -o qwen3-8b.imatrix.gguf
  dq-gpu imatrix ./Qwen3-8B --calibration chats.jsonl books/ --chunks 200 -o qwen3-8b.imatrix.gguf
  dq-gpu imatrix qwen3-8b-bf16.gguf --calibration wiki.txt -o imatrix.dat
  dq-gpu imatrix --merge a.gguf b.dat -o both.gguf";

/// Learn from text how much each weight column of a model matters.
///
/// `llama-quantize --imatrix` takes the result, and `dq-gpu quantize --imatrix` takes llama.cpp's files.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ImatrixArgs {
    /// A Hugging Face folder, or a GGUF; may be left out with --merge
    #[arg(required_unless_present = "merge", value_hint = ValueHint::AnyPath)]
    pub model: Option<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Format of the file [default: dat for files that end in .dat, else gguf]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Add the statistics of these importance matrices
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    pub merge: Vec<PathBuf>,
    #[command(flatten)]
    pub text: CalibrationArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// The two formats that llama.cpp reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// llama.cpp's format since 2025, with the means of activations added
    Gguf,
    /// The older format
    Dat,
}

impl ImatrixArgs {
    /// The format asked for, or the one that the name of the output tells.
    pub fn format(&self) -> Format {
        let by_name = match self.output.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("dat") => Format::Dat,
            _ => Format::Gguf,
        };
        self.format.unwrap_or(by_name)
    }
}

pub fn run(args: &ImatrixArgs, global: &Global) -> Result<()> {
    common::require("model", &args.model)?;
    common::require("importance matrix", &args.merge)?;
    common::require("calibration text", &args.text.calibration)?;
    // a merged file may be replaced by the sum
    outputs::check(std::slice::from_ref(&args.output), args.model.iter().chain(&args.text.calibration))?;
    let bars = global.bars();
    let parts = args.merge.iter().map(|file| Imatrix::read(file)).collect::<Result<Vec<_>>>()?;
    let heard = args.model.as_deref().map(|model| hear(args, model, &bars)).transpose()?;
    let mut all = heard.into_iter().chain(parts);
    let mut imatrix = all.next().context("clap asks for a model or files")?;
    for (part, file) in all.zip(args.merge.iter().skip(usize::from(args.model.is_none()))) {
        imatrix.merge(&part).with_context(|| format!("cannot merge: `{}`", file.display()))?;
    }
    match args.format() {
        Format::Gguf => imatrix.write_gguf(&args.output)?,
        Format::Dat => imatrix.write_dat(&args.output)?,
    }
    let seconds = bars.steps();
    drop(bars);
    output::print(global, &report(args, imatrix, seconds))
}

/// Runs the calibration text through the model.
fn hear(args: &ImatrixArgs, model: &Path, bars: &Bars) -> Result<Imatrix> {
    let device = args.device.open()?;
    let model = Model::open(model)?;
    let (chunks, dataset) =
        Reader::new(&model, bars)?.calibration(&args.text.calibration, args.text.ctx, args.text.chunks)?;
    listen(&device, &model, &chunks, &dataset, args.device.memory(), bars)
}

fn report(args: &ImatrixArgs, imatrix: Imatrix, seconds: Vec<StepTime>) -> ImatrixReport {
    let unseen = imatrix.entries.iter().filter(|(_, entry)| entry.counts.contains(&0.0));
    ImatrixReport {
        output: args.output.clone(),
        tensors: imatrix.entries.len(),
        chunks: imatrix.chunk_count,
        chunk_size: imatrix.chunk_size,
        unseen: unseen.map(|(name, _)| name.clone()).collect(),
        experts: imatrix.coverage(),
        datasets: imatrix.datasets,
        seconds,
    }
}
