//! The client: keeps one delta stream open, and [`Session`]'s state over all of them.

use std::pin::pin;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::{Denied, wire};
use crate::client::Session;
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

/// Runs the client: connects, reconnects with jittered backoff, keeps what it has in between. It ends only where the
/// control plane denies us all discovery and never has answered anything; who has config goes on with it.
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
    mut apply: impl FnMut(Update) -> Vec<Rejection> + Send,
    mut rest: impl FnMut() + Send,
) -> Denied {
    let mut backoff = FIRST_BACKOFF;
    let mut is_known = false;
    loop {
        let mut answered = false;
        let ended = run_stream(channel.clone(), &mut session, &mut apply, &mut rest, &mut answered).await;
        if answered {
            backoff = FIRST_BACKOFF;
            is_known = true;
        }
        match ended {
            Ok(()) => tracing::info!("the control plane ended the stream"),
            Err(status) if status.code() == Code::PermissionDenied && !is_known => {
                return Denied(status.message().to_owned());
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

/// Runs one stream to its end.
async fn run_stream(
    channel: Channel,
    session: &mut Session,
    apply: &mut (impl FnMut(Update) -> Vec<Rejection> + Send),
    rest: &mut (impl FnMut() + Send),
    answered: &mut bool,
) -> Result<(), Status> {
    let (requests, outgoing) = mpsc::channel::<DeltaDiscoveryRequest>(REQUESTS);
    let mut node = Some(session.node().clone());
    for request in session.connect() {
        send(&requests, wire::request(request, node.take().as_ref())).await?;
    }
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let response = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?;
    let mut incoming = response.into_inner();
    while let Some(message) = next_message(&mut incoming, rest).await? {
        *answered = true;
        let Some(response) = wire::response(message) else { continue };
        for request in take_in(session, response, apply) {
            send(&requests, wire::request(request, None)).await?;
        }
    }
    Ok(())
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
