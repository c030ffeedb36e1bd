//! A connection of bytes, in the same phases as an exchange: authenticate → authorize → forward → relay → record.
//!
//! Each direction ends on its own (half-close); a side that breaks is passed on as a break, so that nobody takes a
//! part for the whole. A change of policy is judged again while the connection lives.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use meshwork_model::proxy::TcpProxy;
use meshwork_telemetry::{EdgeId, Protocol};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tracing::debug;

use crate::config::{Chain, Filter};
use crate::connection::{Peer, Seat};
use crate::error::{Kind, ProxyError, Retry};
use crate::limits::{STREAM_IDLE, TCP_BUFFER_BYTES, TCP_CONNECT_TRIES};
use crate::policy::{self, Admitted};
use crate::record::{OpenConnection, Record};
use crate::timer::Timer;
use crate::transport::Transport;
use crate::upstream::{Picked, connect};

/// One direction.
struct Pipe {
    buffer: Box<[u8]>,
    filled: std::ops::Range<usize>,
    state: Flow,
    is_flushed: bool,
}

#[derive(PartialEq, Eq)]
enum Flow {
    Open,
    Ending,
    Ended,
}

/// A relayed connection; recorded once, when it is dropped.
struct Relay<'r> {
    seat: Seat,
    peer: &'r Peer,
    record: Record,
    edge: Option<EdgeId>,
}

/// Relays a connection to its end.
///
/// # Errors
/// Why it was refused, could not be connected, or broke.
pub(crate) async fn relay(seat: Seat, peer: &Peer, transport: Transport) -> Result<(), ProxyError> {
    let record = Record::begin(&seat.worker, &seat.chain);
    let mut relay = Relay { seat, peer, record, edge: None };
    let ended = relay.run(transport).await;
    relay.record.reason = ended.as_ref().err().map(ProxyError::reason);
    ended
}

impl Relay<'_> {
    async fn run(&mut self, mut downstream: Transport) -> Result<(), ProxyError> {
        // Authenticate: in the handshake. Authorize: the proof that forwarding asks for.
        let admitted = self.authorize()?;
        // Forward: pick and connect.
        let (mut upstream, picked) = match Box::pin(self.forward(&admitted)).await {
            Ok(connected) => connected,
            Err(error) => {
                downstream.reset_on_close();
                return Err(error);
            }
        };
        let open = OpenConnection::opened(&self.seat.worker, self.peer, &picked, Protocol::Tcp);
        let edge = self.open();
        // Relay, until both directions have ended.
        let moved = self.transfer(edge, &mut downstream, &mut upstream).await;
        if moved.is_err() {
            downstream.reset_on_close();
            upstream.reset_on_close();
        }
        drop(open);
        moved
        // Record: once, in `drop`.
    }

    fn authorize(&self) -> Result<Admitted, ProxyError> {
        policy::admit(&tcp(&self.seat.chain).rbac, self.peer.id.as_ref(), self.peer.port)
    }

    async fn forward(&mut self, _: &Admitted) -> Result<(Transport, Picked), ProxyError> {
        let name = &tcp(&self.seat.chain).cluster;
        let worker = &self.seat.worker;
        let unknown = || ProxyError::fatal(Kind::NoCluster(name.clone()));
        let cluster = worker.cluster(name).ok_or_else(unknown)?;
        self.record.note_cluster(&cluster);
        let mut failed: Option<Picked> = None;
        let mut tries_left = TCP_CONNECT_TRIES;
        loop {
            let avoid = failed.as_ref().map(|picked| &**picked.endpoint());
            let empty = || ProxyError::fatal(Kind::NoEndpoint(name.clone()));
            let picked = cluster.pick(avoid, worker.random()).ok_or_else(empty)?;
            self.record.note_endpoint(&picked);
            tries_left -= 1;
            match connect(&cluster.config(), picked.endpoint()).await {
                Ok(transport) => return Ok((transport, picked)),
                Err(error) if tries_left == 0 || error.retry != Retry::Safe => return Err(error),
                Err(error) => debug!(error = %error.kind, "tries another endpoint"),
            }
            failed = Some(picked);
        }
    }

    async fn transfer(
        &mut self,
        edge: EdgeId,
        downstream: &mut Transport,
        upstream: &mut Transport,
    ) -> Result<(), ProxyError> {
        let (mut there, mut back) = (Pipe::new(), Pipe::new());
        let mut timer = Timer::default();
        let idle = tcp(&self.seat.chain).idle_timeout.unwrap_or(STREAM_IDLE);
        timer.set(Some(Instant::now() + idle));
        poll_fn(|cx| {
            self.judge_again()?;
            let (mut received, mut sent) = (0, 0);
            let moved_there = there.poll_move(cx, downstream, upstream, &mut received);
            let moved_back = back.poll_move(cx, upstream, downstream, &mut sent);
            if received + sent > 0 {
                self.count(edge, received, sent);
                timer.set(Some(Instant::now() + idle));
            }
            match (moved_there.map_err(ProxyError::from)?, moved_back.map_err(ProxyError::from)?) {
                (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
                _ => timer.poll_expired(cx).map(|()| Err(ProxyError::fatal(Kind::Timeout))),
            }
        })
        .await
    }

    /// After a change of config: whether there still is a place for this connection, and policy lets it be.
    fn judge_again(&mut self) -> Result<(), ProxyError> {
        let version = self.seat.version;
        if !self.seat.move_along() {
            return Err(ProxyError::fatal(Kind::Refused("the listener is gone, or asks for another proof")));
        }
        if self.seat.version != version {
            self.authorize()?;
        }
        Ok(())
    }

    /// Counts the connection as begun.
    fn open(&mut self) -> EdgeId {
        let (worker, service) = (&self.seat.worker, self.seat.chain.service.as_ref());
        let edge = self.record.edge(worker, self.peer, service, Protocol::Tcp);
        worker.shard.tcp_opened(edge);
        self.edge = Some(edge);
        edge
    }

    fn count(&mut self, edge: EdgeId, received: u64, sent: u64) {
        self.record.bytes_in += received;
        self.record.bytes_out += sent;
        self.seat.worker.shard.tcp_bytes(edge, received, sent);
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        let edge = self.edge.unwrap_or_else(|| self.open());
        self.record.write_connection(&self.seat.worker, self.peer, edge);
    }
}

