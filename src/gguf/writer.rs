//! Writes a GGUF v3 as a stream, through a temporary file beside the target.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use super::header::{check_name, tensor_bytes};
use super::value::{Scalar, Value, put_string, string_size};
use super::{MAGIC, MAX_DIMS, MAX_LEN, Metadata, VERSION, align_up};
use crate::quant::GgmlType;
use crate::whole_file::WholeFile;

/// Magic, version, number of tensors, number of keys.
const FIXED_BYTES: u64 = 4 + 4 + 8 + 8;
const BUFFER_BYTES: usize = 1 << 20;

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    pub name: String,
    /// In ggml's order: `dims[0]` is the length of a row.
    pub dims: Vec<u64>,
    pub ty: GgmlType,
}

impl TensorPlan {
    /// Size in bytes without padding. Fails if rows are not whole blocks, or on an overflow.
    pub fn bytes(&self) -> Result<u64> {
        tensor_bytes(&self.name, &self.dims, self.ty)
    }

    /// Bytes of its record in the header.
    fn record_bytes(&self) -> u64 {
        string_size(&self.name) + 4 + 8 * self.dims.len() as u64 + 4 + 8
    }
}

/// Exact size of the file that [`GgufWriter`] would write. Fails where the writer would.
pub fn file_size(metadata: &Metadata, tensors: &[TensorPlan]) -> Result<u64> {
    let layout = Layout::new(metadata, tensors)?;
    Ok(layout.data_start + layout.data_bytes)
}

/// Where everything goes.
struct Layout {
    data_start: u64,
    /// Offset and unpadded size of each tensor, from the start of the data section.
    places: Vec<(u64, u64)>,
    data_bytes: u64,
}

impl Layout {
    fn new(metadata: &Metadata, tensors: &[TensorPlan]) -> Result<Layout> {
        check_metadata(metadata)?;
        let alignment = metadata.alignment()?;
        let (mut names, mut places, mut offset) = (HashSet::new(), Vec::with_capacity(tensors.len()), 0u64);
        for tensor in tensors {
            check_name(&tensor.name)?;
            if !names.insert(&tensor.name) {
                bail!("duplicate tensor name: `{}`", tensor.name);
            }
            if tensor.dims.is_empty() || tensor.dims.len() > MAX_DIMS {
                bail!("tensor `{}` has {} dimensions, not 1 to {MAX_DIMS}", tensor.name, tensor.dims.len());
            }
            let bytes = tensor.bytes()?;
            places.push((offset, bytes));
            offset = align_up(bytes, alignment)
                .and_then(|padded| offset.checked_add(padded))
                .ok_or_else(|| anyhow!("tensor `{}` ends past the largest possible file size", tensor.name))?;
        }
        let pairs: u64 = metadata.iter().map(|(key, value)| string_size(key) + 4 + value.size()).sum();
        let records: u64 = tensors.iter().map(TensorPlan::record_bytes).sum();
        let data_start = (FIXED_BYTES + pairs + records).next_multiple_of(alignment);
        Ok(Layout { data_start, places, data_bytes: offset })
    }
}

/// Refuses what llama.cpp's reader would refuse.
fn check_metadata(metadata: &Metadata) -> Result<()> {
    for (key, value) in metadata.iter() {
        if key.is_empty() {
            bail!("a metadata key is empty");
        }
        if let Value::Array(array) = value
            && array.len() as u64 > MAX_LEN
        {
            bail!("metadata array has more than {MAX_LEN} elements: `{key}`");
        }
    }
    Ok(())
}

/// The bytes before the data section, and where in them each scalar value is.
fn header(metadata: &Metadata, tensors: &[TensorPlan], layout: &Layout) -> (Vec<u8>, HashMap<String, (u64, u32)>) {
    let mut out = Vec::with_capacity(layout.data_start as usize);
    let mut scalars = HashMap::new();
    out.extend_from_slice(MAGIC);
    VERSION.put(&mut out);
    (tensors.len() as u64).put(&mut out);
    (metadata.len() as u64).put(&mut out);
    for (key, value) in metadata.iter() {
        put_string(key, &mut out);
        value.type_id().put(&mut out);
        if value.is_scalar() {
            scalars.insert(key.to_owned(), (out.len() as u64, value.type_id()));
        }
        value.put(&mut out);
    }
    for (tensor, (offset, _)) in tensors.iter().zip(&layout.places) {
        put_string(&tensor.name, &mut out);
        (tensor.dims.len() as u32).put(&mut out);
        tensor.dims.iter().for_each(|dim| dim.put(&mut out));
        (tensor.ty as u32).put(&mut out);
        offset.put(&mut out);
    }
    out.resize(layout.data_start as usize, 0);
    (out, scalars)
}

