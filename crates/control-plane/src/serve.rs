//! The mTLS port: certificates and tokens, trust, discovery and telemetry on one listener.
//!
//! A client certificate is optional to TLS, because who enrols has none yet; the certificate service judges by token
//! or certificate, and everything else demands a verified SVID before its first byte is looked at. Connections without
//! one are served apart, by smaller limits.

mod certificates;
mod connection;
mod refusals;
mod tokens;
mod turns;

use std::sync::Arc;

use meshwork_hub::Hub;
use meshwork_identity::istio_ca::IstioCertificateServiceServer;
use meshwork_identity::workload_api::SpiffeWorkloadApiServer;
use meshwork_identity::{ClientCertificate, IdentitySource};
use meshwork_xds::grpc::PeerIdentity;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};

use crate::authority::Secrets;
use crate::limits::{
    ANONYMOUS_RESETS, ANONYMOUS_STREAMS, ANONYMOUS_WINDOW, CALL_HEAD_BYTES, KEEP_ALIVE, PROVEN_STREAMS,
};
use crate::room::Rooms;
use crate::world::World;
pub(crate) use certificates::Certificates;
pub(crate) use connection::PeerChain;
use connection::{Gate, Peer};
use refusals::Refusals;
use tokens::Tokens;

/// Serves until it fails.
///
/// # Errors
/// The listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    certificates: Certificates,
    world: Arc<World>,
    hub: &Arc<Hub>,
    rooms: Arc<Rooms>,
) -> Result<(), tonic::transport::Error> {
    let authority = Arc::clone(&certificates.authority);
    let identity = Arc::clone(authority.identity());
    let gate = Gate {
        tls: TlsAcceptor::from(identity.server_config(&[b"h2"], ClientCertificate::Optional)),
        authority: Arc::clone(&authority),
        refusals: Arc::clone(&certificates.refusals),
        rooms,
    };
    let demand = move |request: Request<()>| demand_identity(request, &identity);
    let tokens = SpiffeWorkloadApiServer::new(Tokens(certificates.clone()));
    let tokens = InterceptedService::new(tokens, demand.clone());
    let secrets = meshwork_xds::sds::server(Arc::new(Secrets(authority)));
    let secrets = InterceptedService::new(secrets, stream(demand.clone()));
    let discovery = InterceptedService::new(meshwork_xds::grpc::server(world), stream(demand.clone()));
    let demand_sender = move |request: Request<()>| demand(request).map(note_sender);
    let telemetry = InterceptedService::new(hub.service(), demand_sender);
    let note = |request: Request<()>| -> Result<Request<()>, Status> {
        if let Some(peer) = request.extensions().get::<Peer>() {
            peer.asks();
        }
        Ok(request)
    };
    let certificates = InterceptedService::new(IstioCertificateServiceServer::new(certificates), note);
    let routes = Routes::new(certificates)
        .add_service(tokens)
        .add_service(secrets)
        .add_service(discovery)
        .add_service(telemetry);
    let (proven, anonymous) = connection::incoming(listener, gate);
    let of_proven = for_proven().add_routes(routes.clone());
    let of_anonymous = for_anonymous().add_routes(routes);
    tokio::try_join!(of_proven.serve_with_incoming(proven), of_anonymous.serve_with_incoming(anonymous))?;
    Ok(())
}

/// What all connections have: a peer that vanished is noticed.
fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .http2_max_header_list_size(CALL_HEAD_BYTES)
}

fn for_proven() -> Server {
    server().max_concurrent_streams(PROVEN_STREAMS)
}

fn for_anonymous() -> Server {
    server()
        .max_concurrent_streams(ANONYMOUS_STREAMS)
        .initial_stream_window_size(ANONYMOUS_WINDOW)
        .initial_connection_window_size(ANONYMOUS_WINDOW)
        .http2_max_local_error_reset_streams(Some(ANONYMOUS_RESETS))
}

/// Lets a call through that comes from a verified SVID, good by the trust and the clock of now, and tells the service
/// whose it is.
fn demand_identity(mut request: Request<()>, identity: &IdentitySource) -> Result<Request<()>, Status> {
    let proven = request.extensions().get::<Peer>().and_then(|peer| peer.proven.clone());
    let proven =
        proven.ok_or_else(|| Status::unauthenticated("a client certificate of the mesh is needed here"))?;
    proven.check(identity).map_err(|error| certificates::unproven(&error))?;
    request.extensions_mut().insert(PeerIdentity(proven.id.clone()));
    request.extensions_mut().insert(PeerChain(Arc::clone(&proven.chain)));
    Ok(request)
}

/// Ends the connection of a stream that is refused: over the same one it would be refused for ever. Other calls share
/// theirs with streams that are open, and end nothing.
fn stream(
    demand: impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone,
) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        let proven = request.extensions().get::<Peer>().and_then(|peer| peer.proven.clone());
        demand(request).inspect_err(|_| {
            if let Some(proven) = proven {
                proven.over.notify_one();
            }
        })
    }
}

/// Tells the hub for which namespace the sender may speak; who is in none speaks for none.
fn note_sender(mut request: Request<()>) -> Request<()> {
    let peer = request.extensions().get::<PeerIdentity>();
    let namespace = peer.and_then(|peer| Some(peer.0.namespace_and_account()?.0.into()));
    request.extensions_mut().insert(meshwork_hub::Sender(namespace.unwrap_or_default()));
    request
}

#[cfg(test)]
mod tests {
    use meshwork_model::spiffe::SpiffeId;
    use tokio::sync::Notify;

    use super::connection::Proven;
    use super::*;

    #[tokio::test]
    async fn a_stream_that_is_refused_ends_its_connection() {
        let id = SpiffeId::workload("mesh.local", "shop", "web").expect("valid");
        let chain = Vec::new().into();
        let proven = Arc::new(Proven { id, serial: "1".to_owned(), chain, over: Notify::new() });
        let mut request = Request::new(());
        let peer = Peer::new(([127, 0, 0, 1], 1).into(), Some(Arc::clone(&proven)));
        request.extensions_mut().insert(peer);
        let refuse = |_: Request<()>| Err(Status::unauthenticated("it has ended"));
        assert!(stream(refuse)(request).is_err());
        proven.over.notified().await;
    }
}
