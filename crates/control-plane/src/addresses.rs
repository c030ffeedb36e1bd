//! Whose virtual addresses are: what has a name in the mesh that captured programs can call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use meshwork_model::address::VirtualAddress;
use meshwork_model::mesh::{Config, Key, SERVICE_LABEL};

use crate::store::Enrolment;

/// Whose a virtual address is. Its text is its key in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Addressee {
    /// A service's.
    Service(Key),
    /// A workload's own.
    Workload(Key),
    /// That of a host outside the mesh, in lowercase.
    Host(Arc<str>),
}

/// Virtual addresses by whose they are.
pub type Addresses = BTreeMap<Addressee, VirtualAddress>;

impl fmt::Display for Addressee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "service {key}"),
            Self::Workload(key) => write!(f, "workload {key}"),
            Self::Host(host) => write!(f, "host {host}"),
        }
    }
}

/// What config gives a name.
pub(crate) fn of_config(config: &Config) -> Vec<Addressee> {
    let services = config.services.keys().cloned().map(Addressee::Service);
    let hosts = config.service_entries.values().flat_map(|entry| entry.hosts.iter().cloned());
    services.chain(hosts.map(Addressee::Host)).collect()
}

/// What an enrolment gives a name: the workload, and the service that its label may imply.
pub(crate) fn of_enrolment(enrolment: &Enrolment) -> Vec<Addressee> {
    let mut names = vec![Addressee::Workload(enrolment.workload.clone())];
    if let Some(service) = enrolment.labels.get(SERVICE_LABEL) {
        let namespace = Arc::clone(&enrolment.workload.namespace);
        names.push(Addressee::Service(Key::new(namespace, service.as_str())));
    }
    names
}
