//! One worker's view of a cluster: balancer state and an [`Endpoint`] per address, each with its pool.
//!
//! Endpoints are read through the cluster's own atomic pointer: when it has moved, the next pick takes over what is
//! new, and what stays keeps its connections and counts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use meshwork_model::address::is_virtual;
use meshwork_model::balance;
use meshwork_model::proxy::{self, Criterion, Direction, Priority, UpstreamProtocol};
use meshwork_telemetry::{EdgeId, Refusal};
use tracing::warn;

use super::host::{HostCounters, step};
use super::{EndpointSet, Held, Host, Limited, Overflow, Pool};
use crate::config::{ClientTls, ClusterConfig};
use crate::connection::Peer;
use crate::error::{Kind, ProxyError};
use crate::occasion::Occasion;
use crate::standing::Jury;

/// One worker's view of a cluster.
pub(crate) struct WorkerCluster {
    /// The number of the worker.
    worker: usize,
    /// Judges the endpoints that its connections lead to.
    jury: Rc<Jury>,
    /// Endpoints that did not prove who they are, or to which we did not.
    pub(crate) unproven: Occasion,
    /// Connections that endpoints have flooded.
    floods: Occasion,
    config: RefCell<Arc<ClusterConfig>>,
    balance: RefCell<Balance>,
    /// Edges of requests that found no endpoint, by protocol.
    pub(crate) edges: Edges,
    /// Edges of what went where it was meant to go: one for all destinations.
    passed: RefCell<Edges>,
}

struct Balance {
    set: Arc<EndpointSet>,
    state: balance::Worker,
    endpoints: Vec<Rc<Endpoint>>,
}

/// An endpoint with its connections.
pub(crate) struct Endpoint {
    /// The endpoint as all workers see it.
    pub(crate) host: Arc<Host>,
    /// What this worker counts of it.
    pub(crate) counters: Arc<HostCounters>,
    /// What config says of it.
    pub(crate) config: proxy::Endpoint,
    /// How it is reached.
    pub(crate) reach: Reach,
    /// Connections to it.
    pub(crate) pool: Pool,
    /// Edges to it, by protocol.
    pub(crate) edges: Edges,
    active: Cell<u32>,
    /// Its index in the balancer's state, while it has one.
    index: Cell<Option<usize>>,
}

/// The numbers of an edge for each of the three protocols, once they are known.
#[derive(Clone, Default)]
pub(crate) struct Edges([Cell<Option<EdgeId>>; 3]);

/// How an endpoint is reached.
#[derive(Clone)]
pub(crate) enum Reach {
    /// In plaintext, as config says.
    Plaintext,
    /// By mTLS.
    Tls(Arc<ClientTls>),
    /// Not at all: none of the cluster's transports takes it.
    Nowhere,
}

/// What a request wants of the endpoint that is picked for it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted<'w> {
    /// The hash that it is placed by, where balancing does that.
    pub(crate) hash: Option<u64>,
    /// The subset that it asks for: sorted by key.
    pub(crate) subset: &'w [Criterion],
    /// Whether a host is to be avoided.
    pub(crate) avoid: Option<&'w dyn Fn(&Host) -> bool>,
    /// How often another one is picked in the place of one that is to be avoided; then it is taken all the same.
    pub(crate) again: u32,
    /// How much it matters to circuit breakers.
    pub(crate) priority: Priority,
    /// Whether its client speaks HTTP/2.
    pub(crate) is_h2: bool,
    /// Uniformly drawn; everything that is left to chance follows from it.
    pub(crate) random: u64,
}

/// An endpoint that was picked; its load counts until this is dropped.
pub(crate) struct Picked {
    cluster: Rc<WorkerCluster>,
    endpoint: Rc<Endpoint>,
    protocol: UpstreamProtocol,
    priority: Priority,
    /// Counts for circuit breakers until it has failed.
    held: Cell<Option<Held>>,
}

impl WorkerCluster {
    pub(crate) fn new(config: Arc<ClusterConfig>, worker: usize, jury: &Rc<Jury>) -> Rc<Self> {
        let balance =
            Balance { set: Arc::default(), state: balance::Worker::default(), endpoints: Vec::new() };
        Rc::new(Self {
            worker,
            jury: Rc::clone(jury),
            unproven: Occasion::default(),
            floods: Occasion::default(),
            config: RefCell::new(config),
            balance: RefCell::new(balance),
            edges: Edges::default(),
            passed: RefCell::default(),
        })
    }

    /// The config that it runs.
    pub(crate) fn config(&self) -> Arc<ClusterConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// Who judges the endpoints that its connections lead to.
    pub(crate) fn jury(&self) -> &Rc<Jury> {
        &self.jury
    }

    /// Counts a connection that its endpoint has flooded with `what`, and tells of it.
    pub(crate) fn note_flood(&self, endpoint: SocketAddr, what: &str) {
        self.jury.registry().count_refusal(Refusal::Flood);
        if let Some(untold) = self.floods.arises() {
            let cluster = self.config();
            let cluster = &cluster.cluster.name;
            warn!(%cluster, %endpoint, untold, "ended a connection: the endpoint floods it with {what} (MW0305)");
        }
    }

