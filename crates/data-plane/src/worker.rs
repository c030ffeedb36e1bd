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
use std::task::{Poll, Waker};

use fastrand::Rng;
use meshwork_telemetry::Shard;
use meshwork_telemetry::access_log::Lane;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::spawn_local;
use tokio::time::interval;
use tracing::info;

use crate::config::{ChainLog, ListenerConfig, RuntimeConfig};
use crate::drain::{Applied, Orders, Phase};
use crate::limits::{HANDSHAKES_PER_WORKER, POOL_SWEEP};
use crate::listener::{self, Sockets};
use crate::proxy::NodeLabels;
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
    /// Handshakes that may run at the same time.
    pub(crate) handshakes: Semaphore,
    /// Edges of requests that no route took.
    pub(crate) unrouted: Edges,
    config: RefCell<Arc<RuntimeConfig>>,
    version: Cell<u64>,
    clusters: RefCell<HashMap<Arc<str>, Rc<WorkerCluster>>>,
    acceptors: RefCell<HashMap<SocketAddr, Acceptor>>,
    connections: RefCell<HashMap<u64, Waker>>,
    arrivals: Cell<u64>,
    emptied: Notify,
    phase: Cell<Phase>,
    random: RefCell<Rng>,
    chain_lanes: RefCell<HashMap<usize, Rc<Lane>>>,
}

/// A socket that is accepted from, and how to end that.
struct Acceptor {
    sockets: Arc<Sockets>,
    stop: Rc<Notify>,
}

/// A connection that is told of changes, until this is dropped.
pub(crate) struct Presence {
    worker: Rc<Worker>,
    number: u64,
}

impl Worker {
    pub(crate) fn new(index: usize, shard: Arc<Shard>, lane: Lane, node: Arc<NodeLabels>) -> Rc<Self> {
        Rc::new(Self {
            index,
            shard,
            lane,
            node,
            handshakes: Semaphore::new(HANDSHAKES_PER_WORKER),
            unrouted: Edges::default(),
            config: RefCell::default(),
            version: Cell::new(0),
            clusters: RefCell::default(),
            acceptors: RefCell::default(),
            connections: RefCell::default(),
            arrivals: Cell::new(0),
            emptied: Notify::new(),
            phase: Cell::new(Phase::Running),
            random: RefCell::new(Rng::new()),
            chain_lanes: RefCell::default(),
        })
    }

    /// Runs until it is told to stop, or has drained.
    pub(crate) async fn run(self: Rc<Self>, mut orders: watch::Receiver<Orders>, applied: Arc<Applied>) {
        let sweeper = spawn_local(Rc::clone(&self).sweep());
        loop {
            let Orders { config, phase } = orders.borrow_and_update().clone();
            self.take_over(&config, phase);
            applied.report(self.index, config.version);
            let is_empty = self.connections.borrow().is_empty();
            if phase == Phase::Stopped || phase == Phase::Draining && is_empty {
                break;
            }
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { break },
                () = self.emptied.notified() => {}
            }
        }
        sweeper.abort();
    }

    async fn sweep(self: Rc<Self>) {
        let mut ticks = interval(POOL_SWEEP);
        loop {
            ticks.tick().await;
            self.clusters.borrow().values().for_each(|cluster| cluster.sweep());
        }
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
        self.take_listeners_over(config);
        self.connections.borrow().values().for_each(Waker::wake_by_ref);
    }

    fn take_clusters_over(&self, config: &RuntimeConfig) {
        let mut clusters = self.clusters.borrow_mut();
        clusters.retain(|name, _| config.clusters.contains_key(name));
        for (name, cluster) in &config.clusters {
            let fits = clusters.get(name).is_some_and(|mine| mine.take_over(cluster));
            if !fits {
                clusters.insert(Arc::clone(name), WorkerCluster::new(Arc::clone(cluster)));
            }
        }
    }

    fn take_listeners_over(self: &Rc<Self>, config: &RuntimeConfig) {
        let mut acceptors = self.acceptors.borrow_mut();
        let is_running = self.phase.get() == Phase::Running;
        acceptors.retain(|address, acceptor| {
            let listener = config.listeners.get(address);
            let wanted = listener.is_some_and(|l| Arc::ptr_eq(&l.sockets, &acceptor.sockets));
            let keep = wanted && is_running;
            if !keep {
                acceptor.stop.notify_one();
            }
            keep
        });
        for (address, listener) in config.listeners.iter().filter(|_| is_running) {
            acceptors.entry(*address).or_insert_with(|| {
                // One line for all workers.
                if self.index == 0 {
                    info!(name = %listener.name, %address, accepts = listener.accepts(), "listening");
                }
                Acceptor {
                    sockets: Arc::clone(&listener.sockets),
                    stop: listener::start(self, &listener.sockets),
                }
            });
        }
    }

    /// Counts the configs that this worker has run.
    pub(crate) fn version(&self) -> u64 {
        self.version.get()
    }

    /// The config's version as text.
    pub(crate) fn config_version(&self) -> Arc<str> {
        Arc::clone(&self.config.borrow().version_text)
    }

    /// The listener that is bound to an address.
    pub(crate) fn listener(&self, address: SocketAddr) -> Option<Arc<ListenerConfig>> {
        self.config.borrow().listeners.get(&address).map(Arc::clone)
    }

    /// A cluster by name.
    pub(crate) fn cluster(&self, name: &str) -> Option<Rc<WorkerCluster>> {
        self.clusters.borrow().get(name).map(Rc::clone)
    }

    /// Whether connections should end when they can.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.get() != Phase::Running
    }

    /// This worker's way into a chain's own access log.
    pub(crate) fn chain_lane(&self, log: &ChainLog) -> Rc<Lane> {
        let mut lanes = self.chain_lanes.borrow_mut();
        Rc::clone(lanes.entry(log.number).or_insert_with(|| Rc::new(log.log.lane())))
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
    pub(crate) async fn announce(worker: &Rc<Worker>) -> Self {
        let number = worker.arrivals.get();
        worker.arrivals.set(number + 1);
        poll_fn(|cx| {
            worker.connections.borrow_mut().insert(number, cx.waker().clone());
            Poll::Ready(())
        })
        .await;
        Self { worker: Rc::clone(worker), number }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut connections = self.worker.connections.borrow_mut();
        connections.remove(&self.number);
        if connections.is_empty() {
            self.worker.emptied.notify_one();
        }
    }
}
