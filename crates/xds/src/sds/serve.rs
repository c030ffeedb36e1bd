//! The service: one [`Session`] per stream, driven by the client's messages and by the source's changes.
//!
//! As in ADS, a stream has no task of its own: it runs while its client takes responses.

use std::collections::VecDeque;
use std::sync::Arc;

use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use meshwork_model::proxy::Kind;
use tokio::sync::watch;
use tonic::{Extensions, Request as GrpcRequest, Response as GrpcResponse, Status, Streaming};

use super::SecretSource;
use super::session::{Answer, Names, Request, Response, Session};
use crate::grpc::Asking;
use crate::node::Node;
use crate::pb;
use crate::pb::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::resource::type_url;
use crate::server::Protocol;

/// The largest request: 64 names and a node's metadata, with room.
const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// The gRPC service, to be added to a tonic server.
pub type SdsServer<S> = SecretDiscoveryServiceServer<Sds<S>>;

/// Makes the gRPC service around a source.
pub fn server<S: SecretSource>(source: Arc<S>) -> SdsServer<S> {
    SecretDiscoveryServiceServer::new(Sds { source }).max_decoding_message_size(MAX_REQUEST_BYTES)
}

/// The secret discovery service.
pub struct Sds<S> {
    source: Arc<S>,
}

/// What the two protocols' messages have in common.
trait Messages: Send + 'static {
    type Request: Asking;
    type Response: Send + 'static;
    fn read(message: Self::Request) -> Request;
    fn write(response: Response) -> Self::Response;
}

struct Delta;
struct Whole;

impl Messages for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn read(message: Self::Request) -> Request {
        Request {
            nonce: message.response_nonce,
            version: String::new(),
            refusal: message.error_detail.map(|status| status.message),
            names: Names::Change {
                subscribe: message.resource_names_subscribe,
                unsubscribe: message.resource_names_unsubscribe,
                have: message.initial_resource_versions.into_iter().collect(),
            },
        }
    }

    fn write(response: Response) -> Self::Response {
        let resources = response.secrets.into_iter().map(|secret| pb::discovery::Resource {
            name: secret.name,
            version: secret.version,
            resource: Some(secret.message),
            ..pb::discovery::Resource::default()
        });
        DeltaDiscoveryResponse {
            system_version_info: response.version,
            resources: resources.collect(),
            type_url: type_url(Kind::Secret).to_owned(),
            removed_resources: response.removed,
            nonce: response.nonce,
            ..DeltaDiscoveryResponse::default()
        }
    }
}

impl Messages for Whole {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn read(message: Self::Request) -> Request {
        Request {
            nonce: message.response_nonce,
            version: message.version_info,
            refusal: message.error_detail.map(|status| status.message),
            names: Names::All(message.resource_names),
        }
    }

    fn write(response: Response) -> Self::Response {
        DiscoveryResponse {
            version_info: response.version,
            resources: response.secrets.into_iter().map(|secret| secret.message).collect(),
            type_url: type_url(Kind::Secret).to_owned(),
            nonce: response.nonce,
            ..DiscoveryResponse::default()
        }
    }
}

type Responses<R> = BoxStream<'static, Result<R, Status>>;

impl<S: SecretSource> Sds<S> {
    fn open<M: Messages>(&self, request: GrpcRequest<Streaming<M::Request>>) -> Responses<M::Response> {
        let extensions = request.extensions().clone();
        let open = Open::<S, M> {
            incoming: request.into_inner(),
            extensions,
            admitted: None,
            session: Session::new(M::Request::PROTOCOL),
            source: Arc::clone(&self.source),
            outgoing: VecDeque::new(),
            ended: false,
        };
        unfold(open, |mut open| async move {
            let next = open.next().await?;
            Some((next, open))
        })
        .boxed()
    }
}

#[tonic::async_trait]
impl<S: SecretSource> SecretDiscoveryService for Sds<S> {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: GrpcRequest<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<GrpcResponse<Self::DeltaSecretsStream>, Status> {
        Ok(GrpcResponse::new(self.open::<Delta>(request)))
    }

