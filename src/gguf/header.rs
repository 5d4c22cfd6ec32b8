//! Everything before the data section of one GGUF file.

use std::collections::HashSet;

use anyhow::{Result, bail};

use super::cursor::{Cursor, NeedsMore};
use super::value::{Scalar, Value, get_string};
use super::{MAGIC, MAX_DIMS, MAX_NAME, Metadata, VERSION, align_up};
use crate::files::InputFile;
use crate::quant::GgmlType;

/// The smallest key-value pair: a key of one byte and a value of one byte.
const MIN_PAIR_BYTES: u64 = 8 + 1 + 4 + 1;
/// The smallest tensor record: a name of one byte and no dimensions.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;

/// Where a tensor is and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// In ggml's order: `dims[0]` is the number of columns, the length of a row.
    pub dims: Vec<u64>,
    pub ty: GgmlType,
    /// From the start of the data section of its file.
    pub offset: u64,
    /// Size in bytes, without padding.
    pub bytes: u64,
    /// Which file of a split model holds it, from 0.
    pub file: usize,
}

impl TensorInfo {
    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// The parsed header of one file.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    /// Where the data section starts.
    pub(super) data_start: u64,
}

/// Bytes of a file that are read first for its header; most headers are shorter.
const FIRST_READ: u64 = 1 << 20;

/// Reads and checks the header of a file; `number` goes into each [`TensorInfo`].
///
/// Fails, in a sentence without the path, on anything that llama.cpp's reader would refuse.
pub(super) fn read(file: &InputFile, number: usize) -> Result<Header> {
    let mut count = FIRST_READ.min(file.len());
    loop {
        match parse(&file.read(0..count)?, file.len(), number) {
            Err(error) if error.is::<NeedsMore>() => count = count.saturating_mul(8).min(file.len()),
            parsed => return parsed,
        }
    }
}

/// Parses the header of a file of `len` bytes which begins with `bytes`.
fn parse(bytes: &[u8], len: u64, file: usize) -> Result<Header> {
    let mut cursor = Cursor::new(bytes, len);
    let version = read_version(&mut cursor)?;
    let tensor_count = u64::get(&mut cursor)?;
    let pair_count = u64::get(&mut cursor)?;
    let metadata = read_metadata(&mut cursor, pair_count)?;
    let alignment = metadata.alignment()?;
    let tensors = read_tensors(&mut cursor, tensor_count, alignment, file)?;
    let data_start = align_up(cursor.position(), alignment).expect("a position in a file is far below the largest u64");
    check_end(len, data_start, &tensors)?;
    Ok(Header { version, metadata, tensors, data_start })
}

fn read_version(cursor: &mut Cursor) -> Result<u32> {
    let magic: [u8; 4] = cursor.array()?;
    if &magic != MAGIC {
        bail!("not a GGUF file: it starts with `{}`", magic.escape_ascii());
    }
    match u32::get(cursor)? {
        version @ 2..=VERSION => Ok(version),
        1 => bail!("GGUF version 1 is no longer read by any current program"),
        version if (1..=VERSION).contains(&version.swap_bytes()) => bail!("big-endian GGUF files are not supported"),
        version => bail!("unknown GGUF version: `{version}`"),
    }
}

fn read_metadata(cursor: &mut Cursor, count: u64) -> Result<Metadata> {
    cursor.enter("the metadata", "");
    cursor.expect(count, MIN_PAIR_BYTES)?;
    let mut metadata = Metadata::new();
    for index in 0..count {
        cursor.enter("metadata key number", &index.to_string());
        let key = get_string(cursor)?;
        if key.is_empty() {
            bail!("metadata key number {index} is empty");
        }
        if metadata.contains(&key) {
            bail!("duplicate metadata key: `{key}`");
        }
        cursor.enter("the value of metadata key", &key);
        let type_id = u32::get(cursor)?;
        let value = Value::get(cursor, type_id)?;
        metadata.set(key, value);
    }
    Ok(metadata)
}

fn read_tensors(cursor: &mut Cursor, count: u64, alignment: u64, file: usize) -> Result<Vec<TensorInfo>> {
    cursor.enter("the tensor list", "");
    cursor.expect(count, MIN_TENSOR_BYTES)?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    let mut next_offset = 0u64;
    for index in 0..count {
        cursor.enter("the record of tensor number", &index.to_string());
        let tensor = read_tensor(cursor, file)?;
        let name = &tensor.name;
        if !names.insert(name.clone()) {
            bail!("duplicate tensor name: `{name}`");
        }
        if tensor.offset != next_offset {
            bail!("tensor `{name}` is at offset {} where the sizes before it add up to {next_offset}", tensor.offset);
        }
        next_offset = match align_up(tensor.bytes, alignment).and_then(|bytes| next_offset.checked_add(bytes)) {
            Some(offset) => offset,
            None => bail!("tensor `{name}` ends past the largest possible file size"),
        };
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor(cursor: &mut Cursor, file: usize) -> Result<TensorInfo> {
    let name = get_string(cursor)?;
    check_name(&name)?;
    cursor.enter("the record of tensor", &name);
    let dim_count = u32::get(cursor)? as usize;
    if dim_count > MAX_DIMS {
        bail!("tensor `{name}` has {dim_count} dimensions, more than {MAX_DIMS}");
    }
    let dims = (0..dim_count).map(|_| u64::get(cursor)).collect::<Result<Vec<_>>>()?;
    let type_id = u32::get(cursor)?;
    let Some(ty) = GgmlType::from_id(type_id) else { bail!("tensor `{name}` has an unknown type id: `{type_id}`") };
    let offset = u64::get(cursor)?;
    let bytes = tensor_bytes(&name, &dims, ty)?;
    Ok(TensorInfo { name, dims, ty, offset, bytes, file })
}

/// Fails unless `name` can be a tensor's name.
pub(super) fn check_name(name: &str) -> Result<()> {
    match name.len() {
        0 => bail!("a tensor has an empty name"),
        1..=MAX_NAME => Ok(()),
        len => bail!("tensor name has {len} bytes, more than {MAX_NAME}: `{name}`"),
    }
}

/// Size in bytes of a tensor. Fails on an empty dimension, a row that is not whole blocks, or an overflow.
pub(super) fn tensor_bytes(name: &str, dims: &[u64], ty: GgmlType) -> Result<u64> {
    if dims.contains(&0) {
        bail!("tensor `{name}` has an empty dimension: `{dims:?}`");
    }
    let cols = dims.first().copied().unwrap_or(1);
    let block = ty.block_len() as u64;
    if !cols.is_multiple_of(block) {
        bail!("tensor `{name}` has rows of {cols} weights, which {ty} cannot store: its blocks hold {block}");
    }
    dims.iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim))
        .and_then(|elements| (elements / block).checked_mul(ty.block_bytes() as u64))
        .filter(|&bytes| bytes <= i64::MAX as u64)
        .ok_or_else(|| anyhow::anyhow!("tensor `{name}` is larger than any file: `{dims:?}`"))
}

/// Fails if the file ends before its last tensor does. The padding after that one may be missing.
fn check_end(file_len: u64, data_start: u64, tensors: &[TensorInfo]) -> Result<()> {
    for tensor in tensors {
        let end = data_start.checked_add(tensor.offset).and_then(|start| start.checked_add(tensor.bytes));
        if end.is_none_or(|end| end > file_len) {
            bail!("truncated: the file ends at byte {file_len} inside the data of tensor `{}`", tensor.name);
        }
    }
    Ok(())
}
