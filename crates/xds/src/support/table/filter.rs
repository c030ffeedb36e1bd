//! HTTP filters.

use super::{Accepted, STATISTICS, accept, harmless, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept("envoy.extensions.filters.http.rbac.v3.RBAC", &[yes("rules")]),
    accept("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", &[yes("rbac")]),
    accept("envoy.config.route.v3.FilterConfig", &[yes("config"), yes("is_optional"), yes("disabled")]),
    accept(
        "envoy.extensions.filters.http.router.v3.Router",
        &[
            harmless("dynamic_stats", STATISTICS),
            harmless("start_child_span", "no span is exported"),
            yes("suppress_envoy_headers"),
            yes("strict_check_headers"),
            yes("respect_expected_rq_timeout"),
            harmless("suppress_grpc_request_failure_code_stats", STATISTICS),
        ],
    ),
];
