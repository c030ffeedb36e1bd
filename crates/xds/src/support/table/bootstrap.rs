//! The file, and what it says of ourselves.

use super::{Accepted, FOR_OTHERS, accept, harmless, no, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept(
        "envoy.config.bootstrap.v3.Bootstrap",
        &[
            yes("node"),
            yes("static_resources"),
            yes("dynamic_resources"),
            yes("admin"),
            harmless("stats_flush_interval", "statistics are pulled, or pushed at a fixed pace"),
        ],
    ),
    accept(
        "envoy.config.bootstrap.v3.Bootstrap.StaticResources",
        &[yes("listeners"), yes("clusters"), yes("secrets")],
    ),
    accept(
        "envoy.config.bootstrap.v3.Bootstrap.DynamicResources",
        &[only("lds_config", "`ads`"), only("cds_config", "`ads`"), yes("ads_config")],
    ),
    accept(
        "envoy.config.core.v3.ApiConfigSource",
        &[
            only("api_type", "GRPC and DELTA_GRPC"),
            only("transport_api_version", "V3"),
            only("grpc_services", "one"),
            harmless("set_node_on_first_message_only", "the first message alone says the node, always"),
        ],
    ),
    accept(
        "envoy.config.core.v3.GrpcService",
        &[
            yes("envoy_grpc"),
            no("google_grpc", "write `envoy_grpc`"),
            only("timeout", "of a call; a stream of config has none"),
            only("initial_metadata", "of the stream of config, plain text"),
        ],
    ),
    accept("envoy.config.core.v3.GrpcService.EnvoyGrpc", &[yes("cluster_name"), yes("authority")]),
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
            yes("locality"),
            yes("user_agent_name"),
            yes("user_agent_version"),
            harmless("user_agent_build_version", FOR_OTHERS),
            harmless("extensions", FOR_OTHERS),
            harmless("client_features", FOR_OTHERS),
            harmless("listening_addresses", FOR_OTHERS),
        ],
    ),
];
