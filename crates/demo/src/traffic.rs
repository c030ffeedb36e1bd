//! What the load has counted, over all its runs: a load that was killed starts at zero again.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::shop::load::Tally;

/// Counts that tell how it goes now; the load writes one a second.
const PAST: usize = 10;

/// The sum of the load's counts.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    ended: Tally,
    current: Tally,
    flowing: Option<Duration>,
    told: usize,
    /// Pages by the catalog's release at the last counts, the latest in front.
    past: VecDeque<BTreeMap<String, u64>>,
}

impl Traffic {
    /// Takes a line of the load's standard output. `started` is the demo's start.
    pub(crate) fn line(&mut self, line: &str, started: Instant) {
        match serde_json::from_str::<Tally>(line) {
            Ok(tally) => self.current = tally,
            Err(error) => tracing::warn!("the load wrote what is no count: {error}: {line}"),
        }
        self.past.truncate(PAST - 1);
        self.past.push_front(self.total().versions);
        if self.flowing.is_none() && self.current.served > 0 {
            self.flowing = Some(started.elapsed());
        }
    }

    /// The load starts again; what it counts from now on is added.
    pub(crate) fn restarted(&mut self) {
        self.ended.add(&std::mem::take(&mut self.current));
        self.ended.finished = false;
    }

    /// The sum so far.
    pub(crate) fn total(&self) -> Tally {
        let mut total = self.ended.clone();
        total.add(&self.current);
        total
    }

    /// Pages by the catalog's release since [`PAST`] counts ago: how the split is now.
    pub(crate) fn lately(&self) -> BTreeMap<String, u64> {
        let before = self.past.back().filter(|_| self.past.len() == PAST);
        let since = |(version, count): (String, u64)| {
            let before = before.and_then(|before| before.get(&version)).copied().unwrap_or_default();
            (version, count.saturating_sub(before))
        };
        self.total().versions.into_iter().map(since).collect()
    }

    /// How long after the demo's start the first request was served.
    pub(crate) fn flowing(&self) -> Option<Duration> {
        self.flowing
    }

    /// Reasons of failures that were not told yet.
    pub(crate) fn news(&mut self) -> Vec<String> {
        let reasons = self.total().reasons;
        let news = reasons.get(self.told..).unwrap_or_default().to_vec();
        self.told = reasons.len();
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_told_as_it_is_now() {
        let mut traffic = Traffic::default();
        for second in 0..30_u64 {
            let versions = [("v1".to_owned(), second.min(15) * 10), ("v2".to_owned(), second)].into();
            let tally = Tally { versions, ..Tally::default() };
            traffic.line(&serde_json::to_string(&tally).expect("JSON"), Instant::now());
            if second == 3 {
                assert_eq!(traffic.lately()["v1"], 30, "since the start while that is not long ago");
            }
        }
        assert_eq!((traffic.lately()["v1"], traffic.lately()["v2"]), (0, 9));
    }

    #[test]
    fn a_load_that_starts_again_loses_no_count() {
        let mut traffic = Traffic::default();
        let now = Instant::now();
        let line = |requests, served| {
            let tally = Tally { requests, served, reasons: vec!["no".to_owned()], ..Tally::default() };
            serde_json::to_string(&tally).expect("JSON")
        };
        traffic.line(&line(2, 0), now);
        assert_eq!(traffic.flowing(), None);
        traffic.line(&line(7, 7), now);
        assert!(traffic.flowing().is_some());
        assert_eq!(traffic.news(), ["no"]);
        traffic.restarted();
        traffic.line("garbage", now);
        traffic.line(&line(3, 3), now);
        assert_eq!((traffic.total().requests, traffic.total().served), (10, 10));
        assert!(traffic.news().is_empty(), "a reason is told once");
    }
}
