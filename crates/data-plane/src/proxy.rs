//! The handle that everything outside holds: start, apply, drain.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use meshwork_identity::IdentitySource;
use meshwork_model::proxy::{self, Direction, NameTable};
use meshwork_model::spiffe::SpiffeId;
use meshwork_telemetry::access_log::Lane;
use meshwork_telemetry::{AccessLog, Registry};
use meshwork_xds::config_dump::Held;
use meshwork_xds::{Rejection, Update};
use tokio::runtime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;
use tracing::warn;

use crate::admin;
use crate::config::{Builder, ClusterConfig, RuntimeConfig, Shown};
use crate::crew::{Crew, Moved};
use crate::dial::Dialer;
use crate::drain::{Applied, Orders, Phase};
use crate::limits::{APPLY_WAIT, FIRST_CONFIG};
use crate::overload::{self, Memory, Overload};
use crate::upstream::{Workload, WorkloadSockets};
use crate::worker::{Shared, Worker};

/// How a proxy is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that serve; 0 is taken for 1.
    pub workers: usize,
    /// Whom it serves.
    pub node: NodeLabels,
    /// Where the admin interface listens; `None` for nowhere. Port 0 asks the kernel.
    pub admin: Option<SocketAddr>,
    /// Where the access log goes, besides those that the config asks for.
    pub access_log: AccessLog,
    /// What memory is measured against; near it load is shed.
    pub memory: Memory,
    /// What the proxy calls itself to its control plane; empty where there is none.
    pub about: About,
    /// What changes what is logged, for the admin interface.
    pub set_log: Option<SetLog>,
    /// Sockets of the workload's network namespace, where it has one of its own. Clusters that are reached there are
    /// refused without them.
    pub workload_sockets: Option<Arc<dyn WorkloadSockets>>,
}

/// Whom a proxy serves; what it calls itself in metrics.
#[derive(Clone, Debug, Default)]
pub struct NodeLabels {
    /// The workload; empty where there is none.
    pub workload: proxy::Workload,
    /// Its identity.
    pub identity: Option<SpiffeId>,
    /// The node's group, which health checks are told; empty where there is none.
    pub cluster: Arc<str>,
}

/// What a proxy calls itself to its control plane.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The node's id.
    pub id: String,
    /// The node's group.
    pub cluster: String,
    /// What its process cannot do any more, for people.
    pub sandbox: Arc<str>,
}

type Set = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// Sets what is logged: a level, or a filter; the error is for people.
#[derive(Clone)]
pub struct SetLog(Arc<Set>);

impl SetLog {
    /// Sets it by this.
    pub fn by(set: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(set))
    }

    pub(crate) fn call(&self, filter: &str) -> Result<(), String> {
        (self.0)(filter)
    }
}

impl fmt::Debug for SetLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SetLog")
    }
}

/// What is asked for by the admin interface, for all who act on it.
#[derive(Default)]
pub(crate) struct Vitals {
    /// Whether health checks are to be answered as unwell.
    pub(crate) failed: AtomicBool,
    /// Told when the process is to end.
    pub(crate) quit: Notify,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel gives no thread or no descriptors.
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
    /// The admin interface's address cannot be bound.
    #[error("cannot listen for admin on {0}: {1}")]
    Admin(SocketAddr, io::Error),
}

/// A running proxy. Dropping it ends everything at once; [`Proxy::drain`] before that ends it gently.
pub struct Proxy {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
    /// Ends when the last worker has.
    running: tokio::sync::Mutex<mpsc::Receiver<()>>,
    admin: Option<admin::Server>,
}

/// What the handle and the admin interface share.
pub(crate) struct State {
    builder: Mutex<Builder>,
    orders: watch::Sender<Orders>,
    applied: Arc<Applied>,
    warmth: Warmth,
    /// Metrics of this process.
    pub(crate) registry: Arc<Registry>,
    pub(crate) about: About,
    pub(crate) set_log: Option<SetLog>,
    pub(crate) vitals: Arc<Vitals>,
}

/// How many workers suit this machine: one per core that we may use, two at most. A sidecar shares its machine with the
/// application; more threads would cost memory before they bring anything.
pub fn default_workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(2)
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: default_workers(),
            node: NodeLabels::default(),
            admin: None,
            access_log: AccessLog::off(),
            memory: Memory::default(),
            about: About::default(),
            set_log: None,
            workload_sockets: None,
        }
    }
}

// === impl Proxy ===

