//! The asking side of the certificate service.

use bytes::Bytes;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::StdError;
use tonic::{IntoRequest, Response, Status};

use super::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse};
use crate::grpc::Client;

/// More than the longest chain of certificates needs: an answer is one chain.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A client of the certificate service, over any gRPC channel.
#[derive(Clone, Debug)]
pub struct IstioCertificateServiceClient<T> {
    inner: Client<T>,
}

impl<T> IstioCertificateServiceClient<T>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    /// Speaks over a channel.
    pub fn new(channel: T) -> Self {
        Self { inner: Client::new(channel, MAX_ANSWER_BYTES) }
    }

    /// Asks for a certificate.
    ///
    /// # Errors
    /// The signer's refusal, or `Unavailable` where it cannot be reached.
    ///
    /// # Cancel safety
    /// A dropped call may have been answered: ask again with the same key.
    pub async fn create_certificate(
        &mut self,
        request: impl IntoRequest<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.inner.unary(request.into_request(), CREATE_CERTIFICATE).await
    }
}
