//! Writes a Hugging Face folder (or a GGUF) as a GGUF, its weights as they are or in F32: `to_gguf MODEL OUT.gguf [f32]`.
//! `tests/interop/converter.py` compares the result with that of llama.cpp's converter, `families.py` runs it in llama.cpp.

use anyhow::{Context, Result, bail};
use dq_gpu::gguf::{GgufWriter, TensorPlan};
use dq_gpu::quant::GgmlType;
use dq_gpu::source::{Model, Tensor};

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (folder, target) = args.next().zip(args.next()).context("usage: to_gguf MODEL OUT.gguf [f32]")?;
    let in_f32 = match args.next() {
        None => false,
        Some(kind) if kind == "f32" => true,
        Some(other) => bail!("unknown kind: `{}`", other.display()),
    };
    let model = Model::open(folder.as_ref())?;
    let plan = |tensor: &Tensor| match in_f32 {
        true => TensorPlan { ty: GgmlType::F32, ..tensor.plan() },
        false => tensor.plan(),
    };
    let plans: Vec<TensorPlan> = model.tensors.iter().map(plan).collect();
    let mut writer = GgufWriter::new(target.as_ref(), &model.metadata, &plans)?;
    for tensor in &model.tensors {
        let bytes = match in_f32 {
            true => model.f32_rows(tensor, 0..tensor.rows)?.iter().flat_map(|value| value.to_le_bytes()).collect(),
            false => model.bytes(tensor)?.into_owned(),
        };
        writer.write_tensor(&tensor.name, &bytes)?;
    }
    writer.finish()?;
    Ok(())
}
