//! Tensors under their GGUF names, and the metadata that go with them.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};

use super::checkpoint::listing;
use super::container::Container;
use super::gguf::GgufContainer;
use super::location::download_hint;
use super::rearranged::Rearranged;
use crate::arch::{Expected, Hparams, Transform};
use crate::gguf::{GgufFile, Metadata, SplitName, TensorPlan};
use crate::quant::{self, GgmlType};

/// A tensor of a model.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// GGUF name.
    pub name: String,
    /// Product of all dimensions but the first.
    pub rows: usize,
    /// The first dimension: the length of a row.
    pub cols: usize,
    /// In ggml's order, columns first.
    pub dims: Vec<u64>,
    /// The type that [`Weights::bytes`] returns.
    pub ty: GgmlType,
    origin: Origin,
}

/// Where a tensor's bytes come from.
#[derive(Clone, Debug)]
enum Origin {
    Stored(StoredAs),
    /// One matrix after the other.
    Stacked(Vec<StoredAs>),
    /// Made when the model was opened.
    Made(Vec<u8>),
}

/// Tensor `index` of the container, which has it in type `ty`, its rows to be moved by `transform`.
#[derive(Clone, Copy, Debug)]
struct StoredAs {
    index: usize,
    ty: GgmlType,
    transform: Transform,
}

impl Tensor {
    /// Tensor `index` of a container, presented in this type and shape. Fails if a dimension does not fit in memory.
    pub(super) fn stored(
        container: &dyn Container,
        index: usize,
        TensorPlan { name, dims, ty }: TensorPlan,
        transform: Transform,
    ) -> Result<Tensor> {
        let (rows, cols) = matrix_shape(&dims).with_context(|| format!("tensor `{name}` is too large"))?;
        let origin = Origin::Stored(StoredAs { index, ty: container.tensors()[index].ty, transform });
        Ok(Tensor { name, rows, cols, dims, ty, origin })
    }

    /// Tensors of one shape and type, stacked in a new last dimension.
    pub(super) fn stacked(container: &dyn Container, indices: &[usize], name: String, ty: GgmlType) -> Result<Tensor> {
        let first = &container.tensors()[indices[0]];
        let dims: Vec<u64> = first.dims.iter().copied().chain([indices.len() as u64]).collect();
        let (rows, cols) = matrix_shape(&dims).with_context(|| format!("tensor `{name}` is too large"))?;
        let part = |index: &usize| StoredAs { index: *index, ty: first.ty, transform: Transform::None };
        Ok(Tensor { name, rows, cols, dims, ty, origin: Origin::Stacked(indices.iter().map(part).collect()) })
    }