    /// Takes a new config over; `false` where what changed makes the present connections unfit.
    pub(crate) fn take_over(&self, config: &Arc<ClusterConfig>) -> bool {
        let mut mine = self.config.borrow_mut();
        let fits = mine.is_same_upstream(config);
        if fits {
            *mine = Arc::clone(config);
        }
        fits
    }

    /// Picks an endpoint for a peer; or takes the address that its connection was meant for, where the cluster says so.
    ///
    /// # Errors
    /// There is none, or nobody is taken to that address.
    pub(crate) fn pick_for(self: &Rc<Self>, peer: &Peer, wanted: &Wanted<'_>) -> Result<Picked, ProxyError> {
        if self.config.borrow().passes_through() {
            return self.pass_through(peer, wanted);
        }
        if self.sheds(wanted.random) {
            return Err(ProxyError::fatal(Kind::Shed));
        }
        let empty = || ProxyError::fatal(Kind::NoEndpoint(self.config().cluster.name.clone()));
        self.pick(wanted).ok_or_else(empty)
    }

    /// Whether config sheds a request: each category on its own.
    fn sheds(&self, random: u64) -> bool {
        let config = self.config.borrow();
        let set = config.hosts.load();
        // Whoever is picked must not depend on the same numbers.
        let mut draws = fastrand::Rng::with_seed(!random);
        set.policy.drops.iter().any(|parts| draws.u32(0..1_000_000) < *parts)
    }

    /// Picks an endpoint for a request of the proxy's own, which was meant for no address.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn pick_own(self: &Rc<Self>, random: u64) -> Result<Picked, ProxyError> {
        let wanted = Wanted { random, ..Wanted::default() };
        let picked = if self.config.borrow().passes_through() { None } else { self.pick(&wanted) };
        picked.ok_or_else(|| ProxyError::fatal(Kind::NoEndpoint(self.config().cluster.name.clone())))
    }

    /// The address that a peer's connection was meant for. It has been looked at when the connection came.
    fn pass_through(self: &Rc<Self>, peer: &Peer, wanted: &Wanted<'_>) -> Result<Picked, ProxyError> {
        let config = self.config();
        let refusal = |address, why| Err(ProxyError::fatal(Kind::Destination(Box::new((address, why)))));
        let Some(address) = peer.meant_for else {
            return Err(ProxyError::fatal(Kind::NoEndpoint(config.cluster.name.clone())));
        };
        if peer.direction == Direction::Inbound {
            return refusal(address, "behind the inbound side, which passes nothing through");
        }
        if is_virtual(address.ip()) {
            return refusal(address, "an address of the mesh that no service has");
        }
        let host = Arc::new(Host { config: proxy::Endpoint::new(address), state: Arc::default() });
        let endpoint = Endpoint {
            edges: self.passed.borrow().clone(),
            active: Cell::new(1),
            ..Endpoint::of(&host, &config)
        };
        let protocol = spoken(config.cluster.protocol, wanted);
        step(&endpoint.counters.rq_total, 1);
        step(&endpoint.counters.rq_active, 1);
        let (endpoint, priority) = (Rc::new(endpoint), wanted.priority);
        Ok(Picked { cluster: Rc::clone(self), endpoint, protocol, priority, held: Cell::new(None) })
    }

    /// How many per cent of its endpoints are healthy; of none, none are.
    pub(crate) fn healthy_percent(&self) -> f64 {
        let hosts = Arc::clone(&self.config.borrow().hosts.load());
        let healthy = hosts.hosts.iter().filter(|host| host.health() == proxy::Health::Healthy).count();
        let share = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        if hosts.hosts.is_empty() { 0.0 } else { 100.0 * share(healthy) / share(hosts.hosts.len()) }
    }

    /// Picks an endpoint; `None` where there is none.
    fn pick(self: &Rc<Self>, wanted: &Wanted<'_>) -> Option<Picked> {
        let config = self.config.borrow();
        let mut balance = self.balance.borrow_mut();
        balance.refresh(&config);
        let Balance { set, state, .. } = &mut *balance;
        let avoid = |at: usize| match (wanted.avoid, set.hosts.get(at)) {
            (Some(avoid), Some(host)) => avoid(host),
            _ => false,
        };
        let avoid: Option<&dyn Fn(usize) -> bool> = if wanted.avoid.is_some() { Some(&avoid) } else { None };
        let context = balance::Context {
            hash: wanted.hash,
            subset: wanted.subset,
            avoid,
            again: wanted.again,
            random: wanted.random,
        };
        let index = balance::pick(&set.plan, state, &context)?;
        let endpoint = Rc::clone(balance.endpoints.get(index)?);
        endpoint.active.set(endpoint.active.get() + 1);
        balance.state.active[index] = endpoint.active.get();
        let protocol = spoken(config.cluster.protocol, wanted);
        step(&endpoint.counters.rq_total, 1);
        step(&endpoint.counters.rq_active, 1);
        let priority = wanted.priority;
        Some(Picked { cluster: Rc::clone(self), endpoint, protocol, priority, held: Cell::new(None) })
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep(&self) {
        self.balance.borrow().endpoints.iter().for_each(|endpoint| endpoint.pool.sweep());
    }

    fn release(&self, endpoint: &Endpoint) {
        step(&endpoint.counters.rq_active, -1);
        endpoint.active.set(endpoint.active.get() - 1);
        let Some(index) = endpoint.index.get() else {
            // It was for this peer alone, or is gone from config; only the edges of the former are anybody else's.
            if self.config.borrow().passes_through() {
                self.passed.replace(endpoint.edges.clone());
            }
            return;
        };
        if let Some(active) = self.balance.borrow_mut().state.active.get_mut(index) {
            *active = endpoint.active.get();
        }
    }
}

