//! The signing side of the certificate service, as a tonic service.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::{Service, StdError};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

use super::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse, SERVICE_NAME};
use crate::grpc::{self, HttpAnswer};

/// More than the largest accepted request for a certificate.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Signs certificates.
#[tonic::async_trait]
pub trait IstioCertificateService: Send + Sync + 'static {
    /// Decides who asks (by token or by SVID) and signs the request's key for that identity.
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status>;
}

/// The tonic service around a signer.
pub struct IstioCertificateServiceServer<T> {
    inner: Arc<T>,
}

impl<T> IstioCertificateServiceServer<T> {
    /// Serves a signer.
    pub fn new(inner: T) -> Self {
        Self::from_arc(Arc::new(inner))
    }

    /// Serves a signer that is shared.
    pub fn from_arc(inner: Arc<T>) -> Self {
        Self { inner }
    }
}

impl<T> Clone for IstioCertificateServiceServer<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T> NamedService for IstioCertificateServiceServer<T> {
    const NAME: &'static str = SERVICE_NAME;
}

impl<T, B> Service<http::Request<B>> for IstioCertificateServiceServer<T>
where
    T: IstioCertificateService,
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
        match request.uri().path() {
            CREATE_CERTIFICATE => {
                grpc::unary(request, self.inner.clone(), MAX_REQUEST_BYTES, |inner, asked| {
                    Box::pin(async move { inner.create_certificate(asked).await })
                })
            }
            _ => grpc::refuse(Status::unimplemented(
                "the certificate service has one method, CreateCertificate",
            )),
        }
    }
}
