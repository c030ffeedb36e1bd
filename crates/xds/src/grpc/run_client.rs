//! The client: keeps one stream open, delta or state of the world, and [`Session`]'s state over all of them.

use std::pin::pin;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Extensions, Request as GrpcRequest, Response as GrpcResponse, Status, Streaming};

use super::{Denied, told, wire};
use crate::client::{self, Health, Protocol, Session};
use crate::node::Node;
use crate::pb::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::resource::{Rejection, Update};
use crate::server::Request;

/// The first wait before connecting anew; short, because most often a control plane was restarted.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait: a control plane that comes back is found within it.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// For how long being denied is not believed: of several control planes, the one that is asked may hear of an enrolment a
/// moment after the one that did it.
const PATIENCE: Duration = Duration::from_secs(3);
/// Requests on their way: a response causes three at most, and one is read at a time.
const REQUESTS: usize = 16;
/// How long the control plane says nothing before the memory that reading config takes is given back.
const QUIET: Duration = Duration::from_secs(10);
/// The largest response: a wildcard answer with tens of thousands of resources.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// Why a client ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The control plane denies us all discovery, and never has answered anything.
    Denied(Denied),
    /// The control plane knows that we leave, and sends nobody to us any more.
    Left,
}

/// The way to a control plane.
#[derive(Clone, Debug)]
pub struct Link {
    /// The connection, made when it is needed.
    pub channel: Channel,
    /// What every stream begins with.
    pub metadata: MetadataMap,
    /// Whether being denied before anything was answered ends the client; else it tries again for ever.
    pub gives_up: bool,
}

impl From<Channel> for Link {
    fn from(channel: Channel) -> Self {
        Self { channel, metadata: MetadataMap::new(), gives_up: true }
    }
}

