//! The agent of a host: tells workloads who they are, on a Unix socket that knows who calls.
//!
//! It is a workload itself, with an identity of its own. The control plane tells it by `registrations` which processes
//! are which workloads; it attests who connects ([`crate::Attestor`]), gets the certificates and tokens of those that a
//! registration is about, and serves them by SPIFFE's Workload API and by Envoy's SDS. The control plane signs only what
//! a registration lets this agent ask for: an agent that was taken over is every workload of its host, and no other.
//!
//! Nothing of a workload's is written to disk.

mod authority;
mod caller;
mod connection;
mod registrations;
mod secrets;
mod socket;
mod status;
mod tokens;
mod workload_api;
mod workloads;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use meshwork_model::mesh::UnixSelectors;
use tokio::sync::watch;
use tonic::Status;
use tracing::{info, warn};

use crate::attest::{Attestor, UnixAttestor, UnixPeer};
use crate::enrol::{Enrolled, Said};
use caller::{Caller, Counts};
use registrations::{Registration, Registrations};
use tokens::Tokens;
use workloads::Workloads;

pub use socket::SocketError;
pub use status::fetch as status;

/// The secret with the registrations of an agent.
const REGISTRATIONS: &str = "registrations";
/// Programs without a registration that are remembered, so that each is told once a minute.
const MAX_STRANGERS: usize = 256;

/// Where workloads find the agent.
#[derive(Clone, Debug)]
pub struct Socket {
    /// The path of the socket; its folder is made where it is missing.
    pub path: PathBuf,
    /// The socket's permissions: who may connect, which is not who gets an identity.
    pub mode: u32,
}

impl Socket {
    /// The folder of the socket.
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// Makes the folder where it is missing: for everybody where the socket is, else for the owner.
    ///
    /// # Errors
    /// The system refuses.
    pub fn make_folder(&self) -> Result<(), SocketError> {
        socket::make_folder(self)
    }
}

/// Serves workloads as the agent of a host, until `stop` completes: keeps the agent's own identity, follows the
/// registrations that name it. `workload` is the agent's name in its join token; `ready` is called when the socket is
/// there.
///
/// # Errors
/// The socket cannot be made, or somebody else answers on it.
pub async fn serve_host(
    enrolled: Arc<Enrolled>,
    workload: &str,
    socket: &Socket,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), SocketError> {
    let attestor: Arc<dyn Attestor> = Arc::new(UnixAttestor::default());
    let listener = socket::listen(socket)?;
    let host = Host::new(Arc::clone(&enrolled), None);
    ready();
    let registered = |_: &str, bytes: &[u8]| host.register(bytes);
    tokio::select! {
        () = enrolled.keep_fresh_with(workload, &[REGISTRATIONS], registered) => {}
        () = connection::serve(&host, &listener, &attestor) => {}
        () = secrets::watch(&host) => {}
        () = host.follow_trust() => {}
        () = stop => {}
    }
    Ok(())
}

/// Serves one workload its own identity, to processes of one user, until it is dropped: what a sidecar offers beside its
/// proxy. Somebody else keeps the identity fresh.
///
/// # Errors
/// As [`serve_host`].
pub async fn serve_own(enrolled: Arc<Enrolled>, socket: &Socket, uid: u32) -> Result<(), SocketError> {
    let attestor: Arc<dyn Attestor> = Arc::new(UnixAttestor::default());
    let listener = socket::listen(socket)?;
    let own = Registration {
        namespace: "".into(),
        name: "own".into(),
        id: enrolled.identity.id().clone(),
        selectors: UnixSelectors { uid: Some(uid), ..UnixSelectors::default() },
        hint: None,
    };
    let host = Host::new(enrolled, Some(Registrations::new(vec![own])));
    tokio::select! {
        () = connection::serve(&host, &listener, &attestor) => {}
        () = secrets::watch(&host) => {}
        () = host.follow_trust() => {}
    }
    Ok(())
}

