//! The legacy `.dat` format: per entry a name, a number of calls (chunks) and mean * calls for every column.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Entry, Imatrix};
use crate::whole_file::write_whole;

/// Everything is little-endian: i32 entries; per entry i32 length, name, i32 calls, i32 values, f32 values; then,
/// optionally, i32 chunks, i32 length, dataset.
pub(super) fn parse(bytes: &[u8]) -> Result<Imatrix> {
    let mut at = Cursor(bytes);
    let entries = at.i32().context("it is no importance matrix")?;
    // An entry takes 13 bytes at least: anything else is another kind of file.
    ensure!(entries > 0 && entries as usize <= bytes.len() / 13, "it is no importance matrix");
    let mut imatrix = Imatrix::default();
    for _ in 0..entries {
        let name = at.string()?;
        let calls = at.i32()?;
        let values = at.i32()?;
        ensure!(values > 0, "it has an entry without values: `{name}`");
        let sum2 = at.take(values as usize * 4)?.chunks_exact(4);
        let sum2 = sum2.map(|w| f64::from(f32::from_le_bytes(w.try_into().expect("four bytes")))).collect();
        let entry = Entry { sum2, sum: None, counts: vec![f64::from(calls)] };
        let known = imatrix.entries.insert(name.clone(), entry);
        ensure!(known.is_none(), "it has an entry twice: `{name}`");
    }
    if !at.0.is_empty() {
        imatrix.chunk_count = at.i32()?.max(0) as u32;
        imatrix.datasets.extend(at.string().ok().filter(|name| !name.is_empty()));
    }
    Ok(imatrix)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        ensure!(count <= self.0.len(), "it is cut short, or no importance matrix");
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        Ok(head)
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn string(&mut self) -> Result<String> {
        let len = usize::try_from(self.i32()?).context("it is no importance matrix")?;
        String::from_utf8(self.take(len)?.to_vec()).context("it is no importance matrix")
    }
}

pub(super) fn write(imatrix: &Imatrix, path: &Path) -> Result<()> {
    let bytes =
        serialize(imatrix).with_context(|| format!("cannot write the importance matrix: `{}`", path.display()))?;
    let written = write_whole(path, |file| Ok(file.write_all(&bytes)?));
    written.with_context(|| format!("cannot write the importance matrix: `{}`", path.display()))
}

/// Fails on numbers that the format cannot hold.
fn serialize(imatrix: &Imatrix) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let i32 = |out: &mut Vec<u8>, value: usize| -> Result<()> {
        let value =
            i32::try_from(value).with_context(|| format!("the number is too large for this format: {value}"))?;
        out.extend(value.to_le_bytes());
        Ok(())
    };
    let (stored, empty): (Vec<_>, Vec<_>) =
        imatrix.entries.iter().partition(|(_, entry)| entry.counts.iter().any(|&count| count > 0.0));
    for (name, _) in empty {
        log::warn!("the importance matrix has no data for `{name}`; the legacy format leaves it out");
    }
    i32(&mut out, stored.len())?;
    for (name, entry) in stored {
        i32(&mut out, name.len())?;
        out.extend(name.bytes());
        let top = entry.counts.iter().copied().fold(0.0, f64::max);
        let calls = (top / f64::from(imatrix.chunk_size.max(1))).ceil();
        i32(&mut out, calls as usize)?;
        i32(&mut out, entry.sum2.len())?;
        // An expert without tokens is stored with the mean 1.
        for mean in entry.means(&entry.sum2, 1.0) {
            let sum = mean * calls as f32;
            ensure!(sum.is_finite(), "the sums are too large for this format: `{name}`");
            out.extend(sum.to_le_bytes());
        }
    }
    i32(&mut out, imatrix.chunk_count as usize)?;
    let dataset = imatrix.datasets.last().map_or("", String::as_str);
    i32(&mut out, dataset.len())?;
    out.extend(dataset.bytes());
    Ok(out)
}
