//! Importance matrices as GGUF: `NAME.in_sum2` `[cols, matrices]` and `NAME.counts` `[1, matrices]`, both F32.
//!
//! Our `NAME.in_sum` (sums of x_j) stands beside them: llama.cpp's loader looks at the other two suffixes only.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::{Entry, Imatrix};
use crate::gguf::{Array, GgufFile, GgufWriter, Metadata, TensorInfo, TensorPlan, Value};
use crate::quant::GgmlType;

const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const OWN_PREFIX: &str = "dq_gpu.";
const SUM2: &str = ".in_sum2";
const SUM: &str = ".in_sum";
const COUNTS: &str = ".counts";

pub(super) fn read(path: &Path) -> Result<Imatrix> {
    let file = GgufFile::open(path)?;
    parse(&file).with_context(|| super::cannot_use(path))
}

fn parse(file: &GgufFile) -> Result<Imatrix> {
    let metadata = &file.metadata;
    let number = |key: &str| metadata.u32(key).with_context(|| format!("it lacks the key `{key}`"));
    let datasets = metadata.strings(DATASETS);
    let mut imatrix = Imatrix {
        datasets: datasets.with_context(|| format!("it lacks the key `{DATASETS}`"))?.to_vec(),
        chunk_count: number(CHUNK_COUNT)?,
        chunk_size: number(CHUNK_SIZE)?,
        extra: metadata
            .iter()
            .filter(|(key, _)| key.starts_with(OWN_PREFIX))
            .map(|(key, value)| (key.to_string(), value.clone()))
            .collect(),
        ..Imatrix::default()
    };
    for tensor in &file.tensors {
        let slot = |name: &str| name.to_string();
        if let Some(name) = tensor.name.strip_suffix(SUM2) {
            imatrix.entries.entry(slot(name)).or_default().sum2 = floats(file, tensor)?;
        } else if let Some(name) = tensor.name.strip_suffix(COUNTS) {
            imatrix.entries.entry(slot(name)).or_default().counts = floats(file, tensor)?;
        } else if let Some(name) = tensor.name.strip_suffix(SUM) {
            imatrix.entries.entry(slot(name)).or_default().sum = Some(floats(file, tensor)?);
        }
    }
    for (name, entry) in &imatrix.entries {
        if entry.sum2.is_empty() || entry.counts.is_empty() {
            bail!("it has sums without counts or counts without sums: `{name}`");
        }
    }
    Ok(imatrix)
}

fn floats(file: &GgufFile, tensor: &TensorInfo) -> Result<Vec<f64>> {
    ensure!(tensor.ty == GgmlType::F32, "it holds a tensor that is not F32: `{}`", tensor.name);
    let bytes = file.data(tensor)?;
    let words = bytes.chunks_exact(4);
    Ok(words.map(|w| f64::from(f32::from_le_bytes(w.try_into().expect("four bytes")))).collect())
}

pub(super) fn write(imatrix: &Imatrix, path: &Path) -> Result<()> {
    let mut metadata = Metadata::new();
    metadata.set("general.type", Value::String("imatrix".to_string()));
    metadata.set(DATASETS, Value::Array(Array::String(imatrix.datasets.clone())));
    metadata.set(CHUNK_COUNT, Value::U32(imatrix.chunk_count));
    metadata.set(CHUNK_SIZE, Value::U32(imatrix.chunk_size));
    for (key, value) in &imatrix.extra {
        metadata.set(key.as_str(), value.clone());
    }

    let tensors: Vec<(TensorPlan, &[f64])> =
        imatrix.entries.iter().flat_map(|(name, entry)| entry_tensors(name, entry)).collect();
    let plans: Vec<TensorPlan> = tensors.iter().map(|(plan, _)| plan.clone()).collect();
    let mut writer = GgufWriter::new(path, &metadata, &plans)?;
    for (plan, values) in &tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect();
        writer.write_tensor(&plan.name, &bytes)?;
    }
    writer.finish()?;
    Ok(())
}

/// The tensors of an entry. ggml drops trailing dimensions of 1, so a dense layer's have one dimension.
fn entry_tensors<'a>(name: &str, entry: &'a Entry) -> Vec<(TensorPlan, &'a [f64])> {
    let matrices = entry.counts.len() as u64;
    let plan = |suffix: &str, row: u64| TensorPlan {
        name: format!("{name}{suffix}"),
        dims: if matrices == 1 { vec![row] } else { vec![row, matrices] },
        ty: GgmlType::F32,
    };
    let cols = entry.cols() as u64;
    let mut tensors = vec![(plan(SUM2, cols), entry.sum2.as_slice()), (plan(COUNTS, 1), entry.counts.as_slice())];
    if let Some(sum) = &entry.sum {
        tensors.push((plan(SUM, cols), sum.as_slice()));
    }
    tensors
}
