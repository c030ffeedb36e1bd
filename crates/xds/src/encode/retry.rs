//! What of a route is tried again, and how long its exchanges may take.

#![expect(deprecated, reason = "what people ask for in the older way is written so")]

use meshwork_model::proxy::{
    AvoidedHosts, BackOff, Forward, RateLimitedBackOff, ResetFormat, ResetHeader, Resilience, RetryOn,
    RetryPolicy, StreamDuration,
};
use prost::{Message, Name};

use super::route::header;
use super::{Writer, duration, number, pack};
use crate::{metadata, pb};

impl Writer<'_> {
    /// How long a route's exchanges may take, and what of them is tried again.
    pub(super) fn resilience(&self, forward: &Forward, message: &mut pb::route::RouteAction) {
        let Resilience { retry, idle_timeout, stream_duration, grpc_timeout, .. } = &forward.resilience;
        message.retry_policy = retry.as_deref().and_then(|policy| self.retry_policy(policy));
        if self.is_grpc() {
            // gRPC looks at the whole stream's time only.
            let most = || StreamDuration { most: forward.timeout, ..StreamDuration::default() };
            let limited = stream_duration.clone().or_else(|| forward.timeout.is_some().then(most));
            message.max_stream_duration = limited.as_ref().map(of_streams);
            return;
        }
        message.timeout = Some(forward.timeout.map(duration).unwrap_or_default());
        message.idle_timeout = idle_timeout.map(duration);
        message.max_stream_duration = stream_duration.as_ref().map(of_streams);
        message.max_grpc_timeout = grpc_timeout.map(|limit| duration(limit.most));
        message.grpc_timeout_offset = grpc_timeout.and_then(|limit| limit.offset).map(duration);
    }

    fn retry_policy(&self, policy: &RetryPolicy) -> Option<pb::route::RetryPolicy> {
        if self.is_grpc() {
            return of_grpc(policy);
        }
        Some(pb::route::RetryPolicy {
            retry_on: names(policy.on),
            num_retries: Some(number(policy.retries)),
            per_try_timeout: policy.per_try_timeout.map(duration),
            per_try_idle_timeout: policy.per_try_idle_timeout.map(duration),
            retry_host_predicate: predicates(&policy.avoid),
            // What Envoy takes for granted is not said.
            host_selection_retry_max_attempts: match policy.host_attempts {
                1 => 0,
                attempts => i64::from(attempts),
            },
            retriable_status_codes: policy.status_codes.clone(),
            retry_back_off: back_off(policy.back_off),
            rate_limited_retry_back_off: policy.rate_limited.as_ref().map(rate_limited),
            retriable_headers: policy.response_headers.iter().map(header).collect(),
            retriable_request_headers: policy.request_headers.iter().map(header).collect(),
            ..pb::route::RetryPolicy::default()
        })
    }
}

/// gRPC knows conditions on its own statuses only, and refuses a policy that tries nothing again.
fn of_grpc(policy: &RetryPolicy) -> Option<pb::route::RetryPolicy> {
    let on = policy.on.only(RetryOn::GRPC);
    (!on.is_empty() && policy.retries > 0).then(|| pb::route::RetryPolicy {
        retry_on: names(on),
        num_retries: Some(number(policy.retries)),
        retry_back_off: back_off(policy.back_off),
        ..pb::route::RetryPolicy::default()
    })
}

fn names(on: RetryOn) -> String {
    on.names().collect::<Vec<_>>().join(",")
}

fn back_off(back_off: BackOff) -> Option<pb::route::retry_policy::RetryBackOff> {
    (back_off != BackOff::default()).then(|| pb::route::retry_policy::RetryBackOff {
        base_interval: Some(duration(back_off.base)),
        max_interval: Some(duration(back_off.most)),
    })
}

fn rate_limited(limited: &RateLimitedBackOff) -> pb::route::retry_policy::RateLimitedRetryBackOff {
    use pb::route::retry_policy::ResetHeaderFormat;
    let header = |ResetHeader { name, format }: &ResetHeader| pb::route::retry_policy::ResetHeader {
        name: name.to_string(),
        format: match format {
            ResetFormat::Seconds => ResetHeaderFormat::Seconds,
            ResetFormat::UnixTimestamp => ResetHeaderFormat::UnixTimestamp,
        } as i32,
    };
    pb::route::retry_policy::RateLimitedRetryBackOff {
        reset_headers: limited.headers.iter().map(header).collect(),
        max_interval: Some(duration(limited.most)),
    }
}

fn predicates(avoid: &AvoidedHosts) -> Vec<pb::route::retry_policy::RetryHostPredicate> {
    let mut all = Vec::new();
    if avoid.previous {
        all.push(predicate("previous_hosts", &pb::PreviousHostsPredicate::default()));
    }
    if avoid.canaries {
        all.push(predicate("omit_canary_hosts", &pb::OmitCanaryHostsPredicate::default()));
    }
    if !avoid.metadata.is_empty() {
        let metadata_match = metadata::of_balancing(&avoid.metadata);
        all.push(predicate("omit_host_metadata", &pb::OmitHostMetadataConfig { metadata_match }));
    }
    all
}

fn predicate<M: Message + Name>(name: &str, config: &M) -> pb::route::retry_policy::RetryHostPredicate {
    use pb::route::retry_policy::retry_host_predicate::ConfigType;
    pb::route::retry_policy::RetryHostPredicate {
        name: format!("envoy.retry_host_predicates.{name}"),
        config_type: Some(ConfigType::TypedConfig(pack(config))),
    }
}

fn of_streams(limit: &StreamDuration) -> pb::route::route_action::MaxStreamDuration {
    pb::route::route_action::MaxStreamDuration {
        max_stream_duration: limit.most.map(duration),
        grpc_timeout_header_max: limit.grpc_most.map(duration),
        grpc_timeout_header_offset: limit.grpc_offset.map(duration),
    }
}
