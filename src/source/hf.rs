//! A Hugging Face folder: config.json and safetensors.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::Model;
use super::checkpoint::{Checkpoint, listing, no_config};
use super::container::{Container, Stored};
use super::general;
use super::naming::Parameters;
use super::safetensors::SafetensorsContainer;
use super::stacks::{Stacks, Whole};
use super::weights::{Tensor, Weights, check_layers};
use crate::arch::{self, Expected, Family, HfConfig, Hparams, Place};
use crate::files::InputFile;
use crate::gguf::{Metadata, TensorPlan};
use crate::quant::GgmlType;
use crate::tokenizer;

/// Opens a folder as the GGUF that llama.cpp's converter would write.
pub(super) fn open(folder: &Path) -> Result<Model> {
    let Some(config) = HfConfig::read(folder)? else { bail!(no_config(folder)) };
    let family = arch::by_hf_architecture(config.architecture()?)
        .with_context(|| format!("cannot use the model: `{}`", folder.display()))?;
    let config = config.with_defaults(&family.config_defaults());
    let container = SafetensorsContainer::open(folder, &Checkpoint::find(folder)?)?;
    let file_type = file_type(&container, family);
    let arch_metadata = family.metadata(&config, file_type)?;
    let hparams = hparams(family, &config, &arch_metadata)?;
    let tensors = tensors(&container, family, &config, &hparams).map_err(|error| explained(error, &config))?;
    if let Some(method) = config.quantization().filter(|_| !container.is_packed()) {
        log::warn!(
            "config.json tells of {method} weights, but all are there in full precision: `{}`",
            folder.display()
        );
    }
    let metadata = metadata(folder, &config, family, arch_metadata, &tensors)?;
    let weights = Weights::new(metadata, tensors, Box::new(container));
    Ok(Model { weights, hparams, family })
}

