//! The wgpu device: portable limits, cached pipelines, errors turned into `Err`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::fault::Injected;
use super::submit::Recorder;
use super::{Buffer, MAX_BINDING_BYTES, out_of_memory, shader};
use crate::quant::GgmlType;
use crate::quant::codebook::tables::device_tables;

/// The bytes that a kernel's parameters may take in the uniform slot of a dispatch.
pub(super) const SLOT_BYTES: usize = 256;

/// Inner loops that naga's bounds checks and loop counters slow down a lot on Metal (by a third in a published
/// measurement, https://github.com/FL33TW00D/wgpu-mm).
const TRUSTED: &[&str] = &[
    "attention",
    "attention_backward_kv",
    "attention_backward_q",
    "attention_stats",
    "gram",
    "matmul",
    "matmul_transposed",
];

/// A kernel to run over a one-dimensional grid of workgroups.
pub struct Call<'a> {
    /// Name of the file under `shaders/`.
    pub shader: &'static str,
    /// What `#import weight` means.
    pub weight: Option<GgmlType>,
    pub overrides: &'a [(&'static str, f64)],
    /// Storage buffers, bound from `@binding(1)` on. All must be used by the shader.
    pub bindings: &'a [&'a Buffer],
    /// The fields of the shader's `Params` after `grid`.
    pub params: &'a [u8],
    /// Number of workgroups. They must not depend on each other.
    pub groups: usize,
    /// Arithmetic operations of one workgroup, roughly: long grids are cut so that no dispatch takes long.
    pub group_cost: f64,
}

/// A GPU. Clones share it.
#[derive(Clone)]
pub struct GpuDevice {
    inner: Arc<Inner>,
    max_binding_bytes: usize,
    injected: Option<Arc<Injected>>,
}

struct Inner {
    device: wgpu::Device,
    name: String,
    faults: Arc<Faults>,
    pipelines: Mutex<HashMap<PipelineKey, Pipeline>>,
    recorder: Mutex<Recorder>,
    /// The codewords of the IQ formats, for shaders that read them.
    codewords: wgpu::Buffer,
}

/// Shader, weight type, overrides by their bits.
type PipelineKey = (&'static str, Option<GgmlType>, Vec<(&'static str, u64)>);

#[derive(Clone)]
struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    /// What it reads besides its bindings.
    codewords: Option<wgpu::BindGroup>,
    /// Which of the bindings it writes.
    written: Arc<[usize]>,
}

/// What went wrong outside of any call: wgpu reports most errors through callbacks.
#[derive(Default)]
pub(super) struct Faults {
    /// An error that may be the caller's, reported once.
    error: Mutex<Option<String>>,
    /// The device is gone, reported for ever.
    lost: Mutex<Option<String>>,
}

impl Faults {
    fn note_error(&self, message: String) {
        lock(&self.error).get_or_insert(message);
    }

    pub(super) fn note_loss(&self, message: String) {
        lock(&self.lost).get_or_insert(message);
    }

    pub(super) fn check(&self) -> Result<()> {
        if let Some(message) = lock(&self.lost).as_ref() {
            bail!("the GPU was lost: {message}");
        }
        if let Some(message) = lock(&self.error).take() {
            bail!("the GPU reported an error: {message}");
        }
        Ok(())
    }
}

/// A panic elsewhere leaves our plain data usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, thiserror::Error)]
#[error("out of memory")]
struct Full;

/// Runs `make`; a validation or memory error becomes `Err`.
fn scoped<T>(device: &wgpu::Device, make: impl FnOnce() -> T) -> Result<T> {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let made = make();
    let invalid = pollster::block_on(validation.pop());
    let full = pollster::block_on(memory.pop());
    match (full, invalid) {
        (Some(_), _) => Err(Full.into()),
        (None, Some(error)) => bail!("{error}"),
        (None, None) => Ok(made),
    }
}

