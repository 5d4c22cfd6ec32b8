//! The safetensors files of a folder as a container.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::Dtype;
use safetensors::tensor::Metadata as Header;

use super::checkpoint::Checkpoint;
use super::container::{Container, Stored};
use crate::files::InputFile;
use crate::quant::GgmlType;

/// Longest header that the safetensors library reads.
const MAX_HEADER: u64 = 100_000_000;

pub(super) struct SafetensorsContainer {
    pub(super) folder: PathBuf,
    files: Vec<InputFile>,
    stored: Vec<Stored>,
    /// The file of each stored tensor, and its bytes in it.
    places: Vec<(usize, Range<u64>)>,
    /// Tensors of types that hold no weights here, each with its type: buffers, packed weights.
    pub(super) odd: BTreeMap<String, Dtype>,
}

impl Container for SafetensorsContainer {
    fn path(&self) -> &Path {
        &self.folder
    }

    fn tensors(&self) -> &[Stored] {
        &self.stored
    }

    fn read(&self, index: usize, range: Range<u64>) -> Result<Vec<u8>> {
        let (file, place) = &self.places[index];
        self.files[*file].read(place.start + range.start..place.start + range.end)
    }
}

impl SafetensorsContainer {
    /// Opens the files and reads their headers. Tensors come as llama.cpp's converter takes them: files by name, and
    /// in each file tensors by name.
    ///
    /// Fails on a missing or damaged file, and on tensors that the index and the files do not agree on.
    pub(super) fn open(folder: &Path, checkpoint: &Checkpoint) -> Result<SafetensorsContainer> {
        let mut container = SafetensorsContainer {
            folder: folder.to_owned(),
            files: Vec::new(),
            stored: Vec::new(),
            places: Vec::new(),
            odd: BTreeMap::new(),
        };
        let mut found = HashMap::new();
        for name in &checkpoint.files {
            for tensor in container.add_file(name)? {
                if found.insert(tensor.clone(), name.as_str()).is_some() {
                    bail!("two files hold tensor `{tensor}`: `{}`", folder.display());
                }
            }
        }
        for (tensor, file) in checkpoint.index.iter().flatten() {
            if found.get(tensor) != Some(&file.as_str()) {
                let file = folder.join(file);
                bail!("tensor `{tensor}` is not in the file that the index names: `{}`", file.display());
            }
        }
        Ok(container)
    }

    /// Number of tensors of any type.
    pub(super) fn count(&self) -> usize {
        self.stored.len() + self.odd.len()
    }

    /// Adds a file; gives the names of its tensors.
    fn add_file(&mut self, name: &str) -> Result<BTreeSet<String>> {
        let path = self.folder.join(name);
        let file = InputFile::member(&path)?;
        let file = file.ok_or_else(|| anyhow!("a file of the model is missing: `{}`", path.display()))?;
        let (header, data_start) = read_header(&file)
            .with_context(|| format!("the safetensors file is cut short or damaged: `{}`", path.display()))?;
        let tensors: BTreeMap<_, _> = header.tensors().into_iter().collect();
        let names = tensors.keys().cloned().collect();
        for (tensor, info) in tensors {
            let Some(ty) = plain_type(info.dtype) else {
                self.odd.insert(tensor, info.dtype);
                continue;
            };
            let dims = info.shape.iter().rev().map(|&dim| dim as u64).collect();
            let (start, end) = info.data_offsets;
            self.stored.push(Stored { name: tensor, dims, ty });
            self.places.push((self.files.len(), data_start + start as u64..data_start + end as u64));
        }
        self.files.push(file);
        Ok(names)
    }
}

/// The header, checked against the size of the file, and where the data behind it starts.
fn read_header(file: &InputFile) -> Result<(Header, u64)> {
    ensure!(file.len() >= 8, "it has {} bytes", file.len());
    let length = u64::from_le_bytes(file.read(0..8)?.try_into().expect("eight bytes"));
    ensure!(length <= MAX_HEADER, "header too large: {length} bytes");
    ensure!(length <= file.len() - 8, "its header has {length} bytes");
    // the library has checked shapes against sizes, and that tensors follow each other without gaps
    let header: Header = serde_json::from_slice(&file.read(8..8 + length)?)?;
    let expected = 8 + length + header.data_len() as u64;
    ensure!(expected == file.len(), "it has {} bytes but its header promises {expected}", file.len());
    Ok((header, 8 + length))
}

/// The ggml type of a safetensors type that holds weights.
fn plain_type(dtype: Dtype) -> Option<GgmlType> {
    match dtype {
        Dtype::BF16 => Some(GgmlType::BF16),
        Dtype::F16 => Some(GgmlType::F16),
        Dtype::F32 => Some(GgmlType::F32),
        _ => None,
    }
}
