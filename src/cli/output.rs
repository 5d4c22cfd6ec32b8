//! What commands print: one JSON object for scripts, tables for people. Field names of the structs here are contracts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::Global;
use super::table::{Align, Table, bytes, grouped};
use super::terminal::{self, visible};
use crate::gguf::Summary;
use crate::imatrix::{Coverage, FEW_TOKENS};
use crate::kld;
use crate::plan::Fallback;
use crate::quant::GgmlType;

/// A result that can be read by people and by scripts.
pub trait Report: Serialize {
    /// Lines for people, each with its end.
    fn human(&self) -> String;
}

/// Prints a result on stdout. A reader that went away (`| head`) is no error.
pub fn print(global: &Global, report: &impl Report) -> Result<()> {
    let text = match global.json {
        true => terminal::json(&serde_json::to_string(report)?) + "\n",
        false => terminal::visible_lines(&report.human()),
    };
    terminal::print(&text).context("cannot write the result to stdout")
}

/// Results of several targets, each printed as soon as it is there; one that cannot be printed stops none of the others.
pub struct Printer<'a> {
    global: &'a Global,
    outcome: Result<()>,
}

impl<'a> Printer<'a> {
    pub fn new(global: &'a Global) -> Self {
        Printer { global, outcome: Ok(()) }
    }

    pub fn print(&mut self, report: &impl Report) {
        let printed = print(self.global, report);
        self.note(printed);
    }

    /// An empty line between two results for people.
    pub fn part(&mut self) {
        if !self.global.json {
            let printed = terminal::print("\n").context("cannot write the result to stdout");
            self.note(printed);
        }
    }

    fn note(&mut self, printed: Result<()>) {
        if self.outcome.is_ok() {
            self.outcome = printed;
        }
    }

    /// Fails if a result could not be printed.
    pub fn end(self) -> Result<()> {
        self.outcome
    }
}

/// A step of the job and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    pub step: String,
    pub seconds: f64,
}

/// Tensors of one type in the written file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TypeShare {
    #[serde(skip)]
    pub ty: GgmlType,
    /// Number of tensors.
    pub count: usize,
    pub bytes: u64,
}

impl TypeShare {
    /// Everything in a written file, most bytes first.
    pub fn of_file(summary: &Summary) -> Vec<TypeShare> {
        summary.types.iter().map(|ty| TypeShare { ty: ty.ty, count: ty.tensors, bytes: ty.bytes }).collect()
    }

    /// From count and bytes by type, most bytes first.
    pub fn list(types: &BTreeMap<GgmlType, (usize, u64)>) -> Vec<TypeShare> {
        let mut list: Vec<_> = types.iter().map(|(&ty, &(count, bytes))| TypeShare { ty, count, bytes }).collect();
        list.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        list
    }
}

/// What `imatrix` did.
#[derive(Clone, Debug, Serialize)]
pub struct ImatrixReport {
    pub output: PathBuf,
    /// Tensors with statistics.
    pub tensors: usize,
    /// Chunks of text seen, those of merged files included.
    pub chunks: u32,
    /// Tokens per chunk; 0 where a legacy file does not say.
    pub chunk_size: u32,
    /// Where the text came from.
    pub datasets: Vec<String>,
    /// Tensors of which a part saw no token, such as experts never chosen.
    pub unseen: Vec<String>,
    /// How far the text reached the experts, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<Coverage>,
    #[serde(serialize_with = "by_step")]
    pub seconds: Vec<StepTime>,
}

impl Report for ImatrixReport {
    fn human(&self) -> String {
        let mut text = String::new();
        line(&mut text, "output", &self.output.display().to_string());
        line(&mut text, "tensors", &grouped(self.tensors as u64));
        line(&mut text, "text", &chunks_of(self.chunks, self.chunk_size));
        for dataset in &self.datasets {
            line(&mut text, "dataset", dataset);
        }
        if let Some(coverage) = &self.experts {
            line(&mut text, "experts", &coverage_line(coverage));
        }
        for tensor in &self.unseen {
            line(&mut text, "saw no token", tensor);
        }
        text
    }
}

/// What `analyze` did.
#[derive(Clone, Debug, Serialize)]
pub struct AnalyzeReport {
    pub output: PathBuf,
    /// Tensors that were measured.
    pub tensors: usize,
    /// Types that were tried.
    pub types: Vec<GgmlType>,
    /// How the sensitivities were found.
    pub sensitivity: String,
    pub device: String,
    #[serde(serialize_with = "by_step")]
    pub seconds: Vec<StepTime>,
}

