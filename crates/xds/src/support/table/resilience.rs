//! Retries, time-outs, health checks and outlier detection.

use super::{Accepted, LABEL, accept, harmless, no, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept(
        "envoy.config.route.v3.RetryPolicy",
        &[
            only("retry_on", "conditions that are known; `http3-post-connect-failure` never happens"),
            yes("num_retries"),
            yes("per_try_timeout"),
            yes("retry_priority"),
            yes("retry_host_predicate"),
            yes("host_selection_retry_max_attempts"),
            yes("retriable_status_codes"),
            yes("retry_back_off"),
            yes("retriable_headers"),
            yes("retriable_request_headers"),
            yes("rate_limited_retry_back_off"),
            no("retry_options_predicates", "Envoy itself has none"),
            yes("per_try_idle_timeout"),
            harmless(
                "refresh_cluster_on_retry",
                "no cluster specifier that could be asked again is supported",
            ),
        ],
    ),
    accept(
        "envoy.config.route.v3.RetryPolicy.RetryPriority",
        &[harmless("name", LABEL), only("typed_config", "previous_priorities")],
    ),
    accept(
        "envoy.config.route.v3.RetryPolicy.RetryHostPredicate",
        &[
            harmless("name", LABEL),
            only("typed_config", "previous_hosts, omit_canary_hosts or omit_host_metadata"),
        ],
    ),
    accept("envoy.config.route.v3.RetryPolicy.RetryBackOff", &[yes("base_interval"), yes("max_interval")]),
    accept("envoy.config.route.v3.RetryPolicy.ResetHeader", &[yes("name"), yes("format")]),
    accept(
        "envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff",
        &[yes("reset_headers"), yes("max_interval")],
    ),
    accept("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", &[]),
    accept("envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate", &[]),
    accept(
        "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig",
        &[only("metadata_match", "`envoy.lb`")],
    ),
    accept(
        "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        &[yes("update_frequency")],
    ),
    accept(
        "envoy.config.route.v3.RouteAction.MaxStreamDuration",
        &[yes("max_stream_duration"), yes("grpc_timeout_header_max"), yes("grpc_timeout_header_offset")],
    ),
];
