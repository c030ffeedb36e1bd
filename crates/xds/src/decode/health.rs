//! Health checks and outlier detection of a cluster.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{
    CheckHeader, CheckIntervals, Enforced, FailurePercentage, GrpcCheck, HealthCheck, HealthCheckKind,
    HttpCheck, OutlierDetection, SuccessRate, TcpCheck,
};

use super::{Read, duration, policy, required};
use crate::metadata;
use crate::path::{Path, Problems};
use crate::pb;

/// Bytes of an answer that are looked at, where config does not say. Source: Envoy `response_buffer_size`.
const RESPONSE_BYTES: u64 = 1024;
/// How often while there is no traffic, where config does not say. Source: Envoy `no_traffic_interval`.
const NO_TRAFFIC: Duration = Duration::from_mins(1);

/// When endpoints are left out for what their responses are like.
pub(super) fn outliers(
    message: &pb::cluster::OutlierDetection,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<OutlierDetection> {
    let usual = OutlierDetection::default();
    let or = |value: Option<pb::UInt32Value>, usual: u32| value.map_or(usual, |value| value.value);
    let mut percent = |value: Option<pb::UInt32Value>, usual: u32, name| match or(value, usual) {
        percent if percent <= 100 => Some(percent),
        percent => problems.error(&at.field(name), format!("{percent} is no percentage"), ""),
    };
    let consecutive_5xx = Enforced {
        count: or(message.consecutive_5xx, usual.consecutive_5xx.count),
        enforcing: percent(message.enforcing_consecutive_5xx, 100, "enforcing_consecutive_5xx")?,
    };
    let name = "enforcing_consecutive_gateway_failure";
    let consecutive_gateway = Enforced {
        count: or(message.consecutive_gateway_failure, usual.consecutive_gateway.count),
        enforcing: percent(message.enforcing_consecutive_gateway_failure, 0, name)?,
    };
    let name = "enforcing_consecutive_local_origin_failure";
    let consecutive_local = Enforced {
        count: or(message.consecutive_local_origin_failure, usual.consecutive_local.count),
        enforcing: percent(message.enforcing_consecutive_local_origin_failure, 100, name)?,
    };
    let name = "enforcing_local_origin_success_rate";
    let success_rate = SuccessRate {
        minimum_hosts: or(message.success_rate_minimum_hosts, usual.success_rate.minimum_hosts),
        request_volume: or(message.success_rate_request_volume, usual.success_rate.request_volume),
        stdev_factor: or(message.success_rate_stdev_factor, usual.success_rate.stdev_factor),
        enforcing: percent(message.enforcing_success_rate, 100, "enforcing_success_rate")?,
        enforcing_local: percent(message.enforcing_local_origin_success_rate, 100, name)?,
    };
    let (threshold, name) = (usual.failure_percentage.threshold, "enforcing_failure_percentage_local_origin");
    let failure_percentage = FailurePercentage {
        threshold: percent(message.failure_percentage_threshold, threshold, "failure_percentage_threshold")?,
        minimum_hosts: or(message.failure_percentage_minimum_hosts, usual.failure_percentage.minimum_hosts),
        request_volume: or(
            message.failure_percentage_request_volume,
            usual.failure_percentage.request_volume,
        ),
        enforcing: percent(message.enforcing_failure_percentage, 0, "enforcing_failure_percentage")?,
        enforcing_local: percent(message.enforcing_failure_percentage_local_origin, 0, name)?,
    };
    let max_percent = usual.max_ejection_percent;
    let max_ejection_percent = percent(message.max_ejection_percent, max_percent, "max_ejection_percent")?;
    let base = positive(message.base_ejection_time, &at.field("base_ejection_time"), problems)?;
    let base_ejection = base.unwrap_or(usual.base_ejection);
    let path = at.field("max_ejection_time");
    let most = positive(message.max_ejection_time, &path, problems)?;
    let max_ejection = most.unwrap_or(usual.max_ejection.max(base_ejection));
    if max_ejection < base_ejection {
        return problems.error(&path, "this is shorter than `base_ejection_time`", "");
    }
    let jitter_at = at.field("max_ejection_time_jitter");
    Some(OutlierDetection {
        consecutive_5xx,
        consecutive_gateway,
        consecutive_local,
        split_local: message.split_external_local_origin_errors,
        interval: positive(message.interval, &at.field("interval"), problems)?.unwrap_or(usual.interval),
        base_ejection,
        max_ejection,
        max_ejection_jitter: maybe(message.max_ejection_time_jitter, &jitter_at, problems)?
            .unwrap_or_default(),
        max_ejection_percent,
        always_eject_one: message.always_eject_one_host.is_some_and(|value| value.value),
        success_rate,
        failure_percentage,
        check_unejects: message.successful_active_health_check_uneject_host.is_none_or(|value| value.value),
    })
}

/// How endpoints are asked whether they are well.
pub(super) fn checks(
    messages: &[pb::core::HealthCheck],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<Arc<HealthCheck>>> {
    // As Envoy: one checker per cluster.
    if messages.len() > 1 {
        return problems.error(&at.index(1), "a cluster has one health check at most", "");
    }
    let mut checks = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        checks.push(Arc::new(check(message, &at.index(index), problems)?));
    }
    Some(checks)
}

fn check(message: &pb::core::HealthCheck, at: &Path<'_>, problems: &mut Problems) -> Option<HealthCheck> {
    use pb::core::health_check::HealthChecker;
    let kind = match &message.health_checker {
        Some(HealthChecker::HttpHealthCheck(check)) => {
            http(check, &at.field("http_health_check"), problems).map(HealthCheckKind::Http)
        }
        Some(HealthChecker::TcpHealthCheck(check)) => {
            tcp(check, &at.field("tcp_health_check"), problems).map(HealthCheckKind::Tcp)
        }
        Some(HealthChecker::GrpcHealthCheck(check)) => {
            let path = at.field("grpc_health_check");
            let metadata = headers(&check.initial_metadata, &path.field("initial_metadata"), problems);
            metadata.map(|metadata| {
                HealthCheckKind::Grpc(GrpcCheck {
                    service: check.service_name.as_str().into(),
                    authority: check.authority.as_str().into(),
                    metadata,
                })
            })
        }
        // The support table has named it.
        Some(HealthChecker::CustomHealthCheck(_)) => None,
        None => problems.error(at, "it says not what is asked", "write `http_health_check`"),
    };
    let timeout = given(message.timeout, &at.field("timeout"), problems);
    let intervals = intervals(message, at, problems);
    let unhealthy = threshold(message.unhealthy_threshold, &at.field("unhealthy_threshold"), problems);
    let healthy = threshold(message.healthy_threshold, &at.field("healthy_threshold"), problems);
    let alpn = message
        .tls_options
        .as_ref()
        .map(|options| options.alpn_protocols.iter().map(|protocol| Arc::from(protocol.as_str())).collect());
    let path = at.field("transport_socket_match_criteria");
    let transport = match &message.transport_socket_match_criteria {
        None => None,
        Some(marks) => Some(metadata::marks(marks, &path, problems).ok()?),
    };
    Some(HealthCheck {
        kind: kind?,
        timeout: timeout?,
        intervals: intervals?,
        unhealthy_threshold: unhealthy?,
        healthy_threshold: healthy?,
        reuse_connection: message.reuse_connection.is_none_or(|value| value.value),
        alpn,
        transport,
    })
}

fn intervals(
    message: &pb::core::HealthCheck,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<CheckIntervals> {
    let usual = given(message.interval, &at.field("interval"), problems)?;
    let mut or = |value, name, usual: Duration| {
        positive(value, &at.field(name), problems).map(|value| value.unwrap_or(usual))
    };
    let no_traffic = or(message.no_traffic_interval, "no_traffic_interval", NO_TRAFFIC)?;
    let no_traffic_healthy = message.no_traffic_healthy_interval;
    let unhealthy = or(message.unhealthy_interval, "unhealthy_interval", usual)?;
    Some(CheckIntervals {
        usual,
        no_traffic,
        no_traffic_healthy: or(no_traffic_healthy, "no_traffic_healthy_interval", no_traffic)?,
        unhealthy,
        unhealthy_edge: or(message.unhealthy_edge_interval, "unhealthy_edge_interval", unhealthy)?,
        healthy_edge: or(message.healthy_edge_interval, "healthy_edge_interval", usual)?,
        initial_jitter: maybe(message.initial_jitter, &at.field("initial_jitter"), problems)?
            .unwrap_or_default(),
        jitter: maybe(message.interval_jitter, &at.field("interval_jitter"), problems)?.unwrap_or_default(),
        jitter_percent: message.interval_jitter_percent,
    })
}

fn http(
    message: &pb::core::health_check::HttpHealthCheck,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<HttpCheck> {
    let method = method(message.method, &at.field("method"), problems)?;
    let path = required(&message.path, &at.field("path"), problems);
    let send = match &message.send {
        None => Some(Arc::default()),
        Some(_) if matches!(method, "GET" | "HEAD" | "DELETE" | "TRACE") => {
            problems.error(&at.field("send"), format!("{method} has no body"), "write `method: POST`")
        }
        Some(send) => payload(send, &at.field("send"), problems),
    };
    let receive = payloads(&message.receive, &at.field("receive"), problems);
    let add = headers(&message.request_headers_to_add, &at.field("request_headers_to_add"), problems);
    let expected = statuses(&message.expected_statuses, &at.field("expected_statuses"), problems);
    let retriable = statuses(&message.retriable_statuses, &at.field("retriable_statuses"), problems);
    let http2 = http2(message.codec_client_type, &at.field("codec_client_type"), problems);
    let service_name = match &message.service_name_matcher {
        None => Some(None),
        Some(matcher) => policy::string(matcher, &at.field("service_name_matcher"), problems).map(Some),
    };
    let response_bytes = message.response_buffer_size.map_or(RESPONSE_BYTES, |size| size.value);
    let (receive, expected) = (receive?, expected?);
    let needed: usize = receive.iter().map(|piece| piece.len()).sum();
    if response_bytes != 0 && needed as u64 > response_bytes {
        let text = format!("{needed} bytes are wanted of which {response_bytes} are looked at");
        return problems.error(&at.field("receive"), text, "raise `response_buffer_size`");
    }
    Some(HttpCheck {
        host: message.host.as_str().into(),
        path: path?.into(),
        method: method.into(),
        send: send?,
        receive,
        response_bytes,
        add: add?,
        remove: message
            .request_headers_to_remove
            .iter()
            .map(|name| name.to_ascii_lowercase().into())
            .collect(),
        expected: if expected.is_empty() { vec![(200, 201)] } else { expected },
        retriable: retriable?,
        http2: http2?,
        service_name: service_name?,
    })
}

fn method(method: i32, at: &Path<'_>, problems: &mut Problems) -> Option<&'static str> {
    use pb::core::RequestMethod;
    Some(match RequestMethod::try_from(method) {
        Ok(RequestMethod::MethodUnspecified | RequestMethod::Get) => "GET",
        Ok(RequestMethod::Head) => "HEAD",
        Ok(RequestMethod::Post) => "POST",
        Ok(RequestMethod::Put) => "PUT",
        Ok(RequestMethod::Delete) => "DELETE",
        Ok(RequestMethod::Options) => "OPTIONS",
        Ok(RequestMethod::Trace) => "TRACE",
        Ok(RequestMethod::Patch) => "PATCH",
        Ok(RequestMethod::Connect) | Err(_) => return problems.error(at, "this method checks no health", ""),
    })
}

fn http2(codec: i32, at: &Path<'_>, problems: &mut Problems) -> Option<bool> {
    use pb::CodecClientType;
    match CodecClientType::try_from(codec) {
        Ok(CodecClientType::Http1) => Some(false),
        Ok(CodecClientType::Http2) => Some(true),
        _ => problems.error(at, "this codec is not supported", "write HTTP1 or HTTP2"),
    }
}

fn tcp(
    message: &pb::core::health_check::TcpHealthCheck,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<TcpCheck> {
    use pb::core::health_check::payload::Payload;
    let send = match &message.send {
        None => Some(Arc::default()),
        // Envoy looks at the text alone, and would send nothing.
        Some(send) if !matches!(send.payload, Some(Payload::Text(_))) => {
            problems.error(&at.field("send"), "only text is sent", "write `text`, in hexadecimal digits")
        }
        Some(send) => payload(send, &at.field("send"), problems),
    };
    let receive = payloads(&message.receive, &at.field("receive"), problems);
    Some(TcpCheck { send: send?, receive: receive? })
}

fn payloads(
    messages: &[pb::core::health_check::Payload],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<Arc<[u8]>>> {
    let mut pieces = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        pieces.push(payload(message, &at.index(index), problems)?);
    }
    Some(pieces)
}

fn payload(
    message: &pb::core::health_check::Payload,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Arc<[u8]>> {
    use pb::core::health_check::payload::Payload;
    match &message.payload {
        Some(Payload::Text(digits)) => match hex(digits) {
            Some(bytes) if !bytes.is_empty() => Some(bytes.into()),
            _ => problems.error(&at.field("text"), format!("`{digits}` is not in hexadecimal digits"), ""),
        },
        Some(Payload::Binary(bytes)) => Some(bytes.as_slice().into()),
        None => problems.error(at, "the payload is missing", "write `text`, in hexadecimal digits"),
    }
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        digits.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn headers(
    messages: &[pb::core::HeaderValueOption],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<CheckHeader>> {
    let mut headers = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        headers.push(header(message, &at.index(index), problems)?);
    }
    Some(headers)
}

#[expect(deprecated, reason = "older configs say it so")]
fn header(
    message: &pb::core::HeaderValueOption,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<CheckHeader> {
    use pb::core::header_value_option::HeaderAppendAction as Action;
    let path = at.field("header");
    let Some(header) = &message.header else { return problems.error(&path, "the header is missing", "") };
    let name = required(&header.key, &path.field("key"), problems)?.to_ascii_lowercase();
    if name.starts_with(':') || name == "host" {
        return problems.error(&path.field("key"), format!("`{name}` is not set here"), "write `host`");
    }
    if header.value.contains('%') {
        return problems.error(&path.field("value"), "checks have no variables", "");
    }
    let append = match (message.append, Action::try_from(message.append_action)) {
        (Some(append), _) => append.value,
        (None, Ok(Action::AppendIfExistsOrAdd)) => true,
        (None, Ok(Action::OverwriteIfExistsOrAdd)) => false,
        (None, _) => {
            let fix = "write APPEND_IF_EXISTS_OR_ADD or OVERWRITE_IF_EXISTS_OR_ADD";
            return problems.error(&at.field("append_action"), "this is not supported for checks", fix);
        }
    };
    Some(CheckHeader { name: name.into(), value: header.value.as_str().into(), append })
}

fn statuses(ranges: &[pb::Int64Range], at: &Path<'_>, problems: &mut Problems) -> Option<Vec<(u16, u16)>> {
    let mut statuses = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        match (u16::try_from(range.start), u16::try_from(range.end)) {
            (Ok(start), Ok(end)) if start >= 100 && end <= 600 && start < end => statuses.push((start, end)),
            _ => return problems.error(&at.index(index), "this is no range within 100 to 600", ""),
        }
    }
    Some(statuses)
}

fn threshold(value: Option<pb::UInt32Value>, at: &Path<'_>, problems: &mut Problems) -> Option<u32> {
    value.map(|value| value.value).or_else(|| problems.error(at, "this is missing", "write a number"))
}

/// A duration that may be left out.
fn maybe(value: Option<pb::Duration>, at: &Path<'_>, problems: &mut Problems) -> Read<Option<Duration>> {
    match value {
        None => Some(None),
        Some(value) => duration(value, at, problems).map(Some),
    }
}

/// One that may be left out, and is over 0 otherwise.
fn positive(value: Option<pb::Duration>, at: &Path<'_>, problems: &mut Problems) -> Read<Option<Duration>> {
    match maybe(value, at, problems)? {
        Some(value) if value.is_zero() => problems.error(at, "this must be longer than no time", ""),
        value => Some(value),
    }
}

/// One that must be there, and over 0.
fn given(value: Option<pb::Duration>, at: &Path<'_>, problems: &mut Problems) -> Option<Duration> {
    match positive(value, at, problems)? {
        Some(value) => Some(value),
        None => problems.error(at, "this is missing", "write a number of seconds, such as `5s`"),
    }
}
