//! What quantized files lose, by tensor: `sum_r dw_r^T diag(h) dw_r` with the importance h of a matrix file, and
//! `sum_r dw_r^T H dw_r` with the second moments H = E[x x^T] of the activations of a text. One JSON object on stdout:
//! `{file: {tensor: {"importance": ..., "hessian": ...}}}`. Tensors without activations (embedding, output) are left out.
//!
//!     cargo run --release --example weighted_error -- BASE QUANT... --imatrix FILE --text FILE --chunks 48
//!
//! H and the rows of a tensor must fit memory: made for small models.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;
use dq_gpu::calibration::Chunks;
use dq_gpu::device::Device;
use dq_gpu::forward::{Stream, StreamOptions};
use dq_gpu::graph::{LinearInput, Matrix, Tap};
use dq_gpu::imatrix::Imatrix;
use dq_gpu::kernels::{matmul::matmul, row_dot::row_dot, weight::Weight};
use dq_gpu::progress::Silent;
use dq_gpu::rounding::hessian::{HeldOut, HessianTap, Texts};
use dq_gpu::source::{Model, Tensor};
use dq_gpu::tokenizer::Tokenizer;
use serde_json::json;

#[derive(Parser)]
struct Options {
    /// The original
    base: PathBuf,
    /// Quantized files of it
    quant: Vec<PathBuf>,
    #[arg(long)]
    imatrix: PathBuf,
    /// Text whose activations make H
    #[arg(long)]
    text: PathBuf,
    #[arg(long, default_value_t = 512)]
    ctx: usize,
    #[arg(long, default_value_t = 48)]
    chunks: usize,
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// Errors of one tensor of one file.
#[derive(Default)]
struct Errors {
    importance: f64,
    hessian: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let device = Device::open(&options.device)?;
    let base = Model::open(&options.base)?;
    let quant = options.quant.iter().map(|path| Model::open(path)).collect::<Result<Vec<_>>>()?;
    let text = std::fs::read_to_string(&options.text)
        .with_context(|| format!("cannot read the text: `{}`", options.text.display()))?;
    let tokenizer = Tokenizer::from_gguf(&base.metadata)?;
    let chunks = Chunks::from_text_stream(&text, "text", &tokenizer, options.ctx, Some(options.chunks))?;
    let stream = Stream::new(&device, &base, &chunks.tokens, chunks.ctx, StreamOptions::within(2 << 30))?;
    let mut meter = Meter {
        device: &device,
        base: &base,
        quant: &quant,
        imatrix: Imatrix::read(&options.imatrix)?,
        hessians: HessianTap::new(&device, HeldOut::Nothing, usize::MAX),
        found: quant.iter().map(|_| BTreeMap::new()).collect(),
    };
    stream.final_states(&base, 0..chunks.ctx, &mut meter, &Silent)?;
    let files = options.quant.iter().zip(&meter.found).map(|(path, tensors)| {
        let tensors: serde_json::Map<String, serde_json::Value> = tensors
            .iter()
            .map(|(name, errors)| (name.clone(), json!({"importance": errors.importance, "hessian": errors.hessian})))
            .collect();
        (path.display().to_string(), tensors.into())
    });
    println!("{}", serde_json::Value::Object(files.collect()));
    Ok(())
}

/// Measures the tensors of a layer when all tokens have passed it.
struct Meter<'a> {
    device: &'a Device,
    base: &'a Model,
    quant: &'a [Model],
    imatrix: Imatrix,
    hessians: HessianTap<'a>,
    /// By file, then by tensor.
    found: Vec<BTreeMap<String, Errors>>,
}

impl Tap for Meter<'_> {
    fn linear_input(&mut self, input: &LinearInput) -> Result<()> {
        self.hessians.linear_input(input)
    }

    fn layer_done(&mut self) -> Result<()> {
        for hessian in self.hessians.take() {
            let [panel] = hessian.panels.as_slice() else { bail!("--device: an input's second moments do not fit") };
            let moments = panel.matrix(self.device, Texts::HeldOut)?;
            for Matrix { tensor: name, index } in &hessian.matrices {
                let tensor = self.base.require(name)?;
                let known = self.imatrix.known_importance(&tensor.name, tensor.cols, tensor.matrices());
                let Some(weights) = known else { continue };
                let (rows, weights) = (tensor.matrix_rows(*index), &weights[index * tensor.cols..][..tensor.cols]);
                let source = self.base.f32_rows(tensor, rows.clone())?;
                for (quant, found) in self.quant.iter().zip(&mut self.found) {
                    let decoded = quant.f32_rows(quant.require(name)?, rows.clone())?;
                    let errors = errors(self.device, tensor, (&source, &decoded), weights, &moments)?;
                    let sums = found.entry(name.clone()).or_default();
                    sums.importance += errors.importance;
                    sums.hessian += errors.hessian;
                }
            }
        }
        Ok(())
    }
}

fn errors(
    device: &Device,
    tensor: &Tensor,
    (source, decoded): (&[f32], &[f32]),
    importance: &[f32],
    moments: &Weight,
) -> Result<Errors> {
    let dw: Vec<f32> = decoded.iter().zip(source).map(|(decoded, source)| decoded - source).collect();
    let square = |(dw, h): (&f32, &f32)| f64::from(*h) * f64::from(*dw) * f64::from(*dw);
    let diagonal = dw.chunks(tensor.cols).flat_map(|row| row.iter().zip(importance)).map(square).sum();
    let dw = device.upload("weight differences", &dw)?;
    let product = device.alloc("weight differences times H", tensor.rows * tensor.cols * size_of::<f32>())?;
    let out = device.alloc("row errors", tensor.rows * size_of::<f32>())?;
    matmul(device, &dw, moments, None, &product, tensor.rows, false)?;
    row_dot(device, &dw, &product, &out, tensor.rows, tensor.cols)?;
    let hessian = device.read::<f32>(&out)?.into_iter().map(f64::from).sum();
    Ok(Errors { importance: diagonal, hessian })
}
