//! A worker with its config, on a runtime of its own, between clients and upstreams that a test plays.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_identity::IdentitySource;
use meshwork_model::proxy::{Kind, Resource};
use meshwork_telemetry::{AccessLog, EdgeSnapshot, Registry};
use meshwork_xds::Update;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::socket::{MemorySocket, Weather, pair};
use super::{End, config};
use crate::config::Builder;
use crate::connection;
use crate::crew::Crew;
use crate::drain::{Applied, Orders, Phase};
use crate::error::ProxyError;
use crate::overload::Overload;
use crate::proxy::NodeLabels;
use crate::transport::Socket;
use crate::worker::{Presence, Shared, Worker};

/// Longer than every time-out: a script that takes longer waits for something that never comes.
const FOREVER: Duration = Duration::from_hours(24);
/// What one direction of a connection holds, unless the test says otherwise.
const ROOM: usize = 64 * 1024;

thread_local! {
    /// The network behind this thread's world.
    static NETWORK: RefCell<Option<Network>> = const { RefCell::new(None) };
}

/// Who can be called.
type Network = Rc<RefCell<HashMap<SocketAddr, Site>>>;

/// What happens to who calls an address.
#[derive(Clone)]
enum Site {
    /// A test plays it.
    Played { calls: mpsc::UnboundedSender<MemorySocket>, room: usize, weather: Weather },
    /// Nobody ever answers.
    Silent,
}

/// A proxy of one worker, and the network around it.
pub(crate) struct World {
    network: Network,
    registry: Arc<Registry>,
    worker: Rc<Worker>,
    builder: RefCell<Builder>,
    orders: watch::Sender<Orders>,
    served: RefCell<JoinSet<Result<(), ProxyError>>>,
    clients: Cell<u16>,
}

/// An upstream that a test plays.
pub(crate) struct Origin {
    calls: mpsc::UnboundedReceiver<MemorySocket>,
}

/// Plays a script in a world with this config. Time stands still while anything can go on, and jumps to the next
/// deadline when nothing can.
pub(crate) fn play(resources: Vec<Resource>, script: impl AsyncFnOnce(&World)) {
    play_as(None, resources, script);
}

/// As [`play`], with an identity.
pub(crate) fn play_as(
    identity: Option<Arc<IdentitySource>>,
    resources: Vec<Resource>,
    script: impl AsyncFnOnce(&World),
) {
    let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("starts"), async {
        let world = World::begin(identity);
        NETWORK.set(Some(Rc::clone(&world.network)));
        world.apply(resources).await;
        timeout(FOREVER, script(&world)).await.expect("the script waits for what never comes");
        world.look_for_panics().await;
    });
    NETWORK.set(None);
}

/// Connects to an address of this thread's world, if there is one.
pub(crate) async fn dial(address: SocketAddr) -> Option<io::Result<MemorySocket>> {
    let network = NETWORK.with_borrow(Clone::clone)?;
    let site = network.borrow().get(&address).cloned();
    let refused = || Some(Err(io::ErrorKind::ConnectionRefused.into()));
    match site {
        None => refused(),
        Some(Site::Silent) => std::future::pending().await,
        Some(Site::Played { calls, room, weather }) => {
            let (ours, theirs) = pair(room);
            if calls.send(theirs).is_err() {
                return refused();
            }
            Some(Ok(ours.under(weather)))
        }
    }
}

/// Whether this thread plays a world.
pub(crate) fn is_here() -> bool {
    NETWORK.with_borrow(Option::is_some)
}

/// Lets everything go on that can; time passes by a millisecond.
pub(crate) async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

/// How long something takes.
pub(crate) async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    let result = future.await;
    (result, begun.elapsed())
}

// === impl World ===

impl World {
    fn begin(identity: Option<Arc<IdentitySource>>) -> Self {
        let registry = Registry::new(SystemTime::UNIX_EPOCH);
        let (orders, orders_seen) = watch::channel(Orders::default());
        let (crew, mut inboxes) = Crew::new(1);
        let shared = Shared {
            node: Arc::new(NodeLabels::default()),
            identity: identity.clone(),
            crew,
            registry: Arc::clone(&registry),
            overload: Overload::never(),
            vitals: Arc::default(),
            most_connections: usize::MAX,
        };
        let worker = Worker::new(0, AccessLog::off().lane(), &shared);
        let inbox = inboxes.remove(0);
        spawn_local(Rc::clone(&worker).run(orders_seen, Applied::new(1), inbox));
        let builder = Builder::new(identity, 1, Arc::clone(&registry), None).into();
        let network = Network::default();
        Self {
            network,
            registry,
            worker,
            builder,
            orders,
            served: RefCell::default(),
            clients: Cell::new(1024),
        }
    }

