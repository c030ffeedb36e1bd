//! What policies that are only tried would say.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Policies that a worker tells apart; further ones are counted as `other`.
pub const MAX_POLICIES: usize = 256;

/// What a policy would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trial {
    /// It would let the request pass.
    Allowed,
    /// It would refuse it.
    Denied,
}

/// A policy, and what it would say.
pub(crate) type Tried = (Arc<str>, Trial);

/// The counts of one worker: for each policy, what it would let pass, and what it would refuse. The lock is shared with
/// scrapes alone.
#[derive(Debug, Default)]
pub(crate) struct Trials(Mutex<HashMap<Arc<str>, [u64; 2]>>);

impl Trial {
    /// The value of the label `verdict`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}

impl Trials {
    /// Counts what a policy would say.
    pub(crate) fn count(&self, policy: &str, trial: Trial) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = all.len() >= MAX_POLICIES;
        let counts = match all.get_mut(policy) {
            Some(known) => known,
            None if is_full => all.entry(crate::names::OTHER.into()).or_default(),
            None => all.entry(policy.into()).or_default(),
        };
        counts[trial as usize] += 1;
    }

    /// Adds what was counted to a sum.
    pub(crate) fn add_to(&self, sum: &mut BTreeMap<Tried, u64>) {
        for (policy, counts) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for trial in [Trial::Allowed, Trial::Denied] {
                *sum.entry((Arc::clone(policy), trial)).or_default() += counts[trial as usize];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_past_the_limit_are_counted_together() {
        let trials = Trials::default();
        trials.count("ns[a]-policy[b]", Trial::Denied);
        trials.count("ns[a]-policy[b]", Trial::Denied);
        trials.count("ns[a]-policy[b]", Trial::Allowed);
        for number in 0..3 * MAX_POLICIES {
            trials.count(&format!("p{number}"), Trial::Denied);
        }
        let mut sum = BTreeMap::new();
        trials.add_to(&mut sum);
        assert_eq!(sum[&("ns[a]-policy[b]".into(), Trial::Denied)], 2);
        assert_eq!(sum[&("ns[a]-policy[b]".into(), Trial::Allowed)], 1);
        assert!(sum.len() <= 2 * (MAX_POLICIES + 1));
        assert_eq!(sum.values().sum::<u64>(), 3 + 3 * MAX_POLICIES as u64);
    }
}
