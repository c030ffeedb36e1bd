//! Hosts outside the mesh that a ServiceEntry names: a listener by virtual address and a cluster for each port.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use meshwork_model::address::VirtualAddress;
use meshwork_model::mesh::{EntryEndpoint, EntryPort, Resolution, ServiceEntry, Target, Workload};
use meshwork_model::proxy::{
    Cluster, Discovery, Dns, DnsHost, Endpoint, Endpoints, NamedEndpoint, Place, Resource, TransportMatch,
};

use super::listeners::Led;
use super::routes::{Calls, Lead};
use super::sidecar::View;
use super::traffic::{self, Members, Rules};
use super::{ClusterId, Mesh, Outbound, clusters, endpoints, listeners};
use crate::addresses::Addressee;

/// A port of a host, as a node calls it.
#[derive(Clone, Copy)]
struct Outside<'m> {
    mesh: &'m Mesh,
    node: &'m Workload,
    /// The namespace of the entry.
    namespace: &'m Arc<str>,
    entry: &'m ServiceEntry,
    host: &'m Arc<str>,
    port: &'m EntryPort,
}

impl<'m> Outbound<'m> {
    /// Adds what leads to every host outside that has a name and that the node sees.
    pub(super) fn hosts_outside(&mut self, view: &View<'_>) {
        let mesh = self.mesh;
        for (key, entry) in &mesh.config.service_entries {
            for host in entry.hosts.iter().filter(|host| view.sees_entry(key, entry, host)) {
                let Some(address) = mesh.addresses.get(&Addressee::Host(Arc::clone(host))) else { continue };
                for port in &entry.ports {
                    let namespace = &key.namespace;
                    let outside = Outside { mesh, node: self.node, namespace, entry, host, port };
                    self.host_outside(&outside, *address);
                }
            }
        }
    }

    fn host_outside(&mut self, outside: &Outside<'m>, address: VirtualAddress) {
        let (host, port) = (outside.host, outside.port);
        let calls = Calls { mesh: self.mesh, node: self.node, dialect: self.caller.dialect };
        let protocol = port.spoken();
        let ruled = if protocol.is_http() {
            let led = calls.routes_to_host(host, port.number, protocol);
            led.map(|(table, leads)| (Led::Requests(table), leads))
        } else {
            let led = calls.bytes_to_host(host, port.number);
            led.map(|(clusters, leads)| (Led::Bytes(clusters), leads))
        };
        let (led, leads) = ruled.unwrap_or_else(|| {
            let target = Target::Host(Arc::clone(host));
            (Led::Whole, [Lead::To { target, port: port.number, subset: None }].into())
        });
        let listener = listeners::outside(host, port, address, outside.name(None), led);
        self.add(Resource::Listener(listener));
        for lead in leads {
            match lead {
                Lead::To { target: Target::Service(service), port, subset } => {
                    self.add_cluster(ClusterId { service, port, subset });
                }
                other => self.lead_out(&other),
            }
        }
    }

    /// Adds the cluster of a host's port, or of a subset; nothing where no ServiceEntry that the node sees has it.
    pub(super) fn lead_to_host(&mut self, host: &Arc<str>, port: u16, subset: Option<&str>) {
        let mesh = self.mesh;
        let Some((key, entry)) = mesh.config.service_entries.iter().find(|(_, e)| e.hosts.contains(host))
        else {
            return;
        };
        let port = entry.ports.iter().find(|known| known.number == port);
        let host = entry.hosts.iter().find(|known| *known == host);
        let (Some(port), Some(host)) = (port, host) else { return };
        if !entry.export.reaches(&self.caller.namespace) {
            return;
        }
        // Whoever comes or goes may be one of them.
        self.is_wide |= matches!(entry.resolution, Resolution::Workloads(_));
        let outside = Outside { mesh, node: self.node, namespace: &key.namespace, entry, host, port };
        self.add(Resource::Cluster(outside.cluster(subset)));
    }
}

impl Outside<'_> {
    fn name(&self, subset: Option<&str>) -> Arc<str> {
        format!("outbound|{}|{}|{}", self.port.number, subset.unwrap_or_default(), self.host).into()
    }

    fn cluster(&self, subset: Option<&str>) -> Cluster {
        let rules = Rules::of_host(self.mesh, self.host, self.namespace, self.node);
        let terms = rules.terms(self.port.number, subset);
        let name = self.name(subset);
        let (discovery, transports) = self.reached(&name, rules.members(subset));
        let mut cluster = clusters::outside(name, discovery, self.port.spoken());
        traffic::apply_outside(&terms, &mut cluster);
        cluster.transports = match transports {
            Some(transports) => transports,
            None => traffic::outside_transports(&terms, self.host, &self.entry.names),
        };
        cluster
    }

    /// Where its endpoints come from; and by which transports they are reached, where they say so themselves.
    fn reached(&self, cluster: &Arc<str>, members: Members<'_>) -> (Discovery, Option<Vec<TransportMatch>>) {
        match &self.entry.resolution {
            Resolution::Dns(all) if all.is_empty() => {
                let host = DnsHost { host: Arc::clone(self.host), port: self.port.target_port };
                (Discovery::Dns(Dns::all_of(host)), None)
            }
            Resolution::Dns(all) => {
                let there = all.iter().filter(|endpoint| members.have(&endpoint.labels));
                let hosts: Vec<NamedEndpoint> = there.map(|endpoint| self.named(endpoint)).collect();
                let nobody = DnsHost { host: Arc::clone(self.host), port: self.port.target_port };
                (Discovery::Dns(Dns { hosts, ..Dns::all_of(nobody) }), None)
            }
            Resolution::Static(all) if all.iter().all(|endpoint| endpoint.account.is_none()) => {
                let there = all.iter().filter(|endpoint| members.have(&endpoint.labels));
                let endpoints = there.map(|endpoint| self.endpoint(endpoint)).collect();
                (Discovery::Static(Endpoints::new(Arc::clone(cluster), endpoints)), None)
            }
            resolution => {
                let called = (&*self.port.name, self.port.target_port);
                let (mut endpoints, transports) = endpoints::of_entry(
                    self.mesh,
                    self.namespace,
                    resolution,
                    called,
                    self.port.spoken(),
                    |labels| members.have(labels),
                );
                endpoints.cluster = Arc::clone(cluster);
                (Discovery::Static(endpoints), Some(transports))
            }
        }
    }

    fn named(&self, endpoint: &EntryEndpoint<Arc<str>>) -> NamedEndpoint {
        let port = endpoint.port(&self.port.name, self.port.target_port);
        let address = (Ipv4Addr::UNSPECIFIED, port).into();
        NamedEndpoint {
            host: DnsHost { host: Arc::clone(&endpoint.address), port },
            endpoint: Endpoint {
                hostname: Arc::clone(&endpoint.address),
                weight: endpoint.weight,
                place: Arc::new(Place { locality: endpoint.locality.clone(), ..Place::default() }),
                ..Endpoint::new(address)
            },
        }
    }

    fn endpoint(&self, endpoint: &EntryEndpoint<IpAddr>) -> Endpoint {
        let port = endpoint.port(&self.port.name, self.port.target_port);
        Endpoint {
            weight: endpoint.weight,
            place: Arc::new(Place { locality: endpoint.locality.clone(), ..Place::default() }),
            ..Endpoint::new(SocketAddr::new(endpoint.address, port))
        }
    }
}
