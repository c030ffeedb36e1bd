//! Listeners, filter chains, and the network filters.

use std::net::SocketAddr;

use meshwork_model::cidr::Cidr;
use meshwork_model::proxy::{
    ChainMatch, ClientCert, Codec, Direction, EscapedSlashes, FilterChain, ForwardClientCert, Gate, Http1,
    HttpConnection, HttpFilter, HttpFilterKind, Listener, ListenerFilter, ListenerFilterKind, NetworkFilter,
    ProxyProtocol, RouteSource, Router, ServerHeader, SourceType, TcpCluster, TcpProxy, TlsInspector,
    Transport,
};

use super::{Writer, address, ads, boolean, duration, pack};
use crate::pb;

const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";
const ROUTER: &str = "envoy.filters.http.router";
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
                let config = self.http(http);
                Some(pb::listener::ApiListener { api_listener: Some(pack(&config)) })
            }
            NetworkFilter::Tcp(_) => None,
        })
    }

    fn chain(&self, chain: &FilterChain) -> pb::listener::FilterChain {
        let (stat_prefix, last) = match &chain.filter {
            NetworkFilter::Http(http) => {
                (&http.stat_prefix, filter(HTTP_CONNECTION_MANAGER, pack(&self.http(http))))
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
                    rules: Some(self.rbac(rbac)),
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

    fn http(&self, http: &HttpConnection) -> pb::hcm::HttpConnectionManager {
        use pb::hcm::http_connection_manager::RouteSpecifier;
        let mut message = pb::hcm::HttpConnectionManager {
            stat_prefix: http.stat_prefix.to_string(),
            http_filters: self.http_filters(&http.filters, &http.router),
            route_specifier: Some(match &http.routes {
                RouteSource::Inline(table) => RouteSpecifier::RouteConfig(self.route_table(table)),
                RouteSource::Named(name) => RouteSpecifier::Rds(pb::hcm::Rds {
                    config_source: Some(ads()),
                    route_config_name: name.to_string(),
                }),
            }),
            ..pb::hcm::HttpConnectionManager::default()
        };
        if !self.is_grpc() {
            Self::connection(http, &mut message);
        }
        message
    }

    /// What proxies look at, and gRPC does not.
    fn connection(http: &HttpConnection, message: &mut pb::hcm::HttpConnectionManager) {
        use pb::hcm::http_connection_manager::{
            PathWithEscapedSlashesAction as Slashes, ServerHeaderTransformation as Server,
        };
        message.codec_type = codec(http.codec) as i32;
        message.generate_request_id = Some(boolean(http.generate_request_id));
        message.normalize_path = Some(boolean(http.paths.rfc3986));
        message.merge_slashes = http.paths.merge_slashes;
        message.path_with_escaped_slashes_action = match http.paths.escaped_slashes {
            EscapedSlashes::Keep => Slashes::KeepUnchanged,
            EscapedSlashes::Reject => Slashes::RejectRequest,
            EscapedSlashes::Redirect => Slashes::UnescapeAndRedirect,
            EscapedSlashes::Decode => Slashes::UnescapeAndForward,
        } as i32;
        let (name, transformation) = match &http.server {
            ServerHeader::Set(name) => (Some(name), Server::Overwrite),
            ServerHeader::IfAbsent(name) => (Some(name), Server::AppendIfAbsent),
            ServerHeader::Keep => (None, Server::PassThrough),
        };
        message.server_name = name.map(ToString::to_string).unwrap_or_default();
        message.server_header_transformation = transformation as i32;
        client_cert(http.client_cert, message);
        message.http_protocol_options = (http.http1 != Http1::default()).then(|| http1(&http.http1));
        message.request_headers_timeout = http.request_headers_timeout.map(duration);
        message.common_http_protocol_options =
            http.idle_timeout.map(|timeout| pb::core::HttpProtocolOptions {
                idle_timeout: Some(duration(timeout)),
                ..pb::core::HttpProtocolOptions::default()
            });
        message.stream_idle_timeout = http.stream_idle_timeout.map(duration);
        message.tracing = http.tracing.then(pb::hcm::http_connection_manager::Tracing::default);
        message.upgrade_configs = http.upgrades.iter().map(|name| upgrade(name)).collect();
    }

    fn http_filters(&self, filters: &[HttpFilter], router: &Router) -> Vec<pb::hcm::HttpFilter> {
        let mut messages = Vec::new();
        for filter in filters {
            // The control plane makes no others.
            let HttpFilterKind::Rbac(rbac) = &filter.kind else { continue };
            let rules = rbac.rules.as_ref().map(|rules| self.rbac(rules));
            let config = pb::HttpRbac { rules, ..pb::HttpRbac::default() };
            let message = http_filter(filter.name.to_string(), pack(&config));
            messages.push(pb::hcm::HttpFilter { disabled: filter.disabled, ..message });
        }
        let router = pb::Router {
            suppress_envoy_headers: !self.is_grpc() && router.is_silent,
            ..pb::Router::default()
        };
        messages.push(http_filter(ROUTER.to_owned(), pack(&router)));
        messages
    }
}

fn filter(name: &str, config: pb::Any) -> pb::listener::Filter {
    pb::listener::Filter {
        name: name.to_owned(),
        config_type: Some(pb::listener::filter::ConfigType::TypedConfig(config)),
    }
}

fn http_filter(name: String, config: pb::Any) -> pb::hcm::HttpFilter {
    pb::hcm::HttpFilter {
        name,
        config_type: Some(pb::hcm::http_filter::ConfigType::TypedConfig(config)),
        ..pb::hcm::HttpFilter::default()
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
        ..pb::listener::ListenerFilter::default()
    }
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

fn cidrs(ranges: &[Cidr]) -> Vec<pb::core::CidrRange> {
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
        idle_timeout: tcp.idle_timeout.map(duration),
        // What Envoy takes for granted is not said.
        max_connect_attempts: (tcp.connect_attempts != 1)
            .then_some(pb::UInt32Value { value: tcp.connect_attempts }),
        max_downstream_connection_duration: tcp.longest.map(duration),
        hash_policy: tcp.hashes_source.then(source_ip).into_iter().collect(),
        ..pb::tcp_proxy::TcpProxy::default()
    }
}

fn source_ip() -> pb::HashPolicy {
    use pb::hash_policy::{PolicySpecifier, SourceIp};
    pb::HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) }
}