/// An error about tensors, with the reason where the config has it.
fn explained(error: anyhow::Error, config: &HfConfig) -> anyhow::Error {
    match config.quantization() {
        None => error,
        Some(method) => error.context(format!(
            "the weights are quantized already, by {method}, which cannot be read: take the full-precision model that they were made from"
        )),
    }
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

/// Where a Hugging Face tensor goes. Models saved without their head lack the prefix (Qwen3-Embedding, for one), the text part of
/// multimodal ones has another.
fn places(family: &dyn Family, name: &str) -> Vec<Place> {
    let name = name.replace("language_model.", "");
    let places = family.places(&name);
    if places.is_empty() { family.places(&format!("model.{name}")) } else { places }
}

/// Whether a Hugging Face tensor becomes this GGUF tensor.
fn becomes(family: &dyn Family, name: &str, tensor: &str) -> bool {
    places(family, name).iter().any(|place| place.tensor == tensor)
}

/// Parts of names of what llama.cpp keeps in a file of its own: what makes embeddings of images and sound.
const OTHER_SENSES: &[&str] = &["vision_", "vision.", "visual.", "audio_", "audio.", "projector."];

fn is_of_other_senses(name: &str) -> bool {
    OTHER_SENSES.iter().any(|part| name.contains(part))
}

/// Whether a tensor is of a layer that config.json does not count.
fn is_behind_layers(name: &str, layers: usize) -> bool {
    let layer = name.split_once("layers.").and_then(|(_, rest)| rest.split_once('.')?.0.parse::<usize>().ok());
    layer.is_some_and(|layer| layer >= layers)
}

/// Whether a tensor holds no weights in any model.
fn is_dropped(name: &str) -> bool {
    DROPPED.iter().any(|part| format!(".{name}").ends_with(part))
}

/// The container's tensors under their GGUF names, after those that are made from config.json.
///
/// Fails on a tensor that is missing or has another shape than config.json says; warns of those that are not known.
fn tensors(
    container: &SafetensorsContainer,
    family: &dyn Family,
    config: &HfConfig,
    hparams: &Hparams,
) -> Result<Vec<Tensor>> {
    let shown = container.folder.display();
    check_layers(hparams, container.count()).with_context(|| format!("cannot use the model: `{shown}`"))?;
    let mut tensors: Vec<Tensor> =
        family.extra_tensors(config)?.iter().map(|extra| Tensor::made(extra.name.clone(), &extra.values)).collect();
    let mut expected: HashMap<String, Expected> =
        family.expected(hparams).into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let is_tied = config.bool("tie_word_embeddings")?.unwrap_or(false);
    let is_repeated = is_tied && repeats_embedding(container, family)?;
    let (mut unknown, mut other_senses, mut ahead, mut stacks) = (Vec::new(), 0, 0, Stacks::default());
    for (index, stored) in container.tensors().iter().enumerate().filter(|(_, stored)| !is_dropped(&stored.name)) {
        if is_repeated && becomes(family, &stored.name, OUTPUT) {
            continue;
        }
        let mut is_known = false;
        for place in &places(family, &stored.name) {
            let Some(whole) = expected.get(&place.tensor) else { continue };
            if place.index.is_some() {
                let Some(dims) = stacks.put(place, whole, (index, &stored.name)) else { continue };
                check_shape(container, stored, &dims, false)?;
                for Whole { name, parts } in stacks.take_layer(&place.tensor) {
                    expected.remove(&name);
                    tensors.push(stacked(container, name, &parts)?);
                }
            } else {
                let transform = family.transform(hparams, &whole.name);
                // packed ones have rows where others have columns
                let transform = if stored.ty.is_quantized() { transform.by_rows() } else { transform };
                check_shape(container, stored, &transform.source_dims(&whole.dims), transform.flattens())?;
                let ty = kept_type(&whole.name, stored);
                let Expected { name, dims, .. } = expected.remove(&place.tensor).expect("it was just seen");
                tensors.push(Tensor::stored(container, index, TensorPlan { name, dims, ty }, transform)?);
            }
            is_known = true;
        }
        if !is_known {
            match &stored.name {
                name if is_of_other_senses(name) => other_senses += 1,
                name if is_behind_layers(name, hparams.n_layer) => ahead += 1,
                name => unknown.push(name),
            }
        }
    }
    for (name, dtype) in container.odd.iter().filter(|(name, _)| !is_dropped(name)) {
        let is_needed = places(family, name).iter().any(|place| expected.contains_key(&place.tensor));
        ensure!(!is_needed, "tensor `{name}` has the unsupported type {dtype:?}: `{shown}`");
        unknown.push(name);
    }
    if let Some(place) = stacks.missing() {
        bail!("the model has no tensor `{}`: `{shown}`", family.hf_name(&place).unwrap_or(place.tensor));
    }
    let missing = expected.into_values().filter(|tensor| tensor.required).map(|tensor| tensor.name).min();
    if let Some(name) = missing {
        bail!(
            "the model has no tensor `{}`: `{shown}`",
            family.hf_name(&Place { tensor: name.clone(), index: None }).unwrap_or(name)
        );
    }
    let has_output = tensors.iter().any(|tensor| tensor.name == OUTPUT);
    ensure!(
        is_tied || has_output,
        "the model has no tensor `lm_head.weight`, and config.json does not tie the output to the embedding; \
         if it is tied, set `tie_word_embeddings` to true there: `{shown}`"
    );
    if other_senses > 0 {
        log::warn!(
            "only the text part is taken: {other_senses} tensors for images or sound are left out; llama.cpp's converter makes a file of \
             them (`--mmproj`) that goes with this one: `{shown}`"
        );
    }
    if ahead > 0 {
        log::warn!(
            "{ahead} tensors of layers behind the {} of config.json are left out, such as those that predict tokens further ahead: `{shown}`",
            hparams.n_layer
        );
    }
    if !unknown.is_empty() {
        log::warn!("unknown tensors are left out, {} of them: {} (`{shown}`)", unknown.len(), listing(unknown));
    }
    Ok(tensors)
}

const OUTPUT: &str = "output.weight";

/// The container's tensors `parts`, one upon the other.
fn stacked(container: &SafetensorsContainer, name: String, parts: &[usize]) -> Result<Tensor> {
    let stored = |part: usize| &container.tensors()[part];
    let first = stored(parts[0]);
    if let Some(other) = parts.iter().map(|part| stored(*part)).find(|stored| stored.ty != first.ty) {
        bail!(
            "experts of one layer differ in type: `{}` is {}, `{}` is {} (`{}`)",
            first.name,
            first.ty,
            other.name,
            other.ty,
            container.folder.display()
        );
    }
    let ty = kept_type(&name, first);
    Tensor::stacked(container, parts, name, ty)
}

/// Whether a model whose output is tied has the embedding a second time, as its output. What is there and differs counts, as in
/// transformers.
fn repeats_embedding(container: &SafetensorsContainer, family: &dyn Family) -> Result<bool> {
    /// Bytes that are compared at once.
    const STEP: u64 = 32 << 20;
    let find = |wanted: &str| container.tensors().iter().position(|stored| becomes(family, &stored.name, wanted));
    let (Some(output), Some(embedding)) = (find(OUTPUT), find("token_embd.weight")) else { return Ok(false) };
    let (a, b) = (&container.tensors()[output], &container.tensors()[embedding]);
    let bytes = a.ty.bytes_for(a.dims.iter().product());
    let mut is_same = (a.ty, &a.dims) == (b.ty, &b.dims);
    for start in (0..bytes).step_by(STEP as usize) {
        let range = start..(start + STEP).min(bytes);
        is_same = is_same && container.read(output, range.clone())? == container.read(embedding, range)?;
    }
    let shown = container.folder.display();
    match is_same {
        true => {
            log::info!("`{}` repeats the embedding, to which config.json ties it: it is left out (`{shown}`)", a.name)
        }
        false => log::warn!(
            "config.json ties the output to the embedding, but `{}` is there and differs: it is used as it is (`{shown}`)",
            a.name
        ),
    }
    Ok(is_same)
}

/// Fails unless a tensor has the shape that config.json gives it; `dims` are in ggml's order. One that is `flat` may have its stack as
/// rows of one matrix.
fn check_shape(container: &SafetensorsContainer, stored: &Stored, dims: &[u64], flat: bool) -> Result<()> {
    let flattened = |dims: &[u64]| (dims.first().copied(), dims.iter().skip(1).product::<u64>());
    if stored.dims == dims || flat && flattened(&stored.dims) == flattened(dims) {
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

/// Vectors, norms and routers become f32, as llama.cpp's converter has it; matrices keep their type.
fn kept_type(name: &str, stored: &Stored) -> GgmlType {
    let is_plain = stored.dims.len() <= 1
        || name.ends_with("_norm.weight")
        || name.ends_with("ffn_gate_inp.weight")
        || name.ends_with("ffn_gate_inp_shexp.weight")
        || name.ends_with("ssm_conv1d.weight")
        || !name.ends_with(".weight");
    if is_plain { GgmlType::F32 } else { stored.ty }
}

/// The `general.file_type` of the type that holds most weights in matrices.
fn file_type(container: &SafetensorsContainer, family: &dyn Family) -> u32 {
    let weights = |ty: GgmlType| -> u64 {
        let matrices = container.tensors().iter().filter(|stored| stored.ty == ty && stored.dims.len() > 1);
        matrices
            .filter(|stored| !places(family, &stored.name).is_empty())
            .map(|stored| stored.dims.iter().product::<u64>())
            .sum()
    };
    let types = [(GgmlType::F32, 0), (GgmlType::F16, 1), (GgmlType::BF16, 32), (GgmlType::MXFP4, 38)];
    let most = types.into_iter().max_by_key(|&(ty, _)| weights(ty));
    most.map_or(0, |(_, file_type)| file_type)
}

/// Files of a folder that the tokenizer may read.
const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Fails if one of the files that the tokenizer may read is none of the folder, or no regular file.
fn check_tokenizer_files(folder: &Path) -> Result<()> {
    let additional = folder.join("additional_chat_templates");
    let templates = additional.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let templates = templates.filter(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    for path in TOKENIZER_FILES.iter().map(|name| folder.join(name)).chain(templates) {
        InputFile::member_of(folder, &path)?;
    }
    Ok(())
}

/// Everything that llama.cpp's converter writes, in its order.
fn metadata(
    folder: &Path,
    config: &HfConfig,
    family: &dyn Family,
    arch_metadata: Metadata,
    tensors: &[Tensor],
) -> Result<Metadata> {
    let mut metadata = general::metadata(folder, config, family.architecture(), &Parameters::of(tensors))?;
    for (key, value) in arch_metadata.iter() {
        metadata.set(key, value.clone());
    }
    // `GGML_QNT_VERSION`
    metadata.set("general.quantization_version", 2u32);
    check_tokenizer_files(folder)?;
    for (key, value) in tokenizer::gguf_metadata(folder, config.json(), config.size("vocab_size")? as usize)? {
        metadata.set(key, value);
    }
    Ok(metadata)
}
