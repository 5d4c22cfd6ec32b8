//! The CPU device: buffers are vectors of words behind a lock, kernels are their CPU twins on rayon.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Result, anyhow};
use bytemuck::Pod;

use super::fault::Injected;

/// Storage of one buffer. Words, so that f32, u32 and bytes can all be viewed in place.
pub(super) struct Words(RwLock<Vec<u32>>);

impl Words {
    /// None if there is no memory for it.
    pub(super) fn zeroed(count: usize) -> Option<Arc<Words>> {
        let words = bytemuck::allocation::try_zeroed_vec(count).ok()?;
        Some(Arc::new(Words(RwLock::new(words))))
    }
}

#[derive(Clone)]
pub struct CpuDevice {
    max_binding_bytes: usize,
    injected: Option<Arc<Injected>>,
}

impl Default for CpuDevice {
    fn default() -> Self {
        CpuDevice { max_binding_bytes: usize::MAX, injected: None }
    }
}

impl CpuDevice {
    pub(super) fn with_max_binding_bytes(&self, bytes: usize) -> CpuDevice {
        CpuDevice { max_binding_bytes: bytes.max(4), ..self.clone() }
    }

    pub(super) fn with_injected(&self, injected: Option<Arc<Injected>>) -> CpuDevice {
        CpuDevice { injected, ..self.clone() }
    }

    pub(super) fn injected(&self) -> Option<&Arc<Injected>> {
        self.injected.as_ref()
    }

    pub(super) fn max_binding_bytes(&self) -> usize {
        self.max_binding_bytes
    }

    pub(super) fn name(&self) -> String {
        format!("CPU ({} threads)", rayon::current_num_threads())
    }
}

/// A buffer of the CPU device, locked for reading and seen as values of `T` (alignment 4 or less).
pub struct View<'a, T> {
    guard: RwLockReadGuard<'a, Vec<u32>>,
    kind: std::marker::PhantomData<T>,
}

/// A buffer of the CPU device, locked for writing and seen as values of `T` (alignment 4 or less).
pub struct ViewMut<'a, T> {
    guard: RwLockWriteGuard<'a, Vec<u32>>,
    kind: std::marker::PhantomData<T>,
}

/// A kernel that gets one buffer twice would wait for itself, so a held lock is an error.
fn busy(label: &str) -> anyhow::Error {
    anyhow!("buffer `{label}` is both read and written by one kernel")
}

impl<'a, T: Pod> View<'a, T> {
    pub(super) fn new(words: &'a Words, label: &str) -> Result<Self> {
        const { assert!(align_of::<T>() <= 4) };
        Ok(View { guard: words.0.try_read().map_err(|_| busy(label))?, kind: std::marker::PhantomData })
    }
}

impl<'a, T: Pod> ViewMut<'a, T> {
    pub(super) fn new(words: &'a Words, label: &str) -> Result<Self> {
        const { assert!(align_of::<T>() <= 4) };
        Ok(ViewMut { guard: words.0.try_write().map_err(|_| busy(label))?, kind: std::marker::PhantomData })
    }
}

impl<T: Pod> Deref for View<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.guard)
    }
}

impl<T: Pod> Deref for ViewMut<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.guard)
    }
}

impl<T: Pod> DerefMut for ViewMut<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.guard)
    }
}
