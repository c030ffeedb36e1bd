//! The file, and what it says of ourselves.

use super::{Accepted, FOR_OTHERS, accept, harmless, no, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept(
        "envoy.config.bootstrap.v3.Bootstrap",
        &[
            yes("node"),
            yes("static_resources"),
            no("dynamic_resources", "run `meshwork sidecar` to be driven by a control plane"),
            yes("admin"),
            harmless("stats_flush_interval", "statistics are pulled, or pushed at a fixed pace"),
        ],
    ),
    accept(
        "envoy.config.bootstrap.v3.Bootstrap.StaticResources",
        &[yes("listeners"), yes("clusters"), no("secrets", "certificates come with the workload's identity")],
    ),
    accept(
        "envoy.config.bootstrap.v3.Admin",
        &[
            harmless("access_log", "the admin interface writes no access log"),
            harmless("access_log_path", "the admin interface writes no access log"),
            harmless("profile_path", "there is no profiler"),
            only("address", "on a loopback address"),
            harmless("ignore_global_conn_limit", "there is no such limit"),
        ],
    ),
    accept(
        "envoy.config.core.v3.Node",
        &[
            yes("id"),
            yes("cluster"),
            yes("metadata"),
            harmless("dynamic_parameters", FOR_OTHERS),
            harmless("locality", "balancing does not look at localities"),
            yes("user_agent_name"),
            yes("user_agent_version"),
            harmless("user_agent_build_version", FOR_OTHERS),
            harmless("extensions", FOR_OTHERS),
            harmless("client_features", FOR_OTHERS),
            harmless("listening_addresses", FOR_OTHERS),
        ],
    ),
];
