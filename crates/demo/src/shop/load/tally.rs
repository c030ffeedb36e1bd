//! How the load's requests went.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::shop::catalog::Release;

/// Reasons that are kept, each once: the first few tell what is wrong, a thousand tell no more.
const MAX_REASONS: usize = 5;
/// Longest reason that is kept, in characters.
const MAX_REASON_CHARACTERS: usize = 400;

/// How a request went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it should: the answer is complete and right. A page says which release of the catalog it shows, unless
    /// it asked for one.
    Served(Option<Release>),
    /// Refused, as it must be.
    Denied,
    /// Policy must refuse it, and it got through.
    WronglyAllowed(String),
    /// It failed, or its answer is not right.
    Failed(String),
}

/// A count of requests, cumulative since the load started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// All requests that ended.
    pub(crate) requests: u64,
    /// Those served as they should be.
    pub(crate) served: u64,
    /// Those that failed and should not have.
    pub(crate) failures: u64,
    /// Those refused as they must be.
    pub(crate) denied: u64,
    /// Those that got through and should not have.
    pub(crate) wrongly_allowed: u64,
    /// Those that were due and not sent, because too many were under way.
    pub(crate) skipped: u64,
    /// The first few reasons of what went wrong, in words.
    pub(crate) reasons: Vec<String>,
    /// Pages by the catalog's release, without those that asked for one.
    pub(crate) versions: BTreeMap<String, u64>,
    /// Whether this is the last count.
    pub(crate) finished: bool,
}

impl Tally {
    /// Counts a request; tells whether it was the first that was served.
    pub(crate) fn count(&mut self, outcome: Outcome) -> bool {
        self.requests += 1;
        match outcome {
            Outcome::Served(version) => {
                self.served += 1;
                if let Some(version) = version {
                    *self.versions.entry(version.name().to_owned()).or_default() += 1;
                }
                return self.served == 1;
            }
            Outcome::Denied => self.denied += 1,
            Outcome::WronglyAllowed(what) => {
                self.wrongly_allowed += 1;
                self.keep(&what);
            }
            Outcome::Failed(why) => {
                self.failures += 1;
                self.keep(&why);
            }
        }
        false
    }

    /// Adds the count of another run of the load.
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.served += other.served;
        self.failures += other.failures;
        self.denied += other.denied;
        self.wrongly_allowed += other.wrongly_allowed;
        self.skipped += other.skipped;
        for reason in &other.reasons {
            self.keep(reason);
        }
        for (version, count) in &other.versions {
            *self.versions.entry(version.clone()).or_default() += count;
        }
        self.finished |= other.finished;
    }

    fn keep(&mut self, reason: &str) {
        let reason: String = reason.chars().take(MAX_REASON_CHARACTERS).collect();
        if self.reasons.len() < MAX_REASONS && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_counted_once_and_reasons_are_few() {
        let mut tally = Tally::default();
        assert!(!tally.count(Outcome::Denied));
        assert!(tally.count(Outcome::Served(Some(Release::V1))), "the first that is served is told");
        assert!(!tally.count(Outcome::Served(None)));
        tally.count(Outcome::WronglyAllowed("got in".to_owned()));
        for number in 0..20 {
            tally.count(Outcome::Failed(format!("reason {}", number / 2)));
        }
        assert_eq!((tally.requests, tally.served, tally.denied), (24, 2, 1));
        assert_eq!((tally.wrongly_allowed, tally.failures), (1, 20));
        assert_eq!(tally.reasons, ["got in", "reason 0", "reason 1", "reason 2", "reason 3"]);
        assert_eq!(tally.versions, BTreeMap::from([("v1".to_owned(), 1)]));
    }

    #[test]
    fn counts_of_two_runs_add_up() {
        let mut one = Tally::default();
        one.count(Outcome::Served(Some(Release::V2)));
        one.count(Outcome::Failed("no".to_owned()));
        let mut sum = one.clone();
        sum.add(&one);
        assert_eq!((sum.requests, sum.failures, sum.versions["v2"]), (4, 2, 2));
        assert_eq!(sum.reasons, ["no"]);
    }
}
