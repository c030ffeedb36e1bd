//! The table itself. Source: the comments of Envoy's `.proto` files.

use super::{Accepted, Field, Support};

const fn yes(name: &'static str) -> Field {
    Field { name, support: Support::Honoured, note: "" }
}

/// Honoured within limits, which `decode` enforces.
const fn only(name: &'static str, note: &'static str) -> Field {
    Field { name, support: Support::Honoured, note }
}

const fn harmless(name: &'static str, note: &'static str) -> Field {
    Field { name, support: Support::Harmless, note }
}

/// Refused, with what to write in its place; a field that is not listed is refused, too.
const fn no(name: &'static str, note: &'static str) -> Field {
    Field { name, support: Support::Refused, note }
}

const fn accept(message: &'static str, fields: &'static [Field]) -> Accepted {
    Accepted { message, fields }
}

const STATISTICS: &str = "names statistics only";
const LABEL: &str = "a label; the type in `typed_config` decides";
const BUFFERS: &str = "buffers have fixed limits";
const SPANS: &str = "no span is exported";
const FOR_OTHERS: &str = "read by other programs";
const DNS: &str = "names are looked up every 5 s, in both IP versions";

/// Every message that may occur.
pub(super) const ACCEPTED: &[Accepted] = &[
    // The file.
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
    // Addresses and other common parts.
    accept("envoy.config.core.v3.Address", &[only("socket_address", "an IP address")]),
    accept(
        "envoy.config.core.v3.SocketAddress",
        &[
            only("protocol", "TCP; UDP for a listener with the DNS filter"),
            only("address", "an IP address; a host name in a cluster of type LOGICAL_DNS"),
            yes("port_value"),
            no("named_port", "write `port_value`"),
            only("network_namespace_filepath", "`workload`, in `upstream_bind_config`"),
        ],
    ),
    accept(
        "envoy.config.core.v3.ConfigSource",
        &[
            only("ads", "the stream that delivered the resource"),
            harmless("initial_fetch_timeout", "what is missing is waited for"),
            only("resource_api_version", "V3"),
        ],
    ),
    accept("envoy.config.core.v3.AggregatedConfigSource", &[]),
    accept("envoy.config.core.v3.BindConfig", &[only("source_address", "198.18.0.2, in `workload`")]),
    accept(
        "envoy.config.core.v3.Metadata",
        &[
            only(
                "filter_metadata",
                "`istio` and `envoy.transport_socket_match` are read, others are for other programs",
            ),
            harmless("typed_filter_metadata", FOR_OTHERS),
        ],
    ),
    accept("envoy.config.core.v3.DataSource", &[only("inline_bytes", "UTF-8"), yes("inline_string")]),
    accept("envoy.config.core.v3.TransportSocket", &[yes("name"), yes("typed_config")]),
    accept(
        "envoy.type.matcher.v3.StringMatcher",
        &[
            yes("exact"),
            yes("prefix"),
            yes("suffix"),
            yes("contains"),
            no("safe_regex", "write `exact`, `prefix`, `suffix` or `contains`"),
            no("ignore_case", ""),
        ],
    ),
    accept("envoy.type.matcher.v3.PathMatcher", &[yes("path")]),
    // Listeners.
    accept(
        "envoy.config.listener.v3.Listener",
        &[
            yes("name"),
            yes("address"),
            harmless("stat_prefix", STATISTICS),
            yes("filter_chains"),
            yes("use_original_dst"),
            yes("default_filter_chain"),
            harmless("per_connection_buffer_limit_bytes", BUFFERS),
            harmless("metadata", FOR_OTHERS),
            harmless("drain_type", "a removed listener always drains"),
            only(
                "listener_filters",
                "tls_inspector, original_dst beside `use_original_dst`; dns_filter for UDP",
            ),
            harmless("listener_filters_timeout", "detection has a fixed limit"),
            harmless("tcp_backlog_size", "the backlog is the kernel's maximum"),
            yes("traffic_direction"),
            only("api_listener", "an HttpConnectionManager"),
            harmless("connection_balance_config", "connections are balanced among workers anyhow"),
            harmless("reuse_port", "each worker has a socket of its own"),
            harmless("enable_reuse_port", "each worker has a socket of its own"),
            yes("bind_to_port"),
            harmless("ignore_global_conn_limit", "there is no such limit"),
            yes("additional_addresses"),
        ],
    ),
    accept("envoy.config.listener.v3.AdditionalAddress", &[yes("address")]),
    accept("envoy.config.listener.v3.ApiListener", &[only("api_listener", "an HttpConnectionManager")]),
    accept(
        "envoy.config.listener.v3.ListenerFilter",
        &[harmless("name", LABEL), only("typed_config", "tls_inspector, original_dst or dns_filter")],
    ),
    accept("envoy.extensions.filters.listener.original_dst.v3.OriginalDst", &[]),
    accept(
        "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig",
        &[
            harmless("stat_prefix", STATISTICS),
            yes("server_config"),
            harmless("client_config", "the host's resolvers are asked for what is not in the table"),
            harmless("case_insensitive", "names have no case"),
        ],
    ),
    accept(
        "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig.ServerContextConfig",
        &[yes("inline_dns_table"), no("external_dns_table", "write `inline_dns_table`")],
    ),
    accept(
        "envoy.data.dns.v3.DnsTable",
        &[
            harmless("external_retry_count", "the host's resolvers are asked within fixed limits"),
            yes("virtual_domains"),
        ],
    ),
    accept(
        "envoy.data.dns.v3.DnsTable.DnsVirtualDomain",
        &[only("name", "without wildcards"), yes("endpoint"), only("answer_ttl", "the same for all names")],
    ),
    accept(
        "envoy.data.dns.v3.DnsTable.DnsEndpoint",
        &[
            yes("address_list"),
            no("cluster_name", "write `address_list`"),
            no("service_list", "write `address_list`"),
        ],
    ),
    accept("envoy.data.dns.v3.DnsTable.AddressList", &[yes("address")]),
    accept(
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        &[harmless("initial_read_buffer_size", BUFFERS)],
    ),
    accept(
        "envoy.config.listener.v3.FilterChain",
        &[
            yes("filter_chain_match"),
            only("filters", "any number of rbac, then one of http_connection_manager and tcp_proxy"),
            harmless("metadata", FOR_OTHERS),
            only("transport_socket", "tls or raw_buffer"),
            harmless("transport_socket_connect_timeout", "handshakes have a fixed limit"),
            yes("name"),
        ],
    ),
    accept(
        "envoy.config.listener.v3.FilterChainMatch",
        &[
            only("transport_protocol", "`tls` or `raw_buffer`"),
            yes("application_protocols"),
            only("server_names", "exact, or `*.` and a domain"),
        ],
    ),
    accept("envoy.config.listener.v3.Filter", &[harmless("name", LABEL), yes("typed_config")]),
    // Network filters.
    accept(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &[
            only("codec_type", "AUTO, HTTP1 or HTTP2"),
            yes("stat_prefix"),
            yes("rds"),
            yes("route_config"),
            only("http_filters", "any number of rbac, then router; unknown ones if they are optional"),
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
        &[harmless("name", LABEL), only("typed_config", "rbac or router"), yes("is_optional")],
    ),
    accept("envoy.config.core.v3.HttpProtocolOptions", &[yes("idle_timeout")]),
    accept(
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &[yes("stat_prefix"), yes("cluster"), yes("idle_timeout")],
    ),
    accept(
        "envoy.extensions.filters.network.rbac.v3.RBAC",
        &[yes("rules"), harmless("stat_prefix", STATISTICS)],
    ),
    // HTTP filters.
    accept("envoy.extensions.filters.http.rbac.v3.RBAC", &[yes("rules")]),
    accept(
        "envoy.extensions.filters.http.router.v3.Router",
        &[
            harmless("dynamic_stats", STATISTICS),
            harmless("suppress_envoy_headers", "no x-envoy fields are added anyhow"),
        ],
    ),
    // Access logs.
    accept(
        "envoy.config.accesslog.v3.AccessLog",
        &[harmless("name", LABEL), only("typed_config", "file or stdout")],
    ),
    accept("envoy.extensions.access_loggers.file.v3.FileAccessLog", &[yes("path")]),
    accept("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", &[]),
    // Authorization.
    accept("envoy.config.rbac.v3.RBAC", &[only("action", "ALLOW or DENY"), yes("policies")]),
    accept("envoy.config.rbac.v3.Policy", &[yes("permissions"), yes("principals")]),
    accept(
        "envoy.config.rbac.v3.Permission",
        &[
            yes("and_rules"),
            yes("or_rules"),
            yes("any"),
            yes("header"),
            yes("url_path"),
            yes("destination_port"),
            yes("not_rule"),
        ],
    ),
    accept("envoy.config.rbac.v3.Permission.Set", &[yes("rules")]),
    accept(
        "envoy.config.rbac.v3.Principal",
        &[yes("and_ids"), yes("or_ids"), yes("any"), yes("authenticated"), yes("not_id")],
    ),
    accept("envoy.config.rbac.v3.Principal.Set", &[yes("ids")]),
    accept(
        "envoy.config.rbac.v3.Principal.Authenticated",
        &[only("principal_name", "matched against the SPIFFE ID")],
    ),
    // Routes.
    accept(
        "envoy.config.route.v3.RouteConfiguration",
        &[
            yes("name"),
            yes("virtual_hosts"),
            harmless("most_specific_header_mutations_wins", "there are no header mutations"),
            harmless("validate_clusters", "clusters are always validated"),
            harmless("max_direct_response_body_size_bytes", "the body is in memory already"),
            harmless("metadata", FOR_OTHERS),
        ],
    ),
    accept(
        "envoy.config.route.v3.VirtualHost",
        &[yes("name"), yes("domains"), yes("routes"), harmless("metadata", FOR_OTHERS)],
    ),
    accept(
        "envoy.config.route.v3.Route",
        &[
            yes("name"),
            yes("match"),
            yes("route"),
            no("redirect", ""),
            yes("direct_response"),
            yes("non_forwarding_action"),
            harmless("metadata", FOR_OTHERS),
            harmless("decorator", "names trace spans only"),
            harmless("stat_prefix", STATISTICS),
        ],
    ),
    accept(
        "envoy.config.route.v3.RouteMatch",
        &[
            yes("prefix"),
            yes("path"),
            yes("path_separated_prefix"),
            no("safe_regex", "write `path`, `prefix` or `path_separated_prefix`"),
            only("case_sensitive", "true"),
            only("connect_matcher", "where `upgrade_configs` names CONNECT"),
            yes("headers"),
        ],
    ),
    accept("envoy.config.route.v3.RouteMatch.ConnectMatcher", &[]),
    accept(
        "envoy.config.route.v3.HeaderMatcher",
        &[
            yes("name"),
            yes("string_match"),
            yes("present_match"),
            yes("invert_match"),
            no("exact_match", "write `string_match: {exact: …}`"),
            no("prefix_match", "write `string_match: {prefix: …}`"),
            no("suffix_match", "write `string_match: {suffix: …}`"),
            no("contains_match", "write `string_match: {contains: …}`"),
        ],
    ),
    accept(
        "envoy.config.route.v3.RouteAction",
        &[yes("cluster"), yes("weighted_clusters"), yes("timeout"), yes("retry_policy")],
    ),
    accept(
        "envoy.config.route.v3.WeightedCluster",
        &[yes("clusters"), harmless("total_weight", "the weights' sum counts")],
    ),
    accept("envoy.config.route.v3.WeightedCluster.ClusterWeight", &[yes("name"), yes("weight")]),
    accept(
        "envoy.config.route.v3.RetryPolicy",
        &[
            only("retry_on", "`connect-failure` and `refused-stream`: what never reached the application"),
            yes("num_retries"),
            only("retry_host_predicate", "previous_hosts: another endpoint is always preferred"),
            harmless("host_selection_retry_max_attempts", "another endpoint is always preferred"),
        ],
    ),
    accept(
        "envoy.config.route.v3.RetryPolicy.RetryHostPredicate",
        &[harmless("name", LABEL), only("typed_config", "previous_hosts")],
    ),
    accept("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", &[]),
    accept("envoy.config.route.v3.DirectResponseAction", &[yes("status"), yes("body")]),
    accept("envoy.config.route.v3.NonForwardingAction", &[]),
    // Clusters and endpoints.
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
    // TLS.
    accept("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", &[]),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        &[
            yes("common_tls_context"),
            yes("sni"),
            harmless("max_session_keys", "sessions are kept within a fixed limit"),
            harmless("enforce_rsa_key_usage", "key usages are always enforced"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        &[
            yes("common_tls_context"),
            yes("require_client_certificate"),
            harmless("session_timeout", "sessions are kept within a fixed limit"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
        &[
            yes("tls_params"),
            no("tls_certificates", "name the secret `default` in `tls_certificate_sds_secret_configs`"),
            only("tls_certificate_sds_secret_configs", "one"),
            no("validation_context", "write `combined_validation_context`, with the secret `ROOTCA`"),
            yes("validation_context_sds_secret_config"),
            yes("combined_validation_context"),
            yes("alpn_protocols"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
        &[
            harmless("tls_minimum_protocol_version", "TLS 1.3 is always demanded"),
            only("tls_maximum_protocol_version", "TLSv1_3"),
        ],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig",
        &[yes("name"), no("sds_config", "leave it out: secrets come with the workload's identity")],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
        &[yes("default_validation_context"), yes("validation_context_sds_secret_config")],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
        &[only("match_typed_subject_alt_names", "URIs, `exact` SPIFFE IDs")],
    ),
    accept(
        "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
        &[only("san_type", "URI"), only("matcher", "`exact`")],
    ),
];