    /// A row of f32 values.
    pub(super) fn made(name: String, values: &[f32]) -> Tensor {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims = vec![values.len() as u64];
        Tensor { name, rows: 1, cols: values.len(), dims, ty: GgmlType::F32, origin: Origin::Made(bytes) }
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Matrices that are stacked in it: the experts of a layer. Dimensions behind the second one count them.
    pub fn matrices(&self) -> usize {
        self.dims.iter().skip(2).product::<u64>() as usize
    }

    /// The rows of matrix `index` of the stack.
    pub fn matrix_rows(&self, index: usize) -> Range<usize> {
        let rows = self.rows / self.matrices();
        index * rows..(index + 1) * rows
    }

    /// Rows, cut where one matrix ends and the next begins.
    pub fn by_matrix(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let of_each = (self.rows / self.matrices()).max(1);
        let matrices = rows.start / of_each..rows.end.div_ceil(of_each);
        matrices.map(move |index| rows.start.max(index * of_each)..rows.end.min((index + 1) * of_each))
    }

    /// The matrix that has this row.
    pub fn matrix_at(&self, row: usize) -> usize {
        row / (self.rows / self.matrices())
    }

    /// Bytes of one row in the tensor's type.
    pub fn row_bytes(&self) -> usize {
        self.ty.bytes_for(self.cols as u64) as usize
    }

    /// The tensor as it would be written in its own type.
    pub fn plan(&self) -> TensorPlan {
        TensorPlan { name: self.name.clone(), dims: self.dims.clone(), ty: self.ty }
    }
}

/// As llama.cpp's converter has it, which adds in f16 what is kept in f16.
fn plus_one(value: f32, ty: GgmlType) -> f32 {
    match ty {
        GgmlType::F16 => half::f16::from_f32(value + 1.0).to_f32(),
        _ => value + 1.0,
    }
}

/// The same for the exponential.
fn minus_exp(value: f32, ty: GgmlType) -> f32 {
    let exp = f64::from(value).exp();
    match ty {
        GgmlType::F16 => -half::f16::from_f64(exp).to_f32(),
        _ => -exp as f32,
    }
}

/// Rows and columns; a tensor without dimensions is one number.
fn matrix_shape(dims: &[u64]) -> Result<(usize, usize)> {
    let cols = usize::try_from(dims.first().copied().unwrap_or(1))?;
    let rows: u64 = dims.iter().skip(1).product();
    Ok((usize::try_from(rows)?, cols))
}

/// The tensors of a model under their GGUF names, whatever they are stored in.
pub struct Weights {
    /// The file or folder that was opened.
    pub path: PathBuf,
    /// What llama.cpp's converter would write, or what the GGUF holds.
    pub metadata: Metadata,
    /// In the order of the GGUF, or of the one that llama.cpp's converter would write.
    pub tensors: Vec<Tensor>,
    places: HashMap<String, usize>,
    container: Box<dyn Container>,
}

impl Weights {
    /// Opens a GGUF of any architecture.
    ///
    /// Fails as [`GgufFile::open`] does.
    pub fn open(path: &Path) -> Result<Weights> {
        if !path.exists() {
            let hint = download_hint(path).map_or(String::new(), |hint| format!(" ({hint})"));
            bail!("there is no such file or folder: `{}`{hint}", path.display());
        }
        let file = GgufFile::open(path)?;
        let mut metadata = file.metadata.clone();
        // the layout of this file, not a fact about the model
        metadata.remove("general.alignment");
        let container = GgufContainer::new(file);
        let tensors = container.tensors().iter().enumerate().map(|(index, stored)| {
            let plan = TensorPlan { name: stored.name.clone(), dims: stored.dims.clone(), ty: stored.ty };
            Tensor::stored(&container, index, plan, Transform::None)
        });
        let tensors = tensors.collect::<Result<_>>()?;
        Ok(Weights::new(metadata, tensors, Box::new(container)))
    }

    pub(super) fn new(metadata: Metadata, tensors: Vec<Tensor>, container: Box<dyn Container>) -> Weights {
        let places = tensors.iter().enumerate().map(|(place, tensor)| (tensor.name.clone(), place)).collect();
        Weights { path: container.path().to_owned(), metadata, tensors, places, container }
    }

    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.places.get(name).map(|&place| &self.tensors[place])
    }

    /// The tensor of this name, or an error that names it.
    pub fn require(&self, name: &str) -> Result<&Tensor> {
        self.tensor(name).ok_or_else(|| anyhow!("the model has no tensor `{name}`: `{}`", self.path.display()))
    }