/// Streams a GGUF to a temporary file beside `target`, which [`GgufWriter::finish`] syncs and renames.
/// Dropped before that, it leaves nothing behind and an older file of that name untouched.
pub struct GgufWriter {
    target: PathBuf,
    out: BufWriter<WholeFile>,
    tensors: Vec<TensorPlan>,
    layout: Layout,
    /// Position and type id of every metadata value of fixed size.
    scalars: HashMap<String, (u64, u32)>,
    /// Bytes written of each tensor.
    written: Vec<u64>,
    /// Index of each tensor by its name.
    index: HashMap<String, usize>,
    position: u64,
}

impl GgufWriter {
    /// Starts a file and writes its header.
    ///
    /// Fails if the folder of `target` cannot be written, if the disk is full, or if metadata or tensors break a rule
    /// of the format (name over 63 bytes, duplicate name, row that is not whole blocks).
    pub fn new(target: &Path, metadata: &Metadata, tensors: &[TensorPlan]) -> Result<GgufWriter> {
        let layout = Layout::new(metadata, tensors)?;
        let file = WholeFile::create(target).map_err(|error| cannot_write(target, format!("{error:#}")))?;
        let (bytes, scalars) = header(metadata, tensors, &layout);
        let mut writer = GgufWriter {
            target: target.to_owned(),
            out: BufWriter::with_capacity(BUFFER_BYTES, file),
            tensors: tensors.to_vec(),
            layout,
            scalars,
            written: vec![0; tensors.len()],
            index: tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect(),
            position: 0,
        };
        writer.put(0, &bytes)?;
        // the padding after tensors, whatever the order they come in
        let size = writer.file_size();
        writer.out.get_mut().file().set_len(size).map_err(|error| cannot_write(target, error))?;
        Ok(writer)
    }

    /// Size in bytes of the finished file.
    pub fn file_size(&self) -> u64 {
        self.layout.data_start + self.layout.data_bytes
    }

    /// Writes the next bytes of tensor `name`. Tensors come in any order, each in as many chunks as one likes.
    ///
    /// Fails on a tensor that was not announced, one byte too many, or a failed write.
    pub fn write_tensor(&mut self, name: &str, chunk: &[u8]) -> Result<()> {
        let Some(&index) = self.index.get(name) else {
            bail!("a tensor came that is not in the header: `{name}`");
        };
        let (offset, bytes) = self.layout.places[index];
        let written = self.written[index];
        if chunk.len() as u64 > bytes - written {
            bail!("tensor `{name}` has {bytes} bytes, but {} came", written + chunk.len() as u64);
        }
        self.put(self.layout.data_start + offset + written, chunk)?;
        self.written[index] += chunk.len() as u64;
        Ok(())
    }

    /// Whether all bytes of a tensor are written.
    pub fn is_written(&self, name: &str) -> bool {
        self.index.get(name).is_some_and(|&index| self.written[index] == self.layout.places[index].1)
    }

    /// Replaces a metadata value of fixed size by one of the same type.
    ///
    /// Fails if there is no such key, or it has another type, or its size can change.
    pub fn patch(&mut self, key: &str, value: Value) -> Result<()> {
        let Some(&(position, type_id)) = self.scalars.get(key) else {
            bail!("no metadata value of fixed size was written under the key: `{key}`");
        };
        if value.type_id() != type_id {
            bail!("the value for a metadata key has another type than the one written: `{key}`");
        }
        let mut bytes = Vec::new();
        value.put(&mut bytes);
        self.put(position, &bytes)
    }

    /// The temporary file, complete so far, for reading before it gets its name.
    ///
    /// Fails if what is buffered cannot be written.
    pub fn readable(&mut self) -> Result<&Path> {
        self.out.flush().map_err(|error| cannot_write(&self.target, error))?;
        Ok(self.out.get_ref().path())
    }

    /// Syncs the file and gives it its name. Returns its size in bytes.
    ///
    /// Fails if a tensor is unfinished, or the file cannot be synced or renamed; the temporary file is then removed.
    pub fn finish(self) -> Result<u64> {
        for ((tensor, (_, bytes)), written) in self.tensors.iter().zip(&self.layout.places).zip(&self.written) {
            if written < bytes {
                bail!("tensor `{}` is unfinished: {written} of {bytes} bytes were written", tensor.name);
            }
        }
        let size = self.file_size();
        let target = self.target;
        let file = self.out.into_inner().map_err(|error| cannot_write(&target, error.into_error()))?;
        file.finish().map_err(|error| cannot_write(&target, error))?;
        Ok(size)
    }

    fn put(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        let mut write = || {
            // a seek empties the buffer
            if position != self.position {
                self.out.seek(SeekFrom::Start(position))?;
            }
            self.position = position + bytes.len() as u64;
            self.out.write_all(bytes)
        };
        write().map_err(|error| cannot_write(&self.target, error))
    }
}

fn cannot_write(target: &Path, error: impl Display) -> anyhow::Error {
    anyhow!("cannot write the file: `{}` ({error})", target.display())
}
