//! The hub's core: flows by reporter and edge, and the edges that they make together.
//!
//! Pure: no clock, no I/O. [`Window::ingest`] is the one writer, [`Window::edges`] the one reader.
//!
//! A counter's first sight is a question: 10,000 requests of a proxy that began an hour ago are no rush of now.
//! So the first push of a process that is older than the window counts in totals alone. A series that appears
//! later in a known process was zero before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshwork_telemetry::histogram::Histogram;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;

use crate::callers::Callers;
use crate::decode::{self, Instance, Protocol, Report, Route, Subject};
use crate::edge::Edge;
use crate::flow::{Counts, Flow, Span};

/// How many processes may report. Some hundreds of bytes each.
pub const MAX_INSTANCES: usize = 1024;
/// How many edges may be kept, counted once per reporting process. A busy one takes some 10 KiB, so a full hub
/// some 40 MiB; one whose every push fills every bucket takes 80 KiB.
pub const MAX_FLOWS: usize = 4096;
/// How many outcomes (status, gRPC status, reason) of one flow are told apart. Ours send 38 at most.
pub const MAX_OUTCOMES: usize = 64;
/// The time over which a rate is taken: some pushes, and short enough to follow what a person does.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);
/// When an edge or reporter that is not heard of is forgotten, with its totals.
pub const FORGET_AFTER: Duration = Duration::from_hours(1);
/// How often the forgotten are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);
/// For how long an older run of a process is not believed after a newer one reported: its last push may come
/// late. Past that, a start in the past means that the clock was set back.
const OLDER_RUN_GRACE: Duration = Duration::from_secs(30);

/// What the hub keeps.
pub(crate) struct Window {
    length: Duration,
    instances: HashMap<Instance, Reporter>,
    flows: HashMap<(Instance, Subject), Flow>,
    pub(crate) callers: Callers,
    swept: Option<Instant>,
}

/// A process that reports.
struct Reporter {
    start: u64,
    /// The reading that the last message was part of.
    time: u64,
    /// The time that this reading covers; `None` where its totals are of unknown age.
    span: Option<Span>,
    heard: Instant,
}

/// The caller's principal, the called workload's namespace and name, and whether it is TCP: by these, the two sides'
/// reports of one edge are known to be the same. HTTP and gRPC are one here, as they may share a connection.
type Ends = (Arc<str>, Arc<str>, Arc<str>, bool);

/// Flows that make one edge.
#[derive(Default)]
struct Group<'a> {
    flows: Vec<(&'a Subject, &'a Flow)>,
    denied_at_destination: u64,
}

// === impl Window ===

impl Window {
    pub(crate) fn new(length: Duration, now: Instant) -> Self {
        let callers = Callers::new(now);
        Self { length, instances: HashMap::new(), flows: HashMap::new(), callers, swept: None }
    }

    /// Takes in a message; the number of points that had no room, or are none of the sender's to tell. `speaks_for` is the
    /// namespace that the sender may tell of; `None` for everybody's.
    pub(crate) fn ingest(
        &mut self,
        export: &ExportMetricsServiceRequest,
        speaks_for: Option<&str>,
        now: Instant,
    ) -> u64 {
        self.forget(now);
        let resources = export.resource_metrics.iter();
        resources.map(|resource| self.take(decode::report(resource), speaks_for, now)).sum()
    }

