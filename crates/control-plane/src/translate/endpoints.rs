//! Endpoints of a cluster, and the transports by which they are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshwork_model::mesh::{
    EndpointSlice, EntryEndpoint, Inbound, Key, Labels, MtlsMode, Protocol, Resolution, Service,
    SliceEndpoint, Workload, selects,
};
use meshwork_model::proxy::{self, Endpoint, Endpoints, Locality, MeshClient, Place, TransportMatch};
use meshwork_model::spiffe::SpiffeId;

use super::{Called, Mesh, backend_tls, policy};

/// The mark of addresses that are called in plaintext beside others that demand mTLS.
const PLAINTEXT: &str = "plaintext";

/// Whether a workload of the service's namespace is behind the service; an empty selector takes none.
pub(crate) fn serves(service: &Service, workload: &Workload) -> bool {
    !service.selector.is_empty() && selects(&service.selector, &workload.labels)
}

/// An address, and what is known of who is there.
struct Behind<'m> {
    address: SocketAddr,
    reach: Reach,
    /// Its name and its labels, where there are such.
    who: Option<(&'m Key, &'m Labels)>,
    weight: u32,
    locality: &'m Locality,
    /// Whether it takes requests.
    is_ready: bool,
    /// Whether it would still answer where nobody takes any.
    is_serving: bool,
}

/// How an address is called.
enum Reach {
    Mtls(SpiffeId),
    /// As the workload's policy has it.
    Plaintext,
    /// As whoever wrote the address asked for, whatever others demand.
    MarkedPlaintext,
}

impl Behind<'_> {
    /// Whether nobody is to believe who is there any more.
    fn is_revoked(&self, mesh: &Mesh) -> bool {
        matches!(&self.reach, Reach::Mtls(identity) if mesh.revoked.contains(identity))
    }
}

/// The endpoints of a service's port, and what a client must know to reach them.
///
/// A workload that is not ready is left out of the endpoints only: a cluster does not change with anybody's health.
///
/// A subset has a name, and the labels that its endpoints have; nobody is in one without.
pub(super) fn of(
    mesh: &Mesh,
    called: &Called<'_>,
    subset: Option<(&str, Option<&Labels>)>,
) -> (Endpoints, Vec<TransportMatch>) {
    let mut behind = behind(mesh, called);
    if let Some((_, labels)) = subset {
        let is_in = |of_one: &Labels| labels.is_some_and(|labels| selects(labels, of_one));
        behind.retain(|one| one.who.is_some_and(|(_, labels)| is_in(labels)));
    }
    // Who is not ready takes no address away from somebody who is.
    behind.sort_by_key(|one| !one.is_ready);
    let is_any_ready = behind.iter().any(|one| one.is_ready && !one.is_revoked(mesh));
    let is_taken = |one: &Behind<'_>| if is_any_ready { one.is_ready } else { one.is_serving };
    let cluster = called.cluster_of(subset.map(|(name, _)| name));
    let (endpoints, mut transports) = reached(mesh, called.port.protocol, cluster, &behind, is_taken);
    // What is called otherwise than by mTLS may have TLS of its own.
    let tls = backend_tls::of(mesh, called);
    if tls.is_some() {
        for transport in transports.iter_mut().filter(|transport| transport.tls.is_none()) {
            transport.name = "tls".into();
            transport.tls.clone_from(&tls);
        }
    }
    (endpoints, transports)
}

/// One workload at its address as the endpoint of a cluster, and what a client must know to reach it.
pub(super) fn only(
    mesh: &Mesh,
    protocol: Protocol,
    cluster: Arc<str>,
    workload: &Workload,
    inbound: &Inbound,
) -> (Endpoints, Vec<TransportMatch>) {
    reached(mesh, protocol, cluster, &[at_workload(mesh, workload, inbound)], |_| true)
}

