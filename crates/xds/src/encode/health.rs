//! Health checks and outlier detection of a cluster. What Envoy takes for granted is not said.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{
    CheckHeader, CheckIntervals, Criterion, GrpcCheck, HealthCheck, HealthCheckKind, HttpCheck,
    OutlierDetection, TcpCheck,
};

use super::policy::string;
use super::terms::header_value;
use super::{boolean, duration, number};
use crate::pb;

/// Bytes of an answer that are looked at where nothing is said. Source: Envoy `response_buffer_size`.
const RESPONSE_BYTES: u64 = 1024;
/// How often while there is no traffic, where nothing is said. Source: Envoy `no_traffic_interval`.
const NO_TRAFFIC: Duration = Duration::from_mins(1);

/// When endpoints are left out for what their responses are like.
pub(super) fn outliers(outliers: &OutlierDetection) -> pb::cluster::OutlierDetection {
    let usual = OutlierDetection::default();
    let unless = |value: u32, usual: u32| (value != usual).then(|| number(value));
    let time = |value: Duration, usual: Duration| (value != usual).then(|| duration(value));
    let (five, gateway, local) =
        (outliers.consecutive_5xx, outliers.consecutive_gateway, outliers.consecutive_local);
    let (rate, usual_rate) = (outliers.success_rate, usual.success_rate);
    let (failures, usual_failures) = (outliers.failure_percentage, usual.failure_percentage);
    let longest = usual.max_ejection.max(outliers.base_ejection);
    pb::cluster::OutlierDetection {
        consecutive_5xx: unless(five.count, usual.consecutive_5xx.count),
        enforcing_consecutive_5xx: unless(five.enforcing, usual.consecutive_5xx.enforcing),
        consecutive_gateway_failure: unless(gateway.count, usual.consecutive_gateway.count),
        enforcing_consecutive_gateway_failure: unless(gateway.enforcing, usual.consecutive_gateway.enforcing),
        split_external_local_origin_errors: outliers.split_local,
        consecutive_local_origin_failure: unless(local.count, usual.consecutive_local.count),
        enforcing_consecutive_local_origin_failure: unless(
            local.enforcing,
            usual.consecutive_local.enforcing,
        ),
        interval: time(outliers.interval, usual.interval),
        base_ejection_time: time(outliers.base_ejection, usual.base_ejection),
        max_ejection_time: time(outliers.max_ejection, longest),
        max_ejection_time_jitter: time(outliers.max_ejection_jitter, usual.max_ejection_jitter),
        max_ejection_percent: unless(outliers.max_ejection_percent, usual.max_ejection_percent),
        always_eject_one_host: outliers.always_eject_one.then(|| boolean(true)),
        success_rate_minimum_hosts: unless(rate.minimum_hosts, usual_rate.minimum_hosts),
        success_rate_request_volume: unless(rate.request_volume, usual_rate.request_volume),
        success_rate_stdev_factor: unless(rate.stdev_factor, usual_rate.stdev_factor),
        enforcing_success_rate: unless(rate.enforcing, usual_rate.enforcing),
        enforcing_local_origin_success_rate: unless(rate.enforcing_local, usual_rate.enforcing_local),
        failure_percentage_threshold: unless(failures.threshold, usual_failures.threshold),
        failure_percentage_minimum_hosts: unless(failures.minimum_hosts, usual_failures.minimum_hosts),
        failure_percentage_request_volume: unless(failures.request_volume, usual_failures.request_volume),
        enforcing_failure_percentage: unless(failures.enforcing, usual_failures.enforcing),
        enforcing_failure_percentage_local_origin: unless(
            failures.enforcing_local,
            usual_failures.enforcing_local,
        ),
        successful_active_health_check_uneject_host: (!outliers.check_unejects).then(|| boolean(false)),
        ..pb::cluster::OutlierDetection::default()
    }
}

/// How endpoints are asked whether they are well.
pub(super) fn health_check(check: &HealthCheck) -> pb::core::HealthCheck {
    use pb::core::health_check::{HealthChecker, TlsOptions};
    let alpn = |protocols: &Vec<Arc<str>>| TlsOptions {
        alpn_protocols: protocols.iter().map(ToString::to_string).collect(),
    };
    let mut message = pb::core::HealthCheck {
        timeout: Some(duration(check.timeout)),
        unhealthy_threshold: Some(number(check.unhealthy_threshold)),
        healthy_threshold: Some(number(check.healthy_threshold)),
        reuse_connection: (!check.reuse_connection).then(|| boolean(false)),
        tls_options: check.alpn.as_ref().map(alpn),
        transport_socket_match_criteria: check.transport.as_ref().map(transport),
        health_checker: Some(match &check.kind {
            HealthCheckKind::Http(check) => HealthChecker::HttpHealthCheck(http(check)),
            HealthCheckKind::Tcp(check) => HealthChecker::TcpHealthCheck(tcp(check)),
            HealthCheckKind::Grpc(check) => HealthChecker::GrpcHealthCheck(grpc(check)),
        }),
        ..pb::core::HealthCheck::default()
    };
    intervals(&check.intervals, &mut message);
    message
}

