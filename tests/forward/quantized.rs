//! Files that we write, run again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use dq_gpu::device::Device;
use dq_gpu::forward::StreamOptions;
use dq_gpu::forward::weights::WeightSource;
use dq_gpu::pipeline::{FileInputs, bare_analysis, write};
use dq_gpu::plan::{Plan, Target};
use dq_gpu::progress::Silent;
use dq_gpu::quant::{self, GgmlType};
use dq_gpu::source::{Model, Tensor};

use crate::common;
use crate::golden::{Golden, logits_of, relative_difference};

/// Writes `model` with the type that `ty` gives to the n-th tensor that can be quantized, and opens the file.
pub fn written(model: &Model, path: &Path, ty: impl Fn(usize) -> GgmlType) -> Model {
    let analysis = bare_analysis(model, &model.metadata, "").unwrap();
    let types: BTreeMap<String, GgmlType> =
        analysis.quantizable().enumerate().map(|(n, tensor)| (tensor.name.clone(), ty(n))).collect();
    let plan = Plan::new(&analysis, Target::Bpw(1.0), &types, Vec::new()).unwrap();
    let inputs = FileInputs { weights: model, plan: &plan, imatrix: None, rounding: None, metadata: &model.metadata };
    let file = write(&Device::cpu(), &inputs, path, &Silent).unwrap();
    file.finish().unwrap();
    Model::open(path).unwrap()
}

/// Every weight of a model as F32.
struct Decoded<'a>(&'a Model);

impl WeightSource for Decoded<'_> {
    fn read<'a>(&'a self, tensor: &Tensor) -> Result<(GgmlType, Cow<'a, [u8]>)> {
        let values = self.0.f32_rows(tensor, 0..tensor.rows)?;
        Ok((GgmlType::F32, Cow::Owned(bytemuck::cast_slice(&values).to_vec())))
    }
}

#[test]
fn a_file_of_the_same_types_gives_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    for (case, ty) in [("tiny-qwen3", GgmlType::BF16), ("llama-tied", GgmlType::F16), ("llama-bias", GgmlType::BF16)] {
        let golden = Golden::read(case);
        let (model, tokens) = (golden.open(), golden.tokens());
        let file = written(&model, &folder.path().join(case), |_| ty);
        for device in common::devices() {
            let logits =
                |model: &Model| logits_of(&device, model, model, &tokens, golden.seq_len(), StreamOptions::default());
            assert!(logits(&model) == logits(&file), "{case} on {}", device.name());
        }
    }
}

#[test]
fn a_file_of_all_types_runs_like_its_decoded_weights() {
    let types: Vec<GgmlType> = GgmlType::all().filter(|ty| quant::format(*ty).is_some()).collect();
    assert!(types.len() >= 15);
    let golden = Golden::read("tiny-llama");
    let (model, tokens) = (golden.open(), golden.tokens());
    let folder = tempfile::tempdir().unwrap();
    let file = written(&model, &folder.path().join("all"), |n| types[n % types.len()]);
    for ty in &types {
        assert!(file.tensors.iter().any(|tensor| tensor.ty == *ty && tensor.rows > 1), "{ty} is not in the file");
    }
    for device in common::devices() {
        let logits = |weights: &dyn WeightSource| {
            logits_of(&device, &file, weights, &tokens, golden.seq_len(), StreamOptions::default())
        };
        let difference = relative_difference(&logits(&file), &logits(&Decoded(&file)));
        println!("{}: encoded against decoded weights {difference:.1e}", device.name());
        assert!(difference <= 1e-6);
    }
}