fn upgrade(name: &str) -> pb::hcm::http_connection_manager::UpgradeConfig {
    pb::hcm::http_connection_manager::UpgradeConfig {
        upgrade_type: if name == "connect" { "CONNECT".to_owned() } else { name.to_owned() },
        ..pb::hcm::http_connection_manager::UpgradeConfig::default()
    }
}

fn client_cert(said: ClientCert, message: &mut pb::hcm::HttpConnectionManager) {
    use pb::hcm::http_connection_manager::{
        ForwardClientCertDetails as Details, SetCurrentClientCertDetails,
    };
    message.forward_client_cert_details = match said.forward {
        ForwardClientCert::Sanitize => Details::Sanitize,
        ForwardClientCert::ForwardOnly => Details::ForwardOnly,
        ForwardClientCert::Append => Details::AppendForward,
        ForwardClientCert::Set => Details::SanitizeSet,
        ForwardClientCert::AlwaysForwardOnly => Details::AlwaysForwardOnly,
    } as i32;
    let says_nothing = said == ClientCert { forward: said.forward, ..ClientCert::default() };
    message.set_current_client_cert_details = (!says_nothing).then(|| SetCurrentClientCertDetails {
        subject: said.subject.then(|| boolean(true)),
        cert: said.certificate,
        chain: said.chain,
        dns: said.dns,
        uri: said.uri,
        ..SetCurrentClientCertDetails::default()
    });
}

fn http1(options: &Http1) -> pb::core::Http1ProtocolOptions {
    pb::core::Http1ProtocolOptions {
        accept_http_10: options.accept_http_10,
        default_host_for_http_10: options.default_host.as_deref().unwrap_or_default().to_owned(),
        enable_trailers: options.trailers,
        ..pb::core::Http1ProtocolOptions::default()
    }
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

fn codec(codec: Codec) -> pb::hcm::http_connection_manager::CodecType {
    use pb::hcm::http_connection_manager::CodecType;
    match codec {
        Codec::Auto => CodecType::Auto,
        Codec::Http1 => CodecType::Http1,
        Codec::Http2 => CodecType::Http2,
    }
}
