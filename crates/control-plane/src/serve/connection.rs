//! Connections: accepted, brought through their handshakes side by side, and handed to tonic with who is behind them.
//!
//! Who has proven an identity and who has not are served apart, each from a room of their own: the latter have less of
//! everything, and take nothing from the former. What a connection has proven is looked at again at each call: a
//! certificate ends, trust changes, somebody is revoked.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use meshwork_identity::{CertificateFacts, IdentityError, IdentitySource, SpiffeId, refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::debug;

use super::Refusals;
use crate::authority::Authority;
use crate::limits::{
    ACCEPT_PAUSE, ANONYMOUS_AGE, ANONYMOUS_BYTES, ANONYMOUS_SILENCE, HANDSHAKE, STALLED, WAITING_CONNECTIONS,
};
use crate::room::{Rooms, source};

/// The certificates that a connection's other end showed, its own first: a request extension.
#[derive(Clone, Debug)]
pub(crate) struct PeerChain(pub(crate) Arc<[CertificateDer<'static>]>);

/// Who is behind a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Nothing, where it showed no certificate.
    pub(super) proven: Option<Arc<Proven>>,
    has_asked: Arc<AtomicBool>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, proven: Option<Arc<Proven>>) -> Self {
        Self { address, proven, has_asked: Arc::default() }
    }

    /// Notes a call: until the first of who has proven nothing, the connection lasts for a moment only.
    pub(super) fn asks(&self) {
        self.has_asked.store(true, Relaxed);
    }
}

/// What a peer has proven.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) id: SpiffeId,
    /// The serial number of its certificate, lowercase hexadecimal without leading zeros.
    pub(super) serial: String,
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// Told when a stream was refused because this is proven no more: the connection ends then, and the peer comes back
    /// with the certificate that it has by now.
    pub(super) over: Notify,
}

impl Proven {
    /// Judges the certificates of a handshake, which may be a resumed one.
    ///
    /// # Errors
    /// They prove nothing, or somebody of another trust domain: of that, nobody has business here.
    pub(super) fn new(
        certificates: &[CertificateDer<'_>],
        identity: &IdentitySource,
    ) -> Result<Self, IdentityError> {
        let id = identity.judge(certificates)?;
        let own = identity.id().trust_domain();
        if id.trust_domain() != own {
            return Err(IdentityError::TrustDomain { id: id.to_string(), trust_domain: own.to_owned() });
        }
        let facts =
            certificates.first().and_then(CertificateFacts::read).ok_or(IdentityError::NoCertificate)?;
        Ok(Self {
            id,
            serial: facts.serial.trim_start_matches('0').to_owned(),
            chain: certificates.iter().map(|der| der.clone().into_owned()).collect(),
            over: Notify::new(),
        })
    }

    /// Whether it is proven still.
    ///
    /// # Errors
    /// The certificate has expired, is revoked, or leads to no root that is trusted now.
    pub(super) fn check(&self, identity: &IdentitySource) -> Result<(), IdentityError> {
        // A chain that was judged a moment ago costs next to nothing.
        identity.judge(&self.chain).map(drop)
    }
}

/// Completes when a connection has to end; `true` where it took too long.
type End = Pin<Box<dyn Future<Output = bool> + Send>>;

/// A connection whose handshake is done.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Soon, where the client showed no certificate; when it is revoked or proves nothing any more, where it did; and
    /// when others need its place.
    end: End,
    is_over: bool,
    /// Bytes that it may still send, where that is limited.
    left: Option<usize>,
    /// Until when the peer has to take what waits for it.
    stalled: Option<Pin<Box<Sleep>>>,
    rooms: Arc<Rooms>,
}

/// What connections are judged by.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) tls: TlsAcceptor,
    pub(super) authority: Arc<Authority>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) rooms: Arc<Rooms>,
}

/// Connections as tonic takes them.
pub(super) type Incoming = ReceiverStream<io::Result<Connection>>;

/// Where connections go whose handshake is done.
#[derive(Clone)]
struct Done {
    proven: mpsc::Sender<io::Result<Connection>>,
    anonymous: mpsc::Sender<io::Result<Connection>>,
}

