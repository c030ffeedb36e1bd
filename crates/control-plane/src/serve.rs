//! The mTLS port: certificates, discovery and telemetry on one listener.
//!
//! A client certificate is optional to TLS, because who enrols has none yet; the certificate service judges by token
//! or certificate, and everything else demands a verified SVID before its first byte is looked at.

mod certificates;
mod connection;

use std::sync::Arc;
use std::time::Duration;

use meshwork_hub::Hub;
use meshwork_identity::istio_ca::IstioCertificateServiceServer;
use meshwork_identity::{ClientCertificate, IdentitySource};
use meshwork_xds::grpc::PeerIdentity;
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use crate::world::World;
pub(crate) use certificates::Certificates;
use connection::Peer;

/// A peer that vanished is noticed after these two together; its lease ends a grace later.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Calls at once on one connection: a proxy has one discovery stream and a push of metrics.
const MAX_STREAMS: u32 = 100;

/// Serves until it fails.
///
/// # Errors
/// The listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    identity: &Arc<IdentitySource>,
    certificates: Certificates,
    world: Arc<World>,
    hub: &Arc<Hub>,
) -> Result<(), tonic::transport::Error> {
    let tls = identity.server_config(&[b"h2"], ClientCertificate::Optional);
    let certificates = IstioCertificateServiceServer::new(certificates);
    let discovery = InterceptedService::new(meshwork_xds::grpc::server(world), demand_identity);
    let telemetry = InterceptedService::new(hub.service(), demand_identity);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(certificates)
        .add_service(discovery)
        .add_service(telemetry)
        .serve_with_incoming(connection::incoming(listener, tls))
        .await
}

/// Lets a call through that comes from a verified SVID, and tells the service whose it is.
fn demand_identity(mut request: Request<()>) -> Result<Request<()>, Status> {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0.clone());
    let peer =
        peer.ok_or_else(|| Status::unauthenticated("a client certificate of the mesh is needed here"))?;
    request.extensions_mut().insert(PeerIdentity(peer));
    Ok(request)
}
