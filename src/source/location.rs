//! What a path that should be a model says of it, and what to do where it is none.

use std::path::Path;

use anyhow::anyhow;

/// The repository whose snapshot a folder of the Hugging Face cache is, `org/name`: such a folder is named by a hash.
/// `folder` is canonical.
fn repository(folder: &Path) -> Option<String> {
    let snapshots = folder.parent().filter(|above| above.file_name().is_some_and(|name| name == "snapshots"))?;
    let name = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(name.replacen("--", "/", 1)).filter(|name| !name.is_empty())
}

/// The name of the model in a folder, perhaps with its organization before it. `folder` is canonical.
pub(super) fn model_id(folder: &Path) -> Option<String> {
    repository(folder).or_else(|| Some(folder.file_name()?.to_string_lossy().into_owned()))
}

/// The name of the model in a folder, without its organization. `folder` is canonical.
pub fn folder_name(folder: &Path) -> Option<String> {
    let id = model_id(folder)?;
    Some(id.rsplit_once('/').map_or(id.clone(), |(_, name)| name.to_owned()))
}

/// What to do about a path that does not exist, if it looks like the name of a model elsewhere.
pub fn download_hint(path: &Path) -> Option<String> {
    let (organization, name) = path.to_str()?.split_once('/')?;
    let is_plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let is_name = is_plain(organization) && is_plain(name) && !Path::new(organization).exists();
    is_name.then(|| {
        format!("no folder here has this name; a model of huggingface.co is downloaded first: `hf download {organization}/{name} --local-dir {name}`")
    })
}

/// What is wrong with a file that is no GGUF, where its name tells.
pub(super) fn not_a_gguf(path: &Path) -> Option<anyhow::Error> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if ends(&[".safetensors", ".safetensors.index.json"]) || name == "config.json" {
        return Some(anyhow!(
            "the file is a part of a model, give the folder that it is in, `{}`: `{}`",
            folder.display(),
            path.display()
        ));
    }
    if ends(&[".bin", ".pt", ".pth", ".ckpt"]) {
        return Some(anyhow!(
            "the file is no GGUF; a PyTorch model is saved as safetensors first (`save_pretrained` of transformers does), and then its folder is given: `{}`",
            path.display()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_named_by_their_repository() {
        let name = |folder: &str| (model_id(Path::new(folder)).unwrap(), folder_name(Path::new(folder)).unwrap());
        let both = |id: &str, name: &str| (id.to_owned(), name.to_owned());
        let hash = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(name(&format!("/c/models--Qwen--Qwen3-8B/snapshots/{hash}")), both("Qwen/Qwen3-8B", "Qwen3-8B"));
        assert_eq!(name(&format!("/c/models--gpt2/snapshots/{hash}")), both("gpt2", "gpt2"));
        assert_eq!(name("/models/Qwen3-8B"), both("Qwen3-8B", "Qwen3-8B"));
        assert_eq!(name(&format!("/snapshots/{hash}")), both(hash, hash));
    }

    #[test]
    fn names_of_models_elsewhere_are_known_by_their_form() {
        assert!(download_hint(Path::new("Qwen/Qwen3-8B")).unwrap().contains("hf download Qwen/Qwen3-8B"));
        for path in ["./Qwen3-8B", "/Qwen/Qwen3-8B", "Qwen3-8B", "../a", "a/b/c", "src/nothing"] {
            assert_eq!(download_hint(Path::new(path)), None, "{path}");
        }
    }
}
