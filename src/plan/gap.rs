//! Closing the gap between a good plan and the Lagrangian bound, by dynamic programming.
//!
//! With a price per byte every choice has a regret: how much its cost plus the price of its bytes exceeds the best of its
//! item. The cost of any solution is the bound, plus its regrets, plus the price of the bytes it leaves unused. So a choice
//! whose regret reaches the gap between the known solution and the bound is in no better solution, and few remain.

use super::hull::Front;
use super::solver::State;

/// Partial solutions kept in all, spread over the items in doubt. Real models need far fewer; beyond it the result may miss
/// the optimum by a hair.
const WORK: usize = 1 << 21;

/// Partial solutions kept per item at most.
const MAX_STATES: usize = 4096;

/// A gap of this share of the cost is as good as none: measured costs are never this exact.
const NEGLIGIBLE: f64 = 1e-9;

/// A choice that a better solution could hold, relative to the item's choice of least regret.
#[derive(Clone, Copy)]
struct Alternative {
    pick: usize,
    bytes: i64,
    regret: f64,
}

/// A decision for the items so far; the others stand at their choice of least regret.
#[derive(Clone, Copy)]
struct Partial {
    /// Total bytes relative to the base solution.
    bytes: i64,
    regret: f64,
    /// Index into the trail of decisions.
    trail: u32,
}

/// One decision and the decision before it.
struct Decision {
    before: u32,
    pick: u32,
}

const ROOT: u32 = u32::MAX;

/// Cost of a choice plus the price of its bytes. They count from the smallest choice, so that large sizes cost no precision.
fn reduced(front: &Front, pick: usize, price: f64) -> f64 {
    let choice = front.choices[pick];
    choice.cost + price * (choice.bytes - front.smallest().bytes) as f64
}

/// Every item at its choice of least regret, and the bytes of `capacity` that this leaves.
fn base(fronts: &[Front], capacity: u64, price: f64) -> (State, i64) {
    let least = |front: &Front| {
        (0..front.choices.len())
            .min_by(|&a, &b| reduced(front, a, price).total_cmp(&reduced(front, b, price)))
            .expect("a front is never empty")
    };
    let base = State::new(fronts, fronts.iter().map(least).collect());
    let free = capacity as i64 - base.bytes as i64;
    (base, free)
}

/// Replaces `incumbent` by a cheaper solution within `capacity` if there is one.
pub(super) fn close(fronts: &[Front], capacity: u64, price: f64, incumbent: &mut State) {
    let mut options: Vec<(usize, Vec<Alternative>)> = Vec::new();
    let (base, free) = base(fronts, capacity, price);
    // cost(solution) = base.cost + its regrets - price * (its bytes - base.bytes) = bound + its regrets + price * unused bytes
    let bound = base.cost - price * free as f64;
    let mut limit = incumbent.cost - bound;
    if limit <= NEGLIGIBLE * incumbent.cost.abs() {
        return;
    }
    for (item, front) in fronts.iter().enumerate() {
        let at_base = base.picks[item];
        let survivors: Vec<Alternative> = (0..front.choices.len())
            .map(|pick| Alternative {
                pick,
                bytes: front.choices[pick].bytes as i64 - front.choices[at_base].bytes as i64,
                regret: if pick == at_base {
                    0.0
                } else {
                    (reduced(front, pick, price) - reduced(front, at_base, price)).max(0.0)
                },
            })
            .filter(|option| option.regret < limit)
            .collect();
        if survivors.len() > 1 {
            options.push((item, survivors));
        }
    }
    order_by_doubt(&mut options);

    let max_states = (WORK / options.len().max(1)).clamp(256, MAX_STATES);
    let mut search = Search { price, free, max_states, limit: &mut limit, trail: Vec::new(), best: None };
    search.run(&options);
    if let Search { trail, best: Some((depth, mut at)), .. } = search {
        let mut picks = base.picks;
        for (item, _) in options[..depth].iter().rev() {
            let decision = &trail[at as usize];
            picks[*item] = decision.pick as usize;
            at = decision.before;
        }
        let found = State::new(fronts, picks);
        if found.bytes <= capacity && found.cost < incumbent.cost {
            *incumbent = found;
        }
    }
}

