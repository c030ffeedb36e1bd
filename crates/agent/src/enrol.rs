//! Proving who we are, once by token and then by certificate.
//!
//! [`enrol`] reads and writes the state directory (`state`), asks the control plane (`ask`) where it must, and
//! [`Enrolled::keep_fresh`] renews at about half of the certificate's life (`schedule`). While a valid SVID is on
//! disk the control plane need not be there.

mod ask;
mod schedule;
mod state;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_identity::{
    Bundle, IdentityError, IdentitySource, Key, SpiffeId, Svid, bootstrap_client_config,
};
use tracing::{info, warn};

use crate::channel::{channel, channel_over, control_plane_id};
use ask::Asker;
use state::{Found, State};

/// What a workload needs to enrol.
pub struct Enrolment {
    /// Where the control plane listens.
    pub control_plane: SocketAddr,
    /// The file with the roots of the trust domain, PEM.
    pub trust_bundle: PathBuf,
    /// The join token; needed the first time and after the certificate's expiry.
    pub token: Option<String>,
    /// The directory that keeps key and certificate; one per identity, made 0700.
    pub state: PathBuf,
    /// How long certificates should live; the control plane's choice where absent.
    pub lifetime: Option<Duration>,
}

/// A workload that has an identity.
pub struct Enrolled {
    /// The identity, kept current by [`Enrolled::keep_fresh`].
    pub identity: Arc<IdentitySource>,
    /// Where the control plane listens.
    pub control_plane: SocketAddr,
    /// Who the control plane is.
    pub server: SpiffeId,
    state: State,
    lifetime: Option<Duration>,
    /// When the SVID came, where that was in this process.
    obtained: Option<SystemTime>,
}

/// Why enrolling failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// Another process works with the same state directory.
    #[error("another process uses the identity in {}: give each workload a state directory of its own", .0.display())]
    Locked(PathBuf),
    /// The file of the trust bundle cannot be used.
    #[error("the trust bundle {} is not usable: {problem}", path.display())]
    TrustBundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing on disk proves who we are, and there is no token.
    #[error(
        "{why}: make a join token on the control plane's host with `meshwork token create --namespace NS \
         --service-account SA --workload NAME`, put it into a file and start again with `--token-file FILE`"
    )]
    TokenNeeded {
        /// What is missing, expired or damaged.
        why: String,
    },
    /// The control plane looked at the request and said no.
    #[error("the control plane refuses the certificate: {0}")]
    Refused(String),
    /// The control plane could not be reached, or failed, for as long as we wait.
    #[error("the control plane at {address} does not answer: {cause}")]
    Unreachable {
        /// Its address.
        address: SocketAddr,
        /// The last failure.
        cause: String,
    },
    /// The control plane's answer is not a certificate for us.
    #[error("the control plane's answer is not usable: {0}")]
    Answer(IdentityError),
    /// Keys or files failed on this host.
    #[error(transparent)]
    Local(#[from] IdentityError),
}

/// Gets an identity: the one on disk where it is still valid, else a new one for the token.
///
/// # Errors
/// See [`EnrolError`]; each says what to do.
///
/// # Cancel safety
/// A dropped call leaves the key of a request that may have been answered on disk: the next call asks with the same
/// key, so that a token spent on it still gives its certificate.
pub async fn enrol(enrolment: &Enrolment) -> Result<Enrolled, EnrolError> {
    let state = State::open(&enrolment.state)?;
    let bundle = read_bundle(&enrolment.trust_bundle)?;
    let server = control_plane_id(bundle.trust_domain()).ok_or_else(|| EnrolError::TrustBundle {
        path: enrolment.trust_bundle.clone(),
        problem: "its trust domain makes no SPIFFE ID".to_owned(),
    })?;
    let (svid, obtained) = match state.load(&bundle) {
        Found::Valid(svid) => (svid, None),
        Found::Nothing(why) => {
            let Some(token) = enrolment.token.as_deref() else { return Err(EnrolError::TokenNeeded { why }) };
            info!(why, "asks for an identity by token");
            let svid = by_token(enrolment, token, &state, &bundle, &server).await?;
            (svid, Some(SystemTime::now()))
        }
    };
    let identity = IdentitySource::new(*svid, bundle)?;
    info!(id = %identity.id(), "has an identity");
    let (control_plane, lifetime) = (enrolment.control_plane, enrolment.lifetime);
    Ok(Enrolled { identity, control_plane, server, state, lifetime, obtained })
}

