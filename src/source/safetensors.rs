//! The safetensors files of a folder as a container.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::Dtype;
use safetensors::tensor::Metadata as Header;

use super::checkpoint::Checkpoint;
use super::container::{Container, Stored};
use super::packed::{Packing, Place, Scales};
use crate::files::InputFile;
use crate::quant::GgmlType;

/// What the names of packed weights end with, and those of their scales.
const CODES: &str = "_blocks";
const SCALES: &str = "_scales";

/// Longest header that the safetensors library reads.
const MAX_HEADER: u64 = 100_000_000;

pub(super) struct SafetensorsContainer {
    pub(super) folder: PathBuf,
    files: Vec<InputFile>,
    stored: Vec<Stored>,
    /// Where each stored tensor is, and what it is kept in.
    places: Vec<(Place, Packing)>,
    /// Tensors of types that hold no weights here, each with its type: buffers, packed weights.
    pub(super) odd: BTreeMap<String, Dtype>,
    /// Where those of single bytes are.
    bytes: HashMap<String, Place>,
}

impl Container for SafetensorsContainer {
    fn path(&self) -> &Path {
        &self.folder
    }

    fn tensors(&self) -> &[Stored] {
        &self.stored
    }

    fn read(&self, index: usize, range: Range<u64>) -> Result<Vec<u8>> {
        let (content, packing) = &self.places[index];
        packing.read(content, range, &|place| self.files[place.file].read(place.bytes.clone()))
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
            bytes: HashMap::new(),
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
        container.unpack()?;
        Ok(container)
    }

    /// Brings packed weights and their scales together. What has no scales that fit is odd.
    fn unpack(&mut self) -> Result<()> {
        let plain: HashMap<&str, usize> =
            self.stored.iter().enumerate().map(|(index, stored)| (stored.name.as_str(), index)).collect();
        let mut scales_in_use: BTreeSet<usize> = BTreeSet::new();
        // of each tensor, in their order
        let mut packings: Vec<Option<Packing>> = Vec::new();
        for stored in &self.stored {
            packings.push(match self.odd.get(&stored.name) {
                None => Some(Packing::None),
                Some(Dtype::U8) => {
                    let scales = self.bytes.get(&stored.name.replace(CODES, SCALES));
                    let blocks = stored.dims.iter().product::<u64>() / 32;
                    let scales = scales.filter(|place| place.bytes.end - place.bytes.start == blocks);
                    scales.map(|scales| Packing::Mxfp4 { scales: scales.clone() })
                }
                Some(_) => {
                    let names = [format!("{}_scale_inv", stored.name), format!("{}_scale", stored.name)];
                    let scales = names.iter().find_map(|name| plain.get(name.as_str()));
                    scales_in_use.extend(scales);
                    let scales = scales.map(|&at| self.scales(&stored.dims, at)).transpose()?;
                    Some(Packing::Fp8 { cols: stored.dims.first().copied().unwrap_or(1), scales })
                }
            });
        }
        let all = std::mem::take(&mut self.stored).into_iter().zip(std::mem::take(&mut self.places));
        for (index, ((stored, (place, _)), packing)) in all.zip(packings).enumerate() {
            let Some(packing) = packing.filter(|_| !scales_in_use.contains(&index)) else { continue };
            self.odd.remove(&stored.name);
            self.odd.remove(&stored.name.replace(CODES, SCALES));
            self.stored.push(stored);
            self.places.push((place, packing));
        }
        Ok(())
    }

    /// The scales of weights of these dimensions, kept in tensor `at`.
    fn scales(&self, dims: &[u64], at: usize) -> Result<Scales> {
        let Stored { name, dims: scale_dims, ty } = &self.stored[at];
        let (cols, rows) = (dims.first().copied().unwrap_or(1), dims.iter().skip(1).product::<u64>());
        let (scale_cols, scale_rows) =
            (scale_dims.first().copied().unwrap_or(1), scale_dims.iter().skip(1).product::<u64>());
        // one for all, for each row, or for each block: of powers of two, as few as there may be
        let side = |len: u64, count: u64| len.div_ceil(count.max(1)).next_power_of_two();
        let block = match (scale_rows, scale_cols) {
            (1, 1) => [rows, cols],
            (_, 1) if scale_rows == rows => [1, cols],
            _ => [side(rows, scale_rows), side(cols, scale_cols)],
        };
        let fits = |len: u64, count: u64, side: u64| side > 0 && len.div_ceil(side) == count;
        ensure!(
            fits(rows, scale_rows, block[0]) && fits(cols, scale_cols, block[1]),
            "tensor `{name}` has {scale_rows} x {scale_cols} scales for {rows} x {cols} weights: `{}`",
            self.folder.display()
        );
        Ok(Scales { place: self.places[at].0.clone(), ty: *ty, cols: scale_cols, block })
    }

    /// Whether some weights are kept in fewer bits than they are presented in.
    pub(super) fn is_packed(&self) -> bool {
        self.places.iter().any(|(_, packing)| !matches!(packing, Packing::None))
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
            let (start, end) = info.data_offsets;
            let place = Place { file: self.files.len(), bytes: data_start + start as u64..data_start + end as u64 };
            let mut dims: Vec<u64> = info.shape.iter().rev().map(|&dim| dim as u64).collect();
            let ty = match info.dtype {
                Dtype::F8_E4M3 => GgmlType::BF16,
                Dtype::U8 if tensor.ends_with(CODES) && dims.len() > 2 && dims[0] == 16 => {
                    let groups = dims.remove(0) * 2;
                    dims[0] *= groups;
                    GgmlType::MXFP4
                }
                other => match plain_type(other) {
                    Some(ty) => ty,
                    None => {
                        self.odd.insert(tensor.clone(), other);
                        self.bytes.extend((other == Dtype::U8).then_some((tensor, place)));
                        continue;
                    }
                },
            };
            if plain_type(info.dtype).is_none() {
                self.odd.insert(tensor.clone(), info.dtype);
            }
            self.stored.push(Stored { name: tensor, dims, ty });
            self.places.push((place, Packing::None));
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