impl Proxy {
    /// Starts the workers and the admin interface; it serves nothing until [`Proxy::apply`]. The process's soft limit
    /// of descriptors is raised to the hard one.
    ///
    /// # Errors
    /// The kernel's word on threads, addresses and files.
    pub fn start(
        options: Options,
        identity: Option<Arc<IdentitySource>>,
        registry: Arc<Registry>,
    ) -> Result<Self, StartError> {
        let workers = options.workers.max(1);
        let applied = Applied::new(workers);
        let (orders, _) = watch::channel(Orders::default());
        let workload = options.workload_sockets.map(Workload::new);
        let builder = Builder::new(identity.clone(), workers, Arc::clone(&registry), workload);
        let builder = Mutex::new(builder);
        let (warmth, vitals) = (Warmth::default(), Arc::default());
        let (about, set_log) = (options.about, options.set_log);
        let node = NodeLabels { cluster: about.cluster.as_str().into(), ..options.node };
        let state = Arc::new(State { builder, orders, applied, warmth, registry, about, set_log, vitals });
        let admin = options.admin.map(|address| {
            admin::Server::start(address, Arc::clone(&state)).map_err(|e| StartError::Admin(address, e))
        });
        let (running, ended) = mpsc::channel(1);
        let mut proxy = Self { state, threads: Vec::new(), running: ended.into(), admin: admin.transpose()? };
        let (crew, inboxes) = Crew::new(workers);
        let shared = Arc::new(Shared {
            node: Arc::new(node),
            identity,
            crew,
            registry: Arc::clone(&proxy.state.registry),
            overload: Overload::watch(options.memory).map_err(StartError::Worker)?,
            vitals: Arc::clone(&proxy.state.vitals),
            most_connections: overload::connections_per_worker(workers),
        });
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let thread =
                proxy.spawn(index, options.access_log.lane(), Arc::clone(&shared), inbox, running.clone());
            proxy.threads.push(thread.map_err(StartError::Worker)?);
        }
        Ok(proxy)
    }

    fn spawn(
        &self,
        index: usize,
        lane: Lane,
        shared: Arc<Shared>,
        inbox: mpsc::Receiver<Moved>,
        running: mpsc::Sender<()>,
    ) -> io::Result<JoinHandle<()>> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let orders = self.state.orders.subscribe();
        let applied = Arc::clone(&self.state.applied);
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let tasks = LocalSet::new();
            let worker = Worker::new(index, lane, &shared);
            tasks.block_on(&runtime, worker.run(orders, applied, inbox));
            drop(tasks);
            drop(running);
        })
    }

    /// Binds an address ahead of the listener that will use it, so that a port which the kernel chooses (0) is known
    /// before there is config. Connections wait until the listener comes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        self.state.builder().reserve(address)
    }

    /// Takes sockets over that somebody else made, of another network namespace as a rule. They listen already, and
    /// are used for the listener that config binds to `address`, shared among the workers; connections wait until it
    /// comes. Draining leaves them as they are: whoever made them may have another process go on with them.
    ///
    /// # Errors
    /// There is none, or the kernel's.
    pub fn adopt(&self, address: SocketAddr, sockets: Vec<std::net::TcpListener>) -> io::Result<()> {
        self.state.builder().adopt(address, sockets)
    }

    /// Takes an update over, resource by resource; what is refused keeps its last good version. When it returns, the
    /// workers run what was accepted. Blocks for the time that takes, milliseconds.
    pub fn apply(&self, update: Update) -> Vec<Rejection> {
        let (rejections, config) = {
            let mut builder = self.state.builder();
            let applied = builder.apply(update);
            self.state.warmth.note(&builder);
            applied
        };
        self.run(config);
        rejections
    }

    /// Has the workers run a config.
    fn run(&self, config: Option<Arc<RuntimeConfig>>) {
        let Some(config) = config else { return };
        let version = config.version;
        self.state.orders.send_modify(|orders| orders.config = config);
        if !self.state.applied.wait(version, APPLY_WAIT) {
            warn!(version, "a worker is busy; it takes the config over later");
        }
    }

    /// Whether it runs the config that it was given first, whole or as much of it as came in time, and does not drain.
    pub fn ready(&self) -> bool {
        self.state.is_ready()
    }

    /// The address that a listener is bound to, its port as the kernel chose it.
    pub fn listener_address(&self, name: &str) -> Option<SocketAddr> {
        self.state.builder().address(name)
    }

    /// The names that are answered for by DNS, now and after each update; `None` while there is no such config. For a
    /// server outside: the proxy itself binds nothing for them.
    pub fn names(&self) -> Arc<ArcSwapOption<NameTable>> {
        self.state.builder().names()
    }

    /// Looks at the files of certificates that are to be followed, and serves with what stands there now.
    pub fn look_at_files(&self) {
        let config = self.state.builder().look_at_files();
        self.run(config);
    }

    /// The files that config names secrets in; whoever reads them applies what they hold.
    pub fn secret_files(&self) -> BTreeSet<String> {
        self.state.builder().secret_files()
    }

    /// What opens connections to its clusters, for whoever speaks with the control plane that one of them leads to.
    pub fn dialer(&self) -> Dialer {
        Dialer::new(Arc::clone(&self.state))
    }

    /// Where the admin interface listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(admin::Server::address)
    }

    /// Completes when somebody asks by the admin interface that the process ends.
    ///
    /// # Cancel safety
    /// Safe: an order that nobody heard is kept.
    pub async fn asked_to_quit(&self) {
        self.state.vitals.quit.notified().await;
    }

    /// Ends gently: accepts nothing more, closes what is idle, lets exchanges finish until the deadline; then ends what
    /// is left.
    ///
    /// # Cancel safety
    /// Draining goes on when the future is dropped; only the deadline is lost.
    pub async fn drain(&self, deadline: Duration) {
        self.state.orders.send_modify(|orders| orders.phase = orders.phase.max(Phase::Draining));
        let mut running = self.running.lock().await;
        let _ = timeout(deadline, running.recv()).await;
        self.state.orders.send_modify(|orders| orders.phase = Phase::Stopped);
        let _ = timeout(APPLY_WAIT, running.recv()).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.orders.send_modify(|orders| orders.phase = Phase::Stopped);
        for thread in self.threads.drain(..) {
            // A worker that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

// === impl Warmth ===

/// Whether the first config is there: it comes in pieces.
#[derive(Default)]
struct Warmth {
    /// When its first piece came.
    begun: OnceLock<Instant>,
    /// Whether it was whole once; what is added later may be on its way while all else serves.
    was_whole: AtomicBool,
}

impl Warmth {
    fn note(&self, builder: &Builder) {
        self.begun.get_or_init(Instant::now);
        if !self.was_whole.load(Ordering::Relaxed) && builder.is_whole() {
            self.was_whole.store(true, Ordering::Relaxed);
        }
    }

    fn is_enough(&self) -> bool {
        self.was_whole.load(Ordering::Relaxed)
            || self.begun.get().is_some_and(|begun| begun.elapsed() > FIRST_CONFIG)
    }
}

// === impl State ===

impl State {
    fn builder(&self) -> MutexGuard<'_, Builder> {
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cluster that was accepted.
    pub(crate) fn cluster(&self, name: &str) -> Option<Arc<ClusterConfig>> {
        self.builder().cluster(name)
    }

    pub(crate) fn is_ready(&self) -> bool {
        let orders = self.orders.borrow();
        orders.phase == Phase::Running && orders.config.version > 0 && self.warmth.is_enough()
    }

    /// Every resource as it is held.
    pub(crate) fn held(&self) -> Vec<Held> {
        self.builder().held()
    }

    /// Every cluster, and whether it is static.
    pub(crate) fn clusters(&self) -> Vec<(Arc<ClusterConfig>, bool)> {
        self.builder().clusters()
    }

    /// Every listener at each of its addresses.
    pub(crate) fn listeners(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.builder().addresses()
    }

    /// The proxy's own identity, where it has one.
    pub(crate) fn identity(&self) -> Option<Arc<IdentitySource>> {
        self.builder().identity().cloned()
    }

    /// What listeners and clusters show and trust.
    pub(crate) fn with_shown<T>(
        &self,
        read: impl FnOnce(&mut dyn Iterator<Item = (&str, &Shown)>) -> T,
    ) -> T {
        read(&mut self.builder().shown())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.orders.borrow().phase != Phase::Running
    }

    /// Accepts nothing more; what has begun may end.
    pub(crate) fn begin_drain(&self) {
        self.orders.send_modify(|orders| orders.phase = orders.phase.max(Phase::Draining));
    }

    /// Lets go of the listeners of a side; what has begun may end.
    pub(crate) fn drop_listeners(&self, is_meant: impl Fn(Direction) -> bool) {
        let config = self.builder().drop_listeners(is_meant);
        self.orders.send_modify(|orders| orders.config = config);
    }
}
