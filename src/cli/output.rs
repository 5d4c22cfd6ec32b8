//! What commands print: one JSON object for scripts, tables for people. Field names of the structs here are contracts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::Global;
use super::domains::{DomainShare, domains_text};
use super::objective::outlook_line;
use super::table::{Align, Table, bytes, grouped};
use super::terminal::{self, visible};
use crate::gguf::Summary;
use crate::imatrix::{Coverage, FEW_TOKENS};
use crate::kld;
use crate::pipeline::guard::Guard;
use crate::pipeline::refine::Round;
use crate::plan::{Fallback, Outlook};
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

/// What `quantize` did.
#[derive(Clone, Debug, Serialize)]
pub struct QuantizeReport {
    pub output: PathBuf,
    /// Of the whole file.
    pub bytes: u64,
    /// Bits of tensor data per weight.
    pub bpw: f64,
    /// Nats per token; none where the plan came without an analysis.
    pub predicted_kld: Option<f64>,
    /// Nats per token on held-out text, of the written file.
    pub measured_kld: f64,
    /// Standard error of `measured_kld`.
    pub measured_kld_se: f64,
    /// Share of held-out tokens with the same most probable next token, 0 to 1.
    pub same_top: f64,
    /// Held-out tokens measured.
    pub tokens: usize,
    /// The same by domain, where the text has several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<DomainShare>,
    /// How it was found out what errors cost; empty where no plan needed it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sensitivity: String,
    /// What an objective beyond the mean predicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<Outlook>,
    /// Name of the device that did the work.
    pub device: String,
    /// How far the calibration text reached the experts, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<Coverage>,
    /// Quantized types of the source, where it was quantized already: against it the KL is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantized_source: Option<String>,
    /// What rounding with all of a layer's errors in view is worth, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Guard>,
    /// What each round of moving the plan found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Round>,
    #[serde(serialize_with = "by_step")]
    pub seconds: Vec<StepTime>,
    #[serde(serialize_with = "by_type")]
    pub types: Vec<TypeShare>,
    #[serde(serialize_with = "with_bits")]
    pub fallbacks: Vec<Fallback>,
}

impl Report for QuantizeReport {
    fn human(&self) -> String {
        let mut text = format!("{}\n{}\n", steps_table(&self.seconds), types_table(&self.types));
        text += &fallback_lines(&self.fallbacks);
        if !self.domains.is_empty() {
            text += &domains_text(&self.domains);
        }
        line(&mut text, "output", &self.output.display().to_string());
        line(&mut text, "size", &size_and_bpw(self.bytes, self.bpw));
        if let Some(kld) = self.predicted_kld {
            let by = if self.sensitivity.is_empty() { String::new() } else { format!(" ({})", self.sensitivity) };
            line(&mut text, "predicted KL", &format!("{} nats per token{by}", nats(kld)));
        }
        if let Some(outlook) = &self.objective {
            outlook_line(&mut text, outlook);
        }
        if let Some(guard) = &self.rounding {
            line(&mut text, "rounding", &guard_line(guard));
        }
        for (number, round) in self.rounds.iter().enumerate() {
            line(&mut text, &format!("round {}", number + 1), &round_line(round));
        }
        let (kld, tokens) = (with_se(self.measured_kld, self.measured_kld_se), grouped(self.tokens as u64));
        line(&mut text, "measured KL", &format!("{kld} nats per token on {tokens} held-out tokens"));
        line(&mut text, "same top token", &format!("{:.2} %", self.same_top * 100.0));
        if let Some(coverage) = &self.experts {
            line(&mut text, "experts", &coverage_line(coverage));
        }
        if let Some(types) = &self.quantized_source {
            let note = "the KL is that to the quantized source, not to the model that it was made from";
            line(&mut text, "source", &format!("quantized already ({types}): {note}"));
        }
        line(&mut text, "device", &self.device);
        text
    }
}

fn coverage_line(coverage: &Coverage) -> String {
    let Coverage { experts, few, fewest_tokens } = *coverage;
    format!(
        "{} of {} saw fewer than {FEW_TOKENS} calibration tokens; the fewest are {}",
        grouped(few as u64),
        grouped(experts as u64),
        grouped(fewest_tokens)
    )
}

fn guard_line(guard: &Guard) -> String {
    let (plain, rounded) = (nats(guard.plain), nats(guard.rounded));
    let kept = if guard.keeps_rounding() { "" } else { ": every block alone" };
    format!("KL {plain} -> {rounded} nats on {} other tokens{kept}", grouped(guard.tokens as u64))
}

fn round_line(round: &Round) -> String {
    let [low, high] = round.comparison.difference_ci95.map(|nats| 1e6 * nats);
    format!(
        "{} moved, KL {} {:+.1}e-6 nats [{low:+.1}, {high:+.1}]: {}",
        bytes(round.moved_bytes),
        nats(round.before),
        1e6 * round.comparison.difference,
        if round.accepted { "accepted" } else { "refused" }
    )
}

