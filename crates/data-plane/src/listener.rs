//! Listening sockets, and the loop that accepts from them.
//!
//! Each worker has a socket of its own per address (`SO_REUSEPORT`), so that a connection lives and dies on one
//! thread, mostly that which accepts it: a worker that has too many hands the newest over. Sockets are bound when config
//! is applied, on the caller's thread, so that what cannot be bound is refused there; they survive every update that
//! keeps their address, and are not closed while connections wait in them.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use meshwork_model::proxy::SocketOptions;
use meshwork_telemetry::Refusal;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::connection;
use crate::crew::{Counted, Moved};
use crate::limits::{ACCEPT_BACKLOG, ACCEPT_PAUSE, CONNECTIONS_PER_LISTENER};
use crate::occasion::Occasion;
use crate::overload::{Wanted, is_kept};
use crate::worker::{Presence, Worker};

/// The sockets of one address: one per worker, where they are ours.
pub(crate) struct Sockets {
    address: SocketAddr,
    each: Vec<std::net::TcpListener>,
    workers: usize,
    /// Whether somebody else made them, and may have others use them after us.
    are_adopted: bool,
}

// === impl Sockets ===

impl Sockets {
    /// Binds and listens; port 0 asks the kernel for one.
    ///
    /// # Errors
    /// The kernel's: the address is in use, is not ours, or needs a privilege.
    pub(crate) fn bind(address: SocketAddr, options: &SocketOptions, workers: usize) -> io::Result<Self> {
        // Sockets that share a port do not exclude those of another process of ours; one that does not share does.
        if address.port() != 0 {
            socket(address, options, false)?;
        }
        let first = listen(address, options)?;
        let address = first.local_addr()?;
        let mut each = vec![first];
        while each.len() < workers {
            each.push(listen(address, options)?);
        }
        Ok(Self { address, each, workers, are_adopted: false })
    }

    /// Takes sockets over that somebody else made and that listen already, under the address by which config means
    /// them. Where they are fewer than the workers some share one, where they are more some have several.
    ///
    /// # Errors
    /// There is none, or one cannot be made non-blocking.
    pub(crate) fn adopt(
        address: SocketAddr,
        each: Vec<std::net::TcpListener>,
        workers: usize,
    ) -> io::Result<Self> {
        if each.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no socket to take over"));
        }
        each.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        Ok(Self { address, each, workers, are_adopted: true })
    }

    /// The address, its port as the kernel chose it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The numbers of a worker's sockets.
    fn of_worker(&self, index: usize) -> impl Iterator<Item = usize> {
        (index % self.each.len()..self.each.len()).step_by(self.workers.max(1))
    }

    /// One of the sockets. The connections that wait in it stay where they are.
    fn open(&self, number: usize) -> io::Result<TcpListener> {
        let socket = self.each.get(number).ok_or(io::ErrorKind::NotFound)?;
        TcpListener::from_std(socket.try_clone()?)
    }
}

fn socket(address: SocketAddr, options: &SocketOptions, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if options.freebind && address.is_ipv6() {
        socket.set_freebind_v6(true)?;
    } else if options.freebind {
        socket.set_freebind_v4(true)?;
    }
    if options.transparent && address.is_ipv6() {
        socket.set_ip_transparent_v6(true)?;
    } else if options.transparent {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(address: SocketAddr, options: &SocketOptions) -> io::Result<std::net::TcpListener> {
    let socket = socket(address, options, true)?;
    socket.set_nonblocking(true)?;
    let backlog = options.backlog.and_then(|backlog| i32::try_from(backlog).ok());
    socket.listen(backlog.unwrap_or(ACCEPT_BACKLOG))?;
    Ok(socket.into())
}

// === accepting ===

/// What a worker counts and tells of one of its listeners.
#[derive(Default)]
pub(crate) struct Gate {
    open: Cell<usize>,
    /// Connections that broke before they were anything.
    pub(crate) failed: Occasion,
    /// Those whose peers did not prove who they are.
    pub(crate) unproven: Occasion,
    /// Those that were refused for what they spoke.
    pub(crate) plaintext: Occasion,
    /// Those that were refused for where they were meant to go.
    pub(crate) destination: Occasion,
    /// Those that were one too many for their chain.
    pub(crate) limited: Occasion,
    shed: Occasion,
    unaccepted: Occasion,
}

/// A connection counts as open until this is dropped.
struct Open(Rc<Gate>);

/// Starts accepting on a worker, until told to stop.
pub(crate) fn start(worker: &Rc<Worker>, sockets: &Arc<Sockets>, gate: &Rc<Gate>) -> Vec<Rc<Notify>> {
    let begin = |number| {
        let stop = Rc::new(Notify::new());
        let accepting = worker.begin_accepting();
        let (worker, sockets, gate) = (Rc::clone(worker), Arc::clone(sockets), Rc::clone(gate));
        let stopped = Rc::clone(&stop);
        spawn_local(async move {
            accept(&worker, &sockets, number, &gate, &stopped).await;
            drop(accepting);
        });
        stop
    };
    sockets.of_worker(worker.index).map(begin).collect()
}

async fn accept(worker: &Rc<Worker>, sockets: &Sockets, number: usize, gate: &Rc<Gate>, stop: &Notify) {
    let mut stopped = std::pin::pin!(stop.notified());
    let socket = loop {
        match sockets.open(number) {
            Ok(socket) => break socket,
            Err(error) => pause(gate, &error).await,
        }
        if stopped.as_mut().now_or_never().is_some() {
            return;
        }
    };
    let address = sockets.address();
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = socket.accept() => match accepted {
                Ok((stream, remote)) => place(worker, address, stream, remote),
                Err(error) => pause(gate, &error).await,
            }
        }
    }
    // Whoever waits in the queue was promised a connection.
    while let Some(Ok((stream, remote))) = socket.accept().now_or_never() {
        begin(worker, address, stream, remote, worker.count());
    }
    if worker.is_draining() && !sockets.are_adopted {
        // Whoever comes now is refused by the kernel and may try elsewhere, instead of waiting in a queue that
        // nobody empties.
        let _ = SockRef::from(&socket).shutdown(std::net::Shutdown::Both);
    }
}

