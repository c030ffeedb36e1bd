//! A running control plane: opened, bound, and its tasks side by side until the first of them ends.

use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshwork_hub::Hub;
use meshwork_identity::{IdentityError, files};
use meshwork_model::mesh::{Config, Workload};
use meshwork_model::problem::{Problem, Severity};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use crate::authority::{self, Authority};
use crate::config::{self, OpenError, Register};
use crate::ingest::watch::Watch;
use crate::last_good::LastGood;
use crate::room::Rooms;
use crate::serve::{self, Certificates};
use crate::store::kv::Kv;
use crate::store::{self, KvError, Store, StoreError};
use crate::world::World;
use crate::{Addressee, Options, Ready, addresses, api, keep, replicas};

/// Why a control plane does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API would be open to others.
    #[error("the API has no authentication and is served on loopback only, not on {0}")]
    ApiAddress(SocketAddr),
    /// Another control plane uses the state directory.
    #[error("another control plane runs with the state in {0}")]
    Locked(PathBuf),
    /// The state directory cannot be used.
    #[error("the state in {path} cannot be used: {why}")]
    State {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        why: std::io::Error,
    },
    /// Keys, certificates, or the files of them.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store of config.
    #[error(transparent)]
    Kv(KvError),
    /// The config has errors, and there is none from before.
    #[error("the config has errors:\n{}", lines(.0))]
    Config(Vec<Problem>),
    /// An address cannot be listened on.
    #[error("{address} cannot be listened on: {why}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        why: std::io::Error,
    },
    /// A server failed.
    #[error("a server failed: {0}")]
    Server(String),
}

/// How far the hub looks back.
const WINDOW: Duration = Duration::from_mins(1);
/// The API's socket, in the state directory.
const SOCKET: &str = "api.sock";
/// Connections that wait to be accepted; a whole mesh that reconnects at once is some thousands.
const BACKLOG: u32 = 4096;

