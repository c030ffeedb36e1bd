//! Sums to OTLP messages.

use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram as OtlpHistogram, HistogramDataPoint, Metric as OtlpMetric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::{EDGES_PER_MESSAGE, ResourceAttributes};
use crate::edge::Protocol;
use crate::histogram::Histogram;
use crate::labels::{self, Label};
use crate::names::{self, Metric};
use crate::registry::{EdgeSnapshot, Labelled, ProcessTotals, Registry};

const NANOS_PER_MILLI: f64 = 1e6;

/// When the totals began and when they were read, in Unix nanoseconds.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    now: u64,
}

/// The messages that tell everything: the process's own metrics in the first, and [`EDGES_PER_MESSAGE`] edges in
/// each. `now` is the time of reading, which they share.
pub fn requests(
    registry: &Registry,
    resource: &ResourceAttributes,
    now: SystemTime,
) -> Vec<ExportMetricsServiceRequest> {
    let span = Span { start: unix_nanos(registry.started()), now: unix_nanos(now) };
    let mut messages = vec![process_metrics(&registry.process(), span)];
    messages[0].extend(labelled_metrics(&registry.labelled(), span));
    for (i, edges) in registry.fold().chunks(EDGES_PER_MESSAGE).enumerate() {
        messages.resize(messages.len().max(i + 1), Vec::new());
        messages[i].extend(metrics(edges, span));
    }
    messages.into_iter().map(|metrics| message(metrics, resource)).collect()
}

fn message(metrics: Vec<OtlpMetric>, resource: &ResourceAttributes) -> ExportMetricsServiceRequest {
    let scope_metrics = ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() };
    let resource_metrics = ResourceMetrics {
        resource: Some(resource.encode()),
        scope_metrics: vec![scope_metrics],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

fn process_metrics(process: &ProcessTotals, span: Span) -> Vec<OtlpMetric> {
    process.iter().filter_map(|(metric, total)| sum(metric, vec![number(*total, span, Vec::new())])).collect()
}

fn labelled_metrics(labelled: &Labelled, span: Span) -> Vec<OtlpMetric> {
    let mut metrics = Vec::new();
    for (metric, grows, series) in labels::labelled(labelled) {
        let points = series.into_iter().map(|(labels, total)| number(total, span, labels)).collect();
        metrics.extend(if grows { sum(&metric, points) } else { gauge(&metric, points) });
    }
    metrics
}

fn metrics(edges: &[EdgeSnapshot], span: Span) -> Vec<OtlpMetric> {
    let (tcp, http): (Vec<_>, Vec<_>) = edges.iter().partition(|e| e.key.protocol == Protocol::Tcp);
    let all: Vec<_> = edges.iter().collect();
    let metrics = [
        sum(&names::REQUESTS, outcomes(&http, span)),
        histogram(&names::REQUEST_DURATION, &http, span, NANOS_PER_MILLI, |e| &e.duration),
        histogram(&names::REQUEST_BYTES, &http, span, 1.0, |e| &e.request_bytes),
        histogram(&names::RESPONSE_BYTES, &http, span, 1.0, |e| &e.response_bytes),
        sum(&names::TCP_OPENED, numbers(&tcp, span, |e| e.tcp_opened)),
        sum(&names::TCP_CLOSED, outcomes(&tcp, span)),
        sum(&names::TCP_RECEIVED, numbers(&tcp, span, |e| e.tcp_received)),
        sum(&names::TCP_SENT, numbers(&tcp, span, |e| e.tcp_sent)),
        histogram(&names::TCP_DURATION, &tcp, span, NANOS_PER_MILLI, |e| &e.duration),
        sum(&names::CONNECTIONS, numbers(&all, span, |e| e.connections_opened)),
        gauge(&names::CONNECTIONS_OPEN, numbers(&all, span, EdgeSnapshot::connections_open)),
    ];
    metrics.into_iter().flatten().collect()
}

fn metric(metric: &Metric, data: Data) -> OtlpMetric {
    OtlpMetric {
        name: metric.otlp.into(),
        description: metric.help.into(),
        unit: metric.unit.into(),
        data: Some(data),
        ..OtlpMetric::default()
    }
}

fn sum(name: &Metric, data_points: Vec<NumberDataPoint>) -> Option<OtlpMetric> {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let some = !data_points.is_empty();
    some.then(|| metric(name, Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true })))
}

fn gauge(name: &Metric, data_points: Vec<NumberDataPoint>) -> Option<OtlpMetric> {
    (!data_points.is_empty()).then(|| metric(name, Data::Gauge(Gauge { data_points })))
}

fn histogram(
    name: &Metric,
    edges: &[&EdgeSnapshot],
    span: Span,
    scale: f64,
    of: fn(&EdgeSnapshot) -> &Histogram,
) -> Option<OtlpMetric> {
    let point = |edge: &&EdgeSnapshot| histogram_point(of(edge), span, scale, labels::edge(&edge.key));
    let data_points: Vec<_> = edges.iter().map(point).collect();
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let some = !data_points.is_empty();
    some.then(|| metric(name, Data::Histogram(OtlpHistogram { data_points, aggregation_temporality })))
}

/// A point in the metric's unit: bounds and sum are divided by `scale`.
#[expect(clippy::cast_precision_loss, reason = "OTLP's bounds and sums are doubles")]
fn histogram_point(
    histogram: &Histogram,
    span: Span,
    scale: f64,
    labels: Vec<Label<'_>>,
) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: span.start,
        time_unix_nano: span.now,
        count: histogram.count(),
        sum: Some(histogram.sum() as f64 / scale),
        bucket_counts: histogram.counts().to_vec(),
        explicit_bounds: histogram.bounds().iter().map(|bound| *bound as f64 / scale).collect(),
        ..HistogramDataPoint::default()
    }
}

fn outcomes(edges: &[&EdgeSnapshot], span: Span) -> Vec<NumberDataPoint> {
    let points = edges.iter().flat_map(|edge| {
        edge.outcomes.iter().map(move |(outcome, count)| {
            let mut labels = labels::edge(&edge.key);
            labels.extend(labels::outcome(*outcome));
            number(*count, span, labels)
        })
    });
    points.collect()
}

fn numbers(edges: &[&EdgeSnapshot], span: Span, n: fn(&EdgeSnapshot) -> u64) -> Vec<NumberDataPoint> {
    edges.iter().map(|edge| number(n(edge), span, labels::edge(&edge.key))).collect()
}

fn number(value: u64, span: Span, labels: Vec<Label<'_>>) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: span.start,
        time_unix_nano: span.now,
        value: Some(number_data_point::Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX))),
        ..NumberDataPoint::default()
    }
}

fn attributes(labels: Vec<Label<'_>>) -> Vec<KeyValue> {
    labels.into_iter().map(|(name, value)| attribute(name, value.into_owned())).collect()
}

fn attribute(key: &str, value: String) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value)) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "meshwork".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

impl ResourceAttributes {
    fn encode(&self) -> Resource {
        let attributes = vec![
            attribute("service.name", self.service.clone()),
            attribute("service.namespace", self.namespace.clone()),
            attribute("service.instance.id", self.instance.clone()),
        ];
        Resource { attributes, ..Resource::default() }
    }
}

fn unix_nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
