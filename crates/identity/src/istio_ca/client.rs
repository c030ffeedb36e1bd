//! The asking side of the certificate service.

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::StdError;
use tonic::{IntoRequest, Response, Status};
use tonic_prost::ProstCodec;

use super::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse};

/// More than the longest chain of certificates needs: an answer is one chain.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A client of the certificate service, over any gRPC channel.
#[derive(Clone, Debug)]
pub struct IstioCertificateServiceClient<T> {
    inner: Grpc<T>,
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
        Self { inner: Grpc::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES) }
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
        self.inner
            .ready()
            .await
            .map_err(|error| Status::unavailable(format!("the service is not ready: {}", error.into())))?;
        let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
        self.inner.unary(request.into_request(), path, ProstCodec::default()).await
    }
}
