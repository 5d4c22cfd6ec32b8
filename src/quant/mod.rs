//! Block formats: one file per format with its layout, decode and encode.
//! [`GgmlType`] names every type id that llama.cpp's reader accepts as a weight.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;

pub(crate) mod codebook;
mod codec;
pub mod device_layout;
mod e2m1;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod lanes;
pub mod lossless;
mod mxfp4;
mod nibbles;
mod nvfp4;
mod plain;
mod q1_0;
mod q2_0;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
pub mod recode;
mod refit;
pub mod round_rows;
mod search;
mod super_block;
mod ternary;
mod tq1_0;
mod tq2_0;
mod word_search;

/// A tensor type of ggml, by its id in the file (`ggml.h`, `enum ggml_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
#[repr(u32)]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
    Q2_0 = 42,
}

/// Name, weights per block, bytes per block.
const LAYOUT: &[(GgmlType, &str, usize, usize)] = &[
    (GgmlType::F32, "F32", 1, 4),
    (GgmlType::F16, "F16", 1, 2),
    (GgmlType::Q4_0, "Q4_0", 32, 18),
    (GgmlType::Q4_1, "Q4_1", 32, 20),
    (GgmlType::Q5_0, "Q5_0", 32, 22),
    (GgmlType::Q5_1, "Q5_1", 32, 24),
    (GgmlType::Q8_0, "Q8_0", 32, 34),
    (GgmlType::Q2_K, "Q2_K", 256, 84),
    (GgmlType::Q3_K, "Q3_K", 256, 110),
    (GgmlType::Q4_K, "Q4_K", 256, 144),
    (GgmlType::Q5_K, "Q5_K", 256, 176),
    (GgmlType::Q6_K, "Q6_K", 256, 210),
    (GgmlType::IQ2_XXS, "IQ2_XXS", 256, 66),
    (GgmlType::IQ2_XS, "IQ2_XS", 256, 74),
    (GgmlType::IQ3_XXS, "IQ3_XXS", 256, 98),
    (GgmlType::IQ1_S, "IQ1_S", 256, 50),
    (GgmlType::IQ4_NL, "IQ4_NL", 32, 18),
    (GgmlType::IQ3_S, "IQ3_S", 256, 110),
    (GgmlType::IQ2_S, "IQ2_S", 256, 82),
    (GgmlType::IQ4_XS, "IQ4_XS", 256, 136),
    (GgmlType::I8, "I8", 1, 1),
    (GgmlType::I16, "I16", 1, 2),
    (GgmlType::I32, "I32", 1, 4),
    (GgmlType::I64, "I64", 1, 8),
    (GgmlType::F64, "F64", 1, 8),
    (GgmlType::IQ1_M, "IQ1_M", 256, 56),
    (GgmlType::BF16, "BF16", 1, 2),
    (GgmlType::TQ1_0, "TQ1_0", 256, 54),
    (GgmlType::TQ2_0, "TQ2_0", 256, 66),
    (GgmlType::MXFP4, "MXFP4", 32, 17),
    (GgmlType::NVFP4, "NVFP4", 64, 36),
    (GgmlType::Q1_0, "Q1_0", 128, 18),
    (GgmlType::Q2_0, "Q2_0", 64, 18),
];

