//! Translate: what one node runs, from the whole mesh. Pure: equal inputs give equal resources.
//!
//! A node gets what its ports lead to, and nothing else: a listener for each port that it serves or calls, the
//! routes of what it calls, and the clusters and endpoints that these lead to. Cost follows what the node uses.
//!
//! A node whose program's traffic is captured may call whatever the mesh has a name for: it gets all of that.
//!
//! Each feature has a golden under `testdata/`.

mod attached;
mod backend_tls;
mod caller;
mod captured;
mod clusters;
mod connections;
mod endpoints;
mod gateways;
mod grpc_server;
mod index;
mod jwt;
mod listeners;
mod memo;
mod mesh;
mod names;
mod outside;
mod policy;
mod routes;
mod sidecar;
mod telemetry;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::mesh::{Inbound, Key, KeyUrl, Protocol, Service, ServicePort, Target, Workload};
use meshwork_model::proxy::{FilterChain, Resource, ServiceName};
use meshwork_xds::Dialect;

pub(crate) use backend_tls::under_system_roots;
pub(crate) use caller::Caller;
pub(crate) use clusters::BLACK_HOLE;
pub(crate) use endpoints::serves;
pub(crate) use listeners::VIRTUAL_OUTBOUND;
pub(crate) use memo::{ClusterId, Memo};
pub use mesh::Mesh;
pub(crate) use policy::{Said, is_disbelieved, mtls_said};
pub(crate) use routes::NOWHERE;
pub(crate) use sidecar::sees;

use routes::{Calls, Lead};

/// What one node runs.
///
/// `wanted` are the names of listeners that a proxyless gRPC client asked for; other dialects are told theirs.
pub fn snapshot(mesh: &Mesh, node: &Workload, dialect: Dialect, wanted: &BTreeSet<String>) -> Vec<Resource> {
    let translated = translate(mesh, node, dialect, wanted, &mut Memo::default());
    translated.resources.into_iter().map(|resource| (*resource).clone()).collect()
}

/// What one node runs, and what of the mesh that depends on.
#[derive(Debug)]
pub(crate) struct Translated {
    pub(crate) resources: Vec<Arc<Resource>>,
    /// Of which some of the resources are the clusters and endpoints.
    pub(crate) clusters: BTreeSet<ClusterId>,
    /// Every service that was looked for, whether it was found or not.
    pub(crate) services: BTreeSet<Key>,
    /// Whether it depends on which services and workloads there are at all.
    pub(crate) is_wide: bool,
}

/// What one node runs, with the help of what was made for others.
pub(crate) fn translate(
    mesh: &Mesh,
    node: &Workload,
    dialect: Dialect,
    wanted: &BTreeSet<String>,
    memo: &mut Memo,
) -> Translated {
    let caller = Caller::of(mesh, node, dialect);
    let mut outbound = Outbound {
        mesh,
        node,
        caller,
        memo,
        resources: BTreeMap::new(),
        clusters: BTreeSet::new(),
        services: BTreeSet::new(),
        is_wide: node.capture.is_some() || policy::asks_for_clients(mesh, node),
    };
    if dialect == Dialect::Grpc {
        for target in wanted {
            match grpc_server::address(target) {
                Some(address) => {
                    let listener = grpc_server::listener(mesh, node, target, address);
                    if let Some(listener) = listener {
                        outbound.add(Resource::Listener(listener));
                    }
                }
                None => outbound.target(target),
            }
        }
        return outbound.finish();
    }
    for port in &node.outbound {
        outbound.call(port);
    }
    if let Some(capture) = &node.capture {
        outbound.capture(capture);
    }
    if let Some(gateway) = &node.gateway {
        gateways::add(&mut outbound, gateway);
    }
    for url in jwt::urls(mesh, node) {
        outbound.fetch_keys(url);
    }
    for (service, port) in policy::asked(mesh, node) {
        outbound.add_cluster(ClusterId::whole(service, port));
    }
    let mut translated = outbound.finish();
    for inbound in &node.inbound {
        let cluster = Resource::Cluster(clusters::inbound(mesh, node, inbound));
        let mut listener = listeners::inbound(mesh, node, inbound);
        telemetry::apply(mesh, node, &mut listener);
        translated.resources.extend([cluster, Resource::Listener(listener)].map(Arc::new));
    }
    translated
}

/// The outbound half of a node, while it grows; by kind and name, for many listeners lead to one cluster.
struct Outbound<'m> {
    mesh: &'m Mesh,
    node: &'m Workload,
    caller: Caller,
    memo: &'m mut Memo,
    resources: BTreeMap<(meshwork_model::proxy::Kind, String), Arc<Resource>>,
    clusters: BTreeSet<ClusterId>,
    services: BTreeSet<Key>,
    is_wide: bool,
}

impl<'m> Outbound<'m> {
    fn call(&mut self, port: &meshwork_model::mesh::Outbound) {
        self.services.insert(port.service.clone());
        let Some(called) = Called::find(self.mesh, &port.service, port.port) else { return };
        let chains = self.lead_to(&called);
        self.add(Resource::Listener(listeners::outbound(&called, port.bind, chains)));
    }

    /// A proxyless gRPC client's target: `payments.shop.svc.cluster.local:50051`, `payments.shop:50051`, or
    /// `payments:50051` in the caller's namespace.
    fn target(&mut self, target: &str) {
        let Some((key, port)) = Called::parse(&self.caller.namespace, target) else { return };
        self.services.insert(key.clone());
        let Some(called) = Called::find(self.mesh, &key, port) else { return };
        if called.port.protocol.is_http() {
            self.add(Resource::Listener(listeners::api(&called, target)));
            self.lead_to(&called);
        }
    }