/// All files of one run, for people: one line each.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Ladder(pub Vec<QuantizeReport>);

impl Report for Ladder {
    fn human(&self) -> String {
        let right = |title| (title, Align::Right);
        let titles = [right("bpw"), right("bytes"), right("predicted KL"), right("measured KL"), right("same top")];
        let mut table = Table::new(&[&titles[..], &[("output", Align::Left)]].concat());
        for report in &self.0 {
            table.row([
                format!("{:.3}", report.bpw),
                grouped(report.bytes),
                report.predicted_kld.map_or("-".to_owned(), nats),
                with_se(report.measured_kld, report.measured_kld_se),
                format!("{:.2} %", report.same_top * 100.0),
                report.output.display().to_string(),
            ]);
        }
        table.to_string()
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

fn with_se(kld: f64, se: f64) -> String {
    format!("{} ± {}", nats(kld), nats(se))
}

fn steps_table(steps: &[StepTime]) -> Table {
    let mut table = Table::new(&[("step", Align::Left), ("seconds", Align::Right)]);
    for step in steps {
        table.row([step.step.clone(), format!("{:.2}", step.seconds)]);
    }
    table.row(["total".to_owned(), format!("{:.2}", steps.iter().map(|step| step.seconds).sum::<f64>())]);
    table
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
fn by_step<S: Serializer>(steps: &[StepTime], serializer: S) -> Result<S::Ok, S::Error> {
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

    fn report() -> QuantizeReport {
        let note = |tensor: &str| Fallback { tensor: tensor.to_owned(), wanted: GgmlType::Q4_K, used: GgmlType::Q5_0 };
        QuantizeReport {
            output: "tiny.gguf".into(),
            bytes: 5_225_472,
            bpw: 4.498,
            predicted_kld: Some(0.0213),
            measured_kld: 0.0221,
            measured_kld_se: 0.0004,
            same_top: 0.934,
            tokens: 8192,
            domains: Vec::new(),
            sensitivity: "reverse sweep".into(),
            objective: None,
            device: "CPU".into(),
            experts: None,
            quantized_source: None,
            rounding: Some(Guard { rounded: 0.02, plain: 0.05, tokens: 4096 }),
            rounds: Vec::new(),
            seconds: vec![
                StepTime { step: "read".into(), seconds: 0.5 },
                StepTime { step: "listen".into(), seconds: 2.25 },
            ],
            types: vec![
                TypeShare { ty: GgmlType::Q4_K, count: 3, bytes: 3000 },
                TypeShare { ty: GgmlType::Q6_K, count: 1, bytes: 1000 },
            ],
            fallbacks: vec![note("blk.0.ffn_down.weight"), note("blk.1.ffn_down.weight")],
        }
    }

    #[test]
    fn the_quantize_object_has_the_promised_fields() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["output"], "tiny.gguf");
        assert_eq!(json["bytes"], 5_225_472);
        assert_eq!(json["bpw"], 4.498);
        assert_eq!(json["predicted_kld"], 0.0213);
        assert_eq!(json["measured_kld"], 0.0221);
        assert_eq!(json["seconds"], serde_json::json!({"read": 0.5, "listen": 2.25}));
        let types = serde_json::json!({"Q4_K": {"count": 3, "bytes": 3000}, "Q6_K": {"count": 1, "bytes": 1000}});
        assert_eq!(json["types"], types);
        assert_eq!(json["fallbacks"][1]["tensor"], "blk.1.ffn_down.weight");
        assert_eq!(json["fallbacks"][1]["used"], "Q5_0");
        assert_eq!(json["fallbacks"][1]["used_bpw"], 5.5);
        assert_eq!(json["fallbacks"][1]["wanted_bpw"], 4.5);
    }

    #[test]
    fn people_see_every_number() {
        let text = report().human();
        for part in [
            "listen     2.25",
            "total      2.75",
            "Q4_K        3  3,000  75.0 %",
            "Q4_K -> Q5_0, 5.5 instead of 4.5 bits per weight: blk.0.ffn_down.weight and 1 more",
            "5,225,472 bytes (4.98 MiB), 4.498 bits per weight",
            "predicted KL    0.021300 nats",
            "rounding        KL 0.050000 -> 0.020000 nats on 4,096 other tokens",
            "0.022100 ± 0.000400 nats per token on 8,192 held-out tokens",
            "93.40 %",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
    }

    #[test]
    fn small_divergences_keep_their_digits() {
        assert_eq!([0.0, 3.21e-6, 0.01234567, 1.5].map(nats), ["0", "3.210e-6", "0.012346", "1.5000"]);
    }
}
