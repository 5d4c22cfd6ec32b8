//! The devices from outside: buffers, order, errors.

mod common;

use dq_gpu::device::Device;

#[test]
fn what_is_written_is_read() {
    for device in common::devices() {
        let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let buffer = device.upload("values", &values).unwrap();
        assert_eq!(buffer.bytes(), 4000);
        assert_eq!(device.read::<f32>(&buffer).unwrap(), values);
        device.write(&buffer, 400, &[-1.0f32, -2.0]).unwrap();
        assert_eq!(device.read_range::<f32>(&buffer, 396, 4).unwrap(), [99.0, -1.0, -2.0, 102.0]);
    }
}

#[test]
fn bytes_are_padded_to_words_and_fresh_buffers_are_zero() {
    for device in common::devices() {
        let buffer = device.upload("bytes", &[1u8, 2, 3, 4, 5]).unwrap();
        assert_eq!(device.read::<u8>(&buffer).unwrap(), [1, 2, 3, 4, 5, 0, 0, 0]);
        assert_eq!(device.read_range::<u8>(&buffer, 0, 5).unwrap(), [1, 2, 3, 4, 5]);
        let fresh = device.alloc("fresh", 10).unwrap();
        assert_eq!(device.read::<u32>(&fresh).unwrap(), [0, 0, 0]);
        assert_eq!(device.read::<u32>(&device.alloc("empty", 0).unwrap()).unwrap(), [0]);
    }
}

#[test]
fn commands_keep_their_order() {
    for device in common::devices() {
        let a = device.upload("a", &[1u32, 2, 3, 4]).unwrap();
        let b = device.alloc("b", 16).unwrap();
        // The copy must see what was there before the write that follows it.
        device.copy(&a, 0, &b, 8, 8).unwrap();
        device.write(&a, 0, &[9u32, 9]).unwrap();
        device.copy(&a, 4, &b, 0, 8).unwrap();
        assert_eq!(device.read::<u32>(&b).unwrap(), [9, 3, 1, 2]);
    }
}

#[test]
fn ranges_are_checked() {
    for device in common::devices() {
        let a = device.alloc("a", 16).unwrap();
        let b = device.alloc("b", 16).unwrap();
        assert!(device.write(&a, 12, &[0u32, 0]).is_err());
        assert!(device.write(&a, 2, &[0u16]).is_err());
        assert!(device.read_range::<u32>(&a, 8, 3).is_err());
        assert!(device.read_range::<u32>(&a, usize::MAX - 3, 3).is_err());
        assert!(device.copy(&a, 0, &b, 12, 8).is_err());
        assert!(device.copy(&a, 0, &a, 8, 4).is_err());
        assert_eq!(device.read::<u32>(&a).unwrap(), [0; 4], "a refused command leaves the device usable");
    }
}

#[test]
fn the_cpu_is_always_there() {
    let device = Device::open("cpu").unwrap();
    assert!(!device.is_gpu());
    assert_eq!(device.max_binding_bytes(), usize::MAX);
    assert!(Device::open("no such adapter").is_err());
    let rows = Device::list();
    assert_eq!(rows.iter().filter(|row| row.chosen).count(), 1, "{rows:?}");
    assert!(rows.last().unwrap().index.is_none());
}

#[test]
fn a_gpu_buffer_beyond_memory_is_an_error() {
    let Some(device) = common::gpu() else { return };
    let error = device.alloc("huge", 1 << 45).map(|_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("huge"), "{error:#}");
    assert_eq!(device.read::<u32>(&device.upload("small", &[7u32]).unwrap()).unwrap(), [7]);
}
