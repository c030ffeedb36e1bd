//! Proving who we are, once by token and then by certificate.
//!
//! [`enrol`] reads and writes the state directory (`state`), asks the control plane (`ask`) where it must, and
//! [`Enrolled::keep_fresh`] renews at about half of the certificate's life (`schedule`) and follows whom to believe
//! (`fresh`). While a valid SVID is on disk the control plane need not be there.
//!
//! Whom to believe is first said by the bootstrap's trust bundle, from then on by the control plane, and kept in the
//! state directory: what was kept counts before the bundle, which may be older than a rotation. A root that the control
//! plane took away is not believed again because an old bundle has it: its key may be the reason. Only a new token says
//! that it is.

pub(crate) mod ask;
pub(crate) mod clock;
mod fresh;
pub(crate) mod schedule;
mod state;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use meshwork_identity::{
    Bundle, IdentityError, IdentitySource, Key, SpiffeId, Svid, Trust, anonymous_client_config,
    certificates_pem,
};
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::channel::{channel, channel_over, control_plane_id};
use ask::{Asker, Wish};
use clock::Clock;
use fresh::Link;
use state::{Found, State};

pub(crate) use fresh::{Said, due, is_out_of_place};

/// How long a control plane that does not sign now is left alone.
const BUSY: Duration = Duration::from_secs(1);

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
    obtained: Mutex<Option<SystemTime>>,
    link: Link,
    clock: Clock,
    shared: Mutex<Option<(String, Channel)>>,
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
    /// The control plane answered, but does not sign now.
    #[error("the control plane at {address} answers, but does not sign now: {words}")]
    Unready {
        /// Its address.
        address: SocketAddr,
        /// What it said.
        words: String,
    },
    /// The control plane could not be reached, for as long as we wait.
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
    let bootstrap = read_bundle(&enrolment.trust_bundle)?;
    let server = control_plane_id(bootstrap.trust_domain()).ok_or_else(|| EnrolError::TrustBundle {
        path: enrolment.trust_bundle.clone(),
        problem: "its trust domain makes no SPIFFE ID".to_owned(),
    })?;
    let joins = enrolment.token.as_deref().is_some_and(|token| state.is_new_token(token));
    let bootstrap = if joins { bootstrap } else { current(bootstrap, &enrolment.trust_bundle, &state)? };
    let kept = state.trust(bootstrap.trust_domain());
    let trusts = Trusts::new(kept, bootstrap)?;
    let (svid, obtained) = match state.load(&trusts.own()) {
        Found::Valid(svid) => match &enrolment.token {
            Some(token) if trusts.is_doubtful(&svid) || joins => {
                (ask_whether_good(enrolment, token, &state, &trusts, &server, svid).await?, None)
            }
            _ => (svid, None),
        },
        Found::Nothing(why) => {
            let Some(token) = enrolment.token.as_deref() else { return Err(EnrolError::TokenNeeded { why }) };
            info!(why, "asks for an identity by token");
            let svid = by_token(enrolment, token, &state, &trusts, &server).await?;
            (svid, Some(SystemTime::now()))
        }
    };
    let (identity, link) = trusts.begin(&svid)?;
    identity.note_renewal(|renewal| renewal.last = obtained);
    info!(id = %identity.id(), "has an identity");
    Ok(Enrolled {
        identity,
        control_plane: enrolment.control_plane,
        server,
        state,
        lifetime: enrolment.lifetime,
        obtained: Mutex::new(obtained),
        link: Link::new(link),
        clock: Clock::system(),
        shared: Mutex::default(),
    })
}

fn read_bundle(path: &Path) -> Result<Bundle, EnrolError> {
    let refused = |problem: String| EnrolError::TrustBundle { path: path.to_owned(), problem };
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    Bundle::from_pem(&text).map_err(|error| refused(error.to_string()))
}

/// The roots of a bundle's file, without those that were taken out of trust since it was written.
fn current(bundle: Bundle, path: &Path, state: &State) -> Result<Bundle, IdentityError> {
    let removed = state.removed();
    let stale = bundle.fingerprints().into_iter().filter(|root| removed.contains(root)).count();
    if stale == 0 {
        return Ok(bundle);
    }
    warn!(
        roots = stale,
        "{} has roots that the control plane has taken out of trust: they are not believed; replace it by the bundle of now",
        path.display()
    );
    bundle.without(&removed)
}

/// Whom to believe at the start.
struct Trusts {
    /// What the control plane said last, where that was kept.
    kept: Option<Trust>,
    /// What whoever set us up said.
    bootstrap: Bundle,
    /// The roots of both, for the control plane alone.
    either: Bundle,
}

impl Trusts {
    fn new(kept: Option<Trust>, bootstrap: Bundle) -> Result<Self, IdentityError> {
        let either = match &kept {
            None => bootstrap.clone(),
            Some(kept) => {
                let known = kept.own().certificates();
                let new = bootstrap.certificates().iter().filter(|root| !known.contains(root));
                let all: Vec<_> = known.iter().chain(new).cloned().collect();
                Bundle::of_trust_domain(bootstrap.trust_domain(), &certificates_pem(&all))?
            }
        };
        Ok(Self { kept, bootstrap, either })
    }

    /// The bundles that our own certificate may be under, the better one first.
    fn own(&self) -> Vec<&Bundle> {
        self.kept.iter().map(Trust::own).chain([&self.bootstrap]).collect()
    }

    /// Whether only what was kept vouches for a certificate: the trust bundle may be older than a rotation, or the
    /// certificate that of a mesh that is no more.
    fn is_doubtful(&self, svid: &Svid) -> bool {
        svid.check_under(&self.bootstrap).is_err()
    }

