//! The two devices: wgpu and CPU.
