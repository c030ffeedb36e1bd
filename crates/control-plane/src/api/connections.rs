//! The API's connections, over TCP and over the Unix socket: how many, for how long, and whose.

use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::access::Peer;

/// Connections at once, by TCP and by the socket each: people, dashboards and pipelines.
const MAX_CONNECTIONS: usize = 256;
/// How long a request's head may take, the wait for it on an idle connection included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failure to accept, the pause: descriptors that have run out are not free in less.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves TCP, for as long as it is polled.
pub(super) async fn serve_tcp(listener: TcpListener, router: Router) {
    let accept = async || listener.accept().await.map(|(stream, _)| (stream, Peer::Loopback));
    serve(accept, router).await;
}

/// Serves the socket, for as long as it is polled.
pub(super) async fn serve_socket(listener: UnixListener, router: Router) {
    let accept = async || {
        let (stream, _) = listener.accept().await?;
        let user = stream.peer_cred()?.uid();
        Ok((stream, Peer::User(user)))
    };
    serve(accept, router).await;
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

async fn serve<S, F>(accept: impl Fn() -> F, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = std::io::Result<(S, Peer)>>,
{
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this future, it ends them all.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match accept().await {
            Ok((stream, peer)) => {
                let router = router.clone().layer(Extension(peer));
                connections.spawn(async move {
                    let _permit = permit;
                    let mut server = http1::Builder::new();
                    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                    // How a client ends its connection is its own matter.
                    drop(
                        server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await,
                    );
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
