//! Listening sockets, and the loop that accepts from them.
//!
//! Each worker has a socket of its own per address (`SO_REUSEPORT`), so that a connection lives and dies on one
//! thread. Sockets are bound when config is applied, on the caller's thread, so that what cannot be bound is
//! refused there; they survive every update that keeps their address, and are not closed while connections wait in
//! them.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::connection;
use crate::limits::{ACCEPT_BACKLOG, ACCEPT_PAUSE, CONNECTIONS_PER_LISTENER};
use crate::worker::Worker;

/// The sockets of one address, one per worker.
pub(crate) struct Sockets {
    address: SocketAddr,
    each: Vec<std::net::TcpListener>,
}

/// A connection counts as open until this is dropped.
struct Open(Rc<Cell<usize>>);

// === impl Sockets ===

impl Sockets {
    /// Binds and listens; port 0 asks the kernel for one.
    ///
    /// # Errors
    /// The kernel's: the address is in use, is not ours, or needs a privilege.
    pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Self> {
        // Sockets that share a port do not exclude those of another process of ours; one that does not share does.
        if address.port() != 0 {
            socket(address, false)?;
        }
        let first = listen(address)?;
        let address = first.local_addr()?;
        let mut each = vec![first];
        while each.len() < workers {
            each.push(listen(address)?);
        }
        Ok(Self { address, each })
    }

    /// The address, its port as the kernel chose it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A worker's socket. The connections that wait in it stay where they are.
    fn of_worker(&self, index: usize) -> io::Result<TcpListener> {
        let socket = self.each.get(index).ok_or(io::ErrorKind::NotFound)?;
        TcpListener::from_std(socket.try_clone()?)
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(address, true)?;
    socket.set_nonblocking(true)?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket.into())
}

// === accepting ===

/// Starts accepting on a worker, until told to stop.
pub(crate) fn start(worker: &Rc<Worker>, sockets: &Arc<Sockets>) -> Rc<Notify> {
    let stop = Rc::new(Notify::new());
    match sockets.of_worker(worker.index) {
        Ok(socket) => {
            spawn_local(accept(Rc::clone(worker), sockets.address(), socket, Rc::clone(&stop)));
        }
        Err(error) => warn!(address = %sockets.address(), %error, "cannot accept on this worker"),
    }
    stop
}

async fn accept(worker: Rc<Worker>, address: SocketAddr, socket: TcpListener, stop: Rc<Notify>) {
    let open = Rc::new(Cell::new(0));
    let mut stopped = std::pin::pin!(stop.notified());
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = socket.accept() => match accepted {
                Ok((stream, remote)) => begin(&worker, address, stream, remote, &open),
                Err(error) => pause(&error).await,
            }
        }
    }
    // Whoever waits in the queue was promised a connection.
    while let Some(Ok((stream, remote))) = socket.accept().now_or_never() {
        begin(&worker, address, stream, remote, &open);
    }
}

/// A connection that broke while it waited says nothing of the socket; anything else needs a rest.
async fn pause(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        warn!(%error, "cannot accept");
        sleep(ACCEPT_PAUSE).await;
    }
}

fn begin(
    worker: &Rc<Worker>,
    address: SocketAddr,
    stream: TcpStream,
    remote: SocketAddr,
    open: &Rc<Cell<usize>>,
) {
    let Some(listener) = worker.listener(address) else { return };
    if open.get() >= CONNECTIONS_PER_LISTENER {
        warn!(listener = %listener.name, "too many connections; one was closed");
        return;
    }
    let open = Open::count(open);
    let worker = Rc::clone(worker);
    spawn_local(async move {
        if let Err(error) = connection::serve(worker, &listener, address, stream, remote).await {
            debug!(listener = %listener.name, %remote, side = ?error.side(), error = %error.kind, "connection ended");
        }
        drop(open);
    });
}

// === impl Open ===

impl Open {
    fn count(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_bound_once_per_process_and_once_per_worker() {
        let first = Sockets::bind(([127, 0, 0, 1], 0).into(), 2).expect("free");
        assert_eq!(first.each.len(), 2);
        let again = Sockets::bind(first.address(), 2).map(|_| ()).map_err(|e| e.kind());
        assert_eq!(again, Err(io::ErrorKind::AddrInUse));
        let address = first.address();
        drop(first);
        assert!(Sockets::bind(address, 1).is_ok());
    }
}
