//! Who gets which certificate, and which token.
//!
//! A join token buys the first certificate, for the workload that the token was made for; a current certificate buys the
//! next one, for the same identity, as long as a workload is enrolled with it; and an agent's certificate buys those of
//! the workloads that a `WorkloadRegistration` lets it attest. What a request says of itself counts nothing but its public
//! key. Whoever is refused is told which rule it was and what to do, and it is written down.
//!
//! Source: Istio `security/v1alpha1/ca.proto`; `security.ImpersonatedIdentity` of its ztunnel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_identity::istio_ca::{
    IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService,
};
use meshwork_identity::{IdentityError, JwtSvid, SpiffeId, request_key_fingerprint};
use meshwork_model::mesh::Key;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tonic::{Code, Request, Response, Status};
use tracing::{error, info};

use super::connection::{Peer, Proven};
use super::refusals::{Asker, Refusals};
use super::turns::Turns;
use crate::api::Audit;
use crate::authority::{Authority, Issued};
use crate::run::give_addresses;
use crate::store::{RedeemError, Store};
use crate::world::World;
use crate::{Options, SYSTEM_NAMESPACE, addresses};

/// The shortest life that a certificate may be asked to have; below, it would be renewed all the time.
const SHORTEST: Duration = Duration::from_secs(10);
/// How long a token lives: whoever holds one is believed.
const TOKEN_LIFETIME: Duration = Duration::from_mins(5);

/// The certificate service.
#[derive(Clone)]
pub(crate) struct Certificates {
    pub(super) authority: Arc<Authority>,
    store: Arc<Store>,
    world: Arc<World>,
    pub(super) refusals: Arc<Refusals>,
    turns: Turns,
    /// The longest life of a certificate, and that of one for which nothing is asked.
    lifetime: Duration,
}

/// Somebody who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    address: Option<SocketAddr>,
    pub(super) proven: Option<Arc<Proven>>,
}

/// What somebody asks for.
struct Wish {
    /// A join token, in place of a certificate; or what is wrong with what stands in its place.
    token: Result<Option<String>, Status>,
    /// Another identity than one's own, as it stands in the request.
    of_other: Option<String>,
    csr: String,
    lifetime: Duration,
}

impl Caller {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        match request.extensions().get::<Peer>() {
            Some(peer) => Self { address: Some(peer.address), proven: peer.proven.clone() },
            None => Self { address: None, proven: None },
        }
    }

    /// Who it is, for the log.
    fn name(&self) -> String {
        let who = self.proven.as_ref().map_or("nobody", |proven| proven.id.as_str());
        self.address.map_or_else(|| who.to_owned(), |address| format!("{who} from {address}"))
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = Caller::of(&request);
        let token = bearer(&request);
        let request = request.into_inner();
        let wish = Wish {
            token,
            of_other: request.impersonated().map(str::to_owned),
            lifetime: self.lifetime_of(request.validity_duration),
            csr: request.csr,
        };
        let chain = self
            .in_turn(caller, move |this, caller| {
                let outcome = this.decide(caller, &wish);
                outcome.inspect_err(|status| this.note(caller, "sign", &wish.asked(), status))
            })
            .await?;
        let bundle = self.authority.signing().bundle();
        let response = IstioCertificateResponse::new(&chain, &bundle);
        Ok(Response::new(response.map_err(|error| internal(&error))?))
    }
}

