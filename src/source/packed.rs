//! Tensors that a checkpoint keeps in fewer bits, beside their scales: presented as ggml has them.

use std::ops::Range;

use anyhow::{Result, ensure};

use crate::quant::GgmlType;

/// Some bytes of one of a container's files.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) bytes: Range<u64>,
}

/// Where a tensor's content is, and what it is kept in.
#[derive(Clone, Debug)]
pub(super) enum Packing {
    /// As it is presented.
    None,
    /// Floats of 8 bits (e4m3), `[rows, cols]`, presented in BF16 as llama.cpp's converter has them.
    Fp8 { cols: u64, scales: Option<Scales> },
    /// Floats of 4 bits, two in a byte, 32 of them with a scale at another place; presented in the blocks of MXFP4.
    Mxfp4 { scales: Place },
}

/// Numbers that the weights of a block are multiplied by, `[block rows, block cols]`.
#[derive(Clone, Debug)]
pub(super) struct Scales {
    pub(super) place: Place,
    pub(super) ty: GgmlType,
    pub(super) cols: u64,
    /// Rows and columns of a block.
    pub(super) block: [u64; 2],
}

/// Gives some of the bytes of a place.
type ReadPart<'a> = dyn Fn(&Place, Range<u64>) -> Result<Vec<u8>> + 'a;

/// Bytes of 32 codes, and of a block of MXFP4.
const CODES: u64 = 16;
const BLOCK: u64 = CODES + 1;

impl Packing {
    /// The bytes `range` of the tensor as it is presented; `read` gives those of a file.
    pub(super) fn read(
        &self,
        content: &Place,
        range: Range<u64>,
        read: &dyn Fn(&Place) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let part = |of: &Place, range: Range<u64>| {
            read(&Place { file: of.file, bytes: of.bytes.start + range.start..of.bytes.start + range.end })
        };
        match self {
            Packing::None => part(content, range),
            Packing::Fp8 { cols, scales } => {
                let elements = range.start / 2..range.end.div_ceil(2);
                let codes = part(content, elements.clone())?;
                let bytes = fp8_as_bf16(&codes, elements.start, *cols, scales.as_ref(), &part)?;
                let first = (range.start - 2 * elements.start) as usize;
                Ok(bytes[first..first + (range.end - range.start) as usize].to_vec())
            }
            Packing::Mxfp4 { scales } => {
                ensure!(range.start.is_multiple_of(BLOCK) && range.end.is_multiple_of(BLOCK), "blocks are read whole");
                let blocks = range.start / BLOCK..range.end / BLOCK;
                let codes = part(content, blocks.start * CODES..blocks.end * CODES)?;
                let scales = part(scales, blocks)?;
                let blocks = scales.into_iter().zip(codes.as_chunks::<{ CODES as usize }>().0);
                Ok(blocks.flat_map(|(scale, codes)| [scale].into_iter().chain(halves(codes))).collect())
            }
        }
    }
}

/// Codes of neighbours in a byte become codes 16 apart in a byte, as ggml has them.
fn halves(codes: &[u8; CODES as usize]) -> [u8; CODES as usize] {
    let code = |at: usize| codes[at / 2] >> (4 * (at % 2)) & 15;
    std::array::from_fn(|at| code(at) | code(at + CODES as usize) << 4)
}

/// Elements from number `first` on, in BF16.
fn fp8_as_bf16(codes: &[u8], first: u64, cols: u64, scales: Option<&Scales>, part: &ReadPart) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(2 * codes.len());
    let mut put = |value: f32| bytes.extend(half::bf16::from_f32(value).to_le_bytes());
    let Some(Scales { place, ty, cols: scale_cols, block }) = scales else {
        codes.iter().for_each(|code| put(e4m3(*code)));
        return Ok(bytes);
    };
    let last = first + codes.len() as u64;
    let block_rows = first / cols / block[0]..last.div_ceil(cols).div_ceil(block[0]);
    let row_bytes = ty.bytes_for(*scale_cols);
    let known = part(place, block_rows.start * row_bytes..block_rows.end * row_bytes)?;
    let mut factors = vec![0f32; known.len() / ty.bytes_for(1) as usize];
    crate::quant::decode(*ty, &known, &mut factors)?;
    for (element, code) in (first..).zip(codes) {
        let (row, col) = (element / cols / block[0] - block_rows.start, element % cols / block[1]);
        put(e4m3(*code) * factors[(row * scale_cols + col) as usize]);
    }
    Ok(bytes)
}

/// A float of 4 exponent and 3 fraction bits without infinities.
fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match exponent {
        15 if code & 7 == 7 => f32::NAN,
        0 => fraction / 8.0 * 2f32.powi(-6),
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if code >> 7 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_eight_bits_are_those_of_the_standard() {
        for (code, value) in
            [(0x00, 0.0), (0x01, 0.001_953_125), (0x08, 0.015_625), (0x38, 1.0), (0x7e, 448.0), (0xb8, -1.0)]
        {
            assert_eq!(e4m3(code), value, "{code:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    }

    #[test]
    fn any_part_of_a_packed_tensor_can_be_read() {
        // 3 x 4 weights in blocks of 2 x 2: file 0 holds codes, file 1 scales
        let files = [
            (0..12).map(|at| 0x38 + at).collect::<Vec<u8>>(),
            [1f32, 2.0, 4.0, 8.0].iter().flat_map(|s| s.to_le_bytes()).collect(),
        ];
        let read = |place: &Place| Ok(files[place.file][place.bytes.start as usize..place.bytes.end as usize].to_vec());
        let content = Place { file: 0, bytes: 0..12 };
        let scales = Scales { place: Place { file: 1, bytes: 0..16 }, ty: GgmlType::F32, cols: 2, block: [2, 2] };
        let packing = Packing::Fp8 { cols: 4, scales: Some(scales) };
        let all = packing.read(&content, 0..24, &read).unwrap();
        let values: Vec<f32> =
            all.as_chunks::<2>().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect();
        assert_eq!(values, [1.0, 1.125, 2.5, 2.75, 1.5, 1.625, 3.5, 3.75, 8.0, 9.0, 20.0, 22.0]);
        for range in [0..2, 3..9, 10..24, 17..18] {
            let part = packing.read(&content, range.clone(), &read).unwrap();
            assert_eq!(part, all[range.start as usize..range.end as usize]);
        }
    }

    #[test]
    fn codes_of_a_block_are_sixteen_apart() {
        let codes: Vec<u8> = (0..16).map(|at| at << 4 | (15 - at)).collect();
        let files = [codes, vec![7]];
        let read = |place: &Place| Ok(files[place.file][place.bytes.start as usize..place.bytes.end as usize].to_vec());
        let scales = Place { file: 1, bytes: 0..1 };
        let block = Packing::Mxfp4 { scales }.read(&Place { file: 0, bytes: 0..16 }, 0..17, &read).unwrap();
        assert_eq!(block[0], 7);
        // elements 0 and 16: the low halves of bytes 0 and 8; elements 1 and 17: the high ones
        assert_eq!((block[1], block[2]), (15 | 7 << 4, 8 << 4));
    }
}
