//! Shared by the tests that need a GPU.
#![allow(dead_code)]

use std::sync::OnceLock;

use dq_gpu::device::Device;

/// The adapter to test on: the one named by `DQ_GPU_TEST_ADAPTER`, else llvmpipe. None where there is none, with a line
/// that says so; with `DQ_GPU_REQUIRE_ADAPTER=1` that is a failure.
pub fn gpu() -> Option<&'static Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    GPU.get_or_init(|| {
        let name = std::env::var("DQ_GPU_TEST_ADAPTER").unwrap_or_else(|_| "llvmpipe".to_owned());
        match Device::open(&name) {
            Ok(device) => Some(device),
            Err(error) if std::env::var("DQ_GPU_REQUIRE_ADAPTER").is_ok_and(|v| v == "1") => {
                panic!("an adapter is required: {error:#}")
            }
            Err(error) => {
                println!("skipped the GPU half of a test: {error:#}");
                None
            }
        }
    })
    .as_ref()
}

/// The CPU device, and the GPU where there is one.
pub fn devices() -> Vec<Device> {
    std::iter::once(Device::cpu()).chain(gpu().cloned()).collect()
}

/// Reproducible numbers, about normal.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub fn next_u64(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Mean 0, variance 1.
    pub fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| self.uniform()).sum();
        (sum - 6.0) as f32
    }

    pub fn normals(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.normal() * scale).collect()
    }
}

/// Fails unless `got` is `want` up to a relative squared error of `bound`.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    let norm: f64 = want.iter().map(|w| w * w).sum();
    let ratio = error / norm.max(1e-30);
    assert!(
        ratio <= bound && got.iter().all(|g| g.is_finite()),
        "{what}: relative squared error {ratio:.3e} > {bound:.1e}"
    );
}

pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}