impl Certificates {
    pub(crate) fn new(
        authority: Arc<Authority>,
        store: Arc<Store>,
        world: Arc<World>,
        audit: Arc<Audit>,
        options: &Options,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            authority,
            store,
            world,
            refusals: Refusals::new(audit),
            turns: Turns::new(cores),
            lifetime: options.svid_lifetime,
        }
    }

    /// Does what takes its time, signatures and the store's writes, when it is the caller's turn.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        caller: Caller,
        act: impl FnOnce(&Self, &Caller) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = self.turns.take(caller.proven.is_some()).await?;
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = act(&this, &caller);
            drop(turn);
            done
        });
        done.await.map_err(|error| internal(&error))?
    }

    fn decide(&self, caller: &Caller, wish: &Wish) -> Result<String, Status> {
        let token = wish.token.as_ref().map_err(Status::clone)?;
        match (token, &wish.of_other, &caller.proven) {
            (Some(_), Some(_), _) => Err(Status::invalid_argument(
                "a join token is for the workload that it was made for: a request for another identity is \
                 made with an agent's certificate, without a token",
            )),
            (Some(token), None, _) => self.enrol(token, wish),
            (None, None, Some(proven)) => self.renew(proven, wish),
            (None, Some(other), Some(proven)) => self.delegate(proven, other, wish),
            (None, _, None) => Err(Status::unauthenticated(
                "a join token or a client certificate is needed; make a token with `meshwork token create`",
            )),
        }
    }

    fn enrol(&self, token: &str, wish: &Wish) -> Result<String, Status> {
        let key = request_key_fingerprint(&wish.csr).map_err(|error| refused(&error))?;
        let mut enrolled = None;
        let redeemed = self.store.redeem(token, key.as_bytes(), |enrolment| {
            let id = enrolment
                .identity(&self.world.mesh().trust_domain)
                .ok_or_else(|| Status::failed_precondition("the token's names make no identity"))?;
            self.check_revoked(&id, None)?;
            let chain = self.sign(&wish.csr, &id, wish.lifetime)?;
            enrolled = Some((enrolment.clone(), id));
            Ok(chain)
        });
        let chain = redeemed.map_err(|error| match error {
            RedeemError::Store(error) => internal(&error),
            RedeemError::Sign(status) => status,
            RedeemError::Token(error) => {
                Status::unauthenticated(format!("{error}; make another with `meshwork token create`"))
            }
        })?;
        let Some((enrolment, id)) = enrolled else { return self.again(chain) };
        info!(workload = %enrolment.workload, %id, "has enrolled");
        let workload = Some(enrolment.workload.clone());
        self.authority.issued(Issued { id, workload, shown: None, chain_pem: &chain, is_delegated: false });
        give_addresses(&self.world, &self.store, &addresses::of_enrolment(&enrolment));
        self.world.enrolled(enrolment);
        Ok(chain)
    }

    /// The certificate that a token has bought already, for who did not get the answer; not when it is no good any more.
    fn again(&self, chain: String) -> Result<String, Status> {
        let certificates: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let certificates = certificates.map_err(|error| internal(&error))?;
        match self.authority.identity().judge(&certificates) {
            Ok(_) => Ok(chain),
            Err(error @ IdentityError::Revoked { .. }) => Err(Status::permission_denied(error.to_string())),
            Err(error) => Err(Status::unauthenticated(format!(
                "the token is used already, and its certificate is no good any more ({error}); make another token \
                 with `meshwork token create`"
            ))),
        }
    }

    fn renew(&self, proven: &Proven, wish: &Wish) -> Result<String, Status> {
        self.check(proven)?;
        let chain = self.sign(&wish.csr, &proven.id, wish.lifetime)?;
        let (id, shown) = (proven.id.clone(), Some(proven.serial.clone()));
        self.authority.issued(Issued { id, workload: None, shown, chain_pem: &chain, is_delegated: false });
        info!(id = %proven.id, "has a new certificate");
        Ok(chain)
    }

    /// Signs for a workload that an agent has attested.
    fn delegate(&self, agent: &Proven, other: &str, wish: &Wish) -> Result<String, Status> {
        self.check(agent)?;
        let id = self.registered(agent, other)?;
        let chain = self.sign(&wish.csr, &id, wish.lifetime)?;
        info!(agent = %agent.id, %id, "has a certificate by its agent");
        let (workload, shown) = (self.workload_of(&agent.id), Some(agent.serial.clone()));
        self.authority.issued(Issued { id, workload, shown, chain_pem: &chain, is_delegated: true });
        Ok(chain)
    }

    /// Signs a token of the caller's own identity, or of one that it may attest.
    pub(super) fn token(&self, proven: &Proven, other: &str, audience: &[String]) -> Result<JwtSvid, Status> {
        self.check(proven)?;
        let id = match other {
            "" => proven.id.clone(),
            own if own == proven.id.as_str() => proven.id.clone(),
            other => self.registered(proven, other)?,
        };
        let lifetime = TOKEN_LIFETIME.min(self.lifetime);
        let signed = self.authority.signing().sign_jwt(&id, audience, lifetime);
        let token = signed.map_err(|error| match error {
            IdentityError::Request(why) => Status::invalid_argument(why),
            other => internal(&other),
        })?;
        self.authority.signed_token(token.expires_at);
        Ok(token)
    }

    /// Whether who has proven an identity may ask for anything: it is proven still, not revoked, and enrolled.
    fn check(&self, proven: &Proven) -> Result<(), Status> {
        let id = &proven.id;
        self.check_revoked(id, Some(&proven.serial))?;
        proven.check(self.authority.identity()).map_err(|error| unproven(&error))?;
        if self.world.is_enrolled(id) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "no workload is enrolled with the identity {id}; enrol one with a token of `meshwork token create`"
        )))
    }

    fn check_revoked(&self, id: &SpiffeId, serial: Option<&str>) -> Result<(), Status> {
        self.authority.refuses(id, serial).map_or(Ok(()), |why| Err(Status::permission_denied(why)))
    }

    /// The identity of a workload that an agent may attest.
    fn registered(&self, agent: &Proven, other: &str) -> Result<SpiffeId, Status> {
        let shown = other.escape_default();
        let id = SpiffeId::parse(other).map_err(|error| {
            Status::invalid_argument(format!("the identity \"{shown}\" that is asked for is none: {error}"))
        })?;
        let mesh = self.world.mesh();
        let trust_domain = &*mesh.trust_domain;
        let is_system = id.namespace_and_account().is_none_or(|(namespace, _)| namespace == SYSTEM_NAMESPACE);
        let mut all = mesh.config.registrations.values();
        let is_registered = !is_system
            && all.any(|one| {
                one.identity(trust_domain).as_ref() == Ok(&id)
                    && mesh.config.may_attest(one, &agent.id, trust_domain)
            });
        if !is_registered {
            return Err(Status::permission_denied(format!(
                "no WorkloadRegistration lets {} attest {id}; apply one in the workload's namespace that names this agent \
                 in `spec.agents`, and where the agent is of another namespace, a ReferenceGrant beside the agent",
                agent.id
            )));
        }
        self.check_revoked(&id, None).map(|()| id)
    }

    /// A workload that is enrolled with an identity.
    fn workload_of(&self, id: &SpiffeId) -> Option<Key> {
        let enrolled = self.world.enrolled_workloads();
        enrolled.into_iter().find(|one| one.identity == *id).map(|one| one.workload)
    }

    fn sign(&self, csr: &str, id: &SpiffeId, lifetime: Duration) -> Result<String, Status> {
        self.authority.signing().sign(csr, id, lifetime, &[]).map_err(|error| signing(&error))
    }

    /// Writes down who was refused what. Failures of ours are in the log alone.
    pub(super) fn note(&self, caller: &Caller, action: &str, asked: &str, status: &Status) {
        if status.code() != Code::Unavailable {
            let name = caller.name();
            let asker = match &caller.proven {
                Some(_) => Asker::Proven(&name),
                None => Asker::Anonymous(&name),
            };
            self.refusals.write(asker, action, vec![asked.to_owned()], status.message());
        }
    }

    /// What was asked for, in seconds, within what is allowed.
    fn lifetime_of(&self, seconds: i64) -> Duration {
        match u64::try_from(seconds) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds).max(SHORTEST).min(self.lifetime),
            _ => self.lifetime,
        }
    }
}

