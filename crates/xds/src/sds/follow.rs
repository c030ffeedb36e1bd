//! A client that follows generic secrets for ever, over connections that are made anew when they should be.

use std::time::Duration;

use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use meshwork_model::proxy::Kind;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::secret::read_generic;
use crate::grpc::told;
use crate::node::Node;
use crate::pb;
use crate::pb::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::resource::type_url;

/// The first wait before connecting anew: most often a server was restarted.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// The longest wait: a server that comes back is found within it.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A stream that lasted this long was a good one: what ends it is news.
const GOOD: Duration = Duration::from_secs(10);
/// A server that takes longer for its first answer is as good as down.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// Requests on their way: each response causes one, and one is read at a time.
const REQUESTS: usize = 16;
/// The largest response: the trust of a mesh, of which 16 MiB are read, and what is registered with an agent.
const MAX_RESPONSE_BYTES: usize = 20 * 1024 * 1024;
/// How often a server that cannot be reached is worth a warning.
const SAY_AGAIN: Duration = Duration::from_mins(1);
/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

/// Follows generic secrets for ever: reconnects with jittered backoff, and gets everything anew on each stream.
///
/// `apply` gets each version that comes, the same one more than once; it is acknowledged where that went well, else refused
/// with its words. `connect` makes a connection for each stream. Whenever `reconnect` changes, a stream is opened over a new one, and
/// the one before is kept until that one has answered. To be called within a tokio runtime.
///
/// # Cancel safety
/// Dropping it ends the stream; what was applied stays applied.
pub async fn follow(
    connect: impl Fn() -> Channel,
    node: Node,
    names: &[&str],
    mut apply: impl FnMut(&str, &[u8]) -> Result<(), String>,
    mut reconnect: watch::Receiver<u64>,
) {
    let mut current: Option<Stream> = None;
    let mut tries = Tries::new();
    loop {
        let event = tokio::select! {
            biased;
            () = changed(&mut reconnect) => Event::Open,
            () = tries.due() => Event::Open,
            message = next(current.as_mut()) => Event::Message(message),
        };
        match event {
            Event::Message(Ok(message)) => {
                if let Some(stream) = &current {
                    stream.take(message, names, &mut apply).await;
                }
            }
            Event::Message(Err(status)) => {
                tries.ended(current.take(), &status);
            }
            Event::Open => match timeout(FIRST_ANSWER, Stream::open(connect(), &node, names)).await {
                Ok(Ok((stream, message))) => {
                    tries.opened();
                    stream.take(message, names, &mut apply).await;
                    current = Some(stream);
                }
                Ok(Err(status)) => tries.failed(&status),
                Err(_) => tries.failed(&Status::deadline_exceeded("no answer within 10 s")),
            },
        }
    }
}

enum Event {
    Open,
    Message(Result<DeltaDiscoveryResponse, Status>),
}

/// When to open a stream.
struct Tries {
    at: Option<Instant>,
    failures: u32,
    said: Option<Instant>,
}

impl Tries {
    fn new() -> Self {
        Self { at: Some(Instant::now()), failures: 0, said: None }
    }

    /// Waits until a stream is to be opened; for ever, where there is one.
    async fn due(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn opened(&mut self) {
        self.at = None;
        self.said = None;
    }

    fn ended(&mut self, stream: Option<Stream>, status: &Status) {
        if stream.is_some_and(|stream| stream.opened.elapsed() >= GOOD) {
            self.failures = 0;
        }
        self.failed(status);
    }

    fn failed(&mut self, status: &Status) {
        let backoff = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(10)).min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        // Between a half and the whole, so that not all clients come back at once.
        self.at = Some(Instant::now() + backoff.mul_f64(0.5 + fastrand::f64() / 2.0));
        let (code, words) = (status.code(), told(status));
        if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            tracing::warn!(?code, "SDS: {words}; tries again");
        } else {
            tracing::debug!(?code, "SDS: {words}");
        }
    }
}

/// Waits for a wish to connect anew; for ever, when nobody is left to have one.
async fn changed(reconnect: &mut watch::Receiver<u64>) {
    if reconnect.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn next(stream: Option<&mut Stream>) -> Result<DeltaDiscoveryResponse, Status> {
    match stream {
        None => std::future::pending().await,
        Some(stream) => stream.next().await,
    }
}

/// An open stream.
struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    incoming: Streaming<DeltaDiscoveryResponse>,
    opened: Instant,
}

impl Stream {
    /// Opens a stream, and waits for its first answer.
    async fn open(
        channel: Channel,
        node: &Node,
        names: &[&str],
    ) -> Result<(Self, DeltaDiscoveryResponse), Status> {
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let first = DeltaDiscoveryRequest {
            node: Some(node.to_message()),
            type_url: type_url(Kind::Secret).to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        send(&requests, first).await?;
        let mut client =
            SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let incoming = client.delta_secrets(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut stream = Self { requests, incoming, opened: Instant::now() };
        let message = stream.next().await?;
        Ok((stream, message))
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let ended = || Status::unavailable("the server ended the stream");
        self.incoming.message().await?.ok_or_else(ended)
    }

    /// Applies a response, and says whether that went well. Where the stream is over, the next look at it tells.
    async fn take(
        &self,
        message: DeltaDiscoveryResponse,
        names: &[&str],
        apply: &mut impl FnMut(&str, &[u8]) -> Result<(), String>,
    ) {
        let mut refusals = Vec::new();
        for resource in message.resources {
            let read = read_generic(&resource.resource.unwrap_or_default());
            let applied = read.and_then(|(name, bytes)| {
                if !names.contains(&name.as_str()) {
                    return Err(format!("nobody asked for {name:?}"));
                }
                apply(&name, &bytes).map_err(|why| format!("{name}: {why}"))
            });
            refusals.extend(applied.err());
        }
        for refusal in &refusals {
            tracing::warn!("a secret is refused: {refusal}");
        }
        let error_detail = (!refusals.is_empty()).then(|| pb::Status {
            code: INVALID_ARGUMENT,
            message: refusals.join("; "),
            ..pb::Status::default()
        });
        let answer = DeltaDiscoveryRequest {
            type_url: type_url(Kind::Secret).to_owned(),
            response_nonce: message.nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        drop(send(&self.requests, answer).await);
    }
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), Status> {
    requests.send(request).await.map_err(|_| Status::unavailable("the stream is closed"))
}
