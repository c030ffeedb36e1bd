//! The messages and the service of `proto/shop.proto`, by hand: one method needs no generator.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// The method's path.
pub(crate) const CHARGE: &str = "/shop.Payments/Charge";
/// How long connecting may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// `shop.ChargeRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ChargeRequest {
    /// The order's name.
    #[prost(string, tag = "1")]
    pub(crate) order: String,
    /// What is charged, in cents; more than 0.
    #[prost(uint64, tag = "2")]
    pub(crate) cents: u64,
}

/// `shop.ChargeReply`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ChargeReply {
    /// The proof of the charge.
    #[prost(string, tag = "1")]
    pub(crate) authorization: String,
    /// What was charged, in cents.
    #[prost(uint64, tag = "2")]
    pub(crate) cents: u64,
}

/// `shop.Payments`
pub(super) trait Payments: Send + Sync + 'static {
    /// Charges an order.
    fn charge(
        &self,
        request: Request<ChargeRequest>,
    ) -> impl Future<Output = Result<Response<ChargeReply>, Status>> + Send;
}

/// Calls `shop.Payments/Charge`.
pub(super) async fn charge(
    channel: Channel,
    request: Request<ChargeRequest>,
) -> Result<Response<ChargeReply>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(crate::shop::client::chain(&error)))?;
    let codec = ProstCodec::<ChargeRequest, ChargeReply>::default();
    grpc.unary(request, PathAndQuery::from_static(CHARGE), codec).await
}

/// Serves [`Payments`] to tonic.
pub(super) struct PaymentsServer<T>(Arc<T>);

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<T> PaymentsServer<T> {
    pub(super) fn new(payments: T) -> Self {
        Self(Arc::new(payments))
    }
}

impl<T> Clone for PaymentsServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> NamedService for PaymentsServer<T> {
    const NAME: &'static str = "shop.Payments";
}

impl<T: Payments> tonic::codegen::Service<http::Request<Body>> for PaymentsServer<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let payments = Arc::clone(&self.0);
        Box::pin(async move {
            if request.uri().path() != CHARGE {
                return Ok(Status::unimplemented("shop.Payments has the method Charge only").into_http());
            }
            let codec = ProstCodec::<ChargeReply, ChargeRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(Charge(payments), request).await)
        })
    }
}

struct Charge<T>(Arc<T>);

impl<T: Payments> UnaryService<ChargeRequest> for Charge<T> {
    type Response = ChargeReply;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ChargeReply>, Status>> + Send>>;

    fn call(&mut self, request: Request<ChargeRequest>) -> Self::Future {
        let payments = Arc::clone(&self.0);
        Box::pin(async move { payments.charge(request).await })
    }
}
