//! Weighted turns.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Draws;

/// Weighted turns: whose next turn is due earliest has it. One of weight `w` is due every `1 / w`.
///
/// Source: "Earliest deadline first scheduling"; Envoy `EdfScheduler`.
#[derive(Clone, Debug, Default)]
pub(super) struct Edf {
    due: BinaryHeap<Due>,
    now: f64,
    /// Counts what was queued: of equals, who came first has the turn.
    queued: u64,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    at: f64,
    order: u64,
    index: usize,
}

impl Edf {
    /// All of `0..count`, each somewhere before its first turn, so that workers do not go in step.
    pub(super) fn new(seed: u64, count: usize, weight: impl Fn(usize) -> f64) -> Self {
        let mut draws = Draws(seed);
        let mut edf = Self::default();
        for index in 0..count {
            #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
            let part = ((draws.next() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
            edf.queue(part / weight(index), index);
        }
        edf
    }

    /// Whose turn it is; the next one is due as far away as its weight says now.
    pub(super) fn pick(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let due = self.due.pop()?;
        self.now = due.at;
        self.queue(due.at + 1.0 / weight(due.index), due.index);
        Some(due.index)
    }

    fn queue(&mut self, at: f64, index: usize) {
        self.queued += 1;
        self.due.push(Due { at, order: self.queued, index });
    }
}

impl Ord for Due {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_weights() {
        let weights = [1.0, 2.0, 5.0];
        for seed in 0..20 {
            let mut edf = Edf::new(seed, weights.len(), |at| weights[at]);
            let mut turns = [0u32; 3];
            for _ in 0..800 {
                turns[edf.pick(|at| weights[at]).expect("one")] += 1;
            }
            for (turns, expected) in turns.into_iter().zip([100u32, 200, 500]) {
                assert!(turns.abs_diff(expected) <= 1, "{seed}: {turns} for {expected}");
            }
        }
        assert_eq!(Edf::default().pick(|_| 1.0), None);
    }
}
