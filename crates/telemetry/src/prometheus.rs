//! The metrics in Prometheus' text format, version 0.0.4. Pure: from sums to text.
//!
//! Durations are cumulative `le` buckets in milliseconds: Istio's bounds, and finer ones below 1 ms and at 2.5 ms.
//! Each is a bound of the histogram itself, so no count is an estimate. Histograms are kept per edge; unlike
//! Istio's they are not split by response code.

use std::fmt::Write as _;

use crate::edge::Protocol;
use crate::histogram::Histogram;
use crate::labels::{self, Label};
use crate::names::{self, Metric};
use crate::registry::{EdgeSnapshot, Labelled, ProcessTotals};

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The exported `le` of durations: as text in milliseconds, and in nanoseconds.
const DURATION_LE: [(&str, u64); 20] = [
    ("0.1", 100_000),
    ("0.25", 250_000),
    ("0.5", 500_000),
    ("1", 1_000_000),
    ("2.5", 2_500_000),
    ("5", 5_000_000),
    ("10", 10_000_000),
    ("25", 25_000_000),
    ("50", 50_000_000),
    ("100", 100_000_000),
    ("250", 250_000_000),
    ("500", 500_000_000),
    ("1000", 1_000_000_000),
    ("2500", 2_500_000_000),
    ("5000", 5_000_000_000),
    ("10000", 10_000_000_000),
    ("30000", 30_000_000_000),
    ("60000", 60_000_000_000),
    ("300000", 300_000_000_000),
    ("600000", 600_000_000_000),
];

/// An edge with its labels, rendered once for all its series.
struct Rendered<'a> {
    labels: String,
    edge: &'a EdgeSnapshot,
}

/// Text that grows by one metric after the other.
struct Text(String);

/// All metrics of a process as text.
pub(crate) fn text(edges: &[EdgeSnapshot], process: &ProcessTotals, labelled: &Labelled) -> String {
    let rendered = |edge: &'_ EdgeSnapshot| render(&labels::edge(&edge.key));
    let edges: Vec<_> = edges.iter().map(|edge| Rendered { labels: rendered(edge), edge }).collect();
    let (tcp, http): (Vec<_>, Vec<_>) = edges.iter().partition(|e| e.edge.key.protocol == Protocol::Tcp);
    let all: Vec<_> = edges.iter().collect();
    let mut text = Text(String::new());
    text.outcomes(&names::REQUESTS, &http);
    text.durations(&names::REQUEST_DURATION, &http);
    text.sizes(&names::REQUEST_BYTES, &http, |e| &e.request_bytes);
    text.sizes(&names::RESPONSE_BYTES, &http, |e| &e.response_bytes);
    text.numbers(&names::TCP_OPENED, "counter", &tcp, |e| e.tcp_opened);
    text.outcomes(&names::TCP_CLOSED, &tcp);
    text.numbers(&names::TCP_RECEIVED, "counter", &tcp, |e| e.tcp_received);
    text.numbers(&names::TCP_SENT, "counter", &tcp, |e| e.tcp_sent);
    text.durations(&names::TCP_DURATION, &tcp);
    text.numbers(&names::CONNECTIONS, "counter", &all, |e| e.connections_opened);
    text.numbers(&names::CONNECTIONS_OPEN, "gauge", &all, EdgeSnapshot::connections_open);
    text.process(process);
    text.labelled(labelled);
    text.0
}

impl Text {
    fn header(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }

    fn numbers(&mut self, metric: &Metric, kind: &str, edges: &[&Rendered<'_>], n: fn(&EdgeSnapshot) -> u64) {
        self.header(metric.prometheus, kind, metric.help);
        for Rendered { labels, edge } in edges {
            self.line(format_args!("{}{{{labels}}} {}", metric.prometheus, n(edge)));
        }
    }

    fn outcomes(&mut self, metric: &Metric, edges: &[&Rendered<'_>]) {
        self.header(metric.prometheus, "counter", metric.help);
        for Rendered { labels, edge } in edges {
            for (outcome, count) in &edge.outcomes {
                let how = render(&labels::outcome(*outcome));
                self.line(format_args!("{}{{{labels},{how}}} {count}", metric.prometheus));
            }
        }
    }

    fn durations(&mut self, metric: &Metric, edges: &[&Rendered<'_>]) {
        self.header(metric.prometheus, "histogram", metric.help);
        for Rendered { labels, edge } in edges {
            let buckets = DURATION_LE.iter().map(|(le, nanos)| (*le, edge.duration.at_most(*nanos)));
            self.histogram(metric.prometheus, labels, buckets, edge.duration.count());
            let (millis, nanos) = (edge.duration.sum() / 1_000_000, edge.duration.sum() % 1_000_000);
            self.line(format_args!("{}_sum{{{labels}}} {millis}.{nanos:06}", metric.prometheus));
        }
    }

    fn sizes(&mut self, metric: &Metric, edges: &[&Rendered<'_>], of: fn(&EdgeSnapshot) -> &Histogram) {
        self.header(metric.prometheus, "histogram", metric.help);
        for Rendered { labels, edge } in edges {
            let sizes = of(edge);
            let buckets = sizes.bounds().iter().map(|bound| (bound, sizes.at_most(*bound)));
            self.histogram(metric.prometheus, labels, buckets, sizes.count());
            self.line(format_args!("{}_sum{{{labels}}} {}", metric.prometheus, sizes.sum()));
        }
    }

    fn histogram(
        &mut self,
        name: &str,
        labels: &str,
        buckets: impl Iterator<Item = (impl std::fmt::Display, u64)>,
        count: u64,
    ) {
        for (le, n) in buckets {
            self.line(format_args!("{name}_bucket{{{labels},le=\"{le}\"}} {n}"));
        }
        self.line(format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {count}"));
        self.line(format_args!("{name}_count{{{labels}}} {count}"));
    }

    fn process(&mut self, process: &ProcessTotals) {
        for (metric, total) in process {
            self.header(metric.prometheus, "counter", metric.help);
            self.line(format_args!("{} {total}", metric.prometheus));
        }
    }

    /// What has no series yet is not told.
    fn labelled(&mut self, labelled: &Labelled) {
        let all = labels::labelled(labelled).into_iter();
        for (metric, grows, series) in all.filter(|(.., series)| !series.is_empty()) {
            self.header(metric.prometheus, if grows { "counter" } else { "gauge" }, metric.help);
            for (labels, total) in series {
                self.line(format_args!("{}{{{}}} {total}", metric.prometheus, render(&labels)));
            }
        }
    }
}

fn render(labels: &[Label<'_>]) -> String {
    let mut out = String::new();
    for (name, value) in labels {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}

#[cfg(test)]
mod tests;
