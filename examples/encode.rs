//! Encodes raw f32 rows: `encode TYPE VALUES IMPORTANCE OUT`. VALUES and IMPORTANCE are little-endian f32 files, IMPORTANCE
//! has one number per column. Prints the seconds of the fastest of twenty runs. `tests/interop/compare_encoders.py` uses it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use dq_gpu::quant::{self, GgmlType};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    ensure!(args.len() == 4, "usage: encode TYPE VALUES IMPORTANCE OUT");
    let ty = GgmlType::from_name(&args[0]).with_context(|| format!("unknown tensor type: `{}`", args[0]))?;
    let (values, importance) = (read(&args[1])?, read(&args[2])?);
    let mut bytes = vec![0; ty.bytes_for(values.len() as u64) as usize];
    // on a thread of the pool, so that handing over the work is not measured
    let run = || -> Result<f64> {
        let start = Instant::now();
        quant::encode(ty, &values, &importance, &mut bytes)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let seconds: Vec<f64> = rayon::scope(|_| std::iter::repeat_with(run).take(20).collect::<Result<_>>())?;
    let fastest = seconds.into_iter().fold(f64::INFINITY, f64::min);
    std::fs::write(&args[3], bytes).with_context(|| format!("cannot write: `{}`", args[3]))?;
    println!("{fastest}");
    Ok(())
}

fn read(path: &str) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read: `{path}`"))?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
