//! The search for block scales: a sub-block's levels are multiplied by `d * (2 l + 1)` with an f16 `d` for the block.
//!
//! Every trial of a sub-block finds the best codes for one scale. Those codes cost `scale^2 squares - 2 scale products` at any
//! other scale, a parabola. The least of a sub-block's parabolas bounds its error from above at every scale, so `d` is chosen
//! on these bounds, and only then are the codes searched again with the scales that will be stored.

use super::coder::{Coder, Trial, Words};
use crate::quant::lanes::{LANES, Lanes, SubBlocks, ZERO, clamp, map, ratio, reciprocal, round_even, round_f16};

/// Most trials of a sub-block before `d` is chosen.
const MAX_TRIALS: usize = 24;

/// How much is tried.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Scales tried: the first, the ratio of neighbours and how many, in units of the weighted rms of the sub-block.
    pub first: f32,
    pub ratio: f32,
    pub count: usize,
    /// Alternations between codes and scale of the best trial.
    pub alternations: usize,
    /// Largest multiplier: 15 or 31.
    pub top: f32,
    /// Multipliers tried on either side of the one nearest to the sub-block's own scale.
    pub window: usize,
    /// Times that the codes are searched again once `d` has been solved for.
    pub refits: usize,
}

/// Candidates for `d`: the largest scale of the block divided by `top + 2`, and so on down to about 0.55 of it.
const CANDIDATES: usize = 2 * LANES;

/// Scales and codes of 16 sub-blocks.
pub struct Fit<const GROUPS: usize> {
    /// The same f16 in all lanes of a block.
    pub d: Lanes,
    /// Odd multiplier `2 l + 1`.
    pub multiplier: Lanes,
    pub words: Words<GROUPS>,
}

/// The cost of codes found once, at any scale.
#[derive(Clone, Copy)]
struct Parabola {
    products: Lanes,
    squares: Lanes,
}

impl Parabola {
    #[inline(always)]
    fn of<const GROUPS: usize>(trial: &Trial<GROUPS>, scale: &Lanes) -> Parabola {
        let products = map(|i| ratio(scale[i] * scale[i] * trial.squares[i] - trial.cost[i], 2.0 * scale[i]));
        Parabola { products, squares: trial.squares }
    }
}

/// Searches `LANES / per_block` blocks.
#[inline(always)]
pub fn search<C: Coder<GROUPS>, const N: usize, const GROUPS: usize>(
    tile: &SubBlocks<N>,
    coder: &mut C,
    per_block: usize,
    plan: &Plan,
) -> Fit<GROUPS> {
    let start = rms(tile);
    let mut parabolas = [Parabola { products: ZERO, squares: ZERO }; MAX_TRIALS];
    let (mut own, mut gain) = (ZERO, ZERO);
    let mut factor = plan.first;
    for (t, parabola) in parabolas.iter_mut().enumerate().take(plan.count + plan.alternations) {
        let scale = if t < plan.count { map(|i| factor * start[i]) } else { own };
        factor *= plan.ratio;
        let trial = coder.code(&scale);
        *parabola = Parabola::of(&trial, &scale);
        for i in 0..LANES {
            let best = ratio(parabola.products[i], parabola.squares[i]);
            let better = best * parabola.products[i] > gain[i] && best > 0.0;
            gain[i] = if better { best * parabola.products[i] } else { gain[i] };
            own[i] = if better { best } else { own[i] };
        }
    }
    let parabolas = &parabolas[..plan.count + plan.alternations];

    let mut d = ZERO;
    for first in (0..LANES).step_by(per_block) {
        let best = super_scale(&own, parabolas, first..first + per_block, plan.top);
        d[first..first + per_block].fill(best);
    }
    let nearest = best_multipliers(parabolas, &d, plan.top);
    let mut fit = Best::new(coder, &d, &nearest);
    for offset in 1..=plan.window {
        for offset in [-2.0 * offset as f32, 2.0 * offset as f32] {
            let multiplier = map(|i| clamp(nearest[i] + offset, 1.0, plan.top));
            fit.try_multipliers(coder, &d, &multiplier);
        }
    }
    for _ in 0..plan.refits {
        fit.solve(&mut d, per_block);
        fit.recode(coder, &d, per_block);
    }
    fit.solve(&mut d, per_block);
    Fit { d, multiplier: fit.multiplier, words: fit.trial.words }
}

/// Weighted root mean square of each sub-block.
#[inline(always)]
fn rms<const N: usize>(tile: &SubBlocks<N>) -> Lanes {
    let (mut energy, mut weight) = (ZERO, ZERO);
    for n in 0..N {
        for i in 0..LANES {
            energy[i] += tile.w[n][i] * tile.x[n][i] * tile.x[n][i];
            weight[i] += tile.w[n][i];
        }
    }
    map(|i| (energy[i] / weight[i]).sqrt())
}

/// The odd number nearest to `y`, from 1 to `top`.
#[inline(always)]
fn odd(y: f32, top: f32) -> f32 {
    clamp(2.0 * round_even((y - 1.0) * 0.5) + 1.0, 1.0, top)
}

