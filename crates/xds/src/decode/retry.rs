//! What of a route is tried again, and how long its exchanges may take.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{
    AvoidedHosts, BALANCING, BackOff, Criterion, GrpcTimeout, RateLimitedBackOff, ResetFormat, ResetHeader,
    Resilience, RetryOn, RetryPolicy, Router, StreamDuration,
};

use super::{Read, duration, is, required, route, unpack};
use crate::metadata;
use crate::path::{Path, Problems};
use crate::pb;

/// The longest wait that a response may ask for, where config does not say.
const DEFAULT_RESET_WAIT: Duration = Duration::from_mins(5);

/// What is read of a virtual host for each of its routes.
pub(super) struct OfHost<'m> {
    message: &'m pb::route::VirtualHost,
    retry: Option<Arc<RetryPolicy>>,
}

impl<'m> OfHost<'m> {
    /// Of a virtual host at `at`.
    pub(super) fn read(message: &'m pb::route::VirtualHost, at: &Path<'_>, problems: &mut Problems) -> Self {
        let retry = message.retry_policy.as_ref();
        let retry = retry.and_then(|retry| policy(retry, &at.field("retry_policy"), problems));
        Self { message, retry: retry.map(Arc::new) }
    }
}

/// Of a route whose action is `action`, at `at`.
#[expect(deprecated, reason = "older configs say it so")]
pub(super) fn resilience(
    of_host: &OfHost<'_>,
    route: &pb::route::Route,
    action: &pb::route::RouteAction,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Resilience> {
    let retry = match &action.retry_policy {
        Some(retry) => policy(retry, &at.field("retry_policy"), problems).map(|retry| Some(Arc::new(retry))),
        None => Some(of_host.retry.clone()),
    };
    let idle = maybe(action.idle_timeout, &at.field("idle_timeout"), problems);
    let stream = stream_duration(action, at, problems);
    let grpc = grpc_timeout(action, at, problems);
    let host = of_host.message;
    // A limit of the route, in its newer or its older form, comes before one of the host.
    let of_route = route.request_body_buffer_limit.map(|limit| limit.value);
    let bytes = of_route
        .or(legacy_limit(route.per_request_buffer_limit_bytes))
        .or(host.request_body_buffer_limit.map(|limit| limit.value))
        .or(legacy_limit(host.per_request_buffer_limit_bytes));
    Some(Resilience {
        // What asks for nothing by itself may still say how often, of what the request asks for.
        retry: retry?,
        idle_timeout: idle?,
        stream_duration: stream?,
        grpc_timeout: grpc?,
        tells_attempts_upstream: host.include_request_attempt_count,
        tells_attempts_downstream: host.include_attempt_count_in_response,
        tells_timeout_retries: host.include_is_timeout_retry_header,
        replay_bytes: bytes,
    })
}

fn legacy_limit(limit: Option<pb::UInt32Value>) -> Option<u64> {
    limit.map(|limit| u64::from(limit.value))
}

/// A duration that may be left out.
fn maybe(value: Option<pb::Duration>, at: &Path<'_>, problems: &mut Problems) -> Read<Option<Duration>> {
    match value {
        None => Some(None),
        Some(value) => duration(value, at, problems).map(Some),
    }
}

fn stream_duration(
    action: &pb::route::RouteAction,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Read<Option<StreamDuration>> {
    let Some(message) = &action.max_stream_duration else { return Some(None) };
    let at = at.field("max_stream_duration");
    let mut read = |value, name| maybe(value, &at.field(name), problems);
    Some(Some(StreamDuration {
        most: read(message.max_stream_duration, "max_stream_duration")?,
        grpc_most: read(message.grpc_timeout_header_max, "grpc_timeout_header_max")?,
        grpc_offset: read(message.grpc_timeout_header_offset, "grpc_timeout_header_offset")?,
    }))
}

#[expect(deprecated, reason = "older configs say it so")]
fn grpc_timeout(
    action: &pb::route::RouteAction,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Read<Option<GrpcTimeout>> {
    let offset = maybe(action.grpc_timeout_offset, &at.field("grpc_timeout_offset"), problems)?;
    let most = maybe(action.max_grpc_timeout, &at.field("max_grpc_timeout"), problems)?;
    Some(most.map(|most| GrpcTimeout { most, offset }))
}

/// A retry policy.
pub(super) fn policy(
    message: &pb::route::RetryPolicy,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<RetryPolicy> {
    let on = conditions(&message.retry_on, &at.field("retry_on"), problems);
    let per_try_timeout = maybe(message.per_try_timeout, &at.field("per_try_timeout"), problems);
    let idle_at = at.field("per_try_idle_timeout");
    let per_try_idle_timeout = maybe(message.per_try_idle_timeout, &idle_at, problems);
    let back_off = back_off(message.retry_back_off.as_ref(), &at.field("retry_back_off"), problems);
    let limited_at = at.field("rate_limited_retry_back_off");
    let rate_limited = rate_limited(message.rate_limited_retry_back_off.as_ref(), &limited_at, problems);
    let response_headers = headers(&message.retriable_headers, &at.field("retriable_headers"), problems);
    let request_at = at.field("retriable_request_headers");
    let request_headers = headers(&message.retriable_request_headers, &request_at, problems);
    let avoid = avoided(&message.retry_host_predicate, &at.field("retry_host_predicate"), problems);
    Some(RetryPolicy {
        on: on?,
        retries: message.num_retries.map_or(1, |number| number.value),
        per_try_timeout: per_try_timeout?,
        per_try_idle_timeout: per_try_idle_timeout?,
        back_off: back_off?,
        rate_limited: rate_limited?,
        status_codes: message.retriable_status_codes.clone(),
        response_headers: response_headers?,
        request_headers: request_headers?,
        avoid: avoid?,
        host_attempts: match message.host_selection_retry_max_attempts {
            0 => 1,
            attempts => u32::try_from(attempts).unwrap_or(u32::MAX),
        },
    })
}

/// Envoy passes over conditions that it does not know; a config that names one means something that it does not get.
fn conditions(list: &str, at: &Path<'_>, problems: &mut Problems) -> Option<RetryOn> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut on = RetryOn::NONE;
    for name in names {
        let Some(condition) = RetryOn::named(name) else {
            let known: Vec<&str> = RetryOn::NAMES.iter().map(|(name, _)| *name).collect();
            let fix = format!("write some of {}", known.join(", "));
            return problems.error(at, format!("`{name}` is no condition for a retry"), &fix);
        };
        on = on | condition;
    }
    Some(on)
}

/// Envoy counts in milliseconds, at least one.
fn whole_millis(value: Duration) -> Duration {
    Duration::from_millis(u64::try_from(value.as_millis()).unwrap_or(u64::MAX).max(1))
}

fn back_off(
    message: Option<&pb::route::retry_policy::RetryBackOff>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<BackOff> {
    let Some(message) = message else { return Some(BackOff::default()) };
    let path = at.field("base_interval");
    let base = maybe(message.base_interval, &path, problems)?.filter(|base| !base.is_zero());
    let Some(base) = base.map(whole_millis) else {
        return problems.error(&path, "this must be longer than no time", "");
    };
    let path = at.field("max_interval");
    match maybe(message.max_interval, &path, problems)? {
        None => Some(BackOff::of(base)),
        Some(most) if whole_millis(most) >= base && !most.is_zero() => {
            Some(BackOff { base, most: whole_millis(most) })
        }
        Some(_) => problems.error(&path, "this is shorter than `base_interval`", ""),
    }
}

fn rate_limited(
    message: Option<&pb::route::retry_policy::RateLimitedRetryBackOff>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Read<Option<RateLimitedBackOff>> {
    use pb::route::retry_policy::ResetHeaderFormat;
    let Some(message) = message else { return Some(None) };
    let path = at.field("reset_headers");
    if message.reset_headers.is_empty() {
        return problems.error(&path, "there must be one at least", "");
    }
    let mut headers = Vec::new();
    for (index, header) in message.reset_headers.iter().enumerate() {
        let at = path.index(index);
        let name = required(&header.name, &at.field("name"), problems)?.to_ascii_lowercase().into();
        let format = match ResetHeaderFormat::try_from(header.format) {
            Ok(ResetHeaderFormat::Seconds) => ResetFormat::Seconds,
            Ok(ResetHeaderFormat::UnixTimestamp) => ResetFormat::UnixTimestamp,
            Err(_) => return problems.error(&at.field("format"), "this format is not known", ""),
        };
        headers.push(ResetHeader { name, format });
    }
    let most = maybe(message.max_interval, &at.field("max_interval"), problems)?;
    Some(Some(RateLimitedBackOff { headers, most: most.unwrap_or(DEFAULT_RESET_WAIT) }))
}

fn headers(
    messages: &[pb::route::HeaderMatcher],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<meshwork_model::proxy::HeaderMatch>> {
    let mut headers = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        headers.push(route::header(message, &at.index(index), problems)?);
    }
    Some(headers)
}

fn avoided(
    predicates: &[pb::route::retry_policy::RetryHostPredicate],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<AvoidedHosts> {
    use pb::route::retry_policy::retry_host_predicate::ConfigType::TypedConfig;
    let mut avoided = AvoidedHosts::default();
    for (index, predicate) in predicates.iter().enumerate() {
        let at = at.index(index);
        let Some(TypedConfig(any)) = &predicate.config_type else {
            return problems.error(&at.field("typed_config"), "the predicate is missing", "");
        };
        if is::<pb::PreviousHostsPredicate>(any) {
            avoided.previous = true;
        } else if is::<pb::OmitCanaryHostsPredicate>(any) {
            avoided.canaries = true;
        } else if let Some(config) = unpack::<pb::OmitHostMetadataConfig>(any) {
            if !avoided.metadata.is_empty() {
                return problems.error(&at, "omit_host_metadata stands here twice", "");
            }
            avoided.metadata = balancing_metadata(config.metadata_match.as_ref());
        }
        // What is none of these, the support table has named.
    }
    Some(avoided)
}

/// What stands under `envoy.lb`.
fn balancing_metadata(metadata: Option<&pb::core::Metadata>) -> Vec<Criterion> {
    let marks = metadata.and_then(|metadata| metadata.filter_metadata.get(BALANCING));
    marks.map(metadata::struct_as_is).unwrap_or_default().into_iter().collect()
}

/// How the requests of a connection with these filters are forwarded.
pub(super) fn router(filters: &[pb::hcm::HttpFilter]) -> Router {
    use pb::hcm::http_filter::ConfigType::TypedConfig;
    let config = |filter: &pb::hcm::HttpFilter| match &filter.config_type {
        Some(TypedConfig(any)) => unpack::<pb::Router>(any),
        _ => None,
    };
    let message = filters.iter().rev().find_map(config).unwrap_or_default();
    Router {
        is_silent: message.suppress_envoy_headers,
        respects_expected: message.respect_expected_rq_timeout,
        strict: message.strict_check_headers.iter().map(|name| Arc::from(name.as_str())).collect(),
    }
}