fn transport((identity, labels): &(Option<Arc<str>>, Vec<Criterion>)) -> pb::Struct {
    super::cluster::marks(identity.as_deref(), labels)
}

fn intervals(intervals: &CheckIntervals, message: &mut pb::core::HealthCheck) {
    let unless = |value: Duration, usual: Duration| (value != usual).then(|| duration(value));
    message.interval = Some(duration(intervals.usual));
    message.no_traffic_interval = unless(intervals.no_traffic, NO_TRAFFIC);
    message.no_traffic_healthy_interval = unless(intervals.no_traffic_healthy, intervals.no_traffic);
    message.unhealthy_interval = unless(intervals.unhealthy, intervals.usual);
    message.unhealthy_edge_interval = unless(intervals.unhealthy_edge, intervals.unhealthy);
    message.healthy_edge_interval = unless(intervals.healthy_edge, intervals.usual);
    message.initial_jitter = unless(intervals.initial_jitter, Duration::ZERO);
    message.interval_jitter = unless(intervals.jitter, Duration::ZERO);
    message.interval_jitter_percent = intervals.jitter_percent;
}

fn http(check: &HttpCheck) -> pb::core::health_check::HttpHealthCheck {
    let codec = if check.http2 { pb::CodecClientType::Http2 } else { pb::CodecClientType::Http1 };
    let is_usual = check.expected == [(200, 201)];
    pb::core::health_check::HttpHealthCheck {
        host: check.host.to_string(),
        path: check.path.to_string(),
        method: method(&check.method) as i32,
        send: (!check.send.is_empty()).then(|| payload(&check.send)),
        receive: check.receive.iter().map(|piece| payload(piece)).collect(),
        response_buffer_size: (check.response_bytes != RESPONSE_BYTES)
            .then_some(pb::UInt64Value { value: check.response_bytes }),
        request_headers_to_add: check.add.iter().map(header).collect(),
        request_headers_to_remove: check.remove.iter().map(ToString::to_string).collect(),
        expected_statuses: if is_usual { Vec::new() } else { statuses(&check.expected) },
        retriable_statuses: statuses(&check.retriable),
        codec_client_type: codec as i32,
        service_name_matcher: check.service_name.as_ref().map(string),
    }
}

fn method(method: &str) -> pb::core::RequestMethod {
    match method {
        "HEAD" => pb::core::RequestMethod::Head,
        "POST" => pb::core::RequestMethod::Post,
        "PUT" => pb::core::RequestMethod::Put,
        "DELETE" => pb::core::RequestMethod::Delete,
        "OPTIONS" => pb::core::RequestMethod::Options,
        "TRACE" => pb::core::RequestMethod::Trace,
        "PATCH" => pb::core::RequestMethod::Patch,
        // What Envoy takes for granted: GET.
        _ => pb::core::RequestMethod::MethodUnspecified,
    }
}

fn tcp(check: &TcpCheck) -> pb::core::health_check::TcpHealthCheck {
    pb::core::health_check::TcpHealthCheck {
        send: (!check.send.is_empty()).then(|| payload(&check.send)),
        receive: check.receive.iter().map(|piece| payload(piece)).collect(),
        ..pb::core::health_check::TcpHealthCheck::default()
    }
}

fn grpc(check: &GrpcCheck) -> pb::core::health_check::GrpcHealthCheck {
    pb::core::health_check::GrpcHealthCheck {
        service_name: check.service.to_string(),
        authority: check.authority.to_string(),
        initial_metadata: check.metadata.iter().map(header).collect(),
    }
}

/// Bytes in hexadecimal digits, which Envoy reads everywhere; none it would refuse so.
fn payload(bytes: &[u8]) -> pb::core::health_check::Payload {
    use pb::core::health_check::payload::Payload;
    let digits = || {
        let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0');
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    };
    let payload = if bytes.is_empty() { Payload::Binary(Vec::new()) } else { Payload::Text(digits()) };
    pb::core::health_check::Payload { payload: Some(payload) }
}

fn header(field: &CheckHeader) -> pb::core::HeaderValueOption {
    use pb::core::header_value_option::HeaderAppendAction as Action;
    let action = if field.append { Action::AppendIfExistsOrAdd } else { Action::OverwriteIfExistsOrAdd };
    pb::core::HeaderValueOption {
        header: Some(header_value(&field.name, &field.value)),
        append_action: action as i32,
        ..pb::core::HeaderValueOption::default()
    }
}

fn statuses(ranges: &[(u16, u16)]) -> Vec<pb::Int64Range> {
    ranges.iter().map(|(start, end)| pb::Int64Range { start: (*start).into(), end: (*end).into() }).collect()
}
