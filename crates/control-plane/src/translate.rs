//! Translate: what one node runs, from the whole mesh. Pure: equal inputs give equal resources.
//!
//! A node gets what its ports lead to, and nothing else: a listener for each port that it serves or calls, the
//! routes of what it calls, and the clusters and endpoints that these lead to. Cost follows what the node uses.
//!
//! A node whose program's traffic is captured may call whatever the mesh has a name for: it gets all of that.
//!
//! Each feature has a golden under `testdata/`.

mod captured;
mod clusters;
mod endpoints;
mod listeners;
mod names;
mod outside;
mod policy;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::mesh::{Config, Inbound, Key, Protocol, Service, ServicePort, Workload};
use meshwork_model::proxy::{Resource, ServiceName};
use meshwork_xds::Dialect;

use crate::addresses::Addresses;
pub(crate) use endpoints::serves;

/// All that is known of the mesh at one moment. Immutable; every change makes a new one.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// The trust domain of all identities.
    pub trust_domain: Arc<str>,
    /// What people wrote.
    pub config: Arc<Config>,
    /// The workloads that are there, by key.
    pub workloads: BTreeMap<Key, Arc<Workload>>,
    /// Services that nobody wrote, and workloads imply.
    pub implied: Arc<BTreeMap<Key, Service>>,
    /// The virtual addresses of what has a name. What has none is not found by captured workloads.
    pub addresses: Arc<Addresses>,
}

impl Mesh {
    /// All services, written ones first.
    pub fn services(&self) -> impl Iterator<Item = (&Key, &Service)> {
        self.config.services.iter().chain(&*self.implied)
    }

    /// A service, written or implied.
    pub fn service(&self, key: &Key) -> Option<(&Key, &Service)> {
        self.config.services.get_key_value(key).or_else(|| self.implied.get_key_value(key))
    }
}

/// What one node runs.
///
/// `wanted` are the names of listeners that a proxyless gRPC client asked for; other dialects are told theirs.
pub fn snapshot(mesh: &Mesh, node: &Workload, dialect: Dialect, wanted: &BTreeSet<String>) -> Vec<Resource> {
    let mut outbound = Outbound { mesh, node, dialect, resources: BTreeMap::new() };
    if dialect == Dialect::Grpc {
        for target in wanted {
            outbound.target(target);
        }
        return outbound.resources.into_values().collect();
    }
    for port in &node.outbound {
        outbound.call(port);
    }
    if let Some(capture) = &node.capture {
        outbound.capture(capture);
    }
    let mut resources: Vec<Resource> = outbound.resources.into_values().collect();
    for inbound in &node.inbound {
        resources.push(Resource::Cluster(clusters::inbound(mesh, node, inbound)));
        resources.push(Resource::Listener(listeners::inbound(mesh, node, inbound)));
    }
    resources
}

/// The outbound half of a node, while it grows; by kind and name, for many listeners lead to one cluster.
struct Outbound<'m> {
    mesh: &'m Mesh,
    node: &'m Workload,
    dialect: Dialect,
    resources: BTreeMap<(meshwork_model::proxy::Kind, String), Resource>,
}

impl<'m> Outbound<'m> {
    fn call(&mut self, port: &meshwork_model::mesh::Outbound) {
        let Some(called) = Called::find(self.mesh, &port.service, port.port) else { return };
        self.add(Resource::Listener(listeners::outbound(&called, port.bind)));
        self.lead_to(&called);
    }

    /// A proxyless gRPC client's target: `payments.shop.svc.cluster.local:50051`, `payments.shop:50051`, or
    /// `payments:50051` in the caller's namespace.
    fn target(&mut self, target: &str) {
        let Some(called) = Called::of_target(self.mesh, &self.node.key.namespace, target) else { return };
        if called.port.protocol.is_http() {
            self.add(Resource::Listener(listeners::api(&called, target)));
            self.lead_to(&called);
        }
    }

    fn lead_to(&mut self, called: &Called<'m>) {
        if !called.port.protocol.is_http() {
            self.add_cluster(called);
            return;
        }
        let namespace = &self.node.key.namespace;
        let (table, backends) = routes::outbound(self.mesh, called, namespace, self.dialect);
        self.add(Resource::Routes(table));
        for (key, port) in backends {
            if let Some(backend) = Called::find(self.mesh, &key, port) {
                self.add_cluster(&backend);
            }
        }
    }

    fn add_cluster(&mut self, called: &Called<'_>) {
        let (endpoints, transports) = endpoints::of(self.mesh, called);
        self.add(Resource::Cluster(clusters::outbound(called, transports, self.dialect)));
        self.add(Resource::Endpoints(endpoints));
    }

    fn add(&mut self, resource: Resource) {
        self.resources.insert((resource.kind(), resource.name().to_owned()), resource);
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
        let (host, port) = target.rsplit_once(':')?;
        let host = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
        let key = match host.split_once('.') {
            Some((name, namespace)) => Key::new(namespace, name),
            None => Key::new(Arc::clone(namespace), host),
        };
        Self::find(mesh, &key, port.parse().ok()?)
    }

    fn name(&self) -> ServiceName {
        ServiceName { name: Arc::clone(&self.key.name), namespace: Arc::clone(&self.key.namespace) }
    }

    /// The cluster's name, and that of its endpoints and of the route table of its callers.
    fn cluster(&self) -> Arc<str> {
        format!("outbound|{}||{}", self.port.port, self.name().host()).into()
    }
}

/// The services whose selector takes a workload, written ones first, by name.
fn services_of<'m>(mesh: &'m Mesh, workload: &Workload) -> impl Iterator<Item = (&'m Key, &'m Service)> {
    let of_namespace = mesh.services().filter(|(key, _)| key.namespace == workload.key.namespace);
    of_namespace.filter(|(_, service)| endpoints::serves(service, workload))
}

/// The service port behind a workload's inbound port, of the first service that has one.
fn served<'m>(mesh: &'m Mesh, workload: &Workload, port: u16) -> Option<Called<'m>> {
    let mut serving = services_of(mesh, workload).filter_map(|(key, service)| {
        let port = service.ports.iter().find(|p| p.target_port == port)?;
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
