//! What a file is made for, and the names of the files when there are several targets.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueHint, value_parser};

use super::{size, table};
use crate::gguf::{GgufFile, SplitName};
use crate::plan::{Ftype, RunShape, Target};
use crate::quant::GgmlType;

/// Over the targets in the help.
pub const HEADING: &str = "Target (exactly one; a list, such as 3,4.5,6, makes a file of each)";

/// Stands for the target in the name of an output.
const PLACE: &str = "{target}";

/// Tokens of context that `--vram` leaves room for unless told otherwise.
const VRAM_CTX: u32 = 8192;

/// What the file is made for: exactly one of these. Lists make one file for each of their values.
#[derive(Debug, Args)]
#[command(next_help_heading = HEADING)]
#[group(id = "target", required = true, multiple = false)]
pub struct TargetArgs {
    /// At most this size for the whole file: 4.7GiB, 800MB, 5225472B
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = size::parse)]
    pub size: Vec<u64>,
    /// At most this many bits per weight, over all tensors
    #[arg(long, value_name = "BITS", value_delimiter = ',', value_parser = super::common::positive)]
    pub bpw: Vec<f64>,
    /// The smallest file whose predicted KL divergence is at most this many nats per token
    #[arg(long, value_name = "NATS", value_delimiter = ',', value_parser = super::common::positive)]
    pub max_kld: Vec<f64>,
    /// At most the size of this GGUF (of a split model, of all its files)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub like: Option<PathBuf>,
    /// The best file that runs in this much GPU memory, with its KV cache and buffers (see --vram-ctx)
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = size::parse)]
    pub vram: Vec<u64>,
    /// llama.cpp's own mix of this name, by its rules: Q4_K_M
    #[arg(long = "type", value_name = "MIX", value_delimiter = ',', value_parser = str::parse::<Ftype>)]
    #[arg(conflicts_with_all = ["types", "profile"])]
    pub mix: Vec<Ftype>,
    /// One type for every tensor that can be quantized: Q4_K
    #[arg(long, value_name = "TYPE", value_delimiter = ',', value_parser = super::common::weight_type)]
    #[arg(conflicts_with_all = ["types", "profile"])]
    pub pure: Vec<GgmlType>,
}

/// What `--vram` leaves room for.
#[derive(Debug, Args)]
#[command(next_help_heading = HEADING)]
pub struct VramArgs {
    /// Tokens of context that must fit into --vram
    #[arg(long, value_name = "TOKENS", default_value_t = VRAM_CTX, value_parser = value_parser!(u32).range(1..=1 << 30))]
    pub vram_ctx: u32,
}

impl TargetArgs {
    /// The targets in the order of the command line; empty if none of these was given.
    pub fn wanted(&self) -> Vec<Wanted> {
        let known = (self.size.iter().copied().map(Target::Size))
            .chain(self.bpw.iter().copied().map(Target::Bpw))
            .chain(self.max_kld.iter().copied().map(Target::MaxKld))
            .chain(self.mix.iter().copied().map(Target::Type))
            .chain(self.pure.iter().copied().map(Target::Pure));
        let like = self.like.iter().cloned().map(Wanted::Like);
        known.map(Wanted::Known).chain(like).chain(self.vram.iter().copied().map(Wanted::Vram)).collect()
    }
}

/// A target, or what becomes one when files or the model have been looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    Known(Target),
    Like(PathBuf),
    Vram(u64),
}

impl Wanted {
    /// The target for a model of this shape.
    pub fn resolve(&self, vram: &VramArgs, run: Option<&RunShape>) -> Result<Target> {
        match self {
            Wanted::Known(target) => Ok(*target),
            Wanted::Like(file) => Ok(Target::Size(GgufFile::open(file)?.file_bytes())),
            Wanted::Vram(memory) => {
                let run =
                    run.context("the analysis does not tell what --vram must know of the model: analyze it again")?;
                let bytes = run.budget(*memory, vram.vram_ctx.into()).context("--vram")?;
                log::info!("of {}, {} are left for the file", table::bytes(*memory), table::bytes(bytes));
                Ok(Target::Size(bytes))
            }
        }
    }

