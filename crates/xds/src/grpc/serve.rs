//! The service: one [`Session`] per stream, driven by the client's messages and by new snapshots.
//!
//! A stream has no task of its own: it runs while its client takes responses, so a client that takes none is not
//! read from either, and one that goes away takes its stream with it. Its first message waits its turn
//! ([`Admission`]); what is read and not yet sent is one response per kind at most.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::admission::Admission;
use super::{Asking, Handler, PeerIdentity, Stream, wire};
use crate::node::Node;
use crate::pb::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::resource::Snapshot;
use crate::server::{self, Session};

/// The gRPC service, to be added to a tonic server.
pub type AdsServer = AggregatedDiscoveryServiceServer<Ads>;

/// Makes the gRPC service: delta and state of the world.
///
/// Requests must carry a [`PeerIdentity`] as an extension; those without one are refused.
pub fn server(handler: Arc<dyn Handler>) -> AdsServer {
    let admission = Arc::new(Admission::new());
    AggregatedDiscoveryServiceServer::new(Ads { handler, admission, streams: AtomicU64::new(0) })
}

/// The aggregated discovery service.
pub struct Ads {
    handler: Arc<dyn Handler>,
    admission: Arc<Admission>,
    streams: AtomicU64,
}

/// What the two protocols' messages have in common.
trait Messages: Send + 'static {
    type Request: Asking;
    type Response: Send + 'static;
    fn read(message: Self::Request) -> Option<server::Request>;
    fn write(response: server::Response) -> Self::Response;
}

struct Delta;
struct Whole;

impl Messages for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn read(message: Self::Request) -> Option<server::Request> {
        wire::from_delta(message)
    }
    fn write(response: server::Response) -> Self::Response {
        wire::to_delta(response)
    }
}

impl Messages for Whole {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn read(message: Self::Request) -> Option<server::Request> {
        wire::from_whole(message)
    }
    fn write(response: server::Response) -> Self::Response {
        wire::to_whole(response)
    }
}

type Responses<R> = BoxStream<'static, Result<R, Status>>;

impl Ads {
    fn open<M: Messages>(
        &self,
        request: Request<Streaming<M::Request>>,
    ) -> Result<Responses<M::Response>, Status> {
        let identity = request.extensions().get::<PeerIdentity>().cloned();
        let Some(PeerIdentity(peer)) = identity else {
            return Err(Status::unauthenticated("a client must prove its identity by mTLS"));
        };
        let stream =
            Stream { number: self.streams.fetch_add(1, Ordering::Relaxed), peer, node: Node::default() };
        let open = Open::<M> {
            incoming: request.into_inner(),
            handler: Arc::clone(&self.handler),
            admission: Arc::clone(&self.admission),
            stream,
            session: Session::new(M::Request::PROTOCOL),
            snapshots: None,
            outgoing: VecDeque::new(),
            ended: false,
        };
        Ok(unfold(open, |mut open| async move {
            let next = open.next().await?;
            Some((next, open))
        })
        .boxed())
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.open::<Whole>(request)?))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.open::<Delta>(request)?))
    }
}

/// An open stream.
struct Open<M: Messages> {
    incoming: Streaming<M::Request>,
    handler: Arc<dyn Handler>,
    admission: Arc<Admission>,
    stream: Stream,
    session: Session,
    /// The client's snapshots; `None` until it has introduced itself.
    snapshots: Option<watch::Receiver<Arc<Snapshot>>>,
    /// At most one response per kind.
    outgoing: VecDeque<server::Response>,
    ended: bool,
}

impl<M: Messages> Open<M> {
    /// The next response; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Result<M::Response, Status>> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(response) = self.outgoing.pop_front() {
                return Some(Ok(M::write(response)));
            }
            let went = tokio::select! {
                message = self.incoming.message() => match message {
                    Ok(Some(message)) => self.receive(message).await,
                    // The client is gone.
                    Ok(None) | Err(_) => return None,
                },
                went_on = changed(self.snapshots.as_mut()) => went_on,
            };
            match went {
                Ok(()) => self.push(),
                Err(status) => {
                    self.ended = true;
                    return Some(Err(status));
                }
            }
        }
    }

    async fn receive(&mut self, message: M::Request) -> Result<(), Status> {
        if self.snapshots.is_none() {
            self.admission.admit().await;
            self.stream.node = Node::of(message.node());
            let connected = self.handler.connect(&self.stream);
            self.snapshots = Some(connected.map_err(|denied| Status::permission_denied(denied.0))?);
        }
        if let Some(health) = wire::health(message.type_url(), message.error()) {
            self.handler.health(&self.stream, health);
            return Ok(());
        }
        let Some(request) = M::read(message) else {
            // Other types have no resources here; who asks for them gets none.
            return Ok(());
        };
        let kind = request.kind;
        let received = self.session.receive(request);
        let received = received.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        for event in received.events {
            self.handler.report(&self.stream, event);
        }
        if !received.wanted.is_empty() {
            self.handler.wanted(&self.stream, kind, &received.wanted);
        }
        Ok(())
    }

    fn push(&mut self) {
        if let Some(snapshots) = &mut self.snapshots {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.outgoing.extend(self.session.push(&snapshot));
        }
    }
}

impl<M: Messages> Drop for Open<M> {
    fn drop(&mut self) {
        if self.snapshots.is_some() {
            self.handler.disconnect(&self.stream);
        }
    }
}

/// Waits for a new snapshot; for ever, before there are any.
async fn changed(snapshots: Option<&mut watch::Receiver<Arc<Snapshot>>>) -> Result<(), Status> {
    match snapshots {
        None => std::future::pending().await,
        // The control plane lets go of a client: it shall connect anew.
        Some(snapshots) => {
            snapshots.changed().await.map_err(|_| Status::unavailable("the control plane ends this stream"))
        }
    }
}
