//! Endpoints of a cluster, and the transports by which they are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_model::mesh::{MtlsMode, Protocol, Service, Workload, selects};
use meshwork_model::proxy::{self, Endpoint, Endpoints, MeshClient, TransportMatch};
use meshwork_model::spiffe::SpiffeId;

use super::{Called, Mesh, policy};

/// Whether a workload of the service's namespace is behind the service; an empty selector takes none.
pub(crate) fn serves(service: &Service, workload: &Workload) -> bool {
    !service.selector.is_empty() && selects(&service.selector, &workload.labels)
}

/// The endpoints of a service's port, and what a client must know to reach them.
///
/// A workload that is not ready is left out of the endpoints only: a cluster does not change with anybody's health.
pub(super) fn of(mesh: &Mesh, called: &Called<'_>) -> (Endpoints, Vec<TransportMatch>) {
    let mut behind = behind(mesh, called);
    // Who is not ready takes no address away from somebody who is.
    behind.sort_by_key(|(workload, _)| workload.unready.is_some());
    let (mut endpoints, transports) = reached(mesh, called.port.protocol, called.cluster(), &behind);
    let unready = behind.iter().filter(|(workload, _)| workload.unready.is_some());
    let unready: BTreeSet<&Arc<str>> = unready.map(|(workload, _)| &workload.key.name).collect();
    let is_ready =
        |endpoint: &Endpoint| endpoint.workload.as_ref().is_none_or(|w| !unready.contains(&w.name));
    endpoints.endpoints.retain(is_ready);
    (endpoints, transports)
}

/// Workloads at their addresses as the endpoints of a cluster, and what a client must know to reach them.
pub(super) fn reached(
    mesh: &Mesh,
    protocol: Protocol,
    cluster: Arc<str>,
    behind: &[(&Workload, SocketAddr)],
) -> (Endpoints, Vec<TransportMatch>) {
    let mut endpoints: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    let mut identities: BTreeSet<SpiffeId> = BTreeSet::new();
    // One plaintext entry takes every endpoint that no other does. It stands only where no endpoint demands mTLS,
    // so that an endpoint whose cluster is a moment behind is never reached in plaintext by mistake.
    let plaintext =
        !behind.is_empty() && behind.iter().all(|(w, _)| policy::mtls(mesh, w) == MtlsMode::Disable);
    for &(workload, address) in behind {
        if !plaintext && policy::mtls(mesh, workload) == MtlsMode::Disable {
            continue;
        }
        let transport = (!plaintext).then(|| Arc::from(workload.identity.as_str()));
        if transport.is_some() {
            identities.insert(workload.identity.clone());
        }
        let endpoint = Endpoint { transport, workload: Some(describe(workload)), ..Endpoint::new(address) };
        // Of two workloads that claim one address the first has it.
        endpoints.entry(address).or_insert(endpoint);
    }
    let transports = if plaintext {
        vec![TransportMatch { name: "plaintext".into(), transport: None, labels: Vec::new(), tls: None }]
    } else {
        mtls(mesh, protocol, identities.into_iter().collect())
    };
    (Endpoints::new(cluster, endpoints.into_values().collect()), transports)
}

fn behind<'m>(mesh: &'m Mesh, called: &Called<'_>) -> Vec<(&'m Workload, SocketAddr)> {
    let here = mesh.workloads.values().filter(|w| w.key.namespace == called.key.namespace);
    here.filter(|w| serves(called.service, w))
        .filter_map(|w| {
            let inbound = w.inbound.iter().find(|i| i.port == called.port.target_port)?;
            Some((&**w, inbound.bind))
        })
        .collect()
}

/// One transport for each identity. A cluster without endpoints has one that nobody can satisfy: an endpoint that
/// comes before its transport is then not reached at all, never in plaintext.
fn mtls(mesh: &Mesh, protocol: Protocol, identities: Vec<SpiffeId>) -> Vec<TransportMatch> {
    let alpn: Vec<Arc<str>> = match protocol {
        Protocol::Tcp => Vec::new(),
        protocol if protocol.is_http2() => vec!["h2".into()],
        _ => vec!["http/1.1".into()],
    };
    let tls = |id: SpiffeId| MeshClient {
        certificate: Some("default".into()),
        validation: "ROOTCA".into(),
        identities: vec![id],
        alpn: alpn.clone(),
        sni: "".into(),
    };
    if identities.is_empty() {
        let nobody = SpiffeId::workload(&mesh.trust_domain, crate::SYSTEM_NAMESPACE, "nobody");
        let refuse = |id| TransportMatch {
            name: "nobody".into(),
            transport: None,
            labels: Vec::new(),
            tls: Some(tls(id).into()),
        };
        return nobody.into_iter().map(refuse).collect();
    }
    let one = |id: SpiffeId| {
        let name: Arc<str> = id.as_str().into();
        TransportMatch {
            name: Arc::clone(&name),
            transport: Some(name),
            labels: Vec::new(),
            tls: Some(tls(id).into()),
        }
    };
    identities.into_iter().map(one).collect()
}

fn describe(workload: &Workload) -> proxy::Workload {
    let label = |name: &str| workload.labels.get(name).map_or("", String::as_str).into();
    proxy::Workload {
        name: Arc::clone(&workload.key.name),
        namespace: Arc::clone(&workload.key.namespace),
        app: label("app"),
        version: label("version"),
    }
}
