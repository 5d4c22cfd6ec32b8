//! Opening files that come from outside: regular files only, and of a model folder only what belongs to it.
//!
//! Files are read by position (`pread`), never mapped: a file that is cut short while it is read gives an error here, where a
//! map would give SIGBUS; and a map of a file that changes is undefined behaviour.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};

/// The largest text (JSON, template, model card) that is read whole.
const MAX_TEXT: u64 = 256 << 20;

/// How a file begins that git put in place of a large one.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// A regular file, open for reading.
#[derive(Debug)]
pub struct InputFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl InputFile {
    /// Opens a file that the user names, through links if it is one.
    ///
    /// Fails on what is no regular file (without waiting for the other end of a fifo) and on a git-lfs pointer.
    pub fn open(path: &Path) -> Result<InputFile> {
        let cannot = |error: io::Error| anyhow!("cannot open the file: `{}` ({error})", path.display());
        // before it is opened: opening alone can move a tape or wake a device
        check_regular(path, &path.metadata().map_err(cannot)?)?;
        let file = open_options().open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        check_regular(path, &metadata)?;
        let opened = InputFile { path: path.to_owned(), file, len: metadata.len() };
        opened.check_pointer()?;
        Ok(opened)
    }

    /// Opens a file of a model folder; `None` if it is not there. Every file of a model folder is opened here.
    ///
    /// Fails as [`InputFile::open`] does, and on a link that leads out of the folder, unless it is one of the Hugging Face cache.
    pub fn member(path: &Path) -> Result<Option<InputFile>> {
        InputFile::member_of(path.parent().unwrap_or(Path::new("")), path)
    }

    /// The same for a file in a folder of the model folder `root`.
    pub fn member_of(root: &Path, path: &Path) -> Result<Option<InputFile>> {
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => bail!("cannot open the file: `{}` ({error})", path.display()),
            Ok(_) => {}
        }
        check_links(root, path)?;
        InputFile::open(path).map(Some)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of `range`. Fails if the file no longer has them.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let count = range.end.checked_sub(range.start).filter(|_| range.end <= self.len);
        let Some(count) = count else {
            bail!("the file ends at byte {} before byte {}: `{}`", self.len, range.end, self.path.display())
        };
        let mut bytes = vec![0; usize::try_from(count)?];
        match read_exact_at(&self.file, &mut bytes, range.start) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                bail!("the file was cut short while it was read: `{}`", self.path.display())
            }
            Err(error) => bail!("cannot read: `{}` ({error})", self.path.display()),
        }
    }

    /// All of it.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        self.read(0..self.len)
    }

    /// All of it as text.
    pub fn text(&self) -> Result<String> {
        let shown = self.path.display();
        ensure!(self.len <= MAX_TEXT, "the file has {} bytes, too many for what it should be: `{shown}`", self.len);
        let text = String::from_utf8(self.read_all()?).map_err(|_| anyhow!("the file is not UTF-8 text: `{shown}`"))?;
        // a byte order mark is no part of it
        Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
    }

    fn check_pointer(&self) -> Result<()> {
        // pointers have some 130 bytes, and 1024 at most by their specification
        if self.len < 1024 && self.len >= LFS_POINTER.len() as u64 {
            ensure!(
                self.read(0..LFS_POINTER.len() as u64)? != LFS_POINTER,
                "the file is a git-lfs pointer, the content is not here; `git lfs pull` in its folder gets it: `{}`",
                self.path.display()
            );
        }
        Ok(())
    }
}

/// The text of a file of a model folder; `None` if it is not there.
pub fn member_text(path: &Path) -> Result<Option<String>> {
    InputFile::member(path)?.map(|file| file.text()).transpose()
}

/// The text of a file that the user names.
pub fn text(path: &Path) -> Result<String> {
    InputFile::open(path)?.text()
}

fn check_regular(path: &Path, metadata: &std::fs::Metadata) -> Result<()> {
    if metadata.is_dir() {
        bail!("cannot open the file: `{}` (it is a folder)", path.display());
    }
    ensure!(metadata.is_file(), "cannot open the file: `{}` (it is a device, a pipe or a socket)", path.display());
    Ok(())
}

/// Fails if the file lies outside the folder `root`, in whatever way links lead there. In the Hugging Face cache a snapshot's files are
/// links into the `blobs` of its repository: `models--org--name/snapshots/<hash>/f -> ../../blobs/<hash>`.
fn check_links(root: &Path, path: &Path) -> Result<()> {
    let shown = path.display();
    let cannot = |error: io::Error| anyhow!("cannot open the file: `{shown}` ({error})");
    let real = path.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("cannot open the file: `{shown}` (it is a link to something that does not exist)")
        }
        _ => cannot(error),
    })?;
    let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    let folder = root.canonicalize().map_err(cannot)?;
    if real.starts_with(&folder) || blobs_of(&folder).is_some_and(|blobs| real.starts_with(blobs)) {
        return Ok(());
    }
    bail!(
        "the file is a link that leads out of the model folder, to `{}`; copy it into the folder: `{shown}`",
        real.display()
    )
}

/// The `blobs` of the cache's repository in which `folder` is a snapshot.
fn blobs_of(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.parent().filter(|above| above.file_name().is_some_and(|name| name == "snapshots"))?;
    snapshots.parent().map(|repository| repository.join("blobs"))
}

/// Does not wait for a writer where the file has become a fifo since it was looked at.
#[cfg(unix)]
fn open_options() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options
}

#[cfg(not(unix))]
fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true);
    options
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        match file.seek_read(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                bytes = &mut bytes[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
