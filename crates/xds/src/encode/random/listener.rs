//! Random listeners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::chain::ChainIndex;
use meshwork_model::proxy::{
    ChainMatch, ClientCert, Clients, Codec, ConnectionLimit, Direction, EscapedSlashes, FilterChain,
    ForwardClientCert, Gate, HostNormalization, Http1, Http2, HttpConnection, HttpLimits, Listener,
    ListenerFilter, ListenerFilterKind, NameTable, NetworkFilter, PathNormalization, PortTest, ProxyProtocol,
    RouteSource, Router, Scheme, ServerHeader, SocketOptions, SourceType, StrippedPort, TcpCluster, TcpProxy,
    TlsInspector, Transport, Underscores,
};

use super::{DEPTH, Random};

impl Random {
    pub(super) fn listener(&mut self) -> Listener {
        let direction = self.pick(&[Direction::Inbound, Direction::Outbound, Direction::Unspecified]);
        let name = self.text();
        if self.0.u8(0..4) == 0 {
            let filter = NetworkFilter::Http(Arc::new(self.http()));
            return Listener::new(name, None, direction, vec![FilterChain::new("", filter)]);
        }
        let use_original_dst = self.0.bool();
        Listener {
            additional_addresses: self.some(0, Self::address),
            bind_to_port: self.0.bool(),
            socket: SocketOptions {
                freebind: self.0.bool(),
                transparent: self.0.bool(),
                backlog: self.maybe(|random| random.0.u32(..)),
            },
            use_original_dst,
            filters: self.some(0, |random| random.listener_filter(use_original_dst)),
            filters_timeout: self.maybe(Self::time),
            continue_on_filters_timeout: self.0.bool(),
            default_chain: self
                .maybe(|random| FilterChain { matches: ChainMatch::default(), ..random.chain() }),
            ..Listener::new(name, Some(self.address()), direction, self.chains())
        }
    }

    /// Chains of which no two take the same connections.
    fn chains(&mut self) -> Vec<FilterChain> {
        let mut chains = self.some(1, Self::chain);
        for (port, chain) in (1..).zip(&mut chains) {
            if ChainIndex::compile([&chain.matches]).is_err() {
                chain.matches = ChainMatch::default();
            }
            chain.matches.destination_port = Some(port);
        }
        chains
    }

    /// One that the listener does not imply.
    fn listener_filter(&mut self, use_original_dst: bool) -> ListenerFilter {
        let kind = match self.0.u8(if use_original_dst { 0..3 } else { 0..4 }) {
            0 => ListenerFilterKind::Tls(TlsInspector { only_tls: self.0.bool() }),
            1 => ListenerFilterKind::Http,
            3 => ListenerFilterKind::OriginalDestination,
            _ => ListenerFilterKind::ProxyProtocol(ProxyProtocol {
                optional: self.0.bool(),
                refuses_v1: self.0.bool(),
                refuses_v2: false,
            }),
        };
        ListenerFilter { kind, disabled: self.maybe(|random| random.port_test(DEPTH)) }
    }

    fn port_test(&mut self, depth: usize) -> PortTest {
        match self.0.u8(if depth == 0 { 3..5 } else { 0..5 }) {
            0 => PortTest::All(self.some(2, |random| random.port_test(depth - 1))),
            1 => PortTest::OneOf(self.some(2, |random| random.port_test(depth - 1))),
            2 => PortTest::Not(Box::new(self.port_test(depth - 1))),
            3 => PortTest::Range(self.0.i32(0..65536), self.0.i32(0..65536)),
            _ => PortTest::Any,
        }
    }

    fn server_name(&mut self) -> Arc<str> {
        let name = self.host_name();
        if self.0.bool() { name } else { format!("*.{name}").into() }
    }

    pub(super) fn names(&mut self) -> NameTable {
        let names: BTreeMap<_, _> = self
            .some(0, |random| (random.host_name(), random.some(1, |random| random.address().ip())))
            .into_iter()
            .collect();
        let ttl = if names.is_empty() { NameTable::TTL } else { Duration::from_secs(30) + self.time() };
        NameTable { name: self.text(), address: self.address(), ttl, names }
    }

    fn chain(&mut self) -> FilterChain {
        let transport = self.pick(&[None, Some(Transport::Tls), Some(Transport::Plaintext)]);
        let filter = if self.0.bool() {
            NetworkFilter::Http(Arc::new(self.http()))
        } else {
            NetworkFilter::Tcp(Arc::new(self.tcp()))
        };
        let gate = |random: &mut Self| {
            if random.0.bool() {
                return Gate::Rbac(Arc::new(random.rbac()));
            }
            if random.0.bool() {
                return Gate::Tried(Arc::new(random.rbac()), random.optional_text());
            }
            Gate::Limit(ConnectionLimit { most: random.0.u64(1..9), delay: random.maybe(Self::time) })
        };
        FilterChain {
            name: self.text(),
            matches: ChainMatch {
                destination_port: self.maybe(|random| random.0.u16(1..)),
                destinations: self.some(0, Self::cidr),
                server_names: self.some(0, Self::server_name),
                transport,
                alpn: self.some(0, Self::text),
                direct_sources: self.some(0, Self::cidr),
                source_type: self.pick(&[SourceType::Any, SourceType::Local, SourceType::External]),
                sources: self.some(0, Self::cidr),
                source_ports: self.some(0, |random| random.0.u16(1..)),
            },
            tls: self.maybe(Self::downstream),
            handshake_timeout: self.maybe(Self::time),
            gates: self.some(0, gate),
            filter,
        }
    }

