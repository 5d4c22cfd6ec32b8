//! The `general.*` keys that llama.cpp's converter writes for a Hugging Face folder, in its order
//! (`gguf-py/gguf/metadata.py`).

use std::path::Path;
use std::sync::LazyLock;

use anyhow::Result;
use regex::Regex;
use serde_json::Value as Json;

use super::location::model_id;
use super::model_card::{Entry, ModelCard};
use super::naming::{NameParts, Parameters, title};
use crate::arch::HfConfig;
use crate::files::InputFile;
use crate::gguf::{Metadata, Value};
use crate::json;

static HF_URL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^https?://huggingface.co/([^/]+/[^/]+)$").expect("the pattern is a constant"));

/// The keys from `general.architecture` to `general.languages`.
///
/// Fails only if the folder's path cannot be resolved, or a file in it leads elsewhere.
pub(super) fn metadata(
    folder: &Path,
    config: &HfConfig,
    architecture: &str,
    parameters: &Parameters,
) -> Result<Metadata> {
    let card = ModelCard::read(folder)?;
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", architecture);
    metadata.set("general.type", "model");
    sampling(folder, &mut metadata)?;
    authorship(&card, &names(folder, config, parameters.total)?, parameters, &mut metadata);
    sources(&card, ["base_model", "base_models", "base_model_sources"], "base_model", parameters.total, &mut metadata);
    sources(&card, ["datasets", "dataset", "dataset_sources"], "dataset", parameters.total, &mut metadata);
    for (key, names) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        if let Some(values) = card.all(&names).filter(|values| !values.is_empty()) {
            metadata.set(format!("general.{key}"), values);
        }
    }
    Ok(metadata)
}

/// How a key of generation_config.json is stored.
enum Kind {
    Text,
    Whole,
    Number,
}

/// Keys under `general.sampling.`, and the names under which generation_config.json may have them.
const SAMPLING: &[(&str, &[&str], Kind)] = &[
    ("sequence", &["sequence"], Kind::Text),
    ("top_k", &["top_k"], Kind::Whole),
    ("top_p", &["top_p"], Kind::Number),
    ("min_p", &["min_p"], Kind::Number),
    ("xtc_probability", &["xtc_probability"], Kind::Number),
    ("xtc_threshold", &["xtc_threshold"], Kind::Number),
    ("temp", &["temperature"], Kind::Number),
    ("penalty_last_n", &["penalty_last_n"], Kind::Whole),
    ("penalty_repeat", &["penalty_repeat", "repetition_penalty"], Kind::Number),
    ("mirostat", &["mirostat"], Kind::Whole),
    ("mirostat_tau", &["mirostat_tau"], Kind::Number),
    ("mirostat_eta", &["mirostat_eta"], Kind::Number),
];

/// Recommended sampling, from generation_config.json; a missing or broken one has none.
fn sampling(folder: &Path, metadata: &mut Metadata) -> Result<()> {
    let file = InputFile::member(&folder.join("generation_config.json"))?;
    let text = file.and_then(|file| file.text().ok()).unwrap_or_default();
    let config: Json = json::parse_settings(&text).unwrap_or_default();
    for (key, names, kind) in SAMPLING {
        let found = names.iter().find_map(|name| config.get(name));
        let value = found.and_then(|found| match kind {
            Kind::Text => found.as_str().map(Value::from),
            Kind::Whole => found.as_i64().and_then(|whole| i32::try_from(whole).ok()).map(Value::from),
            Kind::Number => {
                found.as_f64().map(|number| number as f32).filter(|number| number.is_finite()).map(Value::from)
            }
        });
        if let Some(value) = value {
            metadata.set(format!("general.sampling.{key}"), value);
        }
    }
    Ok(())
}

/// The model's name taken apart: from config.json where that has one, then from the folder's name.
fn names(folder: &Path, config: &HfConfig, parameters: u64) -> Result<NameParts> {
    let from_config = config
        .get("_name_or_path")
        .and_then(Json::as_str)
        // more slashes make a path on somebody's computer
        .filter(|name| !name.is_empty() && name.matches('/').count() <= 1)
        .map(|name| NameParts::of(name, parameters))
        .unwrap_or_default();
    let folder = folder.canonicalize()?;
    let from_folder = NameParts::of(&model_id(&folder).unwrap_or_default(), parameters);
    let either = |a: Option<String>, b: Option<String>| a.or(b);
    Ok(NameParts {
        name: either(from_config.name, from_folder.name).map(|name| title(&name)),
        organization: either(from_config.organization, from_folder.organization).map(|name| title(&name)),
        basename: either(from_config.basename, from_folder.basename),
        finetune: either(from_config.finetune, from_folder.finetune),
        version: either(from_config.version, from_folder.version),
        size_label: either(from_config.size_label, from_folder.size_label),
    })
}

/// Who made the model, and what it is called. The card comes before what the names say.
fn authorship(card: &ModelCard, names: &NameParts, parameters: &Parameters, metadata: &mut Metadata) {
    let mut set = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            metadata.set(format!("general.{key}"), value);
        }
    };
    let carded = |keys: &[&str], named: &Option<String>| card.first(keys).map(str::to_owned).or(named.clone());
    set("name", carded(&["name", "model_name"], &names.name).as_deref());
    set("author", card.first(&["author", "model_author", "model_creator"]));
    set("version", carded(&["version", "model_version"], &names.version).as_deref());
    set("organization", carded(&["organization", "model_organization"], &names.organization).as_deref());
    set("finetune", carded(&["finetune", "model_finetune"], &names.finetune).as_deref());
    set("basename", carded(&["basename", "model_basename", "model_type"], &names.basename).as_deref());
    set("description", card.first(&["description", "model_description"]));
    let size = carded(&["size_label", "model_size_label"], &names.size_label);
    set("size_label", Some(&size.unwrap_or_else(|| parameters.label())));
    set("license", card.get("license").map(|entry| entry.values().join(",")).as_deref());
    set("license.name", card.first(&["license_name"]));
    set("license.link", card.first(&["license_link"]));
    set("source.url", card.first(&["url", "model_url"]));
    set("source.doi", card.first(&["doi", "model_doi"]));
    set("source.uuid", card.first(&["uuid", "model_uuid"]));
    set("source.repo_url", card.first(&["repo_url", "model_repo_url"]));
}

/// The models or datasets that this model was made from.
fn sources(card: &ModelCard, keys: [&str; 3], prefix: &str, parameters: u64, metadata: &mut Metadata) {
    let Some(ids) = keys.iter().find_map(|key| card.get(key)).map(Entry::values) else { return };
    metadata.set(format!("general.{prefix}.count"), ids.len() as u32);
    for (number, id) in ids.iter().enumerate() {
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                metadata.set(format!("general.{prefix}.{number}.{key}"), value);
            }
        };
        let is_url = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
        let in_hub = HF_URL.captures(id).map(|captures| captures[1].to_owned());
        let parts = match (is_url, in_hub) {
            (false, _) => NameParts::of(id, parameters),
            (true, Some(hub_id)) => NameParts::of(&hub_id, parameters),
            (true, None) => NameParts::default(),
        };
        let repo_url = match (&parts.organization, &parts.name) {
            _ if is_url => Some(id.clone()),
            (Some(organization), Some(name)) => Some(format!("https://huggingface.co/{organization}/{name}")),
            _ => None,
        };
        set("name", parts.name.as_deref().map(title));
        set("version", parts.version);
        set("organization", parts.organization.as_deref().map(title));
        set("repo_url", repo_url);
    }
}