    fn take(&mut self, report: Report, speaks_for: Option<&str>, now: Instant) -> u64 {
        if report.time == 0 {
            return 0;
        }
        let points = report.points.len() as u64;
        // Before anything is kept: who names another process would take its place.
        if speaks_for.is_some_and(|own| !report.is_of(own)) {
            return points;
        }
        let known = self.instances.contains_key(&report.instance);
        if !known && self.instances.len() >= MAX_INSTANCES {
            self.make_room(&report.instance);
            if self.instances.len() >= MAX_INSTANCES {
                return points;
            }
        }
        let span = match self.instances.get_mut(&report.instance) {
            Some(reporter) if !reporter.accepts(&report, now) => return 0,
            Some(reporter) => reporter.hear(&report, now),
            None => {
                let reporter = Reporter::new(&report, now, self.length);
                let span = reporter.span;
                self.instances.insert(report.instance.clone(), reporter);
                span
            }
        };
        let [namespace, _, workload] = &report.instance;
        self.callers.take((namespace, workload), &report.ports, span.is_some(), now);
        let (mut rejected, mut has_made_room) = (0, false);
        for point in report.points {
            if speaks_for.is_some_and(|own| !point.subject.is_told_by(own)) {
                rejected += 1;
                continue;
            }
            let key = (report.instance.clone(), point.subject.clone());
            if self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&key) {
                // Once a message: all are looked at.
                if !std::mem::replace(&mut has_made_room, true) {
                    self.make_room(&report.instance);
                }
                if self.flows.len() >= MAX_FLOWS {
                    rejected += 1;
                    continue;
                }
            }
            let flow = self.flows.entry(key).or_insert_with(|| Flow::new(now));
            if !flow.add(point, span, self.length, now) {
                rejected += 1;
            }
        }
        rejected
    }

    /// Forgets a process of the namespace that has most, for one whose namespace has less: nobody keeps others from being
    /// heard by telling of many.
    fn make_room(&mut self, newcomer: &Instance) {
        let mut counts: HashMap<&Arc<str>, usize> = HashMap::new();
        for [namespace, ..] in self.instances.keys().chain(self.flows.keys().map(|(instance, _)| instance)) {
            *counts.entry(namespace).or_default() += 1;
        }
        let own = counts.get(&newcomer[0]).copied().unwrap_or_default();
        let most = counts.into_iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > own + 1);
        let Some((most, _)) = most else { return };
        let theirs = self.instances.iter().filter(|(instance, _)| instance[0] == *most);
        let oldest = theirs.min_by_key(|(_, reporter)| reporter.heard).map(|(instance, _)| instance.clone());
        if let Some(oldest) = oldest {
            self.instances.remove(&oldest);
            self.flows.retain(|(instance, _), _| *instance != oldest);
        }
    }

    fn forget(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP_INTERVAL) {
            return;
        }
        self.swept = Some(now);
        let kept = |heard: Instant| now.saturating_duration_since(heard) < FORGET_AFTER;
        self.instances.retain(|_, reporter| kept(reporter.heard));
        self.flows.retain(|_, flow| kept(flow.heard));
        self.callers.forget(now);
    }

    /// Every edge on which there was a request, ordered by caller, service and called workload.
    pub(crate) fn edges(&self, now: Instant) -> Vec<Edge> {
        let groups = self.groups();
        let edges = groups.iter().map(|(route, group)| group.edge(route, now, self.length));
        edges.filter(|edge| edge.requests > 0 || edge.denied > 0).collect()
    }

    /// Flows by edge: those of sources, those of destinations whose caller's proxy reports nothing, and what
    /// destinations refused.
    fn groups(&self) -> BTreeMap<&Route, Group<'_>> {
        let mut groups: BTreeMap<&Route, Group<'_>> = BTreeMap::new();
        let mut told: HashMap<Ends, BTreeSet<&Route>> = HashMap::new();
        for ((_, subject), flow) in self.flows.iter().filter(|((_, subject), _)| subject.by_source) {
            groups.entry(&subject.route).or_default().flows.push((subject, flow));
            if let Some(ends) = subject.ends() {
                told.entry(ends).or_default().insert(&subject.route);
            }
        }
        for ((_, subject), flow) in self.flows.iter().filter(|((_, subject), _)| !subject.by_source) {
            match subject.ends().and_then(|ends| told.get(&ends)) {
                // The same service and protocol if it can be, else the first between the two ends.
                Some(routes) => {
                    let theirs = &subject.route;
                    let alike = |route: &&&Route| (route.to == theirs.to, route.protocol == theirs.protocol);
                    let route = routes.iter().rev().max_by_key(alike).copied().unwrap_or(theirs);
                    let group = groups.entry(route).or_default();
                    group.denied_at_destination =
                        group.denied_at_destination.saturating_add(flow.totals.denied);
                }
                None => groups.entry(&subject.route).or_default().flows.push((subject, flow)),
            }
        }
        groups
    }
}

