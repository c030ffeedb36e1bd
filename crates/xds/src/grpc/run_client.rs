//! The client: keeps one delta stream open, and [`Session`]'s state over all of them.

use std::pin::pin;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::{Denied, wire};
use crate::client::{Health, Session};
use crate::node::Node;
use crate::pb::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::resource::{Rejection, Update};
use crate::server::Request;

/// The first wait before connecting anew; short, because most often a control plane was restarted.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait: a control plane that comes back is found within it.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
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

/// Runs the client: connects, reconnects with jittered backoff, keeps what it has in between. It ends only where the
/// control plane denies us all discovery and never has answered anything (who has config goes on with it), and when it
/// has been told that we leave.
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
    channel: Channel,
    mut session: Session,
    mut health: watch::Receiver<Option<Health>>,
    mut apply: impl FnMut(Update) -> Vec<Rejection> + Send,
    mut rest: impl FnMut() + Send,
) -> Ended {
    let mut backoff = FIRST_BACKOFF;
    let mut is_known = false;
    loop {
        let mut stream = Stream { told: None, is_open: false, answered: false };
        let ended = stream.run(channel.clone(), &mut session, &mut health, &mut apply, &mut rest).await;
        if stream.answered {
            backoff = FIRST_BACKOFF;
            is_known = true;
        }
        match ended {
            // That ends it, and is the answer.
            _ if stream.is_open && stream.told == Some(Health::Leaving) => return Ended::Left,
            Ok(()) => tracing::info!("the control plane ended the stream"),
            Err(status) if status.code() == Code::PermissionDenied && !is_known => {
                return Ended::Denied(Denied(status.message().to_owned()));
            }
            Err(status) => tracing::warn!(code = ?status.code(), "xDS: {}", status.message()),
        }
        tokio::time::sleep(backoff.mul_f64(jitter())).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Between a half and the whole, so that not all clients come back at once.
fn jitter() -> f64 {
    0.5 + fastrand::f64() / 2.0
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

type Requests = mpsc::Sender<DeltaDiscoveryRequest>;

impl Stream {
    /// Runs it to its end.
    async fn run(
        &mut self,
        channel: Channel,
        session: &mut Session,
        health: &mut watch::Receiver<Option<Health>>,
        apply: &mut (impl FnMut(Update) -> Vec<Rejection> + Send),
        rest: &mut (impl FnMut() + Send),
    ) -> Result<(), Status> {
        let (requests, outgoing) = mpsc::channel::<DeltaDiscoveryRequest>(REQUESTS);
        let mut node = Some(session.node().clone());
        // First of all: who connects as ready as it was before is not to be called while it is not.
        self.tell(health, node.as_ref(), &requests).await?;
        if self.told.is_some() {
            node = None;
        }
        for request in session.connect() {
            send(&requests, wire::request(request, node.take().as_ref())).await?;
        }
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let response = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?;
        self.is_open = true;
        let mut incoming = response.into_inner();
        loop {
            let message = tokio::select! {
                message = next_message(&mut incoming, rest) => message?,
                () = changed(health) => {
                    self.tell(health, None, &requests).await?;
                    continue;
                }
            };
            let Some(message) = message else { return Ok(()) };
            self.answered = true;
            let Some(response) = wire::response(message) else { continue };
            for request in take_in(session, response, apply) {
                send(&requests, wire::request(request, None)).await?;
            }
        }
    }

    /// Tells the newest health.
    async fn tell(
        &mut self,
        health: &mut watch::Receiver<Option<Health>>,
        node: Option<&Node>,
        requests: &Requests,
    ) -> Result<(), Status> {
        let newest = health.borrow_and_update().clone();
        if let Some(health) = newest {
            send(requests, wire::health_report(&health, node)).await?;
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
async fn next_message(
    incoming: &mut Streaming<DeltaDiscoveryResponse>,
    rest: &mut impl FnMut(),
) -> Result<Option<DeltaDiscoveryResponse>, Status> {
    let mut next = pin!(incoming.message());
    if let Ok(message) = timeout(QUIET, &mut next).await {
        return message;
    }
    rest();
    next.await
}

fn take_in(
    session: &mut Session,
    response: crate::client::Response,
    apply: &mut impl FnMut(Update) -> Vec<Rejection>,
) -> Vec<Request> {
    let received = session.receive(response);
    let update = received.update.clone();
    let rejections = if update.is_empty() { Vec::new() } else { apply(update) };
    let finished = session.finish(received, rejections);
    if !finished.cleanup.is_empty() {
        // Removals cannot be refused.
        drop(apply(finished.cleanup));
    }
    finished.requests
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), Status> {
    requests.send(request).await.map_err(|_| Status::unavailable("the stream is closed"))
}
