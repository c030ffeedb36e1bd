//! Listeners, filter chains, and the network filters.

use std::net::SocketAddr;

use meshwork_model::cidr::Cidr;
use meshwork_model::proxy::{
    ChainMatch, Direction, FilterChain, Gate, Listener, ListenerFilter, ListenerFilterKind, NetworkFilter,
    PortTest, ProxyProtocol, SourceType, TcpCluster, TcpProxy, TlsInspector, Transport,
};

use super::access_log::access_logs;
use super::filter::End;
use super::policy::of_connections;
use super::{Writer, address, boolean, duration, number, pack, timeout};
use crate::node::Dialect;
use crate::pb;

const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";
const CONNECTION_LIMIT: &str = "envoy.filters.network.connection_limit";
const HTTP_INSPECTOR: &str = "envoy.filters.listener.http_inspector";
const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";
const PROXY_PROTOCOL: &str = "envoy.filters.listener.proxy_protocol";
const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";

impl Writer<'_> {
    pub(super) fn listener(&self, listener: &Listener) -> pb::listener::Listener {
        let mut message = pb::listener::Listener {
            name: listener.name.to_string(),
            traffic_direction: direction(listener.direction) as i32,
            ..pb::listener::Listener::default()
        };
        let Some(bind) = listener.address else {
            message.api_listener = self.api_listener(listener);
            return message;
        };
        message.address = Some(address(bind));
        message.filter_chains = listener.chains.iter().map(|chain| self.chain(chain)).collect();
        if !self.is_grpc() {
            message.enable_reuse_port = Some(boolean(true));
            self.before_chains(listener, &mut message);
            message.additional_addresses =
                listener.additional_addresses.iter().map(|further| additional(*further)).collect();
            // What Envoy takes for granted is not said.
            message.bind_to_port = (!listener.bind_to_port).then(|| boolean(false));
            message.use_original_dst = listener.use_original_dst.then(|| boolean(true));
            message.freebind = listener.socket.freebind.then(|| boolean(true));
            message.transparent = listener.socket.transparent.then(|| boolean(true));
            message.tcp_backlog_size = listener.socket.backlog.map(number);
        }
        message
    }

    /// What looks at a connection before its chain is chosen, and for how long.
    fn before_chains(&self, listener: &Listener, message: &mut pb::listener::Listener) {
        message.listener_filters = listener.filters.iter().map(listener_filter).collect();
        let timeout = listener.filters_timeout;
        message.listener_filters_timeout =
            (timeout != Some(Listener::FILTERS_TIMEOUT)).then(|| duration(timeout.unwrap_or_default()));
        message.continue_on_listener_filters_timeout = listener.continue_on_filters_timeout;
        let default = listener.default_chain.as_ref();
        message.default_filter_chain = default.map(|chain| self.chain(chain));
    }

    /// An API listener has no chains: what its first one does with requests is all there is.
    fn api_listener(&self, listener: &Listener) -> Option<pb::listener::ApiListener> {
        listener.chains.iter().find_map(|chain| match &chain.filter {
            NetworkFilter::Http(http) => {
                let config = self.http(http, End::Caller);
                Some(pb::listener::ApiListener { api_listener: Some(pack(&config)) })
            }
            NetworkFilter::Tcp(_) => None,
        })
    }

    fn chain(&self, chain: &FilterChain) -> pb::listener::FilterChain {
        let (stat_prefix, last) = match &chain.filter {
            NetworkFilter::Http(http) => {
                (&http.stat_prefix, filter(HTTP_CONNECTION_MANAGER, pack(&self.http(http, End::Socket))))
            }
            NetworkFilter::Tcp(tcp) => (&tcp.stat_prefix, filter(TCP_PROXY, pack(&tcp_proxy(tcp)))),
        };
        let mut filters: Vec<_> = chain.gates.iter().map(|gate| self.gate(gate, stat_prefix)).collect();
        filters.push(last);
        pb::listener::FilterChain {
            name: chain.name.to_string(),
            filter_chain_match: chain_match(&chain.matches),
            filters,
            transport_socket: chain.tls.as_ref().map(|tls| self.downstream(tls)),
            transport_socket_connect_timeout: chain.handshake_timeout.map(duration),
            ..pb::listener::FilterChain::default()
        }
    }

    fn gate(&self, gate: &Gate, stat_prefix: &str) -> pb::listener::Filter {
        match gate {
            Gate::Rbac(rbac) => {
                let config = pb::NetworkRbac {
                    rules: Some(match self.dialect {
                        Dialect::Meshwork => self.rbac(rbac),
                        Dialect::Envoy | Dialect::Grpc => self.rbac(&of_connections(rbac)),
                    }),
                    stat_prefix: format!("{stat_prefix}."),
                    ..pb::NetworkRbac::default()
                };
                filter(NETWORK_RBAC, pack(&config))
            }
            Gate::Tried(rbac, prefix) => {
                let config = pb::NetworkRbac {
                    shadow_rules: Some(match self.dialect {
                        Dialect::Meshwork => self.rbac(rbac),
                        Dialect::Envoy | Dialect::Grpc => self.rbac(&of_connections(rbac)),
                    }),
                    shadow_rules_stat_prefix: prefix.to_string(),
                    stat_prefix: format!("{stat_prefix}."),
                    ..pb::NetworkRbac::default()
                };
                filter(NETWORK_RBAC, pack(&config))
            }
            Gate::Limit(limit) => {
                let config = pb::ConnectionLimit {
                    stat_prefix: stat_prefix.to_owned(),
                    max_connections: Some(pb::UInt64Value { value: limit.most }),
                    delay: limit.delay.map(duration),
                    runtime_enabled: None,
                };
                filter(CONNECTION_LIMIT, pack(&config))
            }
        }
    }
}

