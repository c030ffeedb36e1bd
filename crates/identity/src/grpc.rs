//! What our gRPC services and their clients, which no compiler of `.proto` files wrote, have in common.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::{Service, StdError};
use tonic::{Request, Response, Status, Streaming, client, server};
use tonic_prost::ProstCodec;

/// What will be answered.
pub(crate) type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// An answer as HTTP has it.
pub(crate) type HttpAnswer = Answer<Result<http::Response<Body>, Infallible>>;
/// One of a service's functions, called with the service itself.
pub(crate) type Function<T, M, R> = fn(Arc<T>, Request<M>) -> Answer<Result<Response<R>, Status>>;

/// Answers by a status alone.
pub(crate) fn refuse(status: Status) -> HttpAnswer {
    Box::pin(async move { Ok(status.into_http()) })
}

/// Reads a request of so many bytes at most, and answers it by one message.
pub(crate) fn unary<T, M, R, B>(
    request: http::Request<B>,
    inner: Arc<T>,
    max_request_bytes: usize,
    act: Function<T, M, R>,
) -> HttpAnswer
where
    T: Send + Sync + 'static,
    M: prost::Message + Default + 'static,
    R: prost::Message + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    Box::pin(async move {
        let codec = ProstCodec::<R, M>::default();
        let mut grpc = server::Grpc::new(codec).max_decoding_message_size(max_request_bytes);
        Ok(grpc.unary(Method(move |asked| act(inner.clone(), asked)), request).await)
    })
}

/// Reads a request of so many bytes at most, and answers it by a stream of messages.
pub(crate) fn stream<T, M, R, S, B>(
    request: http::Request<B>,
    inner: Arc<T>,
    max_request_bytes: usize,
    act: Function<T, M, S>,
) -> HttpAnswer
where
    T: Send + Sync + 'static,
    M: prost::Message + Default + 'static,
    R: prost::Message + 'static,
    S: Stream<Item = Result<R, Status>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    Box::pin(async move {
        let codec = ProstCodec::<R, M>::default();
        let mut grpc = server::Grpc::new(codec).max_decoding_message_size(max_request_bytes);
        Ok(grpc.server_streaming(Method(move |asked| act(inner.clone(), asked)), request).await)
    })
}

/// A function as one of tonic's methods.
struct Method<F>(F);

impl<F, M, R, Fut> Service<Request<M>> for Method<F>
where
    F: FnMut(Request<M>) -> Fut,
    Fut: Future<Output = Result<R, Status>>,
{
    type Response = R;
    type Error = Status;
    type Future = Fut;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<M>) -> Self::Future {
        (self.0)(request)
    }
}

/// The asking side, over any gRPC channel.
#[derive(Clone, Debug)]
pub(crate) struct Client<T> {
    inner: client::Grpc<T>,
}

impl<T> Client<T>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    /// Speaks over a channel; a message of an answer has so many bytes at most.
    pub(crate) fn new(channel: T, max_answer_bytes: usize) -> Self {
        Self { inner: client::Grpc::new(channel).max_decoding_message_size(max_answer_bytes) }
    }

    /// Asks for one message.
    ///
    /// # Errors
    /// The server's refusal, or `Unavailable` where it cannot be reached.
    pub(crate) async fn unary<M, R>(
        &mut self,
        request: Request<M>,
        path: &'static str,
    ) -> Result<Response<R>, Status>
    where
        M: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        self.ready().await?;
        self.inner.unary(request, PathAndQuery::from_static(path), ProstCodec::<M, R>::default()).await
    }

    /// Asks for a stream of messages.
    ///
    /// # Errors
    /// As [`Self::unary`]'s.
    pub(crate) async fn stream<M, R>(
        &mut self,
        request: Request<M>,
        path: &'static str,
    ) -> Result<Response<Streaming<R>>, Status>
    where
        M: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        self.ready().await?;
        self.inner
            .server_streaming(request, PathAndQuery::from_static(path), ProstCodec::<M, R>::default())
            .await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let failed =
            |error: T::Error| Status::unavailable(format!("the service is not ready: {}", error.into()));
        self.inner.ready().await.map_err(failed)
    }
}
