//! Circuit breakers: what all workers together have open to a cluster, and whether that may be one more.
//!
//! Each worker counts on a cache line of its own and adds the others' up where there is a limit; where there is none,
//! nothing is counted. As in Envoy, workers that ask at the same moment may each get the last place.
//!
//! Source: Envoy `CircuitBreakers`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use meshwork_model::proxy::{self, Priority, RetryBudget};

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limited {
    /// Connections.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests.
    Requests,
    /// Retries.
    Retries,
}

/// The circuit breakers of a cluster.
#[derive(Debug)]
pub(crate) struct Breakers {
    limits: proxy::Breakers,
    counts: Arc<Counts>,
}

/// What there is, worker by worker.
#[derive(Debug)]
struct Counts(Box<[Shard]>);

/// What one worker has: for each priority, each kind.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard([[AtomicU32; 4]; 2]);

/// Something that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    counts: Arc<Counts>,
    worker: usize,
    priority: Priority,
    what: Limited,
}

impl Breakers {
    /// Limits for this many workers.
    pub(crate) fn new(limits: proxy::Breakers, workers: usize) -> Self {
        let shards = (0..workers.max(1)).map(|_| Shard::default()).collect();
        Self { limits, counts: Arc::new(Counts(shards)) }
    }

    /// Other limits for what `self` counts.
    pub(crate) fn with(&self, limits: proxy::Breakers) -> Self {
        Self { limits, counts: Arc::clone(&self.counts) }
    }

    /// Whether one connection more may be opened to one host that has `open` of them.
    pub(crate) fn admits_host_connection(&self, open: u64) -> bool {
        self.limits.host_connections.is_none_or(|limit| open < u64::from(limit))
    }

    /// Counts one more; nothing where nothing limits it.
    ///
    /// # Errors
    /// There are as many as may be.
    pub(crate) fn enter(
        &self,
        worker: usize,
        priority: Priority,
        what: Limited,
    ) -> Result<Option<Held>, Overflow> {
        let limit = self.limit(priority, what);
        let counts_for_budget = what == Limited::Requests && self.budget(priority).is_some();
        if limit == u32::MAX && !counts_for_budget {
            return Ok(None);
        }
        if self.counts.sum(priority, what) >= limit {
            return Err(Overflow);
        }
        Ok(Some(self.counts.hold(worker, priority, what)))
    }

    fn limit(&self, priority: Priority, what: Limited) -> u32 {
        let thresholds = self.limits.of(priority);
        match what {
            Limited::Connections => thresholds.connections,
            Limited::Pending => thresholds.pending,
            Limited::Requests => thresholds.requests,
            Limited::Retries => self.budget(priority).map_or(thresholds.retries, |budget| {
                let requests = self.counts.sum(priority, Limited::Requests);
                retries(budget, requests + self.counts.sum(priority, Limited::Pending))
            }),
        }
    }

    fn budget(&self, priority: Priority) -> Option<RetryBudget> {
        self.limits.of(priority).retry_budget
    }
}

/// As many as may be are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

/// How many retries a budget allows beside this many requests.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a per cent of a u32")]
fn retries(budget: RetryBudget, requests: u32) -> u32 {
    ((budget.percent * f64::from(requests) / 100.0) as u32).max(budget.least)
}

impl Counts {
    fn sum(&self, priority: Priority, what: Limited) -> u32 {
        self.0.iter().map(|shard| shard.of(priority, what).load(Relaxed)).sum()
    }

    fn hold(self: &Arc<Self>, worker: usize, priority: Priority, what: Limited) -> Held {
        let worker = worker % self.0.len();
        self.0[worker].of(priority, what).fetch_add(1, Relaxed);
        Held { counts: Arc::clone(self), worker, priority, what }
    }
}

impl Shard {
    fn of(&self, priority: Priority, what: Limited) -> &AtomicU32 {
        &self.0[priority as usize][what as usize]
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.counts.0[self.worker].of(self.priority, self.what).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use meshwork_model::proxy::Thresholds;

    use super::*;

    fn breakers(normal: Thresholds) -> Breakers {
        let high = Thresholds { requests: 1, ..Thresholds::NONE };
        Breakers::new(proxy::Breakers { normal, high, host_connections: Some(2) }, 2)
    }

    #[test]
    fn workers_share_a_limit_and_priorities_do_not() {
        let breakers = breakers(Thresholds { requests: 2, ..Thresholds::NONE });
        let enter = |worker, priority| breakers.enter(worker, priority, Limited::Requests);
        let first = enter(0, Priority::Normal).expect("free");
        let second = enter(1, Priority::Normal).expect("free");
        assert!(
            first.is_some() && enter(0, Priority::Normal).is_err() && enter(1, Priority::Normal).is_err()
        );
        let high = enter(0, Priority::High).expect("free");
        assert!(enter(1, Priority::High).is_err());
        drop((second, high));
        assert!(enter(0, Priority::Normal).is_ok() && enter(1, Priority::High).is_ok());
        assert!(breakers.enter(0, Priority::Normal, Limited::Connections).expect("free").is_none());
        assert!(breakers.admits_host_connection(1) && !breakers.admits_host_connection(2));
    }

    #[test]
    fn a_budget_of_retries_follows_requests() {
        let retry_budget = Some(RetryBudget { percent: 50.0, least: 1 });
        let breakers = breakers(Thresholds { retries: 0, retry_budget, ..Thresholds::NONE });
        let enter = |what| breakers.enter(0, Priority::Normal, what);
        let _requests: Vec<_> = (0..5).map(|_| enter(Limited::Requests).expect("no limit")).collect();
        let retries: Vec<_> = (0..2).map(|_| enter(Limited::Retries).expect("within the budget")).collect();
        assert_eq!(enter(Limited::Retries).unwrap_err(), Overflow);
        drop(retries);
        assert!(enter(Limited::Retries).is_ok());
    }

    #[test]
    fn other_limits_go_on_counting() {
        let breakers = breakers(Thresholds { requests: 1, ..Thresholds::NONE });
        let held = breakers.enter(0, Priority::Normal, Limited::Requests).expect("free");
        let other = breakers.with(proxy::Breakers { normal: Thresholds::ENVOY, ..proxy::Breakers::ENVOY });
        assert_eq!(other.counts.sum(Priority::Normal, Limited::Requests), 1);
        drop(held);
        assert_eq!(other.counts.sum(Priority::Normal, Limited::Requests), 0);
    }
}
