//! Which proxies use which services.

use std::collections::{BTreeMap, BTreeSet};

use meshwork_model::mesh::Key;

/// Proxies by the services that they use, or look for in vain.
#[derive(Debug, Default)]
pub(super) struct Users {
    by_service: BTreeMap<Key, BTreeSet<Key>>,
    /// Those that depend on which services and workloads there are at all.
    wide: BTreeSet<Key>,
}

impl Users {
    /// Notes what a proxy uses, where it used other services before.
    pub(super) fn put(
        &mut self,
        proxy: &Key,
        before: &BTreeSet<Key>,
        services: &BTreeSet<Key>,
        is_wide: bool,
    ) {
        for gone in before.difference(services) {
            self.forget(gone, proxy);
        }
        for new in services.difference(before) {
            self.by_service.entry(new.clone()).or_default().insert(proxy.clone());
        }
        if is_wide {
            self.wide.insert(proxy.clone());
        } else {
            self.wide.remove(proxy);
        }
    }

    /// Takes out a proxy that used these services.
    pub(super) fn remove(&mut self, proxy: &Key, services: &BTreeSet<Key>) {
        for service in services {
            self.forget(service, proxy);
        }
        self.wide.remove(proxy);
    }

    fn forget(&mut self, service: &Key, proxy: &Key) {
        if let Some(users) = self.by_service.get_mut(service) {
            users.remove(proxy);
            if users.is_empty() {
                self.by_service.remove(service);
            }
        }
    }

    /// The proxies that use a service.
    pub(super) fn of(&self, service: &Key) -> impl Iterator<Item = &Key> {
        self.by_service.get(service).into_iter().flatten()
    }

    /// The proxies that depend on which services and workloads there are.
    pub(super) fn wide(&self) -> impl Iterator<Item = &Key> {
        self.wide.iter()
    }
}