fn read_bundle(path: &Path) -> Result<Bundle, EnrolError> {
    let refused = |problem: String| EnrolError::TrustBundle { path: path.to_owned(), problem };
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    Bundle::from_pem(&text).map_err(|error| refused(error.to_string()))
}

async fn by_token(
    enrolment: &Enrolment,
    token: &str,
    state: &State,
    bundle: &Bundle,
    server: &SpiffeId,
) -> Result<Box<Svid>, EnrolError> {
    let key = state.pending_key()?;
    let channel = channel_over(bootstrap_client_config(bundle, server), enrolment.control_plane);
    let asker = Asker { channel, address: enrolment.control_plane, lifetime: enrolment.lifetime };
    let chain = asker.ask_patiently(&key.unnamed_csr_pem()?, Some(token)).await?;
    let svid = usable(&chain, bundle, key)?;
    state.store(&svid)?;
    Ok(Box::new(svid))
}

fn usable(chain: &str, bundle: &Bundle, key: Key) -> Result<Svid, EnrolError> {
    let svid = Svid::from_pem_without_roots(chain, bundle, key).map_err(EnrolError::Answer)?;
    svid.check_under(bundle).map_err(EnrolError::Answer)?;
    Ok(svid)
}

impl Enrolled {
    /// Renews the certificate at half of its life, give or take a tenth, for ever; after failures again and again
    /// with growing pauses. What it gets is on disk before it is used.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the state directory is free for another process then.
    pub async fn keep_fresh(mut self) {
        let mut failures = 0;
        loop {
            self.wait(failures).await;
            match self.renew().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.complain(&error);
                }
            }
        }
    }

    async fn wait(&self, failures: u32) {
        let svid = self.identity.svid();
        let begin = self.obtained.unwrap_or_else(|| svid.not_before());
        match failures {
            0 => schedule::until(schedule::due(begin, svid.not_after(), fastrand::f64())).await,
            _ => tokio::time::sleep(schedule::backoff(failures, fastrand::f64())).await,
        }
    }

    /// Asks for a new certificate with a new key, showing the current one.
    async fn renew(&mut self) -> Result<(), EnrolError> {
        let key = Key::generate()?;
        let channel = channel(&self.identity, self.control_plane, &self.server);
        let asker = Asker { channel, address: self.control_plane, lifetime: self.lifetime };
        let chain = asker.ask(&key.csr_pem(self.identity.id())?, None).await?;
        self.take(&chain, key)
    }

    /// Checks a renewed certificate, keeps it on disk, and puts it in place.
    fn take(&mut self, chain: &str, key: Key) -> Result<(), EnrolError> {
        let svid = usable(chain, &self.identity.bundle(), key)?;
        if svid.id() != self.identity.id() {
            let (found, expected) = (svid.id().to_string(), self.identity.id().to_string());
            return Err(EnrolError::Answer(IdentityError::Unexpected { found, expected }));
        }
        self.state.store(&svid)?;
        self.identity.replace_svid(svid)?;
        self.obtained = Some(SystemTime::now());
        info!(id = %self.identity.id(), serial = self.identity.svid().serial(), "renewed its certificate");
        Ok(())
    }

    fn complain(&self, error: &EnrolError) {
        let expired = self.identity.expires_at() <= SystemTime::now();
        if expired {
            let why = state::expired(&self.identity.svid());
            let advice = EnrolError::TokenNeeded { why };
            tracing::error!(%error, %advice, "cannot renew the certificate");
        } else {
            warn!(%error, "cannot renew the certificate yet");
        }
    }
}

#[cfg(test)]
mod tests;