/// Runs the client: connects, reconnects with jittered backoff, keeps what it has in between. It ends only where the
/// control plane denies us all discovery for some seconds, and never has answered anything (who has config goes on with
/// it), and when it has been told that we leave.
///
/// `health` is told whenever it changes, and on every new stream; `None` says nothing.
///
/// `apply` gets every update, and says which resources it cannot run; these keep their last good version. `rest` is
/// called when nothing has come for a while: the moment to give memory back, that of
/// [the descriptors](crate::unload_descriptors), too.
///
/// # Cancel safety
/// Dropping it ends the stream; what was applied stays applied.
pub async fn run_client(
    link: impl Into<Link>,
    mut session: Session,
    mut health: watch::Receiver<Option<Health>>,
    mut apply: impl FnMut(Update) -> Vec<Rejection> + Send,
    mut rest: impl FnMut() + Send,
) -> Ended {
    let link = link.into();
    let mut backoff = FIRST_BACKOFF;
    let mut is_known = false;
    let mut denied_since = None;
    loop {
        let mut stream = Stream { told: None, is_open: false, answered: false };
        let (session, health) = (&mut session, &mut health);
        let ended = match session.protocol() {
            Protocol::Delta => stream.run::<Delta>(&link, session, health, &mut apply, &mut rest).await,
            Protocol::StateOfTheWorld => {
                stream.run::<Whole>(&link, session, health, &mut apply, &mut rest).await
            }
        };
        if stream.answered {
            backoff = FIRST_BACKOFF;
            is_known = true;
        }
        match ended {
            // That ends it, and is the answer.
            _ if stream.is_open && stream.told == Some(Health::Leaving) => return Ended::Left,
            Ok(()) => tracing::info!("the control plane ended the stream"),
            Err(status) if status.code() == Code::PermissionDenied && !is_known && link.gives_up => {
                if denied_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                    return Ended::Denied(Denied(status.message().to_owned()));
                }
                tracing::warn!("xDS: {}", told(&status));
            }
            Err(status) => tracing::warn!(code = ?status.code(), "xDS: {}", told(&status)),
        }
        tokio::time::sleep(backoff.mul_f64(jitter())).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Between a half and the whole, so that not all clients come back at once.
fn jitter() -> f64 {
    0.5 + fastrand::f64() / 2.0
}

/// What the two protocols' messages have in common.
trait Messages: 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    fn open(
        client: &mut AggregatedDiscoveryServiceClient<Channel>,
        requests: GrpcRequest<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<GrpcResponse<Streaming<Self::Response>>, Status>> + Send;
    fn health(health: &Health, node: Option<&Node>) -> Self::Request;
    fn write(request: Request, session: &Session, node: Option<&Node>) -> Self::Request;
    fn read(message: Self::Response) -> Option<client::Response>;
}

struct Delta;
struct Whole;

impl Messages for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn open(
        client: &mut AggregatedDiscoveryServiceClient<Channel>,
        requests: GrpcRequest<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<GrpcResponse<Streaming<Self::Response>>, Status>> + Send {
        client.delta_aggregated_resources(requests)
    }
    fn health(health: &Health, node: Option<&Node>) -> Self::Request {
        wire::delta_health(health, node)
    }
    fn write(request: Request, _: &Session, node: Option<&Node>) -> Self::Request {
        wire::delta_request(request, node)
    }
    fn read(message: Self::Response) -> Option<client::Response> {
        wire::delta_response(message)
    }
}

impl Messages for Whole {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn open(
        client: &mut AggregatedDiscoveryServiceClient<Channel>,
        requests: GrpcRequest<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<GrpcResponse<Streaming<Self::Response>>, Status>> + Send {
        client.stream_aggregated_resources(requests)
    }
    fn health(health: &Health, node: Option<&Node>) -> Self::Request {
        wire::whole_health(health, node)
    }
    fn write(request: Request, session: &Session, node: Option<&Node>) -> Self::Request {
        let accepted = session.accepted(request.kind).to_owned();
        wire::whole_request(request, &accepted, node)
    }
    fn read(message: Self::Response) -> Option<client::Response> {
        wire::whole_response(message)
    }
}

/// What has happened on a stream.
struct Stream {
    /// The health that it was told last.
    told: Option<Health>,
    /// Whether the control plane has taken it.
    is_open: bool,
    /// Whether it has said anything.
    answered: bool,
}

impl Stream {
    /// Runs it to its end.
    async fn run<M: Messages>(
        &mut self,
        link: &Link,
        session: &mut Session,
        health: &mut watch::Receiver<Option<Health>>,
        apply: &mut (impl FnMut(Update) -> Vec<Rejection> + Send),
        rest: &mut (impl FnMut() + Send),
    ) -> Result<(), Status> {
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let mut node = Some(session.node().clone());
        // First of all: who connects as ready as it was before is not to be called while it is not.
        self.tell::<M>(health, node.as_ref(), &requests).await?;
        if self.told.is_some() {
            node = None;
        }
        for request in session.connect() {
            send(&requests, M::write(request, session, node.take().as_ref())).await?;
        }
        let channel = link.channel.clone();
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let outgoing = ReceiverStream::new(outgoing);
        let outgoing = GrpcRequest::from_parts(link.metadata.clone(), Extensions::new(), outgoing);
        let response = M::open(&mut client, outgoing).await?;
        self.is_open = true;
        let mut incoming = response.into_inner();
        loop {
            let message = tokio::select! {
                message = next_message(&mut incoming, rest) => message?,
                () = changed(health) => {
                    self.tell::<M>(health, None, &requests).await?;
                    continue;
                }
            };
            let Some(message) = message else { return Ok(()) };
            self.answered = true;
            let Some(response) = M::read(message) else { continue };
            for request in take_in(session, response, apply) {
                send(&requests, M::write(request, session, None)).await?;
            }
        }
    }

    /// Tells the newest health.
    async fn tell<M: Messages>(
        &mut self,
        health: &mut watch::Receiver<Option<Health>>,
        node: Option<&Node>,
        requests: &mpsc::Sender<M::Request>,
    ) -> Result<(), Status> {
        let newest = health.borrow_and_update().clone();
        if let Some(health) = newest {
            send(requests, M::health(&health, node)).await?;
            self.told = Some(health);
        }
        Ok(())
    }
}

/// Waits for news of health; for ever, when nobody is left to tell any.
async fn changed(health: &mut watch::Receiver<Option<Health>>) {
    if health.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for a message; where that takes long, lightly.
async fn next_message<R>(incoming: &mut Streaming<R>, rest: &mut impl FnMut()) -> Result<Option<R>, Status> {
    let mut next = pin!(incoming.message());
    if let Ok(message) = timeout(QUIET, &mut next).await {
        return message;
    }
    rest();
    next.await
}

fn take_in(
    session: &mut Session,
    response: client::Response,
    apply: &mut impl FnMut(Update) -> Vec<Rejection>,
) -> Vec<Request> {
    let received = session.receive(response);
    let update = received.update.clone();
    let rejections = if update.is_empty() { Vec::new() } else { apply(update) };
    let finished = session.finish(received, rejections);
    if let Some(refusal) = finished.requests.last().and_then(|answer| answer.refusal.as_ref()) {
        for rejection in &refusal.rejections {
            tracing::warn!(kind = ?rejection.kind, name = %rejection.name, "refused: {}", rejection.why);
        }
    }
    if !finished.cleanup.is_empty() {
        // Removals cannot be refused.
        drop(apply(finished.cleanup));
    }
    finished.requests
}

async fn send<R>(requests: &mpsc::Sender<R>, request: R) -> Result<(), Status> {
    requests.send(request).await.map_err(|_| Status::unavailable("the stream is closed"))
}
