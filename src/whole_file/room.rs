//! Whether disks have room for what will be written, as far as systems tell.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{folder_of, resolved};

/// Fails if a disk is known to have too little room for `files` of the given sizes.
pub(crate) fn check_room<'a>(files: impl IntoIterator<Item = (&'a PathBuf, u64)>) -> Result<()> {
    let mut folders: Vec<(PathBuf, u64)> = Vec::new();
    for (file, bytes) in files {
        let target = resolved(file).with_context(|| format!("cannot write the file: `{}`", file.display()))?;
        let folder = folder_of(&target);
        match folders.iter_mut().find(|(known, _)| known == folder) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => folders.push((folder.to_owned(), bytes)),
        }
    }
    folders.iter().try_for_each(|(folder, bytes)| check_folder(folder, *bytes))
}

/// Fails if `folder` is known to have no room for so many bytes.
pub(crate) fn check_folder(folder: &Path, bytes: u64) -> Result<()> {
    // a system that does not tell is believed to have room
    let Ok(free) = fs4::available_space(folder) else { return Ok(()) };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    ensure!(
        bytes <= free,
        "the disk has too little room: `{}` ({:.1} MiB are needed, {:.1} MiB are free)",
        folder.display(),
        mib(bytes),
        mib(free)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_too_small_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        check_room([(&a, 1), (&b, 1)]).unwrap();
        let error = check_room([(&a, 1 << 62), (&b, 1 << 62)]).unwrap_err().to_string();
        assert!(error.starts_with("the disk has too little room: `"), "{error}");
        assert!(error.contains("(8796093022208.0 MiB are needed, "), "{error}");
    }
}
