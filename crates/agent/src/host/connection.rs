//! Connections of workloads: attested when they come, looked at again with each request.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use meshwork_identity::workload_api::SpiffeWorkloadApiServer;
use meshwork_xds::sds::{self, SdsServer};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;
use tower::{ServiceExt as _, service_fn};
use tracing::{debug, warn};

use super::authority::Localhost;
use super::caller::Caller;
use super::secrets::Secrets;
use super::socket::Listener;
use super::workload_api::WorkloadApi;
use super::{Host, status};
use crate::attest::{AttestError, Attestor, UnixPeer};

/// Connections at once; past it, workloads wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// Those of users that no registration is about, all together: one user may have thousands of others (`/etc/subuid`), and
/// none of them is to wait for these.
const MAX_STRANGERS: usize = 512;
/// Streams of one connection.
const MAX_STREAMS: u32 = 128;
/// Processes that are looked at at once: each reads its executable, once.
const MAX_ATTESTED: usize = 4;
/// Those of users that no registration is about: what they run is looked at for the log alone.
const MAX_ATTESTED_STRANGERS: usize = 1;
/// Those of one user: large executables take seconds, in which others are not to wait.
const MAX_ATTESTED_OF_USER: usize = 2;
/// A pause when the process is out of file descriptors: others may close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The head of a request that is HTTP/1.1 comes at once, from the same host.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Where Envoy asks.
const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";

/// What a connection is served by.
#[derive(Clone)]
struct Served {
    host: Arc<Host>,
    workload_api: SpiffeWorkloadApiServer<WorkloadApi>,
    secrets: SdsServer<Secrets>,
}

/// Whose turn it is to be looked at, and who has a place.
struct Turns {
    all: Semaphore,
    of_strangers: Semaphore,
    places: Semaphore,
    places_of_strangers: Semaphore,
    /// By user, for as long as somebody waits.
    of_users: Mutex<HashMap<u32, Weak<Semaphore>>>,
}

impl Turns {
    fn new() -> Self {
        Self {
            all: Semaphore::new(MAX_ATTESTED),
            of_strangers: Semaphore::new(MAX_ATTESTED_STRANGERS),
            places: Semaphore::new(MAX_CONNECTIONS),
            places_of_strangers: Semaphore::new(MAX_STRANGERS),
            of_users: Mutex::default(),
        }
    }

    /// A place for as long as it is kept; `None` where there is none.
    fn place(&self, is_stranger: bool) -> Option<SemaphorePermit<'_>> {
        let places = if is_stranger { &self.places_of_strangers } else { &self.places };
        places.try_acquire().ok()
    }

    fn of(&self, uid: u32) -> Arc<Semaphore> {
        // Whoever panicked while holding it left a whole map.
        let mut users = self.of_users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, turns| turns.strong_count() > 0);
        if let Some(turns) = users.get(&uid).and_then(Weak::upgrade) {
            return turns;
        }
        let turns = Arc::new(Semaphore::new(MAX_ATTESTED_OF_USER));
        users.insert(uid, Arc::downgrade(&turns));
        turns
    }

    /// Does something in a user's turn.
    async fn take<T>(&self, uid: u32, is_stranger: bool, act: impl Future<Output = T>) -> T {
        let of_user = self.of(uid);
        // They are never closed.
        let _own = of_user.acquire().await;
        let all = if is_stranger { &self.of_strangers } else { &self.all };
        let _turn = all.acquire().await;
        act.await
    }
}

/// Accepts connections for ever. Those that are open end when it is dropped.
pub(super) async fn serve(host: &Arc<Host>, listener: &Listener, attestor: &Arc<dyn Attestor>) {
    let served = Served {
        host: Arc::clone(host),
        workload_api: SpiffeWorkloadApiServer::new(WorkloadApi(Arc::clone(host))),
        secrets: sds::server(Arc::new(Secrets(Arc::clone(host)))),
    };
    let (permits, turns) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(Turns::new()));
    let mut connections = JoinSet::new();
    loop {
        // It is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let stream = match listener.socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "accepts nothing for a moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (served, attestor, turns) = (served.clone(), Arc::clone(attestor), Arc::clone(&turns));
        connections.spawn(async move {
            let _permit = permit;
            served.connection(stream, attestor, &turns).await;
        });
    }
}