fn reached(
    mesh: &Mesh,
    protocol: Protocol,
    cluster: Arc<str>,
    behind: &[Behind<'_>],
    is_taken: impl Fn(&Behind<'_>) -> bool,
) -> (Endpoints, Vec<TransportMatch>) {
    let mut endpoints: BTreeMap<SocketAddr, Option<Endpoint>> = BTreeMap::new();
    let mut identities: BTreeSet<SpiffeId> = BTreeSet::new();
    let mut places = Places::default();
    // One plaintext entry takes every endpoint that no other does. It stands only where no endpoint demands mTLS,
    // so that an endpoint whose cluster is a moment behind is never reached in plaintext by mistake.
    let plaintext = !behind.is_empty() && behind.iter().all(|one| !matches!(one.reach, Reach::Mtls(_)));
    let mut is_marked = false;
    for one in behind {
        let transport: Option<Arc<str>> = match &one.reach {
            _ if plaintext => None,
            Reach::Plaintext => continue,
            // It is none of the endpoints, and makes those beside it no plaintext ones.
            Reach::Mtls(_) if one.is_revoked(mesh) => continue,
            Reach::MarkedPlaintext => {
                is_marked = true;
                Some(PLAINTEXT.into())
            }
            Reach::Mtls(identity) => {
                identities.insert(identity.clone());
                Some(identity.as_str().into())
            }
        };
        // Of two that claim one address the first has it.
        endpoints.entry(one.address).or_insert_with(|| {
            let endpoint = || Endpoint {
                transport,
                workload: one.who.map(describe),
                weight: one.weight,
                place: places.of(one.locality),
                ..Endpoint::new(one.address)
            };
            is_taken(one).then(endpoint)
        });
    }
    let transports = if plaintext {
        vec![in_plaintext(None)]
    } else {
        let marked = is_marked.then(|| in_plaintext(Some(PLAINTEXT.into())));
        mtls(mesh, protocol, identities).into_iter().chain(marked).collect()
    };
    let mut endpoints: Vec<Endpoint> = endpoints.into_values().flatten().collect();
    // By wire they come place by place.
    endpoints.sort_by(|a, b| a.place.locality.cmp(&b.place.locality));
    (Endpoints::new(cluster, endpoints), transports)
}

fn in_plaintext(mark: Option<Arc<str>>) -> TransportMatch {
    TransportMatch { name: PLAINTEXT.into(), transport: mark, labels: Vec::new(), tls: None }
}

fn behind<'m>(mesh: &'m Mesh, called: &Called<'_>) -> Vec<Behind<'m>> {
    let workloads = mesh.behind(called.key).filter_map(|workload| {
        let inbound = called.port.inbound(workload)?;
        Some(at_workload(mesh, workload, inbound))
    });
    let slices = mesh.slices(called.key).filter_map(|slice| {
        let port = slice.port(&called.port.name, called.port.target_port)?;
        Some(slice.endpoints.iter().filter_map(move |one| at_slice(mesh, called.key, slice, one, port)))
    });
    let port = (&*called.port.name, called.port.target_port);
    let namespace = &called.key.namespace;
    let entries = entries(mesh, namespace, &called.service.selector)
        .filter_map(|(key, entry)| at_entry(mesh, Some(key), namespace, entry, port));
    workloads.chain(slices.flatten()).chain(entries).collect()
}

/// The WorkloadEntries of a namespace that a selector takes.
fn entries<'m>(
    mesh: &'m Mesh,
    namespace: &Arc<str>,
    selector: &Labels,
) -> impl Iterator<Item = (&'m Key, &'m EntryEndpoint<IpAddr>)> {
    let here = mesh.config.workload_entries.range(Key::new(Arc::clone(namespace), "")..);
    let here = here.take_while(move |(key, _)| key.namespace == *namespace);
    here.filter(move |(_, entry)| !selector.is_empty() && selects(selector, &entry.labels))
}

/// An address that somebody wrote; `port` is the name and the number of the port that is called there.
fn at_entry<'m>(
    mesh: &Mesh,
    key: Option<&'m Key>,
    namespace: &str,
    entry: &'m EntryEndpoint<IpAddr>,
    port: (&str, u16),
) -> Option<Behind<'m>> {
    let reach = match &entry.account {
        Some(account) => Reach::Mtls(SpiffeId::workload(&mesh.trust_domain, namespace, account).ok()?),
        None => Reach::MarkedPlaintext,
    };
    Some(Behind {
        address: SocketAddr::new(entry.address, entry.port(port.0, port.1)),
        reach,
        who: key.map(|key| (key, &entry.labels)),
        weight: entry.weight,
        locality: &entry.locality,
        is_ready: true,
        is_serving: true,
    })
}

