//! The connection to the control plane: gRPC over mTLS, lazily made, made again when it breaks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use meshwork_identity::{IdentitySource, SpiffeId};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// TCP and TLS together; a control plane that takes longer is as good as down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead path is noticed after interval and timeout together, also on an idle stream.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The identity that the control plane of a trust domain shows.
pub fn control_plane_id(trust_domain: &str) -> Option<SpiffeId> {
    SpiffeId::workload(trust_domain, "meshwork-system", "control-plane").ok()
}

/// Makes a channel to the control plane that connects when first used, and again whenever it is broken.
///
/// Each connection shows the current SVID and accepts nobody but `server`.
pub fn channel(identity: &Arc<IdentitySource>, control_plane: SocketAddr, server: &SpiffeId) -> Channel {
    channel_over(identity.client_config(std::slice::from_ref(server), &[b"h2"]), control_plane)
}

/// Makes a channel over a given TLS configuration. To be called within a tokio runtime.
pub(crate) fn channel_over(config: Arc<ClientConfig>, control_plane: SocketAddr) -> Channel {
    let connector = service_fn(move |_: Uri| {
        let config = config.clone();
        async move { connect(config, control_plane).await.map(TokioIo::new) }
    });
    // The scheme is for tonic alone: with https it would want to wrap the connection itself.
    Endpoint::from_shared(format!("http://{control_plane}"))
        .expect("a socket address is an authority")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

async fn connect(config: Arc<ClientConfig>, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config).connect(ServerName::IpAddress(address.ip().into()), stream).await
}
