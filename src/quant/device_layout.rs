//! How quantized bytes lie on a device: every block padded to whole 32-bit words, so that shaders read aligned words.

use super::GgmlType;

/// Bytes of a block on the device: those of the file rounded up to a multiple of 4. Plain types are not padded.
pub fn device_block_bytes(ty: GgmlType) -> usize {
    if ty.is_quantized() { ty.block_bytes().next_multiple_of(4) } else { ty.block_bytes() }
}

/// File bytes to device bytes. `bytes` holds whole blocks; padding is zero.
pub fn pad_blocks(ty: GgmlType, bytes: &[u8]) -> Vec<u8> {
    let (from, to) = (ty.block_bytes(), device_block_bytes(ty));
    if from == to {
        return bytes.to_vec();
    }
    let mut out = vec![0; bytes.len() / from * to];
    for (out, block) in out.chunks_exact_mut(to).zip(bytes.chunks_exact(from)) {
        out[..from].copy_from_slice(block);
    }
    out
}

/// Device bytes to file bytes.
pub fn strip_blocks(ty: GgmlType, bytes: &[u8]) -> Vec<u8> {
    let (to, from) = (ty.block_bytes(), device_block_bytes(ty));
    if from == to {
        return bytes.to_vec();
    }
    let mut out = Vec::with_capacity(bytes.len() / from * to);
    for block in bytes.chunks_exact(from) {
        out.extend_from_slice(&block[..to]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_padded_to_words_and_back() {
        for (ty, padded) in [(GgmlType::Q4_0, 20), (GgmlType::Q8_0, 36), (GgmlType::Q3_K, 112), (GgmlType::Q4_K, 144)] {
            assert_eq!(device_block_bytes(ty), padded);
            let bytes: Vec<u8> = (0..3 * ty.block_bytes()).map(|i| i as u8).collect();
            let device = pad_blocks(ty, &bytes);
            assert_eq!(device.len(), 3 * padded);
            assert_eq!(device[padded], bytes[ty.block_bytes()]);
            assert_eq!(strip_blocks(ty, &device), bytes);
        }
        assert_eq!(pad_blocks(GgmlType::F16, &[1, 2, 3, 4, 5, 6]), [1, 2, 3, 4, 5, 6]);
    }
}
