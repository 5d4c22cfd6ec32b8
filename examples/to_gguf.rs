//! Writes a Hugging Face folder (or a GGUF) as a GGUF, its weights as they are: `to_gguf MODEL OUT.gguf`.
//! `tests/interop/converter.py` compares the result with that of llama.cpp's converter.

use anyhow::{Context, Result};
use dq_gpu::gguf::{GgufWriter, TensorPlan};
use dq_gpu::source::{Model, Tensor};

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (folder, target) = args.next().zip(args.next()).context("usage: to_gguf MODEL OUT.gguf")?;
    let model = Model::open(folder.as_ref())?;
    let plans: Vec<TensorPlan> = model.tensors.iter().map(Tensor::plan).collect();
    let mut writer = GgufWriter::new(target.as_ref(), &model.metadata, &plans)?;
    for tensor in &model.tensors {
        writer.write_tensor(&tensor.name, &model.bytes(tensor)?)?;
    }
    writer.finish()?;
    Ok(())
}
