//! OTLP messages to what the hub counts.
//!
//! Everything here is a peer's: what is malformed or unknown is skipped, never refused as a whole.

use std::sync::Arc;

use meshwork_model::reason::Reason;
use meshwork_telemetry::histogram::{DURATION_BOUNDS, Histogram};
use meshwork_telemetry::names;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, metric::Data,
    number_data_point,
};

use crate::callers::CallerSource;

/// Longer names are cut: a peer's text must not fill the memory.
const MAX_TEXT_BYTES: usize = 512;
/// A histogram with more buckets is skipped; OpenTelemetry's default has 16, ours 164.
const MAX_BUCKETS: usize = 512;
const NANOS_PER_MILLI: f64 = 1e6;
/// gRPC statuses that blame the server: UNKNOWN, `DEADLINE_EXCEEDED`, UNIMPLEMENTED, INTERNAL, UNAVAILABLE,
/// `DATA_LOSS`. Source: OpenTelemetry semantic conventions, "gRPC".
const GRPC_SERVER_ERRORS: [&str; 6] = ["2", "4", "12", "13", "14", "15"];

/// The process that reports: `service.namespace`, `service.name`, `service.instance.id`.
pub(crate) type Instance = [Arc<str>; 3];

/// An edge as one side reports it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) from: Arc<str>,
    pub(crate) from_namespace: Arc<str>,
    pub(crate) to: Arc<str>,
    pub(crate) to_namespace: Arc<str>,
    pub(crate) to_workload: Arc<str>,
    pub(crate) to_workload_namespace: Arc<str>,
    pub(crate) to_version: Arc<str>,
    pub(crate) protocol: Protocol,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Http,
    Grpc,
    Tcp,
}

/// What a series is about, apart from who reports it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) by_source: bool,
    pub(crate) route: Route,
    /// What the caller proved; empty where it proved nothing.
    pub(crate) principal: Arc<str>,
    pub(crate) mtls: bool,
}

/// One data point.
pub(crate) struct Point {
    pub(crate) subject: Subject,
    /// When the reporter's totals began, Unix nanoseconds.
    pub(crate) start: u64,
    pub(crate) cumulative: bool,
    pub(crate) value: Value,
}

/// What a data point counts.
pub(crate) enum Value {
    /// Requests, or ended TCP connections, with one outcome.
    Outcome { outcome: Outcome, count: u64 },
    /// How long they took.
    Duration(Histogram),
    /// TCP connections that began.
    TcpOpened(u64),
    /// Connections between the two proxies.
    Connections(u64),
}

/// What a proxy says of a port of its workload.
pub(crate) struct PortPoint {
    pub(crate) port: u16,
    /// Who calls without mTLS; `None` for all who call with it.
    pub(crate) source: Option<CallerSource>,
    /// When the reporter's totals began, Unix nanoseconds.
    pub(crate) start: u64,
    pub(crate) cumulative: bool,
    pub(crate) value: PortValue,
}

/// What it counts.
#[derive(Clone, Copy)]
pub(crate) enum PortValue {
    /// Connections.
    Connections(u64),
    /// Those that are open.
    Open(u64),
    /// Requests.
    Requests(u64),
}

/// How a request or connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Outcome {
    code: Arc<str>,
    grpc_status: Arc<str>,
    reason: Arc<str>,
    protocol: Protocol,
}

/// What one process reports in one message.
pub(crate) struct Report {
    pub(crate) instance: Instance,
    /// When it was read, Unix nanoseconds: messages of one reading share it.
    pub(crate) time: u64,
    /// When the totals began: the oldest start of any point, Unix nanoseconds.
    pub(crate) start: u64,
    pub(crate) points: Vec<Point>,
    pub(crate) ports: Vec<PortPoint>,
}

/// What the hub knows in one resource's metrics.
pub(crate) fn report(resource: &ResourceMetrics) -> Report {
    let attributes = resource.resource.as_ref().map_or(&[][..], |r| &r.attributes);
    let instance = ["service.namespace", "service.name", "service.instance.id"];
    let mut report = Report {
        instance: instance.map(|name| Arc::from(text(attributes, name))),
        time: 0,
        start: u64::MAX,
        points: Vec::new(),
        ports: Vec::new(),
    };
    for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
        report.read(metric);
    }
    report
}

impl Subject {
    /// Whether a proxy of this namespace may tell it: of what its own workload called, or was called for. Who called a
    /// workload, only its proxy knows.
    pub(crate) fn is_told_by(&self, namespace: &str) -> bool {
        let Route { from_namespace, to_workload_namespace, .. } = &self.route;
        if !self.by_source {
            return **to_workload_namespace == *namespace;
        }
        let proven = namespace_and_account(&self.principal).map(|(namespace, _)| namespace);
        **from_namespace == *namespace && proven.is_none_or(|proven| proven == namespace)
    }
}

