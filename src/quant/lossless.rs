//! Weights that already lie on the grid of a type, as those of models trained in it do, and so are stored exactly.
//!
//! The scale of a block is not searched but solved for: it sends the extreme weight to one of the levels. So a block is turned
//! down after a few divisions, and what is accepted has been decoded and compared with every weight.

use rayon::prelude::*;

use super::lanes::{f16_bits, f16_value, reciprocal, round_even, round_f16};
use super::search::Levels;
use super::{Format, GgmlType, TASK_VALUES, format};

/// Types whose grid is recognized: those with scales that are independent of each other.
pub const TYPES: [GgmlType; 12] = [
    GgmlType::TQ1_0,
    GgmlType::TQ2_0,
    GgmlType::Q1_0,
    GgmlType::Q2_0,
    GgmlType::MXFP4,
    GgmlType::NVFP4,
    GgmlType::Q4_0,
    GgmlType::IQ4_NL,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
];

/// Blocks looked at, evenly spaced, before all are.
const SAMPLE: usize = 16;

/// Halves on either side of a quotient that are tried as scales where the weights themselves were rounded.
const NEIGHBOURS: i32 = 8;

/// What the source keeps of a number: a weight stands for all numbers that it rounds to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    Bf16,
}

impl Precision {
    /// That of weights which come from tensors of this type.
    pub fn of(source: GgmlType) -> Precision {
        match source {
            GgmlType::F16 => Precision::F16,
            GgmlType::BF16 => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    fn round(self, x: f32) -> f32 {
        match self {
            Precision::F32 => x,
            Precision::F16 => round_f16(x),
            Precision::Bf16 => half::bf16::from_f32(x).to_f32(),
        }
    }

    /// Whether all numbers of `decoded` are kept as `values`.
    pub(super) fn holds(self, decoded: &[f32], values: &[f32]) -> bool {
        decoded.iter().zip(values).all(|(decoded, value)| self.round(*decoded) == *value)
    }
}

/// The bytes of `values`, whole blocks, in type `ty` if these hold every value exactly: what they decode to, rounded to the
/// precision of the source, is equal to the values. The sign of a zero does not count. None for types not in [`TYPES`].
pub fn encode(ty: GgmlType, values: &[f32], precision: Precision) -> Option<Vec<u8>> {
    let (format, block) = (format(ty)?, ty.block_len());
    if !TYPES.contains(&ty) || !values.len().is_multiple_of(block) || !sample(format, values, precision) {
        return None;
    }
    let mut bytes = vec![0; ty.bytes_for(values.len() as u64) as usize];
    let task = TASK_VALUES.next_multiple_of(block);
    let tasks = values.par_chunks(task).zip(bytes.par_chunks_mut(task / block * ty.block_bytes()));
    let exact = tasks.map(|(values, bytes)| format.encode_exactly(values, precision, bytes));
    exact.all(|exact| exact).then_some(bytes)
}

/// Whether [`encode`] has an answer.
pub fn on_grid(ty: GgmlType, values: &[f32], precision: Precision) -> bool {
    encode(ty, values, precision).is_some()
}

fn sample(format: &dyn Format, values: &[f32], precision: Precision) -> bool {
    let (block, mut bytes) = (format.ty().block_len(), vec![0; format.ty().block_bytes()]);
    let step = (values.len() / block).div_ceil(SAMPLE).max(1);
    values.chunks(block).step_by(step).all(|values| format.encode_exactly(values, precision, &mut bytes))
}

/// The scale and codes of weights that are exactly `scale * level`. `anchors` are the levels that the extreme weight may have,
/// likely ones first, `scales` those that can be stored near a number.
pub(super) fn scaled<L: Levels, const N: usize, S: IntoIterator<Item = f32>>(
    values: &[f32],
    precision: Precision,
    anchors: impl Iterator<Item = f32> + Clone,
    scales: impl Fn(f32) -> S,
) -> Option<(f32, [u8; N])> {
    let extreme = values.iter().fold(0f32, |top, &x| if x.abs() > top.abs() { x } else { top });
    if extreme == 0.0 {
        return values.iter().all(|x| *x == 0.0).then(|| (0.0, [L::code(0.0); N]));
    }
    // Positive scales before negative ones, which only some encoders write.
    let positive = anchors.clone().filter(|anchor| anchor * extreme > 0.0);
    let negative = anchors.filter(|anchor| anchor * extreme < 0.0);
    let mut equal = None;
    for scale in positive.chain(negative).flat_map(|anchor| scales(extreme / anchor)) {
        let inverse = reciprocal(scale);
        let decoded = |x: f32| precision.round(L::nearest(x * inverse) * scale);
        if scale != 0.0 && values.iter().all(|&x| decoded(x) == x) {
            let found = (scale, std::array::from_fn(|n| L::code(values[n] * inverse)));
            // Of two scales that differ in sign, zeros with a sign tell which one the weights were made with.
            if values.iter().all(|&x| decoded(x).to_bits() == x.to_bits()) {
                return Some(found);
            }
            equal = equal.or(Some(found));
        }
    }
    equal
}

/// Scale, offset and codes of weights that are exactly `scale * code + offset`, the smallest of them with code 0.
pub(super) fn affine<const N: usize>(values: &[f32], precision: Precision, top: f32) -> Option<(f32, f32, [u8; N])> {
    let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    if round_f16(low) != low {
        return None;
    }
    let code = |x: f32, scale: f32| round_even((x - low) * reciprocal(scale)).clamp(0.0, top);
    let holds = |scale: f32| values.iter().all(|&x| precision.round(code(x, scale) * scale + low) == x);
    let steps = (1..=top as u32).rev().map(|steps| round_f16((high - low) / steps as f32));
    let scale = steps.into_iter().find(|&scale| holds(scale))?;
    Some((scale, low, std::array::from_fn(|n| code(values[n], scale) as u8)))
}

/// The integers from `low` to `high` without zero, large ones first.
pub(super) fn integers(low: i32, high: i32) -> impl Iterator<Item = f32> + Clone {
    let magnitudes = (1..=high.max(-low)).rev();
    magnitudes.flat_map(|n| [n, -n]).filter(move |n| (low..=high).contains(n)).map(|n| n as f32)
}

/// The half nearest to `x`; where weights were rounded, also those near it, the roundest first.
pub(super) fn halves(precision: Precision) -> impl Fn(f32) -> Vec<f32> {
    move |x| {
        let bits = i32::from(f16_bits(x));
        if precision == Precision::F32 {
            return vec![f16_value(bits as u16)];
        }
        let sign = bits & 0x8000;
        let near = (bits - sign - NEIGHBOURS).max(1)..=(bits - sign + NEIGHBOURS).min(0x7bff);
        let mut near: Vec<i32> = near.collect();
        near.sort_by_key(|bits| std::cmp::Reverse(bits.trailing_zeros()));
        near.into_iter().map(|bits| f16_value((bits | sign) as u16)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_all_levels_but_zero() {
        assert_eq!(integers(-2, 1).collect::<Vec<_>>(), [-2.0, 1.0, -1.0]);
        assert_eq!(integers(-1, 2).collect::<Vec<_>>(), [2.0, 1.0, -1.0]);
    }

    #[test]
    fn near_halves_are_roundest_first() {
        assert_eq!(halves(Precision::F32)(0.1), [round_f16(0.1)]);
        let near = halves(Precision::Bf16)(-1.001);
        assert_eq!(near[0], -1.0);
        assert!(near.len() == 2 * NEIGHBOURS as usize + 1 && near.iter().all(|x| (x + 1.001).abs() < 0.01));
        // never zero, never beyond the largest
        assert!(halves(Precision::F16)(1e-8).into_iter().all(|x| x > 0.0));
        assert!(halves(Precision::F16)(1e8).into_iter().all(f32::is_finite));
    }
}