    fn tcp(&mut self) -> TcpProxy {
        let cluster = |random: &mut Self| TcpCluster { name: random.text(), weight: random.0.u32(1..9) };
        let mut clusters = self.some(1, cluster);
        if let [only] = &mut clusters[..] {
            only.weight = 1;
        }
        TcpProxy {
            stat_prefix: self.text(),
            clusters,
            idle_timeout: self.maybe(Self::time),
            connect_attempts: self.0.u32(1..5),
            longest: self.maybe(Self::time),
            hashes_source: self.0.bool(),
            access_logs: self.some(0, Self::access_log),
        }
    }

    fn http(&mut self) -> HttpConnection {
        HttpConnection {
            stat_prefix: self.text(),
            codec: self.pick(&[Codec::Auto, Codec::Http1, Codec::Http2]),
            routes: if self.0.bool() {
                RouteSource::Named(self.text())
            } else {
                RouteSource::Inline(Arc::new(self.table()))
            },
            filters: self.http_filters(),
            paths: self.paths(),
            hosts: HostNormalization {
                port: self.pick(&[StrippedPort::None, StrippedPort::Own, StrippedPort::Any]),
                trailing_dot: self.0.bool(),
            },
            generate_request_id: self.0.bool(),
            keep_request_id: self.0.bool(),
            answer_request_id: self.0.bool(),
            tracing: self.0.bool(),
            upgrades: self.upgrades(),
            server: match self.0.u8(0..3) {
                0 => ServerHeader::Set(self.text()),
                1 => ServerHeader::IfAbsent(self.text()),
                _ => ServerHeader::Keep,
            },
            via: self.optional_text(),
            clients: self.clients(),
            client_cert: self.client_cert(),
            scheme: self.pick(&[None, Some(Scheme::Http), Some(Scheme::Https)]),
            http1: Http1 {
                accept_http_10: self.0.bool(),
                default_host: self.maybe(Self::host_name),
                trailers: self.0.bool(),
            },
            http2: Http2 {
                most_streams: self.maybe(|random| random.0.u32(1..1000)),
                stream_window: self.maybe(|random| random.0.u32(65_535..1 << 31)),
                connection_window: self.maybe(|random| random.0.u32(65_535..1 << 31)),
            },
            limits: self.limits(),
            idle_timeout: self.maybe(|random| random.time_or(crate::decode::NEVER)),
            stream_idle_timeout: self.maybe(|random| random.time_or(Duration::ZERO)),
            max_stream_duration: self.maybe(Self::time),
            router: Router {
                is_silent: self.0.bool(),
                respects_expected: self.0.bool(),
                strict: self
                    .some(0, |random| random.pick(&["x-envoy-retry-on", "x-envoy-max-retries"]).into()),
            },
            request_headers_timeout: self.maybe(Self::time),
            delayed_close_timeout: self.maybe(Self::time),
            local_replies: self.local_replies(),
            access_logs: self.some(0, Self::access_log),
        }
    }

    fn upgrades(&mut self) -> Vec<Arc<str>> {
        let all = ["connect", "other", "websocket"];
        all.into_iter().filter(|_| self.0.bool()).map(Arc::from).collect()
    }

    fn paths(&mut self) -> PathNormalization {
        PathNormalization {
            rfc3986: self.0.bool(),
            merge_slashes: self.0.bool(),
            escaped_slashes: self.pick(&[
                EscapedSlashes::Keep,
                EscapedSlashes::Reject,
                EscapedSlashes::Redirect,
                EscapedSlashes::Decode,
            ]),
        }
    }

    fn clients(&mut self) -> Clients {
        Clients {
            is_edge: self.0.bool(),
            trusted_hops: self.0.u32(0..3),
            skip_append: self.0.bool(),
            append_port: self.0.bool(),
            internal: self.some(0, Self::cidr),
        }
    }

    fn limits(&mut self) -> HttpLimits {
        HttpLimits {
            head_bytes: self.maybe(|random| random.0.u32(1..8193) * 1024),
            fields: self.maybe(|random| random.0.u32(1..)),
            requests: self.maybe(|random| random.0.u32(1..)),
            connection_duration: self.maybe(Self::time),
            underscores: self.pick(&[Underscores::Allow, Underscores::Reject, Underscores::Drop]),
        }
    }

    fn client_cert(&mut self) -> ClientCert {
        ClientCert {
            forward: self.pick(&[
                ForwardClientCert::Sanitize,
                ForwardClientCert::ForwardOnly,
                ForwardClientCert::Append,
                ForwardClientCert::Set,
                ForwardClientCert::AlwaysForwardOnly,
            ]),
            subject: self.0.bool(),
            certificate: self.0.bool(),
            chain: self.0.bool(),
            dns: self.0.bool(),
            uri: self.0.bool(),
        }
    }
}
