//! An open GGUF: one file, or all files of a split model.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::Metadata;
use super::header::{self, Header, TensorInfo};
use super::splits::{COUNT_KEY, NO_KEY, SplitName, TENSORS_KEY};
use crate::files::InputFile;

/// A GGUF, fully checked: every tensor's bytes lie inside its file.
pub struct GgufFile {
    /// The file that was opened; of a split model, its first file.
    pub path: PathBuf,
    /// The file's metadata. The `split.*` keys of a split model are taken out: it is presented as one file.
    pub metadata: Metadata,
    /// In file order.
    pub tensors: Vec<TensorInfo>,
    version: u32,
    places: HashMap<String, usize>,
    parts: Vec<Part>,
}

/// One open file.
struct Part {
    file: InputFile,
    data_start: u64,
}

impl GgufFile {
    /// Opens and checks a GGUF. Any file of a split model opens all of them.
    ///
    /// Fails, naming the file and what is wrong, if it cannot be read, is not a GGUF of version 2 or 3, is cut short,
    /// breaks a rule of llama.cpp's reader, or if a file of a split model is missing or does not belong to it.
    pub fn open(path: &Path) -> Result<GgufFile> {
        let (first, header) = open_part(path, 0)?;
        match header.metadata.u32(COUNT_KEY) {
            None | Some(0 | 1) => GgufFile::assemble(path.to_owned(), vec![(first, header)]),
            Some(count) => open_split(path, count as usize),
        }
    }

    fn assemble(path: PathBuf, files: Vec<(Part, Header)>) -> Result<GgufFile> {
        let (mut parts, mut tensors) = (Vec::new(), Vec::new());
        let (mut metadata, mut version) = (None, 0);
        for (part, header) in files {
            parts.push(part);
            tensors.extend(header.tensors);
            version = header.version;
            metadata.get_or_insert(header.metadata);
        }
        let mut metadata = metadata.expect("at least one file was opened");
        for key in [NO_KEY, COUNT_KEY, TENSORS_KEY] {
            metadata.remove(key);
        }
        let mut places = HashMap::new();
        for (place, tensor) in tensors.iter().enumerate() {
            if places.insert(tensor.name.clone(), place).is_some() {
                bail!("cannot read the model: `{}` (two files hold tensor `{}`)", path.display(), tensor.name);
            }
        }
        Ok(GgufFile { path, metadata, tensors, version, places, parts })
    }

    /// The version in the file's header: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Number of files of the model.
    pub fn file_count(&self) -> usize {
        self.parts.len()
    }

    /// Size in bytes of all files of the model.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.file.len()).sum()
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.places.get(name).map(|&place| &self.tensors[place])
    }

    /// The bytes of a tensor of this file, as stored. Fails if the file no longer holds them.
    pub fn data(&self, tensor: &TensorInfo) -> Result<Vec<u8>> {
        self.data_range(tensor, 0..tensor.bytes)
    }

    /// Some bytes of a tensor of this file.
    pub fn data_range(&self, tensor: &TensorInfo, range: Range<u64>) -> Result<Vec<u8>> {
        ensure!(range.end <= tensor.bytes, "tensor `{}` has {} bytes, not {range:?}", tensor.name, tensor.bytes);
        let part = &self.parts[tensor.file];
        // `header::read` has checked that all of the tensor lies inside the file
        let start = part.data_start + tensor.offset;
        part.file.read(start + range.start..start + range.end)
    }
}

/// Opens all files of a split model, given the path of any of them.
fn open_split(path: &Path, count: usize) -> Result<GgufFile> {
    let Some(name) = SplitName::parse(path).filter(|name| name.count == count) else {
        bail!(
            "file is one of {count} of a split model, but its name does not end in `-00001-of-{count:05}.gguf`: `{}`",
            path.display()
        );
    };
    let mut files = Vec::new();
    for number in 1..=count {
        let path = name.path(number);
        if !path.exists() {
            bail!("file {number} of {count} of the split model is missing: `{}`", path.display());
        }
        let (part, header) = open_part(&path, number - 1)?;
        let place = (header.metadata.u32(NO_KEY), header.metadata.u32(COUNT_KEY));
        if place != (Some(number as u32 - 1), Some(count as u32)) {
            bail!("file does not say that it is number {number} of {count} of a split model: `{}`", path.display());
        }
        files.push((part, header));
    }
    let promised = files[0].1.metadata.u64(TENSORS_KEY);
    let found: usize = files.iter().map(|(_, header)| header.tensors.len()).sum();
    if promised.is_some_and(|promised| promised != found as u64) {
        let promised = promised.unwrap_or_default();
        bail!("the split model holds {found} tensors where its first file promises {promised}: `{}`", path.display());
    }
    GgufFile::assemble(name.path(1), files)
}

fn open_part(path: &Path, number: usize) -> Result<(Part, Header)> {
    let file = InputFile::open(path)?;
    let header = header::read(&file, number).with_context(|| format!("cannot read the GGUF: `{}`", path.display()))?;
    Ok((Part { file, data_start: header.data_start }, header))
}
