//! What is in a GGUF: tensors, types and true bits per weight.

use serde::Serialize;

use super::GgufFile;
use crate::quant::GgmlType;

/// The contents of a GGUF in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// `general.architecture`, if there.
    pub architecture: Option<String>,
    pub version: u32,
    /// Number of files of the model.
    pub files: usize,
    /// Size of all files: header, metadata, data and padding.
    pub file_bytes: u64,
    /// Size of the tensors alone.
    pub tensor_bytes: u64,
    /// Number of weights.
    pub elements: u64,
    /// Bits of tensor data per weight, over all tensors.
    pub bpw: f64,
    /// Bits of file per weight.
    pub file_bpw: f64,
    /// Most bytes first.
    pub types: Vec<TypeSummary>,
    /// In file order.
    pub tensors: Vec<TensorSummary>,
}

/// All tensors of one type together.
#[derive(Clone, Debug, Serialize)]
pub struct TypeSummary {
    #[serde(rename = "type")]
    pub ty: GgmlType,
    pub tensors: usize,
    pub elements: u64,
    pub bytes: u64,
    pub bpw: f64,
}

/// One tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorSummary {
    pub name: String,
    /// In ggml's order, columns first.
    pub dims: Vec<u64>,
    #[serde(rename = "type")]
    pub ty: GgmlType,
    pub elements: u64,
    pub bytes: u64,
    pub bpw: f64,
}

/// Bits per weight, 0 where there are no weights.
fn bpw(bytes: u64, elements: u64) -> f64 {
    if elements == 0 { 0.0 } else { bytes as f64 * 8.0 / elements as f64 }
}

impl GgufFile {
    /// Counts what is in the file.
    pub fn summary(&self) -> Summary {
        let tensors: Vec<TensorSummary> = self
            .tensors
            .iter()
            .map(|tensor| TensorSummary {
                name: tensor.name.clone(),
                dims: tensor.dims.clone(),
                ty: tensor.ty,
                elements: tensor.elements(),
                bytes: tensor.bytes,
                bpw: bpw(tensor.bytes, tensor.elements()),
            })
            .collect();
        let tensor_bytes = tensors.iter().map(|tensor| tensor.bytes).sum();
        let elements = tensors.iter().map(|tensor| tensor.elements).sum();
        Summary {
            architecture: self.metadata.str("general.architecture").map(str::to_owned),
            version: self.version(),
            files: self.file_count(),
            file_bytes: self.file_bytes(),
            tensor_bytes,
            elements,
            bpw: bpw(tensor_bytes, elements),
            file_bpw: bpw(self.file_bytes(), elements),
            types: by_type(&tensors),
            tensors,
        }
    }
}

fn by_type(tensors: &[TensorSummary]) -> Vec<TypeSummary> {
    let mut types: Vec<TypeSummary> = GgmlType::all()
        .filter_map(|ty| {
            let of_type = || tensors.iter().filter(|tensor| tensor.ty == ty);
            let bytes = of_type().map(|tensor| tensor.bytes).sum();
            let elements = of_type().map(|tensor| tensor.elements).sum();
            let count = of_type().count();
            (count > 0).then(|| TypeSummary { ty, tensors: count, elements, bytes, bpw: bpw(bytes, elements) })
        })
        .collect();
    types.sort_by_key(|summary| std::cmp::Reverse(summary.bytes));
    types
}
