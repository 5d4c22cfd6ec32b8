//! What is done, kept in a folder, so that the same command goes on from there after it was stopped.
//!
//! Results have names made from what they depend on: another model, text or option finds nothing and starts anew.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::quant::GgmlType;
use crate::source::Tensor;
use crate::whole_file::write_whole;

/// What a result depends on; empty where nothing is kept.
#[derive(Clone)]
pub struct Key(Option<blake3::Hasher>);

impl Key {
    /// And on `value`.
    pub fn with(mut self, name: &str, value: impl Debug) -> Key {
        if let Some(hasher) = &mut self.0 {
            hasher.update(format!("{name} {value:?}\n").as_bytes());
        }
        self
    }

    /// And on all that is in `value`.
    pub fn with_content(mut self, name: &str, value: &impl Serialize) -> Result<Key> {
        if let Some(hasher) = &mut self.0 {
            hasher.update(name.as_bytes());
            rmp_serde::encode::write_named(hasher, value)?;
        }
        Ok(self)
    }

    fn name(&self) -> Option<String> {
        Some(self.0.as_ref()?.finalize().to_hex()[..16].to_string())
    }
}

/// Finished steps in a folder; without one nothing is kept.
#[derive(Default)]
pub struct Checkpoints {
    folder: Option<PathBuf>,
    /// Folders of rounded tensors that this run has used.
    rounded: Mutex<BTreeSet<PathBuf>>,
}

impl Checkpoints {
    /// Makes the folder unless it is there.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the work folder: `{}`", folder.display()))?;
        Ok(Checkpoints { folder: Some(folder.to_owned()), ..Checkpoints::default() })
    }

    /// Where keys begin: results of one build of the program are not those of another.
    pub fn key(&self) -> Key {
        let built = std::env::current_exe().and_then(fs::metadata).and_then(|file| file.modified()).ok();
        Key(self.folder.as_ref().map(|_| blake3::Hasher::new())).with("version", (env!("CARGO_PKG_VERSION"), built))
    }

    /// The result of `make`: kept from an earlier run, or made and kept now.
    pub fn step<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        key: &Key,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let Some((folder, key)) = self.folder.as_ref().zip(key.name()) else { return make() };
        let path = folder.join(format!("{name}-{key}.msgpack"));
        if let Some(bytes) = read(&path)? {
            match rmp_serde::from_slice(&bytes) {
                Ok(kept) => {
                    log::info!("kept from an earlier run: `{}`", path.display());
                    return Ok(kept);
                }
                Err(error) => log::warn!("damaged, so it is made again: `{}` ({error})", path.display()),
            }
        }
        let made = make()?;
        keep(&path, &rmp_serde::to_vec_named(&made)?)?;
        Ok(made)
    }

    /// Where the rounded tensors of one file are kept.
    pub fn rounded(&self, key: &Key) -> Option<KeptTensors> {
        let folder = self.folder.as_ref()?.join(format!("rounded-{}", key.name()?));
        self.rounded.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.clone());
        Some(KeptTensors { folder })
    }

    /// Removes the rounded tensors, which are in the finished files now; all else serves the next target.
    pub fn finish(&self) -> Result<()> {
        for folder in self.rounded.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove: `{}`", folder.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Rounded tensors, one file each.
pub struct KeptTensors {
    folder: PathBuf,
}

impl KeptTensors {
    /// The bytes of a tensor of type `ty`, if it is kept.
    pub fn read(&self, tensor: &Tensor, ty: GgmlType) -> Result<Option<Vec<u8>>> {
        let bytes = read(&self.path(&tensor.name))?;
        Ok(bytes.filter(|bytes| bytes.len() as u64 == ty.bytes_for(tensor.elements())))
    }

    pub fn keep(&self, tensor: &Tensor, bytes: &[u8]) -> Result<()> {
        keep(&self.path(&tensor.name), bytes)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.bin"))
    }
}

/// The content of a kept file; none if there is no such file or it is damaged.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read: `{}`", path.display())),
    };
    let content = bytes.len().saturating_sub(blake3::OUT_LEN);
    if blake3::hash(&bytes[..content]).as_bytes().as_slice() != &bytes[content..] {
        log::warn!("damaged, so it is made again: `{}`", path.display());
        return Ok(None);
    }
    bytes.truncate(content);
    Ok(Some(bytes))
}

/// Writes a file, its hash at the end, that appears only when it is complete.
fn keep(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().expect("a kept file is in a folder");
    let written = fs::create_dir_all(folder).map_err(Into::into).and_then(|()| {
        write_whole(path, |file| {
            file.write_all(bytes)?;
            Ok(file.write_all(blake3::hash(bytes).as_bytes())?)
        })
    });
    written.with_context(|| format!("cannot keep what is done: `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(checkpoints: &Checkpoints, key: &Key, value: f64) -> f64 {
        checkpoints.step("number", key, || Ok(value)).unwrap()
    }

    #[test]
    fn a_step_is_made_once_for_what_it_depends_on() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(folder.path()).unwrap();
        let key = checkpoints.key().with("seed", 1);
        assert_eq!(made(&checkpoints, &key, 0.1), 0.1);
        assert_eq!(made(&checkpoints, &key, 0.2), 0.1);
        assert_eq!(made(&checkpoints, &checkpoints.key().with("seed", 2), 0.3), 0.3);
        assert_eq!(made(&Checkpoints::default(), &key, 0.4), 0.4);
    }

    #[test]
    fn a_damaged_file_is_made_again_and_a_failure_keeps_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(folder.path()).unwrap();
        assert!(checkpoints.step::<f64>("number", &checkpoints.key(), || anyhow::bail!("stopped")).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(made(&checkpoints, &checkpoints.key(), 1.0), 1.0);
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let mut bytes = fs::read(&file).unwrap();
        bytes[2] ^= 1;
        for damaged in [&bytes[..], &bytes[..3], &[]] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(made(&checkpoints, &checkpoints.key(), 2.0), 2.0);
        }
        assert_eq!(made(&checkpoints, &checkpoints.key(), 3.0), 2.0);
    }
}
