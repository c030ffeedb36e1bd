//! Clusters and endpoints.

use super::{Accepted, BUFFERS, DNS, FOR_OTHERS, STATISTICS, accept, harmless, no, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept(
        "envoy.config.cluster.v3.Cluster",
        &[
            yes("transport_socket_matches"),
            yes("name"),
            harmless("alt_stat_name", STATISTICS),
            only("type", "STATIC, EDS, ORIGINAL_DST, LOGICAL_DNS; STRICT_DNS with IP addresses"),
            yes("eds_cluster_config"),
            yes("connect_timeout"),
            harmless("per_connection_buffer_limit_bytes", BUFFERS),
            only("lb_policy", "ROUND_ROBIN, LEAST_REQUEST or RANDOM; CLUSTER_PROVIDED for ORIGINAL_DST"),
            yes("load_assignment"),
            no("http2_protocol_options", "write HttpProtocolOptions in `typed_extension_protocol_options`"),
            only("typed_extension_protocol_options", "HttpProtocolOptions"),
            harmless("dns_refresh_rate", DNS),
            harmless("respect_dns_ttl", DNS),
            harmless("dns_lookup_family", DNS),
            harmless("wait_for_warm_on_init", "what is missing is waited for"),
            harmless("cleanup_interval", "nothing is kept of an original destination"),
            only("upstream_bind_config", "the workload's network, where the proxy serves one"),
            yes("transport_socket"),
            yes("metadata"),
        ],
    ),
    accept(
        "envoy.config.cluster.v3.Cluster.TransportSocketMatch",
        &[
            yes("name"),
            only("match", "empty, or the one key `meshwork.identity`"),
            only("transport_socket", "tls or raw_buffer"),
        ],
    ),
    accept(
        "envoy.config.cluster.v3.Cluster.EdsClusterConfig",
        &[only("eds_config", "ADS"), yes("service_name")],
    ),
    accept("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", &[yes("explicit_http_config")]),
    accept(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig",
        &[yes("http_protocol_options"), yes("http2_protocol_options")],
    ),
    accept("envoy.config.core.v3.Http1ProtocolOptions", &[]),
    accept("envoy.config.core.v3.Http2ProtocolOptions", &[]),
    accept("envoy.config.endpoint.v3.ClusterLoadAssignment", &[yes("cluster_name"), yes("endpoints")]),
    accept(
        "envoy.config.endpoint.v3.LocalityLbEndpoints",
        &[
            harmless("locality", "balancing does not look at localities"),
            harmless("metadata", FOR_OTHERS),
            yes("lb_endpoints"),
            harmless("load_balancing_weight", "balancing does not look at localities"),
            no("priority", "leave it out: there is one priority, 0"),
            harmless("proximity", "balancing does not look at localities"),
        ],
    ),
    accept(
        "envoy.config.endpoint.v3.LbEndpoint",
        &[
            yes("endpoint"),
            only("health_status", "endpoints that are not healthy or unknown are left out"),
            yes("metadata"),
            only("load_balancing_weight", "1"),
        ],
    ),
    accept(
        "envoy.config.endpoint.v3.Endpoint",
        &[
            yes("address"),
            harmless("health_check_config", "there are no active health checks"),
            harmless("hostname", "there are no active health checks, and hosts are not rewritten"),
        ],
    ),
];
