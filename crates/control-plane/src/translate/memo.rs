//! What translations have in common: clusters, endpoints and route tables of one mesh, made once for all of their users.
//!
//! A memo only remembers what the pure functions of [`translate`](super) gave, by their arguments; without it the result
//! is the same. Whoever changes the mesh says what that outdates ([`Memo::touch`], [`Memo::renew`]); what is equal after
//! all keeps its allocation, so that nobody who has it looks at it again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use meshwork_model::mesh::{Key, Labels, Target, Workload};
use meshwork_model::proxy::{Resource, TransportMatch};

use super::routes::{Calls, Lead};
use super::traffic::Rules;
use super::{Called, Caller, Mesh, attached, clusters, endpoints};

/// A cluster of a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClusterId {
    /// Whose endpoints are in it.
    pub(crate) service: Key,
    /// The service's port.
    pub(crate) port: u16,
    /// Which of them, by the name that a DestinationRule gives them; `None` for all.
    pub(crate) subset: Option<Arc<str>>,
}

impl ClusterId {
    /// All endpoints of a service's port.
    pub(crate) fn whole(service: Key, port: u16) -> Self {
        Self { service, port, subset: None }
    }
}

/// Results by their arguments.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    /// Which mesh results of before are of: they are looked at anew where this is another.
    generation: u64,
    endpoints: BTreeMap<Key, BTreeMap<(ClusterId, Option<Labels>), Reached>>,
    clusters: HashMap<(Caller, ClusterId), Made>,
    tables: HashMap<(Caller, Key, u16), Table>,
}

/// A cluster's endpoints, and by which transports they are reached.
#[derive(Clone, Debug)]
struct Reached {
    is_fresh: bool,
    endpoints: Arc<Resource>,
    transports: Arc<Vec<TransportMatch>>,
}

/// A cluster, with what it was made of.
#[derive(Clone, Debug)]
struct Made {
    generation: u64,
    transports: Arc<Vec<TransportMatch>>,
    cluster: Arc<Resource>,
}

/// A route table, and where it leads.
#[derive(Clone, Debug)]
pub(super) struct Table {
    generation: u64,
    pub(super) made: Arc<Resource>,
    pub(super) leads_to: Arc<Vec<ClusterId>>,
    /// What it leads to that is no service.
    pub(super) leads_out: Arc<Vec<Lead>>,
}

impl Memo {
    /// Everything may have changed.
    pub(crate) fn renew(&mut self) {
        self.generation += 1;
        for reached in self.endpoints.values_mut().flat_map(BTreeMap::values_mut) {
            reached.is_fresh = false;
        }
    }

    /// A service's endpoints may have changed, and nothing else.
    pub(crate) fn touch(&mut self, service: &Key) {
        for reached in self.endpoints.get_mut(service).into_iter().flat_map(BTreeMap::values_mut) {
            reached.is_fresh = false;
        }
    }

    /// Forgets what nobody else has any more.
    pub(crate) fn forget_unused(&mut self) {
        self.clusters.retain(|_, made| Arc::strong_count(&made.cluster) > 1);
        self.tables.retain(|_, table| Arc::strong_count(&table.made) > 1);
        for of_service in self.endpoints.values_mut() {
            of_service.retain(|_, reached| Arc::strong_count(&reached.endpoints) > 1);
        }
        self.endpoints.retain(|_, of_service| !of_service.is_empty());
    }

    /// The cluster and its endpoints; nothing where there is no such service or port.
    pub(crate) fn cluster(
        &mut self,
        mesh: &Mesh,
        node: &Workload,
        caller: &Caller,
        id: &ClusterId,
    ) -> Vec<Arc<Resource>> {
        let Some(called) = Called::find(mesh, &id.service, id.port) else { return Vec::new() };
        let rules = Rules::of_service(mesh, &called, node);
        let subset = id.subset.as_deref();
        let labels = subset.and_then(|subset| rules.labels(subset));
        let Reached { endpoints, transports, .. } = self.reached(mesh, &called, id, labels.cloned());
        let key = (caller.clone(), id.clone());
        let earlier = self.clusters.get(&key);
        let is_fresh =
            |made: &&Made| made.generation == self.generation && Arc::ptr_eq(&made.transports, &transports);
        if let Some(made) = earlier.filter(is_fresh) {
            return vec![Arc::clone(&made.cluster), endpoints];
        }
        let terms = rules.terms(called.port.port, subset);
        let mut cluster = clusters::outbound(&called, subset, &terms, (*transports).clone(), caller.dialect);
        attached::apply(mesh, &called, &mut cluster);
        let cluster = kept(earlier.map(|made| &made.cluster), Resource::Cluster(cluster));
        let made = Made { generation: self.generation, transports, cluster: Arc::clone(&cluster) };
        self.clusters.insert(key, made);
        vec![cluster, endpoints]
    }

    fn reached(
        &mut self,
        mesh: &Mesh,
        called: &Called<'_>,
        id: &ClusterId,
        labels: Option<Labels>,
    ) -> Reached {
        let of_service = self.endpoints.entry(id.service.clone()).or_default();
        let key = (id.clone(), labels);
        let earlier = of_service.get(&key);
        if let Some(reached) = earlier.filter(|reached| reached.is_fresh) {
            return reached.clone();
        }
        let (endpoints, transports) =
            endpoints::of(mesh, called, id.subset.as_deref().map(|name| (name, key.1.as_ref())));
        let endpoints = kept(earlier.map(|reached| &reached.endpoints), Resource::Endpoints(endpoints));
        let transports = kept(earlier.map(|reached| &reached.transports), transports);
        let reached = Reached { is_fresh: true, endpoints, transports };
        of_service.insert(key, reached.clone());
        reached
    }

    /// The routes of a called port for a caller.
    pub(super) fn table(
        &mut self,
        mesh: &Mesh,
        node: &Workload,
        caller: &Caller,
        called: &Called<'_>,
    ) -> Table {
        let key = (caller.clone(), called.key.clone(), called.port.port);
        let earlier = self.tables.get(&key);
        if let Some(table) = earlier.filter(|table| table.generation == self.generation) {
            return table.clone();
        }
        let (table, leads) = Calls { mesh, node, dialect: caller.dialect }.routes(called);
        let made = kept(earlier.map(|earlier| &earlier.made), Resource::Routes(table));
        let (leads_to, leads_out) = parted(leads);
        let leads_to = kept(earlier.map(|earlier| &earlier.leads_to), leads_to);
        let leads_out = kept(earlier.map(|earlier| &earlier.leads_out), leads_out);
        let table = Table { generation: self.generation, made, leads_to, leads_out };
        self.tables.insert(key, table.clone());
        table
    }
}

/// What leads to services, and what leads elsewhere.
fn parted(leads: impl IntoIterator<Item = Lead>) -> (Vec<ClusterId>, Vec<Lead>) {
    let (mut services, mut others) = (Vec::new(), Vec::new());
    for lead in leads {
        match lead {
            Lead::To { target: Target::Service(service), port, subset } => {
                services.push(ClusterId { service, port, subset });
            }
            other => others.push(other),
        }
    }
    (services, others)
}

/// What is equal to what was there stays the same.
fn kept<T: PartialEq>(earlier: Option<&Arc<T>>, new: T) -> Arc<T> {
    match earlier {
        Some(earlier) if **earlier == new => Arc::clone(earlier),
        _ => Arc::new(new),
    }
}