    /// An identity with the better bundle that has its root, and one for the connection to the control plane.
    fn begin(&self, svid: &Svid) -> Result<(Arc<IdentitySource>, Arc<IdentitySource>), IdentityError> {
        let own = self.own().into_iter().find(|bundle| svid.check_under(bundle).is_ok());
        let own = own.unwrap_or(&self.either).clone();
        let trust = match &self.kept {
            Some(kept) if kept.own().fingerprints() == own.fingerprints() => kept.clone(),
            // Whoever is revoked stays so.
            Some(kept) => Trust::new(own.clone())
                .with_federated(kept.federated().cloned().collect::<Vec<_>>())
                .with_revoked(kept.revoked().clone()),
            None => Trust::new(own.clone()),
        };
        let identity = IdentitySource::new(copy(svid)?, own.clone())?;
        identity.replace_trust(trust)?;
        let is_known = |root: &String| own.fingerprints().contains(root);
        if self.either.fingerprints().iter().all(is_known) {
            return Ok((Arc::clone(&identity), identity));
        }
        let link = IdentitySource::new(copy(svid)?, self.either.clone())?;
        link.replace_trust(self.of_link())?;
        Ok((identity, link))
    }

    /// Whom the connection to the control plane is judged by: either's roots, and not whoever is revoked, as a control plane
    /// may be whose host was taken over.
    fn of_link(&self) -> Trust {
        let revoked = self.kept.as_ref().map(|kept| kept.revoked().clone());
        Trust::new(self.either.clone()).with_revoked(revoked.unwrap_or_default())
    }
}

/// Finds out whether the control plane takes a certificate, and uses the token where it does not: the mesh is another one,
/// or the certificate is revoked. A control plane that is not there has not said no.
async fn ask_whether_good(
    enrolment: &Enrolment,
    token: &str,
    state: &State,
    trusts: &Trusts,
    server: &SpiffeId,
    svid: Box<Svid>,
) -> Result<Box<Svid>, EnrolError> {
    let (_, link) = trusts.begin(&svid)?;
    let (address, lifetime) = (enrolment.control_plane, enrolment.lifetime);
    let asker = Asker { channel: channel(&link, address, server), address, lifetime };
    let key = Key::generate()?;
    match asker.ask_for_a_word(&key.csr_pem(svid.id())?, Wish::Own).await {
        Ok(chain) => {
            let renewed = usable(&chain, &trusts.either, key)?;
            state.store(&renewed)?;
            state.tried(token)?;
            Ok(Box::new(renewed))
        }
        Err(error) if error.is_no() => {
            info!(%error, "the control plane does not take the certificate that is here: asks for one by token");
            match by_token(enrolment, token, state, trusts, server).await {
                // Whoever is on the way can break a handshake by an alert, and is no control plane.
                Err(error @ (EnrolError::Unreachable { .. } | EnrolError::Unready { .. })) => {
                    tell_of_no_word(&error);
                    Ok(svid)
                }
                outcome => outcome,
            }
        }
        Err(error) => {
            tell_of_no_word(&error);
            Ok(svid)
        }
    }
}

fn tell_of_no_word(error: &EnrolError) {
    warn!(%error, "goes on with the certificate that is here");
}

impl EnrolError {
    /// How long who asks again waits at least: a control plane that has too much to do says a second, and not all come
    /// back after the same one.
    pub(crate) fn pause(&self) -> Duration {
        match self {
            Self::Unready { .. } => BUSY.mul_f64(1.0 + fastrand::f64()),
            _ => Duration::ZERO,
        }
    }

    /// Whether the control plane, or its end of a handshake, has said no. Where rustls tells of a peer's refusal, it names
    /// its alert. That we do not believe whoever answers is no word of the control plane's.
    pub(super) fn is_no(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Unreachable { cause, .. } => cause.contains("alert"),
            _ => false,
        }
    }

    /// Whether one end does not take what the other one shows.
    pub(super) fn is_distrust(&self) -> bool {
        let is_ours = matches!(self, Self::Unreachable { cause, .. } if cause.contains("certificate"));
        is_ours || self.is_no()
    }
}

/// The same certificate and key once more.
fn copy(svid: &Svid) -> Result<Svid, IdentityError> {
    Svid::from_pem(&svid.chain_pem(), Key::from_pem(&svid.key_pem())?)
}

async fn by_token(
    enrolment: &Enrolment,
    token: &str,
    state: &State,
    trusts: &Trusts,
    server: &SpiffeId,
) -> Result<Box<Svid>, EnrolError> {
    let key = state.pending_key()?;
    let channel = channel_over(anonymous_client_config(trusts.of_link(), server), enrolment.control_plane);
    let asker = Asker { channel, address: enrolment.control_plane, lifetime: enrolment.lifetime };
    let chain = asker.ask_patiently(&key.unnamed_csr_pem()?, Wish::Token(token)).await?;
    let svid = usable(&chain, &trusts.either, key)?;
    state.store(&svid)?;
    state.tried(token)?;
    Ok(Box::new(svid))
}

/// A chain that leads to a root of the bundle, with its key.
pub(crate) fn usable(chain: &str, bundle: &Bundle, key: Key) -> Result<Svid, EnrolError> {
    let svid = Svid::from_pem_without_roots(chain, bundle, key).map_err(EnrolError::Answer)?;
    svid.check_under(bundle).map_err(EnrolError::Answer)?;
    Ok(svid)
}

#[cfg(test)]
mod tests;