/// What is spoken for a request: never [`UpstreamProtocol::Downstream`].
fn spoken(configured: UpstreamProtocol, wanted: &Wanted<'_>) -> UpstreamProtocol {
    match configured {
        UpstreamProtocol::Downstream if wanted.is_h2 => UpstreamProtocol::Http2,
        UpstreamProtocol::Downstream => UpstreamProtocol::Http1,
        configured => configured,
    }
}

impl Balance {
    /// Takes new endpoints over, if there are any.
    fn refresh(&mut self, config: &ClusterConfig) {
        let current = config.hosts.load();
        if !Arc::ptr_eq(&current, &self.set) {
            self.replace(Arc::clone(&current), config);
        }
    }

    fn replace(&mut self, set: Arc<EndpointSet>, config: &ClusterConfig) {
        // Whoever still holds an endpoint that does not come back must not write to another's place.
        self.endpoints.iter().for_each(|endpoint| endpoint.index.set(None));
        let mut known: HashMap<SocketAddr, Rc<Endpoint>> =
            self.endpoints.drain(..).map(|e| (e.config.address, e)).collect();
        self.endpoints = set
            .hosts
            .iter()
            .map(|host| match known.remove(&host.config.address) {
                Some(kept) if kept.config.is_same_peer(&host.config) => kept,
                _ => Rc::new(Endpoint::of(host, config)),
            })
            .collect();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            endpoint.index.set(Some(index));
        }
        self.state.take_over(&set.plan);
        self.state.active = self.endpoints.iter().map(|e| e.active.get()).collect();
        self.set = set;
    }
}

impl Endpoint {
    fn of(host: &Arc<Host>, config: &ClusterConfig) -> Self {
        Self {
            counters: host.state.counters(),
            host: Arc::clone(host),
            config: host.config.clone(),
            reach: config.reach(&host.config),
            pool: Pool::default(),
            edges: Edges::default(),
            active: Cell::new(0),
            index: Cell::new(None),
        }
    }
}

impl Edges {
    /// The edge of a protocol, made once.
    pub(crate) fn edge(
        &self,
        protocol: meshwork_telemetry::Protocol,
        make: impl FnOnce() -> EdgeId,
    ) -> EdgeId {
        let cell = &self.0[protocol as usize];
        cell.get().unwrap_or_else(|| {
            let edge = make();
            cell.set(Some(edge));
            edge
        })
    }
}

impl Picked {
    /// The endpoint.
    pub(crate) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    /// What is spoken with it; never what its client speaks, whatever that is.
    pub(crate) fn protocol(&self) -> UpstreamProtocol {
        self.protocol
    }

    /// Counts as a request to the cluster, or a connection, from now on.
    ///
    /// # Errors
    /// There are as many as may be.
    pub(crate) fn admit(&self, what: Limited) -> Result<(), ProxyError> {
        self.held.set(self.enter(what)?);
        Ok(())
    }

    /// Counts no more: it has failed.
    pub(crate) fn give_up(&self) {
        self.held.set(None);
    }

    /// Counts one more of something at the cluster.
    ///
    /// # Errors
    /// There are as many as may be.
    pub(crate) fn enter(&self, what: Limited) -> Result<Option<Held>, Overflow> {
        let config = self.cluster.config.borrow();
        let cx_active = || self.endpoint.host.state.counts().cx_active;
        if what == Limited::Connections && !config.breakers.admits_host_connection(&cx_active) {
            return Err(Overflow::CONNECTIONS);
        }
        config.breakers.enter(self.cluster.worker, self.priority, what)
    }

    /// Counts one more connection, whatever the limit is.
    pub(crate) fn force_connection(&self) -> Option<Held> {
        self.cluster.config.borrow().breakers.force(self.cluster.worker, self.priority, Limited::Connections)
    }

    /// Whether it is this host.
    pub(crate) fn is_of(&self, host: &Host) -> bool {
        self.endpoint.config.address == host.config.address
    }

    /// The cluster that it was picked from.
    pub(crate) fn cluster(&self) -> &Rc<WorkerCluster> {
        &self.cluster
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.cluster.release(&self.endpoint);
    }
}
