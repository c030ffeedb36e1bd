use std::sync::Arc;
use std::time::Duration;

use super::{Criterion, StringMatch};

/// When an endpoint is left out for what its responses are like. Source: Envoy `OutlierDetection`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Server errors one after the other.
    pub consecutive_5xx: Enforced,
    /// Gateway errors (502, 503, 504) one after the other.
    pub consecutive_gateway: Enforced,
    /// Failures to connect or to answer in time one after the other, where they are told apart.
    pub consecutive_local: Enforced,
    /// Whether failures of the network are told apart from responses.
    pub split_local: bool,
    /// How often rates are worked out, and endpoints come back.
    pub interval: Duration,
    /// How long an endpoint is left out, times how often it was lately.
    pub base_ejection: Duration,
    /// How long at most.
    pub max_ejection: Duration,
    /// How much longer by chance, so that endpoints do not come back at once.
    pub max_ejection_jitter: Duration,
    /// Of all endpoints, in percent, that may be left out.
    pub max_ejection_percent: u32,
    /// Whether one may be left out in any case.
    pub always_eject_one: bool,
    /// Success far below the others'.
    pub success_rate: SuccessRate,
    /// Too many failures.
    pub failure_percentage: FailurePercentage,
    /// Whether an active health check that passes brings an endpoint back.
    pub check_unejects: bool,
}

/// A number of failures, and in how many percent of cases they have consequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// How many; 0 never.
    pub count: u32,
    /// In percent.
    pub enforcing: u32,
}

/// Success far below the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Endpoints with enough requests that there have to be.
    pub minimum_hosts: u32,
    /// Requests within an interval that are enough.
    pub request_volume: u32,
    /// How far below the mean, in thousandths of the standard deviation.
    pub stdev_factor: u32,
    /// In percent.
    pub enforcing: u32,
    /// The same, of failures of the network.
    pub enforcing_local: u32,
}

/// Too many failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// From so many percent on.
    pub threshold: u32,
    /// Endpoints with enough requests that there have to be.
    pub minimum_hosts: u32,
    /// Requests within an interval that are enough.
    pub request_volume: u32,
    /// In percent.
    pub enforcing: u32,
    /// The same, of failures of the network.
    pub enforcing_local: u32,
}

impl Default for OutlierDetection {
    /// Envoy's.
    fn default() -> Self {
        Self {
            consecutive_5xx: Enforced { count: 5, enforcing: 100 },
            consecutive_gateway: Enforced { count: 5, enforcing: 0 },
            consecutive_local: Enforced { count: 5, enforcing: 100 },
            split_local: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_mins(5),
            max_ejection_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one: false,
            success_rate: SuccessRate {
                minimum_hosts: 5,
                request_volume: 100,
                stdev_factor: 1900,
                enforcing: 100,
                enforcing_local: 100,
            },
            failure_percentage: FailurePercentage {
                threshold: 85,
                minimum_hosts: 5,
                request_volume: 50,
                enforcing: 0,
                enforcing_local: 0,
            },
            check_unejects: true,
        }
    }
}

/// How an endpoint is asked whether it is well. Source: Envoy `HealthCheck`.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: HealthCheckKind,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How often.
    pub intervals: CheckIntervals,
    /// Failures one after the other until it counts as unwell.
    pub unhealthy_threshold: u32,
    /// Successes one after the other until it counts as well again.
    pub healthy_threshold: u32,
    /// Whether the connection is kept for the next check.
    pub reuse_connection: bool,
    /// ALPN protocols in place of the cluster's; `None` for the cluster's.
    pub alpn: Option<Vec<Arc<str>>>,
    /// What the transport is chosen by, in place of the endpoint's own: its identity, and labels.
    pub transport: Option<(Option<Arc<str>>, Vec<Criterion>)>,
}

/// How often an endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckIntervals {
    /// As a rule.
    pub usual: Duration,
    /// While nothing was ever sent to the cluster.
    pub no_traffic: Duration,
    /// The same, of endpoints that are well.
    pub no_traffic_healthy: Duration,
    /// Of endpoints that are not well.
    pub unhealthy: Duration,
    /// After a failure that is one of several until it counts.
    pub unhealthy_edge: Duration,
    /// After a success that is one of several until it counts.
    pub healthy_edge: Duration,
    /// How much later the first one is, at most.
    pub initial_jitter: Duration,
    /// How much later each is, at most.
    pub jitter: Duration,
    /// The same, in percent of the interval.
    pub jitter_percent: u32,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum HealthCheckKind {
    /// A request.
    Http(HttpCheck),
    /// Bytes, or only a connection.
    Tcp(TcpCheck),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcCheck),
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpCheck {
    /// Host; empty for the cluster's name.
    pub host: Arc<str>,
    /// Path and query.
    pub path: Arc<str>,
    /// Method.
    pub method: Arc<str>,
    /// Body; empty for none.
    pub send: Arc<[u8]>,
    /// What the body of the answer has to hold, one piece after the other.
    pub receive: Vec<Arc<[u8]>>,
    /// Bytes of the answer's body that are looked at; 0 for all that are kept.
    pub response_bytes: u64,
    /// Header fields that are added, or take the place of others of that name.
    pub add: Vec<CheckHeader>,
    /// Header fields that are taken away, in lowercase.
    pub remove: Vec<Arc<str>>,
    /// Statuses from the first up to, not including, the second that are good.
    pub expected: Vec<(u16, u16)>,
    /// Those that count as one failure of several.
    pub retriable: Vec<(u16, u16)>,
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
    /// What `x-envoy-upstream-healthchecked-cluster` has to say.
    pub service_name: Option<StringMatch>,
}

/// A header field of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckHeader {
    /// Lowercase name.
    pub name: Arc<str>,
    /// Value.
    pub value: Arc<str>,
    /// Whether it stands beside others of that name.
    pub append: bool,
}

/// Bytes, or only a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpCheck {
    /// What is sent; empty for nothing.
    pub send: Arc<[u8]>,
    /// What has to come, one piece after the other; empty where a connection is enough.
    pub receive: Vec<Arc<[u8]>>,
}

/// `grpc.health.v1.Health/Check`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcCheck {
    /// The service that is asked for; empty for the server as a whole.
    pub service: Arc<str>,
    /// The authority; empty for the cluster's name.
    pub authority: Arc<str>,
    /// Metadata that is added.
    pub metadata: Vec<CheckHeader>,
}
