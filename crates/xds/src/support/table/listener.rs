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
            no("filter_chain_matcher", "write `filter_chain_match` in each chain"),
            yes("use_original_dst"),
            yes("default_filter_chain"),
            harmless("per_connection_buffer_limit_bytes", BUFFERS),
            harmless("metadata", FOR_OTHERS),
            harmless(
                "drain_type",
                "a listener drains when it is changed or removed, and with the whole proxy",
            ),
            only(
                "listener_filters",
                "tls_inspector, http_inspector, original_dst and proxy_protocol; dns_filter for UDP",
            ),
            yes("listener_filters_timeout"),
            yes("continue_on_listener_filters_timeout"),
            yes("transparent"),
            yes("freebind"),
            harmless("tcp_fast_open_queue_length", "clients send their first bytes a round trip later"),
            yes("tcp_backlog_size"),
            yes("traffic_direction"),
            only("api_listener", "an HttpConnectionManager"),
            harmless("connection_balance_config", "connections are balanced among workers anyhow"),
            harmless("max_connections_to_accept_per_socket_event", "other work has its turn between any two"),
            harmless("reuse_port", "each worker has a socket of its own"),
            harmless("enable_reuse_port", "each worker has a socket of its own"),
            yes("bind_to_port"),
            no("ignore_global_conn_limit", "the limit is that of descriptors, which knows no exception"),
            yes("additional_addresses"),
        ],
    ),
    accept("envoy.config.listener.v3.AdditionalAddress", &[yes("address")]),
    accept("envoy.config.listener.v3.ApiListener", &[only("api_listener", "an HttpConnectionManager")]),
    accept(
        "envoy.config.listener.v3.ListenerFilter",
        &[
            harmless("name", LABEL),
            only("typed_config", "tls_inspector, http_inspector, original_dst, proxy_protocol or dns_filter"),
            yes("filter_disabled"),
        ],
    ),
    accept(
        "envoy.config.listener.v3.ListenerFilterChainMatchPredicate",
        &[
            yes("or_match"),
            yes("and_match"),
            yes("not_match"),
            yes("any_match"),
            yes("destination_port_range"),
        ],
    ),
    accept("envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet", &[yes("rules")]),
    accept(
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        &[
            yes("allow_requests_without_proxy_protocol"),
            yes("disallowed_versions"),
            harmless("stat_prefix", STATISTICS),
            no("rules", "further records of the header are skipped"),
            no("pass_through_tlvs", "further records of the header are skipped"),
        ],
    ),
    accept("envoy.extensions.filters.listener.http_inspector.v3.HttpInspector", &[]),
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
        &[
            harmless("initial_read_buffer_size", BUFFERS),
            yes("close_connection_on_client_hello_parsing_errors"),
        ],
    ),
    accept(
        "envoy.config.listener.v3.FilterChain",
        &[
            yes("filter_chain_match"),
            only(
                "filters",
                "any number of rbac and connection_limit, then one of http_connection_manager and tcp_proxy",
            ),
            harmless("metadata", FOR_OTHERS),
            only("transport_socket", "tls or raw_buffer"),
            only("transport_socket_connect_timeout", "10 s where it is not set"),
            no("use_proxy_proto", "write the listener filter proxy_protocol"),
            yes("name"),
        ],
    ),
    accept(
        "envoy.config.listener.v3.FilterChainMatch",
        &[
            yes("destination_port"),
            yes("prefix_ranges"),
            no("address_suffix", "Envoy has never implemented it"),
            no("suffix_len", "Envoy has never implemented it"),
            yes("direct_source_prefix_ranges"),
            yes("source_type"),
            yes("source_prefix_ranges"),
            yes("source_ports"),
            only("transport_protocol", "`tls` or `raw_buffer`"),
            yes("application_protocols"),
            only("server_names", "exact, or `*.` and a domain"),
        ],
    ),
    accept("envoy.config.listener.v3.Filter", &[harmless("name", LABEL), yes("typed_config")]),
];
