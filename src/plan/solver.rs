//! The multiple-choice knapsack behind every plan: one choice per item, least cost within a capacity of bytes.
//!
//! 1. Lagrange: the hull steps of all items in the order of cost saved per byte. Every prefix of that walk is optimal for
//!    some price per byte; the step that no longer fits gives the price (the multiplier a bisection would converge to).
//! 2. Fill: later steps that still fit are taken, those that do not are skipped.
//! 3. Swaps: one item up, another one down, over all undominated choices, until nothing is gained.
//! 4. Gap: [`gap::close`] searches what the price leaves open, giant items included. Unless it meets its cap on states the
//!    result is the exact optimum, and hence monotone in the capacity.
//!
//! Everything is deterministic: ties go to the lower index.

use super::gap;
use super::hull::{Choice, Front, slope};

/// A solved problem: for each item the index of its choice in the caller's list.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    pub picks: Vec<usize>,
    pub bytes: u64,
    pub cost: f64,
}

/// Items with their Pareto fronts; solves for any capacity.
pub struct Problem {
    fronts: Vec<Front>,
    steps: Vec<Step>,
}

/// One edge of the hull of an item.
struct Step {
    item: usize,
    /// The vertex it leads to, as an index into the front.
    to: usize,
    slope: f64,
}

/// A choice per item, with its totals kept up to date.
#[derive(Clone)]
pub(super) struct State {
    pub(super) picks: Vec<usize>,
    pub(super) bytes: u64,
    pub(super) cost: f64,
}

impl State {
    pub(super) fn new(fronts: &[Front], picks: Vec<usize>) -> State {
        let chosen = || fronts.iter().zip(&picks).map(|(front, &pick)| front.choices[pick]);
        let (bytes, cost) = (chosen().map(|c| c.bytes).sum(), chosen().map(|c| c.cost).sum());
        State { picks, bytes, cost }
    }

    fn set(&mut self, fronts: &[Front], item: usize, pick: usize) {
        let (old, new) = (fronts[item].choices[self.picks[item]], fronts[item].choices[pick]);
        self.bytes = self.bytes - old.bytes + new.bytes;
        self.cost += new.cost - old.cost;
        self.picks[item] = pick;
    }
}

impl Problem {
    /// `items[i]` lists the choices of item i; none is empty.
    pub fn new(items: &[Vec<Choice>]) -> Problem {
        let fronts: Vec<Front> = items.iter().map(|choices| Front::new(choices)).collect();
        let mut steps: Vec<Step> = Vec::new();
        for (item, front) in fronts.iter().enumerate() {
            for edge in front.hull.windows(2) {
                let slope = slope(front.choices[edge[0]], front.choices[edge[1]]);
                steps.push(Step { item, to: edge[1], slope });
            }
        }
        // A stable sort: steps of one item have strictly falling slopes and stay in order.
        steps.sort_by(|a, b| b.slope.total_cmp(&a.slope));
        Problem { fronts, steps }
    }

    /// Bytes of the smallest solution.
    pub fn min_bytes(&self) -> u64 {
        self.fronts.iter().map(|front| front.smallest().bytes).sum()
    }

    /// The solution of least cost, whatever its size (and the smallest of that cost).
    pub fn largest(&self) -> Solution {
        self.solution(self.fronts.iter().map(|front| front.choices.len() - 1).collect())
    }

    /// The solution of fewest bytes.
    pub fn smallest(&self) -> Solution {
        self.solution(vec![0; self.fronts.len()])
    }

    fn solution(&self, picks: Vec<usize>) -> Solution {
        let State { picks, bytes, cost } = State::new(&self.fronts, picks);
        let picks = self.fronts.iter().zip(&picks).map(|(front, &pick)| front.origin[pick]).collect();
        Solution { picks, bytes, cost }
    }

    /// Least cost with at most `capacity` bytes; `None` if even the smallest solution is larger.
    pub fn within(&self, capacity: u64) -> Option<Solution> {
        let (mut state, price) = self.near(capacity)?;
        gap::close(&self.fronts, capacity, price, &mut state);
        Some(self.solution(state.picks))
    }

    /// A solution near the optimum, and the price per byte there (0 if nothing is left to buy).
    fn near(&self, capacity: u64) -> Option<(State, f64)> {
        let mut state = State::new(&self.fronts, vec![0; self.fronts.len()]);
        if state.bytes > capacity {
            return None;
        }
        let price = self.walk(&mut state, capacity);
        if price > 0.0 {
            swap_until_stable(&self.fronts, &mut state, capacity);
        }
        Some((state, price))
    }

    /// Takes hull steps while they fit; returns the slope of the first that did not, or 0 if all did.
    fn walk(&self, state: &mut State, capacity: u64) -> f64 {
        let mut price = 0.0;
        for step in &self.steps {
            let choices = &self.fronts[step.item].choices;
            let more = choices[step.to].bytes - choices[state.picks[step.item]].bytes;
            if state.bytes + more <= capacity {
                state.set(&self.fronts, step.item, step.to);
            } else if price == 0.0 {
                price = step.slope;
            }
        }
        price
    }

