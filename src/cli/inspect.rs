//! `dq-gpu inspect`: what is in a file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueHint};
use safetensors::tensor::{Dtype, Metadata as Header};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::Global;
use super::output::{self, Report, chunks_of, line};
use super::table::{Align, Table, bytes, grouped};
use crate::arch::tensor_class::may_quantize;
use crate::gguf::{Array, GgufFile, Metadata, Summary, TensorSummary, Value};
use crate::imatrix::Imatrix;
use crate::quant::GgmlType;

const EXAMPLES: &str = "\
Examples:
  dq-gpu inspect qwen3-8b-4.5bpw.gguf
  dq-gpu inspect qwen3-8b.imatrix.gguf
  dq-gpu inspect ./Qwen3-8B/model.safetensors
  dq-gpu inspect qwen3-8b-4.5bpw.gguf --json";

/// Show what is in a GGUF, an importance matrix or a safetensors file: metadata, types, true bits per weight.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct InspectArgs {
    /// The file (of a split model, any of its files)
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

/// Longer arrays are told by their length, for people and scripts alike.
const SHOWN_ITEMS: usize = 8;
/// Longer strings are cut for people.
const SHOWN_CHARS: usize = 80;

pub fn run(args: &InspectArgs, global: &Global) -> Result<()> {
    match magic(&args.file)? {
        [b'G', b'G', b'U', b'F', ..] => {
            let gguf = GgufFile::open(&args.file)?;
            match gguf.metadata.str("general.type") {
                Some("imatrix") => output::print(global, &imatrix_report(&args.file, "imatrix (GGUF)")?),
                _ => output::print(global, &GgufReport::new(&gguf)),
            }
        }
        // eight bytes of length, then JSON
        [.., b'{'] => output::print(global, &safetensors_report(&args.file)?),
        // the legacy format has no mark of its own
        _ if args.file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("dat")) => {
            output::print(global, &imatrix_report(&args.file, "imatrix (legacy)")?)
        }
        _ => bail!("neither a GGUF nor a safetensors file nor an importance matrix: `{}`", args.file.display()),
    }
}

/// The first nine bytes, zero past the end of the file.
fn magic(path: &Path) -> Result<[u8; 9]> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(9).read_to_end(&mut start));
    read.with_context(|| format!("cannot read the file: `{}`", path.display()))?;
    start.resize(9, 0);
    Ok(start.try_into().expect("the length was set to nine"))
}

#[derive(Serialize)]
struct GgufReport {
    file: PathBuf,
    format: &'static str,
    #[serde(flatten)]
    summary: Summary,
    /// Tensors of a quantized model whose rows are no whole number of the blocks that most types have.
    fallbacks: Vec<Narrow>,
    metadata: Map<String, Json>,
}

/// A tensor that no K- or IQ-type fits, and perhaps no block type at all.
#[derive(Serialize)]
struct Narrow {
    tensor: String,
    columns: u64,
    used: GgmlType,
    used_bpw: f64,
}

impl Narrow {
    /// Those of a file; none in one that is not quantized.
    fn of(summary: &Summary) -> Vec<Narrow> {
        if summary.types.iter().all(|share| !share.ty.is_quantized()) {
            return Vec::new();
        }
        let architecture = summary.architecture.as_deref().unwrap_or_default();
        let narrow = summary.tensors.iter().filter(|tensor| {
            let cols = tensor.dims.first().map_or(0, |&cols| cols as usize);
            let fits = if tensor.ty.is_quantized() { GgmlType::Q4_K.fits(cols) } else { GgmlType::Q8_0.fits(cols) };
            may_quantize(&tensor.name, &tensor.dims, architecture) && !fits
        });
        let note = |tensor: &TensorSummary| Narrow {
            tensor: tensor.name.clone(),
            columns: tensor.dims[0],
            used: tensor.ty,
            used_bpw: tensor.bpw,
        };
        narrow.map(note).collect()
    }

