//! The two devices behind one interface: a GPU through wgpu, and the CPU.
//! `adapter` chooses, `gpu` and `submit` record and run, `cpu` keeps host buffers, `shader` composes WGSL.
//! Kernels (`crate::kernels`) are the only code that looks inside a [`Device`].

mod adapter;
mod cpu;
mod fault;
mod gpu;
pub mod shader;
mod submit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytemuck::Pod;

pub use adapter::{AdapterFacts, AdapterReport, Choice, Kind, choose};
pub use cpu::{CpuDevice, View, ViewMut};
#[doc(hidden)]
pub use fault::Fault;
use fault::{Held, Injected};
pub use gpu::{Call, GpuDevice};

/// No storage binding is larger, whatever the adapter allows: the portable default of WebGPU.
pub const MAX_BINDING_BYTES: usize = 128 << 20;

/// Where buffers live and kernels run. Clones share the device.
#[derive(Clone)]
pub enum Device {
    Cpu(CpuDevice),
    Gpu(GpuDevice),
}

/// A piece of device memory, a whole number of 32-bit words. Clones share the memory.
#[derive(Clone)]
pub struct Buffer {
    label: Arc<str>,
    bytes: usize,
    id: u64,
    storage: Storage,
    /// Only on a device that a test lets run out of memory.
    _held: Option<Arc<Held>>,
}

#[derive(Clone)]
enum Storage {
    Cpu(Arc<cpu::Words>),
    Gpu(wgpu::Buffer),
}

impl Buffer {
    fn new(label: &str, bytes: usize, storage: Storage, held: Option<Held>) -> Buffer {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Buffer {
            label: label.into(),
            bytes,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            storage,
            _held: held.map(Arc::new),
        }
    }

    /// Size in bytes, a multiple of 4.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The name given at its creation, for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether both names mean the same memory.
    pub fn is_same(&self, other: &Buffer) -> bool {
        self.id == other.id
    }

    /// Fails unless the buffer holds at least `count` values of 4 bytes; `role` names it in the message.
    pub fn expect_words(&self, role: &str, count: usize) -> Result<()> {
        ensure!(
            self.bytes / 4 >= count,
            "buffer `{}` is too small to be {role}: {} words, {count} needed",
            self.label,
            self.bytes / 4
        );
        Ok(())
    }

    /// The contents on the CPU device. Fails for a GPU buffer, or while a kernel writes it.
    pub fn view<T: Pod>(&self) -> Result<View<'_, T>> {
        View::new(self.words()?, &self.label)
    }

    /// The contents on the CPU device, to be written. Fails for a GPU buffer, or while anything else uses it.
    pub fn view_mut<T: Pod>(&self) -> Result<ViewMut<'_, T>> {
        ViewMut::new(self.words()?, &self.label)
    }

    fn words(&self) -> Result<&cpu::Words> {
        match &self.storage {
            Storage::Cpu(words) => Ok(words),
            Storage::Gpu(_) => bail!("buffer `{}` lives on a GPU but a CPU kernel was called", self.label),
        }
    }

    fn gpu(&self) -> Result<&wgpu::Buffer> {
        match &self.storage {
            Storage::Gpu(buffer) => Ok(buffer),
            Storage::Cpu(_) => bail!("buffer `{}` lives on the CPU but a GPU kernel was called", self.label),
        }
    }

    fn check_range(&self, offset: usize, bytes: usize) -> Result<()> {
        ensure!(offset.is_multiple_of(4), "offset in buffer `{}` is not word-aligned: `{offset}`", self.label);
        ensure!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "range {offset}+{bytes} is outside of buffer `{}` of {} bytes",
            self.label,
            self.bytes
        );
        Ok(())
    }
}

impl Device {
    /// Opens the device that the user named: `auto`, `cpu`, `gpu`, the index or a part of the name of an adapter.
    ///
    /// `auto` takes the best GPU and falls back to the CPU with a note; `gpu` fails without one. Software adapters
    /// (llvmpipe) are taken only by name. `WGPU_BACKEND` and `WGPU_ADAPTER_NAME` are honoured.
    pub fn open(choice: &str) -> Result<Device> {
        adapter::open(choice)
    }

    /// The CPU device.
    pub fn cpu() -> Device {
        Device::Cpu(CpuDevice::default())
    }

    /// The same device, bound to fail.
    #[doc(hidden)]
    pub fn with_fault(&self, fault: Fault) -> Device {
        let injected = Some(Injected::new(fault));
        match self {
            Device::Cpu(cpu) => Device::Cpu(cpu.with_injected(injected)),
            Device::Gpu(gpu) => Device::Gpu(gpu.with_injected(injected)),
        }
    }

    fn injected(&self) -> Option<&Arc<Injected>> {
        match self {
            Device::Cpu(cpu) => cpu.injected(),
            Device::Gpu(gpu) => gpu.injected(),
        }
    }

    /// Fails if a test wants it to.
    fn check(&self) -> Result<()> {
        self.injected().map_or(Ok(()), |injected| injected.call())
    }

    /// Every adapter and the CPU, with what each can do and which one `auto` takes.
    pub fn list() -> Vec<AdapterReport> {
        adapter::list()
    }

    pub fn name(&self) -> String {
        match self {
            Device::Cpu(cpu) => cpu.name(),
            Device::Gpu(gpu) => gpu.name().to_owned(),
        }
    }

