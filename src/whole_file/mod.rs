//! Files that get their name only when they are complete, and never replace what is not a file.

mod room;
mod temporary;

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempPath;

pub(crate) use room::{check_folder, check_room};
pub(crate) use temporary::remove_all;

/// Links that are followed from an output to its file.
const MAX_LINKS: usize = 40;

/// A file under a temporary name beside `target`, which [`WholeFile::finish`] gives it. Dropped before that, nothing is left
/// and an older file of that name stays what it was.
pub(crate) struct WholeFile {
    target: PathBuf,
    /// None once it is closed. Before `temporary`, so that it is closed before the name goes.
    file: Option<File>,
    temporary: Option<TempPath>,
}

impl WholeFile {
    /// Starts a file with the permissions of an ordinary new file. What a killed job left of the same output is removed.
    ///
    /// Fails if `target` is a folder or a device, or if its folder is missing or cannot be written. The caller says in the
    /// error which output it is.
    pub(crate) fn create(target: &Path) -> Result<WholeFile> {
        let target = resolved(target)?;
        let (file, temporary) = temporary::beside(&target)?;
        Ok(WholeFile { target, file: Some(file), temporary: Some(temporary) })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        self.file.as_mut().expect("open until it is finished")
    }

    /// Where the bytes are until the file gets its name.
    pub(crate) fn path(&self) -> &Path {
        self.temporary.as_ref().expect("it has its temporary name until it is finished")
    }

    /// Makes the content durable, then gives it its name.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let file = self.file.take().expect("open until it is finished");
        file.sync_all()?;
        let temporary = self.temporary.take().expect("it has its temporary name until it is finished");
        temporary::forget(&temporary);
        // an open file cannot be renamed everywhere
        drop(file);
        temporary.persist(&self.target).map_err(|error| error.error)?;
        sync_folder(folder_of(&self.target))
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Seek for WholeFile {
    fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        self.file().seek(place)
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        self.file.take();
        if let Some(temporary) = self.temporary.take() {
            temporary::forget(&temporary);
        }
    }
}

/// What `write` writes, as a whole file. The caller says in the error what could not be written.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    write(file.file())?;
    file.finish()?;
    Ok(())
}

/// The folder that holds `path`.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file that writing to `target` makes or replaces: links are followed, whether or not their end exists.
///
/// Fails if that is anything but a regular file, or nothing in a folder that exists.
pub(crate) fn resolved(target: &Path) -> Result<PathBuf> {
    let mut path = target.to_owned();
    for _ in 0..MAX_LINKS {
        if path.file_name().is_none() {
            bail!("the output is no file name");
        }
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !folder_of(&path).is_dir() {
                    bail!("the folder of the output does not exist");
                }
                return Ok(path);
            }
            Err(error) => bail!("the output cannot be looked at: {error}"),
        };
        if kind.is_file() {
            return Ok(path);
        }
        if !kind.is_symlink() {
            bail!("the output is {}", kind_name(kind));
        }
        let end = fs::read_link(&path).context("the output is a link that cannot be read")?;
        path = folder_of(&path).join(end);
    }
    bail!("the output is a link that leads nowhere")
}

fn kind_name(kind: fs::FileType) -> &'static str {
    if kind.is_dir() {
        return "a folder";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
    }
    "not a regular file"
}

/// Makes a rename in this folder durable, where the system lets a folder be synced.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // some network and FUSE file systems have no such call
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let mut file = WholeFile::create(&path).unwrap();
        file.file().write_all(b"half").unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        drop(file);
        assert_eq!((names(folder.path()), fs::read(&path).unwrap()), (vec!["out".to_owned()], b"old".to_vec()));
        write_whole(&path, |file| Ok(file.write_all(b"new")?)).unwrap();
        assert_eq!((names(folder.path()), fs::read(&path).unwrap()), (vec!["out".to_owned()], b"new".to_vec()));
    }

    #[test]
    fn what_a_killed_job_left_goes_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.gguf");
        for left in [".out.gguf.AbC123.part", ".out.gguf.part", ".other.gguf.AbC123.part", "out.gguf.AbC123.part"] {
            fs::write(folder.path().join(left), "left").unwrap();
        }
        let living = WholeFile::create(&path).unwrap();
        let second = WholeFile::create(&path).unwrap();
        assert!(living.path().exists() && second.path().exists());
        drop((living, second));
        assert_eq!(names(folder.path()), [".other.gguf.AbC123.part", ".out.gguf.part", "out.gguf.AbC123.part"]);
    }

    #[test]
    fn the_longest_name_that_the_system_takes_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let longest = "é".repeat(127);
        write_whole(&folder.path().join(&longest), |_| Ok(())).unwrap();
        assert_eq!(names(folder.path()), [longest]);
        assert!(WholeFile::create(&folder.path().join("n".repeat(256))).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_what_is_no_file_is_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("store")).unwrap();
        symlink("store/file", at("link")).unwrap();
        symlink("link", at("again")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("none/file", at("dangling")).unwrap();
        write_whole(&at("again"), |file| Ok(file.write_all(b"x")?)).unwrap();
        assert!(fs::symlink_metadata(at("again")).unwrap().is_symlink());
        assert_eq!(fs::read(at("store/file")).unwrap(), b"x");
        let ordinary = File::create(at("ordinary")).unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(fs::metadata(at("store/file")).unwrap().permissions().mode(), ordinary);

        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let refusal = |path: &Path| resolved(path).unwrap_err().to_string();
        assert_eq!(refusal(&at("socket")), "the output is a socket");
        assert_eq!(refusal(Path::new("/dev/null")), "the output is a device");
        assert_eq!(refusal(&at("store")), "the output is a folder");
        assert_eq!(refusal(&at("loop")), "the output is a link that leads nowhere");
        assert!(refusal(&at("dangling")).contains("does not exist"));
        assert_eq!(refusal(Path::new("..")), "the output is no file name");
    }
}
