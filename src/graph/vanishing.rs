//! The way back through a norm whose input vanishes: `docs/formulas.md`, "Vanishing inputs".
//!
//! A norm scales a gradient by 1 / rms of its input, which has no bound for the states of a token whose embedding is (nearly) zero.
//! There the inputs of the linear layers vanish too, so errors of their weights cost nothing; but sensitivities take gradients and
//! inputs as independent, and one such token would outweigh all others. So it passes back what a token of typical size would.

use anyhow::Result;

use crate::device::{Buffer, Device};
use crate::kernels::row_dot::row_dot;

/// An input vanishes below this share of the typical mean square: a tenth of the typical size.
const SHARE: f32 = 0.01;

/// The same of what comes out of a norm whose epsilon swallows it: half of the typical size. Other tokens are nowhere near.
const FAINT: f32 = 0.25;

/// The rows of a norm's input: `groups` of `width` for each of `tokens`, which are texts of `seq_len`.
#[derive(Clone, Copy)]
pub struct Rows {
    pub tokens: usize,
    pub seq_len: usize,
    pub groups: usize,
    pub width: usize,
}

/// Which tokens come out of a norm with (nearly) nothing, because its epsilon is far above their mean square: what reads them sees
/// inputs that vanish.
pub fn faint_tokens(device: &Device, x: &Buffer, rows: Rows, eps: f32) -> Result<Vec<bool>> {
    let out: Vec<f32> = mean_squares(device, x, rows)?.iter().map(|square| square / (square + eps)).collect();
    let texts = out.chunks(rows.seq_len);
    Ok(texts.flat_map(|text| below(text, FAINT * typical(text.iter().copied()))).collect())
}

/// The input to take on the way back in place of x: vanishing rows have the typical size, in their own direction. None where no
/// row vanishes. With `faint`, only rows of these tokens can.
pub fn lifted(device: &Device, x: &Buffer, rows: Rows, faint: Option<&[bool]>) -> Result<Option<Buffer>> {
    if faint.is_some_and(|faint| !faint.contains(&true)) {
        return Ok(None);
    }
    let share = if faint.is_some() { FAINT } else { SHARE };
    let squares = mean_squares(device, x, rows)?;
    let everywhere = typical(squares.iter().copied());
    // by row, the mean square that it should have
    let mut wanted: Vec<Option<f32>> = vec![None; squares.len()];
    for text in 0..rows.tokens / rows.seq_len {
        for group in 0..rows.groups {
            let tokens = text * rows.seq_len..(text + 1) * rows.seq_len;
            let places: Vec<usize> = tokens.map(|token| token * rows.groups + group).collect();
            let of_text: Vec<f32> = places.iter().map(|&place| squares[place]).collect();
            let size = match typical(of_text.iter().copied()) {
                0.0 => everywhere,
                size => size,
            };
            for (&place, vanishes) in places.iter().zip(below(&of_text, share * size)) {
                let may = faint.is_none_or(|faint| faint[place / rows.groups]);
                wanted[place] = (vanishes && may).then_some(size);
            }
        }
    }
    if wanted.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut values = device.read_range::<f32>(x, 0, squares.len() * rows.width)?;
    for (row, wanted) in values.chunks_exact_mut(rows.width).zip(wanted) {
        if let Some(wanted) = wanted {
            lift(row, wanted);
        }
    }
    device.upload("inputs of a norm, none of which vanishes", &values).map(Some)
}

fn mean_squares(device: &Device, x: &Buffer, rows: Rows) -> Result<Vec<f32>> {
    let count = rows.tokens * rows.groups;
    let sums = device.alloc("squares of a norm's inputs", count * size_of::<f32>())?;
    row_dot(device, x, x, &sums, count, rows.width)?;
    Ok(device.read_range::<f32>(&sums, 0, count)?.into_iter().map(|sum| sum / rows.width as f32).collect())
}

/// The median of those that are above 0; 0 if none is.
fn typical(values: impl Iterator<Item = f32>) -> f32 {
    let mut values: Vec<f32> = values.filter(|value| *value > 0.0).collect();
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

fn below(values: &[f32], bound: f32) -> Vec<bool> {
    values.iter().map(|value| *value < bound).collect()
}

/// Scales a row to this mean square. Zeros have no direction: any will do.
fn lift(row: &mut [f32], wanted: f32) {
    let square = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / row.len() as f64;
    let wanted = f64::from(wanted);
    if square > 0.0 {
        let scale = (wanted / square).sqrt();
        row.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
    } else {
        let size = wanted.sqrt() as f32;
        row.iter_mut().enumerate().for_each(|(place, value)| *value = if place % 2 == 0 { size } else { -size });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: Rows = Rows { tokens: 6, seq_len: 3, groups: 1, width: 2 };

    #[test]
    fn only_vanishing_rows_are_lifted_to_the_size_of_their_text() {
        let device = Device::cpu();
        let x = [1.0f32, -1.0, 0.0, 0.0, 3.0, 3.0, 2.0, 2.0, 1e-30, -1e-30, 0.5, 0.5];
        let buffer = device.upload("x", &x).unwrap();
        let out = device.read::<f32>(&lifted(&device, &buffer, ROWS, None).unwrap().unwrap()).unwrap();
        // of squares 1 and 9 the upper, of 4 and 1/4 too; 1e-60 is no f32
        let want = [1.0f32, -1.0, 3.0, -3.0, 3.0, 3.0, 2.0, 2.0, 2.0, -2.0, 0.5, 0.5];
        for (out, want) in out.iter().zip(want) {
            assert!((out - want).abs() < 1e-5, "{out} {want}");
        }
        let healthy = device.upload("x", &[1.0f32, -1.0, 0.2, 0.2, 3.0, 3.0, 2.0, 2.0, 1.0, 0.0, 0.5, 0.5]).unwrap();
        assert!(lifted(&device, &healthy, ROWS, None).unwrap().is_none());
        let none = [false; 6];
        assert!(lifted(&device, &buffer, ROWS, Some(&none)).unwrap().is_none());
    }

    #[test]
    fn tokens_are_faint_by_epsilon_not_by_size() {
        let device = Device::cpu();
        let x = device.upload("x", &[1.0f32, 1.0, 1e-3, 1e-3, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]).unwrap();
        assert_eq!(faint_tokens(&device, &x, ROWS, 1e-9).unwrap(), [false, false, false, false, true, false]);
        assert_eq!(faint_tokens(&device, &x, ROWS, 1e-3).unwrap(), [false, true, false, false, true, false]);
    }
}
