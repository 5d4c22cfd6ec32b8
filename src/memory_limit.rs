//! An allocator that can be given a limit, for the process that runs other people's chat templates.
//!
//! `setrlimit` would do on Linux alone: macOS does not enforce it and Windows has none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// The system's allocator until [`set`] is called; from then on, what would pass the limit is refused.
pub struct Allocator;

static LIMITED: AtomicBool = AtomicBool::new(false);
/// Bytes that may still be allocated.
static LEFT: AtomicIsize = AtomicIsize::new(isize::MAX);

/// From now on at most `bytes` more than now may be allocated. Passing that ends the program.
///
/// It has no effect in a program whose global allocator is not [`Allocator`].
pub fn set(bytes: usize) {
    LEFT.store(isize::try_from(bytes).unwrap_or(isize::MAX), Ordering::Relaxed);
    LIMITED.store(true, Ordering::Relaxed);
}

/// Takes `bytes` from what is left, or nothing if there is less.
fn take(bytes: usize) -> bool {
    let Ok(bytes) = isize::try_from(bytes) else { return false };
    if LEFT.fetch_sub(bytes, Ordering::Relaxed) >= bytes {
        return true;
    }
    LEFT.fetch_add(bytes, Ordering::Relaxed);
    false
}

fn give(bytes: usize) {
    // a layout never has more than isize::MAX bytes
    LEFT.fetch_add(bytes as isize, Ordering::Relaxed);
}

// SAFETY: every block is the system allocator's, with the layout that the caller gave; a refusal is a null pointer.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if LIMITED.load(Ordering::Relaxed) && !take(layout.size()) {
            return null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if LIMITED.load(Ordering::Relaxed) && !take(layout.size()) {
            return null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if LIMITED.load(Ordering::Relaxed) {
            give(layout.size());
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if LIMITED.load(Ordering::Relaxed) {
            if !take(size) {
                return null_mut();
            }
            give(layout.size());
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(block, layout, size) }
    }
}