    /// A line for each type.
    fn lines(narrow: &[Narrow], text: &mut String) {
        let types: BTreeSet<GgmlType> = narrow.iter().map(|tensor| tensor.used).collect();
        for ty in types {
            let mut tensors = narrow.iter().filter(|tensor| tensor.used == ty);
            let (count, Some(first)) = (tensors.clone().count(), tensors.next()) else { continue };
            let blocks = if ty.is_quantized() { "blocks of 256" } else { "blocks of 32" };
            let why = format!("rows of {} weights fit no {blocks}", first.columns);
            line(
                text,
                "narrow rows",
                &format!("{count} x {ty}, {} bits per weight: {} ({why})", first.used_bpw, first.tensor),
            );
        }
    }
}

impl GgufReport {
    fn new(file: &GgufFile) -> GgufReport {
        let summary = file.summary();
        let fallbacks = Narrow::of(&summary);
        GgufReport { file: file.path.clone(), format: "gguf", summary, fallbacks, metadata: metadata(&file.metadata) }
    }
}

impl Report for GgufReport {
    fn human(&self) -> String {
        let summary = &self.summary;
        let mut text = metadata_lines(&self.metadata);
        text.push('\n');
        let rows = summary.tensors.iter().map(|t| (t.name.as_str(), t.ty.name(), t.dims.as_slice(), t.bytes, t.bpw));
        text += &tensors_table(rows);
        text.push('\n');
        let rows = summary.types.iter().map(|t| (t.ty.name(), t.tensors, t.elements, t.bytes, t.bpw));
        text += &types_table(rows);
        text.push('\n');
        line(&mut text, "file", &self.file.display().to_string());
        let files = if summary.files == 1 { String::new() } else { format!(", {} files", summary.files) };
        line(&mut text, "format", &format!("GGUF version {}{files}", summary.version));
        if let Some(architecture) = &summary.architecture {
            line(&mut text, "architecture", architecture);
        }
        line(&mut text, "weights", &grouped(summary.elements));
        line(&mut text, "size", &format!("{} bytes ({})", grouped(summary.file_bytes), bytes(summary.file_bytes)));
        let (data, whole) = (summary.bpw, summary.file_bpw);
        line(&mut text, "bits per weight", &format!("{data:.4} of tensor data, {whole:.4} of the whole file"));
        Narrow::lines(&self.fallbacks, &mut text);
        text
    }
}

#[derive(Serialize)]
struct ImatrixContents {
    file: PathBuf,
    format: &'static str,
    chunks: u32,
    /// Tokens per chunk; 0 where a legacy file does not say.
    chunk_size: u32,
    datasets: Vec<String>,
    tensors: Vec<Heard>,
}

/// The statistics of one weight tensor.
#[derive(Serialize)]
struct Heard {
    name: String,
    columns: usize,
    /// More than one for experts.
    matrices: usize,
    /// Tokens that the least and the most used matrix saw (chunks in a legacy file).
    seen: (f64, f64),
    /// Whether the means of activations are there beside their mean squares.
    means: bool,
}

fn imatrix_report(path: &Path, format: &'static str) -> Result<ImatrixContents> {
    let imatrix = Imatrix::read(path)?;
    let tensors = imatrix.entries.into_iter().map(|(name, entry)| Heard {
        name,
        columns: entry.cols(),
        matrices: entry.counts.len(),
        seen: entry.counts.iter().fold((f64::MAX, 0.0), |(least, most), &count| (count.min(least), count.max(most))),
        means: entry.sum.is_some(),
    });
    Ok(ImatrixContents {
        file: path.to_owned(),
        format,
        chunks: imatrix.chunk_count,
        chunk_size: imatrix.chunk_size,
        datasets: imatrix.datasets,
        tensors: tensors.collect(),
    })
}