/// A connection that broke while it waited says nothing of the socket. Anything else needs a rest: mostly there are no
/// descriptors, and those who wait are served once there are.
async fn pause(gate: &Gate, error: &io::Error) {
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    if let Some(untold) = gate.unaccepted.arises() {
        warn!(%error, untold, "cannot accept; connections wait until it is possible again");
    }
    sleep(ACCEPT_PAUSE).await;
}

/// Keeps a connection, or hands it to a worker that has fewer.
fn place(worker: &Rc<Worker>, listener: SocketAddr, stream: TcpStream, remote: SocketAddr) {
    let crew = &worker.crew;
    let room = crew.place(worker.index, worker.version()).and_then(|to| Some((to, crew.reserve(to)?)));
    let Some((to, room)) = room else { return begin(worker, listener, stream, remote, worker.count()) };
    match stream.into_std() {
        Ok(stream) => room.send(Moved { stream, remote, listener, counted: crew.count(to) }),
        Err(error) => debug!(%remote, %error, "a connection was lost on its way to another worker"),
    }
}

/// Serves the connections that other workers hand over, for ever.
pub(crate) async fn receive(worker: Rc<Worker>, mut inbox: mpsc::Receiver<Moved>) {
    while let Some(Moved { stream, remote, listener, counted }) = inbox.recv().await {
        match TcpStream::from_std(stream) {
            Ok(stream) => begin(&worker, listener, stream, remote, counted),
            Err(error) => debug!(%remote, %error, "a connection was lost on its way from another worker"),
        }
        // It may have been the last that a drain waited for.
        worker.reconsider();
    }
}

fn begin(worker: &Rc<Worker>, address: SocketAddr, stream: TcpStream, remote: SocketAddr, counted: Counted) {
    let Some(listener) = worker.listener(address) else { return };
    let gate = worker.gate(address);
    if let Err(limit) = admit(worker, &gate, &stream) {
        worker.registry.count_refusal(Refusal::Limit);
        if let Some(untold) = gate.shed.arises() {
            warn!(listener = %listener.name, untold, "{limit}: a connection was closed (MW0501)");
        }
        return;
    }
    let open = Open::count(&gate);
    let worker = Rc::clone(worker);
    spawn_local(async move {
        let presence = Presence::announce(&worker, counted).await;
        let served = connection::serve(&worker, &listener, &gate, address, stream, remote).await;
        if let Err(error) = served {
            debug!(listener = %listener.name, %remote, side = ?error.side(), error = %error.kind, "connection ended");
        }
        drop(open);
        drop(presence);
    });
}

/// Whether one more connection may begin; why not.
fn admit(worker: &Worker, gate: &Gate, stream: &TcpStream) -> Result<(), &'static str> {
    if worker.overload().is_refusing() {
        Err("memory is almost used up")
    } else if gate.open.get() >= CONNECTIONS_PER_LISTENER {
        Err("the listener has as many connections as it may")
    } else if worker.has_most_connections() || is_kept(stream, Wanted::Downstream) {
        Err("the proxy has as many connections as its descriptors allow")
    } else {
        Ok(())
    }
}

// === impl Open ===

impl Open {
    fn count(gate: &Rc<Gate>) -> Self {
        gate.open.set(gate.open.get() + 1);
        Self(Rc::clone(gate))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(address: SocketAddr, workers: usize) -> io::Result<Sockets> {
        Sockets::bind(address, &SocketOptions::default(), workers)
    }

    #[test]
    fn an_address_is_bound_once_per_process_and_once_per_worker() {
        let first = bind(([127, 0, 0, 1], 0).into(), 2).expect("free");
        assert_eq!(first.each.len(), 2);
        let again = bind(first.address(), 2).map(|_| ()).map_err(|e| e.kind());
        assert_eq!(again, Err(io::ErrorKind::AddrInUse));
        let address = first.address();
        drop(first);
        assert!(bind(address, 1).is_ok());
    }
}
