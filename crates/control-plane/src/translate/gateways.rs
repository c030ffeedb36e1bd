//! Gateways: what a node runs that is where traffic from outside comes in.
//!
//! One listener for each port; of those that end TLS, or pass it through, one chain for each name. Certificates are named
//! by their files in the gateway's own folder: no private key leaves it. Source: Gateway API v1, Gateway.

mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::mesh::{
    ConnectionRoute, ConnectionRouteKind, ConnectionRule, GatewayListener, GatewayNode, GatewayProtocol, Key,
    Parent, Target,
};
use meshwork_model::proxy::{
    CertificateSource, ChainMatch, DataSource, Direction, DownstreamTls, FilterChain, Gate, Listener,
    NetworkFilter, Resource, RouteTable, ServerContext, TcpCluster, TlsCertificate, TlsContext, TlsVersion,
    Transport,
};

use super::routes::{Calls, Lead, NOWHERE, Port};
use super::{ClusterId, Outbound, listeners, policy};
use crate::attachment::gateways::{is_attached, may_use, met};

/// A gateway's port, and what listens there.
struct Front<'m> {
    calls: Calls<'m>,
    /// The gateway.
    key: Key,
    node: &'m GatewayNode,
    port: u16,
    listeners: Vec<&'m GatewayListener>,
}

/// What a front needs beside its listener.
#[derive(Default)]
struct Behind {
    tables: Vec<RouteTable>,
    leads: BTreeSet<Lead>,
}

/// Adds all that a gateway's node runs.
pub(super) fn add(outbound: &mut Outbound<'_>, node: &GatewayNode) {
    let (mesh, workload, dialect) = (outbound.mesh, outbound.node, outbound.caller.dialect);
    let key = Key::new(Arc::clone(&workload.key.namespace), Arc::clone(&node.name));
    let Some(gateway) = mesh.config.gateways.get(&key) else { return };
    // Routes may lead to services that are not there yet.
    outbound.is_wide = true;
    let mut ports: BTreeMap<u16, Vec<&GatewayListener>> = BTreeMap::new();
    for listener in &gateway.listeners {
        ports.entry(listener.port).or_default().push(listener);
    }
    for (port, listeners) in ports {
        let calls = Calls { mesh, node: workload, dialect };
        let front = Front { calls, key: key.clone(), node, port, listeners };
        let mut behind = Behind::default();
        let chains = front.chains(&mut behind);
        if !chains.is_empty() {
            let name = format!("gateway|{port}");
            let listener = Listener::new(name, Some(node.bind(port)), Direction::Outbound, chains);
            outbound.add(Resource::Listener(listener));
        }
        for table in behind.tables {
            outbound.add(Resource::Routes(table));
        }
        for lead in behind.leads {
            match lead {
                Lead::To { target: Target::Service(service), port, subset } => {
                    outbound.add_cluster(ClusterId { service, port, subset });
                }
                other => outbound.lead_out(&other),
            }
        }
    }
}