pub(crate) fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// Runs a control plane until `shutdown` ends. `ready` is called once both ports answer.
///
/// A config folder that changes while it runs is applied within a second, or refused as a whole and told of, in the log
/// and by the API. At the start, a broken folder gives way to its last files that were good.
///
/// # Errors
/// What kept it from starting, or made it stop.
///
/// # Cancel safety
/// Dropped, it stops like a killed process: everything that matters is on disk.
pub async fn run(
    options: Options,
    ready: impl FnOnce(Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let mut opened = Opened::open(&options)?;
    let (listener, api_listener) = (listen(options.listen).await?, listen(options.api).await?);
    let (listen, api) = (address(&listener, options.listen), address(&api_listener, options.api));
    let federation = match options.federation_listen {
        Some(asked) => Some(self::listen(asked).await?),
        None => None,
    };
    let federation_address =
        federation.as_ref().zip(options.federation_listen).map(|(listener, asked)| address(listener, asked));
    let hub = Hub::new(WINDOW, Instant::now);
    let socket_path = options.state.join(SOCKET);
    let socket = api::listen_on_socket(&socket_path).await;
    let socket = socket.map_err(|why| Error::State { path: socket_path.clone(), why })?;
    let rooms = Rooms::new();
    let api_state = opened.api(&options, &hub, Arc::clone(&rooms), (listen, api))?;
    info!(%listen, %api, "serves");
    let (authority, world) = (Arc::clone(&opened.authority), Arc::clone(&opened.world));
    let trust_bundle = authority.trust_bundle().clone();
    ready(Ready { listen, api, federation: federation_address, trust_bundle });
    let failed = |why: &dyn std::fmt::Display| Error::Server(why.to_string());
    let certificates = opened.certificates(&options);
    let serving = serve::serve(listener, certificates, Arc::clone(&world), &hub, Arc::clone(&rooms));
    let serving = Box::pin(serving);
    let ended = tokio::select! {
        served = serving => served.map_err(|e| failed(&e)),
        () = api::serve(api_listener, socket, api_state) => Ok(()),
        () = keep::publish(&world) => Ok(()),
        () = keep::leases(&world, &opened.store, std::mem::take(&mut opened.leases)) => Ok(()),
        () = keep::expire(&world) => Ok(()),
        () = config::compact(&opened.kv) => Ok(()),
        () = replicas::follow(Arc::clone(&opened.kv), Arc::clone(&opened.store), Arc::clone(&world)) => Ok(()),
        () = follow(&mut opened.watch, &opened.register) => Ok(()),
        () = Arc::clone(&opened.register).follow() => Ok(()),
        () = Arc::clone(&authority).run() => Ok(()),
        () = serve_bundle(federation, &authority, Arc::clone(&rooms)) => Ok(()),
        () = shutdown => Ok(()),
    };
    world.end_streams();
    // Nobody answers on it any more. Where it cannot be removed, the next start does that.
    drop(std::fs::remove_file(socket_path));
    ended
}

/// Everything that is read or made before the first port opens.
struct Opened {
    kv: Arc<dyn Kv>,
    store: Arc<Store>,
    authority: Arc<Authority>,
    world: Arc<World>,
    register: Arc<Register>,
    watch: Option<(Watch, PathBuf)>,
    leases: Vec<Workload>,
    audit: Arc<api::Audit>,
    /// Held for as long as this is kept: the state has one user.
    _lock: File,
}

impl Opened {
    fn open(options: &Options) -> Result<Self, Error> {
        if !options.api.ip().is_loopback() {
            return Err(Error::ApiAddress(options.api));
        }
        let lock = lock(&options.state)?;
        // Before the first read: what changes from then on is noticed.
        let watch = options.config.as_ref().map(|path| (Watch::new(path), path.clone()));
        let kv = store::open_kv(&options.state, &options.etcd).map_err(Error::Kv)?;
        store::remember_etcd(&options.state, &options.etcd)?;
        let store = Arc::new(Store::on(Arc::clone(&kv), &options.state)?);
        let enrolments = store.enrolments()?;
        let named: Vec<_> = enrolments.iter().flat_map(addresses::of_enrolment).collect();
        let world = Arc::new(World::new(&options.trust_domain, Config::default(), enrolments));
        give_addresses(&world, &store, &named);
        let parts = authority::Parts {
            options,
            kv: Arc::clone(&kv),
            world: Arc::clone(&world),
            replica: store.replica().to_owned(),
        };
        let authority = Authority::open(parts)?;
        let register = open_register(options, &kv, &world, &store)?;
        // Before anybody asks: who is trusted must not be forgotten for a moment.
        authority.federate(world.mesh().config.defaults.federated.clone());
        let leases = store.own_leases()?;
        world.restore(leases.clone(), tokio::time::Instant::now());
        let audit = Arc::new(api::Audit::new(&options.state));
        Ok(Self { kv, store, authority, world, register, watch, leases, audit, _lock: lock })
    }

    fn api(
        &self,
        options: &Options,
        hub: &Arc<Hub>,
        rooms: Arc<Rooms>,
        (discovery, own): (SocketAddr, SocketAddr),
    ) -> Result<api::Api, Error> {
        let access = api::Access::open(&options.state, Arc::clone(&self.kv));
        let access = access.map_err(|why| Error::State { path: options.state.clone(), why })?;
        let access = if options.closed_api { access.closed() } else { access };
        Ok(api::Api {
            world: Arc::clone(&self.world),
            authority: Arc::clone(&self.authority),
            hub: Arc::clone(hub),
            register: Arc::clone(&self.register),
            access,
            audit: Arc::clone(&self.audit),
            writes: Arc::new(Semaphore::new(api::MAX_WRITES)),
            watches: Arc::new(Semaphore::new(api::MAX_WATCHES)),
            rooms,
            discovery,
            own,
        })
    }

    fn certificates(&self, options: &Options) -> Certificates {
        let (authority, store) = (Arc::clone(&self.authority), Arc::clone(&self.store));
        Certificates::new(authority, store, Arc::clone(&self.world), Arc::clone(&self.audit), options)
    }
}

/// Serves our own bundle to other trust domains, where that is asked for.
async fn serve_bundle(listener: Option<TcpListener>, authority: &Arc<Authority>, rooms: Arc<Rooms>) {
    match listener {
        Some(listener) => authority::federation::serve::serve(listener, Arc::clone(authority), rooms).await,
        None => std::future::pending().await,
    }
}

fn open_register(
    options: &Options,
    kv: &Arc<dyn Kv>,
    world: &Arc<World>,
    store: &Arc<Store>,
) -> Result<Arc<Register>, Error> {
    let parts = config::Parts {
        kv: Arc::clone(kv),
        world: Arc::clone(world),
        store: Arc::clone(store),
        last_good: LastGood::new(&options.state),
    };
    match Register::open(parts, options.config.as_deref()) {
        Ok(register) => Ok(Arc::new(register)),
        Err(OpenError::Config(problems)) => Err(Error::Config(problems)),
        Err(OpenError::Failed(error)) => Err(Error::Kv(error)),
    }
}

fn lock(state: &Path) -> Result<File, Error> {
    files::open_private_dir(state)?;
    let fail = |why| Error::State { path: state.to_owned(), why };
    let file =
        File::options().create(true).truncate(false).write(true).open(state.join("lock")).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked(state.to_owned())),
        Err(std::fs::TryLockError::Error(why)) => Err(fail(why)),
    }
}

