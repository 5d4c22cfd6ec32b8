//! Hidden states between layers: on the device while they fit the budget, in an unnamed temporary file beyond it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::device::{Buffer, Device};
use crate::whole_file::check_folder;

/// One buffer of `[tokens, width]` f32 per batch.
pub struct HiddenStates {
    device: Device,
    bytes: Vec<usize>,
    place: Place,
}

enum Place {
    Device(Vec<Option<Buffer>>),
    Disk(SpillFile),
}

impl HiddenStates {
    /// Room for batches of the given sizes in bytes; more than `budget` bytes in all go to disk.
    pub fn new(device: &Device, bytes: Vec<usize>, budget: usize) -> Result<Self> {
        let total: usize = bytes.iter().sum();
        let place = if total <= budget {
            Place::Device(vec![None; bytes.len()])
        } else {
            log::debug!("hidden states of {total} bytes go to a temporary file");
            Place::Disk(SpillFile::new(&bytes)?)
        };
        Ok(HiddenStates { device: device.clone(), bytes, place })
    }

    /// Keeps `buffer` as the state of batch `index`. The caller must not write to it afterwards.
    pub fn put(&mut self, index: usize, buffer: Buffer) -> Result<()> {
        match &mut self.place {
            Place::Device(buffers) => buffers[index] = Some(buffer),
            Place::Disk(file) => file.write(index, &self.device.read::<u8>(&buffer)?)?,
        }
        Ok(())
    }

    /// The state of batch `index`, which may be changed in place and put back.
    pub fn take(&mut self, index: usize) -> Result<Buffer> {
        match &mut self.place {
            Place::Device(buffers) => Ok(buffers[index].take().expect("a batch is put before it is taken")),
            Place::Disk(file) => self.device.upload("hidden states", &file.read(index, self.bytes[index])?),
        }
    }
}

/// Where activations go: `TMPDIR` if it is set. Else, on Unix, `/var/tmp`, since `/tmp` is kept in memory on many systems.
fn spill_folder() -> PathBuf {
    let large = Path::new("/var/tmp");
    if cfg!(unix) && std::env::var_os("TMPDIR").is_none() && large.is_dir() {
        return large.to_owned();
    }
    std::env::temp_dir()
}

/// Records of fixed places in an unnamed temporary file: nothing stays behind, whatever happens.
pub struct SpillFile {
    file: File,
    offsets: Vec<u64>,
}

impl SpillFile {
    /// One record for each size in bytes.
    pub fn new(bytes: &[usize]) -> Result<Self> {
        let file = tempfile::tempfile_in(spill_folder()).with_context(|| {
            format!("cannot create a temporary file for activations in `{}`", spill_folder().display())
        })?;
        let total = bytes.iter().map(|&size| size as u64).sum();
        check_folder(&spill_folder(), total).context("activations go to a temporary file (see --memory and TMPDIR)")?;
        let offsets = bytes
            .iter()
            .scan(0u64, |next, size| {
                let offset = *next;
                *next += *size as u64;
                Some(offset)
            })
            .collect();
        Ok(SpillFile { file, offsets })
    }

    pub fn write(&mut self, record: usize, bytes: &[u8]) -> Result<()> {
        let result = self.file.seek(SeekFrom::Start(self.offsets[record])).and_then(|_| self.file.write_all(bytes));
        result.with_context(|| format!("cannot write activations to `{}`", spill_folder().display()))
    }

    pub fn read(&mut self, record: usize, size: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        let result =
            self.file.seek(SeekFrom::Start(self.offsets[record])).and_then(|_| self.file.read_exact(&mut bytes));
        result.with_context(|| format!("cannot read activations from `{}`", spill_folder().display()))?;
        Ok(bytes)
    }
}
