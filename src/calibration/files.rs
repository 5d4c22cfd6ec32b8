//! The bytes of calibration files: folders, links, encodings, and what is no text at all.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Largest file that is read.
const MAX_BYTES: u64 = 4 << 30;
/// How deep folders nest.
const MAX_DEPTH: usize = 32;

/// How a file holds its documents, by the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    Json,
    /// Values separated by this byte.
    Table(u8),
}

impl Format {
    /// `None` if the name tells nothing.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_string_lossy().to_lowercase().as_str() {
            "txt" | "text" | "md" | "markdown" => Some(Self::Plain),
            "jsonl" | "ndjson" | "json" => Some(Self::Json),
            "csv" => Some(Self::Table(b',')),
            "tsv" => Some(Self::Table(b'\t')),
            _ => None,
        }
    }
}

/// The known files of a folder and of those in it, sorted by name; what is passed over is said.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut walk = Walk::default();
    walk.folder(dir, 0)?;
    if let [first, ..] = walk.skipped.as_slice() {
        let more = match walk.skipped.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        log::warn!("left out of the calibration text: {first}{more}");
    }
    Ok(walk.files)
}

#[derive(Default)]
struct Walk {
    files: Vec<PathBuf>,
    skipped: Vec<String>,
    /// Folders that were read, so that links among them end.
    seen: BTreeSet<PathBuf>,
}

impl Walk {
    fn folder(&mut self, dir: &Path, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH || !self.seen.insert(dir.canonicalize()?) {
            self.skipped.push(format!("`{}`, a folder in itself", dir.display()));
            return Ok(());
        }
        let mut paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            // caches, version control
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            let shown = path.display();
            match fs::metadata(&path) {
                Err(error) => self.skipped.push(format!("`{shown}` ({error})")),
                Ok(about) if about.is_dir() => {
                    let inner = self.folder(&path, depth + 1);
                    if let Err(error) = inner {
                        self.skipped.push(format!("`{shown}` ({error})"));
                    }
                }
                Ok(about) if !about.is_file() => self.skipped.push(format!("`{shown}`, {}", kind(&about))),
                Ok(_) if Format::of(&path).is_none() => {
                    self.skipped.push(format!("`{shown}`, whose name is not that of text or JSON"));
                }
                Ok(_) => self.files.push(path),
            }
        }
        Ok(())
    }
}

/// What something is that is neither a file nor a folder.
#[cfg(unix)]
fn kind(about: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = about.file_type();
    if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn kind(_: &Metadata) -> &'static str {
    "no file"
}

/// The text of a regular file, without a byte order mark.
///
/// Errors: a pipe or a device, a file of a kind that is no text, bytes that are no UTF-8 or UTF-16.
pub(super) fn read(path: &Path) -> Result<String> {
    let about = fs::metadata(path)?;
    ensure!(!about.is_dir(), "it is a folder");
    ensure!(about.is_file(), "it is {}, and only files are read", kind(&about));
    ensure!(
        about.len() <= MAX_BYTES,
        "it has {} GiB, more than the {} that are read",
        about.len() >> 30,
        MAX_BYTES >> 30
    );
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    decode(bytes)
}

fn decode(bytes: Vec<u8>) -> Result<String> {
    if let Some((_, name, hint)) = BINARY.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        bail!("it is {name}, not text{hint}");
    }
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => return utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return utf16(rest, u16::from_be_bytes),
        _ => {}
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let (before, byte) = (&error.as_bytes()[..at], error.as_bytes()[at]);
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        anyhow::anyhow!("line {line}: it is not UTF-8 text (byte 0x{byte:02x}); `iconv -t utf-8` converts it")
    })?;
    let zeros = text.bytes().filter(|&byte| byte == 0).count();
    ensure!(zeros * 4 <= text.len(), "it is no text: {zeros} of its {} bytes are zero", text.len());
    Ok(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    ensure!(rest.is_empty(), "it has a UTF-16 byte order mark and half a character at its end");
    let units: Vec<u16> = pairs.iter().map(|&pair| unit(pair)).collect();
    String::from_utf16(&units).context("it has a UTF-16 byte order mark and is not UTF-16 text")
}

/// First bytes of what people keep text in that is no text file.
const BINARY: &[(&[u8], &str, &str)] = &[
    (b"PAR1", "a Parquet file", "; pandas converts it: `read_parquet(..).to_json(.., orient=\"records\", lines=True)`"),
    (b"ARROW1", "an Arrow file", "; `datasets` converts it: `load_from_disk(..).to_json(..)`"),
    (b"\x1f\x8b", "compressed by gzip", "; `gunzip` unpacks it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "; `unzstd` unpacks it"),
    (b"\xfd7zXZ\0", "compressed by xz", "; `unxz` unpacks it"),
    (b"BZh", "compressed by bzip2", "; `bunzip2` unpacks it"),
    (b"PK\x03\x04", "a zip archive", "; `unzip` unpacks it"),
    (b"%PDF", "a PDF", ""),
    (b"GGUF", "a GGUF", ""),
    (b"SQLite format 3\0", "a database", ""),
    (b"version https://git-lfs", "a git-lfs pointer", "; `git lfs pull` brings the file"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(bytes: &[u8]) -> String {
        decode(bytes.to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn encodings_are_told_apart() {
        let read = |bytes: &[u8]| decode(bytes.to_vec()).unwrap();
        assert_eq!(read("\u{feff}é".as_bytes()), "é");
        assert_eq!(read(b"\xff\xfeh\0\xe9\0"), "hé");
        assert_eq!(read(b"\xfe\xff\0h\xd8\x3d\xde\x00"), "h😀");
        assert_eq!(read(b"abcdefgh\0"), "abcdefgh\0");
        assert!(fails(b"ok\ncaf\xe9").starts_with("line 2: it is not UTF-8 text (byte 0xe9)"));
        assert!(fails(b"\xff\xfeh").contains("half a character"));
        assert!(fails(b"h\0i\0").contains("2 of its 4 bytes are zero"));
        assert!(fails(b"PAR1\x02").contains("Parquet"));
        assert!(fails(b"\x1f\x8b\x08").contains("gunzip"));
    }
}