    /// Takes config over.
    pub(crate) async fn apply(&self, resources: Vec<Resource>) {
        self.update(Update { upserts: resources, ..Update::default() }).await;
    }

    /// Takes a listener away.
    pub(crate) async fn remove(&self, listener: &str) {
        let removed = vec![(Kind::Listener, listener.to_owned())];
        self.update(Update { removed, ..Update::default() }).await;
    }

    async fn update(&self, update: Update) {
        let (rejections, config) = self.builder.borrow_mut().apply(update);
        assert_eq!(rejections, []);
        if let Some(config) = config {
            let version = config.version;
            self.orders.send_modify(|orders| orders.config = config);
            settle().await;
            assert_eq!(self.worker.version(), version);
        }
    }

    /// A client of the listener `web`.
    pub(crate) fn connect(&self) -> End {
        self.connect_in(ROOM, Weather::default())
    }

    /// A client whose connection holds `room` bytes in each direction, the proxy's end in this weather.
    pub(crate) fn connect_in(&self, room: usize, weather: Weather) -> End {
        let (client, server) = pair(room);
        self.serve(server.under(weather));
        End::new(client)
    }

    /// A client whose connection was redirected to the listener `web`.
    pub(crate) fn connect_meant_for(&self, meant: SocketAddr) -> End {
        let (client, mut server) = pair(ROOM);
        server.meant_for = Some(meant);
        self.serve(server);
        End::new(client)
    }

    /// The address of the listener `web`.
    pub(crate) fn address(&self) -> SocketAddr {
        self.builder.borrow().address("web").expect("a listener")
    }

    fn serve(&self, server: MemorySocket) {
        let address = self.address();
        let listener = self.worker.listener(address).expect("taken over");
        let port = self.clients.get();
        self.clients.set(port + 1);
        let remote = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), port);
        let (worker, socket) = (Rc::clone(&self.worker), Socket::Memory(Box::new(server)));
        let serve = async move {
            let _presence = Presence::announce(&worker, worker.count()).await;
            connection::serve(&worker, &listener, &worker.gate(address), address, socket, remote).await
        };
        self.served.borrow_mut().spawn_local(serve);
    }

    /// How the next connection to end did so.
    pub(crate) async fn ended(&self) -> Result<(), ProxyError> {
        let mut served = self.served.take();
        let ended = served.join_next().await;
        *self.served.borrow_mut() = served;
        ended.expect("a connection").expect("no panic")
    }

    /// An upstream at an address.
    pub(crate) fn origin(&self, address: SocketAddr) -> Origin {
        self.origin_in(address, ROOM, Weather::default())
    }

    /// An upstream as [`Self::connect_in`] has clients.
    pub(crate) fn origin_in(&self, address: SocketAddr, room: usize, weather: Weather) -> Origin {
        let (sender, calls) = mpsc::unbounded_channel();
        self.place(address, Site::Played { calls: sender, room, weather });
        Origin { calls }
    }

    /// An address where nobody answers, not even by a refusal.
    pub(crate) fn silence(&self, address: SocketAddr) {
        self.place(address, Site::Silent);
    }

    fn place(&self, address: SocketAddr, site: Site) {
        self.network.borrow_mut().insert(address, site);
    }

    /// A client and the upstream that its first request reached, which is `request`.
    pub(crate) async fn call(&self, request: &str) -> (End, End) {
        let mut origin = self.origin(config::ORIGIN);
        let mut client = self.connect();
        client.send(request).await;
        let upstream = origin.accept().await;
        (client, upstream)
    }

    /// Tells the worker to drain, or to stop.
    pub(crate) async fn order(&self, phase: Phase) {
        self.orders.send_modify(|orders| orders.phase = phase);
        settle().await;
    }

    /// Edges on record.
    pub(crate) fn edges(&self) -> Vec<EdgeSnapshot> {
        self.registry.fold()
    }

    /// All metrics, as Prometheus reads them.
    pub(crate) fn metrics(&self) -> String {
        self.registry.prometheus_text()
    }

    /// Requests on record.
    pub(crate) fn requests(&self) -> u64 {
        self.registry.fold().iter().map(EdgeSnapshot::requests).sum()
    }

    /// Drops every connection's task, wherever it is.
    pub(crate) fn kill(&self) {
        drop(self.served.take());
    }

    /// A panic in a connection's task is the test's failure.
    async fn look_for_panics(&self) {
        settle().await;
        let mut served = self.served.take();
        while let Some(ended) = served.try_join_next() {
            let _ = ended.expect("no panic");
        }
    }
}

// === impl Origin ===

impl Origin {
    /// The next connection.
    pub(crate) async fn accept(&mut self) -> End {
        End::new(self.calls.recv().await.expect("a world"))
    }

    /// Whether somebody has connected.
    pub(crate) async fn is_called(&self) -> bool {
        settle().await;
        !self.calls.is_empty()
    }
}
