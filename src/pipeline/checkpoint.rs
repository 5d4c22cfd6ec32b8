//! What is done, kept in a folder, so that the same command goes on from there after it was stopped.
//!
//! Results have names made from what they depend on: another model, text or option finds nothing and starts anew.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
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

/// The file that a job locks for as long as it uses the folder. It holds who that is.
const LOCK: &str = "lock";
/// Bytes that are read of who uses a folder.
const MAX_OWNER: u64 = 4096;
/// Bytes of a tensor's name in the name of its file.
const MAX_STEM: usize = 200;

/// Finished steps in a folder; without one nothing is kept.
#[derive(Default)]
pub struct Checkpoints {
    folder: Option<PathBuf>,
    /// Keeps the folder for this job.
    _lock: Option<File>,
    /// Folders of rounded tensors that this run has used.
    rounded: Mutex<BTreeSet<PathBuf>>,
}

impl Checkpoints {
    /// Makes the folder unless it is there, and keeps other jobs out of it: they would remove each other's steps.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the work folder: `{}`", folder.display()))?;
        Ok(Checkpoints { folder: Some(folder.to_owned()), _lock: Some(lock(folder)?), ..Checkpoints::default() })
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

/// Takes the folder for this process, until the file is closed or the process ends in whatever way.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let cannot = || format!("cannot use the work folder: `{}`", folder.display());
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).with_context(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // where a lock forbids to read, the owner stays unnamed
            let _ = file.take(MAX_OWNER).read_to_string(&mut owner);
            let owner = if owner.is_empty() { "another process".to_owned() } else { owner };
            bail!("another job uses the work folder: `{}` ({owner})", folder.display());
        }
        Err(TryLockError::Error(error)) => log::debug!("no lock: `{}` ({error})", path.display()),
    }
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let owner = format!("process {}: {}", std::process::id(), arguments.collect::<Vec<_>>().join(" "));
    file.set_len(0).and_then(|()| file.write_all(owner.as_bytes())).with_context(cannot)?;
    Ok(file)
}

/// `name` as a file name on every system: what is not a small letter, digit, `.`, `_` or `-` is escaped, so that no name leaves the
/// folder and none differ by case alone.
fn file_name(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => escaped.push(byte.into()),
            // writing to a String cannot fail
            _ => _ = write!(escaped, "%{byte:02x}"),
        }
    }
    if escaped.len() <= MAX_STEM {
        return escaped;
    }
    // it is ASCII, so it can be cut anywhere
    format!("{}~{}", &escaped[..MAX_STEM - 40], &blake3::hash(name.as_bytes()).to_hex()[..32])
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
        self.folder.join(format!("{}.bin", file_name(name)))
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
        let kept = || {
            let files = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
            files.filter(|path| path.file_name().unwrap() != LOCK).collect::<Vec<_>>()
        };
        assert_eq!(kept().len(), 0);
        assert_eq!(made(&checkpoints, &checkpoints.key(), 1.0), 1.0);
        let file = kept()[0].clone();
        let mut bytes = fs::read(&file).unwrap();
        bytes[2] ^= 1;
        for damaged in [&bytes[..], &bytes[..3], &[]] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(made(&checkpoints, &checkpoints.key(), 2.0), 2.0);
        }
        assert_eq!(made(&checkpoints, &checkpoints.key(), 3.0), 2.0);
    }

    #[test]
    fn one_job_uses_a_folder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Checkpoints::open(folder.path()).unwrap();
        let refusal = Checkpoints::open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(refusal.starts_with("another job uses the work folder: `"), "{refusal}");
        #[cfg(unix)]
        assert!(refusal.contains(&format!("(process {}: ", std::process::id())), "{refusal}");
        drop(first);
        Checkpoints::open(folder.path()).unwrap();
    }

    #[test]
    fn names_of_tensors_stay_in_the_folder() {
        assert_eq!(file_name("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
        assert_eq!(file_name("../Ü\\A\u{1b}"), "..%2f%c3%9c%5c%41%1b");
        assert_ne!(file_name("a"), file_name("A").to_lowercase());
        let long = |end: &str| file_name(&("/".repeat(500) + end));
        assert!(long("a").len() <= MAX_STEM && long("a") != long("b"));
    }
}