    /// For file names and tables.
    pub fn label(&self) -> String {
        let compact = |bytes| table::bytes(bytes).replace(' ', "");
        match self {
            Wanted::Known(Target::Size(size)) => compact(*size),
            Wanted::Known(Target::Bpw(bits)) => format!("{bits}bpw"),
            Wanted::Known(Target::MaxKld(nats)) => format!("kld{nats}"),
            Wanted::Known(Target::Type(mix)) => mix.name().to_owned(),
            Wanted::Known(Target::Pure(ty)) => ty.name().to_owned(),
            Wanted::Like(file) => format!("like-{}", stem(file)),
            Wanted::Vram(size) => format!("vram{}", compact(*size)),
        }
    }
}

/// Name of a file without its ending and split number.
pub fn stem(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let Some(split) = SplitName::parse(file) else { return stem };
    let ending = format!("-{:05}-of-{:05}", split.number, split.count);
    stem.strip_suffix(&ending).unwrap_or(&stem).to_owned()
}

/// One output for each label. A name in which `{target}` stands takes the label there; several targets may also go into
/// a folder, as `NAME-LABEL.ENDING`.
pub fn outputs(output: &Path, labels: &[String], name: &str, ending: &str) -> Result<Vec<PathBuf>> {
    let shown = output.display();
    let pattern = output.file_name().and_then(|file| file.to_str()).filter(|file| file.contains(PLACE));
    let files: Vec<PathBuf> = match (pattern, labels) {
        (Some(pattern), _) => labels.iter().map(|label| output.with_file_name(pattern.replace(PLACE, label))).collect(),
        (None, [_]) => vec![output.to_owned()],
        (None, _) if output.is_dir() => {
            labels.iter().map(|label| output.join(format!("{name}-{label}.{ending}"))).collect()
        }
        (None, _) => bail!("several targets need a folder that exists, or a name with {PLACE} in it: `{shown}`"),
    };
    distinct(&files)?;
    Ok(files)
}

/// Fails if two outputs are one file.
pub fn distinct<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let mut seen = HashSet::new();
    for file in files {
        ensure!(seen.insert(file), "two outputs have the same name: `{}`", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_tell_the_target() {
        let wanted = [
            Wanted::Known(Target::Size(5_046_586_572)),
            Wanted::Known(Target::Bpw(4.5)),
            Wanted::Known(Target::MaxKld(0.02)),
            Wanted::Known(Target::Type(Ftype::Q4_K_M)),
            Wanted::Known(Target::Pure(GgmlType::IQ4_XS)),
            Wanted::Like("models/qwen-00001-of-00003.gguf".into()),
            Wanted::Vram(8 << 30),
        ];
        let labels = wanted.map(|wanted| wanted.label());
        assert_eq!(labels, ["4.70GiB", "4.5bpw", "kld0.02", "Q4_K_M", "IQ4_XS", "like-qwen", "vram8.00GiB"]);
    }

    #[test]
    fn several_targets_have_several_names() {
        let folder = tempfile::tempdir().unwrap();
        let labels = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let name = |output: PathBuf, names: &[&str]| outputs(&output, &labels(names), "tiny", "gguf");
        let at = |file: &str| folder.path().join(file);
        assert_eq!(name(at("x.gguf"), &["3bpw"]).unwrap(), [at("x.gguf")]);
        assert_eq!(name(at("x-{target}.gguf"), &["3bpw"]).unwrap(), [at("x-3bpw.gguf")]);
        let two = ["3bpw", "4bpw"];
        assert_eq!(name(at("x-{target}.gguf"), &two).unwrap(), [at("x-3bpw.gguf"), at("x-4bpw.gguf")]);
        assert_eq!(name(at(""), &two).unwrap(), [at("tiny-3bpw.gguf"), at("tiny-4bpw.gguf")]);
        assert!(name(at("x.gguf"), &two).unwrap_err().to_string().contains("{target}"));
        assert!(name(at(""), &["3bpw", "3bpw"]).unwrap_err().to_string().contains("same name"));
    }
}