/// The f16 `d` with the least sum of bounds over the sub-blocks of a block.
#[inline(always)]
fn super_scale(own: &Lanes, parabolas: &[Parabola], lanes: std::ops::Range<usize>, top: f32) -> f32 {
    let mut largest = 0.0;
    for i in lanes.clone() {
        largest = if own[i] > largest { own[i] } else { largest };
    }
    // 7/16 for 31, 7/32 for 15
    let step = (top + 1.0) * (7.0 / 512.0);
    let (mut best, mut least) = (0.0, f32::INFINITY);
    for half in 0..CANDIDATES / LANES {
        let d = map(|c| round_f16(largest / (top + 2.0 - (half * LANES + c) as f32 * step)));
        let inverse = map(|c| reciprocal(d[c]));
        let mut cost = ZERO;
        for i in lanes.clone() {
            let nearest = map(|c| odd(own[i] * inverse[c], top));
            let mut bound = [f32::INFINITY; LANES];
            for offset in [-2.0, 0.0, 2.0] {
                let scale = map(|c| d[c] * clamp(nearest[c] + offset, 1.0, top));
                for parabola in parabolas {
                    let (products, squares) = (2.0 * parabola.products[i], parabola.squares[i]);
                    for c in 0..LANES {
                        let value = scale[c] * (scale[c] * squares - products);
                        bound[c] = if value < bound[c] { value } else { bound[c] };
                    }
                }
            }
            for c in 0..LANES {
                cost[c] += bound[c];
            }
        }
        for c in 0..LANES {
            let better = cost[c] < least;
            best = if better { d[c] } else { best };
            least = if better { cost[c] } else { least };
        }
    }
    best
}

/// The multiplier of each sub-block with the least bound.
#[inline(always)]
fn best_multipliers(parabolas: &[Parabola], d: &Lanes, top: f32) -> Lanes {
    let mut best = [1.0; LANES];
    let mut least = [f32::INFINITY; LANES];
    let mut multiplier = 1.0;
    while multiplier <= top {
        for parabola in parabolas {
            for i in 0..LANES {
                let scale = d[i] * multiplier;
                let bound = scale * (scale * parabola.squares[i] - 2.0 * parabola.products[i]);
                let better = bound < least[i];
                best[i] = if better { multiplier } else { best[i] };
                least[i] = if better { bound } else { least[i] };
            }
        }
        multiplier += 2.0;
    }
    best
}

/// The best multipliers and codes for given super-scales.
struct Best<const GROUPS: usize> {
    multiplier: Lanes,
    trial: Trial<GROUPS>,
}

impl<const GROUPS: usize> Best<GROUPS> {
    #[inline(always)]
    fn new<C: Coder<GROUPS>>(coder: &mut C, d: &Lanes, multiplier: &Lanes) -> Self {
        Best { multiplier: *multiplier, trial: coder.code(&map(|i| d[i] * multiplier[i])) }
    }

    #[inline(always)]
    fn try_multipliers<C: Coder<GROUPS>>(&mut self, coder: &mut C, d: &Lanes, multiplier: &Lanes) {
        let trial = coder.code(&map(|i| d[i] * multiplier[i]));
        let better = is_less_in_block(&trial.cost, &self.trial.cost, 1);
        self.replace(&better, multiplier, &trial);
    }

    #[inline(always)]
    fn replace(&mut self, which: &[bool; LANES], multiplier: &Lanes, trial: &Trial<GROUPS>) {
        for i in 0..LANES {
            if which[i] {
                self.multiplier[i] = multiplier[i];
                self.trial.cost[i] = trial.cost[i];
                self.trial.squares[i] = trial.squares[i];
                for group in 0..GROUPS {
                    self.trial.words[group][i] = trial.words[group][i];
                }
            }
        }
    }

    /// Solves for the super-scales that suit the codes.
    #[inline(always)]
    fn solve(&mut self, d: &mut Lanes, per_block: usize) {
        let scale = map(|i| d[i] * self.multiplier[i]);
        let parabola = Parabola::of(&self.trial, &scale);
        let mut solved = ZERO;
        for first in (0..LANES).step_by(per_block) {
            let (mut above, mut below) = (0.0, 0.0);
            for i in first..first + per_block {
                above += self.multiplier[i] * parabola.products[i];
                below += self.multiplier[i] * self.multiplier[i] * parabola.squares[i];
            }
            let best = round_f16(ratio(above, below));
            solved[first..first + per_block].fill(if best > 0.0 { best } else { d[first] });
        }
        let scale = map(|i| solved[i] * self.multiplier[i]);
        let cost = map(|i| scale[i] * (scale[i] * parabola.squares[i] - 2.0 * parabola.products[i]));
        let better = is_less_in_block(&cost, &self.trial.cost, per_block);
        for i in 0..LANES {
            d[i] = if better[i] { solved[i] } else { d[i] };
            self.trial.cost[i] = if better[i] { cost[i] } else { self.trial.cost[i] };
        }
    }

    /// Searches the codes again where the super-scale has changed.
    #[inline(always)]
    fn recode<C: Coder<GROUPS>>(&mut self, coder: &mut C, d: &Lanes, per_block: usize) {
        let trial = coder.code(&map(|i| d[i] * self.multiplier[i]));
        let better = is_less_in_block(&trial.cost, &self.trial.cost, per_block);
        let multiplier = self.multiplier;
        self.replace(&better, &multiplier, &trial);
    }
}

/// Whether the sum over a block is less, for the lanes of each block.
#[inline(always)]
fn is_less_in_block(new: &Lanes, old: &Lanes, per_block: usize) -> [bool; LANES] {
    let mut less = [false; LANES];
    for first in (0..LANES).step_by(per_block) {
        let (mut before, mut after) = (0.0, 0.0);
        for i in first..first + per_block {
            before += old[i];
            after += new[i];
        }
        less[first..first + per_block].fill(after < before);
    }
    less
}
