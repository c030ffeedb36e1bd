//! What a captured program may call: every service and every workload by virtual address, hosts outside as policy says.
//!
//! Connections reach the proxy at `virtualOutbound`, which hands them over by the address that they were meant for; the
//! other listeners have no sockets. Source: Envoy `use_original_dst`, `bind_to_port`; Istio's `virtualOutbound`.

use std::sync::Arc;

use meshwork_model::mesh::{Capture, Inbound, OutsidePolicy, Workload};
use meshwork_model::proxy::Resource;

use super::sidecar::View;
use super::{Called, Outbound, clusters, endpoints, listeners, names, served};
use crate::addresses::Addressee;

/// A port of one workload, as it is called by the workload's own address.
pub(super) struct Direct<'m> {
    pub(super) workload: &'m Workload,
    pub(super) inbound: &'m Inbound,
    /// The service's port that leads there.
    pub(super) called: Called<'m>,
}

impl Direct<'_> {
    /// The cluster's name: the workload is a subset of its service, by a name that no DestinationRule gives one.
    pub(super) fn cluster(&self) -> Arc<str> {
        let (port, name) = (self.inbound.port, &self.workload.key.name);
        format!("outbound|{port}|{name}.pod|{}", self.called.name().host()).into()
    }
}

impl Outbound<'_> {
    /// Adds all that a captured program may call.
    pub(super) fn capture(&mut self, capture: &Capture) {
        let mesh = self.mesh;
        let view = View::of(mesh, self.node);
        let policy = view.outside();
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
                if !view.sees_port(&key.namespace, &called.name().host(), port.port) {
                    continue;
                }
                let chains = self.lead_to(&called);
                self.add(Resource::Listener(listeners::captured(&called, *address, chains)));
            }
        }
        self.workloads(&view);
        self.hosts_outside(&view);
    }

    fn workloads(&mut self, view: &View<'_>) {
        let mesh = self.mesh;
        for workload in mesh.workloads.values() {
            let Some(address) = mesh.addresses.get(&Addressee::Workload(workload.key.clone())) else {
                continue;
            };
            for inbound in &workload.inbound {
                let Some(called) = served(mesh, workload, inbound.port) else { continue };
                if !view.sees(&called.key.namespace, &called.name().host()) {
                    continue;
                }
                let direct = Direct { workload, inbound, called };
                let (endpoints, transports) =
                    endpoints::only(mesh, called.port.protocol, direct.cluster(), workload, inbound);
                self.add(Resource::Cluster(clusters::direct(&direct, endpoints, transports)));
                // By its virtual address alone: where it says that it listens on its host is nobody's proof.
                self.add(Resource::Listener(listeners::direct(&direct, *address)));
            }
        }
    }
}
