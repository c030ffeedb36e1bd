//! A worker: one thread with its own runtime, sockets, pools, balancer state and metric shard.
//!
//! Nothing of it is shared but the config that it reads. `Proxy` sends it [`Orders`]; it takes the newest over and
//! says so.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use fastrand::Rng;
use meshwork_identity::IdentitySource;
use meshwork_telemetry::access_log::Lane;
use meshwork_telemetry::{Registry, Shard};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::interval;
use tracing::info;

use crate::config::{Bound, ChainLog, ListenerConfig, RuntimeConfig, Takeover};
use crate::connection::Found;
use crate::crew::{Counted, Crew, Moved};
use crate::destination::Own;
use crate::drain::{Applied, Orders, Phase};
use crate::handshakes::Handshakes;
use crate::limits::POOL_SWEEP;
use crate::listener::{self, Gate, Sockets};
use crate::occasion::Occasion;
use crate::overload::Overload;
use crate::places::Places;
use crate::proxy::{NodeLabels, Vitals};
use crate::standing::{self, Jury};
use crate::upstream::{Edges, WorkerCluster};

/// What the tasks of one worker share.
pub(crate) struct Worker {
    /// Its number.
    pub(crate) index: usize,
    /// Its counters.
    pub(crate) shard: Arc<Shard>,
    /// Its way into the access log.
    pub(crate) lane: Lane,
    /// Whom this proxy serves.
    pub(crate) node: Arc<NodeLabels>,
    /// TLS handshakes, and how many steps of them a turn may have.
    pub(crate) handshakes: Handshakes,
    /// All workers of the proxy.
    pub(crate) crew: Arc<Crew>,
    /// Metrics of the process.
    pub(crate) registry: Arc<Registry>,
    /// Connections that their clients have flooded.
    pub(crate) floods: Occasion,
    /// Edges of requests that no route took.
    pub(crate) unrouted: Edges,
    /// Which addresses are the host's own.
    pub(crate) own: Own,
    /// Judges the peers of open connections anew when trust changes.
    pub(crate) jury: Rc<Jury>,
    config: RefCell<Arc<RuntimeConfig>>,
    version: Cell<u64>,
    epoch: Cell<u64>,
    clusters: RefCell<HashMap<Arc<str>, Rc<WorkerCluster>>>,
    acceptors: RefCell<HashMap<SocketAddr, Acceptor>>,
    /// Acceptors that have not ended.
    accepting: Cell<usize>,
    connections: RefCell<Places>,
    emptied: Notify,
    overload: Arc<Overload>,
    vitals: Arc<Vitals>,
    most_connections: usize,
    phase: Cell<Phase>,
    random: RefCell<Rng>,
    chain_lanes: RefCell<HashMap<usize, Rc<Lane>>>,
    numbered: Cell<u64>,
}

/// A socket that is accepted from, and how to end that.
struct Acceptor {
    sockets: Arc<Sockets>,
    gate: Rc<Gate>,
    stops: Vec<Rc<Notify>>,
}

/// A connection that is told of changes, until this is dropped.
pub(crate) struct Presence {
    worker: Rc<Worker>,
    place: u32,
    counted: Option<Counted>,
}

/// An acceptor that has not ended, until this is dropped.
pub(crate) struct Accepting(Rc<Worker>);

/// What all workers of a proxy share.
pub(crate) struct Shared {
    /// Whom the proxy serves.
    pub(crate) node: Arc<NodeLabels>,
    /// What it proves itself with, and whom it believes.
    pub(crate) identity: Option<Arc<IdentitySource>>,
    /// The workers.
    pub(crate) crew: Arc<Crew>,
    /// Metrics.
    pub(crate) registry: Arc<Registry>,
    /// Whether load is shed.
    pub(crate) overload: Arc<Overload>,
    /// What the admin interface asks for.
    pub(crate) vitals: Arc<Vitals>,
    /// Connections that each may have.
    pub(crate) most_connections: usize,
}