impl GgmlType {
    /// Every type that a GGUF may hold, in the order of their ids.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        LAYOUT.iter().map(|row| row.0)
    }

    /// The type with this id, if llama.cpp's reader knows it.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        Self::all().find(|ty| *ty as u32 == id)
    }

    /// The type with this name, in any case (`q4_k`, `IQ4_XS`, `bf16`).
    pub fn from_name(name: &str) -> Option<GgmlType> {
        LAYOUT.iter().find(|row| row.1.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    fn layout(self) -> &'static (GgmlType, &'static str, usize, usize) {
        LAYOUT.iter().find(|row| row.0 == self).expect("every type has a layout row")
    }

    /// The name used by llama.cpp, upper case.
    pub fn name(self) -> &'static str {
        self.layout().1
    }

    /// Weights per block.
    pub fn block_len(self) -> usize {
        self.layout().2
    }

    /// Bytes per block, as stored in a GGUF.
    pub fn block_bytes(self) -> usize {
        self.layout().3
    }

    /// Bits per weight.
    pub fn bpw(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// Bytes of `elements` weights; `elements` must be a multiple of the block length.
    pub fn bytes_for(self, elements: u64) -> u64 {
        debug_assert_eq!(elements % self.block_len() as u64, 0);
        elements / self.block_len() as u64 * self.block_bytes() as u64
    }

    /// Whether rows of this many columns can be stored in this type.
    pub fn fits(self, cols: usize) -> bool {
        cols.is_multiple_of(self.block_len())
    }

    /// True for block formats, false for plain numbers.
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl serde::Serialize for GgmlType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for GgmlType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        GgmlType::from_name(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown tensor type: `{name}`")))
    }
}

/// A format that can be decoded and encoded.
///
/// Values are whole rows: their number is a multiple of the type's block length (and of `importance.len()`, the columns of
/// a row), and `bytes` has the exact size of that many values.
pub trait Format: Sync {
    fn ty(&self) -> GgmlType;
    /// Decodes exactly as ggml's `to_float` does.
    fn decode_rows(&self, bytes: &[u8], out: &mut [f32]);
    /// Encodes so that `sum_j importance[j] * (decoded[j] - row[j])^2` is small in every row.
    /// `importance` holds one weight per column; where a block has none that is positive and finite, all weights are 1.
    /// NaN is encoded as zero, infinities as the largest values of the format: what is written always decodes to finite values.
    fn encode_rows(&self, values: &[f32], importance: &[f32], bytes: &mut [u8]);
    /// Encodes values that lie on the format's grid, in the precision in which they are known; false if some do not, or
    /// if the format is none of [`lossless::TYPES`].
    fn encode_exactly(&self, _values: &[f32], _precision: lossless::Precision, _bytes: &mut [u8]) -> bool {
        false
    }
}

/// The format of a type, if this program can decode and encode it.
pub fn format(ty: GgmlType) -> Option<&'static dyn Format> {
    use codec::Blocks;
    Some(match ty {
        GgmlType::F32 => &plain::F32,
        GgmlType::F16 => &plain::F16,
        GgmlType::BF16 => &plain::Bf16,
        GgmlType::Q4_0 => &Blocks(q4_0::Q4_0),
        GgmlType::Q4_1 => &Blocks(q4_1::Q4_1),
        GgmlType::Q5_0 => &Blocks(q5_0::Q5_0),
        GgmlType::Q5_1 => &Blocks(q5_1::Q5_1),
        GgmlType::Q8_0 => &Blocks(q8_0::Q8_0),
        GgmlType::Q2_K => &Blocks(q2_k::Q2K),
        GgmlType::Q3_K => &Blocks(q3_k::Q3K),
        GgmlType::Q4_K => &Blocks(q4_k::Q4K),
        GgmlType::Q5_K => &Blocks(q5_k::Q5K),
        GgmlType::Q6_K => &Blocks(q6_k::Q6K),
        GgmlType::IQ4_NL => &Blocks(iq4_nl::Iq4Nl),
        GgmlType::IQ4_XS => &Blocks(iq4_xs::Iq4Xs),
        GgmlType::IQ1_S => &Blocks(iq1_s::Iq1S),
        GgmlType::IQ1_M => &Blocks(iq1_m::Iq1M),
        GgmlType::IQ2_XXS => &Blocks(iq2_xxs::Iq2Xxs),
        GgmlType::IQ2_XS => &Blocks(iq2_xs::Iq2Xs),
        GgmlType::IQ2_S => &Blocks(iq2_s::Iq2S),
        GgmlType::IQ3_XXS => &Blocks(iq3_xxs::Iq3Xxs),
        GgmlType::IQ3_S => &Blocks(iq3_s::Iq3S),
        GgmlType::TQ1_0 => &Blocks(tq1_0::Tq1_0),
        GgmlType::TQ2_0 => &Blocks(tq2_0::Tq2_0),
        GgmlType::MXFP4 => &Blocks(mxfp4::Mxfp4),
        GgmlType::NVFP4 => &Blocks(nvfp4::Nvfp4),
        GgmlType::Q1_0 => &Blocks(q1_0::Q1_0),
        GgmlType::Q2_0 => &Blocks(q2_0::Q2_0),
        _ => return None,
    })
}

