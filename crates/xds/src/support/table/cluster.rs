//! Clusters and endpoints.

use super::{Accepted, BUFFERS, STATISTICS, accept, harmless, no, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
    accept(
        "envoy.config.cluster.v3.Cluster",
        &[
            yes("transport_socket_matches"),
            yes("name"),
            harmless("alt_stat_name", STATISTICS),
            yes("type"),
            yes("eds_cluster_config"),
            yes("connect_timeout"),
            harmless("per_connection_buffer_limit_bytes", BUFFERS),
            only("health_checks", "one"),
            only("lb_policy", "ROUND_ROBIN, LEAST_REQUEST or RANDOM; CLUSTER_PROVIDED for ORIGINAL_DST"),
            yes("load_assignment"),
            no("http2_protocol_options", "write HttpProtocolOptions in `typed_extension_protocol_options`"),
            only("typed_extension_protocol_options", "HttpProtocolOptions"),
            only("dns_refresh_rate", "100 ms at least"),
            yes("dns_failure_refresh_rate"),
            no("respect_dns_ttl", "leave it out: the system's resolver tells no TTL"),
            yes("dns_lookup_family"),
            harmless("wait_for_warm_on_init", "what is missing is waited for"),
            harmless("cleanup_interval", "nothing is kept of an original destination"),
            only("upstream_bind_config", "the workload's network, where the proxy serves one"),
            yes("outlier_detection"),
            yes("transport_socket"),
            yes("metadata"),
        ],
    ),
    accept(
        "envoy.config.cluster.v3.Cluster.TransportSocketMatch",
        &[
            yes("name"),
            only("match", "`meshwork.identity` must be a text"),
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
    accept(
        "envoy.config.cluster.v3.Cluster.RefreshRate",
        &[only("base_interval", "100 ms at least"), yes("max_interval")],
    ),
    accept(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        &[
            yes("cluster_name"),
            yes("endpoints"),
            no("named_endpoints", "write `endpoint` where it is used"),
            yes("policy"),
        ],
    ),
    accept(
        "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy",
        &[
            yes("drop_overloads"),
            yes("overprovisioning_factor"),
            no("endpoint_stale_after", "leave it out: endpoints stay until others come"),
            yes("weighted_priority_health"),
        ],
    ),
    accept(
        "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.DropOverload",
        &[harmless("category", STATISTICS), yes("drop_percentage")],
    ),
    accept(
        "envoy.config.endpoint.v3.LocalityLbEndpoints",
        &[
            yes("locality"),
            yes("metadata"),
            yes("lb_endpoints"),
            no("load_balancer_endpoints", "write `lb_endpoints`"),
            no("leds_cluster_locality_config", "write `lb_endpoints`"),
            yes("load_balancing_weight"),
            yes("priority"),
            harmless("proximity", "Envoy does not read it, either"),
        ],
    ),
    accept(
        "envoy.config.endpoint.v3.LbEndpoint",
        &[
            yes("endpoint"),
            no("endpoint_name", "write `endpoint`"),
            yes("health_status"),
            yes("metadata"),
            yes("load_balancing_weight"),
        ],
    ),
    accept(
        "envoy.config.endpoint.v3.Endpoint",
        &[
            only("address", "an IP address; a name where DNS is asked"),
            yes("health_check_config"),
            yes("hostname"),
            no("additional_addresses", "write an endpoint for each"),
            harmless("observability_name", STATISTICS),
        ],
    ),
    accept(
        "envoy.config.endpoint.v3.Endpoint.HealthCheckConfig",
        &[yes("port_value"), yes("hostname"), yes("address"), yes("disable_active_health_check")],
    ),
];
