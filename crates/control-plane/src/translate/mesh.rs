//! The mesh at one moment: what is written, who is there, and who is behind what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::mesh::{Config, EndpointSlice, Key, Route, RouteKind, Service, Target, Workload};
use meshwork_model::spiffe::SpiffeId;

use super::caller::asks_for_labels;
use super::index::{Index, service_of};
use crate::addresses::Addresses;
use crate::attachment::ByTarget;

/// All that is known of the mesh at one moment. Whoever changes it tells it here, so that its indexes follow.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// The trust domain of all identities.
    pub trust_domain: Arc<str>,
    /// What people wrote.
    pub config: Arc<Config>,
    /// The workloads that are there, by key.
    pub workloads: BTreeMap<Key, Arc<Workload>>,
    /// Services that nobody wrote, and workloads imply.
    pub implied: Arc<BTreeMap<Key, Service>>,
    /// Identities that nobody is to believe any more.
    pub revoked: Arc<BTreeSet<SpiffeId>>,
    /// The virtual addresses of what has a name. What has none is not found by captured workloads.
    pub addresses: Arc<Addresses>,
    index: Index,
    /// Whether any config acts on callers by their labels.
    pub(super) asks_for_labels: bool,
    by_target: ByTarget,
}

impl Mesh {
    /// A mesh of these parts, without virtual addresses.
    pub fn new(
        trust_domain: &str,
        config: Arc<Config>,
        workloads: BTreeMap<Key, Arc<Workload>>,
        implied: BTreeMap<Key, Service>,
    ) -> Self {
        let trust_domain = trust_domain.into();
        let mut mesh =
            Self { trust_domain, config, workloads, implied: Arc::new(implied), ..Self::default() };
        mesh.reindex();
        mesh
    }

    /// All services, written ones first.
    pub fn services(&self) -> impl Iterator<Item = (&Key, &Service)> {
        let implied = self.implied.iter().filter(|(key, _)| !self.config.services.contains_key(*key));
        self.config.services.iter().chain(implied)
    }

    /// A service, written or implied.
    pub fn service(&self, key: &Key) -> Option<(&Key, &Service)> {
        self.config.services.get_key_value(key).or_else(|| self.implied.get_key_value(key))
    }

    /// The routes that are attached to a target.
    pub(super) fn routes_to<'m>(
        &'m self,
        target: &Target,
    ) -> impl Iterator<Item = (&'m (RouteKind, Key), &'m Route)> + use<'m> {
        self.by_target.routes(&self.config, target)
    }

    /// The workloads that a service selects, by name.
    pub fn behind(&self, service: &Key) -> impl Iterator<Item = &Arc<Workload>> {
        self.index.behind(service).filter_map(|key| self.workloads.get(key))
    }

    /// The slices that are behind a service, by name.
    pub fn slices(&self, service: &Key) -> impl Iterator<Item = &EndpointSlice> {
        self.index
            .slices(service)
            .filter_map(|key| self.config.endpoint_slices.get(key))
            .map(|slice| &**slice)
    }

    /// The services that select a workload, written ones first, by name.
    pub fn serving(&self, workload: &Key) -> impl Iterator<Item = (&Key, &Service)> {
        let written = self.index.serving(workload).filter_map(|key| self.config.services.get_key_value(key));
        let is_implied = |key: &&Key| !self.config.services.contains_key(*key);
        let implied = self.index.serving(workload).filter(is_implied);
        written.chain(implied.filter_map(|key| self.implied.get_key_value(key)))
    }

    /// The workloads whose label names a service, by name.
    pub(crate) fn labelled(&self, service: &Key) -> impl Iterator<Item = &Arc<Workload>> {
        self.index.labelled(service).filter_map(|key| self.workloads.get(key))
    }

    /// The services whose endpoints a workload is among.
    pub(crate) fn touched(&self, workload: &Key) -> BTreeSet<Key> {
        self.index.touched(workload)
    }

    /// Puts a workload in, or in the place of the one that had its name; the services whose endpoints that touches.
    pub(crate) fn put(&mut self, workload: Workload) -> BTreeSet<Key> {
        let mut touched = self.touched(&workload.key);
        if let Some(earlier) = self.workloads.get(&workload.key) {
            self.index.remove_workload(earlier);
        }
        let (config, implied) = (&self.config, &self.implied);
        self.index.add_workload(&workload, |key| config.services.get(key).or_else(|| implied.get(key)));
        touched.append(&mut self.index.touched(&workload.key));
        self.workloads.insert(workload.key.clone(), Arc::new(workload));
        touched
    }

    /// Takes a workload out; the services whose endpoints that touches.
    pub(crate) fn remove(&mut self, workload: &Key) -> BTreeSet<Key> {
        let touched = self.touched(workload);
        if let Some(earlier) = self.workloads.remove(workload) {
            self.index.remove_workload(&earlier);
        }
        touched
    }

    /// Puts config in place that differs in these endpoint slices alone; the services whose endpoints that touches.
    pub(crate) fn put_slices(&mut self, config: Arc<Config>, slices: &[Key]) -> BTreeSet<Key> {
        let earlier = std::mem::replace(&mut self.config, config);
        let mut touched = BTreeSet::new();
        for key in slices {
            if let Some(slice) = earlier.endpoint_slices.get(key) {
                touched.extend(service_of(key, slice));
                self.index.remove_slice(key, slice, &self.config);
            }
        }
        for key in slices {
            if let Some(slice) = self.config.endpoint_slices.get(key) {
                touched.extend(service_of(key, slice));
                self.index.add_slice(key, slice);
            }
        }
        touched
    }

    /// Puts other config in place.
    pub(crate) fn put_config(&mut self, config: Arc<Config>) {
        self.config = config;
        self.reindex();
    }

    /// Puts an implied service in place of the one that had its name, or takes it out. Says whether that differs.
    pub(crate) fn imply(&mut self, key: &Key, service: Option<Service>) -> bool {
        if self.implied.get(key) == service.as_ref() {
            return false;
        }
        let implied = Arc::make_mut(&mut self.implied);
        if let Some(earlier) = implied.remove(key) {
            self.index.remove_service(key, &earlier);
        }
        if let Some(service) = service {
            let labelled: Vec<Key> = self.index.labelled(key).cloned().collect();
            let workloads = labelled.iter().filter_map(|key| self.workloads.get(key));
            self.index.add_service(key, &service, workloads);
            implied.insert(key.clone(), service);
        }
        true
    }

    fn reindex(&mut self) {
        let mut index = Index::default();
        for (key, service) in self.services() {
            index.add_service(key, service, std::iter::empty());
        }
        for workload in self.workloads.values() {
            index.add_workload(workload, |key| self.service(key).map(|(_, service)| service));
        }
        for (key, slice) in &self.config.endpoint_slices {
            index.add_slice(key, slice);
        }
        self.index = index;
        self.asks_for_labels = asks_for_labels(&self.config);
        self.by_target = ByTarget::of(&self.config);
    }
}