/// Accepts connections for as long as both streams are kept: those that have proven an identity, and those that have
/// not.
pub(super) fn incoming(listener: TcpListener, gate: Gate) -> (Incoming, Incoming) {
    let (proven, proven_waiting) = mpsc::channel(WAITING_CONNECTIONS);
    let (anonymous, anonymous_waiting) = mpsc::channel(WAITING_CONNECTIONS);
    let done = Done { proven, anonymous };
    let closed = done.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, gate, done) => {}
            () = closed.proven.closed() => {}
            () = closed.anonymous.closed() => {}
        }
    });
    (ReceiverStream::new(proven_waiting), ReceiverStream::new(anonymous_waiting))
}

async fn accept(listener: TcpListener, gate: Gate, done: Done) {
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "accepts nothing for a moment");
                // Mostly descriptors have run out: who has proven nothing gives one back.
                if !gate.rooms.shed() {
                    sleep(ACCEPT_PAUSE).await;
                }
                tokio::task::yield_now().await;
                continue;
            }
        };
        // Who finds none is closed at once: nobody behind it in the kernel's queue has to wait for it.
        let Some(place) = gate.rooms.handshakes.enter(source(address)) else { continue };
        let (gate, done) = (gate.clone(), done.clone());
        handshakes.spawn(async move {
            let shaken = tokio::select! {
                shaken = timeout(HANDSHAKE, handshake(&gate, stream, address)) => shaken,
                () = place.displaced() => return debug!(%address, "no handshake: others needed its place"),
            };
            match shaken {
                Ok(Ok(connection)) => {
                    let next = if connection.peer.proven.is_some() { done.proven } else { done.anonymous };
                    // Nobody takes it only when the server ends.
                    drop(next.send(Ok(connection)).await);
                }
                Ok(Err(error)) => debug!(%address, %error, "no handshake"),
                Err(_) => {
                    gate.rooms.note_overdue();
                    debug!(%address, "no handshake in time");
                }
            }
        });
    }
}

async fn handshake(gate: &Gate, stream: TcpStream, address: SocketAddr) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let accepted = gate.tls.accept(stream).await;
    let stream = accepted.inspect_err(|error| note_untrusted(gate, address, error))?;
    let Some(certificates) = stream.get_ref().1.peer_certificates() else {
        let peer = Peer::new(address, None);
        let end = anonymous_end(gate, &peer).ok_or_else(no_room)?;
        return Ok(Connection::new(gate, stream, peer, end).within(ANONYMOUS_BYTES));
    };
    let proven = match Proven::new(certificates, gate.authority.identity()) {
        Ok(proven) => Arc::new(proven),
        Err(error) => {
            let refusals = Arc::clone(&gate.refusals);
            let words = error.to_string();
            refusals.tell(&address.to_string(), "connect", Vec::new(), words);
            return Err(io::Error::other(error));
        }
    };
    let end = proven_end(gate, &proven).ok_or_else(no_room)?;
    Ok(Connection::new(gate, stream, Peer::new(address, Some(proven)), end))
}

/// Writes down whose certificate was not taken, where a handshake has failed for that.
fn note_untrusted(gate: &Gate, address: SocketAddr, error: &io::Error) {
    let failure = error.get_ref().and_then(|cause| cause.downcast_ref::<tokio_rustls::rustls::Error>());
    // At once, on the thread of the handshake: there it is known whose it was.
    if let Some(refused) = failure.and_then(refusal) {
        let words = refused.to_string();
        Arc::clone(&gate.refusals).tell(&address.to_string(), "connect", Vec::new(), words);
    }
}

fn no_room() -> io::Error {
    io::Error::other("there is no room for it")
}

/// The end of a connection that has proven nothing, which has a place from now on; `None` where there is none.
fn anonymous_end(gate: &Gate, peer: &Peer) -> Option<End> {
    let place = gate.rooms.anonymous.enter(source(peer.address))?;
    let has_asked = Arc::clone(&peer.has_asked);
    let late = async move {
        sleep(ANONYMOUS_SILENCE).await;
        if has_asked.load(Relaxed) {
            sleep(ANONYMOUS_AGE.saturating_sub(ANONYMOUS_SILENCE)).await;
        }
    };
    Some(Box::pin(async move {
        tokio::select! {
            () = late => true,
            () = place.displaced() => false,
        }
    }))
}