impl Wish {
    /// What is asked for, for the log.
    fn asked(&self) -> String {
        match (&self.of_other, &self.token) {
            (Some(other), _) => format!("a certificate of {}", other.escape_default()),
            (None, Ok(None)) => "a certificate of its own".to_owned(),
            (None, _) => "a certificate by join token".to_owned(),
        }
    }
}

/// The token of the call's metadata, if there is one.
fn bearer<T>(request: &Request<T>) -> Result<Option<String>, Status> {
    let mut values = request.metadata().get_all("authorization").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match request.metadata().get("authorization") {
            None => Ok(None),
            Some(_) => Err(Status::unauthenticated("there are several join tokens in the call; send one")),
        };
    };
    let text = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    match text {
        Some(token) => Ok(Some(token.trim().to_owned())),
        None => Err(Status::unauthenticated("authorization must be `Bearer <join token>`")),
    }
}

/// What is wrong with a certificate that was good when its connection began.
pub(super) fn unproven(error: &IdentityError) -> Status {
    match error {
        IdentityError::Revoked { .. } => Status::permission_denied(error.to_string()),
        _ => Status::unauthenticated(format!(
            "{error}; connect anew with a current certificate, or enrol again with a token of `meshwork token create`"
        )),
    }
}

/// What the authority does not sign: the fault of who asks, or, where it has expired or its files fail, of ours.
fn signing(error: &IdentityError) -> Status {
    match error {
        IdentityError::Request(_) | IdentityError::Pem { .. } | IdentityError::TrustDomain { .. } => {
            refused(error)
        }
        _ => internal(error),
    }
}

fn refused(error: &IdentityError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A failure of ours: the client may ask again, and need not know more.
fn internal(error: &dyn std::fmt::Display) -> Status {
    error!(%error, "cannot sign");
    Status::unavailable("the control plane cannot sign now; its log says why")
}

#[cfg(test)]
mod tests;
