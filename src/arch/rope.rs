//! Tables of rotary embedding, made on the host in f64.

use super::hf_config::HfScaling;
use crate::kernels::rope::RopeStyle;

/// Tensors of factors, of which a model has the first, the others or none: for all contexts, for those that are longer than the
/// original one, and for those that are not.
pub const FACTORS: [&str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// llama.cpp makes its context a multiple of this before it asks whether it is long.
const CONTEXT_STEP: usize = 256;

/// How positions become angles.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub style: RopeStyle,
    /// Elements of a head that are rotated.
    pub rot: usize,
    /// `{arch}.rope.freq_base`.
    pub freq_base: f32,
    /// `{arch}.rope.scaling.attn_factor`: cos and sin are multiplied by it.
    pub attn_factor: f32,
    /// Tokens of the context that the frequencies were trained for.
    pub original_context: u32,
    pub scaling: Scaling,
}

/// `{arch}.rope.scaling.type`. Llama 3's scaling is not one: its factors are the tensor `rope_freqs.weight`.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    None,
    /// Every angle is divided by `factor`.
    Linear {
        factor: f32,
    },
    Yarn(Yarn),
}

/// YaRN: fast frequencies stay, slow ones are divided by `factor`, those between are mixed.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f32,
    /// How much of the fast frequencies stays; 1 if not given.
    pub ext_factor: f32,
    /// Turns within the original context above which a frequency stays (32 if not given) ...
    pub beta_fast: f32,
    /// ... and below which it is divided (1 if not given).
    pub beta_slow: f32,
    /// What cos and sin are multiplied by, where the model says so.
    pub attention_factor: Option<f32>,
    /// `yarn_log_multiplier`: 0 if not given.
    pub log_multiplier: f32,
}

impl Rope {
    /// The tensor of factors for sequences of this length, in models that have no [`FACTORS`] for all contexts.
    pub fn factors_by_context(&self, seq_len: usize) -> &'static str {
        FACTORS[if seq_len.next_multiple_of(CONTEXT_STEP) > self.original_context as usize { 1 } else { 2 }]
    }

    /// The same for layers with a window: of another base, and not stretched.
    pub fn local(&self, freq_base: f32) -> Rope {
        Rope { freq_base, scaling: Scaling::None, ..self.clone() }
    }

    /// cos and sin of the angle of every position and pair: `[positions, rot / 2, 2]`.
    ///
    /// `factors` are the values of one of [`FACTORS`], `rot / 2` of them: each divides the angles of its pair.
    pub fn table(&self, positions: usize, factors: Option<&[f32]>) -> Vec<f32> {
        let frequencies = self.frequencies(factors);
        let magnitude = self.magnitude();
        let mut table = Vec::with_capacity(positions * self.rot);
        for position in 0..positions {
            for frequency in &frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                table.push((cos * magnitude) as f32);
                table.push((sin * magnitude) as f32);
            }
        }
        table
    }

    /// Radians per position of each pair.
    fn frequencies(&self, factors: Option<&[f32]>) -> Vec<f64> {
        (0..self.rot / 2)
            .map(|pair| {
                let plain = frequency(self.freq_base.into(), pair, self.rot);
                let plain = factors.map_or(plain, |factors| plain / f64::from(factors[pair]));
                match &self.scaling {
                    Scaling::None => plain,
                    Scaling::Linear { factor } => plain / f64::from(*factor),
                    Scaling::Yarn(yarn) => {
                        let kept = yarn.kept(pair, self);
                        plain / f64::from(yarn.factor) * (1.0 - kept) + plain * kept
                    }
                }
            })
            .collect()
    }

    /// What cos and sin are multiplied by.
    fn magnitude(&self) -> f64 {
        let own = match &self.scaling {
            Scaling::Yarn(yarn) => yarn.magnitude(),
            _ => 1.0,
        };
        own * f64::from(self.attn_factor)
    }
}

/// Radians per position of pair `pair` of a head with `rot` rotated elements.
fn frequency(base: f64, pair: usize, rot: usize) -> f64 {
    base.powf(-2.0 * pair as f64 / rot as f64)
}

impl Yarn {
    /// How much of the plain frequency a pair keeps, 0 to 1 (llama.cpp `ggml_rope_yarn_corr_dims`, `rope_yarn_ramp`).
    fn kept(&self, pair: usize, rope: &Rope) -> f64 {
        let (rot, base) = (rope.rot, f64::from(rope.freq_base));
        // the pair that turns `turns` times within the original context
        let pair_of = |turns: f32| {
            let context = f64::from(rope.original_context);
            rot as f64 * (context / (f64::from(turns) * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
        };
        let low = pair_of(self.beta_fast).floor().max(0.0);
        let high = pair_of(self.beta_slow).ceil().min(rot as f64 - 1.0);
        let ramp = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        (1.0 - ramp) * f64::from(self.ext_factor)
    }

    /// llama.cpp (`llama-context.cpp`) first divides by what its kernel will multiply by; this is the product.
    fn magnitude(&self) -> f64 {
        if let Some(given) = self.attention_factor {
            return given.into();
        }
        if self.ext_factor == 0.0 {
            return 1.0;
        }
        let scale = |multiplier: f64| {
            let log = f64::from(self.factor).ln().max(0.0);
            0.1 * multiplier * log + 1.0
        };
        match self.log_multiplier {
            0.0 => scale(1.0),
            multiplier => scale(1.0) / scale(multiplier.into()),
        }
    }
}

/// The values of `rope_freqs.weight` for Llama 3's scaling: what each frequency is divided by. `None` for other scalings.
///
/// `rot` is the number of rotated elements. llama.cpp `conversion/llama.py`, `generate_extra_tensors`: that is f32
/// arithmetic in torch, where a number divided by a tensor is the number times the reciprocal, and so it is here.
pub fn llama3_factors(scaling: &HfScaling, theta: f64, rot: usize) -> Option<Vec<f32>> {
    let &HfScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = scaling else {
        return None;
    };
    let longest = (original_context / low_freq_factor) as f32;
    let shortest = (original_context / high_freq_factor) as f32;
    let factors = (0..rot / 2).map(|pair| {
        let exponent = (2 * pair) as f32 / rot as f32;
        let frequency = (theta as f32).powf(exponent).recip();
        let wavelength = frequency.recip() * std::f64::consts::TAU as f32;
        if wavelength < shortest {
            1.0
        } else if wavelength > longest {
            factor as f32
        } else {
            let (low, span) = (low_freq_factor as f32, (high_freq_factor - low_freq_factor) as f32);
            let smooth = (wavelength.recip() * original_context as f32 - low) / span;
            ((1.0 - smooth) / factor as f32 + smooth).recip()
        }
    });
    Some(factors.collect())
}