impl GpuDevice {
    /// Requests a device with the default limits of WebGPU, so that a kernel that runs here runs anywhere.
    /// Only buffers may be larger: kernels see at most [`MAX_BINDING_BYTES`] of one.
    pub(super) fn open(adapter: &wgpu::Adapter) -> Result<GpuDevice> {
        let offered = adapter.limits();
        let limits = wgpu::Limits { max_buffer_size: offered.max_buffer_size, ..wgpu::Limits::default() };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("dq-gpu"),
            required_features: wgpu::Features::empty(),
            required_limits: limits,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let request = pollster::block_on(adapter.request_device(&descriptor));
        let (device, queue) = request.context("the adapter does not offer a device with WebGPU's default limits")?;

        let faults = Arc::new(Faults::default());
        let noted = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| noted.note_error(error.to_string())));
        let noted = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                noted.note_loss(message);
            }
        });

        let codewords = scoped(&device, || {
            let tables = device_tables();
            let descriptor = wgpu::BufferDescriptor {
                label: Some("codewords"),
                size: 4 * tables.len() as u64,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            };
            let buffer = device.create_buffer(&descriptor);
            queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&tables));
            buffer
        })?;
        let sentinel = build_pipeline(&device, &codewords, "status", None, &[])?.pipeline;
        let info = adapter.get_info();
        let timeout = Duration::from_secs(if info.device_type == wgpu::DeviceType::Cpu { 600 } else { 60 });
        let recorder =
            scoped(&device, || Recorder::new(device.clone(), queue.clone(), faults.clone(), sentinel, timeout))?;
        let max_binding = usize::try_from(offered.max_storage_buffer_binding_size).unwrap_or(usize::MAX);
        let inner = Inner {
            device,
            name: format!("{} ({})", info.name, info.backend),
            faults,
            pipelines: Mutex::default(),
            recorder: Mutex::new(recorder),
            codewords,
        };
        Ok(GpuDevice { inner: Arc::new(inner), max_binding_bytes: max_binding.min(MAX_BINDING_BYTES), injected: None })
    }

    pub(super) fn with_max_binding_bytes(&self, bytes: usize) -> GpuDevice {
        GpuDevice { max_binding_bytes: bytes.clamp(4, self.max_binding_bytes), ..self.clone() }
    }

    pub(super) fn with_injected(&self, injected: Option<Arc<Injected>>) -> GpuDevice {
        GpuDevice { injected, ..self.clone() }
    }

    pub(super) fn injected(&self) -> Option<&Arc<Injected>> {
        self.injected.as_ref()
    }

    pub(super) fn max_binding_bytes(&self) -> usize {
        self.max_binding_bytes
    }

    pub(super) fn name(&self) -> &str {
        &self.inner.name
    }

    pub(super) fn create_buffer(&self, label: &str, bytes: usize) -> Result<wgpu::Buffer> {
        self.inner.faults.check()?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size: bytes as u64, usage, mapped_at_creation: false };
        scoped(&self.inner.device, || self.inner.device.create_buffer(&descriptor)).map_err(|error| {
            match error.is::<Full>() {
                true => out_of_memory(label, bytes, &self.inner.name),
                false => error.context(format!("allocating buffer `{label}` of {bytes} bytes on {}", self.inner.name)),
            }
        })
    }

    pub(super) fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        self.recorder()?.write(buffer.id, buffer.gpu()?, offset, bytes)
    }

    pub(super) fn copy(&self, src: &Buffer, src_off: usize, dst: &Buffer, dst_off: usize, bytes: usize) -> Result<()> {
        let (from, to) = (src.gpu()?, dst.gpu()?);
        self.recorder()?.copy((src.id, from, src_off), (dst.id, to, dst_off), bytes)
    }

    pub(super) fn read(&self, buffer: &Buffer, offset: usize, target: &mut [u8]) -> Result<()> {
        self.recorder()?.read(buffer.gpu()?, offset, target)
    }

    pub(super) fn flush(&self) -> Result<()> {
        self.recorder()?.submit()?;
        self.inner.faults.check()
    }

    /// Records a kernel. It runs at the next flush or read, or earlier when enough work has gathered.
    pub fn run(&self, call: &Call) -> Result<()> {
        if call.groups == 0 {
            return Ok(());
        }
        let mut bindings = Vec::with_capacity(call.bindings.len());
        for buffer in call.bindings {
            ensure!(
                buffer.bytes <= self.max_binding_bytes,
                "buffer `{}` of {} bytes is larger than a kernel of {} may see: {} bytes",
                buffer.label,
                buffer.bytes,
                self.inner.name,
                self.max_binding_bytes
            );
            bindings.push((buffer.id, buffer.gpu()?));
        }
        ensure!(call.params.len() <= SLOT_BYTES - 16, "the parameters of `{}` do not fit a slot", call.shader);
        let groups =
            u32::try_from(call.groups).with_context(|| format!("the grid of `{}` is too long", call.shader))?;
        let pipeline = self.pipeline(call.shader, call.weight, call.overrides)?;
        for &written in pipeline.written.iter() {
            let target = call.bindings[written];
            ensure!(
                call.bindings.iter().filter(|buffer| buffer.is_same(target)).count() == 1,
                "buffer `{}` is both read and written by one kernel",
                target.label
            );
        }
        self.recorder()?.dispatch(
            (&pipeline.pipeline, pipeline.codewords.as_ref()),
            &bindings,
            call.params,
            groups,
            call.group_cost,
        )
    }

    fn recorder(&self) -> Result<MutexGuard<'_, Recorder>> {
        self.inner.faults.check()?;
        Ok(lock(&self.inner.recorder))
    }

    fn pipeline(
        &self,
        shader: &'static str,
        weight: Option<GgmlType>,
        overrides: &[(&'static str, f64)],
    ) -> Result<Pipeline> {
        let weight = if shader::reads_weight(shader)? { weight } else { None };
        let bits = overrides.iter().map(|(name, value)| (*name, value.to_bits())).collect();
        let key = (shader, weight, bits);
        if let Some(pipeline) = lock(&self.inner.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = build_pipeline(&self.inner.device, &self.inner.codewords, shader, weight, overrides)?;
        lock(&self.inner.pipelines).insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

fn build_pipeline(
    device: &wgpu::Device,
    codewords: &wgpu::Buffer,
    shader: &'static str,
    weight: Option<GgmlType>,
    overrides: &[(&'static str, f64)],
) -> Result<Pipeline> {
    let source = shader::compose(shader, weight)?;
    let reads_codewords = shader::reads_codewords(&source);
    let written = shader::written_bindings(&source).into();
    let make = || {
        let source = wgpu::ShaderSource::Wgsl(source.into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(shader), source };
        let module = if cfg!(not(debug_assertions)) && TRUSTED.contains(&shader) {
            // SAFETY: these shaders guard every access by sizes that the host has checked against the buffers, and
            // their loops end; debug builds and tests run them with checks.
            unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        } else {
            device.create_shader_module(descriptor)
        };
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader),
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: overrides,
                // Metal zero-fills in one thread; every kernel writes workgroup memory before it reads.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    };
    let pipeline = scoped(device, make).with_context(|| format!("compiling shader `{shader}`"))?;
    let codewords = reads_codewords.then(|| {
        let entry = wgpu::BindGroupEntry { binding: 0, resource: codewords.as_entire_binding() };
        let layout = pipeline.get_bind_group_layout(1);
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("codewords"),
            layout: &layout,
            entries: &[entry],
        })
    });
    Ok(Pipeline { pipeline, codewords, written })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    /// A device of its own, since these tests break it.
    fn own_gpu() -> Option<(Device, GpuDevice)> {
        let opened = Device::open("llvmpipe");
        let required = std::env::var("DQ_GPU_REQUIRE_ADAPTER").is_ok_and(|value| value == "1");
        match opened {
            Ok(Device::Gpu(gpu)) => Some((Device::Gpu(gpu.clone()), gpu)),
            _ if required => panic!("an adapter is required"),
            _ => {
                println!("skipped: no llvmpipe");
                None
            }
        }
    }

    #[test]
    fn a_dropped_submission_is_an_error_once() {
        let Some((device, gpu)) = own_gpu() else { return };
        let buffer = device.upload("values", &[1u32, 2]).unwrap();
        device.flush().unwrap();
        lock(&gpu.inner.recorder).lose_a_submission();
        let error = device.read::<u32>(&buffer).unwrap_err().to_string();
        assert!(error.contains("dropped 1 of 3 submissions"), "{error}");
        assert_eq!(device.read::<u32>(&buffer).unwrap(), [1, 2]);
    }

    #[test]
    fn a_lost_device_fails_every_call() {
        let Some((device, gpu)) = own_gpu() else { return };
        let buffer = device.upload("values", &[1u32]).unwrap();
        gpu.inner.faults.note_loss("unplugged".into());
        let message = |error: anyhow::Error| format!("{error:#}");
        for error in [
            message(device.read::<u32>(&buffer).unwrap_err()),
            message(device.flush().unwrap_err()),
            message(device.alloc("more", 4).map(|_| ()).unwrap_err()),
        ] {
            assert!(error.contains("unplugged"), "{error}");
        }
    }

    #[test]
    fn an_error_of_wgpu_is_reported_and_the_device_goes_on() {
        let Some((device, gpu)) = own_gpu() else { return };
        let buffer = device.upload("values", &[1u32, 2]).unwrap();
        // A copy beyond the end, past our own checks.
        let raw = buffer.gpu().unwrap();
        let other = device.alloc("other", 8).unwrap();
        let (from, to) = ((buffer.id, raw, 4), (other.id, other.gpu().unwrap(), 0));
        lock(&gpu.inner.recorder).copy(from, to, 64).unwrap();
        let error = format!("{:#}", device.flush().unwrap_err());
        assert!(error.contains("reported an error"), "{error}");
        assert!(device.read::<u32>(&buffer).is_err(), "that submission was dropped");
        assert_eq!(device.read::<u32>(&buffer).unwrap(), [1, 2]);
    }

    #[test]
    fn pipelines_are_cached_by_shader_weight_and_overrides() {
        let Some((_, gpu)) = own_gpu() else { return };
        for tile in [32.0, 64.0, 32.0] {
            gpu.pipeline("gram", None, &[("TILE_A", tile)]).unwrap();
        }
        gpu.pipeline("gram", Some(GgmlType::F16), &[("TILE_A", 32.0)]).unwrap();
        assert_eq!(lock(&gpu.inner.pipelines).len(), 2);
        let error = format!("{:#}", gpu.pipeline("gram", None, &[("NO_SUCH", 1.0)]).map(|_| ()).unwrap_err());
        assert!(error.contains("gram"), "{error}");
    }
}