fn filter(name: &str, config: pb::Any) -> pb::listener::Filter {
    pb::listener::Filter {
        name: name.to_owned(),
        config_type: Some(pb::listener::filter::ConfigType::TypedConfig(config)),
    }
}

fn listener_filter(filter: &ListenerFilter) -> pb::listener::ListenerFilter {
    let (name, config) = match filter.kind {
        ListenerFilterKind::Tls(TlsInspector { only_tls }) => {
            let config = pb::TlsInspector {
                close_connection_on_client_hello_parsing_errors: only_tls,
                ..pb::TlsInspector::default()
            };
            (TLS_INSPECTOR, pack(&config))
        }
        ListenerFilterKind::Http => (HTTP_INSPECTOR, pack(&pb::HttpInspector::default())),
        ListenerFilterKind::OriginalDestination => (ORIGINAL_DST, pack(&pb::OriginalDst::default())),
        ListenerFilterKind::ProxyProtocol(config) => (PROXY_PROTOCOL, pack(&proxy_protocol(config))),
    };
    pb::listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(pb::listener::listener_filter::ConfigType::TypedConfig(config)),
        filter_disabled: filter.disabled.as_ref().map(port_test),
    }
}

fn port_test(test: &PortTest) -> pb::listener::ListenerFilterChainMatchPredicate {
    use pb::listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let set = |tests: &[PortTest]| MatchSet { rules: tests.iter().map(port_test).collect() };
    let rule = match test {
        PortTest::Any => Rule::AnyMatch(true),
        PortTest::Range(from, to) => Rule::DestinationPortRange(pb::Int32Range { start: *from, end: *to }),
        PortTest::All(tests) => Rule::AndMatch(set(tests)),
        PortTest::OneOf(tests) => Rule::OrMatch(set(tests)),
        PortTest::Not(test) => Rule::NotMatch(Box::new(port_test(test))),
    };
    pb::listener::ListenerFilterChainMatchPredicate { rule: Some(rule) }
}