/// Giants first: they decide most of the bytes. Then the items that are nearest to changing their mind.
fn order_by_doubt(options: &mut [(usize, Vec<Alternative>)]) {
    const GIANTS: usize = 4;
    let reach = |list: &[Alternative]| list.iter().map(|o| o.bytes.abs()).max().unwrap_or(0);
    let doubt = |list: &[Alternative]| list.iter().map(|o| o.regret).filter(|&r| r > 0.0).fold(f64::INFINITY, f64::min);
    options.sort_by(|(i, a), (j, b)| reach(b).cmp(&reach(a)).then(i.cmp(j)));
    let rest = options.len().min(GIANTS);
    options[rest..].sort_by(|(i, a), (j, b)| doubt(a).total_cmp(&doubt(b)).then(i.cmp(j)));
}

struct Search<'a> {
    price: f64,
    /// Bytes that the base solution leaves unused; negative if it is too large.
    free: i64,
    max_states: usize,
    /// A better solution has less than this above the bound.
    limit: &'a mut f64,
    trail: Vec<Decision>,
    /// Items decided and the last decision of the best solution found.
    best: Option<(usize, u32)>,
}

impl Search<'_> {
    fn run(&mut self, options: &[(usize, Vec<Alternative>)]) {
        // The least and most bytes that the items after each one can still add.
        let mut reach = vec![(0, 0); options.len() + 1];
        for (i, (_, list)) in options.iter().enumerate().rev() {
            let least = list.iter().map(|o| o.bytes).min().unwrap_or(0);
            let most = list.iter().map(|o| o.bytes).max().unwrap_or(0);
            reach[i] = (reach[i + 1].0 + least, reach[i + 1].1 + most);
        }
        let mut states = vec![Partial { bytes: 0, regret: 0.0, trail: ROOT }];
        self.consider(0, &states[0]);
        for (depth, (_, list)) in options.iter().enumerate() {
            let (least, most) = reach[depth + 1];
            let mut grown: Vec<(Partial, u32)> = Vec::with_capacity(states.len() * list.len());
            for option in list {
                for state in &states {
                    let bytes = state.bytes + option.bytes;
                    let regret = state.regret + option.regret;
                    let unused_at_best = (self.free - bytes - most).max(0);
                    if bytes + least <= self.free && regret + self.price * (unused_at_best as f64) < *self.limit {
                        grown.push((Partial { bytes, regret, trail: state.trail }, option.pick as u32));
                    }
                }
            }
            states = self.undominated(grown);
            for state in &states {
                self.consider(depth + 1, state);
            }
        }
    }

    /// Takes the state as a full solution if it fits and beats the best one.
    fn consider(&mut self, depth: usize, state: &Partial) {
        if state.bytes <= self.free {
            let value = state.regret + self.price * (self.free - state.bytes) as f64;
            if value < *self.limit {
                *self.limit = value;
                self.best = Some((depth, state.trail));
            }
        }
    }

    /// Keeps the states that no other state beats in bytes and cost, and records their decisions.
    fn undominated(&mut self, mut grown: Vec<(Partial, u32)>) -> Vec<Partial> {
        let price = self.price;
        let cost = |state: &Partial| state.regret - price * state.bytes as f64;
        // Stable, and fast on the sorted runs that each option gives.
        grown.sort_by(|(a, _), (b, _)| a.bytes.cmp(&b.bytes).then(cost(a).total_cmp(&cost(b))));
        let mut least = f64::INFINITY;
        grown.retain(|(state, _)| {
            let better = cost(state) < least;
            if better {
                least = cost(state);
            }
            better
        });
        if grown.len() > self.max_states {
            grown.select_nth_unstable_by(self.max_states, |(a, _), (b, _)| {
                a.regret.total_cmp(&b.regret).then(a.bytes.cmp(&b.bytes))
            });
            grown.truncate(self.max_states);
            grown.sort_by_key(|(state, _)| state.bytes);
        }
        let record = |(state, pick): (Partial, u32)| {
            self.trail.push(Decision { before: state.trail, pick });
            Partial { trail: self.trail.len() as u32 - 1, ..state }
        };
        grown.into_iter().map(record).collect()
    }
}
