//! Which types of one tensor are worth considering: the Pareto front, and its lower convex hull.

/// One way to write a tensor (or a group of tensors that share a type).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub bytes: u64,
    /// What this choice adds to the objective; finite.
    pub cost: f64,
}

/// The choices of one item that no other choice beats in both bytes and cost.
#[derive(Clone, Debug)]
pub struct Front {
    /// By rising bytes and falling cost.
    pub choices: Vec<Choice>,
    /// For each entry of `choices` its index in the caller's list.
    pub origin: Vec<usize>,
    /// Indices into `choices` of the vertices of the lower convex hull, ascending; the first and the last choice are on it.
    pub hull: Vec<usize>,
}

impl Front {
    /// The front of a non-empty list of choices.
    pub fn new(all: &[Choice]) -> Front {
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by(|&a, &b| {
            all[a].bytes.cmp(&all[b].bytes).then(all[a].cost.total_cmp(&all[b].cost)).then(a.cmp(&b))
        });
        let mut origin: Vec<usize> = Vec::new();
        for i in order {
            if origin.last().is_none_or(|&best| all[i].cost < all[best].cost) {
                origin.push(i);
            }
        }
        let choices: Vec<Choice> = origin.iter().map(|&i| all[i]).collect();
        let hull = lower_hull(&choices);
        Front { choices, origin, hull }
    }

    pub fn smallest(&self) -> Choice {
        self.choices[0]
    }

    pub fn largest(&self) -> Choice {
        self.choices[self.choices.len() - 1]
    }
}

/// Cost saved per extra byte from `a` up to `b`; `b` has more bytes.
pub fn slope(a: Choice, b: Choice) -> f64 {
    (a.cost - b.cost) / (b.bytes - a.bytes) as f64
}

/// Vertices of the lower hull of a Pareto front: the slopes between them fall strictly.
fn lower_hull(front: &[Choice]) -> Vec<usize> {
    let mut hull: Vec<usize> = Vec::new();
    for i in 0..front.len() {
        while let [.., a, b] = hull[..] {
            if slope(front[a], front[b]) > slope(front[b], front[i]) {
                break;
            }
            hull.pop();
        }
        hull.push(i);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(points: &[(u64, f64)]) -> Vec<Choice> {
        points.iter().map(|&(bytes, cost)| Choice { bytes, cost }).collect()
    }

    #[test]
    fn dominated_choices_leave_and_hull_is_convex() {
        let all = choices(&[(40, 1.0), (10, 9.0), (20, 4.0), (20, 5.0), (30, 4.5), (35, 1.9), (50, 1.0)]);
        let front = Front::new(&all);
        assert_eq!(front.origin, [1, 2, 5, 0]);
        assert_eq!(front.choices.iter().map(|c| c.bytes).collect::<Vec<_>>(), [10, 20, 35, 40]);
        // (35, 1.9) lies above the line from (20, 4) to (40, 1).
        let hull: Vec<u64> = front.hull.iter().map(|&i| front.choices[i].bytes).collect();
        assert_eq!(hull, [10, 20, 40]);
    }

    #[test]
    fn points_on_one_line_keep_only_the_ends() {
        let front = Front::new(&choices(&[(10, 3.0), (20, 2.0), (30, 1.0)]));
        assert_eq!(front.hull, [0, 2]);
    }
}
