//! Rates of the kernels that carry a forward pass: `cargo bench --bench kernels [-- DEVICE [TYPE]]`.

use std::time::Instant;

use dq_gpu::device::Device;
use dq_gpu::kernels::attention::{AttentionParams, attention};
use dq_gpu::kernels::matmul::matmul;
use dq_gpu::kernels::matmul_transposed::matmul_transposed;
use dq_gpu::kernels::weight::Weight;
use dq_gpu::quant::GgmlType;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let dev = Device::open(arguments.first().map_or("auto", String::as_str))?;
    let ty = arguments.get(1).and_then(|name| GgmlType::from_name(name)).unwrap_or(GgmlType::BF16);
    println!("{} with weights in {ty}", dev.name());
    if !dev.is_gpu() {
        plain_gemm();
    }
    for (m, k) in [(1024, 1024), (3072, 1024), (4096, 4096)] {
        for n in [1, 32, 512, 2048] {
            products(&dev, ty, [n, m, k])?;
        }
    }
    attentions(
        &dev,
        AttentionParams {
            sequences: 4,
            seq_len: 512,
            heads: 16,
            kv_heads: 8,
            head_dim: 128,
            value_dim: 128,
            scale: 0.09,
            window: None,
            softcap: None,
        },
    )
}

/// Seconds of the best of three runs, each as often as it takes to last a while.
fn seconds(mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    run()?;
    let mut best = f64::MAX;
    for _ in 0..3 {
        let (start, mut times) = (Instant::now(), 0);
        while start.elapsed().as_secs_f64() < 0.1 {
            run()?;
            times += 1;
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(times));
    }
    Ok(best)
}

fn report(what: &str, operations: usize, seconds: f64) {
    println!("{what:44} {:9.2} GFLOP/s {:9.3} ms", operations as f64 / seconds / 1e9, seconds * 1e3);
}

/// What the `gemm` crate reaches on this machine with all threads: the yardstick of the CPU device.
fn plain_gemm() {
    for [n, m, k] in [[1, 1024, 1024], [32, 1024, 1024], [512, 1024, 1024], [512, 4096, 4096]] {
        let (x, w, mut y) = (vec![0.5f32; n * k], vec![0.5f32; m * k], vec![0.0f32; n * m]);
        let run = || {
            // SAFETY: the three matrices have the sizes given.
            unsafe {
                let (w, x, y) = (w.as_ptr(), x.as_ptr(), y.as_mut_ptr());
                let (k_stride, threads) = (k as isize, gemm::Parallelism::Rayon(0));
                let (no, one) = (false, 1.0f32);
                gemm::gemm(
                    m, n, k, y, m as isize, 1, no, w, 1, k_stride, x, k_stride, 1, one, one, no, no, no, threads,
                );
            }
            Ok(())
        };
        report(&format!("plain gemm [{n}, {m}, {k}]"), 2 * n * m * k, seconds(run).unwrap_or(f64::NAN));
    }
}

fn products(dev: &Device, ty: GgmlType, [n, m, k]: [usize; 3]) -> anyhow::Result<()> {
    // Small integers decode to finite weights in every type.
    let bytes: Vec<u8> = (0..ty.bytes_for((m * k) as u64)).map(|i| (i % 61) as u8).collect();
    let weight = Weight::upload(dev, "w", ty, m, k, &bytes)?;
    let x = dev.upload("x", &vec![0.5f32; n * m.max(k)])?;
    let y = dev.alloc("y", n * m.max(k) * 4)?;
    let forward = || {
        matmul(dev, &x, &weight, None, &y, n, false)?;
        dev.read_range::<f32>(&y, 0, 1).map(|_| ())
    };
    report(&format!("matmul [{n}, {m}, {k}]"), 2 * n * m * k, seconds(forward)?);
    let backward = || {
        matmul_transposed(dev, &x, &weight, &y, n, 0..m, false)?;
        dev.read_range::<f32>(&y, 0, 1).map(|_| ())
    };
    report(&format!("matmul_transposed [{n}, {m}, {k}]"), 2 * n * m * k, seconds(backward)?);
    Ok(())
}

fn attentions(dev: &Device, p: AttentionParams) -> anyhow::Result<()> {
    let tokens = p.sequences * p.seq_len;
    let [heads, kv_heads] = [p.heads, p.kv_heads];
    let sizes = [heads * p.head_dim, kv_heads * p.head_dim, kv_heads * p.value_dim];
    let [q, k, v] = sizes.map(|width| vec![0.1f32; tokens * width]);
    let [qb, kb, vb] = [dev.upload("q", &q)?, dev.upload("k", &k)?, dev.upload("v", &v)?];
    let out = dev.alloc("out", tokens * heads * p.value_dim * 4)?;
    let run = || {
        attention(dev, &qb, &kb, &vb, None, &out, p)?;
        dev.read_range::<f32>(&out, 0, 1).map(|_| ())
    };
    report(
        "attention, 4 x 512 tokens, 16 heads of 128",
        tokens * p.seq_len * heads * (p.head_dim + p.value_dim),
        seconds(run)?,
    );
    Ok(())
}
