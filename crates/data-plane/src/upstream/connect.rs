//! Opens connections to endpoints: TCP, then mTLS where the endpoint is reached so. Never plaintext after a
//! handshake that failed.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{self, HealthCheck, Keepalive, TRANSPORT_MATCH, UpstreamProtocol};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::warn;

use super::{Endpoint, Host, Picked, Reach};
use crate::config::{ClientTls, ClusterConfig};
use crate::error::{Kind, ProxyError};
use crate::limits::{PEER_SILENCE, PROBE_AFTER};
use crate::overload::{Wanted, is_kept};
use crate::standing::Standing;
use crate::transport::{Secured, Socket, Transport};
use crate::unproven;

/// Connects to the picked endpoint, within the cluster's connect time-out. The connection ends when its server is not
/// trusted any more.
///
/// # Errors
/// Always one that is safe to try again elsewhere: nothing was sent yet.
pub(crate) async fn connect(picked: &Picked) -> Result<Transport, ProxyError> {
    let (cluster, jury) = (picked.cluster().config(), picked.cluster().jury());
    let Endpoint { config, reach, .. } = &**picked.endpoint();
    // Before the handshake: if our own certificate is replaced in the middle of it, the earlier one may have been shown.
    let turn = jury.turn();
    let connected = connect_at(&cluster, config, reach, None).await;
    let mut transport = connected.inspect_err(|error| tell(picked, error))?;
    if let (Reach::Tls(tls), Some(session)) = (reach, transport.session())
        && tls.is_of_mesh
    {
        let admitted = jury.admit(session, Some(turn));
        let admitted = admitted.map_err(|e| ProxyError::unsent(Kind::Identity(e.to_string())));
        let admitted = admitted.inspect_err(|error| tell(picked, error))?;
        transport.stand(admitted.map(|(_, standing)| standing));
    }
    Ok(transport)
}

/// What a failure on an open connection was: the endpoint may not be trusted any more, or not trust us, which is told.
pub(crate) fn explained(picked: &Picked, standing: Option<&Rc<Standing>>, error: ProxyError) -> ProxyError {
    let is_cut = standing.is_some_and(|standing| standing.is_cut());
    let error = match &error.kind {
        Kind::UpstreamBroken(_) | Kind::StreamReset(_) if is_cut => {
            let words = "it is revoked, or not trusted any more".to_owned();
            ProxyError { kind: Kind::Identity(words), ..error }
        }
        _ => error,
    };
    tell(picked, &error);
    error
}

/// Says why an endpoint, or we to it, did not prove an identity: once a second at most for each cluster.
fn tell(picked: &Picked, error: &ProxyError) {
    if let Kind::Identity(words) = &error.kind
        && let Some(untold) = picked.cluster().unproven.arises()
    {
        let (cluster, endpoint) = (picked.cluster().config(), picked.endpoint().config.address);
        warn!(cluster = %cluster.cluster.name, %endpoint, untold, "no mTLS with the endpoint: {words} (MW0303)");
    }
}

/// Connects to an endpoint where its health is asked for, and as the check wants it.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn connect_for_check(
    cluster: &ClusterConfig,
    host: &Host,
    check: &HealthCheck,
) -> Result<Transport, ProxyError> {
    let mut endpoint = host.config.clone();
    if let Some(address) = endpoint.check.address {
        endpoint.address = address;
    }
    if let Some(port) = endpoint.check.port {
        endpoint.address.set_port(port);
    }
    if let Some((identity, labels)) = &check.transport {
        endpoint.transport.clone_from(identity);
        let labels = labels.iter().cloned().collect();
        Arc::make_mut(&mut endpoint.metadata).insert(TRANSPORT_MATCH.into(), labels);
    }
    let reach = cluster.reach(&endpoint);
    connect_at(cluster, &endpoint, &reach, Some(check)).await
}

async fn connect_at(
    cluster: &ClusterConfig,
    endpoint: &proxy::Endpoint,
    reach: &Reach,
    check: Option<&HealthCheck>,
) -> Result<Transport, ProxyError> {
    let opening = async {
        match reach {
            Reach::Plaintext => Ok(Transport::Plain(open(cluster, endpoint).await?)),
            Reach::Tls(tls) => shake_hands(cluster, tls, endpoint, check).await,
            Reach::Nowhere => Err(ProxyError::unsent(Kind::Identity(format!(
                "the cluster has no transport for {:?}",
                endpoint.transport.as_deref().unwrap_or_default()
            )))),
        }
    };
    in_time(cluster, opening).await
}

