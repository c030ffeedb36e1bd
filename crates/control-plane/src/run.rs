//! A running control plane: opened, bound, and its tasks side by side until the first of them ends.

use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use meshwork_hub::Hub;
use meshwork_identity::{
    AlternativeName, CertificateAuthority, IdentityError, IdentitySource, SpiffeId, Svid, files,
};
use meshwork_model::mesh::{Config, Workload};
use meshwork_model::problem::{Problem, Severity};
use tokio::net::{TcpListener, TcpSocket};
use tracing::{error, info, warn};

use crate::ingest::watch::Watch;
use crate::ingest::{self, Loaded};
use crate::last_good::LastGood;
use crate::serve::{self, Certificates};
use crate::store::{Store, StoreError};
use crate::world::World;
use crate::{Addressee, Options, Ready, SYSTEM_NAMESPACE, addresses, api, keep};

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
/// The file with the roots that workloads trust, in the state directory.
const BUNDLE: &str = "bundle.pem";
/// How long the control plane's own certificate lives.
const OWN_LIFETIME: Duration = Duration::from_hours(24);
/// After a failure to renew it, the pause before the next try.
const RENEW_AGAIN: Duration = Duration::from_mins(1);
/// Connections that wait to be accepted; a whole mesh that reconnects at once is some thousands.
const BACKLOG: u32 = 4096;

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// Runs a control plane until `shutdown` ends. `ready` is called once both ports answer.
///
/// Config that changes while it runs is applied within a second, or refused as a whole and told of, in the log and by
/// the API. At the start, broken config gives way to the last that was good.
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
    let hub = Hub::new(WINDOW, Instant::now);
    let api_state =
        api::Api { world: Arc::clone(&opened.world), hub: Arc::clone(&hub), discovery: listen, own: api };
    info!(%listen, %api, "serves");
    ready(Ready { listen, api, trust_bundle: opened.trust_bundle.clone() });
    let failed = |why: &dyn std::fmt::Display| Error::Server(why.to_string());
    let world = Arc::clone(&opened.world);
    let ended = tokio::select! {
        served = serve::serve(listener, &opened.identity, opened.certificates(&options), Arc::clone(&world), &hub) => {
            served.map_err(|e| failed(&e))
        }
        served = api::serve(api_listener, api_state) => served.map_err(|e| failed(&e)),
        () = keep::publish(&world) => Ok(()),
        () = keep::leases(&world, &opened.store, std::mem::take(&mut opened.leases)) => Ok(()),
        () = keep::expire(&world) => Ok(()),
        () = follow(&mut opened.watch, &options.config, &world, &opened.store, &opened.last_good) => Ok(()),
        () = renew(&opened.identity, &opened.authority, &options) => Ok(()),
        () = shutdown => Ok(()),
    };
    world.end_streams();
    ended
}

/// Everything that is read or made before the first port opens.
struct Opened {
    store: Arc<Store>,
    authority: Arc<CertificateAuthority>,
    identity: Arc<IdentitySource>,
    world: Arc<World>,
    watch: Watch,
    last_good: LastGood,
    leases: Vec<Workload>,
    trust_bundle: PathBuf,
    /// Held for as long as this is kept: the state has one user.
    _lock: File,
}

impl Opened {
    fn open(options: &Options) -> Result<Self, Error> {
        if !options.api.ip().is_loopback() {
            return Err(Error::ApiAddress(options.api));
        }
        let lock = lock(&options.state)?;
        let last_good = LastGood::new(&options.state);
        let watch = Watch::new(&options.config);
        let (loaded, refused) = first_config(&options.config, &last_good)?;
        let store = Store::open(&options.state)?;
        let authority =
            CertificateAuthority::open_or_create(&options.state.join("ca"), &options.trust_domain)?;
        let trust_bundle = options.state.join(BUNDLE);
        files::write_public(&trust_bundle, authority.bundle().pem().as_bytes())?;
        let identity = IdentitySource::new(own_svid(&authority, options)?, authority.bundle())?;
        let enrolments = store.enrolments()?;
        let named: Vec<_> = enrolments.iter().flat_map(addresses::of_enrolment).collect();
        let world = World::new(&options.trust_domain, Config::default(), enrolments);
        give_addresses(&world, &store, &named);
        apply(&world, &store, &last_good, loaded);
        if let Some(problems) = refused {
            world.refuse(problems);
        }
        let leases = store.leases()?;
        world.restore(leases.clone(), tokio::time::Instant::now());
        let (store, authority, world) = (Arc::new(store), Arc::new(authority), Arc::new(world));
        Ok(Self { store, authority, identity, world, watch, last_good, leases, trust_bundle, _lock: lock })
    }

