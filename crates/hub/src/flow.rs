//! One edge as one process reports it: its last totals, what they add up to over restarts, and a window of what
//! was added by each push.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use meshwork_telemetry::histogram::Histogram;

use crate::decode::{Outcome, Point, Value};
use crate::window::{MAX_OUTCOMES, RATE_WINDOW};

/// Samples that a window is divided into: pushes that lie closer are added together, so that what a flow may hold
/// is bounded however often its process pushes. Two seconds, of a window of a minute.
const SAMPLES: u32 = 30;
/// How many samples a flow may keep: pushes further apart than a window's share, and joined ones.
const MAX_SAMPLES: usize = 2 * SAMPLES as usize + 1;

/// An edge as one process reports it.
pub(crate) struct Flow {
    last: Last,
    /// Since the process began, its earlier runs included.
    pub(crate) totals: Counts,
    pub(crate) total_duration: Histogram,
    samples: VecDeque<Sample>,
    pub(crate) heard: Instant,
}

/// The totals of the last push.
#[derive(Default)]
struct Last {
    outcomes: HashMap<Outcome, Counter>,
    duration: Vec<Counter>,
    tcp_opened: Counter,
    connections: Counter,
}

/// A counter of a process: when its run began, and where it stood.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counter {
    start: u64,
    total: u64,
}

/// Figures that add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) denied: u64,
    pub(crate) connections: u64,
}

/// What was added between two pushes.
struct Sample {
    span: Span,
    counts: Counts,
    /// Buckets that grew, and by how much.
    durations: Vec<(u8, u32)>,
}

/// The time that a push covers: since the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

/// What a point adds.
#[derive(Default)]
struct Delta {
    counts: Counts,
    durations: Vec<(u8, u64)>,
}

impl Flow {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            last: Last::default(),
            totals: Counts::default(),
            total_duration: Histogram::durations(),
            samples: VecDeque::new(),
            heard: now,
        }
    }

    /// Adds a point. `span` is the time that the push covers; without one it counts in the totals alone. False
    /// where the point had no room.
    pub(crate) fn add(&mut self, point: Point, span: Option<Span>, window: Duration, now: Instant) -> bool {
        self.heard = now;
        let Some(delta) = self.last.advance(point) else { return false };
        self.totals.add(delta.counts);
        for (bucket, n) in &delta.durations {
            self.total_duration.record_bucket(usize::from(*bucket), *n);
        }
        if let Some(span) = span {
            self.sample(span, window).add(delta);
        }
        true
    }

    /// The sample that a push belongs to: the newest where it is still short, else a new one.
    fn sample(&mut self, span: Span, window: Duration) -> &mut Sample {
        while self.samples.front().is_some_and(|s| s.span.end + window < span.end)
            || self.samples.len() >= MAX_SAMPLES
        {
            self.samples.pop_front();
        }
        let joins = |last: &Sample| {
            span.end.saturating_duration_since(last.span.begin) <= window / SAMPLES || last.span == span
        };
        if !self.samples.back().is_some_and(joins) {
            self.samples.push_back(Sample { span, counts: Counts::default(), durations: Vec::new() });
        }
        let at = self.samples.len() - 1;
        let sample = &mut self.samples[at];
        sample.span.end = sample.span.end.max(span.end);
        sample
    }

    /// Requests per second over the pushes of about the last [`RATE_WINDOW`].
    #[expect(clippy::cast_precision_loss, reason = "a rate is an estimate")]
    pub(crate) fn per_second(&self, now: Instant, window: Duration) -> f64 {
        let Some(newest) = self.samples.back() else { return 0.0 };
        // Where pushes are rare, the last two make the rate, not an empty look back.
        let horizon = RATE_WINDOW.max(2 * newest.span.length()).min(window.max(RATE_WINDOW));
        let recent = self.samples.iter().rev().take_while(|s| s.span.end + horizon > now);
        let (requests, time) = recent.fold((0, Duration::ZERO), |(requests, time), sample| {
            (sample.counts.requests.saturating_add(requests), time + sample.span.length())
        });
        if time.is_zero() { 0.0 } else { requests as f64 / time.as_secs_f64() }
    }

    /// Adds what the window holds.
    pub(crate) fn add_window(
        &self,
        now: Instant,
        window: Duration,
        counts: &mut Counts,
        durations: &mut Histogram,
    ) {
        for sample in self.samples.iter().rev().take_while(|s| s.span.end + window > now) {
            counts.add(sample.counts);
            for (bucket, n) in &sample.durations {
                durations.record_bucket(usize::from(*bucket), u64::from(*n));
            }
        }
    }
}

impl Last {
    /// What a point adds to the last one of its series; `None` where it is a series too many.
    fn advance(&mut self, point: Point) -> Option<Delta> {
        let Point { start, cumulative, value, .. } = point;
        let step = |counter: &mut Counter, total| if cumulative { counter.step(start, total) } else { total };
        let mut delta = Delta::default();
        match value {
            Value::Outcome { outcome, count } => {
                if self.outcomes.len() >= MAX_OUTCOMES && !self.outcomes.contains_key(&outcome) {
                    return None;
                }
                let (failed, denied, tcp) = (outcome.failed(), outcome.denied(), outcome.is_connection());
                let n = step(self.outcomes.entry(outcome).or_default(), count);
                // Of TCP, the requests are the connections that began; these are those that ended.
                delta.counts.requests = if tcp { 0 } else { n };
                delta.counts.failures = if failed { n } else { 0 };
                delta.counts.denied = if denied { n } else { 0 };
            }
            Value::Duration(histogram) => {
                self.duration.resize(histogram.counts().len(), Counter::default());
                for (bucket, (counter, count)) in (0..).zip(self.duration.iter_mut().zip(histogram.counts()))
                {
                    let n = step(counter, *count);
                    if n > 0 {
                        delta.durations.push((bucket, n));
                    }
                }
            }
            Value::TcpOpened(count) => delta.counts.requests = step(&mut self.tcp_opened, count),
            Value::Connections(count) => delta.counts.connections = step(&mut self.connections, count),
        }
        Some(delta)
    }
}

impl Counter {
    /// How much the counter grew. In a new run all of it is growth; so it is where it fell, which is a new run
    /// that did not say so.
    pub(crate) fn step(&mut self, start: u64, total: u64) -> u64 {
        let before = std::mem::replace(self, Self { start, total });
        if before.start == start { total.checked_sub(before.total).unwrap_or(total) } else { total }
    }
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failures = self.failures.saturating_add(other.failures);
        self.denied = self.denied.saturating_add(other.denied);
        self.connections = self.connections.saturating_add(other.connections);
    }
}

impl Sample {
    fn add(&mut self, delta: Delta) {
        self.counts.add(delta.counts);
        for (bucket, n) in delta.durations {
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            match self.durations.iter_mut().find(|(b, _)| *b == bucket) {
                Some((_, total)) => *total = total.saturating_add(n),
                None => self.durations.push((bucket, n)),
            }
        }
    }
}

impl Span {
    fn length(&self) -> Duration {
        self.end.saturating_duration_since(self.begin)
    }
}
