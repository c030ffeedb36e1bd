//! Leases: how long a workload counts as there. Pure; every call is told what time it is.
//!
//! A workload is there while its discovery stream lives, and a moment longer: a proxy that reconnects is never
//! missed; one that says that it leaves is gone at once. After the control plane's own restart the workloads that were there before count as there until their
//! proxies had the time to reconnect: a restart never takes endpoints away from anybody.

use std::collections::BTreeMap;
use std::time::Duration;

use meshwork_model::mesh::Key;
use tokio::time::Instant;

/// For how long a workload outlives its stream: a proxy reconnects within a second.
pub(crate) const STREAM_GRACE: Duration = Duration::from_secs(2);
/// For how long workloads outlive a restart of the control plane: the slowest reconnect, by backoff, is within it.
pub(crate) const RESTART_GRACE: Duration = Duration::from_secs(30);

/// For how long workloads outlive another control plane's silence: it may be the one that is cut off, and its workloads as
/// well as ever. One that is not is found out by who calls it.
pub(crate) const REPLICA_GRACE: Duration = Duration::from_mins(5);

/// Who holds a lease.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: BTreeMap<Key, Held>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    /// By this stream.
    Stream(u64),
    /// By nobody, until then.
    Until(Instant),
}

impl Leases {
    /// A workload that was there before the control plane started.
    pub(crate) fn restore(&mut self, workload: Key, now: Instant) {
        self.held.entry(workload).or_insert(Held::Until(now + RESTART_GRACE));
    }

    /// A workload whose control plane is gone, or cut off from the others.
    pub(crate) fn adopt(&mut self, workload: Key, now: Instant) {
        self.held.entry(workload).or_insert(Held::Until(now + REPLICA_GRACE));
    }

    /// A workload's stream began; it takes the lease over from an older one.
    pub(crate) fn take(&mut self, workload: Key, stream: u64) {
        self.held.insert(workload, Held::Stream(stream));
    }

    /// A stream ended; says whether it held the lease.
    pub(crate) fn release(&mut self, workload: &Key, stream: u64, now: Instant) -> bool {
        match self.held.get_mut(workload) {
            Some(held) if *held == Held::Stream(stream) => {
                *held = Held::Until(now + STREAM_GRACE);
                true
            }
            _ => false,
        }
    }

    /// Whether a workload counts as there.
    pub(crate) fn is_held(&self, workload: &Key) -> bool {
        self.held.contains_key(workload)
    }

    /// Whether a workload has a stream.
    pub(crate) fn has_stream(&self, workload: &Key) -> bool {
        matches!(self.held.get(workload), Some(Held::Stream(_)))
    }

    /// Ends a workload's lease at once, whoever holds it.
    pub(crate) fn end(&mut self, workload: &Key) {
        self.held.remove(workload);
    }

    /// Takes out the leases that are over.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Key> {
        let over = |held: &Held| matches!(held, Held::Until(end) if *end <= now);
        let gone: Vec<Key> = self.held.iter().filter(|(_, h)| over(h)).map(|(k, _)| k.clone()).collect();
        self.held.retain(|_, held| !over(held));
        gone
    }

    /// When the next lease is over, if nobody takes it.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let ends = self.held.values().filter_map(|held| match held {
            Held::Until(end) => Some(*end),
            Held::Stream(_) => None,
        });
        ends.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cart() -> Key {
        Key::new("shop", "cart")
    }

    #[test]
    fn a_workload_outlives_its_stream_by_a_moment() {
        let start = Instant::now();
        let mut leases = Leases::default();
        leases.take(cart(), 1);
        assert_eq!((leases.next_expiry(), leases.expire(start + RESTART_GRACE)), (None, vec![]));
        assert!(leases.release(&cart(), 1, start));
        assert_eq!(leases.next_expiry(), Some(start + STREAM_GRACE));
        assert!(leases.expire(start + STREAM_GRACE - Duration::from_millis(1)).is_empty());
        assert_eq!(leases.expire(start + STREAM_GRACE), [cart()]);
        assert_eq!(leases.next_expiry(), None);
    }

    #[test]
    fn a_new_stream_takes_over_and_the_old_one_ends_unnoticed() {
        let start = Instant::now();
        let mut leases = Leases::default();
        leases.take(cart(), 1);
        leases.take(cart(), 2);
        assert!(!leases.release(&cart(), 1, start));
        assert!(leases.expire(start + RESTART_GRACE).is_empty());
        assert!(leases.release(&cart(), 2, start));
        leases.take(cart(), 3);
        assert!(leases.expire(start + RESTART_GRACE).is_empty());
    }

    #[test]
    fn a_lease_that_was_ended_is_not_released_again() {
        let start = Instant::now();
        let mut leases = Leases::default();
        leases.take(cart(), 1);
        leases.end(&cart());
        assert!(!leases.release(&cart(), 1, start));
        assert_eq!(leases.next_expiry(), None);
    }

    #[test]
    fn a_restart_empties_nothing_until_proxies_had_time_to_reconnect() {
        let start = Instant::now();
        let web = Key::new("shop", "web");
        let mut leases = Leases::default();
        leases.restore(cart(), start);
        leases.restore(web.clone(), start);
        leases.take(cart(), 1);
        leases.restore(cart(), start);
        assert!(leases.expire(start + RESTART_GRACE - Duration::from_millis(1)).is_empty());
        assert_eq!(leases.expire(start + RESTART_GRACE), [web]);
    }
}
