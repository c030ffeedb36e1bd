//! Publishing: every proxy is given what it runs by the mesh of now, where that differs from what it has.
//!
//! Endpoints go at once, and only to the proxies that use their service. Everything else waits until nothing more comes
//! for a moment, so that a group of changes is one. A proxy has one snapshot to come at most: the newest.

use std::collections::BTreeMap;

use meshwork_model::mesh::Key;
use tokio::time::Instant;

use super::{State, World};
use crate::translate::{self, Caller, ClusterId};

/// How many proxies are given everything in one go; then others have their turn.
const AT_ONCE: usize = 32;

impl World {
    /// Gives everything to everybody.
    #[cfg(test)]
    pub(crate) fn publish(&self) {
        self.publish_endpoints();
        while self.publish_some() {}
    }

    /// Gives endpoints that changed to the proxies that use them.
    pub(crate) fn publish_endpoints(&self) {
        let mut state = self.lock();
        state.publish_endpoints();
        state.note_given();
    }

    /// When [`World::publish_some`] is to be called next.
    pub(crate) fn next_publish(&self) -> Option<Instant> {
        self.lock().dirty.due()
    }

    /// Gives some of the proxies whose config changed what they run now; says whether there are more.
    pub(crate) fn publish_some(&self) -> bool {
        let mut state = self.lock();
        for _ in 0..AT_ONCE {
            let Some(key) = state.dirty.next_proxy() else { break };
            state.publish_to(&key);
        }
        let has_more = state.dirty.next_proxy().is_some();
        if !has_more {
            state.encoder.forget_unused();
            state.memo.forget_unused();
        }
        state.note_given();
        has_more
    }
}

impl State {
    pub(super) fn publish_to(&mut self, key: &Key) {
        self.dirty.clean(key);
        let Some(workload) = self.mesh.workloads.get(key) else { return };
        let Some(proxy) = self.proxies.get_mut(key) else { return };
        let translated =
            translate::translate(&self.mesh, workload, proxy.dialect, &proxy.wanted, &mut self.memo);
        self.users.put(key, &proxy.services, &translated.services, translated.is_wide);
        proxy.services = translated.services;
        proxy.clusters = translated.clusters;
        if self.encoder.publish(&mut proxy.published, translated.resources, proxy.dialect, &proxy.sds) {
            self.counters.pushes += 1;
            proxy.hand_over(self.given);
        } else {
            // Nothing is all that some have.
            proxy.settle();
        }
    }

    fn publish_endpoints(&mut self) {
        let mut dirty: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
        for service in self.dirty.take_services() {
            for user in self.users.of(&service) {
                dirty.entry(user.clone()).or_default().push(service.clone());
            }
        }
        for (user, services) in dirty {
            self.patch(&user, &services);
        }
    }

    /// Gives a proxy the clusters and endpoints of services.
    fn patch(&mut self, key: &Key, services: &[Key]) {
        let Some(workload) = self.mesh.workloads.get(key) else { return };
        let Some(proxy) = self.proxies.get_mut(key) else { return };
        let caller = Caller::of(&self.mesh, workload, proxy.dialect);
        let mut resources = Vec::new();
        for service in services {
            let from = proxy.clusters.range(ClusterId::whole(service.clone(), 0)..);
            for id in from.take_while(|id| id.service == *service) {
                resources.extend(self.memo.cluster(&self.mesh, workload, &caller, id));
            }
        }
        if self.encoder.patch(&mut proxy.published, resources, proxy.dialect, &proxy.sds) {
            self.counters.pushes += 1;
            proxy.hand_over(self.given);
        }
    }

    /// Where nothing is left to give, all proxies have been given the newest revision.
    pub(super) fn note_given(&mut self) {
        if self.dirty.is_empty() {
            self.given = self.revision;
        }
    }
}
