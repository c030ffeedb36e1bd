//! What a node knows of: services and hosts that its Sidecar names, or all of them.
//!
//! A Sidecar that selects the workload goes before one for its namespace, and that before the mesh's. Source: Istio
//! `networking.istio.io/v1` Sidecar.

use std::sync::Arc;

use meshwork_model::mesh::{Key, OutsidePolicy, SeenHosts, ServiceEntry, Sidecar, Workload, selects};
use meshwork_model::proxy::ServiceName;

use super::Mesh;

/// What a node sees of the mesh.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'m> {
    sidecar: Option<&'m Sidecar>,
    own: &'m Arc<str>,
    mesh_wide: OutsidePolicy,
}

/// Whether a node knows of a service's port.
pub(crate) fn sees(mesh: &Mesh, node: &Workload, service: &Key, port: u16) -> bool {
    let name = ServiceName { name: Arc::clone(&service.name), namespace: Arc::clone(&service.namespace) };
    View::of(mesh, node).sees_port(&service.namespace, &name.host(), port)
}

impl<'m> View<'m> {
    /// What a node sees.
    pub(super) fn of(mesh: &'m Mesh, node: &'m Workload) -> Self {
        let here = |namespace: &str| {
            let from = Key::new(namespace, "");
            let namespace = Arc::clone(&from.namespace);
            mesh.config.sidecars.range(from..).take_while(move |(key, _)| key.namespace == namespace)
        };
        let own = &node.key.namespace;
        let selecting = here(own).find(|(_, s)| !s.selector.is_empty() && selects(&s.selector, &node.labels));
        let whole = |namespace| here(namespace).find(|(_, sidecar)| sidecar.selector.is_empty());
        let found = selecting.or_else(|| whole(own)).or_else(|| whole(crate::SYSTEM_NAMESPACE));
        Self { sidecar: found.map(|(_, sidecar)| sidecar), own, mesh_wide: mesh.config.outside }
    }

    /// Whether it knows of a host of a namespace.
    pub(super) fn sees(&self, namespace: &str, host: &str) -> bool {
        self.hosts().is_none_or(|hosts| hosts.iter().any(|one| one.take(self.own, namespace, host)))
    }

    /// Whether it knows of a port of a host of a namespace.
    pub(super) fn sees_port(&self, namespace: &str, host: &str, port: u16) -> bool {
        let is_it =
            |one: &SeenHosts| one.port.is_none_or(|only| only == port) && one.take(self.own, namespace, host);
        self.hosts().is_none_or(|hosts| hosts.iter().any(is_it))
    }

    /// Whether it knows of everything, but for what others keep to themselves.
    pub(super) fn sees_all(&self) -> bool {
        self.hosts().is_none()
    }

    /// Whether it knows of a host of an entry.
    pub(super) fn sees_entry(&self, key: &Key, entry: &ServiceEntry, host: &str) -> bool {
        entry.export.reaches(self.own) && self.sees(&key.namespace, host)
    }

    /// What it may reach that the mesh does not know.
    pub(super) fn outside(&self) -> OutsidePolicy {
        self.sidecar.and_then(|sidecar| sidecar.outside).unwrap_or(self.mesh_wide)
    }

    fn hosts(&self) -> Option<&'m Vec<SeenHosts>> {
        self.sidecar?.egress.as_ref()
    }
}
