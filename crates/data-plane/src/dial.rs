//! Connections of the proxy's own: to a control plane that config names by a cluster.
//!
//! They are opened on the runtime of whoever asks, never on a worker's; what is sent over them is none of this crate's
//! business. A cluster's endpoints are tried in turn, each reached as the cluster says.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshwork_model::proxy::UpstreamProtocol;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::config::{ClientTls, ClusterConfig};
use crate::proxy::State;
use crate::upstream::Reach;

/// An open connection.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<C: AsyncRead + AsyncWrite + Unpin + Send> Connection for C {}

/// Opens connections to the clusters of a proxy, for as long as its config has them.
#[derive(Clone)]
pub struct Dialer {
    state: Arc<State>,
    turn: Arc<AtomicUsize>,
}

impl Dialer {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self { state, turn: Arc::default() }
    }

    /// Connects to an endpoint of a cluster, within the cluster's connect time-out.
    ///
    /// # Errors
    /// There is no such cluster or it has no endpoint; else what its network or its TLS said.
    pub async fn connect(&self, cluster: &str) -> io::Result<Box<dyn Connection>> {
        let missing = || io::Error::other(format!("there is no cluster {cluster:?}"));
        let config = self.state.cluster(cluster).ok_or_else(missing)?;
        let opening = self.open(&config);
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the connect time-out has passed"));
        timeout(connect_timeout(&config), opening).await.unwrap_or_else(late)
    }

    async fn open(&self, config: &ClusterConfig) -> io::Result<Box<dyn Connection>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (endpoint, reach) =
            config.nth(turn).ok_or_else(|| io::Error::other("the cluster has no endpoint"))?;
        let stream = TcpStream::connect(endpoint.address).await?;
        stream.set_nodelay(true)?;
        match reach {
            Reach::Plaintext => Ok(Box::new(stream)),
            Reach::Tls(tls) => shake_hands(config, &tls, tls.name_for(&endpoint), stream).await,
            Reach::Nowhere => Err(io::Error::other("the cluster has no transport for the endpoint")),
        }
    }
}

fn connect_timeout(config: &ClusterConfig) -> Duration {
    config.cluster.connect_timeout
}

async fn shake_hands(
    config: &ClusterConfig,
    tls: &ClientTls,
    name: ServerName<'static>,
    stream: TcpStream,
) -> io::Result<Box<dyn Connection>> {
    let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(name, stream).await?;
    let spoken = stream.get_ref().1.alpn_protocol();
    if config.cluster.protocol == UpstreamProtocol::Http2 && spoken.is_some_and(|spoken| spoken != b"h2") {
        return Err(io::Error::other("it does not speak HTTP/2 (ALPN)"));
    }
    Ok(Box::new(stream))
}
