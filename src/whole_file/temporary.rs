//! Temporary names: which job they belong to, and how those of killed jobs are told from those in use.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{NamedTempFile, TempPath};

use super::folder_of;

/// The end of temporary names.
const SUFFIX: &str = ".part";

/// Bytes of an output's name that its temporary names repeat: with what is added they stay within the 255 of file systems.
const MAX_STEM: usize = 200;

/// Letters and digits that make a temporary name unique.
const RANDOM: usize = 6;

/// Tries to keep a new file from jobs that take it for a killed job's.
const TRIES: usize = 16;

/// Temporary files of this process.
static LIVING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn living() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new temporary file for the output `target`, after those of killed jobs are removed.
pub(super) fn beside(target: &Path) -> io::Result<(File, TempPath)> {
    // absolute, as the names of living files are kept
    let (folder, prefix) = (std::path::absolute(folder_of(target))?, prefix(target));
    sweep(&folder, &prefix);
    for _ in 0..TRIES {
        let made =
            tempfile::Builder::new().prefix(&prefix).suffix(SUFFIX).rand_bytes(RANDOM).make_in(&folder, |path| {
                let mut living = living();
                let file = open_new(path)?;
                living.insert(path.to_owned());
                Ok(file)
            })?;
        let (file, path) = NamedTempFile::into_parts(made);
        if is_claimed(&file, &path) {
            return Ok((file, path));
        }
        forget(&path);
    }
    Err(io::Error::other("other jobs remove its temporary file"))
}

/// The file is no longer one of this process's temporary files.
pub(super) fn forget(path: &Path) {
    living().remove(path);
}

/// Removes all temporary files of this process, which is about to end.
pub(crate) fn remove_all() {
    for path in living().iter() {
        // what cannot be removed now goes with the next run
        let _ = fs::remove_file(path);
    }
}

/// How the temporary names of an output begin.
fn prefix(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    if name.len() <= MAX_STEM && !name.contains(char::REPLACEMENT_CHARACTER) {
        return format!(".{name}.");
    }
    let end = (0..=MAX_STEM - 40).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    let hash = blake3::hash(target.file_name().unwrap_or_default().as_encoded_bytes()).to_hex();
    format!(".{}~{}.", &name[..end], &hash[..16])
}

/// Removes the temporary files of killed jobs for one output.
fn sweep(folder: &Path, prefix: &str) {
    let Ok(entries) = folder.read_dir() else { return };
    let is_temporary = |name: &str| {
        let random = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(SUFFIX));
        random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    };
    for entry in entries.flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && entry.file_name().to_str().is_some_and(is_temporary) && !living().contains(&entry.path()) {
            remove_if_left(&entry.path());
        }
    }
}

/// On Unix a living job holds a lock on its temporary files.
#[cfg(unix)]
fn remove_if_left(path: &Path) {
    let Ok(file) = File::open(path) else { return };
    if file.try_lock().is_ok() && fs::remove_file(path).is_ok() {
        log::info!("removed what a killed job had left: `{}`", path.display());
    }
}

#[cfg(unix)]
fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// Whether the file is locked, and still there: between its creation and the lock another job may have removed it.
#[cfg(unix)]
fn is_claimed(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match file.try_lock() {
        Ok(()) => file.metadata().is_ok_and(|file| fs::metadata(path).is_ok_and(|named| named.ino() == file.ino())),
        Err(fs::TryLockError::WouldBlock) => false,
        // a file system without locks: nobody can take one to remove it
        Err(fs::TryLockError::Error(_)) => true,
    }
}

/// Elsewhere a living job has its temporary files open in a way that forbids to remove them.
#[cfg(not(unix))]
fn remove_if_left(path: &Path) {
    if fs::remove_file(path).is_ok() {
        log::info!("removed what a killed job had left: `{}`", path.display());
    }
}

#[cfg(windows)]
fn open_new(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_SHARE_READ_WRITE: u32 = 1 | 2;
    OpenOptions::new().read(true).write(true).create_new(true).share_mode(FILE_SHARE_READ_WRITE).open(path)
}

#[cfg(not(any(unix, windows)))]
fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

#[cfg(not(unix))]
fn is_claimed(_: &File, _: &Path) -> bool {
    true
}