/// Gives whatever opens a connection the cluster's connect time-out.
///
/// # Errors
/// That it passed; besides, those of `opening`.
pub(super) async fn in_time<T>(
    cluster: &ClusterConfig,
    opening: impl Future<Output = Result<T, ProxyError>>,
) -> Result<T, ProxyError> {
    let limit: Duration = cluster.cluster.connect_timeout;
    timeout(limit, opening).await.unwrap_or_else(|_| Err(ProxyError::unsent(Kind::ConnectTimeout)))
}

async fn open(cluster: &ClusterConfig, endpoint: &proxy::Endpoint) -> Result<Socket, ProxyError> {
    let address = endpoint.address;
    #[cfg(test)]
    if let Some(dialled) = crate::testing::dial(address).await {
        return dialled
            .map(|socket| Socket::Memory(Box::new(socket)))
            .map_err(|error| ProxyError::unsent(Kind::Connect(error)));
    }
    let opened = match &cluster.workload {
        None => TcpStream::connect(address).await,
        // Never in the proxy's own network instead.
        Some(workload) => Box::pin(workload.connect(address)).await,
    };
    let opened = opened.and_then(|stream| tune(stream, cluster.cluster.connections.keepalive));
    opened.map(Socket::Tcp).map_err(|error| ProxyError::unsent(Kind::Connect(error)))
}

/// Small messages leave at once; a peer that vanished without a word is noticed.
fn tune(stream: TcpStream, keepalive: Option<Keepalive>) -> io::Result<TcpStream> {
    if is_kept(&stream, Wanted::Upstream) {
        return Err(io::Error::other("the last descriptors are kept for what is open"));
    }
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    let asked = keepalive.unwrap_or_default();
    let probing = TcpKeepalive::new()
        .with_time(asked.after.unwrap_or(PROBE_AFTER))
        .with_interval(asked.interval.unwrap_or(PROBE_AFTER));
    socket.set_tcp_keepalive(&match asked.probes {
        Some(probes) => probing.with_retries(probes),
        None => probing,
    })?;
    if keepalive.is_none() {
        // It would end a connection sooner than the probes that config asks for.
        socket.set_tcp_user_timeout(Some(PEER_SILENCE))?;
    }
    Ok(stream)
}

async fn shake_hands(
    cluster: &ClusterConfig,
    tls: &ClientTls,
    endpoint: &proxy::Endpoint,
    check: Option<&HealthCheck>,
) -> Result<Transport, ProxyError> {
    let stream = open(cluster, endpoint).await?;
    let name = tls.name_for(endpoint);
    let mut config = Arc::clone(&tls.config);
    if let Some(alpn) = check.and_then(|check| check.alpn.as_ref()) {
        Arc::make_mut(&mut config).alpn_protocols =
            alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    } else if check.is_none()
        && cluster.cluster.protocol == UpstreamProtocol::Auto
        && config.alpn_protocols.is_empty()
    {
        // Source: Envoy offers what the cluster speaks where nothing is written.
        Arc::make_mut(&mut config).alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    let connector = TlsConnector::from(config);
    let stream = connector.connect(name, stream).await.map_err(|e| ProxyError::unsent(handshake(e)))?;
    let spoken = stream.get_ref().1.alpn_protocol();
    let is_h2 = cluster.cluster.protocol == UpstreamProtocol::Http2;
    if check.is_none() && is_h2 && spoken.is_some_and(|spoken| spoken != b"h2") {
        let what = "it does not speak HTTP/2 (ALPN)".into();
        return Err(ProxyError::unsent(Kind::Identity(what)));
    }
    Ok(Transport::Client(Box::new(Secured::new(stream, None))))
}

/// A handshake that fails by TLS is a matter of identity; one that breaks off, of the connection.
fn handshake(error: io::Error) -> Kind {
    match unproven::of_tls(&error).map(unproven::of_error) {
        Some((_, words)) => Kind::Identity(words),
        None => Kind::Connect(error),
    }
}