impl Report for ImatrixContents {
    fn human(&self) -> String {
        let right = |title| (title, Align::Right);
        let seen = if self.chunk_size == 0 { "chunks seen" } else { "tokens seen" };
        let titles = [("tensor", Align::Left), right("columns"), right("matrices"), right(seen), right("means")];
        let mut table = Table::new(&titles);
        for tensor in &self.tensors {
            let seen = match tensor.seen {
                (least, most) if least == most => grouped(most as u64),
                (least, most) => format!("{} to {}", grouped(least as u64), grouped(most as u64)),
            };
            let means = if tensor.means { "yes" } else { "no" };
            let (columns, matrices) = (grouped(tensor.columns as u64), tensor.matrices.to_string());
            table.row([tensor.name.clone(), columns, matrices, seen, means.to_owned()]);
        }
        let mut text = format!("{table}\n");
        line(&mut text, "file", &self.file.display().to_string());
        line(&mut text, "format", self.format);
        line(&mut text, "text", &chunks_of(self.chunks, self.chunk_size));
        for dataset in &self.datasets {
            line(&mut text, "dataset", dataset);
        }
        text
    }
}

#[derive(Serialize)]
struct SafetensorsReport {
    file: PathBuf,
    format: &'static str,
    file_bytes: u64,
    tensor_bytes: u64,
    elements: u64,
    types: Vec<StoredType>,
    tensors: Vec<StoredTensor>,
    metadata: Map<String, Json>,
}

#[derive(Serialize)]
struct StoredType {
    #[serde(rename = "type")]
    ty: String,
    tensors: usize,
    elements: u64,
    bytes: u64,
    bpw: f64,
}

#[derive(Serialize)]
struct StoredTensor {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    /// As stored: rows first.
    shape: Vec<u64>,
    elements: u64,
    bytes: u64,
    bpw: f64,
}

impl Report for SafetensorsReport {
    fn human(&self) -> String {
        let mut text = metadata_lines(&self.metadata);
        if !text.is_empty() {
            text.push('\n');
        }
        let rows = self.tensors.iter().map(|t| (t.name.as_str(), t.ty.as_str(), t.shape.as_slice(), t.bytes, t.bpw));
        text += &tensors_table(rows);
        text.push('\n');
        text += &types_table(self.types.iter().map(|t| (t.ty.as_str(), t.tensors, t.elements, t.bytes, t.bpw)));
        text.push('\n');
        line(&mut text, "file", &self.file.display().to_string());
        line(&mut text, "format", "safetensors");
        line(&mut text, "weights", &grouped(self.elements));
        line(&mut text, "size", &format!("{} bytes ({})", grouped(self.file_bytes), bytes(self.file_bytes)));
        text
    }
}

fn safetensors_report(path: &Path) -> Result<SafetensorsReport> {
    let (header, file_bytes) =
        read_header(path).with_context(|| format!("cannot read the safetensors file: `{}`", path.display()))?;
    let mut tensors = Vec::new();
    for name in header.offset_keys() {
        let info = header.info(&name).context("a tensor has no description")?;
        let shape: Vec<u64> = info.shape.iter().map(|&n| n as u64).collect();
        let (elements, bytes) = (shape.iter().product(), (info.data_offsets.1 - info.data_offsets.0) as u64);
        tensors.push(StoredTensor {
            name,
            ty: dtype(info.dtype),
            shape,
            elements,
            bytes,
            bpw: info.dtype.bitsize() as f64,
        });
    }
    let mut types: Vec<StoredType> = Vec::new();
    for tensor in &tensors {
        let place = types.iter().position(|known| known.ty == tensor.ty).unwrap_or_else(|| {
            types.push(StoredType { ty: tensor.ty.clone(), tensors: 0, elements: 0, bytes: 0, bpw: tensor.bpw });
            types.len() - 1
        });
        types[place].tensors += 1;
        types[place].elements += tensor.elements;
        types[place].bytes += tensor.bytes;
    }
    types.sort_by_key(|ty| std::cmp::Reverse(ty.bytes));
    let mut metadata: Vec<_> = header.metadata().iter().flatten().collect();
    metadata.sort();
    Ok(SafetensorsReport {
        file: path.to_owned(),
        format: "safetensors",
        file_bytes,
        tensor_bytes: header.data_len() as u64,
        elements: tensors.iter().map(|tensor| tensor.elements).sum(),
        types,
        tensors,
        metadata: metadata.into_iter().map(|(key, value)| (key.clone(), json!(value))).collect(),
    })
}

