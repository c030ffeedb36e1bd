//! Listeners, filter chains, and the network filters.

use std::net::SocketAddr;

use meshwork_model::proxy::{
    AccessLog, ChainMatch, Codec, Direction, FilterChain, HttpConnection, HttpFilter, HttpFilterKind,
    Listener, NetworkFilter, Rbac, RouteSource, Router, TcpProxy, Transport,
};

use super::{Writer, address, ads, boolean, duration, pack};
use crate::node::Dialect;
use crate::pb;

const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";
const ROUTER: &str = "envoy.filters.http.router";
const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";
const FILE_ACCESS_LOG: &str = "envoy.access_loggers.file";
const STDOUT_ACCESS_LOG: &str = "envoy.access_loggers.stdout";

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
        message.filter_chains =
            listener.chains.iter().map(|chain| self.chain(chain, listener.direction)).collect();
        if !self.is_grpc() {
            message.enable_reuse_port = Some(boolean(true));
            message.listener_filters = listener_filters(&listener.chains);
            message.additional_addresses =
                listener.additional_addresses.iter().map(|further| additional(*further)).collect();
            // What Envoy takes for granted is not said.
            message.bind_to_port = (!listener.bind_to_port).then(|| boolean(false));
            message.use_original_dst = listener.use_original_dst.then(|| boolean(true));
        }
        message
    }

    /// An API listener has no chains: what its first one does with requests is all there is.
    fn api_listener(&self, listener: &Listener) -> Option<pb::listener::ApiListener> {
        listener.chains.iter().find_map(|chain| match &chain.filter {
            NetworkFilter::Http(http) => {
                let config = self.http(http, listener.direction);
                Some(pb::listener::ApiListener { api_listener: Some(pack(&config)) })
            }
            NetworkFilter::Tcp(_) => None,
        })
    }

    fn chain(&self, chain: &FilterChain, direction: Direction) -> pb::listener::FilterChain {
        let filters = match &chain.filter {
            NetworkFilter::Http(http) => {
                vec![filter(HTTP_CONNECTION_MANAGER, pack(&self.http(http, direction)))]
            }
            NetworkFilter::Tcp(tcp) => self.tcp(tcp),
        };
        pb::listener::FilterChain {
            name: chain.name.to_string(),
            filter_chain_match: chain_match(&chain.matches),
            filters,
            transport_socket: chain.tls.as_ref().map(|tls| self.downstream(tls)),
            ..pb::listener::FilterChain::default()
        }
    }

    fn tcp(&self, tcp: &TcpProxy) -> Vec<pb::listener::Filter> {
        let mut filters: Vec<_> =
            tcp.rbac.iter().map(|rbac| self.network_rbac(rbac, &tcp.stat_prefix)).collect();
        let config = pb::tcp_proxy::TcpProxy {
            stat_prefix: tcp.stat_prefix.to_string(),
            idle_timeout: tcp.idle_timeout.map(duration),
            cluster_specifier: Some(pb::tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(
                tcp.cluster.to_string(),
            )),
            ..pb::tcp_proxy::TcpProxy::default()
        };
        filters.push(filter(TCP_PROXY, pack(&config)));
        filters
    }

    fn network_rbac(&self, rbac: &Rbac, stat_prefix: &str) -> pb::listener::Filter {
        let config = pb::NetworkRbac {
            rules: Some(self.rbac(rbac)),
            stat_prefix: format!("{stat_prefix}."),
            ..pb::NetworkRbac::default()
        };
        filter(NETWORK_RBAC, pack(&config))
    }

    fn http(&self, http: &HttpConnection, direction: Direction) -> pb::hcm::HttpConnectionManager {
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
            self.connection(http, &mut message);
        }
        if self.dialect == Dialect::Envoy {
            as_we_do(direction, &mut message);
        }
        message
    }

    /// What proxies look at, and gRPC does not.
    fn connection(&self, http: &HttpConnection, message: &mut pb::hcm::HttpConnectionManager) {
        use pb::hcm::http_connection_manager::{
            PathWithEscapedSlashesAction as Slashes, ServerHeaderTransformation as Server,
        };
        message.codec_type = codec(http.codec) as i32;
        message.generate_request_id = Some(boolean(http.generate_request_id));
        message.normalize_path = Some(boolean(http.paths.rfc3986));
        message.merge_slashes = http.paths.merge_slashes;
        message.path_with_escaped_slashes_action =
            if http.paths.reject_escaped_slashes { Slashes::RejectRequest } else { Slashes::KeepUnchanged }
                as i32;
        match &http.server_name {
            Some(name) => message.server_name = name.to_string(),
            None => message.server_header_transformation = Server::PassThrough as i32,
        }
        message.common_http_protocol_options =
            http.idle_timeout.map(|timeout| pb::core::HttpProtocolOptions {
                idle_timeout: Some(duration(timeout)),
                ..pb::core::HttpProtocolOptions::default()
            });
        message.stream_idle_timeout = http.stream_idle_timeout.map(duration);
        message.tracing = http.tracing.then(pb::hcm::http_connection_manager::Tracing::default);
        message.upgrade_configs = http.connect.then(connect).into_iter().collect();
        message.access_log = http.access_logs.iter().map(|log| self.access_log(log)).collect();
    }

    fn http_filters(&self, filters: &[HttpFilter], router: &Router) -> Vec<pb::hcm::HttpFilter> {
        let mut messages = Vec::new();
        for filter in filters {
            let HttpFilterKind::Rbac(rbac) = &filter.kind;
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

    fn access_log(&self, log: &AccessLog) -> pb::accesslog::AccessLog {
        let format = (self.dialect == Dialect::Envoy).then(json_lines);
        let (name, config) = match log {
            AccessLog::File(path) => {
                use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
                let log = pb::FileAccessLog {
                    path: path.to_string(),
                    access_log_format: format.map(AccessLogFormat::LogFormat),
                };
                (FILE_ACCESS_LOG, pack(&log))
            }
            AccessLog::Stdout => {
                use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::stdout_access_log::AccessLogFormat;
                let log = pb::StdoutAccessLog { access_log_format: format.map(AccessLogFormat::LogFormat) };
                (STDOUT_ACCESS_LOG, pack(&log))
            }
        };
        pb::accesslog::AccessLog {
            name: name.to_owned(),
            config_type: Some(pb::accesslog::access_log::ConfigType::TypedConfig(config)),
            ..pb::accesslog::AccessLog::default()
        }
    }
}

/// The keys of Envoy's log lines, as far as they say what ours say.
const LOG_KEYS: [(&str, &str); 10] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQUEST_HEADER(:METHOD)%"),
    ("authority", "%REQUEST_HEADER(:AUTHORITY)%"),
    ("path", "%REQUEST_HEADER(:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("duration", "%DURATION%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("downstream_peer_uri_san", "%DOWNSTREAM_PEER_URI_SAN%"),
];

fn json_lines() -> pb::core::SubstitutionFormatString {
    use pb::core::substitution_format_string::Format;
    let text = |text: &str| pb::Value { kind: Some(pb::value::Kind::StringValue(text.to_owned())) };
    let fields = LOG_KEYS.iter().map(|(key, format)| ((*key).to_owned(), text(format))).collect();
    pb::core::SubstitutionFormatString {
        format: Some(Format::JsonFormat(pb::Struct { fields })),
        ..pb::core::SubstitutionFormatString::default()
    }
}

/// Makes Envoy behave as our proxy does where its defaults differ.
fn as_we_do(direction: Direction, message: &mut pb::hcm::HttpConnectionManager) {
    use pb::hcm::http_connection_manager::{ForwardClientCertDetails, SetCurrentClientCertDetails};
    if direction == Direction::Inbound {
        // The application learns who called, and callers cannot claim to be others.
        message.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet as i32;
        message.set_current_client_cert_details =
            Some(SetCurrentClientCertDetails { uri: true, ..SetCurrentClientCertDetails::default() });
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

/// The TLS inspector, where a chain is picked by what it finds.
fn listener_filters(chains: &[FilterChain]) -> Vec<pb::listener::ListenerFilter> {
    if chains.iter().all(|chain| chain.matches == ChainMatch::default()) {
        return Vec::new();
    }
    let config = pack(&pb::TlsInspector::default());
    vec![pb::listener::ListenerFilter {
        name: TLS_INSPECTOR.to_owned(),
        config_type: Some(pb::listener::listener_filter::ConfigType::TypedConfig(config)),
        ..pb::listener::ListenerFilter::default()
    }]
}

fn chain_match(matches: &ChainMatch) -> Option<pb::listener::FilterChainMatch> {
    let transport = match matches.transport {
        None => "",
        Some(Transport::Tls) => "tls",
        Some(Transport::Plaintext) => "raw_buffer",
    };
    (*matches != ChainMatch::default()).then(|| pb::listener::FilterChainMatch {
        transport_protocol: transport.to_owned(),
        application_protocols: matches.alpn.iter().map(ToString::to_string).collect(),
        server_names: matches.server_names.iter().map(ToString::to_string).collect(),
        ..pb::listener::FilterChainMatch::default()
    })
}

/// CONNECT is carried.
fn connect() -> pb::hcm::http_connection_manager::UpgradeConfig {
    pb::hcm::http_connection_manager::UpgradeConfig {
        upgrade_type: "CONNECT".to_owned(),
        ..pb::hcm::http_connection_manager::UpgradeConfig::default()
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
