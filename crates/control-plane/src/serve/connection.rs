//! Connections: accepted, brought through their handshakes side by side, and handed to tonic with who is behind them.
//!
//! What a connection has proven is looked at again at each call: a certificate ends, trust changes, somebody is revoked.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use meshwork_identity::{CertificateFacts, IdentityError, IdentitySource, SpiffeId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::debug;

use super::Refusals;
use crate::authority::Authority;

/// Connections at once; each proxy has some. Past it, clients wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16_384;
/// Connections that are through and that tonic has not taken yet.
const MAX_WAITING: usize = 64;
/// A client that takes longer for its handshake is gone or means no good.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client without a certificate may stay: it asks for one, which is a single call, and comes back with it.
const ANONYMOUS_AGE: Duration = Duration::from_secs(30);
/// A pause when the process is out of file descriptors: others may close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The certificates that a connection's other end showed, its own first: a request extension.
#[derive(Clone, Debug)]
pub(crate) struct PeerChain(pub(crate) Arc<[CertificateDer<'static>]>);

/// Who is behind a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Nothing, where it showed no certificate.
    pub(super) proven: Option<Arc<Proven>>,
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

/// Ends when a connection has to.
type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection whose handshake is done.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Soon, where the client showed no certificate; when it is revoked or proves nothing any more, where it did.
    end: End,
    _permit: OwnedSemaphorePermit,
}

/// What connections are judged by.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) tls: TlsAcceptor,
    pub(super) authority: Arc<Authority>,
    pub(super) refusals: Arc<Refusals>,
}

/// Accepts connections for as long as the stream is kept.
pub(super) fn incoming(listener: TcpListener, gate: Gate) -> impl Stream<Item = io::Result<Connection>> {
    let (done, waiting) = mpsc::channel(MAX_WAITING);
    let closed = done.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, gate, done) => {}
            () = closed.closed() => {}
        }
    });
    ReceiverStream::new(waiting)
}

async fn accept(listener: TcpListener, gate: Gate, done: mpsc::Sender<io::Result<Connection>>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        while handshakes.try_join_next().is_some() {}
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "accepts nothing for a moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (gate, done) = (gate.clone(), done.clone());
        handshakes.spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(&gate, stream, address, permit)).await {
                // Nobody takes it only when the server ends.
                Ok(Ok(connection)) => drop(done.send(Ok(connection)).await),
                Ok(Err(error)) => debug!(%address, %error, "no handshake"),
                Err(_) => debug!(%address, "no handshake in time"),
            }
        });
    }
}

async fn handshake(
    gate: &Gate,
    stream: TcpStream,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = gate.tls.accept(stream).await?;
    let Some(certificates) = stream.get_ref().1.peer_certificates() else {
        let peer = Peer { address, proven: None };
        let end = Box::pin(tokio::time::sleep(ANONYMOUS_AGE));
        return Ok(Connection { stream, peer, end, _permit: permit });
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
    let revoked = gate.authority.revoked(proven.id.clone(), proven.serial.clone());
    let judged = Arc::clone(&proven);
    let end = Box::pin(async move {
        tokio::select! {
            () = revoked => {}
            () = judged.over.notified() => {}
        }
    });
    Ok(Connection { stream, peer: Peer { address, proven: Some(proven) }, end, _permit: permit })
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
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
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
