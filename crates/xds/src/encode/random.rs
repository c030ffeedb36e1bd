//! Random resources: all that the model can say and Envoy's messages can carry.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use meshwork_model::chain::ChainIndex;
use meshwork_model::cidr::Cidr;
use meshwork_model::proxy::{
    Action, Balancing, ChainMatch, ClientCert, Clients, Cluster, Codec, ConnectionLimit, DirectResponse,
    Direction, Discovery, Dns, DnsHost, Domain, Endpoint, Endpoints, EscapedSlashes, FilterChain, Forward,
    ForwardClientCert, Gate, HeaderMatch, HeaderTest, HostNormalization, Http1, Http2, HttpConnection,
    HttpFilter, HttpLimits, Listener, ListenerFilter, ListenerFilterKind, LocalReplies, MeshClient,
    MeshServer, NameTable, Network, NetworkFilter, PathMatch, PathNormalization, Permission, Principal,
    ProxyProtocol, Rbac, Resilience, Resource, RetryPolicy, Route, RouteAction, RouteMatch, RouteSource,
    RouteTable, Router, Rule, ServerHeader, ServiceName, SocketOptions, SourceType, StringMatch, TcpCluster,
    TcpProxy, TlsInspector, Transport, TransportMatch, UpstreamProtocol, VirtualHost, WeightedCluster,
    Workload,
};
use meshwork_model::regex::Regex;
use meshwork_model::spiffe::SpiffeId;

/// How deeply tests of tests are nested.
const DEPTH: usize = 3;

pub(super) struct Random(pub(super) Rng);

impl Random {
    pub(super) fn resource(&mut self) -> Resource {
        match self.0.u8(0..5) {
            0 => Resource::Listener(self.listener()),
            4 => Resource::Names(self.names()),
            1 => Resource::Routes(self.table()),
            2 => Resource::Cluster(self.cluster()),
            _ => Resource::Endpoints(self.endpoints()),
        }
    }

    fn text(&mut self) -> Arc<str> {
        let length = self.0.usize(1..8);
        let one = |_| ['a', 'b', 'z', '-', '/', '|', '0', '9', 'é'][self.0.usize(0..9)];
        (0..length).map(one).collect::<String>().into()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.0.bool().then(|| make(self))
    }

