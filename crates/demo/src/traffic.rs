//! What the load has counted, over all its runs: a load that was killed starts at zero again.

use std::time::{Duration, Instant};

use crate::shop::load::Tally;

/// The sum of the load's counts.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    ended: Tally,
    current: Tally,
    flowing: Option<Duration>,
    told: usize,
}

impl Traffic {
    /// Takes a line of the load's standard output. `started` is the demo's start.
    pub(crate) fn line(&mut self, line: &str, started: Instant) {
        match serde_json::from_str::<Tally>(line) {
            Ok(tally) => self.current = tally,
            Err(error) => tracing::warn!("the load wrote what is no count: {error}: {line}"),
        }
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