/// Values that one parallel task handles: enough to hide the cost of handing it over, few enough to balance.
const TASK_VALUES: usize = 1 << 14;

fn required(ty: GgmlType) -> Result<&'static dyn Format> {
    format(ty).with_context(|| format!("this tensor type can be neither read nor written: `{ty}`"))
}

/// Decodes `bytes` of type `ty` in parallel. `out.len()` is the number of weights.
pub fn decode(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let format = required(ty)?;
    ensure!(
        out.len().is_multiple_of(ty.block_len()) && bytes.len() as u64 == ty.bytes_for(out.len() as u64),
        "{} bytes of {ty} do not hold {} weights",
        bytes.len(),
        out.len()
    );
    let task = TASK_VALUES.next_multiple_of(ty.block_len());
    let task_bytes = task / ty.block_len() * ty.block_bytes();
    if out.len() <= task {
        // single rows are read often, and handing one over takes longer than decoding it
        format.decode_rows(bytes, out);
        return Ok(());
    }
    out.par_chunks_mut(task).zip(bytes.par_chunks(task_bytes)).for_each(|(out, bytes)| format.decode_rows(bytes, out));
    Ok(())
}

/// Encodes rows of `importance.len()` columns in parallel; the bytes do not depend on the number of threads.
/// See [`Format::encode_rows`] for what is minimized.
pub fn encode(ty: GgmlType, values: &[f32], importance: &[f32], bytes: &mut [u8]) -> Result<()> {
    let format = required(ty)?;
    let cols = importance.len();
    ensure!(ty.fits(cols), "rows of {cols} columns cannot be stored as {ty}, whose blocks hold {}", ty.block_len());
    if values.is_empty() {
        return Ok(());
    }
    ensure!(
        values.len().is_multiple_of(cols) && bytes.len() as u64 == ty.bytes_for(values.len() as u64),
        "{} values in rows of {cols} do not fill {} bytes of {ty}",
        values.len(),
        bytes.len()
    );
    let task = TASK_VALUES.div_ceil(cols) * cols;
    let task_bytes = task / ty.block_len() * ty.block_bytes();
    let tasks = values.par_chunks(task).zip(bytes.par_chunks_mut(task_bytes));
    tasks.for_each(|(values, bytes)| format.encode_rows(values, importance, bytes));
    Ok(())
}

/// The type that a tensor of `cols` columns gets when `ty` was asked for: `ty` itself if it fits, else the type that
/// llama.cpp falls back to (`src/llama-quant.cpp`, `tensor_type_fallback`). Fails for the few types that have none.
pub fn fallback(ty: GgmlType, cols: usize) -> Result<GgmlType> {
    use GgmlType::*;
    if ty.fits(cols) {
        return Ok(ty);
    }
    let smaller = match ty {
        IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ4_XS => IQ4_NL,
        Q2_0 | Q2_K | Q3_K | TQ1_0 | TQ2_0 => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        _ if ty.block_len() <= 32 => F16,
        _ => bail!("rows of {cols} weights do not fit {ty} and it has no replacement"),
    };
    Ok(if smaller.fits(cols) { smaller } else { F16 })
}