/// The endpoints of a ServiceEntry's port that are workloads, or say which they are; `is_in` looks at their labels.
pub(super) fn of_entry(
    mesh: &Mesh,
    namespace: &Arc<str>,
    resolution: &Resolution,
    port: (&str, u16),
    protocol: Protocol,
    is_in: impl Fn(&Labels) -> bool,
) -> (Endpoints, Vec<TransportMatch>) {
    let mut behind = Vec::new();
    match resolution {
        Resolution::Dns(_) => {}
        Resolution::Static(endpoints) => {
            let there = endpoints.iter().filter(|endpoint| is_in(&endpoint.labels));
            behind.extend(there.filter_map(|endpoint| at_entry(mesh, None, namespace, endpoint, port)));
        }
        Resolution::Workloads(selector) => {
            let here = mesh.workloads.range(Key::new(Arc::clone(namespace), "")..);
            let here = here.map(|(_, workload)| &**workload).take_while(|w| w.key.namespace == *namespace);
            let there = here.filter(|w| selects(selector, &w.labels) && is_in(&w.labels));
            behind.extend(there.filter_map(|workload| {
                let inbound = workload.inbound.iter().find(|inbound| inbound.port == port.1)?;
                Some(at_workload(mesh, workload, inbound))
            }));
            let entries = entries(mesh, namespace, selector).filter(|(_, entry)| is_in(&entry.labels));
            behind
                .extend(entries.filter_map(|(key, entry)| at_entry(mesh, Some(key), namespace, entry, port)));
        }
    }
    behind.sort_by_key(|one| !one.is_ready);
    reached(mesh, protocol, "".into(), &behind, |one| one.is_ready)
}

fn at_workload<'m>(mesh: &Mesh, workload: &'m Workload, inbound: &Inbound) -> Behind<'m> {
    Behind {
        address: inbound.bind,
        reach: match policy::mtls(mesh, workload, inbound.port) {
            MtlsMode::Disable => Reach::Plaintext,
            MtlsMode::Strict | MtlsMode::Permissive => Reach::Mtls(workload.identity.clone()),
        },
        who: Some((&workload.key, &workload.labels)),
        weight: 1,
        locality: &workload.locality,
        is_ready: workload.unready.is_none(),
        is_serving: false,
    }
}

/// An address of a slice. That of a workload that is here is where its proxy takes the port; one without a proxy on it
/// is called as the workload all the same, never in plaintext.
fn at_slice<'m>(
    mesh: &'m Mesh,
    service: &Key,
    slice: &'m EndpointSlice,
    endpoint: &'m SliceEndpoint,
    port: u16,
) -> Option<Behind<'m>> {
    let namespace = &service.namespace;
    let key = endpoint.workload.as_ref().map(|name| Key::new(Arc::clone(namespace), Arc::clone(name)));
    let workload = key.and_then(|key| mesh.workloads.get(&key)).map(|workload| &**workload);
    let inbound = workload.and_then(|workload| workload.inbound.iter().find(|inbound| inbound.port == port));
    if let Some((workload, inbound)) = workload.zip(inbound) {
        let behind = at_workload(mesh, workload, inbound);
        let is_ready = behind.is_ready && endpoint.ready;
        return Some(Behind { is_ready, ..behind });
    }
    let reach = match (workload, &slice.service_account) {
        (Some(workload), _) => Reach::Mtls(workload.identity.clone()),
        (None, Some(account)) => {
            Reach::Mtls(SpiffeId::workload(&mesh.trust_domain, namespace, account).ok()?)
        }
        (None, None) => Reach::MarkedPlaintext,
    };
    Some(Behind {
        address: SocketAddr::new(endpoint.address, port),
        reach,
        who: workload.map(|workload| (&workload.key, &workload.labels)),
        weight: 1,
        locality: &endpoint.locality,
        is_ready: endpoint.ready && workload.is_none_or(|workload| workload.unready.is_none()),
        is_serving: endpoint.serving,
    })
}

/// Places by locality: endpoints of one share it.
#[derive(Default)]
struct Places<'m>(BTreeMap<&'m Locality, Arc<Place>>);

impl<'m> Places<'m> {
    fn of(&mut self, locality: &'m Locality) -> Arc<Place> {
        let place = || Arc::new(Place { locality: locality.clone(), ..Place::default() });
        Arc::clone(self.0.entry(locality).or_insert_with(place))
    }
}

/// One transport for each identity. What is offered by ALPN tells a permissive port that mTLS is spoken.
///
/// A cluster without endpoints has one that nobody can satisfy: an endpoint that
/// comes before its transport is then not reached at all, never in plaintext.
fn mtls(mesh: &Mesh, protocol: Protocol, identities: BTreeSet<SpiffeId>) -> Vec<TransportMatch> {
    let alpn: Vec<Arc<str>> = match protocol {
        Protocol::Tcp => vec!["istio".into()],
        protocol if protocol.is_http2() => vec!["istio-h2".into(), "h2".into()],
        _ => vec!["istio-http/1.1".into(), "http/1.1".into()],
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

fn describe((key, labels): (&Key, &Labels)) -> proxy::Workload {
    let label = |name: &str| labels.get(name).map_or("", String::as_str).into();
    proxy::Workload {
        name: Arc::clone(&key.name),
        namespace: Arc::clone(&key.namespace),
        app: label("app"),
        version: label("version"),
    }
}