    /// Fewest bytes with a cost of at most `max_cost`, and of those the least cost; `None` if even the largest solution
    /// costs more.
    pub fn cheapest_meeting(&self, max_cost: f64) -> Option<Solution> {
        let largest = self.largest();
        if largest.cost > max_cost || max_cost <= 0.0 {
            return (largest.cost <= max_cost).then_some(largest);
        }
        let (transposed, capacity) = self.transposed(max_cost);
        let fewest = self.solution(transposed.within(capacity)?.picks);
        self.within(fewest.bytes).filter(|best| best.cost <= fewest.cost).or(Some(fewest))
    }

    /// The same problem with the roles of bytes and cost exchanged: least bytes within a capacity of cost. Cost is counted
    /// in units so small that rounding them down moves `max_cost` by less than 1e-12 of it.
    fn transposed(&self, max_cost: f64) -> (Problem, u64) {
        // A choice above `max_cost` is in no solution, however far above it is.
        let most = 2.0 * max_cost;
        let sum: f64 = self.fronts.iter().map(|front| front.smallest().cost.min(most)).sum();
        let units = (1u64 << 62) as f64 / sum.max(most);
        let turn = |front: &Front| -> Vec<Choice> {
            let turned = front.choices.iter().map(|choice| Choice {
                bytes: (choice.cost.min(most) * units) as u64,
                cost: (choice.bytes - front.smallest().bytes) as f64,
            });
            turned.collect()
        };
        let items: Vec<Vec<Choice>> = self.fronts.iter().map(turn).collect();
        (Problem::new(&items), (max_cost * units) as u64)
    }
}

/// A change of one item: bytes and cost relative to its present choice.
#[derive(Clone, Copy)]
struct Move {
    item: usize,
    to: usize,
    bytes: i64,
    cost: f64,
}

/// Applies the best single change or pair of changes while one lowers the cost and fits.
fn swap_until_stable(fronts: &[Front], state: &mut State, capacity: u64) {
    // Each round lowers the cost; the bound only guards against pathological inputs.
    for _ in 0..fronts.len().max(64) {
        let Some(moves) = best_exchange(fronts, state, (capacity - state.bytes) as i64) else { return };
        for change in moves.into_iter().flatten() {
            state.set(fronts, change.item, change.to);
        }
    }
}

/// The largest gain from one move up, alone or paid for by one move down of another item.
fn best_exchange(fronts: &[Front], state: &State, slack: i64) -> Option<[Option<Move>; 2]> {
    let (mut ups, mut downs) = (Vec::new(), Vec::new());
    for (item, front) in fronts.iter().enumerate() {
        let now = front.choices[state.picks[item]];
        for (to, choice) in front.choices.iter().enumerate() {
            let change = Move { item, to, bytes: choice.bytes as i64 - now.bytes as i64, cost: choice.cost - now.cost };
            match to.cmp(&state.picks[item]) {
                std::cmp::Ordering::Greater => ups.push(change),
                std::cmp::Ordering::Less => downs.push(change),
                std::cmp::Ordering::Equal => {}
            }
        }
    }
    downs.sort_by_key(|down| down.bytes);
    let cheapest = cheapest_prefixes(&downs);
    let mut best: Option<(f64, [Option<Move>; 2])> = None;
    for up in ups {
        let need = up.bytes - slack;
        let down = if need <= 0 {
            None
        } else {
            // Downs that free at least `need` bytes are a prefix.
            let count = downs.partition_point(|down| -down.bytes >= need);
            let Some(index) = count.checked_sub(1) else { continue };
            let [first, second] = cheapest[index];
            match [first, second].into_iter().flatten().find(|&d| downs[d].item != up.item) {
                Some(d) => Some(downs[d]),
                None => continue,
            }
        };
        let change = up.cost + down.map_or(0.0, |down| down.cost);
        let gains = change < -1e-12 * state.cost.abs();
        if gains && best.as_ref().is_none_or(|(least, _)| change < *least) {
            best = Some((change, [down, Some(up)]));
        }
    }
    best.map(|(_, moves)| moves)
}

/// For each prefix of `downs` the two cheapest moves that belong to different items.
fn cheapest_prefixes(downs: &[Move]) -> Vec<[Option<usize>; 2]> {
    let mut best: [Option<usize>; 2] = [None, None];
    let cheaper = |d: usize, than: Option<usize>| than.is_none_or(|other| downs[d].cost < downs[other].cost);
    let mut prefixes = Vec::with_capacity(downs.len());
    for d in 0..downs.len() {
        let same_item = |other: Option<usize>| other.is_some_and(|other| downs[other].item == downs[d].item);
        if cheaper(d, best[0]) {
            if !same_item(best[0]) {
                best[1] = best[0];
            }
            best[0] = Some(d);
        } else if !same_item(best[0]) && cheaper(d, best[1]) {
            best[1] = Some(d);
        }
        prefixes.push(best);
    }
    prefixes
}
