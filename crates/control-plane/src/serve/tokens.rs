//! SPIFFE's Workload API for those who have an identity already: tokens, and what tokens and certificates of others are
//! verified by. Agents ask here for the tokens of their workloads. Certificates are asked for by [`super::certificates`]:
//! a private key never leaves the host that it is for.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use meshwork_identity::workload_api::{
    Answers, JwtBundlesRequest, JwtBundlesResponse, JwtSvidMessage, JwtSvidRequest, JwtSvidResponse,
    SpiffeWorkloadApi, ValidateJwtSvidRequest, ValidateJwtSvidResponse, X509BundlesRequest,
    X509BundlesResponse, X509SvidRequest, X509SvidResponse,
};
use meshwork_identity::{IdentitySource, Trust, jwt_svid};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::certificates::{Caller, Certificates};

/// The Workload API of the mTLS port.
pub(crate) struct Tokens(pub(crate) Certificates);

#[tonic::async_trait]
impl SpiffeWorkloadApi for Tokens {
    async fn fetch_x509_svid(
        &self,
        _request: Request<X509SvidRequest>,
    ) -> Result<Response<Answers<X509SvidResponse>>, Status> {
        Err(Status::unimplemented(
            "no private key leaves its host: certificates are asked for by IstioCertificateService/CreateCertificate, \
             and `meshwork agent` serves them to workloads",
        ))
    }

    async fn fetch_x509_bundles(
        &self,
        _request: Request<X509BundlesRequest>,
    ) -> Result<Response<Answers<X509BundlesResponse>>, Status> {
        Ok(Response::new(self.follow(X509BundlesResponse::new)))
    }

    async fn fetch_jwt_svid(
        &self,
        request: Request<JwtSvidRequest>,
    ) -> Result<Response<JwtSvidResponse>, Status> {
        let caller = Caller::of(&request);
        let asked = request.into_inner();
        let token = self.0.in_turn(caller, move |certificates, caller| {
            let proven = caller.proven.as_ref().ok_or_else(unproven)?;
            let signed = certificates.token(proven, &asked.spiffe_id, &asked.audience);
            let words = || match &*asked.spiffe_id {
                "" => "a token of its own".to_owned(),
                other => format!("a token of {}", other.escape_default()),
            };
            signed.inspect_err(|status| certificates.note(caller, "sign", &words(), status))
        });
        let svids = vec![JwtSvidMessage::new(&token.await?, "")];
        Ok(Response::new(JwtSvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Answers<JwtBundlesResponse>>, Status> {
        Ok(Response::new(self.follow(JwtBundlesResponse::new)))
    }

    async fn validate_jwt_svid(
        &self,
        request: Request<ValidateJwtSvidRequest>,
    ) -> Result<Response<ValidateJwtSvidResponse>, Status> {
        let ValidateJwtSvidRequest { audience, svid } = request.into_inner();
        let trust = self.identity().trust();
        let (found, claims) = jwt_svid::validate(&svid, &audience, &trust, SystemTime::now())
            .map_err(|error| Status::invalid_argument(format!("the token is not good: {error}")))?;
        Ok(Response::new(ValidateJwtSvidResponse::new(&found, &claims)))
    }
}

impl Tokens {
    fn identity(&self) -> &Arc<IdentitySource> {
        self.0.authority.identity()
    }

    /// What is made of trust, at once and whenever it is another.
    fn follow<T: PartialEq + Clone + Send + 'static>(&self, make: fn(&Trust) -> T) -> Answers<T> {
        let published = WatchStream::new(self.0.authority.published());
        let mut last = None;
        let changed = published.filter_map(move |published| {
            let next = make(&published.trust);
            let is_new = last.as_ref() != Some(&next);
            last = Some(next.clone());
            is_new.then_some(Ok(next))
        });
        let answers: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(changed);
        answers
    }
}

fn unproven() -> Status {
    Status::unauthenticated("a client certificate of the mesh is needed here")
}
