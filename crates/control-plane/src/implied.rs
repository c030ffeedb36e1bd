//! Services that nobody wrote: a workload that is enrolled with the label `meshwork.dev/service` makes the one that it
//! names be there. A written one of that name takes its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::mesh::{
    Config, Inbound, Key, Labels, Protocol, SERVICE_LABEL, Service, ServicePort, Workload,
};

/// The implied services. One whose workloads are all gone keeps the ports that it had in `earlier`, so that its callers
/// learn that nobody answers, not that there is no such name.
pub(crate) fn services(
    config: &Config,
    workloads: &BTreeMap<Key, Arc<Workload>>,
    earlier: &BTreeMap<Key, Service>,
) -> BTreeMap<Key, Service> {
    let mut services: BTreeMap<Key, Service> = BTreeMap::new();
    for workload in workloads.values() {
        let Some(name) = workload.labels.get(SERVICE_LABEL).filter(|name| crate::ingest::is_label(name))
        else {
            continue;
        };
        let key = Key::new(Arc::clone(&workload.key.namespace), name.as_str());
        let service =
            services.entry(key).or_insert_with(|| Service { ports: Vec::new(), selector: selector(name) });
        for inbound in &workload.inbound {
            add_port(service, inbound);
        }
    }
    for (key, service) in earlier {
        services.entry(key.clone()).or_insert_with(|| service.clone());
    }
    services.retain(|key, _| !config.services.contains_key(key));
    services
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
        protocol,
    });
    service.ports.sort_by_key(|port| port.port);
}
