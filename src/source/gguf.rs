//! A GGUF, single or split, as a container.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;

use super::container::{Container, Stored};
use crate::gguf::GgufFile;

pub(super) struct GgufContainer {
    file: GgufFile,
    stored: Vec<Stored>,
}

impl GgufContainer {
    pub(super) fn new(file: GgufFile) -> Self {
        let stored = file
            .tensors
            .iter()
            .map(|tensor| Stored { name: tensor.name.clone(), dims: tensor.dims.clone(), ty: tensor.ty })
            .collect();
        GgufContainer { file, stored }
    }
}

impl Container for GgufContainer {
    fn path(&self) -> &Path {
        &self.file.path
    }

    fn tensors(&self) -> &[Stored] {
        &self.stored
    }

    fn read(&self, index: usize, range: Range<u64>) -> Result<Vec<u8>> {
        self.file.data_range(&self.file.tensors[index], range)
    }
}