/// The end of a connection that has proven an identity, which has a place from now on; `None` where there is none.
fn proven_end(gate: &Gate, proven: &Arc<Proven>) -> Option<End> {
    let place = gate.rooms.proven.enter(proven.id.clone())?;
    let revoked = gate.authority.revoked(Arc::clone(&proven.chain));
    let judged = Arc::clone(proven);
    Some(Box::pin(async move {
        tokio::select! {
            () = revoked => {}
            () = judged.over.notified() => {}
            () = place.displaced() => {}
        }
        false
    }))
}

impl Connection {
    fn new(gate: &Gate, stream: TlsStream<TcpStream>, peer: Peer, end: End) -> Self {
        let rooms = Arc::clone(&gate.rooms);
        Self { stream, peer, end, is_over: false, left: None, stalled: None, rooms }
    }

    /// The same connection, on which the peer may send so many bytes.
    fn within(self, bytes: usize) -> Self {
        Self { left: Some(bytes), ..self }
    }

    /// Fails where the connection has to end. Whoever only writes has to ask this, too: a peer that takes nothing is
    /// not read from either.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.is_over
            && let Poll::Ready(is_late) = self.end.as_mut().poll(cx)
        {
            self.is_over = true;
            if is_late {
                self.rooms.note_overdue();
            }
        }
        if self.is_over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Ends the connection where the peer sends more than it may.
    fn count(&mut self, bytes: usize) -> io::Result<()> {
        let Some(left) = &mut self.left else { return Ok(()) };
        if let Some(less) = left.checked_sub(bytes) {
            *left = less;
            return Ok(());
        }
        self.overdue();
        Err(io::Error::other("it sends more than who has proven nothing may"))
    }

    fn overdue(&mut self) {
        self.is_over = true;
        self.rooms.note_overdue();
    }

    /// Ends the connection where writing waits for too long.
    fn poll_stalled<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        ready!(stalled.as_mut().poll(cx));
        self.overdue();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.count(buf.filled().len() - before))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.poll_stalled(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.poll_stalled(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.poll_stalled(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshwork_identity::{CertificateAuthority, Revocations, Trust};

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn id(trust_domain: &str) -> SpiffeId {
        SpiffeId::workload(trust_domain, "shop", "web").expect("an ID")
    }

    #[test]
    fn who_has_business_here_is_of_the_own_trust_domain_and_not_revoked() {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = |trust_domain: &str| {
            CertificateAuthority::open_or_create(&dir.path().join(trust_domain), trust_domain).expect("made")
        };
        let (own, partner) = (authority("mesh.local"), authority("partner.example"));
        let issue = |authority: &CertificateAuthority, trust_domain: &str| {
            authority.issue(&id(trust_domain), HOUR, &[]).expect("issued")
        };
        let identity = IdentitySource::new(issue(&own, "mesh.local"), own.bundle()).expect("good");
        let web = issue(&own, "mesh.local");
        let proven = Proven::new(web.chain(), &identity).expect("ours");
        assert_eq!((&proven.id, &proven.serial), (web.id(), &web.serial()));
        assert_eq!(*proven.chain, *web.chain());
        proven.check(&identity).expect("still");

        // To believe somebody is not to let them in.
        let theirs = issue(&partner, "partner.example");
        let trust = Trust::new(own.bundle()).with_federated([partner.bundle()]);
        identity.replace_trust(trust.clone()).expect("believed");
        identity.judge(theirs.chain()).expect("believed");
        let error = Proven::new(theirs.chain(), &identity).expect_err("refused").to_string();
        assert!(error.contains("is not of the trust domain mesh.local"), "{error}");

        let revoked = Revocations::new([], [web.serial()]);
        identity.replace_trust(trust.with_revoked(revoked)).expect("believed");
        assert!(matches!(proven.check(&identity), Err(IdentityError::Revoked { .. })));
        assert!(Proven::new(web.chain(), &identity).is_err());
    }
}