impl Served {
    async fn connection(self, stream: UnixStream, attestor: Arc<dyn Attestor>, turns: &Turns) {
        let peer = UnixPeer::of(&stream);
        let is_stranger = peer.as_ref().map_or(true, |peer| self.host.is_stranger(peer));
        let Some(_place) = turns.place(is_stranger) else {
            debug!("refused: there are as many connections as may be of users that no registration is about");
            return;
        };
        let caller = match peer {
            Ok(peer) => {
                let (uid, pid) = (peer.uid, peer.pid);
                let Some(counted) = self.host.counts.connection(uid) else {
                    warn!(uid, pid, "refused: its user has as many connections as one may");
                    return;
                };
                let attested = turns.take(uid, is_stranger, attest(peer, &attestor)).await;
                attested.map(|(peer, selectors)| {
                    Arc::new(Caller::new(peer, selectors, SystemTime::now(), attestor, counted))
                })
            }
            Err(error) => Err(error),
        };
        let caller = caller.map_err(|error| {
            warn!("nobody: {error}");
            Status::permission_denied(error.to_string())
        });
        if let Ok(caller) = &caller {
            debug!(pid = caller.peer.pid, "has connected: {}", caller.selectors);
            self.host.counts.remember(caller);
        }
        let service = service_fn(move |request| {
            let (served, caller) = (self.clone(), caller.clone());
            async move { Ok::<_, Infallible>(served.answer(caller, request).await) }
        });
        let mut connection = Builder::new(TokioExecutor::new());
        connection.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        connection.http2().max_concurrent_streams(MAX_STREAMS);
        let io = TokioIo::new(Localhost::new(stream));
        // What ends a connection is the workload's business.
        drop(connection.serve_connection(io, TowerToHyperService::new(service)).await);
    }

    async fn answer(
        self,
        caller: Result<Arc<Caller>, Status>,
        mut request: Request<Incoming>,
    ) -> http::Response<Body> {
        let caller = match caller.and_then(|caller| caller.look_again().map(|()| caller)) {
            Ok(caller) => caller,
            Err(status) => return status.into_http(),
        };
        if request.uri().path() == status::PATH {
            return status::answer(&self.host, &caller);
        }
        let is_sds = request.uri().path().starts_with(SDS);
        request.extensions_mut().insert(caller);
        let answered = if is_sds {
            self.secrets.oneshot(request).await
        } else {
            self.workload_api.oneshot(request).await
        };
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

async fn attest(
    peer: UnixPeer,
    attestor: &Arc<dyn Attestor>,
) -> Result<(UnixPeer, crate::Selectors), AttestError> {
    let attestor = Arc::clone(attestor);
    let attested = tokio::task::spawn_blocking(move || {
        let selectors = attestor.attest(&peer)?;
        Ok((peer, selectors))
    });
    attested.await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_user_leaves_turns_to_others() {
        let turns = Arc::new(Turns::new());
        let taken = |uid| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.take(uid, uid >= 100_000, std::future::pending::<()>()).await })
        };
        let hostile: Vec<_> = (0..10).map(|_| taken(1000)).collect();
        tokio::task::yield_now().await;
        assert_eq!(turns.all.available_permits(), MAX_ATTESTED - MAX_ATTESTED_OF_USER);
        assert_eq!(turns.take(1001, false, std::future::ready(7)).await, 7);
        // The users that this one may be besides, whom nobody knows, are in each other's way alone.
        let strangers: Vec<_> = (100_000..100_100).map(taken).collect();
        tokio::task::yield_now().await;
        assert_eq!(turns.all.available_permits(), MAX_ATTESTED - MAX_ATTESTED_OF_USER);
        assert_eq!(turns.take(1001, false, std::future::ready(7)).await, 7);
        let places: Vec<_> = std::iter::from_fn(|| turns.place(true)).collect();
        assert_eq!(places.len(), MAX_STRANGERS);
        assert!(turns.place(false).is_some());
        for one in strangers {
            one.abort();
            assert!(one.await.is_err());
        }
        for one in hostile {
            one.abort();
            assert!(one.await.is_err());
        }
        assert_eq!(turns.take(1000, false, std::future::ready(7)).await, 7);
        assert_eq!(turns.of_users.lock().expect("whole").len(), 1, "who waits for none takes no memory");
    }
}