/// The header, checked against the size of the file; weights are not read.
fn read_header(path: &Path) -> Result<(Header, u64)> {
    let mut file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    ensure!(length <= file_bytes.saturating_sub(8), "the file is cut short: its header has {length} bytes");
    // the longest that the safetensors library reads
    ensure!(length <= 100_000_000, "the header is too large: {length} bytes");
    let mut text = vec![0; usize::try_from(length)?];
    file.read_exact(&mut text)?;
    let header: Header = serde_json::from_slice(&text).context("the header is damaged")?;
    let expected = 8 + length + header.data_len() as u64;
    ensure!(expected == file_bytes, "the file has {file_bytes} bytes but its header promises {expected}");
    Ok((header, file_bytes))
}

fn dtype(dtype: Dtype) -> String {
    format!("{dtype:?}")
}

type TensorRow<'a> = (&'a str, &'a str, &'a [u64], u64, f64);

fn tensors_table<'a>(rows: impl Iterator<Item = TensorRow<'a>>) -> String {
    let right = |title| (title, Align::Right);
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("type", Align::Left),
        right("shape"),
        right("bytes"),
        right("bits/weight"),
    ]);
    for (name, ty, shape, size, bpw) in rows {
        let shape = shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        table.row([name.to_owned(), ty.to_owned(), shape, grouped(size), format!("{bpw:.4}")]);
    }
    table.to_string()
}

fn types_table<'a>(rows: impl Iterator<Item = (&'a str, usize, u64, u64, f64)>) -> String {
    let right = |title| (title, Align::Right);
    let titles = [("type", Align::Left), right("tensors"), right("weights"), right("bytes"), right("bits/weight")];
    let mut table = Table::new(&titles);
    for (ty, tensors, elements, size, bpw) in rows {
        table.row([ty.to_owned(), grouped(tensors as u64), grouped(elements), grouped(size), format!("{bpw:.4}")]);
    }
    table.to_string()
}

fn metadata_lines(metadata: &Map<String, Json>) -> String {
    let mut table = Table::new(&[("key", Align::Left), ("value", Align::Left)]);
    for (key, value) in metadata {
        let text = match value {
            Json::String(text) => text.lines().collect::<Vec<_>>().join(" "),
            Json::Object(array) => {
                format!("{} values of type {}", array["length"], array["type"].as_str().unwrap_or("?"))
            }
            other => other.to_string(),
        };
        let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        table.row([key.clone(), shown]);
    }
    if table.is_empty() { String::new() } else { table.to_string() }
}

/// Metadata as JSON. Long arrays become `{"type": ..., "length": ...}`: nobody reads a vocabulary here.
fn metadata(metadata: &Metadata) -> Map<String, Json> {
    metadata.iter().map(|(key, value)| (key.to_owned(), json_value(value))).collect()
}

fn json_value(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        // the shortest decimal that gives this f32, not its digits as an f64
        Value::F32(v) => json!(v.to_string().parse::<f64>().ok()),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Array(array) => json_array(array),
    }
}

fn json_array(array: &Array) -> Json {
    match array {
        Array::U8(v) => items("u8", v),
        Array::I8(v) => items("i8", v),
        Array::U16(v) => items("u16", v),
        Array::I16(v) => items("i16", v),
        Array::U32(v) => items("u32", v),
        Array::I32(v) => items("i32", v),
        Array::F32(v) => items("f32", v),
        Array::Bool(v) => items("bool", v),
        Array::String(v) => items("string", v),
        Array::U64(v) => items("u64", v),
        Array::I64(v) => items("i64", v),
        Array::F64(v) => items("f64", v),
    }
}

fn items<T: Serialize>(ty: &str, items: &[T]) -> Json {
    if items.len() <= SHOWN_ITEMS { json!(items) } else { json!({"type": ty, "length": items.len()}) }
}