    fn certificates(&self, options: &Options) -> Certificates {
        Certificates {
            authority: Arc::clone(&self.authority),
            store: Arc::clone(&self.store),
            world: Arc::clone(&self.world),
            trust_domain: options.trust_domain.as_str().into(),
            lifetime: options.svid_lifetime,
        }
    }
}

fn lock(state: &Path) -> Result<File, Error> {
    files::create_private_dir(state)?;
    let fail = |why| Error::State { path: state.to_owned(), why };
    let file =
        File::options().create(true).truncate(false).write(true).open(state.join("lock")).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked(state.to_owned())),
        Err(std::fs::TryLockError::Error(why)) => Err(fail(why)),
    }
}

/// The directory's config; where that is broken, the last that was good, with the problems of the other.
fn first_config(path: &Path, last_good: &LastGood) -> Result<(Loaded, Option<Vec<Problem>>), Error> {
    let loaded = ingest::read_dir(path);
    if loaded.is_accepted() {
        return Ok((loaded, None));
    }
    let Some(earlier) = last_good.read() else { return Err(Error::Config(loaded.problems)) };
    tell(&loaded.problems);
    warn!("the config has errors; begins with the last that was good");
    Ok((earlier, Some(loaded.problems)))
}

/// Applies each change of the directory, or refuses it.
async fn follow(
    watch: &mut Watch,
    path: &Path,
    world: &Arc<World>,
    store: &Arc<Store>,
    last_good: &LastGood,
) {
    loop {
        watch.changed().await;
        let (path, last_good) = (path.to_owned(), last_good.clone());
        let (world, store) = (Arc::clone(world), Arc::clone(store));
        let read = move || {
            let loaded = ingest::read_dir(&path);
            if loaded.is_accepted() {
                apply(&world, &store, &last_good, loaded);
            } else {
                tell(&loaded.problems);
                error!("the config has errors and is refused; what was applied last stays");
                world.refuse(loaded.problems);
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(read).await {
            error!(%error, "the config is not read");
        }
    }
}

fn apply(world: &World, store: &Store, last_good: &LastGood, loaded: Loaded) {
    tell(&loaded.problems);
    if let Err(error) = last_good.keep(&loaded.sources) {
        warn!(%error, "the config is applied, but would not survive a restart under broken config");
    }
    let config = &loaded.config;
    // Before the config: a name that is told without an address would be told twice.
    give_addresses(world, store, &addresses::of_config(config));
    let policies = config.peer_authentications.len() + config.authorization_policies.len();
    info!(services = config.services.len(), routes = config.routes.len(), policies, "config is applied");
    world.apply(loaded.config, loaded.problems);
}

/// Gives names their virtual addresses. Without one a name is not found by captured workloads, which is told.
pub(crate) fn give_addresses(world: &World, store: &Store, names: &[Addressee]) {
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

fn tell(problems: &[Problem]) {
    for problem in problems {
        match problem.severity {
            Severity::Error => error!("{problem}"),
            Severity::Warning => warn!("{problem}"),
        }
    }
}

/// The control plane's own certificate; gRPC clients compare host names, so it has those of this host, too.
fn own_svid(authority: &CertificateAuthority, options: &Options) -> Result<Svid, IdentityError> {
    let id = SpiffeId::workload(&options.trust_domain, SYSTEM_NAMESPACE, "control-plane")
        .map_err(|_| IdentityError::Bundle("its trust domain makes no SPIFFE ID"))?;
    let mut names = vec![
        AlternativeName::Dns("localhost".to_owned()),
        AlternativeName::Ip(std::net::Ipv4Addr::LOCALHOST.into()),
        AlternativeName::Ip(std::net::Ipv6Addr::LOCALHOST.into()),
    ];
    let listen = options.listen.ip();
    if !listen.is_unspecified() && !listen.is_loopback() {
        names.push(AlternativeName::Ip(listen));
    }
    authority.issue(&id, OWN_LIFETIME, &names)
}

/// Renews the own certificate at half of its life.
async fn renew(identity: &IdentitySource, authority: &CertificateAuthority, options: &Options) {
    loop {
        let left = identity.expires_at().duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep((left / 2).max(RENEW_AGAIN)).await;
        match own_svid(authority, options).and_then(|svid| identity.replace_svid(svid)) {
            Ok(()) => info!("has a new certificate of its own"),
            Err(error) => error!(%error, "cannot renew its own certificate"),
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
