//! Clusters and endpoints.

use super::{Accepted, BUFFERS, LABEL, STATISTICS, accept, harmless, no, only, yes};

const SLOW_START: &str = "leave it out: new endpoints get their share at once";
const ZONES: &str = "without `local_cluster_name`, which is refused, Envoy does not look at zones, either";

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
            only("lb_policy", "CLUSTER_PROVIDED for ORIGINAL_DST only"),
            yes("least_request_lb_config"),
            yes("ring_hash_lb_config"),
            yes("maglev_lb_config"),
            yes("round_robin_lb_config"),
            yes("common_lb_config"),
            yes("lb_subset_config"),
            only("load_balancing_policy", "the first policy"),
            yes("circuit_breakers"),
            yes("max_requests_per_connection"),
            yes("common_http_protocol_options"),
            yes("http_protocol_options"),
            yes("protocol_selection"),
            only("upstream_connection_options", "`tcp_keepalive`"),
            harmless("track_timeout_budgets", STATISTICS),
            harmless("track_cluster_stats", STATISTICS),
            no("preconnect_policy", "leave it out: connections are opened when they are needed"),
            no("connection_pool_per_downstream_connection", "leave it out"),
            no("typed_dns_resolver_config", "leave it out: the system's resolver is asked"),
            no("cluster_type", "write `type`"),
            yes("load_assignment"),
            yes("http2_protocol_options"),
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
    accept(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        &[
            yes("explicit_http_config"),
            yes("use_downstream_protocol_config"),
            yes("auto_config"),
            yes("common_http_protocol_options"),
        ],
    ),
    accept(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig",
        &[yes("http_protocol_options"), yes("http2_protocol_options")],
    ),
    accept(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig",
        &[yes("http_protocol_options"), yes("http2_protocol_options")],
    ),
    accept("envoy.config.cluster.v3.UpstreamConnectionOptions", &[yes("tcp_keepalive")]),
    accept(
        "envoy.config.core.v3.TcpKeepalive",
        &[yes("keepalive_probes"), yes("keepalive_time"), yes("keepalive_interval")],
    ),
    accept("envoy.config.cluster.v3.CircuitBreakers", &[yes("thresholds"), yes("per_host_thresholds")]),
    accept(
        "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
        &[
            yes("priority"),
            yes("max_connections"),
            yes("max_pending_requests"),
            yes("max_requests"),
            yes("max_retries"),
            yes("retry_budget"),
            harmless("track_remaining", STATISTICS),
            harmless("max_connection_pools", "each host has one pool for each protocol"),
        ],
    ),
    accept(
        "envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget",
        &[
            yes("budget_percent"),
            no("budget_interval", "leave it out: requests that are under way count"),
            yes("min_retry_concurrency"),
        ],
    ),
    accept("envoy.config.core.v3.TypedExtensionConfig", &[harmless("name", LABEL), yes("typed_config")]),
    accept("envoy.type.v3.Percent", &[yes("value")]),
    accept(
        "envoy.config.core.v3.RuntimeDouble",
        &[yes("default_value"), harmless("runtime_key", "there is no runtime: the default holds")],
    ),
    accept("envoy.config.cluster.v3.TrackClusterStats", &[]),
    accept(
        "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig",
        &[yes("choice_count"), yes("active_request_bias"), no("slow_start_config", SLOW_START)],
    ),
    accept("envoy.config.cluster.v3.Cluster.RoundRobinLbConfig", &[no("slow_start_config", SLOW_START)]),
    accept(
        "envoy.config.cluster.v3.Cluster.RingHashLbConfig",
        &[yes("minimum_ring_size"), yes("hash_function"), yes("maximum_ring_size")],
    ),
    accept("envoy.config.cluster.v3.Cluster.MaglevLbConfig", &[yes("table_size")]),
    accept(
        "envoy.config.cluster.v3.Cluster.CommonLbConfig",
        &[
            yes("healthy_panic_threshold"),
            only("zone_aware_lb_config", "`fail_traffic_on_panic`"),
            yes("locality_weighted_lb_config"),
            harmless("update_merge_window", "each update counts at once"),
            yes("ignore_new_hosts_until_first_hc"),
            no("close_connections_on_host_set_change", "leave it out"),
            yes("consistent_hashing_lb_config"),
            no("override_host_status", "leave it out"),
        ],
    ),
    accept(
        "envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig",
        &[
            harmless("routing_enabled", ZONES),
            harmless("min_cluster_size", ZONES),
            yes("fail_traffic_on_panic"),
        ],
    ),
    accept("envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig", &[]),
    accept(
        "envoy.config.cluster.v3.Cluster.CommonLbConfig.ConsistentHashingLbConfig",
        &[yes("use_hostname_for_hashing"), yes("hash_balance_factor")],
    ),
    accept(
        "envoy.config.cluster.v3.Cluster.LbSubsetConfig",
        &[
            yes("fallback_policy"),
            yes("default_subset"),
            yes("subset_selectors"),
            yes("locality_weight_aware"),
            yes("scale_locality_weight"),
            yes("panic_mode_any"),
            yes("list_as_any"),
            only("metadata_fallback_policy", "METADATA_NO_FALLBACK"),
        ],
    ),
    accept(
        "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector",
        &[yes("keys"), yes("single_host_per_subset"), yes("fallback_policy"), yes("fallback_keys_subset")],
    ),
    accept("envoy.config.cluster.v3.LoadBalancingPolicy", &[yes("policies")]),
    accept("envoy.config.cluster.v3.LoadBalancingPolicy.Policy", &[yes("typed_extension_config")]),
    accept("envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided", &[]),
    accept(
        "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
        &[no("slow_start_config", SLOW_START), yes("locality_lb_config")],
    ),
    accept("envoy.extensions.load_balancing_policies.random.v3.Random", &[yes("locality_lb_config")]),
    accept(
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        &[
            yes("choice_count"),
            yes("active_request_bias"),
            no("slow_start_config", SLOW_START),
            yes("locality_lb_config"),
            yes("selection_method"),
        ],
    ),
    accept(
        "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
        &[
            yes("hash_function"),
            yes("minimum_ring_size"),
            yes("maximum_ring_size"),
            yes("consistent_hashing_lb_config"),
            yes("locality_weighted_lb_config"),
        ],
    ),
    accept(
        "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
        &[yes("table_size"), yes("consistent_hashing_lb_config"), yes("locality_weighted_lb_config")],
    ),
    accept(
        "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
        &[yes("endpoint_picking_policy")],
    ),
    accept(
        "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig",
        &[only("zone_aware_lb_config", "`fail_traffic_on_panic`"), yes("locality_weighted_lb_config")],
    ),
    accept(
        "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig",
        &[
            harmless("routing_enabled", ZONES),
            harmless("min_cluster_size", ZONES),
            yes("fail_traffic_on_panic"),
        ],
    ),
    accept(
        "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.LocalityWeightedLbConfig",
        &[],
    ),
    accept(
        "envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig",
        &[yes("use_hostname_for_hashing"), yes("hash_balance_factor")],
    ),
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
