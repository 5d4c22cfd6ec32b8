//! Options that several commands share.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueHint, value_parser};

use super::interrupt;
use super::size;
use crate::device::Device;
use crate::forward::StreamOptions;
use crate::gguf::SplitName;
use crate::imatrix::Imatrix;
use crate::pipeline::checkpoint::Checkpoints;
use crate::plan::constraints::{Demand, parse_types};
use crate::plan::{Constraints, Profile, Rule};
use crate::quant::{self, GgmlType};
use crate::source::{Weights, download_hint};

/// Which text the model reads.
#[derive(Debug, Args)]
#[command(next_help_heading = "Text")]
pub struct CalibrationArgs {
    /// Calibration text: plain text, .jsonl of messages, or a folder of such files [default: the built-in set]
    #[arg(long, value_name = "PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub calibration: Vec<PathBuf>,
    /// Tokens per chunk
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = value_parser!(u32).range(16..=1 << 20))]
    pub ctx: u32,
    /// Read at most this many chunks of a text [default: all]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
}

/// Whether other text is mixed in.
#[derive(Debug, Args)]
#[command(next_help_heading = "Text")]
pub struct MixArgs {
    /// Calibrate on the text of --calibration alone. Otherwise the built-in set takes turns with it, so that the file is good
    /// for text of other kinds too
    #[arg(long, requires = "calibration")]
    pub calibration_only: bool,
}

/// Where the work runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// auto, cpu, gpu, or the index or a part of the name of an adapter (see `dq-gpu devices`)
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Memory for the states of the text, besides the weights of one layer: with less of it fewer sequences pass a layer
    /// together, and the states between layers go to disk
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = size::parse)]
    pub memory: u64,
}

impl DeviceArgs {
    /// Opens the chosen device.
    pub fn open(&self) -> Result<Device> {
        let device = Device::open(&self.device)?;
        log::info!("device: {}", device.name());
        Ok(device)
    }

    /// How a pass through the model may use memory.
    pub fn memory(&self) -> StreamOptions {
        StreamOptions::within(usize::try_from(self.memory).unwrap_or(usize::MAX))
    }
}

/// Where finished steps are kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device")]
pub struct WorkArgs {
    /// Keep what is done in this folder: the same command goes on from there after it was stopped, and other targets for the
    /// same model begin with its importance matrix and sensitivities. Takes as much room as all files and tries of the job; may be deleted
    /// when no job uses it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub work: Option<PathBuf>,
}

impl WorkArgs {
    /// Opens the folder for this job alone.
    pub fn checkpoints(&self) -> Result<Checkpoints> {
        let Some(folder) = &self.work else { return Ok(Checkpoints::default()) };
        let checkpoints = Checkpoints::open(folder)?;
        interrupt::keep_in_mind(format!(
            "what is done is kept, and the same command goes on from there: `{}`",
            folder.display()
        ));
        Ok(checkpoints)
    }
}

/// Which tensor types are considered.
#[derive(Debug, Args)]
#[command(next_help_heading = "Types")]
pub struct TypeArgs {
    /// Only these tensor types, separated by commas: Q4_K,Q5_K,Q6_K
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = weight_type, conflicts_with = "profile")]
    pub types: Option<Vec<GgmlType>>,
    /// Types that suit an engine: every type, those fast on CPUs, those fast on Apple GPUs, those that old readers know
    #[arg(long, value_name = "PROFILE", default_value = "quality", value_parser = profile_parser())]
    pub profile: Profile,
}

impl TypeArgs {
    /// The types to try on a model, with those that stand in where rows do not fit, and those that rules give.
    pub fn candidates(&self, weights: &Weights, keep: &[Rule]) -> Vec<GgmlType> {
        let listed =
            self.types.clone().unwrap_or_else(|| GgmlType::all().filter(|&ty| self.profile.allows(ty)).collect());
        let kept = keep.iter().filter_map(|rule| match rule.demand {
            Demand::Keep(ty) => Some(ty),
            _ => None,
        });
        let wanted: Vec<GgmlType> = listed.into_iter().chain(kept).filter(|ty| ty.is_quantized()).collect();
        let widths: BTreeSet<usize> = weights.tensors.iter().filter(|t| t.rows > 1).map(|t| t.cols).collect();
        let fitting =
            widths.iter().flat_map(|&cols| wanted.iter().filter_map(move |&ty| quant::fallback(ty, cols).ok()));
        let all: BTreeSet<GgmlType> = wanted.iter().copied().chain(fitting).collect();
        all.into_iter().filter(|&ty| quant::format(ty).is_some()).collect()
    }
}

/// Rules for single tensors.
#[derive(Debug, Args)]
#[command(next_help_heading = "Types")]
pub struct KeepArgs {
    /// Give tensors whose name matches this type, whatever it costs: 'output=Q8_0' (repeatable, the first match wins)
    #[arg(long, value_name = "REGEX=TYPE", value_parser = Rule::keep)]
    pub keep: Vec<Rule>,
}

/// What the planner may do.
pub fn constraints(types: &TypeArgs, keep: &KeepArgs, has_imatrix: bool) -> Constraints {
    Constraints {
        types: types.types.clone(),
        profile: types.profile,
        rules: keep.keep.clone(),
        has_imatrix,
        ..Constraints::default()
    }
}

pub(super) fn positive(text: &str) -> Result<f64> {
    let number: f64 = text.parse().ok().context("not a number")?;
    ensure!(number.is_finite() && number > 0.0, "the number must be more than zero");
    Ok(number)
}

pub(super) fn weight_type(name: &str) -> Result<GgmlType> {
    parse_types(name)?.first().copied().context("a type is missing")
}

fn profile_parser() -> impl clap::builder::TypedValueParser<Value = Profile> {
    use clap::builder::TypedValueParser;
    clap::builder::PossibleValuesParser::new(Profile::NAMES).try_map(|name| name.parse::<Profile>())
}

/// An importance matrix file, and its name for the metadata of what is made with it.
pub fn read_imatrix(path: Option<&Path>) -> Result<Option<(Imatrix, String)>> {
    path.map(|path| Ok((Imatrix::read(path)?, path.display().to_string()))).transpose()
}

/// Fails unless every path exists; `what` says what it should be.
pub fn require<'a>(what: &str, paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    for path in paths {
        let hint = || download_hint(path).map_or(String::new(), |hint| format!(" ({hint})"));
        ensure!(path.exists(), "cannot find the {what}: `{}`{}", path.display(), hint());
    }
    Ok(())
}

/// The files of a GGUF, or the weight files of a folder.
fn files_of(model: &Path) -> Vec<PathBuf> {
    if let Some(split) = SplitName::parse(model) {
        return (1..=split.count).map(|number| split.path(number)).collect();
    }
    let Ok(folder) = model.read_dir() else { return vec![model.to_owned()] };
    let paths = folder.flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")).collect()
}

/// Size of a model on disk.
pub fn model_bytes(model: &Path) -> Result<u64> {
    let size =
        |file: &PathBuf| Ok(file.metadata().with_context(|| format!("cannot read: `{}`", file.display()))?.len());
    files_of(model).iter().map(size).sum()
}
