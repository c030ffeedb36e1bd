//! A client that takes everything and reads nothing: a proxy as its control plane sees it, for who simulates thousands.

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use meshwork_model::proxy::Kind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::wire;
use crate::client::Response;
use crate::node::Node;
use crate::pb::discovery::DeltaDiscoveryRequest;
use crate::server::{Names, Request};

/// Requests on their way: a response causes one of each kind at most.
const REQUESTS: usize = 16;
/// The largest response.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// Opens one incremental stream, subscribes to all clusters and listeners, and accepts every response unread. `take` looks
/// at it first, and says which names of which kinds are wanted from now on.
///
/// # Errors
/// The stream failed, or was denied.
///
/// # Cancel safety
/// Dropping it ends the stream.
pub async fn follow(
    channel: Channel,
    node: &Node,
    mut take: impl FnMut(&Response) -> Vec<(Kind, Vec<String>)> + Send,
) -> Result<(), Status> {
    let (requests, outgoing) = mpsc::channel(REQUESTS);
    send(&requests, wire::delta_request(subscription(Kind::Cluster, Vec::new()), Some(node))).await?;
    send(&requests, wire::delta_request(subscription(Kind::Listener, Vec::new()), None)).await?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let stream = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?;
    let mut incoming = stream.into_inner();
    while let Some(message) = incoming.message().await? {
        let Some(response) = wire::delta_response(message) else { continue };
        let wanted = take(&response);
        let accepted = Request { nonce: response.nonce, ..subscription(response.kind, Vec::new()) };
        send(&requests, wire::delta_request(accepted, None)).await?;
        for (kind, names) in wanted {
            send(&requests, wire::delta_request(subscription(kind, names), None)).await?;
        }
    }
    Ok(())
}

fn subscription(kind: Kind, subscribe: Vec<String>) -> Request {
    let names = Names::Change { subscribe, unsubscribe: Vec::new(), have: [].into() };
    Request { kind, nonce: String::new(), refusal: None, names }
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), Status> {
    requests.send(request).await.map_err(|_| Status::unavailable("the stream is closed"))
}
