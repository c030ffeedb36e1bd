//! What a captured program may call: every service and every workload by virtual address, hosts outside as policy says.
//!
//! Connections reach the proxy at `virtualOutbound`, which hands them over by the address that they were meant for; the
//! other listeners have no sockets. Source: Envoy `use_original_dst`, `bind_to_port`; Istio's `virtualOutbound`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_model::mesh::{Capture, Inbound, OutsidePolicy, Workload};
use meshwork_model::proxy::Resource;

use super::{Called, Mesh, Outbound, clusters, endpoints, listeners, names, outside, served};
use crate::addresses::Addressee;

/// A port of one workload, as it is called by the workload's own address.
pub(super) struct Direct<'m> {
    pub(super) workload: &'m Workload,
    pub(super) inbound: &'m Inbound,
    /// The service's port that leads there.
    pub(super) called: Called<'m>,
}

impl Direct<'_> {
    /// The cluster's name: the workload is a subset of its service.
    pub(super) fn cluster(&self) -> Arc<str> {
        let (port, name) = (self.inbound.port, &self.workload.key.name);
        format!("outbound|{port}|{name}|{}", self.called.name().host()).into()
    }
}

impl Outbound<'_> {
    /// Adds all that a captured program may call.
    pub(super) fn capture(&mut self, capture: &Capture) {
        let mesh = self.mesh;
        let policy = mesh.config.outside;
        self.add(Resource::Listener(listeners::virtual_outbound(capture, policy)));
        self.add(Resource::Cluster(match policy {
            OutsidePolicy::Allow => clusters::passthrough(),
            OutsidePolicy::Deny => clusters::black_hole(),
        }));
        self.add(Resource::Names(names::table(mesh, self.node, capture)));
        for (key, service) in mesh.services() {
            let Some(address) = mesh.addresses.get(&Addressee::Service(key.clone())) else { continue };
            for port in &service.ports {
                let called = Called { key, service, port };
                self.add(Resource::Listener(listeners::captured(&called, *address)));
                self.lead_to(&called);
            }
        }
        self.workloads();
        for resource in outside::resources(mesh) {
            self.add(resource);
        }
    }

    fn workloads(&mut self) {
        let mesh = self.mesh;
        let shared = claims_of_hosts(mesh);
        for workload in mesh.workloads.values() {
            let Some(address) = mesh.addresses.get(&Addressee::Workload(workload.key.clone())) else {
                continue;
            };
            for inbound in &workload.inbound {
                let Some(called) = served(mesh, workload, inbound.port) else { continue };
                let direct = Direct { workload, inbound, called };
                let behind = [(&**workload, inbound.bind)];
                let (endpoints, transports) =
                    endpoints::reached(mesh, called.port.protocol, direct.cluster(), &behind);
                self.add(Resource::Cluster(clusters::direct(&direct, endpoints, transports)));
                let host = on_host(inbound).filter(|host| shared.get(host) == Some(&1));
                self.add(Resource::Listener(listeners::direct(&direct, *address, host)));
            }
        }
    }
}

/// Where a port would be on its workload's host, if the program listened there itself. A loopback address says nothing
/// of whose host that is.
fn on_host(inbound: &Inbound) -> Option<SocketAddr> {
    let ip = inbound.bind.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then(|| SocketAddr::new(ip, inbound.port))
}

/// How many workloads have a port at each address of a host: of two, neither is meant.
fn claims_of_hosts(mesh: &Mesh) -> BTreeMap<SocketAddr, usize> {
    let mut claims = BTreeMap::new();
    for address in mesh.workloads.values().flat_map(|w| &w.inbound).filter_map(on_host) {
        *claims.entry(address).or_default() += 1;
    }
    claims
}