    async fn stream_secrets(
        &self,
        request: GrpcRequest<Streaming<DiscoveryRequest>>,
    ) -> Result<GrpcResponse<Self::StreamSecretsStream>, Status> {
        Ok(GrpcResponse::new(self.open::<Whole>(request)))
    }

    async fn fetch_secrets(
        &self,
        request: GrpcRequest<DiscoveryRequest>,
    ) -> Result<GrpcResponse<DiscoveryResponse>, Status> {
        let admitted = admit(&self.source, request.extensions(), request.get_ref().node.as_ref())?;
        let mut session = Session::new(Protocol::StateOfTheWorld);
        check_type(&request.get_ref().type_url)?;
        let asked = session.receive(Whole::read(request.into_inner()));
        asked.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let secrets = session.wanted().map(|names| self.source.secrets(&admitted.caller, &names));
        let mut responses = session.push(secrets.unwrap_or_default());
        let nothing = || Status::not_found("there is no secret of these names");
        responses.pop().map(Whole::write).map(GrpcResponse::new).ok_or_else(nothing)
    }
}

/// A caller that has been let in; that it is gone is told when it is dropped.
struct Admitted<S: SecretSource> {
    source: Arc<S>,
    caller: S::Caller,
    changes: watch::Receiver<u64>,
}

impl<S: SecretSource> Drop for Admitted<S> {
    fn drop(&mut self) {
        self.source.ended(&self.caller);
    }
}

fn admit<S: SecretSource>(
    source: &Arc<S>,
    extensions: &Extensions,
    node: Option<&pb::core::Node>,
) -> Result<Admitted<S>, Status> {
    let caller =
        source.admit(extensions, &Node::of(node)).map_err(|denied| Status::permission_denied(denied.0))?;
    let changes = source.changes(&caller);
    Ok(Admitted { source: Arc::clone(source), caller, changes })
}

fn check_type(found: &str) -> Result<(), Status> {
    if found.is_empty() || found == type_url(Kind::Secret) {
        return Ok(());
    }
    Err(Status::invalid_argument("this service has secrets, and resources of no other type"))
}

/// An open stream.
struct Open<S: SecretSource, M: Messages> {
    incoming: Streaming<M::Request>,
    extensions: Extensions,
    /// The client, once it has introduced itself.
    admitted: Option<Admitted<S>>,
    session: Session,
    source: Arc<S>,
    /// What one change causes at most.
    outgoing: VecDeque<Response>,
    ended: bool,
}

impl<S: SecretSource, M: Messages> Open<S, M> {
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
                    Ok(Some(message)) => self.receive(message),
                    // The client is gone.
                    Ok(None) | Err(_) => return None,
                },
                went = changed(self.admitted.as_mut()) => went,
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

    fn receive(&mut self, message: M::Request) -> Result<(), Status> {
        check_type(message.type_url())?;
        let admitted = match &mut self.admitted {
            Some(admitted) => admitted,
            none => none.insert(admit(&self.source, &self.extensions, message.node())?),
        };
        let answers = self.session.receive(M::read(message));
        let answers = answers.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        for Answer { name, version, refusal } in answers {
            if let Some(refusal) = &refusal {
                tracing::warn!(secret = ?name, version, "a client refuses a secret: {refusal:?}");
            }
            self.source.acknowledged(&admitted.caller, &[name], &version, refusal.as_deref());
        }
        Ok(())
    }

    fn push(&mut self) {
        let Some(admitted) = &mut self.admitted else { return };
        let Some(names) = self.session.wanted() else { return };
        admitted.changes.mark_unchanged();
        self.outgoing.extend(self.session.push(self.source.secrets(&admitted.caller, &names)));
    }
}

/// Waits for a change; for ever, before anybody has been let in.
async fn changed<S: SecretSource>(admitted: Option<&mut Admitted<S>>) -> Result<(), Status> {
    match admitted {
        None => std::future::pending().await,
        Some(admitted) => admitted
            .changes
            .changed()
            .await
            .map_err(|_| Status::unavailable("this stream is to be opened anew")),
    }
}
