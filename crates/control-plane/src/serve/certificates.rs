//! Who gets which certificate.
//!
//! A token buys the first one, for the workload that the token was made for; a current certificate buys the next
//! one, for the same identity, as long as a workload is enrolled with it. What the request says of itself counts
//! nothing but its public key. Source: Istio `security/v1alpha1/ca.proto`.

use std::sync::Arc;
use std::time::Duration;

use meshwork_identity::istio_ca::{
    IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService,
};
use meshwork_identity::{CertificateAuthority, IdentityError, SpiffeId, request_key_fingerprint};
use tonic::{Request, Response, Status};
use tracing::{error, info, warn};

use super::connection::Peer;
use crate::addresses;
use crate::run::give_addresses;
use crate::store::{RedeemError, Store};
use crate::world::World;

/// The certificate service.
#[derive(Clone)]
pub(crate) struct Certificates {
    pub(crate) authority: Arc<CertificateAuthority>,
    pub(crate) store: Arc<Store>,
    pub(crate) world: Arc<World>,
    pub(crate) trust_domain: Arc<str>,
    /// The longest life of a certificate, and that of one for which nothing is asked.
    pub(crate) lifetime: Duration,
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let token = bearer(&request)?;
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0.clone());
        let request = request.into_inner();
        let (this, lifetime) = (self.clone(), self.lifetime_of(request.validity_duration));
        // Signatures and the store's writes take their time.
        let signed = tokio::task::spawn_blocking(move || match (token, peer) {
            (Some(token), _) => this.enrol(&token, &request.csr, lifetime),
            (None, Some(peer)) => this.renew(&peer, &request.csr, lifetime),
            (None, None) => Err(Status::unauthenticated("a join token or a client certificate is needed")),
        });
        let chain = signed.await.map_err(|error| internal(&error))??;
        let response = IstioCertificateResponse::new(&chain, &self.authority.bundle());
        Ok(Response::new(response.map_err(|error| internal(&error))?))
    }
}

impl Certificates {
    fn enrol(&self, token: &str, csr: &str, lifetime: Duration) -> Result<String, Status> {
        let key = request_key_fingerprint(csr).map_err(|error| refused(&error))?;
        let mut enrolled = None;
        let redeemed = self.store.redeem(token, key.as_bytes(), |enrolment| {
            let id = enrolment
                .identity(&self.trust_domain)
                .ok_or_else(|| Status::failed_precondition("the token's names make no identity"))?;
            let chain = self.authority.sign(csr, &id, lifetime, &[]).map_err(|error| refused(&error))?;
            enrolled = Some((enrolment.clone(), id));
            Ok(chain)
        });
        let chain = redeemed.map_err(|error| match error {
            RedeemError::Store(error) => internal(&error),
            RedeemError::Sign(status) => status,
            RedeemError::Token(error) => {
                warn!(%error, "no enrolment");
                Status::unauthenticated(format!("{error}; make another with `meshwork token create`"))
            }
        })?;
        if let Some((enrolment, id)) = enrolled {
            info!(workload = %enrolment.workload, %id, "has enrolled");
            give_addresses(&self.world, &self.store, &addresses::of_enrolment(&enrolment));
            self.world.enrolled(enrolment);
        }
        Ok(chain)
    }

    fn renew(&self, peer: &SpiffeId, csr: &str, lifetime: Duration) -> Result<String, Status> {
        if !self.world.is_enrolled(peer) {
            warn!(%peer, "no renewal: it is not enrolled");
            return Err(Status::permission_denied(format!(
                "no workload is enrolled with the identity {peer}"
            )));
        }
        let chain = self.authority.sign(csr, peer, lifetime, &[]).map_err(|error| refused(&error))?;
        info!(%peer, "has a new certificate");
        Ok(chain)
    }

    /// What was asked for, in seconds, within what is allowed.
    fn lifetime_of(&self, seconds: i64) -> Duration {
        match u64::try_from(seconds) {
            Ok(seconds @ 1..) => self.lifetime.min(Duration::from_secs(seconds)),
            _ => self.lifetime,
        }
    }
}

/// The token of the call's metadata, if there is one.
fn bearer<T>(request: &Request<T>) -> Result<Option<String>, Status> {
    let Some(value) = request.metadata().get("authorization") else { return Ok(None) };
    let text = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    match text {
        Some(token) => Ok(Some(token.trim().to_owned())),
        None => Err(Status::unauthenticated("authorization must be `Bearer <join token>`")),
    }
}

fn refused(error: &IdentityError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A failure of ours: the client may ask again, and need not know more.
fn internal(error: &dyn std::fmt::Display) -> Status {
    error!(%error, "cannot sign");
    Status::unavailable("the control plane cannot sign now")
}
