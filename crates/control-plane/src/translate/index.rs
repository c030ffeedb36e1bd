//! Who is behind which service, kept up to date change by change, so that no translation looks through the whole mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::mesh::{Config, EndpointSlice, Key, Labels, SERVICE_LABEL, Service, Workload};

use super::endpoints::serves;

/// Services and what is behind them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// Services by namespace and by the first label that they select by.
    selecting: BTreeMap<(Arc<str>, String, String), BTreeSet<Key>>,
    /// The workloads that a service selects.
    behind: BTreeMap<Key, BTreeSet<Key>>,
    /// The services that select a workload.
    serving: BTreeMap<Key, BTreeSet<Key>>,
    /// The slices that are behind a service.
    slices: BTreeMap<Key, BTreeSet<Key>>,
    /// The services with a slice that names the workload.
    naming: BTreeMap<Key, BTreeSet<Key>>,
    /// The workloads whose label names the service, whether it selects them or not.
    labelled: BTreeMap<Key, BTreeSet<Key>>,
}

impl Index {
    /// Services that were there before, or are written anew, are to be taken out first.
    pub(super) fn add_service<'w>(
        &mut self,
        key: &Key,
        service: &Service,
        workloads: impl Iterator<Item = &'w Arc<Workload>>,
    ) {
        let Some(first) = first_label(key, &service.selector) else { return };
        self.selecting.entry(first).or_default().insert(key.clone());
        for workload in workloads.filter(|w| w.key.namespace == key.namespace && serves(service, w)) {
            self.join(key, &workload.key);
        }
    }

    pub(super) fn remove_service(&mut self, key: &Key, service: &Service) {
        if let Some(first) = first_label(key, &service.selector) {
            remove(&mut self.selecting, &first, key);
        }
        for workload in self.behind.remove(key).unwrap_or_default() {
            remove(&mut self.serving, &workload, key);
        }
    }

    /// Adds a workload that is not there; `of` finds a service.
    pub(super) fn add_workload<'s>(&mut self, workload: &Workload, of: impl Fn(&Key) -> Option<&'s Service>) {
        if let Some(service) = labelled(workload) {
            self.labelled.entry(service).or_default().insert(workload.key.clone());
        }
        for (label, value) in &workload.labels {
            let first = (Arc::clone(&workload.key.namespace), label.clone(), value.clone());
            for key in self.selecting.get(&first).cloned().unwrap_or_default() {
                if of(&key).is_some_and(|service| serves(service, workload)) {
                    self.join(&key, &workload.key);
                }
            }
        }
    }

    pub(super) fn remove_workload(&mut self, workload: &Workload) {
        for service in self.serving.remove(&workload.key).unwrap_or_default() {
            remove(&mut self.behind, &service, &workload.key);
        }
        if let Some(service) = labelled(workload) {
            remove(&mut self.labelled, &service, &workload.key);
        }
    }

    pub(super) fn add_slice(&mut self, key: &Key, slice: &EndpointSlice) {
        let Some(service) = service_of(key, slice) else { return };
        for workload in named(key, slice) {
            self.naming.entry(workload).or_default().insert(service.clone());
        }
        self.slices.entry(service).or_default().insert(key.clone());
    }

    /// Takes a slice out; of the other slices of its service, those that name the same workloads are to be added again.
    pub(super) fn remove_slice(&mut self, key: &Key, slice: &EndpointSlice, config: &Config) {
        let Some(service) = service_of(key, slice) else { return };
        remove(&mut self.slices, &service, key);
        for workload in named(key, slice) {
            remove(&mut self.naming, &workload, &service);
        }
        for other in self.slices.get(&service).cloned().unwrap_or_default() {
            if let Some(slice) = config.endpoint_slices.get(&other) {
                self.add_slice(&other, slice);
            }
        }
    }

    fn join(&mut self, service: &Key, workload: &Key) {
        self.behind.entry(service.clone()).or_default().insert(workload.clone());
        self.serving.entry(workload.clone()).or_default().insert(service.clone());
    }

    /// The workloads that a service selects, by name.
    pub(super) fn behind(&self, service: &Key) -> impl Iterator<Item = &Key> {
        self.behind.get(service).into_iter().flatten()
    }

    /// The workloads whose label names a service.
    pub(super) fn labelled(&self, service: &Key) -> impl Iterator<Item = &Key> {
        self.labelled.get(service).into_iter().flatten()
    }

    /// The services that select a workload, by name.
    pub(super) fn serving(&self, workload: &Key) -> impl Iterator<Item = &Key> {
        self.serving.get(workload).into_iter().flatten()
    }

    /// The slices behind a service, by name.
    pub(super) fn slices(&self, service: &Key) -> impl Iterator<Item = &Key> {
        self.slices.get(service).into_iter().flatten()
    }

    /// The services whose endpoints a workload is among.
    pub(super) fn touched(&self, workload: &Key) -> BTreeSet<Key> {
        self.serving(workload).chain(self.naming.get(workload).into_iter().flatten()).cloned().collect()
    }
}

/// The service that a workload's label names.
pub(super) fn labelled(workload: &Workload) -> Option<Key> {
    let name = workload.labels.get(SERVICE_LABEL)?;
    Some(Key::new(Arc::clone(&workload.key.namespace), name.as_str()))
}

/// The service that a slice is behind.
pub(super) fn service_of(key: &Key, slice: &EndpointSlice) -> Option<Key> {
    Some(Key::new(Arc::clone(&key.namespace), Arc::clone(slice.service.as_ref()?)))
}

fn named(key: &Key, slice: &EndpointSlice) -> BTreeSet<Key> {
    let names = slice.endpoints.iter().filter_map(|endpoint| endpoint.workload.clone());
    names.map(|name| Key::new(Arc::clone(&key.namespace), name)).collect()
}

fn first_label(key: &Key, selector: &Labels) -> Option<(Arc<str>, String, String)> {
    let (label, value) = selector.first_key_value()?;
    Some((Arc::clone(&key.namespace), label.clone(), value.clone()))
}

fn remove<K: Ord>(sets: &mut BTreeMap<K, BTreeSet<Key>>, of: &K, key: &Key) {
    if let Some(set) = sets.get_mut(of) {
        set.remove(key);
        if set.is_empty() {
            sets.remove(of);
        }
    }
}