    fn fetch_keys(&mut self, url: &KeyUrl) {
        if let Some(called) = jwt::service(self.mesh, &self.caller.namespace, url) {
            self.add_cluster(ClusterId::whole(called.key.clone(), called.port.port));
        } else {
            // A service may come that it names.
            self.is_wide = true;
            self.add(Resource::Cluster(jwt::cluster(self.mesh, url)));
        }
    }

    /// Adds all that a called port leads to; gives the chains of routes that act on its connections.
    fn lead_to(&mut self, called: &Called<'m>) -> Option<Vec<FilterChain>> {
        if called.port.protocol.is_http() {
            let table = self.memo.table(self.mesh, self.node, &self.caller, called);
            self.add_shared(table.made);
            for id in &*table.leads_to {
                self.add_cluster(id.clone());
            }
            for lead in &*table.leads_out {
                self.lead_out(lead);
            }
            return None;
        }
        let calls = Calls { mesh: self.mesh, node: self.node, dialect: self.caller.dialect };
        let Some((chains, leads)) = calls.chains(called) else {
            self.add_cluster(ClusterId::whole(called.key.clone(), called.port.port));
            return traffic::chains_of_bytes(self.mesh, called, self.node);
        };
        for lead in leads {
            match lead {
                Lead::To { target: Target::Service(service), port, subset } => {
                    self.add_cluster(ClusterId { service, port, subset });
                }
                other => self.lead_out(&other),
            }
        }
        Some(chains)
    }

    fn lead_out(&mut self, lead: &Lead) {
        match lead {
            Lead::To { target: Target::Host(host), port, subset } => {
                self.lead_to_host(host, *port, subset.as_deref());
            }
            Lead::Nowhere if self.caller.dialect == Dialect::Grpc => {
                let (cluster, endpoints) = clusters::nobody();
                self.add(Resource::Cluster(cluster));
                self.add(Resource::Endpoints(endpoints));
            }
            Lead::To { .. } | Lead::Nowhere => {}
        }
    }

    fn add_cluster(&mut self, id: ClusterId) {
        if self.clusters.contains(&id) {
            return;
        }
        self.services.insert(id.service.clone());
        for resource in self.memo.cluster(self.mesh, self.node, &self.caller, &id) {
            self.add_shared(resource);
        }
        self.clusters.insert(id);
    }

    fn add(&mut self, mut resource: Resource) {
        if let Resource::Listener(listener) = &mut resource {
            telemetry::apply(self.mesh, self.node, listener);
        }
        self.add_shared(Arc::new(resource));
    }

    fn add_shared(&mut self, resource: Arc<Resource>) {
        self.resources.insert((resource.kind(), resource.name().to_owned()), resource);
    }

    fn finish(self) -> Translated {
        Translated {
            resources: self.resources.into_values().collect(),
            clusters: self.clusters,
            services: self.services,
            is_wide: self.is_wide,
        }
    }
}

/// A port of a service, as it is called.
#[derive(Clone, Copy)]
struct Called<'m> {
    key: &'m Key,
    service: &'m Service,
    port: &'m ServicePort,
}

impl<'m> Called<'m> {
    fn find(mesh: &'m Mesh, key: &Key, port: u16) -> Option<Self> {
        let (key, service) = mesh.service(key)?;
        let port = service.ports.iter().find(|p| p.port == port)?;
        Some(Self { key, service, port })
    }

    fn of_target(mesh: &'m Mesh, namespace: &Arc<str>, target: &str) -> Option<Self> {
        let (key, port) = Self::parse(namespace, target)?;
        Self::find(mesh, &key, port)
    }

    fn parse(namespace: &Arc<str>, target: &str) -> Option<(Key, u16)> {
        let (host, port) = target.rsplit_once(':')?;
        let host = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
        let key = match host.split_once('.') {
            Some((name, namespace)) => Key::new(namespace, name),
            None => Key::new(Arc::clone(namespace), host),
        };
        Some((key, port.parse().ok()?))
    }

    fn name(&self) -> ServiceName {
        ServiceName { name: Arc::clone(&self.key.name), namespace: Arc::clone(&self.key.namespace) }
    }

    /// The cluster's name, and that of its endpoints and of the route table of its callers.
    fn cluster(&self) -> Arc<str> {
        self.cluster_of(None)
    }

    /// The name of the cluster of a subset, and of its endpoints.
    fn cluster_of(&self, subset: Option<&str>) -> Arc<str> {
        format!("outbound|{}|{}|{}", self.port.port, subset.unwrap_or_default(), self.name().host()).into()
    }
}

/// The service port behind a workload's inbound port, of the first service that has one.
fn served<'m>(mesh: &'m Mesh, workload: &Workload, port: u16) -> Option<Called<'m>> {
    let mut serving = mesh.serving(&workload.key).filter_map(|(key, service)| {
        let leads = |p: &&ServicePort| p.inbound(workload).is_some_and(|inbound| inbound.port == port);
        let port = service.ports.iter().find(leads)?;
        Some(Called { key, service, port })
    });
    serving.next()
}

/// What is spoken on a workload's inbound port: what the service says that leads to it, else the workload, else bytes.
fn protocol(mesh: &Mesh, workload: &Workload, inbound: &Inbound) -> Protocol {
    let said = served(mesh, workload, inbound.port).map(|called| called.port.protocol);
    said.or(inbound.protocol).unwrap_or(Protocol::Tcp)
}

#[cfg(test)]
mod tests;
