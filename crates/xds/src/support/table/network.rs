//! Network filters: the HTTP connection manager and those for bytes.

use super::{Accepted, STATISTICS, accept, harmless, no, only, yes};

const SPANS: &str = "no span is exported";

pub(super) const ACCEPTED: &[Accepted] = &[
    accept(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &[
            only("codec_type", "AUTO, HTTP1 or HTTP2"),
            yes("stat_prefix"),
            yes("rds"),
            yes("route_config"),
            only("http_filters", "in one order, the router last; unknown ones if they are optional"),
            yes("common_http_protocol_options"),
            yes("server_name"),
            only("server_header_transformation", "OVERWRITE or PASS_THROUGH"),
            only("stream_idle_timeout", "looked at once a minute; 0s means an hour"),
            only("tracing", "a request without `traceparent` and `b3` begins a trace; no span is exported"),
            only(
                "upgrade_configs",
                "`websocket`, which is carried in any case, and `CONNECT`, over HTTP/1.1",
            ),
            harmless("drain_timeout", "set by the program's own options"),
            harmless("delayed_close_timeout", "connections are closed with a fixed grace"),
            only("access_log", "file or stdout, as JSON lines of our own form"),
            only("use_remote_address", "false"),
            harmless("internal_address_config", "no address is trusted more than another"),
            yes("generate_request_id"),
            no("forward_client_cert_details", "leave it out: the field is removed from requests"),
            yes("normalize_path"),
            yes("merge_slashes"),
            only("path_with_escaped_slashes_action", "KEEP_UNCHANGED or REJECT_REQUEST"),
        ],
    ),
    accept(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing",
        &[
            harmless("client_sampling", SPANS),
            harmless("random_sampling", SPANS),
            harmless("overall_sampling", SPANS),
            harmless("verbose", SPANS),
            harmless("max_path_tag_length", SPANS),
            harmless("custom_tags", SPANS),
            harmless("provider", SPANS),
            harmless("spawn_upstream_span", SPANS),
        ],
    ),
    accept(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig",
        &[only("upgrade_type", "websocket or CONNECT"), only("enabled", "true")],
    ),
    accept(
        "envoy.extensions.filters.network.http_connection_manager.v3.Rds",
        &[yes("config_source"), yes("route_config_name")],
    ),
    accept(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        &[yes("name"), yes("typed_config"), yes("is_optional"), yes("disabled")],
    ),
    accept("envoy.config.core.v3.HttpProtocolOptions", &[yes("idle_timeout"), yes("max_stream_duration")]),
    accept(
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &[yes("stat_prefix"), yes("cluster"), yes("idle_timeout")],
    ),
    accept(
        "envoy.extensions.filters.network.rbac.v3.RBAC",
        &[yes("rules"), harmless("stat_prefix", STATISTICS)],
    ),
];
