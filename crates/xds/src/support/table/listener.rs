//! Listeners and filter chains.

use super::{Accepted, BUFFERS, FOR_OTHERS, LABEL, STATISTICS, accept, harmless, no, only, yes};

pub(super) const ACCEPTED: &[Accepted] = &[
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
];