impl Worker {
    pub(crate) fn new(index: usize, lane: Lane, shared: &Shared) -> Rc<Self> {
        Rc::new(Self {
            index,
            shard: shared.registry.shard(),
            lane,
            node: Arc::clone(&shared.node),
            handshakes: Handshakes::new(),
            crew: Arc::clone(&shared.crew),
            registry: Arc::clone(&shared.registry),
            floods: Occasion::default(),
            unrouted: Edges::default(),
            own: Own::default(),
            jury: Jury::new(shared.identity.clone(), Arc::clone(&shared.registry)),
            config: RefCell::default(),
            version: Cell::new(0),
            epoch: Cell::new(0),
            clusters: RefCell::default(),
            acceptors: RefCell::default(),
            accepting: Cell::new(0),
            connections: RefCell::default(),
            emptied: Notify::new(),
            overload: Arc::clone(&shared.overload),
            vitals: Arc::clone(&shared.vitals),
            most_connections: shared.most_connections,
            phase: Cell::new(Phase::Running),
            random: RefCell::new(Rng::new()),
            chain_lanes: RefCell::default(),
            numbered: Cell::new(0),
        })
    }

    /// Runs until it is told to stop, or has drained.
    pub(crate) async fn run(
        self: Rc<Self>,
        mut orders: watch::Receiver<Orders>,
        applied: Arc<Applied>,
        inbox: mpsc::Receiver<Moved>,
    ) {
        let worker = Rc::clone(&self);
        let pace = spawn_local(async move { worker.handshakes.keep_pace().await });
        let background = [
            spawn_local(Rc::clone(&self).sweep()),
            spawn_local(listener::receive(Rc::clone(&self), inbox)),
            spawn_local(standing::follow(Rc::clone(&self))),
            spawn_local(standing::retire(Rc::clone(&self.jury))),
            pace,
        ];
        loop {
            let Orders { config, phase } = orders.borrow_and_update().clone();
            self.take_over(&config, phase);
            applied.report(self.index, config.version);
            if phase == Phase::Stopped || phase == Phase::Draining && self.is_idle() {
                break;
            }
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { break },
                () = self.emptied.notified() => {}
            }
        }
        background.iter().for_each(JoinHandle::abort);
    }

    /// Whether nothing is left that could need it: no connection, none on its way here, nobody who still accepts.
    fn is_idle(&self) -> bool {
        self.connections.borrow().is_empty()
            && self.accepting.get() == 0
            && self.crew.connections(self.index) == 0
    }

    async fn sweep(self: Rc<Self>) {
        let mut ticks = interval(POOL_SWEEP);
        loop {
            ticks.tick().await;
            self.sweep_pools();
        }
    }

    /// Closes connections to endpoints that were idle for too long, or are not fit for use any more.
    pub(crate) fn sweep_pools(&self) {
        self.clusters.borrow().values().for_each(|cluster| cluster.sweep());
    }

    /// Trust has changed: every connection looks at its peer before it goes on.
    pub(crate) fn note_trust(&self) {
        self.epoch.set(self.epoch.get() + 1);
    }

    // --- config ---

    /// Clusters first, then listeners, so that no request meets a cluster that is not there yet.
    fn take_over(self: &Rc<Self>, config: &Arc<RuntimeConfig>, phase: Phase) {
        if self.version.get() == config.version && self.phase.get() == phase {
            return;
        }
        self.phase.set(phase);
        self.take_clusters_over(config);
        self.config.replace(Arc::clone(config));
        self.version.set(config.version);
        self.epoch.set(self.epoch.get() + 1);
        self.take_listeners_over(config);
        self.crew.note_version(self.index, config.version);
        self.connections.borrow().wake_all();
    }

    fn take_clusters_over(&self, config: &RuntimeConfig) {
        let mut clusters = self.clusters.borrow_mut();
        clusters.retain(|name, _| config.clusters.contains_key(name));
        for (name, cluster) in &config.clusters {
            let fits = clusters.get(name).is_some_and(|mine| mine.take_over(cluster));
            if !fits {
                clusters.insert(
                    Arc::clone(name),
                    WorkerCluster::new(Arc::clone(cluster), self.index, &self.jury),
                );
            }
        }
    }

    fn take_listeners_over(self: &Rc<Self>, config: &RuntimeConfig) {
        let mut acceptors = self.acceptors.borrow_mut();
        let is_running = self.phase.get() == Phase::Running;
        acceptors.retain(|address, acceptor| {
            let listener = config.listeners.get(address);
            let wanted = listener.is_some_and(|bound| Arc::ptr_eq(&bound.sockets, &acceptor.sockets));
            let keep = wanted && is_running;
            if !keep {
                acceptor.stops.iter().for_each(|stop| stop.notify_one());
            }
            keep
        });
        for (address, Bound { sockets, listener }) in config.listeners.iter().filter(|_| is_running) {
            acceptors.entry(*address).or_insert_with(|| {
                // One line for all workers.
                if self.index == 0 {
                    info!(name = %listener.name, %address, accepts = listener.accepts(), "listening");
                }
                let (sockets, gate) = (Arc::clone(sockets), Rc::default());
                let stops = listener::start(self, &sockets, &gate);
                Acceptor { sockets, gate, stops }
            });
        }
    }

    /// Counts the configs that this worker has run.
    pub(crate) fn version(&self) -> u64 {
        self.version.get()
    }

    /// Counts what connections have to follow: changes of config, and of trust.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// The config's version as text.
    pub(crate) fn config_version(&self) -> Arc<str> {
        Arc::clone(&self.config.borrow().version_text)
    }

    /// The listener that is bound to an address.
    pub(crate) fn listener(&self, address: SocketAddr) -> Option<Arc<ListenerConfig>> {
        self.config.borrow().listeners.get(&address).map(|bound| Arc::clone(&bound.listener))
    }

    /// Who takes over what was meant for an address, if anybody does.
    pub(crate) fn takeover(&self, meant: SocketAddr) -> Option<Takeover> {
        self.config.borrow().destination(meant).cloned()
    }

    /// The listener of a connection, in its present version.
    pub(crate) fn found(&self, by: Found) -> Option<Arc<ListenerConfig>> {
        match by {
            Found::Bound(address) => self.listener(address),
            Found::MeantFor(address) => match self.takeover(address)? {
                Takeover::By(listener) => Some(listener),
                Takeover::Awaited => None,
            },
        }
    }

    /// What is counted of the listener that is bound to an address.
    pub(crate) fn gate(&self, address: SocketAddr) -> Rc<Gate> {
        self.acceptors.borrow().get(&address).map(|acceptor| Rc::clone(&acceptor.gate)).unwrap_or_default()
    }

    /// Counts a connection as this worker's.
    pub(crate) fn count(&self) -> Counted {
        self.crew.count(self.index)
    }

    /// Looks again whether a drain is over.
    pub(crate) fn reconsider(&self) {
        self.emptied.notify_one();
    }

    /// Whether one connection more would be too many; those that are counted include it.
    pub(crate) fn has_most_connections(&self) -> bool {
        self.crew.connections(self.index) > self.most_connections
    }

    /// Whether load is shed.
    pub(crate) fn overload(&self) -> &Overload {
        &self.overload
    }

    /// Counts an acceptor.
    pub(crate) fn begin_accepting(self: &Rc<Self>) -> Accepting {
        self.accepting.set(self.accepting.get() + 1);
        Accepting(Rc::clone(self))
    }

    /// A cluster by name.
    pub(crate) fn cluster(&self, name: &str) -> Option<Rc<WorkerCluster>> {
        self.clusters.borrow().get(name).map(Rc::clone)
    }

    /// Whether connections should end when they can.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.get() != Phase::Running
    }

    /// Whether an operator says that health checks are to fail.
    pub(crate) fn is_failed(&self) -> bool {
        self.vitals.failed.load(Relaxed)
    }

    /// This worker's way into a chain's own access log.
    pub(crate) fn chain_lane(&self, log: &ChainLog) -> Rc<Lane> {
        let mut lanes = self.chain_lanes.borrow_mut();
        Rc::clone(lanes.entry(log.number).or_insert_with(|| Rc::new(log.log.lane())))
    }

    /// A number for a new connection. Its last bits are the worker's, so that no two connections have the same.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbered.set(self.numbered.get() + 1);
        let index = u64::try_from(self.index).unwrap_or(0);
        self.numbered.get() << 16 | index
    }

    /// A random number, uniformly drawn.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// Lends the source of random numbers.
    pub(crate) fn with_random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }
}

// === impl Presence ===

impl Presence {
    /// Lets the present task be woken whenever config or phase change.
    pub(crate) async fn announce(worker: &Rc<Worker>, counted: Counted) -> Self {
        let place = poll_fn(|cx| Poll::Ready(worker.connections.borrow_mut().take(cx.waker().clone()))).await;
        Self { worker: Rc::clone(worker), place, counted: Some(counted) }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.counted = None;
        let mut connections = self.worker.connections.borrow_mut();
        connections.leave(self.place);
        if connections.is_empty() {
            self.worker.emptied.notify_one();
        }
    }
}

// === impl Accepting ===

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.set(self.0.accepting.get() - 1);
        self.0.emptied.notify_one();
    }
}
