//! Whether an importance matrix from a file is one of this model.

use anyhow::{Result, ensure};

use super::{Entry, Imatrix};
use crate::arch::tensor_class::importance_names;
use crate::quant::GgmlType;
use crate::source::Weights;

/// Types that llama-quantize writes with importance data only: without, they are worse than smaller types.
pub fn needs_importance(ty: GgmlType) -> bool {
    use GgmlType::*;
    matches!(ty, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS)
}

impl Entry {
    /// Whether any token was seen.
    fn has_data(&self) -> bool {
        self.counts.iter().any(|count| *count > 0.0) && self.sum2.iter().any(|sum| *sum > 0.0)
    }
}

impl Imatrix {
    /// Leaves the entries that the model has use for, with data. Gives the names of the tensors that are left without.
    ///
    /// Fails on an entry of another width, and if no entry is of this model.
    pub fn fit(&mut self, model: &Weights) -> Result<Vec<String>> {
        for (name, entry) in &self.entries {
            let Some(tensor) = model.tensor(name) else { continue };
            ensure!(
                entry.sum2.len() == tensor.cols * tensor.matrices(),
                "it is of another model: `{name}` has {} values where the model's tensor has {} columns{}",
                entry.sum2.len(),
                tensor.cols,
                if tensor.matrices() > 1 { format!(" and {} matrices", tensor.matrices()) } else { String::new() }
            );
        }
        let all = self.entries.len();
        self.entries.retain(|name, entry| model.has_tensor(name) && entry.has_data());
        ensure!(!self.entries.is_empty(), "it is of another model, or empty: none of its {all} entries is of use here");
        // an embedding that is not the output too is looked up
        let is_multiplied = |name: &str| name != "token_embd.weight" || !model.has_tensor("output.weight");
        let read = model.quantizable().filter(|tensor| is_multiplied(&tensor.name));
        let lacks = |name: &str| importance_names(name).iter().all(|name| !self.entries.contains_key(name));
        Ok(read.map(|tensor| tensor.name.clone()).filter(|name| lacks(name)).collect())
    }
}
