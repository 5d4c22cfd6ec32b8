//! A Hugging Face folder: config.json and safetensors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::Model;
use super::container::{Container, Stored};
use super::general;
use super::weights::{Tensor, Weights};
use crate::arch::{self, Expected, Family, HfConfig, Hparams};
use crate::gguf::{Metadata, map_file};
use crate::quant::GgmlType;
use crate::tokenizer;

const INDEX_NAME: &str = "model.safetensors.index.json";

/// The safetensors files of a folder.
struct HfContainer {
    folder: PathBuf,
    maps: Vec<Mmap>,
    stored: Vec<Stored>,
    /// The file of each tensor, and its bytes in it.
    places: Vec<(usize, Range<usize>)>,
}

impl Container for HfContainer {
    fn path(&self) -> &Path {
        &self.folder
    }

    fn tensors(&self) -> &[Stored] {
        &self.stored
    }

    fn bytes(&self, index: usize) -> &[u8] {
        let (file, range) = &self.places[index];
        &self.maps[*file][range.clone()]
    }
}

impl HfContainer {
    /// Maps the files and reads their headers. Tensors come as llama.cpp's converter takes them: files by name, and
    /// in each file tensors by name.
    ///
    /// Fails on a missing or damaged file, and on tensors that the index and the files do not agree on.
    fn open(folder: &Path) -> Result<HfContainer> {
        let index = read_index(folder)?;
        let files = match &index {
            Some(index) => index.values().cloned().collect::<BTreeSet<_>>(),
            None => safetensors_files(folder)?,
        };
        let mut container =
            HfContainer { folder: folder.to_owned(), maps: Vec::new(), stored: Vec::new(), places: Vec::new() };
        for name in &files {
            container.add_file(name)?;
        }
        container.check_unique()?;
        if let Some(index) = &index {
            container.check_index(index)?;
        }
        Ok(container)
    }

    fn add_file(&mut self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        if !path.is_file() {
            bail!("a file of the model is missing: `{}`", path.display());
        }
        let map = map_file(&path)?;
        let damaged = |error| anyhow!("the safetensors file is cut short or damaged: `{}` ({error})", path.display());
        let (header_bytes, header) = SafeTensors::read_metadata(&map).map_err(damaged)?;
        // the header follows its own length, a u64
        let data_start = size_of::<u64>() + header_bytes;
        let tensors: BTreeMap<_, _> = header.tensors().into_iter().collect();
        for (tensor, info) in tensors {
            let Some(ty) = plain_type(info.dtype) else {
                bail!("tensor `{tensor}` has the unsupported type {:?}: `{}`", info.dtype, path.display());
            };
            let dims = info.shape.iter().rev().map(|&dim| dim as u64).collect();
            let (start, end) = info.data_offsets;
            self.stored.push(Stored { name: tensor, dims, ty });
            self.places.push((self.maps.len(), data_start + start..data_start + end));
        }
        self.maps.push(map);
        Ok(())
    }

    fn check_unique(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        match self.stored.iter().find(|stored| !names.insert(&stored.name)) {
            Some(stored) => bail!("two files hold tensor `{}`: `{}`", stored.name, self.folder.display()),
            None => Ok(()),
        }
    }

    /// Fails if a tensor is not where the index says.
    fn check_index(&self, index: &BTreeMap<String, String>) -> Result<()> {
        let files: Vec<&String> = index.values().collect::<BTreeSet<_>>().into_iter().collect();
        let found: HashMap<&str, &str> = self
            .stored
            .iter()
            .zip(&self.places)
            .map(|(stored, (file, _))| (stored.name.as_str(), files[*file].as_str()))
            .collect();
        for (tensor, file) in index {
            if found.get(tensor.as_str()) != Some(&file.as_str()) {
                bail!(
                    "tensor `{tensor}` is not in the file that the index names: `{}`",
                    self.folder.join(file).display()
                );
            }
        }
        Ok(())
    }
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

/// The file of each tensor, from the index of a model in several files.
fn read_index(folder: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let path = folder.join(INDEX_NAME);
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read: `{}`", path.display()))?;
    let json: Value =
        serde_json::from_str(&text).map_err(|error| anyhow!("cannot parse: `{}` ({error})", path.display()))?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| anyhow!("the index has no `weight_map`: `{}`", path.display()))?;
    let mut index = BTreeMap::new();
    for (tensor, file) in map {
        // a plain name: the index must not lead out of the folder
        let name = file.as_str().filter(|name| Path::new(name).file_name() == Some(name.as_ref()));
        let name =
            name.ok_or_else(|| anyhow!("the index names no file for tensor `{tensor}`: `{}`", path.display()))?;
        index.insert(tensor.clone(), name.to_owned());
    }
    Ok(Some(index))
}

/// Names of the safetensors files of a folder without an index.
fn safetensors_files(folder: &Path) -> Result<BTreeSet<String>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read the folder: `{}`", folder.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let files: BTreeSet<String> =
        names.filter(|name| name.starts_with("model") && name.ends_with(".safetensors")).collect();
    if files.is_empty() {
        bail!("the model folder has no `model*.safetensors`: `{}`", folder.display());
    }
    Ok(files)
}

