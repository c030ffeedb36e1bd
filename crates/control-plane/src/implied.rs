//! Services that nobody wrote: a workload that is enrolled with the label `meshwork.dev/service` makes the one that it
//! names be there. A written one of that name takes its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::mesh::{
    Config, Inbound, Key, Labels, Protocol, SERVICE_LABEL, Service, ServicePort, Workload,
};

/// All implied services. One whose workloads are all gone keeps the ports that it had in `earlier`, so that its callers
/// learn that nobody answers, not that there is no such name.
pub(crate) fn services(
    config: &Config,
    workloads: &BTreeMap<Key, Arc<Workload>>,
    earlier: &BTreeMap<Key, Service>,
) -> BTreeMap<Key, Service> {
    let mut labelled: BTreeMap<Key, Vec<&Arc<Workload>>> = BTreeMap::new();
    for workload in workloads.values() {
        if let Some(name) = workload.labels.get(SERVICE_LABEL) {
            let key = Key::new(Arc::clone(&workload.key.namespace), name.as_str());
            labelled.entry(key).or_default().push(workload);
        }
    }
    let keys = labelled.keys().chain(earlier.keys()).filter(|key| !config.services.contains_key(*key));
    let one = |key: &Key| {
        let workloads = labelled.get(key).into_iter().flatten().copied();
        Some((key.clone(), service(key, workloads, earlier.get(key))?))
    };
    keys.filter_map(one).collect()
}

/// The service that workloads imply whose label names it, in their order by name; without any, the `earlier` one.
pub(crate) fn service<'w>(
    key: &Key,
    workloads: impl Iterator<Item = &'w Arc<Workload>>,
    earlier: Option<&Service>,
) -> Option<Service> {
    let mut found: Option<Service> = None;
    for workload in workloads.filter(|_| crate::ingest::is_label(&key.name)) {
        let service =
            found.get_or_insert_with(|| Service { ports: Vec::new(), selector: selector(&key.name) });
        for inbound in &workload.inbound {
            add_port(service, inbound);
        }
    }
    found.or_else(|| earlier.cloned())
}

fn selector(service: &str) -> Labels {
    [(SERVICE_LABEL.to_owned(), service.to_owned())].into()
}

/// A port is there once; of several workloads that have it the first by name says what is spoken on it.
fn add_port(service: &mut Service, inbound: &Inbound) {
    if service.ports.iter().any(|port| port.port == inbound.port) {
        return;
    }
    let protocol = inbound.protocol.unwrap_or(Protocol::Http);
    service.ports.push(ServicePort {
        name: format!("{}-{}", protocol.name(), inbound.port).into(),
        port: inbound.port,
        target_port: inbound.port,
        is_named_target: false,
        protocol,
    });
    service.ports.sort_by_key(|port| port.port);
}