impl Report {
    /// Whether the process that it is of belongs to a namespace.
    pub(crate) fn is_of(&self, namespace: &str) -> bool {
        let [own, ..] = &self.instance;
        **own == *namespace
    }

    fn read(&mut self, metric: &Metric) {
        match &metric.data {
            Some(Data::Sum(sum)) if sum.is_monotonic => {
                let Some(cumulative) = temporality(sum.aggregation_temporality) else { return };
                for point in &sum.data_points {
                    self.ports.extend(port_point(&metric.name, point, cumulative));
                    let value = number(&metric.name, point);
                    self.add(&point.attributes, (point.start_time_unix_nano, cumulative), value);
                    self.read_at(point.start_time_unix_nano, point.time_unix_nano);
                }
            }
            Some(Data::Histogram(histogram)) => {
                let Some(cumulative) = temporality(histogram.aggregation_temporality) else { return };
                for point in &histogram.data_points {
                    let value = is_duration(&metric.name).then(|| duration(point)).flatten();
                    let value = value.map(Value::Duration);
                    self.add(&point.attributes, (point.start_time_unix_nano, cumulative), value);
                    self.read_at(point.start_time_unix_nano, point.time_unix_nano);
                }
            }
            Some(Data::Gauge(gauge)) => {
                let open = |point| port_point(&metric.name, point, true);
                self.ports.extend(gauge.data_points.iter().filter_map(open));
            }
            _ => {}
        }
    }

    /// Also of points that the hub does not know: they too tell when the process began.
    fn read_at(&mut self, start: u64, time: u64) {
        self.start = self.start.min(start);
        self.time = self.time.max(time);
    }

    fn add(&mut self, attributes: &[KeyValue], (start, cumulative): (u64, bool), value: Option<Value>) {
        if let Some(value) = value
            && let Some(subject) = subject(attributes)
        {
            self.points.push(Point { subject, start, cumulative, value });
        }
    }
}

fn temporality(temporality: i32) -> Option<bool> {
    match AggregationTemporality::try_from(temporality) {
        Ok(AggregationTemporality::Cumulative) => Some(true),
        Ok(AggregationTemporality::Delta) => Some(false),
        _ => None,
    }
}

fn is_duration(name: &str) -> bool {
    name == names::REQUEST_DURATION.otlp || name == names::TCP_DURATION.otlp
}

/// What a point says of a port of the workload whose proxy tells.
fn port_point(name: &str, point: &NumberDataPoint, cumulative: bool) -> Option<PortPoint> {
    let is = |metric: names::Metric| metric.otlp == name;
    let is_mtls = is(names::MTLS_CONNECTIONS) || is(names::MTLS_REQUESTS);
    let value: fn(u64) -> PortValue = if is(names::MTLS_CONNECTIONS) || is(names::PLAINTEXT_CONNECTIONS) {
        PortValue::Connections
    } else if is(names::MTLS_REQUESTS) || is(names::PLAINTEXT_REQUESTS) {
        PortValue::Requests
    } else if is(names::PLAINTEXT_OPEN) {
        PortValue::Open
    } else {
        return None;
    };
    let port = text(&point.attributes, names::DESTINATION_PORT).parse().ok()?;
    let source = match text(&point.attributes, names::SOURCE_IP) {
        _ if is_mtls => None,
        names::OTHER => Some(CallerSource::Others),
        address => Some(CallerSource::Address(address.parse().ok()?)),
    };
    Some(PortPoint {
        port,
        source,
        start: point.start_time_unix_nano,
        cumulative,
        value: value(count(point)?),
    })
}

fn count(point: &NumberDataPoint) -> Option<u64> {
    match point.value? {
        number_data_point::Value::AsInt(n) => u64::try_from(n).ok(),
        number_data_point::Value::AsDouble(n) => whole(n),
    }
}