    fn some<T>(&mut self, least: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.0.usize(least..least + 3);
        (0..count).map(|_| make(self)).collect()
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(0..choices.len())]
    }

    fn time(&mut self) -> Duration {
        Duration::new(self.0.u64(0..1000), self.0.u32(1..1_000_000_000))
    }

    fn address(&mut self) -> SocketAddr {
        let port = self.0.u16(..);
        if self.0.bool() {
            (self.0.u32(..).to_be_bytes(), port).into()
        } else {
            (self.0.u128(..).to_be_bytes(), port).into()
        }
    }

    fn identity(&mut self) -> SpiffeId {
        SpiffeId::workload("mesh.local", "shop", &format!("sa-{}", self.0.u8(..))).unwrap()
    }

    fn listener(&mut self) -> Listener {
        let direction = self.pick(&[Direction::Inbound, Direction::Outbound, Direction::Unspecified]);
        let name = self.text();
        if self.0.u8(0..4) == 0 {
            let filter = NetworkFilter::Http(Arc::new(self.http()));
            return Listener::new(name, None, direction, vec![FilterChain::new("", filter)]);
        }
        Listener {
            additional_addresses: self.some(0, Self::address),
            bind_to_port: self.0.bool(),
            socket: SocketOptions::default(),
            use_original_dst: self.0.bool(),
            filters: self.some(0, Self::listener_filter),
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

    fn listener_filter(&mut self) -> ListenerFilter {
        let kind = match self.0.u8(0..3) {
            0 => ListenerFilterKind::Tls(TlsInspector { only_tls: self.0.bool() }),
            1 => ListenerFilterKind::Http,
            _ => ListenerFilterKind::ProxyProtocol(ProxyProtocol {
                optional: self.0.bool(),
                refuses_v1: self.0.bool(),
                refuses_v2: self.0.bool(),
            }),
        };
        kind.always()
    }

    fn cidr(&mut self) -> Cidr {
        Cidr::new(self.address().ip(), self.0.u32(0..129))
    }

    fn host_name(&mut self) -> Arc<str> {
        let label = |random: &mut Self| random.pick(&["a", "b-2", "cdn", "example", "_x"]);
        self.some(2, label).join(".").into()
    }

    fn server_name(&mut self) -> Arc<str> {
        let name = self.host_name();
        if self.0.bool() { name } else { format!("*.{name}").into() }
    }

    fn names(&mut self) -> NameTable {
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
            let cluster = |random: &mut Self| TcpCluster { name: random.text(), weight: random.0.u32(1..9) };
            let mut clusters = self.some(1, cluster);
            if let [only] = &mut clusters[..] {
                only.weight = 1;
            }
            NetworkFilter::Tcp(Arc::new(TcpProxy {
                stat_prefix: self.text(),
                clusters,
                idle_timeout: self.maybe(Self::time),
                connect_attempts: self.0.u32(1..5),
                longest: self.maybe(Self::time),
                hashes_source: self.0.bool(),
                access_logs: Vec::new(),
            }))
        };
        let gate = |random: &mut Self| {
            if random.0.bool() {
                return Gate::Rbac(Arc::new(random.rbac()));
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
            tls: self.maybe(Self::downstream).map(Into::into),
            handshake_timeout: self.maybe(Self::time),
            gates: self.some(0, gate),
            filter,
        }
    }

    fn downstream(&mut self) -> MeshServer {
        let validation = self.0.bool().then(|| "ROOTCA".into());
        MeshServer {
            certificate: "default".into(),
            require_client_certificate: validation.is_some() && self.0.bool(),
            alpn: self.some(0, Self::text),
            allowed: if validation.is_some() { self.some(0, Self::identity) } else { Vec::new() },
            validation,
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
            filters: self.some(0, Self::filter),
            paths: PathNormalization {
                rfc3986: self.0.bool(),
                merge_slashes: self.0.bool(),
                escaped_slashes: self.pick(&[
                    EscapedSlashes::Keep,
                    EscapedSlashes::Reject,
                    EscapedSlashes::Redirect,
                    EscapedSlashes::Decode,
                ]),
            },
            hosts: HostNormalization::default(),
            generate_request_id: self.0.bool(),
            keep_request_id: false,
            answer_request_id: false,
            tracing: self.0.bool(),
            upgrades: self.some(0, |random| random.pick(&["websocket", "connect", "other"]).into()),
            server: match self.0.u8(0..3) {
                0 => ServerHeader::Set(self.text()),
                1 => ServerHeader::IfAbsent(self.text()),
                _ => ServerHeader::Keep,
            },
            via: "".into(),
            clients: Clients::default(),
            client_cert: self.client_cert(),
            scheme: None,
            http1: Http1 {
                accept_http_10: self.0.bool(),
                default_host: self.maybe(Self::host_name),
                trailers: self.0.bool(),
            },
            http2: Http2::default(),
            limits: HttpLimits::default(),
            idle_timeout: self.maybe(Self::time),
            stream_idle_timeout: self.maybe(Self::time),
            max_stream_duration: None,
            router: Router::default(),
            request_headers_timeout: self.maybe(Self::time),
            delayed_close_timeout: None,
            local_replies: LocalReplies::default(),
            access_logs: Vec::new(),
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

    fn filter(&mut self) -> HttpFilter {
        HttpFilter { disabled: self.0.bool(), ..HttpFilter::rbac(self.text(), Arc::new(self.rbac())) }
    }

    fn table(&mut self) -> RouteTable {
        let mut seen = Vec::new();
        let mut hosts = self.some(0, Self::host);
        for host in &mut hosts {
            host.domains.retain(|domain| !seen.contains(domain));
            host.domains.dedup();
            seen.extend(host.domains.clone());
        }
        hosts.retain(|host| !host.domains.is_empty());
        RouteTable::new(self.text(), hosts)
    }

    fn host(&mut self) -> VirtualHost {
        let domain = |random: &mut Self| match random.0.u8(0..4) {
            0 => Domain::Exact(random.text()),
            1 => Domain::Suffix(random.text()),
            2 => Domain::Prefix(random.text()),
            _ => Domain::Any,
        };
        let mut domains: Vec<Domain> = Vec::new();
        for domain in self.some(1, domain) {
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        VirtualHost::new(self.text(), domains, self.some(0, Self::route))
    }

    fn route(&mut self) -> Route {
        let path = match self.0.u8(0..5) {
            4 => PathMatch::Regex(Regex::new(self.pick(&["/[0-9]+", "/.*"])).unwrap()),
            0 => PathMatch::Exact(self.text()),
            1 => PathMatch::Prefix(self.text()),
            2 => PathMatch::Connect,
            _ => PathMatch::SegmentPrefix(format!("/{}x", self.text()).into()),
        };
        let action = match self.0.u8(0..3) {
            0 => RouteAction::Forward(self.forward()),
            1 => {
                let status = self.0.u16(200..600);
                RouteAction::Direct(DirectResponse {
                    status,
                    body: self.maybe(Self::text).unwrap_or_default(),
                })
            }
            _ => RouteAction::Local,
        };
        Route::new(self.text(), RouteMatch::new(path, self.some(0, Self::header)), action)
    }

    fn forward(&mut self) -> Forward {
        let cluster =
            |random: &mut Self| WeightedCluster { name: random.text(), weight: random.0.u32(1..100) };
        Forward {
            clusters: self.some(1, cluster),
            timeout: self.maybe(Self::time),
            resilience: Resilience { retry: self.maybe(Self::retry).map(Arc::new), ..Resilience::default() },
        }
    }

    /// As the control plane makes them.
    fn retry(&mut self) -> RetryPolicy {
        RetryPolicy::unreached(self.0.u32(0..5))
    }

    fn header(&mut self) -> HeaderMatch {
        let test = match self.0.u8(0..4) {
            0 => HeaderTest::Present,
            1 => HeaderTest::Range { start: self.0.i64(..), end: self.0.i64(..) },
            2 => HeaderTest::OrMissing(Box::new(HeaderTest::Value(self.string()))),
            _ => HeaderTest::Value(self.string()),
        };
        HeaderMatch { name: self.text(), test, invert: self.0.bool() }
    }

    fn string(&mut self) -> StringMatch {
        match self.0.u8(0..6) {
            0 => StringMatch::Exact(self.text()),
            1 => StringMatch::Prefix(self.text()),
            2 => StringMatch::Suffix(self.text()),
            3 => StringMatch::Contains(self.text()),
            4 => StringMatch::Regex(Regex::new(self.pick(&["a|b", "/[0-9]+", ".*"])).unwrap()),
            _ => StringMatch::AnyCase(Box::new(StringMatch::Exact(self.text()))),
        }
    }

    fn rbac(&mut self) -> Rbac {
        let rule = |random: &mut Self| Rule {
            name: random.text(),
            permissions: random.some(1, |random| random.permission(DEPTH)),
            principals: random.some(1, |random| random.principal(DEPTH)),
        };
        let mut rules = self.some(0, rule);
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        rules.dedup_by(|a, b| a.name == b.name);
        Rbac { action: self.pick(&[Action::Allow, Action::Deny]), rules }
    }

    fn permission(&mut self, depth: usize) -> Permission {
        match self.0.u8(if depth == 0 { 3..7 } else { 0..7 }) {
            0 => Permission::All(self.some(1, |random| random.permission(depth - 1))),
            1 => Permission::OneOf(self.some(1, |random| random.permission(depth - 1))),
            2 => Permission::Not(Box::new(self.permission(depth - 1))),
            3 => Permission::Path(self.string()),
            4 => Permission::Header(self.header()),
            5 => Permission::DestinationPort(self.0.u16(..)),
            _ => Permission::Any,
        }
    }

    fn principal(&mut self, depth: usize) -> Principal {
        match self.0.u8(if depth == 0 { 3..5 } else { 0..5 }) {
            0 => Principal::All(self.some(1, |random| random.principal(depth - 1))),
            1 => Principal::OneOf(self.some(1, |random| random.principal(depth - 1))),
            2 => Principal::Not(Box::new(self.principal(depth - 1))),
            3 => Principal::Authenticated(self.maybe(Self::string)),
            _ => Principal::Any,
        }
    }

    fn cluster(&mut self) -> Cluster {
        let discovery = match self.0.u8(0..4) {
            0 => Discovery::Eds(self.text()),
            1 => {
                let host = DnsHost { host: self.host_name(), port: self.0.u16(1..) };
                Discovery::Dns(Dns::all_of(host))
            }
            2 => Discovery::OriginalDestination,
            _ => Discovery::Static(self.endpoints()),
        };
        let balancing = if discovery == Discovery::OriginalDestination {
            Balancing::ROUND_ROBIN
        } else {
            self.pick(&[Balancing::ROUND_ROBIN, Balancing::Random, Balancing::LEAST_REQUEST])
        };
        let transport = |random: &mut Self| TransportMatch {
            name: random.text(),
            transport: random.maybe(Self::text),
            labels: Vec::new(),
            tls: random.maybe(Self::upstream).map(Into::into),
        };
        let name = self.text();
        Cluster {
            service: self.maybe(|random| ServiceName { name: random.text(), namespace: random.text() }),
            network: self.pick(&[Network::Proxy, Network::Workload]),
            balancing,
            connect_timeout: self.time(),
            protocol: self.pick(&[UpstreamProtocol::Http1, UpstreamProtocol::Http2]),
            transports: self.some(0, transport),
            ..Cluster::new(name, discovery)
        }
    }

    fn upstream(&mut self) -> MeshClient {
        MeshClient {
            certificate: self.0.bool().then(|| "default".into()),
            validation: "ROOTCA".into(),
            identities: self.some(1, Self::identity),
            alpn: self.some(0, Self::text),
            sni: self.maybe(Self::text).unwrap_or_default(),
        }
    }

    fn endpoints(&mut self) -> Endpoints {
        let endpoint = |random: &mut Self| Endpoint {
            transport: random.maybe(Self::text),
            workload: random.maybe(|random| Workload {
                name: random.text(),
                namespace: random.text(),
                app: random.text(),
                version: random.maybe(Self::text).unwrap_or_default(),
            }),
            ..Endpoint::new(random.address())
        };
        let mut endpoints = self.some(0, endpoint);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        Endpoints::new(self.text(), endpoints)
    }
}