/// Opens a folder as the GGUF that llama.cpp's converter would write.
pub(super) fn open(folder: &Path) -> Result<Model> {
    let config = HfConfig::read(folder)?;
    let family = arch::by_hf_architecture(config.architecture()?)
        .with_context(|| format!("cannot use the model: `{}`", folder.display()))?;
    let container = HfContainer::open(folder)?;
    let file_type = file_type(&container, family);
    let arch_metadata = family.metadata(&config, file_type)?;
    let hparams = hparams(family, &config, &arch_metadata)?;
    let tensors = tensors(&container, family, &config, &hparams)?;
    let metadata = metadata(folder, &config, family, arch_metadata, &tensors)?;
    let weights = Weights::new(metadata, tensors, Box::new(container));
    Ok(Model { weights, hparams, family })
}

fn hparams(family: &dyn Family, config: &HfConfig, metadata: &Metadata) -> Result<Hparams> {
    // the vocabulary is what config.json says; the embedding's shape is checked against it
    let vocabulary = config.size("vocab_size")? as usize;
    let hparams = family.hparams(metadata, &|_| Some(vocabulary));
    let mut hparams = hparams.with_context(|| format!("cannot use the model: `{}`", config.path().display()))?;
    if let Some(window) = family.config_window(config)? {
        hparams.window = Some(window);
    }
    Ok(hparams)
}

/// Parts of names that hold no weights; llama.cpp's converter drops them too.
const DROPPED: &[&str] = &[".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq"];

/// The container's tensors under their GGUF names, after those that are made from config.json.
///
/// Fails on a tensor that is missing or has another shape than config.json says; warns of one that is not known.
fn tensors(container: &HfContainer, family: &dyn Family, config: &HfConfig, hparams: &Hparams) -> Result<Vec<Tensor>> {
    let mut tensors: Vec<Tensor> =
        family.extra_tensors(config)?.iter().map(|extra| Tensor::made(extra.name.clone(), &extra.values)).collect();
    let mut expected: HashMap<String, Expected> =
        family.expected(hparams).into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    if !config.bool("tie_word_embeddings")?.unwrap_or(false) {
        expected.entry("output.weight".into()).and_modify(|output| output.required = true);
    }
    for (index, stored) in container.tensors().iter().enumerate() {
        if DROPPED.iter().any(|part| stored.name.ends_with(part)) {
            continue;
        }
        let known = family.gguf_name(&stored.name).and_then(|name| expected.remove(&name));
        let Some(Expected { name, dims, .. }) = known else {
            log::warn!("unknown tensor `{}` in `{}`: it is left out", stored.name, container.folder.display());
            continue;
        };
        check_shape(container, stored, &dims)?;
        let transform = family.transform(hparams, &name);
        let ty = kept_type(&name, stored);
        tensors.push(Tensor::stored(container, index, name, ty, transform)?);
    }
    let missing = expected.into_values().filter(|tensor| tensor.required).map(|tensor| tensor.name).min();
    match missing {
        None => Ok(tensors),
        Some(name) => {
            let name = family.hf_name(&name).unwrap_or(name);
            bail!("the model has no tensor `{name}`: `{}`", container.folder.display())
        }
    }
}

/// Fails unless a tensor has the shape that config.json gives it; `dims` are in ggml's order.
fn check_shape(container: &HfContainer, stored: &Stored, dims: &[u64]) -> Result<()> {
    if stored.dims == dims {
        return Ok(());
    }
    let shape = |dims: &[u64]| dims.iter().rev().copied().collect::<Vec<_>>();
    bail!(
        "tensor `{}` has shape {:?} where config.json says {:?}: `{}`",
        stored.name,
        shape(&stored.dims),
        shape(dims),
        container.folder.display()
    )
}

/// Vectors and norms become f32, as llama.cpp's converter has it; matrices keep their type.
fn kept_type(name: &str, stored: &Stored) -> GgmlType {
    let is_plain = stored.dims.len() <= 1 || name.ends_with("_norm.weight") || !name.ends_with(".weight");
    if is_plain { GgmlType::F32 } else { stored.ty }
}

/// The `general.file_type` of the type that holds most weights in matrices.
fn file_type(container: &HfContainer, family: &dyn Family) -> u32 {
    let weights = |ty: GgmlType| -> u64 {
        let matrices = container.stored.iter().filter(|stored| stored.ty == ty && stored.dims.len() > 1);
        matrices
            .filter(|stored| family.gguf_name(&stored.name).is_some())
            .map(|stored| stored.dims.iter().product::<u64>())
            .sum()
    };
    let types = [(GgmlType::F32, 0), (GgmlType::F16, 1), (GgmlType::BF16, 32)];
    let most = types.into_iter().max_by_key(|&(ty, _)| weights(ty));
    most.map_or(0, |(_, file_type)| file_type)
}

/// Everything that llama.cpp's converter writes, in its order.
fn metadata(
    folder: &Path,
    config: &HfConfig,
    family: &dyn Family,
    arch_metadata: Metadata,
    tensors: &[Tensor],
) -> Result<Metadata> {
    let parameters = tensors.iter().map(Tensor::elements).sum();
    let mut metadata = general::metadata(folder, config, family.architecture(), parameters)?;
    for (key, value) in arch_metadata.iter() {
        metadata.set(key, value.clone());
    }
    // `GGML_QNT_VERSION`
    metadata.set("general.quantization_version", 2u32);
    for (key, value) in tokenizer::gguf_metadata(folder, config.json(), config.size("vocab_size")? as usize)? {
        metadata.set(key, value);
    }
    Ok(metadata)
}