fn proxy_protocol(config: ProxyProtocol) -> pb::ProxyProtocol {
    use pb::core::proxy_protocol_config::Version;
    let refused = [(config.refuses_v1, Version::V1), (config.refuses_v2, Version::V2)];
    let refused = refused.into_iter().filter(|(refuses, _)| *refuses);
    pb::ProxyProtocol {
        allow_requests_without_proxy_protocol: config.optional,
        disallowed_versions: refused.map(|(_, version)| version as i32).collect(),
        ..pb::ProxyProtocol::default()
    }
}

fn chain_match(matches: &ChainMatch) -> Option<pb::listener::FilterChainMatch> {
    use pb::listener::filter_chain_match::ConnectionSourceType;
    if *matches == ChainMatch::default() {
        return None;
    }
    let transport = match matches.transport {
        None => "",
        Some(Transport::Tls) => "tls",
        Some(Transport::Plaintext) => "raw_buffer",
    };
    let source_type = match matches.source_type {
        SourceType::Any => ConnectionSourceType::Any,
        SourceType::Local => ConnectionSourceType::SameIpOrLoopback,
        SourceType::External => ConnectionSourceType::External,
    };
    Some(pb::listener::FilterChainMatch {
        destination_port: matches.destination_port.map(|port| pb::UInt32Value { value: port.into() }),
        prefix_ranges: cidrs(&matches.destinations),
        server_names: matches.server_names.iter().map(ToString::to_string).collect(),
        transport_protocol: transport.to_owned(),
        application_protocols: matches.alpn.iter().map(ToString::to_string).collect(),
        direct_source_prefix_ranges: cidrs(&matches.direct_sources),
        source_type: source_type as i32,
        source_prefix_ranges: cidrs(&matches.sources),
        source_ports: matches.source_ports.iter().map(|port| u32::from(*port)).collect(),
        ..pb::listener::FilterChainMatch::default()
    })
}

pub(super) fn cidrs(ranges: &[Cidr]) -> Vec<pb::core::CidrRange> {
    let message = |range: &Cidr| pb::core::CidrRange {
        address_prefix: range.network().to_string(),
        prefix_len: Some(pb::UInt32Value { value: range.length().into() }),
    };
    ranges.iter().map(message).collect()
}

fn tcp_proxy(tcp: &TcpProxy) -> pb::tcp_proxy::TcpProxy {
    use pb::tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight;
    use pb::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};
    let weighted = |cluster: &TcpCluster| ClusterWeight {
        name: cluster.name.to_string(),
        weight: cluster.weight,
        ..ClusterWeight::default()
    };
    let cluster = match &tcp.clusters[..] {
        [only] => ClusterSpecifier::Cluster(only.name.to_string()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several.iter().map(weighted).collect(),
        }),
    };
    pb::tcp_proxy::TcpProxy {
        stat_prefix: tcp.stat_prefix.to_string(),
        cluster_specifier: Some(cluster),
        idle_timeout: tcp.idle_timeout.map(timeout),
        // What Envoy takes for granted is not said.
        max_connect_attempts: (tcp.connect_attempts != 1)
            .then_some(pb::UInt32Value { value: tcp.connect_attempts }),
        max_downstream_connection_duration: tcp.longest.map(duration),
        hash_policy: tcp.hashes_source.then(source_ip).into_iter().collect(),
        access_log: access_logs(&tcp.access_logs),
        ..pb::tcp_proxy::TcpProxy::default()
    }
}

fn source_ip() -> pb::HashPolicy {
    use pb::hash_policy::{PolicySpecifier, SourceIp};
    pb::HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) }
}

fn additional(further: SocketAddr) -> pb::listener::AdditionalAddress {
    pb::listener::AdditionalAddress {
        address: Some(address(further)),
        ..pb::listener::AdditionalAddress::default()
    }
}

fn direction(direction: Direction) -> pb::core::TrafficDirection {
    match direction {
        Direction::Inbound => pb::core::TrafficDirection::Inbound,
        Direction::Outbound => pb::core::TrafficDirection::Outbound,
        Direction::Unspecified => pb::core::TrafficDirection::Unspecified,
    }
}
