//! The API's connections, over TCP and over the Unix socket: how many, for how long, and whose.

use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::access::Peer;
use crate::limits::{ACCEPT_PAUSE, API_HEAD};
use crate::room::{Place, Room, Rooms, source};

/// Whether somebody has shown a token on a connection: nobody without one can have it ended from then on.
#[derive(Clone)]
pub(super) struct Known {
    rooms: Arc<Rooms>,
    place: Arc<Mutex<Option<Place<Arc<str>>>>>,
    proven: Arc<Notify>,
    is_proven: Arc<AtomicBool>,
}

/// Serves TCP, for as long as it is polled.
pub(super) async fn serve_tcp(listener: TcpListener, router: Router, rooms: Arc<Rooms>) {
    let accept = async || {
        let (stream, address) = listener.accept().await?;
        Ok((stream, Peer::Loopback, source(address)))
    };
    serve(accept, router, &rooms, &rooms.api).await;
}

/// Serves the socket, for as long as it is polled.
pub(super) async fn serve_socket(listener: UnixListener, router: Router, rooms: Arc<Rooms>) {
    let accept = async || {
        let (stream, _) = listener.accept().await?;
        let user = stream.peer_cred()?.uid();
        Ok((stream, Peer::User(user), user))
    };
    serve(accept, router, &rooms, &rooms.api_socket).await;
}

/// Makes the socket, for its owner alone. One that is left of a process that is gone is replaced.
///
/// # Errors
/// The system's; a socket on which somebody answers is in use.
pub(crate) async fn listen(path: &Path) -> std::io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(std::io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The directory is its owner's alone: nobody comes in between.
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve<S, K, F>(accept: impl Fn() -> F, router: Router, rooms: &Arc<Rooms>, room: &Arc<Room<K>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    K: Clone + Display + Eq + Hash + Send + Sync + 'static,
    F: Future<Output = std::io::Result<(S, Peer, K)>>,
{
    // Dropped with this future, it ends them all.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match accept().await {
            Ok((stream, peer, by)) => {
                // Who finds none is closed at once.
                let Some(place) = room.enter(by) else { continue };
                let known = Known::new(rooms);
                let router = router.clone().layer(Extension(peer)).layer(Extension(known.clone()));
                connections.spawn(connection(stream, router, place, known));
            }
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection until it ends, or others need its place.
async fn connection<S, K>(stream: S, router: Router, place: Place<K>, known: Known)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    K: Eq + Hash,
{
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(API_HEAD);
    let served = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    // How a client ends its connection is its own matter.
    tokio::select! {
        _ = &mut served => return,
        () = place.displaced() => return,
        () = known.proven.notified() => drop(place),
    }
    let Some(place) = known.place().take() else { return };
    tokio::select! {
        _ = &mut served => {}
        () = place.displaced() => {}
    }
}

impl Known {
    fn new(rooms: &Arc<Rooms>) -> Self {
        Self {
            rooms: Arc::clone(rooms),
            place: Arc::default(),
            proven: Arc::default(),
            is_proven: Arc::default(),
        }
    }

    fn place(&self) -> MutexGuard<'_, Option<Place<Arc<str>>>> {
        // Whoever panicked while holding it left a place, or none.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request came from somebody who has a name: the connection moves to the room of such ones, once.
    pub(super) fn prove(&self, name: &str) {
        if self.is_proven.load(Relaxed) {
            return;
        }
        if let Some(entered) = self.rooms.api_known.enter(name.into()) {
            self.is_proven.store(true, Relaxed);
            *self.place() = Some(entered);
            self.proven.notify_one();
        }
    }
}
