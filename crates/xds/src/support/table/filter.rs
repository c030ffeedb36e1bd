//! HTTP filters.

use super::{Accepted, STATISTICS, accept, harmless, no, only, yes};

const RUNTIME: &str = "there is no runtime layer; the value beside it counts";

pub(super) const ACCEPTED: &[Accepted] = &[
    accept("envoy.config.route.v3.FilterConfig", &[yes("config"), yes("is_optional"), yes("disabled")]),
    accept(
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        &[
            yes("delay"),
            yes("abort"),
            yes("upstream_cluster"),
            yes("headers"),
            yes("downstream_nodes"),
            yes("max_active_faults"),
            no("response_rate_limit", "responses are not slowed down"),
            harmless("delay_percent_runtime", RUNTIME),
            harmless("abort_percent_runtime", RUNTIME),
            harmless("delay_duration_runtime", RUNTIME),
            harmless("abort_http_status_runtime", RUNTIME),
            harmless("max_active_faults_runtime", RUNTIME),
            harmless("response_rate_limit_percent_runtime", RUNTIME),
            harmless("abort_grpc_status_runtime", RUNTIME),
            harmless("disable_downstream_cluster_stats", STATISTICS),
        ],
    ),
    accept(
        "envoy.extensions.filters.http.fault.v3.FaultAbort",
        &[
            yes("http_status"),
            yes("grpc_status"),
            yes("header_abort"),
            yes("percentage"),
            only("response_body", "without it, the answer has the proxy's own words"),
        ],
    ),
    accept("envoy.extensions.filters.http.fault.v3.FaultAbort.HeaderAbort", &[]),
    accept(
        "envoy.extensions.filters.common.fault.v3.FaultDelay",
        &[yes("fixed_delay"), yes("header_delay"), yes("percentage")],
    ),
    accept("envoy.extensions.filters.common.fault.v3.FaultDelay.HeaderDelay", &[]),
    accept(
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        &[
            yes("providers"),
            yes("rules"),
            no("filter_state_rules", "there is no filter state; write `rules`"),
            yes("bypass_cors_preflight"),
            yes("requirement_map"),
            yes("strip_failure_response"),
            harmless("stat_prefix", STATISTICS),
        ],
    ),
    accept(
        "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider",
        &[
            yes("issuer"),
            yes("audiences"),
            yes("subjects"),
            yes("require_expiration"),
            yes("max_lifetime"),
            yes("remote_jwks"),
            only("local_jwks", "a file is read once"),
            yes("forward"),
            yes("from_headers"),
            yes("from_params"),
            yes("from_cookies"),
            yes("forward_payload_header"),
            yes("pad_forward_payload_header"),
            yes("payload_in_metadata"),
            yes("header_in_metadata"),
            only("clock_skew_seconds", "60 where it is 0"),
            harmless("jwt_cache_config", "every token is verified"),
            yes("claim_to_headers"),
            only("clear_route_cache", "false"),
        ],
    ),
    accept(
        "envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks",
        &[
            yes("http_uri"),
            yes("cache_duration"),
            harmless("async_fetch", "keys are fetched when a token needs them, once for all"),
            yes("retry_policy"),
        ],
    ),
    accept("envoy.extensions.filters.http.jwt_authn.v3.JwtHeader", &[yes("name"), yes("value_prefix")]),
    accept(
        "envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader",
        &[yes("header_name"), yes("claim_name")],
    ),
    accept(
        "envoy.extensions.filters.http.jwt_authn.v3.RequirementRule",
        &[yes("match"), yes("requires"), yes("requirement_name")],
    ),
    accept(
        "envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement",
        &[
            yes("provider_name"),
            yes("provider_and_audiences"),
            yes("requires_any"),
            yes("requires_all"),
            yes("allow_missing_or_failed"),
            yes("allow_missing"),
        ],
    ),
    accept(
        "envoy.extensions.filters.http.jwt_authn.v3.ProviderWithAudiences",
        &[yes("provider_name"), yes("audiences")],
    ),
    accept("envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementOrList", &[yes("requirements")]),
    accept("envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementAndList", &[yes("requirements")]),
    accept(
        "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
        &[yes("disabled"), yes("requirement_name")],
    ),
    accept("envoy.config.core.v3.HttpUri", &[yes("uri"), yes("cluster"), yes("timeout")]),
    accept(
        "envoy.config.core.v3.RetryPolicy",
        &[only("retry_back_off", "doubled after each try, up to 10 s"), yes("num_retries")],
    ),
    accept(
        "envoy.config.core.v3.BackoffStrategy",
        &[yes("base_interval"), harmless("max_interval", "10 s is the most")],
    ),
    accept(
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        &[
            yes("rules"),
            harmless("rules_stat_prefix", STATISTICS),
            no("matcher", "write `rules`"),
            yes("shadow_rules"),
            no("shadow_matcher", "write `shadow_rules`"),
            yes("shadow_rules_stat_prefix"),
            harmless("track_per_rule_stats", STATISTICS),
        ],
    ),
    accept("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", &[yes("rbac")]),
    accept(
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        &[
            harmless("stat_prefix", STATISTICS),
            yes("status"),
            yes("token_bucket"),
            yes("filter_enabled"),
            yes("filter_enforced"),
            yes("local_rate_limit_per_downstream_connection"),
            yes("enable_x_ratelimit_headers"),
            yes("always_consume_default_token_bucket"),
            yes("rate_limited_as_resource_exhausted"),
        ],
    ),
    accept(
        "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        &[
            yes("pass_through_mode"),
            yes("cache_time"),
            yes("cluster_min_healthy_percentages"),
            yes("headers"),
        ],
    ),
    accept("envoy.extensions.filters.http.buffer.v3.Buffer", &[yes("max_request_bytes")]),
    accept("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", &[yes("disabled"), yes("buffer")]),
    accept(
        "envoy.extensions.filters.http.router.v3.Router",
        &[
            harmless("dynamic_stats", STATISTICS),
            harmless("suppress_envoy_headers", "no x-envoy fields are added anyhow"),
        ],
    ),
    accept("envoy.type.v3.HttpStatus", &[yes("code")]),
    accept("envoy.type.v3.Percent", &[yes("value")]),
    accept("envoy.type.v3.TokenBucket", &[yes("max_tokens"), yes("tokens_per_fill"), yes("fill_interval")]),
];