/// What an agent knows.
struct Host {
    enrolled: Arc<Enrolled>,
    /// None until the control plane has told them.
    registrations: watch::Sender<Option<Arc<Registrations>>>,
    workloads: Arc<Workloads>,
    tokens: Tokens,
    counts: Counts,
    envoys: secrets::Envoys,
    /// Grows whenever somebody may be told something else.
    changes: watch::Sender<u64>,
    strangers: Mutex<BTreeMap<String, Said>>,
}

/// Who a caller is.
enum Standing {
    /// That is not known yet.
    Unknown,
    /// It has identities, the default one first.
    Somebody(Vec<Registration>),
    /// It has none.
    Nobody(Status),
}

impl Host {
    fn new(enrolled: Arc<Enrolled>, registrations: Option<Registrations>) -> Arc<Self> {
        let changes = watch::Sender::new(0);
        Arc::new(Self {
            registrations: watch::Sender::new(registrations.map(Arc::new)),
            workloads: Workloads::new(Arc::clone(&enrolled), changes.clone()),
            tokens: Tokens::new(Arc::clone(&enrolled)),
            enrolled,
            counts: Counts::default(),
            envoys: secrets::Envoys::default(),
            changes,
            strangers: Mutex::default(),
        })
    }

    /// Takes the control plane's list.
    fn register(&self, bytes: &[u8]) -> Result<(), String> {
        let (read, bad) = Registrations::read(bytes, self.enrolled.identity.id())?;
        let read = Arc::new(read);
        let is_new = self.registrations.borrow().as_ref() != Some(&read);
        if is_new {
            info!(registrations = read.len(), "knows which processes are which workloads");
            self.tokens.retain(|id| read.has(id));
            self.registrations.send_replace(Some(read));
            self.changes.send_modify(|count| *count += 1);
        }
        if bad.is_empty() { Ok(()) } else { Err(bad.join("; ")) }
    }

    /// Passes changes of trust, and of the agent's own certificate, on to everybody.
    async fn follow_trust(&self) {
        let mut changes = self.enrolled.identity.changes();
        while changes.changed().await.is_ok() {
            self.changes.send_modify(|count| *count += 1);
        }
        std::future::pending::<()>().await;
    }

    /// Tells who a caller is by now.
    fn standing(&self, caller: &Caller) -> Standing {
        if let Err(status) = caller.look_again() {
            return Standing::Nobody(status);
        }
        let Some(registrations) = self.registrations.borrow().clone() else { return Standing::Unknown };
        let matching = registrations.of(&caller.selectors);
        if matching.is_empty() {
            self.note_stranger(caller, registrations.len());
            return Standing::Nobody(Status::permission_denied("no registration is about this process"));
        }
        let trust = self.enrolled.identity.trust();
        let is_revoked = |found: &Registration| trust.revoked().identities().any(|id| *id == found.id);
        let found: Vec<Registration> =
            matching.into_iter().filter(|found| !is_revoked(found)).cloned().collect();
        if found.is_empty() {
            return Standing::Nobody(Status::permission_denied("the identity of this process is revoked"));
        }
        Standing::Somebody(found)
    }

    /// Whether no registration can be about processes of this one's user and group, whatever they run.
    fn is_stranger(&self, peer: &UnixPeer) -> bool {
        let told = self.registrations.borrow();
        told.as_ref().is_some_and(|registrations| !registrations.may_have(peer.uid, peer.gid))
    }

    /// Says what a registration would have to ask for, once a minute.
    fn note_stranger(&self, caller: &Caller, registrations: usize) {
        let shown = caller.selectors.to_string();
        let is_news = {
            let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
            if strangers.len() >= MAX_STRANGERS && !strangers.contains_key(&shown) {
                strangers.clear();
            }
            strangers.entry(shown.clone()).or_default().is_news("")
        };
        if is_news {
            warn!(
                pid = caller.peer.pid,
                registrations, "no registration is about this process; the selectors of one could be {shown}"
            );
        }
    }
}

#[cfg(test)]
mod tests;
