//! Names: what a captured program finds by DNS, and the virtual addresses that stand for it.
//!
//! Services have the names that Kubernetes gives them, workloads behind a service those of a StatefulSet's pods. Each
//! workload has one more by itself, `NAME.NAMESPACE.pod.cluster.local`. Source: Kubernetes "DNS for Services and Pods".

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{Capture, Key, Workload};
use meshwork_model::proxy::{NameTable, ServiceName, ZONE};

use super::Mesh;
use super::sidecar::View;
use crate::addresses::Addressee;

/// How long an answer may be kept: addresses never change, so that only names that come and go matter.
const TTL: Duration = Duration::from_secs(30);

/// The names that a node's program may call.
pub(super) fn table(mesh: &Mesh, node: &Workload, capture: &Capture) -> NameTable {
    let mut names: BTreeMap<Arc<str>, Vec<IpAddr>> = BTreeMap::new();
    let mut add = |name: String, of: Addressee| {
        if let Some(address) = mesh.addresses.get(&of) {
            names.insert(name.into(), address.both().to_vec());
        }
    };
    let view = View::of(mesh, node);
    for (key, entry) in &mesh.config.service_entries {
        for host in entry.hosts.iter().filter(|host| view.sees_entry(key, entry, host)) {
            add(host.to_string(), Addressee::Host(Arc::clone(host)));
        }
    }
    let sees = |service: &Key| {
        let name = ServiceName { name: Arc::clone(&service.name), namespace: Arc::clone(&service.namespace) };
        view.sees_all() || view.sees(&service.namespace, &name.host())
    };
    for workload in mesh.workloads.values() {
        let (name, namespace) = (&workload.key.name, &workload.key.namespace);
        if !view.sees_all() && !mesh.serving(&workload.key).any(|(service, _)| sees(service)) {
            continue;
        }
        add(format!("{name}.{namespace}.pod.{ZONE}"), Addressee::Workload(workload.key.clone()));
        for (service, _) in mesh.serving(&workload.key) {
            let full = format!("{name}.{}.{namespace}.svc.{ZONE}", service.name);
            add(full, Addressee::Workload(workload.key.clone()));
        }
    }
    // Last: where somebody outside has the name of a service, the service is meant.
    for (key, _) in mesh.services().filter(|(key, _)| sees(key)) {
        let short = format!("{}.{}", key.name, key.namespace);
        for name in [format!("{short}.svc.{ZONE}"), format!("{short}.svc"), short] {
            add(name, Addressee::Service(key.clone()));
        }
        if key.namespace == node.key.namespace {
            add(key.name.to_string(), Addressee::Service(key.clone()));
        }
    }
    NameTable { name: "names".into(), address: capture.names, ttl: TTL, names }
}