impl Front<'_> {
    fn chains(&self, behind: &mut Behind) -> Vec<FilterChain> {
        if self.listeners.iter().all(|listener| listener.protocol == GatewayProtocol::Http) {
            return vec![self.requests("http", &self.listeners, behind)];
        }
        // Two chains for one name would be refused: the listener's own goes first, and the oldest route.
        let mut taken: BTreeSet<Option<Arc<str>>> = BTreeSet::new();
        let mut chains = Vec::new();
        for listener in &self.listeners {
            for mut chain in self.of_listener(listener, behind) {
                let names = &mut chain.matches.server_names;
                if names.is_empty() {
                    if !taken.insert(None) {
                        continue;
                    }
                } else {
                    names.retain(|name| taken.insert(Some(Arc::clone(name))));
                    if names.is_empty() {
                        continue;
                    }
                }
                chains.push(chain);
            }
        }
        chains
    }

    fn of_listener(&self, listener: &GatewayListener, behind: &mut Behind) -> Vec<FilterChain> {
        let ends = |certificates: &[Key], alpn: &[&str]| -> Option<DownstreamTls> {
            self.tls(certificates, alpn).map(|context| DownstreamTls::Context(Arc::new(context)))
        };
        match &listener.protocol {
            GatewayProtocol::Http => Vec::new(),
            GatewayProtocol::Https(certificates) => {
                let Some(tls) = ends(certificates, &["h2", "http/1.1"]) else { return Vec::new() };
                let chain = self.requests(&listener.name, &[listener], behind);
                vec![FilterChain { matches: by_name(listener.hostname.clone()), tls: Some(tls), ..chain }]
            }
            GatewayProtocol::TlsPassthrough => self.connections(listener, ConnectionRouteKind::Tls, behind),
            GatewayProtocol::TlsTerminate(certificates) => {
                let Some(tls) = ends(certificates, &[]) else { return Vec::new() };
                let kinds = [ConnectionRouteKind::Tls, ConnectionRouteKind::Tcp];
                let all = kinds.into_iter().flat_map(|kind| self.connections(listener, kind, behind));
                all.map(|chain| {
                    let any = chain.matches == ChainMatch::default();
                    let matches = if any { by_name(listener.hostname.clone()) } else { chain.matches };
                    FilterChain { matches, tls: Some(tls.clone()), ..chain }
                })
                .collect()
            }
            GatewayProtocol::Tcp => self.connections(listener, ConnectionRouteKind::Tcp, behind),
        }
    }

    /// A chain of requests, by a table of its own.
    fn requests(&self, name: &str, listeners: &[&GatewayListener], behind: &mut Behind) -> FilterChain {
        let table: Arc<str> = format!("gateway|{}|{name}", self.port).into();
        let hosts = self.hosts(listeners, &mut behind.leads);
        let mut routes = RouteTable::new(Arc::clone(&table), hosts);
        routes.ignores_port = true;
        behind.tables.push(routes);
        let filters = policy::filters(self.calls.mesh, self.calls.node, self.port);
        FilterChain::new(name, NetworkFilter::Http(Arc::new(listeners::edge(table, filters))))
    }

    /// Chains of bytes by the routes that are attached: each name has the oldest one's.
    fn connections(
        &self,
        listener: &GatewayListener,
        kind: ConnectionRouteKind,
        behind: &mut Behind,
    ) -> Vec<FilterChain> {
        let all = self.calls.mesh.config.connection_routes.iter();
        let attached = all.filter(|((of, key), route)| {
            *of == kind && self.attaches(listener, kind.name(), &key.namespace, &route.parents)
        });
        let mut attached: Vec<(&Key, &ConnectionRoute)> =
            attached.map(|((_, key), route)| (key, route)).collect();
        attached.sort_by_key(|(key, route)| (route.age, *key));
        let mut chains = Vec::new();
        for (key, route) in attached {
            for (index, rule) in route.rules.iter().enumerate() {
                let names = met(listener.hostname.as_ref(), &rule.server_names);
                if names.is_empty() {
                    continue;
                }
                let server_names: Vec<Arc<str>> = names.into_iter().flatten().collect();
                let name = format!("{}.{}.{index}", key.namespace, key.name);
                let filter = self.bytes(&name, rule, &mut behind.leads);
                let chain = FilterChain { gates: self.gates(), ..FilterChain::new(name, filter) };
                chains.push(FilterChain { matches: by_names(server_names), ..chain });
            }
        }
        chains
    }

    fn gates(&self) -> Vec<Gate> {
        policy::gates(self.calls.mesh, self.calls.node, self.port)
    }

    /// Bytes by weight; the share of what cannot be led to is closed.
    fn bytes(&self, name: &str, rule: &ConnectionRule, leads: &mut BTreeSet<Lead>) -> NetworkFilter {
        let (mut clusters, mut missing) = (Vec::new(), 0);
        for backend in rule.backends.iter().filter(|backend| backend.weight > 0) {
            match self.calls.find(backend, Port::of_bytes(self.port), leads) {
                Some(found) => clusters.push(TcpCluster { name: found.cluster, weight: backend.weight }),
                None => missing += backend.weight,
            }
        }
        if missing > 0 || clusters.is_empty() {
            clusters.push(TcpCluster { name: NOWHERE.into(), weight: missing.max(1) });
            leads.insert(Lead::Nowhere);
        }
        NetworkFilter::Tcp(Arc::new(listeners::bytes_to(name.into(), clusters)))
    }

    /// Whether a route of a kind and a namespace is attached to a listener, but for its hostnames.
    fn attaches(
        &self,
        listener: &GatewayListener,
        kind: &str,
        namespace: &Arc<str>,
        parents: &[Parent],
    ) -> bool {
        is_attached(&self.calls.mesh.config, &self.key, listener, parents, (kind, namespace))
    }

    /// TLS that ends here; `None` where the gateway has no folder with certificates, or may use none of these.
    fn tls(&self, certificates: &[Key], alpn: &[&str]) -> Option<ServerContext> {
        let folder = self.node.certificates.as_ref()?;
        let is_granted = |key: &&Key| may_use(&self.calls.mesh.config, &self.key, key);
        let source = |key: &Key| {
            let file = |name: &str| {
                DataSource::File(format!("{folder}/{}/{}/{name}", key.namespace, key.name).into())
            };
            let (chain, key) = (file("tls.crt"), file("tls.key"));
            CertificateSource::Inline(Arc::new(TlsCertificate { chain, key, is_watched: true }))
        };
        let certificates: Vec<_> = certificates.iter().filter(is_granted).map(source).collect();
        if certificates.is_empty() {
            return None;
        }
        Some(ServerContext {
            common: TlsContext {
                certificates,
                validation: None,
                alpn: alpn.iter().map(|&name| name.into()).collect(),
                versions: (TlsVersion::Tls12, TlsVersion::Tls13),
                cipher_suites: Vec::new(),
                groups: Vec::new(),
            },
            require_client_certificate: false,
            scan_all_certificates: false,
            tell_authorities: true,
            resumes: (true, true),
        })
    }
}

fn by_name(name: Option<Arc<str>>) -> ChainMatch {
    ChainMatch { transport: Some(Transport::Tls), ..by_names(name.into_iter().collect()) }
}

/// Which connections a chain takes: those of TLS with one of these names; without a name, all that no other takes.
fn by_names(server_names: Vec<Arc<str>>) -> ChainMatch {
    let transport = (!server_names.is_empty()).then_some(Transport::Tls);
    ChainMatch { transport, server_names, ..ChainMatch::default() }
}
