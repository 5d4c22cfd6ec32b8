//! Files that get their name only when they are complete.

use std::fs::File;
use std::path::Path;

use anyhow::Result;

/// What `write` writes, through a temporary file beside `path`. The caller says in the error what could not be written.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
