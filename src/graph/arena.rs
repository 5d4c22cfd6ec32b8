//! Activation buffers that every batch reuses, so that a pass allocates only for its first batch.

use std::cell::RefCell;

use anyhow::Result;

use crate::device::{Buffer, Device};

pub struct Arena {
    device: Device,
    slots: RefCell<Vec<Slot>>,
}

struct Slot {
    bytes: usize,
    buffer: Buffer,
    taken: bool,
}

impl Arena {
    pub fn new(device: &Device) -> Self {
        Arena { device: device.clone(), slots: RefCell::new(Vec::new()) }
    }

    /// A buffer of `[tokens, width]` f32 with undefined content, valid until [`Arena::reset`].
    pub fn take(&self, tokens: usize, width: usize) -> Result<Buffer> {
        let bytes = tokens * width * size_of::<f32>();
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.iter_mut().find(|slot| !slot.taken && slot.bytes == bytes) {
            slot.taken = true;
            return Ok(slot.buffer.clone());
        }
        let buffer = self.device.alloc("activations", bytes)?;
        slots.push(Slot { bytes, buffer: buffer.clone(), taken: true });
        Ok(buffer)
    }

    /// Every buffer handed out so far may be handed out again.
    pub fn reset(&self) {
        self.slots.borrow_mut().iter_mut().for_each(|slot| slot.taken = false);
    }
}