fn number(name: &str, point: &NumberDataPoint) -> Option<Value> {
    let count = count(point)?;
    let is = |metric: names::Metric| name == metric.otlp;
    if is(names::REQUESTS) || is(names::TCP_CLOSED) {
        Some(Value::Outcome { outcome: outcome(&point.attributes), count })
    } else if is(names::TCP_OPENED) {
        Some(Value::TcpOpened(count))
    } else if is(names::CONNECTIONS) {
        Some(Value::Connections(count))
    } else {
        None
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
fn whole(n: f64) -> Option<u64> {
    (0.0..9e15).contains(&n).then_some(n as u64)
}

/// A histogram on our own bounds. Ours arrive as they were; of others, each bucket is counted at its upper bound,
/// so that quantiles err upwards.
fn duration(point: &HistogramDataPoint) -> Option<Histogram> {
    let (bounds, counts) = (&point.explicit_bounds, &point.bucket_counts);
    if bounds.is_empty() || counts.len() != bounds.len() + 1 || counts.len() > MAX_BUCKETS {
        return None;
    }
    let mut histogram = Histogram::durations();
    for (i, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        match bounds.get(i) {
            Some(upper) => histogram.record(whole((upper * NANOS_PER_MILLI).round())?, *count),
            None => histogram.record_bucket(DURATION_BOUNDS.len(), *count),
        }
    }
    Some(histogram)
}

fn subject(attributes: &[KeyValue]) -> Option<Subject> {
    // Names are shown on terminals: one that moves the cursor there is none.
    let is_name =
        |text: &&str| !text.is_empty() && *text != names::UNKNOWN && !text.contains(char::is_control);
    let known = |name| Some(text(attributes, name)).filter(is_name);
    let principal = known(names::SOURCE_PRINCIPAL).unwrap_or_default();
    let (namespace, account) = namespace_and_account(principal).unwrap_or((names::UNKNOWN, names::UNKNOWN));
    let workload = known(names::DESTINATION_WORKLOAD);
    let workload_namespace = known(names::DESTINATION_NAMESPACE).unwrap_or(names::UNKNOWN);
    let app = known(names::DESTINATION_APP).or(workload).unwrap_or(names::UNKNOWN);
    let route = Route {
        from: known(names::SOURCE_WORKLOAD).unwrap_or(account).into(),
        from_namespace: known(names::SOURCE_NAMESPACE).unwrap_or(namespace).into(),
        to: known(names::SERVICE_NAME).unwrap_or(app).into(),
        to_namespace: known(names::SERVICE_NAMESPACE).unwrap_or(workload_namespace).into(),
        to_workload: workload.unwrap_or(names::UNKNOWN).into(),
        to_workload_namespace: workload_namespace.into(),
        to_version: known(names::DESTINATION_VERSION).unwrap_or_default().into(),
        protocol: protocol(text(attributes, names::PROTOCOL))?,
    };
    Some(Subject {
        by_source: match text(attributes, names::REPORTER) {
            "source" => true,
            "destination" => false,
            _ => return None,
        },
        route,
        principal: principal.into(),
        mtls: text(attributes, names::SECURITY) == names::MUTUAL_TLS,
    })
}

fn namespace_and_account(principal: &str) -> Option<(&str, &str)> {
    let (_, path) = principal.strip_prefix("spiffe://")?.split_once("/ns/")?;
    path.split_once("/sa/")
}

fn protocol(label: &str) -> Option<Protocol> {
    [Protocol::Http, Protocol::Grpc, Protocol::Tcp].into_iter().find(|p| p.label() == label)
}

fn outcome(attributes: &[KeyValue]) -> Outcome {
    Outcome {
        code: text(attributes, names::RESPONSE_CODE).into(),
        grpc_status: text(attributes, names::GRPC_STATUS).into(),
        reason: text(attributes, names::REASON).into(),
        protocol: protocol(text(attributes, names::PROTOCOL)).unwrap_or(Protocol::Http),
    }
}

/// The text of an attribute; empty where there is none.
fn text<'a>(attributes: &'a [KeyValue], name: &str) -> &'a str {
    let value = attributes.iter().find(|a| a.key == name).and_then(|a| a.value.as_ref()?.value.as_ref());
    let Some(any_value::Value::StringValue(text)) = value else { return "" };
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

impl Protocol {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

impl Outcome {
    /// Whether policy refused it.
    pub(crate) fn denied(&self) -> bool {
        *self.reason == *Reason::Denied.words().code
    }

    /// Whether it is the end of a connection, not of a request.
    pub(crate) fn is_connection(&self) -> bool {
        self.protocol == Protocol::Tcp
    }

    /// Whether it is the mesh's or the service's failure: not a refusal, and not a client that left.
    pub(crate) fn failed(&self) -> bool {
        if self.denied() || *self.reason == *Reason::DownstreamGone.words().code {
            return false;
        }
        match self.protocol {
            Protocol::Tcp => !self.reason.is_empty(),
            Protocol::Http | Protocol::Grpc => {
                &*self.code == "0"
                    || self.code.starts_with('5')
                    || GRPC_SERVER_ERRORS.contains(&&*self.grpc_status)
            }
        }
    }
}

#[cfg(test)]
mod tests;
