//! The answer: an edge and its figures.

use serde::{Deserialize, Serialize};

/// Who calls which service on which workload, how much and how well.
///
/// Of TCP, a request is a connection, and its time is how long it lived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// Name of the calling workload; of a caller that proved an identity but is not known, its service account;
    /// else `unknown`.
    pub from: String,
    /// Namespace of the calling workload, or `unknown`.
    pub from_namespace: String,
    /// Name of the called service; where that is not known, the called workload's app or name.
    pub to: String,
    /// Namespace of the called service, or of the workload.
    pub to_namespace: String,
    /// Name of the called workload; `unknown` where a request reached none.
    pub to_workload: String,
    /// The called workload's version, or empty.
    pub to_version: String,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
    /// Requests since the proxies began.
    pub requests: u64,
    /// Those that failed: no answer, a 5xx, a gRPC status that blames the server, a connection cut by an error.
    pub failures: u64,
    /// Those that policy refused; they are not failures.
    pub denied: u64,
    /// Requests per second.
    pub per_second: f64,
    /// Share of requests that did not fail, 0 to 1; 1 where there was none.
    pub success: f64,
    /// Half of the requests took at most this long, in milliseconds; 0 where there was none.
    pub p50_ms: f64,
    /// 99 % of the requests took at most this long, in milliseconds; 0 where there was none.
    pub p99_ms: f64,
    /// Whether all of it travelled over mTLS.
    pub mtls: bool,
    /// Connections between the two proxies since they began.
    pub connections: u64,
    /// Those of them with mTLS.
    pub mtls_connections: u64,
}
