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
            harmless("suppress_envoy_headers", "no x-envoy fields are added anyhow"),
        ],
    ),
];
