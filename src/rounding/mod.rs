//! Choosing codes with all of a layer's second moments H in view: errors of columns make good each other.
//! [`hessian`] gathers H, [`drift`] makes up for layers that are quantized already, [`coupling`] says what one column's error asks of the others, [`feedback`] rounds.

pub mod coupling;
pub mod drift;
pub mod feedback;
pub mod hessian;

/// What is added to the diagonal of H: from measurements (docs/rounding.md).
pub const DAMPING: Damping = Damping { own: 0.08, mean: 0.002 };

/// Takes back what few tokens tell wrongly.
#[derive(Clone, Copy, Debug)]
pub struct Damping {
    /// Relative to each element: columns say so much less of each other.
    pub own: f32,
    /// Relative to the mean of the diagonal: columns that are nearly always zero stay solvable.
    pub mean: f32,
}

impl Damping {
    /// Adds to the diagonal of `h`, `[width, width]`.
    pub fn add_to(self, h: &mut [f32], width: usize) {
        let mean = (0..width).map(|j| f64::from(h[j * width + j])).sum::<f64>() / width as f64;
        // an input that is always zero leaves every choice open
        let add = if mean > 0.0 { (f64::from(self.mean) * mean) as f32 } else { 1.0 };
        (0..width).for_each(|j| h[j * width + j] += self.own * h[j * width + j] + add);
    }
}

/// How codes are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Whether columns are rounded one after the other, each making good the errors of those before it (LDLQ).
    pub feedback: bool,
    /// Times that all columns are rounded again with the errors of all others in view.
    pub descents: usize,
    /// What the inputs of a layer are taken to be.
    pub prefix: Prefix,
}

/// The layers before the one that is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// As they are in the original model.
    Original,
    /// As rounded: a layer makes up for what those before it have lost.
    Quantized,
}

impl Method {
    /// Every block for itself, by importance alone.
    pub const PLAIN: Method = Method { feedback: false, descents: 0, prefix: Prefix::Original };
}
