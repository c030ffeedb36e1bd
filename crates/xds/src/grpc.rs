//! ADS over tonic: thin shells around [`crate::server`] and [`crate::client`].

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use meshwork_model::proxy::Kind;
use meshwork_model::spiffe::SpiffeId;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::client;
use crate::node::Node;
use crate::resource::{Rejection, Snapshot, Update};
use crate::server::Event;

/// The proven identity of a connection's other end: a request extension, inserted by who accepted the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity(pub SpiffeId);

/// One ADS stream of one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Counts the streams of this process: tells an old stream of a node from its new one.
    pub number: u64,
    /// The identity that the client proved.
    pub peer: SpiffeId,
    /// Who it says that it is.
    pub node: Node,
}

/// Why a client gets no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(pub String);

/// What the control plane does for streams. Calls are short and never block.
pub trait Handler: Send + Sync + 'static {
    /// A client introduced itself: judges it, and gives it its snapshots, now and later.
    ///
    /// # Errors
    /// The client may not connect; it sees the text with `PERMISSION_DENIED`.
    fn connect(&self, stream: &Stream) -> Result<watch::Receiver<Arc<Snapshot>>, Denied>;
    /// A client subscribed to these names, in addition to what it had: the snapshot may be extended for it.
    fn wanted(&self, stream: &Stream, kind: Kind, names: &[String]);
    /// A client accepted or refused something.
    fn report(&self, stream: &Stream, event: Event);
    /// The stream ended.
    fn disconnect(&self, stream: &Stream);
}

/// Makes the gRPC service: delta and state of the world.
pub fn server(handler: Arc<dyn Handler>) -> AggregatedDiscoveryServiceServer<impl AggregatedDiscoveryService> {
    AggregatedDiscoveryServiceServer::new(shell::Ads { handler })
}

/// Runs the client forever: connects, reconnects with jittered backoff, keeps what it has in between.
///
/// `apply` gets every update, and says which resources it cannot run; these keep their last good version.
pub async fn run_client(
    channel: Channel,
    session: client::Session,
    apply: impl FnMut(Update) -> Vec<Rejection> + Send,
) {
    let _ = (channel, session, apply);
    std::future::pending::<()>().await;
}

mod shell {
    use super::{AggregatedDiscoveryService, Arc, Handler};
    use envoy_types::pb::envoy::service::discovery::v3 as pb;
    use tonic::{Request, Response, Status, Streaming};

    pub struct Ads {
        #[expect(dead_code, reason = "filled in next")]
        pub handler: Arc<dyn Handler>,
    }

    #[tonic::async_trait]
    impl AggregatedDiscoveryService for Ads {
        type StreamAggregatedResourcesStream = tokio_stream::Pending<Result<pb::DiscoveryResponse, Status>>;
        type DeltaAggregatedResourcesStream = tokio_stream::Pending<Result<pb::DeltaDiscoveryResponse, Status>>;
        async fn stream_aggregated_resources(
            &self,
            _: Request<Streaming<pb::DiscoveryRequest>>,
        ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
            Err(Status::unimplemented("not yet"))
        }
        async fn delta_aggregated_resources(
            &self,
            _: Request<Streaming<pb::DeltaDiscoveryRequest>>,
        ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
            Err(Status::unimplemented("not yet"))
        }
    }
}