fn tcp(chain: &Chain) -> &TcpProxy {
    match &chain.filter {
        Filter::Tcp(tcp) => tcp,
        Filter::Http(_) => unreachable!("a seat moves along between chains of one kind only"),
    }
}

/// Which side of a pipe failed.
enum Broken {
    From(io::Error),
    To(io::Error),
}

impl From<Broken> for ProxyError {
    fn from(broken: Broken) -> Self {
        let (Broken::From(error) | Broken::To(error)) = broken;
        Self::upstream(&error)
    }
}

// === impl Pipe ===

impl Pipe {
    fn new() -> Self {
        Self {
            buffer: vec![0; TCP_BUFFER_BYTES].into_boxed_slice(),
            filled: 0..0,
            state: Flow::Open,
            is_flushed: true,
        }
    }

    /// Moves bytes as far as they go; ready when the end has been passed on. Adds what was written to `moved`.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
        moved: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        loop {
            while !self.filled.is_empty() {
                let bytes = &self.buffer[self.filled.clone()];
                let written = ready!(Pin::new(&mut *to).poll_write(cx, bytes)).map_err(Broken::To)?;
                if written == 0 {
                    return Poll::Ready(Err(Broken::To(io::ErrorKind::WriteZero.into())));
                }
                self.filled.start += written;
                self.is_flushed = false;
                *moved += written as u64;
            }
            match self.state {
                Flow::Open => ready!(self.poll_fill(cx, from, to))?,
                Flow::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::To)?;
                    self.state = Flow::Ended;
                }
                Flow::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
    ) -> Poll<Result<(), Broken>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        let Poll::Ready(read) = Pin::new(from).poll_read(cx, &mut buffer) else {
            if !self.is_flushed {
                ready!(Pin::new(to).poll_flush(cx)).map_err(Broken::To)?;
                self.is_flushed = true;
            }
            return Poll::Pending;
        };
        read.map_err(Broken::From)?;
        self.filled = 0..buffer.filled().len();
        if self.filled.is_empty() {
            self.state = Flow::Ending;
        }
        Poll::Ready(Ok(()))
    }
}