impl Report for AnalyzeReport {
    fn human(&self) -> String {
        let mut text = String::new();
        line(&mut text, "output", &self.output.display().to_string());
        line(&mut text, "tensors", &grouped(self.tensors as u64));
        line(&mut text, "types", &self.types.iter().map(|ty| ty.name()).collect::<Vec<_>>().join(" "));
        line(&mut text, "sensitivity", &self.sensitivity);
        line(&mut text, "device", &self.device);
        text
    }
}

/// Every statistic of two models on the same text.
#[derive(Clone, Debug, Serialize)]
pub struct KldReport {
    #[serde(flatten)]
    pub statistics: kld::Report,
    pub device: String,
    #[serde(serialize_with = "by_step")]
    pub seconds: Vec<StepTime>,
}

impl Report for KldReport {
    fn human(&self) -> String {
        self.statistics.table()
    }
}

/// A name and its value, values below each other.
pub(super) fn line(text: &mut String, name: &str, value: &str) {
    // writing to a String cannot fail
    let _ = writeln!(text, "{name:<16}{}", visible(value));
}

pub(super) fn coverage_line(coverage: &Coverage) -> String {
    let Coverage { experts, few, fewest_tokens } = *coverage;
    format!(
        "{} of {} saw fewer than {FEW_TOKENS} calibration tokens; the fewest are {}",
        grouped(few as u64),
        grouped(experts as u64),
        grouped(fewest_tokens)
    )
}

/// How much text; `size` is 0 where a legacy file does not say.
pub(super) fn chunks_of(chunks: u32, size: u32) -> String {
    let of = if size == 0 { String::new() } else { format!(" of {size} tokens") };
    format!("{} chunks{of}", grouped(chunks.into()))
}

pub(super) fn size_and_bpw(size: u64, bpw: f64) -> String {
    format!("{} bytes ({}), {bpw:.3} bits per weight", grouped(size), bytes(size))
}

/// Four digits that count, however small the number.
pub(super) fn nats(kld: f64) -> String {
    match kld.abs() {
        0.0 => "0".to_owned(),
        size if size < 1e-4 => format!("{kld:.3e}"),
        size if size < 0.1 => format!("{kld:.6}"),
        _ => format!("{kld:.4}"),
    }
}

pub(super) fn types_table(types: &[TypeShare]) -> Table {
    let right = |title| (title, Align::Right);
    let mut table = Table::new(&[("type", Align::Left), right("tensors"), right("bytes"), right("share")]);
    let all: u64 = types.iter().map(|share| share.bytes).sum();
    for share in types {
        let percent = share.bytes as f64 * 100.0 / all.max(1) as f64;
        table.row([share.ty.to_string(), grouped(share.count as u64), grouped(share.bytes), format!("{percent:.1} %")]);
    }
    table
}

/// One line for all tensors with the same fallback, then an empty line; nothing without fallbacks.
pub(super) fn fallback_lines(fallbacks: &[Fallback]) -> String {
    let mut groups: BTreeMap<(GgmlType, GgmlType), Vec<&str>> = BTreeMap::new();
    for note in fallbacks {
        groups.entry((note.wanted, note.used)).or_default().push(&note.tensor);
    }
    let mut text = String::new();
    for ((wanted, used), tensors) in groups {
        let more = match tensors.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let why = format!("rows are no whole number of {wanted} blocks");
        let bits = format!("{} instead of {} bits per weight", used.bpw(), wanted.bpw());
        line(&mut text, "fallback", &format!("{wanted} -> {used}, {bits}: {}{more} ({why})", tensors[0]));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// `{"step": seconds, ...}` in the order of the steps.
pub(super) fn by_step<S: Serializer>(steps: &[StepTime], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(steps.len()))?;
    for step in steps {
        map.serialize_entry(&step.step, &step.seconds)?;
    }
    map.end()
}

/// `{"Q4_K": {"count": ..., "bytes": ...}, ...}`.
pub(super) fn by_type<S: Serializer>(types: &[TypeShare], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(types.len()))?;
    for share in types {
        map.serialize_entry(share.ty.name(), share)?;
    }
    map.end()
}

/// Fallbacks with the bits per weight of both types.
pub(super) fn with_bits<S: Serializer>(fallbacks: &[Fallback], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Note<'a> {
        #[serde(flatten)]
        fallback: &'a Fallback,
        wanted_bpw: f64,
        used_bpw: f64,
    }
    serializer.collect_seq(fallbacks.iter().map(|fallback| Note {
        fallback,
        wanted_bpw: fallback.wanted.bpw(),
        used_bpw: fallback.used.bpw(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_divergences_keep_their_digits() {
        assert_eq!([0.0, 3.21e-6, 0.01234567, 1.5].map(nats), ["0", "3.210e-6", "0.012346", "1.5000"]);
    }
}