/// Takes in each change of the folder.
async fn follow(watch: &mut Option<(Watch, PathBuf)>, register: &Arc<Register>) {
    let Some((watch, path)) = watch else { return std::future::pending().await };
    loop {
        watch.changed().await;
        let (path, register) = (path.clone(), Arc::clone(register));
        if let Err(error) = tokio::task::spawn_blocking(move || register.read_folder(&path)).await {
            error!(%error, "the config is not read");
        }
    }
}

/// Gives names their virtual addresses. Without one a name is not found by captured workloads, which is told.
pub(crate) fn give_addresses(world: &World, store: &Store, names: &[Addressee]) {
    let mesh = world.mesh();
    let new: Vec<Addressee> =
        names.iter().filter(|name| !mesh.addresses.contains_key(name)).cloned().collect();
    // Held no longer than needed: whoever changes the mesh now would copy it.
    drop(mesh);
    if new.is_empty() {
        return;
    }
    let names = &*new;
    match store.addresses(names) {
        Ok(given) => {
            if let Some(name) = names.iter().find(|name| !given.contains_key(name)) {
                error!(%name, "there is no virtual address left for it, and maybe for others");
            }
            world.address(given);
        }
        Err(error) => error!(%error, "virtual addresses are not given"),
    }
}

pub(crate) fn tell(problems: &[Problem]) {
    for problem in problems {
        match problem.severity {
            Severity::Error => error!("{problem}"),
            Severity::Warning => warn!("{problem}"),
        }
    }
}

/// Listens with `SO_REUSEPORT`, so that a supervisor can hold the port for it; that somebody else serves there is
/// found out by asking.
async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    const ANSWER: Duration = Duration::from_millis(200);
    let fail = |why| Error::Listen { address, why };
    let probe = tokio::time::timeout(ANSWER, tokio::net::TcpStream::connect(address));
    // A connection that meets itself, by the kernel's choice of its own port, found nobody.
    let answers = |s: &tokio::net::TcpStream| s.local_addr().ok() != s.peer_addr().ok();
    if address.port() != 0 && matches!(probe.await, Ok(Ok(stream)) if answers(&stream)) {
        return Err(fail(std::io::ErrorKind::AddrInUse.into()));
    }
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(fail)
}

fn address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
