//! What the project aims at, and whether a run reached it.

use crate::metric::Metric;
use crate::results::{Outcome, Results};
use crate::statistics;

/// One aim.
pub(crate) struct Aim {
    scenario: &'static str,
    metric: Metric,
    bound: Bound,
}

enum Bound {
    /// A multiple of a program's best variant: at most, or at least where more is better.
    Of(&'static str, f64),
    /// A value, at most.
    AtMost(f64),
}

/// What became of an aim.
pub(crate) struct Verdict {
    pub(crate) scenario: &'static str,
    pub(crate) aim: String,
    /// `None` where it was not measured.
    pub(crate) measured: Option<f64>,
    reached: bool,
}

const CPU: Metric = Metric::CpuPerRequest;
const AIMS: &[Aim] = &[
    Aim { scenario: "h1-1", metric: CPU, bound: Bound::Of("envoy", 0.27) },
    Aim { scenario: "h1-1", metric: CPU, bound: Bound::Of("nginx", 0.90) },
    Aim { scenario: "h1-64", metric: CPU, bound: Bound::Of("envoy", 0.27) },
    Aim { scenario: "h1-64", metric: CPU, bound: Bound::Of("nginx", 0.90) },
    Aim { scenario: "h1-1000", metric: CPU, bound: Bound::Of("envoy", 0.27) },
    Aim { scenario: "h1-1000", metric: CPU, bound: Bound::Of("nginx", 0.90) },
    Aim { scenario: "sidecar", metric: CPU, bound: Bound::Of("envoy", 0.27) },
    Aim { scenario: "sidecar-log", metric: CPU, bound: Bound::Of("envoy", 0.27) },
    Aim { scenario: "mtls-in", metric: CPU, bound: Bound::Of("envoy", 0.28) },
    Aim { scenario: "mtls-both", metric: CPU, bound: Bound::Of("envoy", 0.28) },
    Aim { scenario: "handshakes", metric: Metric::HandshakesPerCpuSecond, bound: Bound::Of("envoy", 1.2) },
    Aim { scenario: "memory", metric: Metric::MemoryIdle, bound: Bound::AtMost(12.0) },
    Aim { scenario: "memory", metric: Metric::MemoryPerConnection10k, bound: Bound::AtMost(8.0) },
    Aim { scenario: "two-hops", metric: CPU, bound: Bound::Of("envoy", 0.35) },
];

impl Verdict {
    /// In a word.
    pub(crate) fn word(&self) -> &'static str {
        match (self.measured, self.reached) {
            (None, _) => "unknown",
            (_, true) => "reached",
            (_, false) => "missed",
        }
    }
}

/// Judges the aims of the scenarios that were run.
pub(crate) fn judge(results: &Results) -> Vec<Verdict> {
    let outcome = |aim: &Aim| results.scenarios.iter().find(|outcome| outcome.name == aim.scenario);
    AIMS.iter().filter_map(|aim| Some(aim.judge(outcome(aim)?))).collect()
}

impl Aim {
    fn judge(&self, outcome: &Outcome) -> Verdict {
        let title = self.metric.title();
        let (aim, measured, reached): (_, _, fn(f64, f64) -> bool) = match self.bound {
            Bound::Of(peer, _) => {
                let way = if self.metric.more_is_better() { "≥" } else { "≤" };
                let reached = if self.metric.more_is_better() { at_least } else { at_most };
                (format!("{title} {way} {} × {peer}", self.limit()), self.ratio(outcome, peer), reached)
            }
            Bound::AtMost(_) => {
                let ours = outcome.best("meshwork", self.metric).and_then(|row| row.spread(self.metric));
                (format!("{title} ≤ {}", self.limit()), ours.map(|spread| spread.median), at_most)
            }
        };
        let reached = measured.is_some_and(|value| reached(value, self.limit()));
        Verdict { scenario: self.scenario, aim, measured, reached }
    }

    /// That of our best variant.
    fn ratio(&self, outcome: &Outcome, peer: &str) -> Option<f64> {
        let theirs = outcome.best(peer, self.metric)?.samples.get(&self.metric)?;
        let ours = outcome.variants("meshwork").filter_map(|row| row.samples.get(&self.metric));
        let ratios =
            ours.filter_map(|samples| statistics::ratio(samples, theirs)).map(|spread| spread.median);
        ratios.min_by(|a, b| self.metric.cost(*a).total_cmp(&self.metric.cost(*b)))
    }

    fn limit(&self) -> f64 {
        match self.bound {
            Bound::Of(_, limit) | Bound::AtMost(limit) => limit,
        }
    }
}

fn at_most(value: f64, limit: f64) -> bool {
    value <= limit
}

fn at_least(value: f64, limit: f64) -> bool {
    value >= limit
}
