//! Which files of a Hugging Face folder hold its weights, and what a folder is that has none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value as Json;

use crate::{files, json};

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The files of one set of weights.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) files: BTreeSet<String>,
    /// The file of each tensor, where the folder says so.
    pub(super) index: Option<BTreeMap<String, String>>,
}

impl Checkpoint {
    /// Chooses as transformers does: one whole file before an index; other variants of the weights (`model.fp16.safetensors`,
    /// `consolidated.safetensors`, `pytorch_model.bin`) count only where there is nothing else.
    pub(super) fn find(folder: &Path) -> Result<Checkpoint> {
        let names = names(folder)?;
        let index = read_index(folder)?;
        if names.contains(WHOLE) {
            let files = BTreeSet::from([WHOLE.to_owned()]);
            let index = index.filter(|index| {
                let is_stale = index.values().any(|file| file != WHOLE);
                if is_stale {
                    log::warn!(
                        "`{WHOLE}` holds the weights; the index beside it names other files: `{}`",
                        folder.display()
                    );
                }
                !is_stale
            });
            return Ok(Checkpoint { files, index });
        }
        if let Some(index) = index {
            return Ok(Checkpoint { files: index.values().cloned().collect(), index: Some(index) });
        }
        let mut sets: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for name in names.iter().filter(|name| name.starts_with("model")) {
            if let Some(stem) = name.strip_suffix(".safetensors") {
                sets.entry(shard_of(stem).map_or(stem, |(set, _)| set)).or_default().insert(name.clone());
            }
        }
        let complete = sets.values().filter(|files| is_complete(files));
        match complete.collect::<Vec<_>>().as_slice() {
            [files] => Ok(Checkpoint { files: (*files).clone(), index: None }),
            [] if sets.is_empty() => bail!(no_weights(folder, &names)),
            [] => bail!(
                "files of the model are missing, of its parts there are only {}: `{}`",
                listing(sets.values().flatten()),
                folder.display()
            ),
            [first, second, ..] => bail!(
                "the folder holds several sets of weights, and nothing says which counts ({}): `{}`",
                listing(first.iter().chain(*second)),
                folder.display()
            ),
        }
    }
}

/// Names of the files in the folder.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let cannot = || format!("cannot read the folder: `{}`", folder.display());
    let entries = folder.read_dir().with_context(cannot)?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// Of `model-00001-of-00003`: `model`, and the number of parts.
fn shard_of(stem: &str) -> Option<(&str, usize)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (set, number) = rest.rsplit_once('-')?;
    number.parse::<usize>().ok()?;
    Some((set, count.parse().ok()?))
}

/// Whether all parts are there.
fn is_complete(files: &BTreeSet<String>) -> bool {
    let parts = |file: &String| shard_of(file.strip_suffix(".safetensors")?).map(|(_, count)| count);
    files.iter().all(|file| parts(file).is_none_or(|count| count == files.len()))
}

/// The file of each tensor, from the index of a model in several files.
fn read_index(folder: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let path = folder.join(INDEX);
    let Some(text) = files::member_text(&path)? else { return Ok(None) };
    let json: Json =
        serde_json::from_str(&text).map_err(|error| anyhow!("cannot parse: `{}` ({error})", path.display()))?;
    let map = json.get("weight_map").and_then(Json::as_object);
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

/// What a folder without `config.json` is, if that can be told.
pub(super) fn no_config(folder: &Path) -> anyhow::Error {
    let names = names(folder).unwrap_or_default();
    if names.contains("adapter_config.json") {
        return adapter(folder);
    }
    let shown = folder.display();
    if let Some(gguf) = names.iter().find(|name| name.ends_with(".gguf")) {
        return anyhow!(
            "the folder has no config.json; to read a GGUF give its path, such as `{}`",
            folder.join(gguf).display()
        );
    }
    if names.contains("params.json") {
        return anyhow!(
            "the folder has no config.json but the params.json of the maker's own format: take the model in the format of Hugging Face: `{shown}`"
        );
    }
    anyhow!("the model folder has no config.json: `{shown}`")
}

fn no_weights(folder: &Path, names: &BTreeSet<String>) -> anyhow::Error {
    let shown = folder.display();
    if names.contains("adapter_config.json") {
        return adapter(folder);
    }
    let ends = |ends: &[&str]| names.iter().find(|name| ends.iter().any(|end| name.ends_with(end)));
    let none = "the model folder has no `model*.safetensors`";
    if let Some(name) = names.iter().find(|name| name.starts_with("consolidated") && name.ends_with(".safetensors")) {
        return anyhow!(
            "{none}, only `{name}` in the maker's own format: take the files in the format of Hugging Face: `{shown}`"
        );
    }
    if let Some(name) = ends(&[".bin", ".pt", ".pth", ".h5", ".msgpack", ".ckpt", ".npz"]) {
        return anyhow!(
            "{none}, only `{name}`: save the model as safetensors first (`save_pretrained` of transformers does): `{shown}`"
        );
    }
    if let Some(name) = ends(&[".gguf"]) {
        return anyhow!("{none}; to read a GGUF give its path, such as `{}`", folder.join(name).display());
    }
    anyhow!("{none}: `{shown}`")
}

fn adapter(folder: &Path) -> anyhow::Error {
    let text = files::member_text(&folder.join("adapter_config.json")).ok().flatten().unwrap_or_default();
    let config: Json = json::parse_settings(&text).unwrap_or_default();
    let base = config.get("base_model_name_or_path").and_then(Json::as_str);
    anyhow!(
        "the folder holds an adapter (LoRA), not a model: merge it into its base model{} first (`merge_and_unload` of peft), and give the merged folder: `{}`",
        base.map_or(String::new(), |base| format!(" `{base}`")),
        folder.display()
    )
}

/// The first names of a list, and how many more there are.
pub(crate) fn listing<T: std::fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 3;
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
