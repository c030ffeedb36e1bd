//! The asking side of the Workload API.

use bytes::Bytes;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::StdError;
use tonic::metadata::MetadataValue;
use tonic::{IntoRequest, Request, Response, Status, Streaming};

use super::{
    FETCH_JWT_BUNDLES, FETCH_JWT_SVID, FETCH_X509_BUNDLES, FETCH_X509_SVID, JwtBundlesRequest,
    JwtBundlesResponse, JwtSvidRequest, JwtSvidResponse, SECURITY_HEADER, VALIDATE_JWT_SVID,
    ValidateJwtSvidRequest, ValidateJwtSvidResponse, X509BundlesRequest, X509BundlesResponse,
    X509SvidRequest, X509SvidResponse,
};
use crate::grpc::Client;

/// More than an answer with some SVIDs and the bundles of many federated trust domains needs.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// A client of the Workload API, over any gRPC channel.
#[derive(Clone, Debug)]
pub struct SpiffeWorkloadApiClient<T> {
    inner: Client<T>,
}

impl<T> SpiffeWorkloadApiClient<T>
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

    /// Follows the caller's X.509-SVIDs.
    ///
    /// # Errors
    /// The server's refusal, or `Unavailable` where it cannot be reached.
    pub async fn fetch_x509_svid(
        &mut self,
        request: impl IntoRequest<X509SvidRequest>,
    ) -> Result<Response<Streaming<X509SvidResponse>>, Status> {
        self.inner.stream(meant(request), FETCH_X509_SVID).await
    }

    /// Follows the roots of trust domains.
    ///
    /// # Errors
    /// The server's refusal, or `Unavailable` where it cannot be reached.
    pub async fn fetch_x509_bundles(
        &mut self,
        request: impl IntoRequest<X509BundlesRequest>,
    ) -> Result<Response<Streaming<X509BundlesResponse>>, Status> {
        self.inner.stream(meant(request), FETCH_X509_BUNDLES).await
    }

    /// Asks for tokens.
    ///
    /// # Errors
    /// The server's refusal, or `Unavailable` where it cannot be reached.
    pub async fn fetch_jwt_svid(
        &mut self,
        request: impl IntoRequest<JwtSvidRequest>,
    ) -> Result<Response<JwtSvidResponse>, Status> {
        self.inner.unary(meant(request), FETCH_JWT_SVID).await
    }

    /// Follows the JWT keys of trust domains.
    ///
    /// # Errors
    /// The server's refusal, or `Unavailable` where it cannot be reached.
    pub async fn fetch_jwt_bundles(
        &mut self,
        request: impl IntoRequest<JwtBundlesRequest>,
    ) -> Result<Response<Streaming<JwtBundlesResponse>>, Status> {
        self.inner.stream(meant(request), FETCH_JWT_BUNDLES).await
    }

    /// Has a token verified.
    ///
    /// # Errors
    /// `InvalidArgument` where it is not good; `Unavailable` where the server cannot be reached.
    pub async fn validate_jwt_svid(
        &mut self,
        request: impl IntoRequest<ValidateJwtSvidRequest>,
    ) -> Result<Response<ValidateJwtSvidResponse>, Status> {
        self.inner.unary(meant(request), VALIDATE_JWT_SVID).await
    }
}

/// A request with what each call of the Workload API carries.
fn meant<M>(request: impl IntoRequest<M>) -> Request<M> {
    let mut request = request.into_request();
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}
