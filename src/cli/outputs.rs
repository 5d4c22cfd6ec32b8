//! Checks of what a command will write that need not wait for hours of work.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use same_file::Handle;

use crate::gguf::SplitName;
use crate::whole_file::{WholeFile, folder_of, resolved};

/// Folders in folders that are searched for inputs.
const MAX_DEPTH: usize = 16;

/// Fails if one of `outputs` cannot be written, is another one by another name, or is one of `inputs` or a file of a model
/// among them.
pub fn check<'a>(outputs: &[PathBuf], inputs: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let targets: Vec<PathBuf> = outputs.iter().map(|output| writable(output)).collect::<Result<_>>()?;
    let identities: Vec<Identity> = targets.iter().map(|target| Identity::of(target)).collect::<Result<_>>()?;
    for (index, identity) in identities.iter().enumerate() {
        if let Some(other) = identities[..index].iter().position(|other| other == identity) {
            bail!("two outputs are one file: `{}` and `{}`", outputs[other].display(), outputs[index].display());
        }
    }
    for input in inputs {
        for ((output, target), identity) in outputs.iter().zip(&targets).zip(&identities) {
            ensure!(!is_among(target, identity, input), "the output would overwrite the input: `{}`", output.display());
        }
    }
    Ok(())
}

/// Fails if an output has the name that a folder of the same command will get.
pub fn check_folder(outputs: &[PathBuf], folder: Option<&Path>) -> Result<()> {
    let Some(folder) = folder else { return Ok(()) };
    let clash = outputs.iter().find(|output| std::path::absolute(output).ok() == std::path::absolute(folder).ok());
    clash.map_or(Ok(()), |output| bail!("the output and the work folder are the same: `{}`", output.display()))
}

/// The file that an output stands for, after a temporary file was made beside it.
fn writable(output: &Path) -> Result<PathBuf> {
    let shown = output.display();
    let target = resolved(output).map_err(|error| error.context(format!("cannot write the output: `{shown}`")))?;
    if let Err(error) = WholeFile::create(output) {
        bail!("cannot write into the folder of the output: `{shown}` ({error:#})");
    }
    Ok(target)
}

/// What makes two names the same file.
#[derive(PartialEq)]
enum Identity {
    /// There is a file, by whatever name.
    File(Handle),
    /// There will be one: its folder, and its name as the file system compares it.
    Name(Handle, String),
}

impl Identity {
    fn of(target: &Path) -> Result<Identity> {
        let look = || -> std::io::Result<Identity> {
            if target.exists() {
                return Ok(Identity::File(Handle::from_path(target)?));
            }
            let folder = folder_of(target);
            let name = target.file_name().unwrap_or_default().to_string_lossy();
            let name = if ignores_case(folder) { name.to_lowercase() } else { name.into_owned() };
            Ok(Identity::Name(Handle::from_path(folder)?, name))
        };
        look().with_context(|| format!("cannot look at the output: `{}`", target.display()))
    }
}

/// Whether names in a folder differ by more than case, as far as that can be found out.
fn ignores_case(folder: &Path) -> bool {
    let probe = tempfile::Builder::new().prefix(".dq-gpu-case-").rand_bytes(6).tempfile_in(folder);
    probe.is_ok_and(|probe| {
        let name = probe.path().file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        folder.join(name).exists()
    })
}

/// Whether an output is a file that the command reads.
fn is_among(target: &Path, identity: &Identity, input: &Path) -> bool {
    if let Some(split) = SplitName::parse(input) {
        return (1..=split.count).any(|number| is_same(target, identity, &split.path(number)));
    }
    if input.is_dir() { is_inside(identity, input, MAX_DEPTH) } else { is_same(target, identity, input) }
}

/// The same file, or the same name of one that is not there.
fn is_same(target: &Path, identity: &Identity, file: &Path) -> bool {
    match identity {
        Identity::File(handle) => Handle::from_path(file).is_ok_and(|other| other == *handle),
        Identity::Name(..) => {
            !file.exists() && Identity::of(file).is_ok_and(|other| other == *identity) || target == file
        }
    }
}

/// Whether an output is a file of a folder that is read. A GGUF beside the weights of a model is not read, so an older one may be
/// replaced.
fn is_inside(identity: &Identity, folder: &Path, depth: usize) -> bool {
    let (Identity::File(handle), Ok(entries)) = (identity, folder.read_dir()) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return depth > 0 && is_inside(identity, &path, depth - 1);
        }
        let is_read = path.extension().is_none_or(|extension| extension != "gguf");
        // links are followed: the file behind one is the input
        is_read
            && fs::metadata(&path).is_ok_and(|file| file.is_file())
            && Handle::from_path(&path).is_ok_and(|other| other == *handle)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_must_be_writable_and_no_input() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("texts")).unwrap();
        for name in ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "model.safetensors", "old.gguf", "texts/a.txt"] {
            fs::write(at(name), "x").unwrap();
        }
        let check = |output: PathBuf, input: PathBuf| check(&[output], [&input]).map_err(|e| format!("{e:#}"));
        let model = folder.path().to_owned();
        assert_eq!(check(at("new.gguf"), at("old.gguf")), Ok(()));
        assert_eq!(check(at("old.gguf"), model.clone()), Ok(()));
        let overwrites = |output: &str, input: PathBuf| {
            let refusal = check(at(output), input).unwrap_err();
            assert!(refusal.starts_with("the output would overwrite the input: `"), "{refusal}");
        };
        overwrites("old.gguf", at("old.gguf"));
        overwrites("m-00002-of-00003.gguf", at("m-00001-of-00003.gguf"));
        overwrites("m-00003-of-00003.gguf", at("m-00001-of-00003.gguf"));
        overwrites("./texts/../model.safetensors", model.clone());
        overwrites("texts/a.txt", model.clone());
        fs::hard_link(at("model.safetensors"), at("texts/hard")).unwrap();
        overwrites("texts/hard", at("model.safetensors"));
        assert!(check(at("none/new.gguf"), model.clone()).unwrap_err().contains("does not exist"));
        assert!(check(model.clone(), at("old.gguf")).unwrap_err().contains("is a folder"));
        assert!(check(at(&"n".repeat(256)), at("old.gguf")).unwrap_err().contains("too long"));
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 5, "a check leaves files behind");
    }

    #[test]
    fn two_names_of_one_file_are_two_outputs_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("in")).unwrap();
        fs::write(at("there"), "x").unwrap();
        fs::hard_link(at("there"), at("hard")).unwrap();
        let one = |a: &str, b: &str| check(&[at(a), at(b)], []).map_err(|error| error.to_string());
        assert_eq!(one("a", "b"), Ok(()));
        assert_eq!(one("in/a", "a"), Ok(()));
        for (a, b) in [("a", "./a"), ("a", "in/../a"), ("there", "hard")] {
            assert!(one(a, b).unwrap_err().starts_with("two outputs are one file: `"), "{a} {b}");
        }
        assert_eq!(one("a", "A").is_err(), ignores_case(folder.path()));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("a", at("link")).unwrap();
            std::os::unix::fs::symlink("in", at("also")).unwrap();
            assert!(one("a", "link").is_err() && one("in/a", "also/a").is_err());
        }
        assert!(check_folder(&[at("a")], Some(&at("./a"))).is_err());
    }
}
