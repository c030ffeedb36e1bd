//! Hosts outside the mesh that a ServiceEntry names: a listener by virtual address and a cluster for each port.

use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_model::mesh::{EntryEndpoint, EntryPort, EntryProtocol, Protocol, Resolution};
use meshwork_model::proxy::{Discovery, Dns, DnsHost, Endpoint, Endpoints, Resource};

use super::{Mesh, clusters, listeners};
use crate::addresses::Addressee;

/// What leads to every host outside that has a name.
pub(super) fn resources(mesh: &Mesh) -> Vec<Resource> {
    let mut resources = Vec::new();
    for entry in mesh.config.service_entries.values() {
        for host in &entry.hosts {
            let Some(address) = mesh.addresses.get(&Addressee::Host(Arc::clone(host))) else { continue };
            for port in &entry.ports {
                let cluster: Arc<str> = format!("outbound|{}||{host}", port.number).into();
                let discovery = discovery(&entry.resolution, host, port, &cluster);
                let protocol = match port.protocol {
                    EntryProtocol::Plain(protocol) => protocol,
                    EntryProtocol::Tls => Protocol::Tcp,
                };
                resources.push(Resource::Cluster(clusters::outside(
                    Arc::clone(&cluster),
                    discovery,
                    protocol,
                )));
                resources.push(Resource::Listener(listeners::outside(host, port, *address, cluster)));
            }
        }
    }
    resources
}

fn discovery(resolution: &Resolution, host: &Arc<str>, port: &EntryPort, cluster: &Arc<str>) -> Discovery {
    let by_name = |host: &Arc<str>, port| {
        Discovery::Dns(Dns::all_of(DnsHost { host: host.to_ascii_lowercase().into(), port }))
    };
    match resolution {
        Resolution::Dns(None) => by_name(host, port.target_port),
        Resolution::Dns(Some(endpoint)) => by_name(&endpoint.address, real_port(endpoint, port)),
        Resolution::Static(endpoints) => {
            let endpoint = |endpoint: &EntryEndpoint<_>| {
                Endpoint::new(SocketAddr::new(endpoint.address, real_port(endpoint, port)))
            };
            let endpoints = endpoints.iter().map(endpoint).collect();
            Discovery::Static(Endpoints::new(Arc::clone(cluster), endpoints))
        }
    }
}

fn real_port<A>(endpoint: &EntryEndpoint<A>, port: &EntryPort) -> u16 {
    endpoint.ports.get(&port.name).copied().unwrap_or(port.target_port)
}
