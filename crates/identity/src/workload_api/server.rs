//! The serving side of the Workload API, as a tonic service.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::{Service, StdError};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

use super::{
    FETCH_JWT_BUNDLES, FETCH_JWT_SVID, FETCH_X509_BUNDLES, FETCH_X509_SVID, JwtBundlesRequest,
    JwtBundlesResponse, JwtSvidRequest, JwtSvidResponse, SECURITY_HEADER, SERVICE_NAME, VALIDATE_JWT_SVID,
    ValidateJwtSvidRequest, ValidateJwtSvidResponse, X509BundlesRequest, X509BundlesResponse,
    X509SvidRequest, X509SvidResponse,
};
use crate::grpc::{self, HttpAnswer};

/// More than a request with the longest token or the most audiences needs.
const MAX_REQUEST_BYTES: usize = 128 * 1024;

/// A stream of answers: one at once, and one at each change.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves workloads. Who calls stands in the request's extensions, put there by who accepted the connection.
#[tonic::async_trait]
pub trait SpiffeWorkloadApi: Send + Sync + 'static {
    /// The caller's X.509-SVIDs with their keys and bundles.
    async fn fetch_x509_svid(
        &self,
        request: Request<X509SvidRequest>,
    ) -> Result<Response<Answers<X509SvidResponse>>, Status>;

    /// The roots that the caller verifies others by.
    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Answers<X509BundlesResponse>>, Status>;

    /// Tokens of the caller for an audience.
    async fn fetch_jwt_svid(
        &self,
        request: Request<JwtSvidRequest>,
    ) -> Result<Response<JwtSvidResponse>, Status>;

    /// The keys that the caller verifies tokens by.
    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Answers<JwtBundlesResponse>>, Status>;

    /// Verifies a token for the caller.
    async fn validate_jwt_svid(
        &self,
        request: Request<ValidateJwtSvidRequest>,
    ) -> Result<Response<ValidateJwtSvidResponse>, Status>;
}

/// The tonic service around one that serves workloads.
pub struct SpiffeWorkloadApiServer<T> {
    inner: Arc<T>,
}

impl<T> SpiffeWorkloadApiServer<T> {
    /// Serves it.
    pub fn new(inner: T) -> Self {
        Self { inner: Arc::new(inner) }
    }
}

impl<T> Clone for SpiffeWorkloadApiServer<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T> NamedService for SpiffeWorkloadApiServer<T> {
    const NAME: &'static str = SERVICE_NAME;
}

impl<T, B> Service<http::Request<B>> for SpiffeWorkloadApiServer<T>
where
    T: SpiffeWorkloadApi,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = HttpAnswer;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let inner = self.inner.clone();
        if !is_meant(&request) {
            return grpc::refuse(Status::invalid_argument(
                "the call lacks the metadata `workload.spiffe.io: true` that each call of the Workload API carries",
            ));
        }
        match request.uri().path() {
            FETCH_X509_SVID => grpc::stream(request, inner, MAX_REQUEST_BYTES, |inner, asked| {
                Box::pin(async move { inner.fetch_x509_svid(asked).await })
            }),
            FETCH_X509_BUNDLES => grpc::stream(request, inner, MAX_REQUEST_BYTES, |inner, asked| {
                Box::pin(async move { inner.fetch_x509_bundles(asked).await })
            }),
            FETCH_JWT_SVID => grpc::unary(request, inner, MAX_REQUEST_BYTES, |inner, asked| {
                Box::pin(async move { inner.fetch_jwt_svid(asked).await })
            }),
            FETCH_JWT_BUNDLES => grpc::stream(request, inner, MAX_REQUEST_BYTES, |inner, asked| {
                Box::pin(async move { inner.fetch_jwt_bundles(asked).await })
            }),
            VALIDATE_JWT_SVID => grpc::unary(request, inner, MAX_REQUEST_BYTES, |inner, asked| {
                Box::pin(async move { inner.validate_jwt_svid(asked).await })
            }),
            _ => grpc::refuse(Status::unimplemented("the Workload API has no such method")),
        }
    }
}

/// Whether the caller means the Workload API. Source: SPIFFE Workload Endpoint §3.
fn is_meant<B>(request: &http::Request<B>) -> bool {
    let mut values = request.headers().get_all(SECURITY_HEADER).iter();
    values.next().is_some_and(|value| value == "true") && values.next().is_none()
}