    pub fn is_gpu(&self) -> bool {
        matches!(self, Device::Gpu(_))
    }

    /// The same device with a smaller limit on bindings, so that weights fall into more slabs.
    pub fn with_max_binding_bytes(&self, bytes: usize) -> Device {
        match self {
            Device::Cpu(cpu) => Device::Cpu(cpu.with_max_binding_bytes(bytes)),
            Device::Gpu(gpu) => Device::Gpu(gpu.with_max_binding_bytes(bytes)),
        }
    }

    /// The largest buffer that one kernel can see; larger matrices are cut into slabs of rows.
    pub fn max_binding_bytes(&self) -> usize {
        match self {
            Device::Cpu(cpu) => cpu.max_binding_bytes(),
            Device::Gpu(gpu) => gpu.max_binding_bytes(),
        }
    }

    /// A zeroed buffer of at least `bytes` bytes, rounded up to whole words (one at least).
    pub fn alloc(&self, label: &str, bytes: usize) -> Result<Buffer> {
        self.check()?;
        let bytes = bytes.max(1).next_multiple_of(4);
        let held = self.injected().map(|injected| injected.hold(label, bytes)).transpose()?;
        let storage = match self {
            Device::Cpu(cpu) => {
                let words = cpu::Words::zeroed(bytes / 4).ok_or_else(|| out_of_memory(label, bytes, &cpu.name()))?;
                Storage::Cpu(words)
            }
            Device::Gpu(gpu) => Storage::Gpu(gpu.create_buffer(label, bytes)?),
        };
        Ok(Buffer::new(label, bytes, storage, held))
    }

    /// A buffer holding `data`, padded with zeros to whole words.
    pub fn upload<T: Pod>(&self, label: &str, data: &[T]) -> Result<Buffer> {
        let buffer = self.alloc(label, size_of_val(data))?;
        self.write(&buffer, 0, data)?;
        Ok(buffer)
    }

    /// Overwrites part of a buffer, after everything recorded before. A ragged tail zeroes the rest of its word.
    pub fn write<T: Pod>(&self, buffer: &Buffer, offset_bytes: usize, data: &[T]) -> Result<()> {
        self.check()?;
        let bytes: &[u8] = bytemuck::cast_slice(data);
        buffer.check_range(offset_bytes, bytes.len().next_multiple_of(4))?;
        match self {
            Device::Cpu(_) => {
                let mut view = buffer.view_mut::<u8>()?;
                view[offset_bytes..offset_bytes + bytes.len()].copy_from_slice(bytes);
                view[offset_bytes + bytes.len()..offset_bytes + bytes.len().next_multiple_of(4)].fill(0);
                Ok(())
            }
            Device::Gpu(gpu) => gpu.write(buffer, offset_bytes, bytes),
        }
    }

    /// The whole buffer, once everything recorded has run. Fails if the device failed or a submission was dropped.
    pub fn read<T: Pod>(&self, buffer: &Buffer) -> Result<Vec<T>> {
        self.read_range(buffer, 0, buffer.bytes / size_of::<T>())
    }

    /// `count` values from `offset_bytes` on, once everything recorded has run.
    pub fn read_range<T: Pod>(&self, buffer: &Buffer, offset_bytes: usize, count: usize) -> Result<Vec<T>> {
        self.check()?;
        let bytes = count.checked_mul(size_of::<T>()).context("the range to read overflows")?;
        buffer.check_range(offset_bytes, bytes)?;
        let mut out = vec![T::zeroed(); count];
        let target: &mut [u8] = bytemuck::cast_slice_mut(&mut out);
        match self {
            Device::Cpu(_) => target.copy_from_slice(&buffer.view::<u8>()?[offset_bytes..offset_bytes + bytes]),
            Device::Gpu(gpu) => gpu.read(buffer, offset_bytes, target)?,
        }
        Ok(out)
    }

    /// Copies bytes between two different buffers; offsets and size are multiples of 4.
    pub fn copy(&self, src: &Buffer, src_off: usize, dst: &Buffer, dst_off: usize, bytes: usize) -> Result<()> {
        self.check()?;
        ensure!(bytes.is_multiple_of(4), "copy from buffer `{}` is not of whole words: `{bytes}`", src.label);
        ensure!(!src.is_same(dst), "buffer `{}` cannot be copied onto itself", src.label);
        src.check_range(src_off, bytes)?;
        dst.check_range(dst_off, bytes)?;
        match self {
            Device::Cpu(_) => {
                let (from, mut to) = (src.view::<u8>()?, dst.view_mut::<u8>()?);
                to[dst_off..dst_off + bytes].copy_from_slice(&from[src_off..src_off + bytes]);
                Ok(())
            }
            Device::Gpu(gpu) => gpu.copy(src, src_off, dst, dst_off, bytes),
        }
    }

    /// Sends everything recorded to the device, without waiting. Nothing to do on the CPU.
    pub fn flush(&self) -> Result<()> {
        match self {
            Device::Cpu(_) => Ok(()),
            Device::Gpu(gpu) => gpu.flush(),
        }
    }
}

/// What to say, and what can be done, where a buffer finds no room.
fn out_of_memory(label: &str, bytes: usize, device: &str) -> anyhow::Error {
    anyhow!(
        "no memory is left for buffer `{label}` of {:.1} MiB on {device}: a smaller --memory or --ctx, or --device cpu, needs less",
        bytes as f64 / f64::from(1 << 20)
    )
}
