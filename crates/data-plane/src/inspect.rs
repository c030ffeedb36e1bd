//! Listener filters: what looks at a connection before its chain is chosen.
//!
//! Each looks at the bytes that have come, without consuming any but a header of the PROXY protocol, and says how many
//! it needs; here they are read, within the listener's time. Where no filter asks for bytes nothing is read: a declared
//! port is never sniffed.

mod client_hello;
mod http;
mod proxy_protocol;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Buf, BufMut, BytesMut};
use meshwork_model::chain::Arrival;
use meshwork_model::proxy::{ListenerFilterKind, Transport};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::timeout;

use self::client_hello::Hello;
use self::http::Http;
use self::proxy_protocol::Header;
use crate::config::ListenerConfig;
use crate::error::{Kind, ProxyError};
use crate::transport::Socket;
use crate::worker::Worker;

pub(crate) use self::client_hello::ClientHello;

/// A connection whose chain is not chosen yet, and what is known of it.
pub(crate) struct Arrived {
    /// The connection.
    pub(crate) stream: Socket,
    /// What has been read of it.
    pub(crate) ahead: BytesMut,
    /// Who opened it.
    pub(crate) direct: SocketAddr,
    /// On whose behalf.
    pub(crate) remote: SocketAddr,
    /// The address that it came to, or was meant for.
    pub(crate) local: SocketAddr,
    /// The address that it was meant for, where it was redirected; it was looked at.
    pub(crate) meant_for: Option<SocketAddr>,
    /// What its bytes are; plaintext where nobody looked.
    pub(crate) transport: Transport,
    /// What it asks for.
    pub(crate) hello: ClientHello,
}

/// Has the listener's filters look at a connection.
///
/// # Errors
/// It ended or broke, was too slow, or is refused for what it says.
pub(crate) async fn inspect(
    worker: &Worker,
    listener: &ListenerConfig,
    arrived: &mut Arrived,
) -> Result<(), ProxyError> {
    let Some(limit) = listener.filters_timeout else { return look(worker, listener, arrived).await };
    match timeout(limit, look(worker, listener, arrived)).await {
        Ok(looked) => looked,
        // What is known by now has to do.
        Err(_) if listener.continue_on_filters_timeout => Ok(()),
        Err(_) => Err(ProxyError::fatal(Kind::RequestTimeout)),
    }
}

async fn look(worker: &Worker, listener: &ListenerConfig, arrived: &mut Arrived) -> Result<(), ProxyError> {
    for filter in &listener.filters {
        let port = arrived.local.port();
        if filter.disabled.as_ref().is_some_and(|disabled| disabled.takes(port)) {
            continue;
        }
        while let Some(needs) = step(worker, &filter.kind, arrived)? {
            arrived.read(worker, needs).await?;
        }
    }
    Ok(())
}

/// Looks once; gives how many bytes are needed, at most, where those that have come do not do.
fn step(
    worker: &Worker,
    kind: &ListenerFilterKind,
    arrived: &mut Arrived,
) -> Result<Option<usize>, ProxyError> {
    match kind {
        ListenerFilterKind::OriginalDestination => arrived.ask_kernel(worker),
        ListenerFilterKind::Tls(config) => match client_hello::client_hello(&arrived.ahead) {
            Hello::Needs(needs) => return Ok(Some(needs)),
            Hello::Complete(hello) => {
                arrived.transport = Transport::Tls;
                arrived.hello = hello;
            }
            Hello::Absent if config.only_tls => {
                return Err(ProxyError::no_handshake("it does not speak TLS"));
            }
            Hello::Absent => {}
        },
        ListenerFilterKind::Http if arrived.transport == Transport::Tls => {}
        ListenerFilterKind::Http => match http::version(&arrived.ahead) {
            Http::Needs(needs) => return Ok(Some(needs)),
            Http::Version(version) => arrived.hello.alpn = vec![version.into()],
            Http::Absent => {}
            Http::TooLong => return Err(ProxyError::fatal(Kind::Refused("its first line does not end"))),
        },
        ListenerFilterKind::ProxyProtocol(config) => match proxy_protocol::header(&arrived.ahead, *config) {
            Header::Needs(needs) => return Ok(Some(needs)),
            Header::Complete(length, named) => arrived.be_told(length, named),
            Header::Absent => {}
            Header::Invalid(why) => return Err(ProxyError::fatal(Kind::Refused(why))),
        },
    }
    Ok(None)
}

// === impl Arrived ===

impl Arrived {
    /// A connection that `remote` opened to a listener's address.
    pub(crate) fn new(stream: Socket, bound: SocketAddr, remote: SocketAddr) -> Self {
        // One that is bound to all addresses came to one of them.
        let came_to = || stream.local_address().unwrap_or(bound);
        let local = if bound.ip().is_unspecified() { came_to() } else { bound };
        Self {
            stream,
            ahead: BytesMut::new(),
            direct: remote,
            remote,
            local,
            meant_for: None,
            transport: Transport::Plaintext,
            hello: ClientHello::default(),
        }
    }

    /// Lends what is known of it to `choose`.
    pub(crate) fn with_arrival<T>(&self, choose: impl FnOnce(&Arrival<'_>) -> T) -> T {
        let alpn: Vec<&[u8]> = self.hello.alpn.iter().map(|name| &**name).collect();
        choose(&Arrival {
            local: self.local,
            direct: self.direct,
            remote: self.remote,
            transport: self.transport,
            server_name: self.hello.server_name.as_deref().unwrap_or_default(),
            alpn: &alpn,
        })
    }

    /// Takes over where a redirected connection was meant to go; it may be taken there where that is near nobody.
    fn ask_kernel(&mut self, worker: &Worker) {
        let Ok(meant) = self.stream.original_destination() else { return };
        if meant != self.local && worker.own.refusal(meant.ip()).is_none() {
            self.meant_for = Some(meant);
        }
        self.local = meant;
    }

    /// Takes over what a header says, and consumes it. Where the connection is taken stays the kernel's to say.
    fn be_told(&mut self, length: usize, named: Option<(SocketAddr, SocketAddr)>) {
        self.ahead.advance(length);
        if let Some((source, destination)) = named {
            (self.remote, self.local) = (source, destination);
        }
    }

    /// Reads until there are more bytes, and not more than `most` of them.
    async fn read(&mut self, worker: &Worker, most: usize) -> Result<(), ProxyError> {
        let Self { stream, ahead, .. } = self;
        let mut piece = [0; READ_AHEAD_BYTES];
        let room = most.saturating_sub(ahead.len()).min(piece.len());
        let read = poll_fn(|cx| {
            let mut free = ReadBuf::new(&mut piece[..room]);
            match Pin::new(&mut *stream).poll_read(cx, &mut free) {
                // Those who are silent while the proxy drains are let go.
                Poll::Pending if ahead.is_empty() && worker.is_draining() => Poll::Ready(Ok(0)),
                Poll::Pending => Poll::Pending,
                Poll::Ready(read) => Poll::Ready(read.map(|()| free.filled().len())),
            }
        });
        match read.await.map_err(|e| ProxyError::downstream(&e))? {
            0 if ahead.is_empty() => Err(ProxyError::fatal(Kind::DownstreamGone)),
            0 => Err(ProxyError::no_handshake("it broke off")),
            read => {
                ahead.put_slice(&piece[..read]);
                Ok(())
            }
        }
    }
}

/// What one read asks for; usual first messages take some 2 KiB.
const READ_AHEAD_BYTES: usize = 2048;
