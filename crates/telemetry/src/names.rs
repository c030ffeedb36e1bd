//! The names of metrics and labels: the one table that Prometheus' text, the OTLP export and the hub share.
//!
//! Names and labels are Istio's where Istio has them ("Istio Standard Metrics"); `meshwork_` marks the others. In
//! OTLP a name has no unit and no `_total`: OpenTelemetry's rules for Prometheus add both back, so a collector
//! that writes Prometheus ends at the same names.
//!
//! | OTLP | Prometheus | kind | unit |
//! |---|---|---|---|
//! | `istio_requests` | `istio_requests_total` | sum | requests |
//! | `istio_request_duration` | `istio_request_duration_milliseconds` | histogram | ms |
//! | `istio_request_bytes` | `istio_request_bytes` | histogram | bytes |
//! | `istio_response_bytes` | `istio_response_bytes` | histogram | bytes |
//! | `istio_tcp_connections_opened` | `istio_tcp_connections_opened_total` | sum | connections |
//! | `istio_tcp_connections_closed` | `istio_tcp_connections_closed_total` | sum | connections |
//! | `istio_tcp_received_bytes` | `istio_tcp_received_bytes_total` | sum | bytes |
//! | `istio_tcp_sent_bytes` | `istio_tcp_sent_bytes_total` | sum | bytes |
//! | `meshwork_tcp_connection_duration` | `meshwork_tcp_connection_duration_milliseconds` | histogram | ms |
//! | `meshwork_connections` | `meshwork_connections_total` | sum | connections |
//! | `meshwork_connections_open` | `meshwork_connections_open` | gauge | connections |
//!
//! And of the process: the sums of [`PROCESS_METRICS`], without labels, and those of [`LABELLED_METRICS`].

/// A metric's name and what is said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name in OTLP.
    pub otlp: &'static str,
    /// Name in Prometheus' text; of a histogram, without `_bucket`, `_sum` and `_count`.
    pub prometheus: &'static str,
    /// Unit in OTLP (UCUM).
    pub unit: &'static str,
    /// One sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($(#[$doc:meta])* $all:ident: $($constant:ident $otlp:literal $prometheus:literal $unit:literal $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { otlp: $otlp, prometheus: $prometheus, unit: $unit, help: $help };
        )*

        $(#[$doc])*
        pub const $all: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    /// Every metric of an edge.
    EDGE_METRICS:
    REQUESTS "istio_requests" "istio_requests_total" "{request}"
        "Requests that ended, by how they ended.";
    REQUEST_DURATION "istio_request_duration" "istio_request_duration_milliseconds" "ms"
        "Time from a request's head to its response's last byte, in milliseconds.";
    REQUEST_BYTES "istio_request_bytes" "istio_request_bytes" "By"
        "Size of request bodies, in bytes.";
    RESPONSE_BYTES "istio_response_bytes" "istio_response_bytes" "By"
        "Size of response bodies, in bytes.";
    TCP_OPENED "istio_tcp_connections_opened" "istio_tcp_connections_opened_total" "{connection}"
        "Relayed TCP connections that began.";
    TCP_CLOSED "istio_tcp_connections_closed" "istio_tcp_connections_closed_total" "{connection}"
        "Relayed TCP connections that ended, by why.";
    TCP_RECEIVED "istio_tcp_received_bytes" "istio_tcp_received_bytes_total" "By"
        "Relayed TCP bytes that came from the caller.";
    TCP_SENT "istio_tcp_sent_bytes" "istio_tcp_sent_bytes_total" "By"
        "Relayed TCP bytes that went to the caller.";
    TCP_DURATION "meshwork_tcp_connection_duration" "meshwork_tcp_connection_duration_milliseconds" "ms"
        "How long relayed TCP connections lived, in milliseconds.";
    CONNECTIONS "meshwork_connections" "meshwork_connections_total" "{connection}"
        "Connections between two proxies that were opened.";
    CONNECTIONS_OPEN "meshwork_connections_open" "meshwork_connections_open" "{connection}"
        "Connections between two proxies that are open now.";
}

metrics! {
    /// Every metric that a process tells of itself.
    PROCESS_METRICS:
    EDGES_OVERFLOWED "meshwork_edges_overflowed" "meshwork_edges_overflowed_total" "{edge}"
        "Edges asked for past the limit; they are counted together as `other`.";
    LOG_DROPPED "meshwork_access_log_dropped" "meshwork_access_log_dropped_total" "{line}"
        "Access-log lines that had no room.";
    LOG_WRITE_ERRORS "meshwork_access_log_write_errors" "meshwork_access_log_write_errors_total" "{write}"
        "Writes of access-log lines that failed.";
    EXPORTS "meshwork_otlp_exports" "meshwork_otlp_exports_total" "{export}"
        "OTLP pushes that were tried.";
    EXPORTS_FAILED "meshwork_otlp_exports_failed" "meshwork_otlp_exports_failed_total" "{export}"
        "OTLP pushes that failed.";
    CONNECTIONS_SHED "meshwork_connections_shed" "meshwork_connections_shed_total" "{connection}"
        "Connections that were closed when they came because the proxy is at a limit.";
    PLAINTEXT_REFUSED "meshwork_plaintext_refused" "meshwork_plaintext_refused_total" "{connection}"
        "Connections that were closed because they spoke plaintext where TLS is asked for.";
    HANDSHAKES_FAILED "meshwork_handshakes_failed" "meshwork_handshakes_failed_total" "{connection}"
        "Connections that ended before their TLS handshake did: it failed, or took too long.";
    DESTINATIONS_REFUSED "meshwork_destinations_refused" "meshwork_destinations_refused_total" "{connection}"
        "Connections that were meant for an address that nobody is taken to, such as the host's own.";
    CONNECTIONS_ENDED "meshwork_connections_untrusted" "meshwork_connections_untrusted_total" "{connection}"
        "Open connections that were ended because their peer is revoked, or not trusted any more.";
    CONNECTIONS_FLOODED "meshwork_connections_flooded" "meshwork_connections_flooded_total" "{connection}"
        "Open HTTP/2 connections that were ended because their peer flooded them with frames that ask for nothing.";
}