    /// A tensor's bytes in its type and GGUF layout.
    ///
    /// Fails on a file that was cut short, and on a type that would have to be decoded and has no decoder.
    pub fn bytes(&self, tensor: &Tensor) -> Result<Cow<'_, [u8]>> {
        self.bytes_of_rows(tensor, 0..tensor.rows)
    }

    /// The bytes of some rows. Fails as [`Weights::bytes`] does.
    pub fn bytes_of_rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        match &tensor.origin {
            // one row
            Origin::Made(bytes) => Ok(Cow::Owned(bytes.clone())),
            Origin::Stored(stored) if stored.ty == tensor.ty && !stored.transform.computes() => {
                Ok(Cow::Owned(self.stored_rows(tensor, stored, rows)?))
            }
            Origin::Stacked(parts) if parts[0].ty == tensor.ty => {
                Ok(Cow::Owned(self.stacked_rows(tensor, parts, rows)?))
            }
            Origin::Stored(_) | Origin::Stacked(_) => {
                let values = self.decode(tensor, rows)?;
                Ok(Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect()))
            }
        }
    }

    /// Rows of a tensor as f32: `[rows.len(), cols]`.
    ///
    /// Fails, naming the tensor, on a NaN or an infinity, on rows past the end, and on a type that has no decoder.
    pub fn f32_rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<f32>> {
        let values = self.decode(tensor, rows.clone())?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(place) => bail!(
                "tensor `{}` holds a weight that is not a number ({}) at row {}, column {}: `{}`",
                tensor.name,
                values[place],
                rows.start + place / tensor.cols,
                place % tensor.cols,
                self.path.display()
            ),
        }
    }

    fn decode(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<f32>> {
        if rows.start > rows.end || rows.end > tensor.rows {
            bail!("tensor `{}` has {} rows, not {rows:?}", tensor.name, tensor.rows);
        }
        let mut values = vec![0.0; rows.len() * tensor.cols];
        let (ty, bytes) = match &tensor.origin {
            Origin::Made(bytes) => (GgmlType::F32, Cow::Borrowed(&bytes[..values.len() * 4])),
            Origin::Stored(stored) => (stored.ty, Cow::Owned(self.stored_rows(tensor, stored, rows)?)),
            Origin::Stacked(parts) => (parts[0].ty, Cow::Owned(self.stacked_rows(tensor, parts, rows)?)),
        };
        quant::decode(ty, &bytes, &mut values).with_context(|| format!("cannot read tensor `{}`", tensor.name))?;
        if let Origin::Stored(stored) = &tensor.origin {
            match stored.transform {
                Transform::AddOne => values.iter_mut().for_each(|value| *value = plus_one(*value, ty)),
                Transform::MinusExp => values.iter_mut().for_each(|value| *value = minus_exp(*value, ty)),
                _ => {}
            }
        }
        Ok(values)
    }

    /// Rows of a stack in the type that its container has.
    fn stacked_rows(&self, tensor: &Tensor, parts: &[StoredAs], mut rows: Range<usize>) -> Result<Vec<u8>> {
        let (of_each, row_bytes) = (tensor.rows / parts.len(), parts[0].ty.bytes_for(tensor.cols as u64) as usize);
        let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
        while !rows.is_empty() {
            let (part, first) = (rows.start / of_each, rows.start % of_each);
            let count = rows.len().min(of_each - first);
            let range = (first * row_bytes) as u64..((first + count) * row_bytes) as u64;
            bytes.extend(self.container.read(parts[part].index, range)?);
            rows.start += count;
        }
        Ok(bytes)
    }

    /// Rows of a tensor in the type that its container has.
    fn stored_rows(&self, tensor: &Tensor, stored: &StoredAs, rows: Range<usize>) -> Result<Vec<u8>> {
        let read = |bytes: Range<usize>| self.container.read(stored.index, bytes.start as u64..bytes.end as u64);
        let StoredAs { ty, transform, .. } = *stored;
        Rearranged { transform, dims: &tensor.dims, ty, read: &read }.rows(rows)
    }

    /// Fails unless every required tensor is there and every known one has its shape; warns of tensors that are not
    /// known.
    pub(super) fn check_shapes(&self, expected: &[Expected]) -> Result<()> {
        for Expected { name, dims, required } in expected {
            match self.tensor(name) {
                None if *required => bail!("the model has no tensor `{name}`"),
                Some(tensor) if !same_shape(&tensor.dims, dims) => {
                    bail!("tensor `{name}` has shape {:?} where the metadata say {dims:?} (columns first)", tensor.dims)
                }
                _ => {}
            }
        }
        let known: HashSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
        let unknown: Vec<&str> =
            self.tensors.iter().map(|tensor| tensor.name.as_str()).filter(|name| !known.contains(name)).collect();
        if !unknown.is_empty() {
            log::warn!(
                "unknown tensors take no part in the computation, {} of them: {} (`{}`)",
                unknown.len(),
                listing(unknown),
                self.path.display()
            );
        }
        Ok(())
    }

    /// Name, size and time of change of every file of weights, as far as the system tells: what [`Weights::fingerprint`] may not
    /// see.
    pub fn changed(&self) -> Vec<(OsString, u64, Option<SystemTime>)> {
        let is_weights = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
        let mut files: Vec<PathBuf> = match (self.path.read_dir(), SplitName::parse(&self.path)) {
            (Ok(folder), _) => folder.flatten().map(|entry| entry.path()).filter(is_weights).collect(),
            (Err(_), Some(split)) => (1..=split.count).map(|number| split.path(number)).collect(),
            (Err(_), None) => vec![self.path.clone()],
        };
        files.sort();
        let known = files.iter().filter_map(|path| Some((path.file_name()?.to_owned(), path.metadata().ok()?)));
        known.map(|(name, file)| (name, file.len(), file.modified().ok())).collect()
    }

    /// A hash of the model, from names, shapes, types, sizes and samples of the content: cheap for any size.
    ///
    /// Fails if a file no longer holds its tensors.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for tensor in &self.tensors {
            hasher.update(format!("{} {:?} {}\n", tensor.name, tensor.dims, tensor.ty).as_bytes());
            match &tensor.origin {
                Origin::Made(bytes) => drop(hasher.update(bytes)),
                Origin::Stored(stored) => {
                    let read = |range: Range<u64>| self.container.read(stored.index, range);
                    let elements = self.container.tensors()[stored.index].dims.iter().product();
                    hash_samples(&mut hasher, stored.ty.bytes_for(elements), read)?;
                }
                Origin::Stacked(parts) => {
                    let bytes = parts[0].ty.bytes_for(tensor.elements() / parts.len() as u64);
                    for part in parts {
                        hash_samples(&mut hasher, bytes, |range| self.container.read(part.index, range))?;
                    }
                }
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// Fails if the model cannot have as many layers as its hyper-parameters say: before anything is made for each of them.
pub(super) fn check_layers(hparams: &Hparams, tensors: usize) -> Result<()> {
    let layers = hparams.n_layer;
    if layers > tensors {
        bail!(
            "the model should have {layers} layers (`block_count`, `num_hidden_layers`), but holds {tensors} tensors"
        );
    }
    Ok(())
}

/// Samples of a tensor of `len` bytes: all of a small one, else evenly spaced pages, with the first and the last.
fn hash_samples(hasher: &mut blake3::Hasher, len: u64, read: impl Fn(Range<u64>) -> Result<Vec<u8>>) -> Result<()> {
    const PAGE: u64 = 4096;
    const PAGES: u64 = 8;
    hasher.update(&len.to_le_bytes());
    if len <= PAGE * PAGES {
        hasher.update(&read(0..len)?);
        return Ok(());
    }
    for page in 0..PAGES {
        let start = (len - PAGE) / (PAGES - 1) * page;
        hasher.update(&read(start..start + PAGE)?);
    }
    hasher.update(&read(len - PAGE..len)?);
    Ok(())
}

/// Shapes are the same if they differ in trailing dimensions of 1 only.
fn same_shape(a: &[u64], b: &[u64]) -> bool {
    let dim = |dims: &[u64], place: usize| dims.get(place).copied().unwrap_or(1);
    (0..a.len().max(b.len())).all(|place| dim(a, place) == dim(b, place))
}