// === impl Reporter ===

impl Reporter {
    fn new(report: &Report, now: Instant, window: Duration) -> Self {
        let age = Duration::from_nanos(report.time.saturating_sub(report.start));
        let begin = now.checked_sub(age).filter(|_| age <= window && report.start > 0);
        let span = begin.map(|begin| Span { begin, end: now });
        Self { start: report.start, time: report.time, span, heard: now }
    }

    /// Whether a report is not from before what is known: an older run, or an older reading.
    fn accepts(&self, report: &Report, now: Instant) -> bool {
        let recently = now.saturating_duration_since(self.heard) < OLDER_RUN_GRACE;
        let older_run = report.start < self.start;
        let older_reading = report.start == self.start && report.time < self.time;
        !(recently && (older_run || older_reading))
    }

    /// The time that a report covers: since the reading before.
    fn hear(&mut self, report: &Report, now: Instant) -> Option<Span> {
        if report.time != self.time || report.start != self.start {
            self.span = Some(Span { begin: self.heard, end: now });
            self.time = report.time;
            self.start = report.start;
            self.heard = now;
        }
        self.span
    }
}

// === impl Subject and Group ===

impl Subject {
    /// The two ends, where both are known.
    fn ends(&self) -> Option<Ends> {
        let Route { to_workload, to_workload_namespace, protocol, .. } = &self.route;
        let is_tcp = *protocol == Protocol::Tcp;
        (!self.principal.is_empty())
            .then(|| (self.principal.clone(), to_workload_namespace.clone(), to_workload.clone(), is_tcp))
    }
}

impl Group<'_> {
    #[expect(clippy::cast_precision_loss, reason = "a share is an estimate")]
    fn edge(&self, route: &Route, now: Instant, window: Duration) -> Edge {
        let (mut total, mut recent) = (Counts::default(), Counts::default());
        let (mut total_duration, mut recent_duration) = (Histogram::durations(), Histogram::durations());
        let (mut per_second, mut mtls) = (0.0, Counts::default());
        for (subject, flow) in &self.flows {
            total.add(flow.totals);
            total_duration.add(&flow.total_duration);
            flow.add_window(now, window, &mut recent, &mut recent_duration);
            per_second += flow.per_second(now, window);
            if subject.mtls {
                mtls.add(flow.totals);
            }
        }
        let counts = if recent.requests > 0 { recent } else { total };
        let durations = if recent_duration.count() > 0 { recent_duration } else { total_duration };
        let failed = counts.failures.min(counts.requests) as f64;
        let quantile_ms = |q| durations.quantile(q).unwrap_or(0.0) / 1e6;
        Edge {
            from: route.from.to_string(),
            from_namespace: route.from_namespace.to_string(),
            to: route.to.to_string(),
            to_namespace: route.to_namespace.to_string(),
            to_workload: route.to_workload.to_string(),
            to_version: route.to_version.to_string(),
            protocol: route.protocol.label().to_owned(),
            requests: total.requests,
            failures: total.failures,
            denied: total.denied.saturating_add(self.denied_at_destination),
            per_second,
            success: if counts.requests == 0 { 1.0 } else { 1.0 - failed / counts.requests as f64 },
            p50_ms: quantile_ms(0.5),
            p99_ms: quantile_ms(0.99),
            mtls: self.mtls(now, window),
            connections: total.connections,
            mtls_connections: mtls.connections,
        }
    }

    /// Whether every flow with traffic in the window has mTLS; of an idle edge, every flow.
    fn mtls(&self, now: Instant, window: Duration) -> bool {
        let busy = |flow: &Flow| {
            let (mut counts, mut durations) = (Counts::default(), Histogram::durations());
            flow.add_window(now, window, &mut counts, &mut durations);
            counts.requests > 0 || counts.connections > 0
        };
        let any_busy = self.flows.iter().any(|(_, flow)| busy(flow));
        self.flows.iter().all(|(subject, flow)| subject.mtls || (any_busy && !busy(flow)))
    }
}

#[cfg(test)]
mod tests;
