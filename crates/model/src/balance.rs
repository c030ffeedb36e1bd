//! `pick`: which endpoint of a cluster takes the next request.

use crate::proxy::Balancing;

/// What one worker knows of one cluster's endpoints. Nothing is shared among workers.
#[derive(Clone, Debug, Default)]
pub struct Worker {
    /// Requests in flight per endpoint, by its index.
    pub active: Vec<u32>,
    /// Where round robin goes on.
    pub cursor: usize,
}

/// Picks an endpoint's index out of `worker.active.len()`; `random` is any number, uniformly drawn.
///
/// `excluded` is the one that has just failed; it is picked only where there is no other. Returns `None` where
/// there is no endpoint.
///
/// Source of P2C: Mitzenmacher, "The Power of Two Choices"; Envoy `LEAST_REQUEST` with two choices.
pub fn pick(
    balancing: Balancing,
    worker: &mut Worker,
    excluded: Option<usize>,
    random: u64,
) -> Option<usize> {
    let count = worker.active.len();
    if count == 0 {
        return None;
    }
    let (first, second) = (index(random & 0xffff_ffff, count), index(random >> 32, count));
    let picked = match balancing {
        Balancing::RoundRobin(_) => {
            worker.cursor = (worker.cursor + 1) % count;
            worker.cursor
        }
        Balancing::LeastRequest(_) if worker.active[second] < worker.active[first] => second,
        _ => first,
    };
    if excluded == Some(picked) { Some((picked + 1) % count) } else { Some(picked) }
}

/// Maps 32 random bits to `0..count` without a division. Source: Lemire, "Fast Random Integer Generation".
fn index(random32: u64, count: usize) -> usize {
    usize::try_from((random32 * count as u64) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_request_takes_the_less_loaded_of_two() {
        let mut worker = Worker { active: vec![5, 1], cursor: 0 };
        let both = u64::from(u32::MAX) << 32; // first = 0, second = 1
        assert_eq!(pick(Balancing::LEAST_REQUEST, &mut worker, None, both), Some(1));
        worker.active = vec![0, 1];
        assert_eq!(pick(Balancing::LEAST_REQUEST, &mut worker, None, both), Some(0));
    }

    #[test]
    fn round_robin_visits_all_and_a_failed_one_is_avoided() {
        let mut worker = Worker { active: vec![0; 3], cursor: 0 };
        let mut seen: Vec<_> =
            (0..3).map(|_| pick(Balancing::ROUND_ROBIN, &mut worker, None, 0).expect("one")).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(pick(Balancing::Random, &mut worker, Some(0), 0), Some(1));
        worker.active = vec![0];
        assert_eq!(pick(Balancing::Random, &mut worker, Some(0), 0), Some(0));
        worker.active.clear();
        assert_eq!(pick(Balancing::Random, &mut worker, None, 0), None);
    }
}