metrics! {
    /// Every metric that a process tells by labels of its own.
    LABELLED_METRICS:
    MTLS_CONNECTIONS "meshwork_mtls_connections" "meshwork_mtls_connections_total" "{connection}"
        "Connections that a workload's port took by mTLS.";
    MTLS_REQUESTS "meshwork_mtls_requests" "meshwork_mtls_requests_total" "{request}"
        "Requests on them.";
    PLAINTEXT_CONNECTIONS "meshwork_plaintext_connections" "meshwork_plaintext_connections_total" "{connection}"
        "Connections that a workload's port took without mTLS, by where they came from.";
    PLAINTEXT_OPEN "meshwork_plaintext_connections_open" "meshwork_plaintext_connections_open" "{connection}"
        "Those of them that are open now.";
    PLAINTEXT_REQUESTS "meshwork_plaintext_requests" "meshwork_plaintext_requests_total" "{request}"
        "Requests on them.";
    DRY_RUN "meshwork_policy_dry_run" "meshwork_policy_dry_run_total" "{request}"
        "Requests and connections that policies judged which are only tried, by what they would say.";
    HANDSHAKES_REFUSED "meshwork_handshakes_refused" "meshwork_handshakes_refused_total" "{connection}"
        "Connections whose TLS handshake failed, by why.";
}

/// Label: `source` or `destination`, which of the two proxies tells.
pub const REPORTER: &str = "reporter";
/// Label: name of the calling workload.
pub const SOURCE_WORKLOAD: &str = "source_workload";
/// Label: namespace of the calling workload.
pub const SOURCE_NAMESPACE: &str = "source_workload_namespace";
/// Label: SPIFFE ID that the caller proved.
pub const SOURCE_PRINCIPAL: &str = "source_principal";
/// Label: the calling workload's label `app`.
pub const SOURCE_APP: &str = "source_app";
/// Label: the calling workload's label `version`.
pub const SOURCE_VERSION: &str = "source_version";
/// Label: full name of the called service.
pub const SERVICE: &str = "destination_service";
/// Label: name of the called service.
pub const SERVICE_NAME: &str = "destination_service_name";
/// Label: namespace of the called service.
pub const SERVICE_NAMESPACE: &str = "destination_service_namespace";
/// Label: name of the called workload.
pub const DESTINATION_WORKLOAD: &str = "destination_workload";
/// Label: namespace of the called workload.
pub const DESTINATION_NAMESPACE: &str = "destination_workload_namespace";
/// Label: SPIFFE ID that the called workload proved.
pub const DESTINATION_PRINCIPAL: &str = "destination_principal";
/// Label: the called workload's label `app`.
pub const DESTINATION_APP: &str = "destination_app";
/// Label: the called workload's label `version`.
pub const DESTINATION_VERSION: &str = "destination_version";
/// Label: `http`, `grpc` or `tcp`.
pub const PROTOCOL: &str = "request_protocol";
/// Label: `mutual_tls` or `none`.
pub const SECURITY: &str = "connection_security_policy";
/// Label: HTTP status, 0 where none was sent, `4xx` where an edge had more outcomes than are told apart.
pub const RESPONSE_CODE: &str = "response_code";
/// Label: gRPC status as a number; absent on requests without one.
pub const GRPC_STATUS: &str = "grpc_response_status";
/// Label: Envoy's response flag, `-` where there is none.
pub const RESPONSE_FLAGS: &str = "response_flags";
/// Label: code of the Reason for which the mesh decided the request (`MW0401`); absent where the service did.
pub const REASON: &str = "meshwork_reason";
/// Label: the workload's port; 0 for those past the limit.
pub const DESTINATION_PORT: &str = "destination_port";
/// Label: the address of a caller without mTLS; [`OTHER`] for those past the limit.
pub const SOURCE_IP: &str = "source_ip";
/// Label: a policy that is only tried, as `ns[shop]-policy[cart]`; [`OTHER`] for those past the limit.
pub const POLICY: &str = "policy";
/// Label: `allowed` or `denied`.
pub const VERDICT: &str = "verdict";
/// Label: why a handshake failed, in a word.
pub const WHY: &str = "why";

/// Value of a label that stands for all past a limit.
pub const OTHER: &str = "other";
/// Value of [`SECURITY`] for mTLS.
pub const MUTUAL_TLS: &str = "mutual_tls";
/// Value of [`SECURITY`] for plaintext.
pub const NO_TLS: &str = "none";
/// Value of a label whose subject is not known.
pub const UNKNOWN: &str = "unknown";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_names_follow_from_otlp_names() {
        for metric in EDGE_METRICS.iter().chain(PROCESS_METRICS).chain(LABELLED_METRICS) {
            let suffix = metric.prometheus.strip_prefix(metric.otlp).expect("a prefix");
            assert!(["", "_total", "_milliseconds"].contains(&suffix), "{}", metric.prometheus);
            assert_eq!(suffix == "_milliseconds", metric.unit == "ms", "{}", metric.otlp);
        }
    }
}
