//! The owner of trust: which roots the mesh trusts, under which of them it signs, who is revoked, and what peers
//! confirmed of it.
//!
//! - [`rotation`] says what comes next when the root is replaced. Pure.
//! - `facts` is what that is judged by: `peers` (who follows trust, and has acknowledged what), `held` (who may hold which
//!   certificate), and what other control planes say in the store (`record`).
//! - `drive` does the steps, `follow` takes in what others write, `secrets` serves trust to peers.
//!
//! Whatever changes, [`Authority::publish`] makes one [`Published`] of it: for peers, for the file in the state
//! directory, and for the control plane's own connections.

mod drive;
mod facts;
pub(crate) mod federation;
mod follow;
mod held;
mod known;
mod own;
mod peers;
mod record;
pub(crate) mod registrations;
mod revocation;
pub(crate) mod rotation;
mod secrets;
mod status;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use meshwork_identity::{
    Bundle, CertificateAuthority, CertificateFacts, IdentityError, IdentitySource, Role, SpiffeId, Trust,
    files,
};
use meshwork_model::mesh::Key;
use meshwork_xds::sds::SecretValue;
use tokio::sync::{Notify, watch};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tracing::{info, warn};

use crate::store::kv::Kv;
use crate::world::World;
use crate::{Error, Options};
use held::{Certificate, For, Held};
pub(crate) use known::Known;
use own::Own;
use peers::Peers;
use record::Read;
pub(crate) use record::{Revoked, Subject};
pub(crate) use revocation::RevokeError;
use rotation::Roots;
pub(crate) use secrets::Secrets;
pub(crate) use status::{RotateError, Status, Wish, text};

/// How often at most it is told until when a key for tokens is needed, in seconds.
const TOKENS_TOLD_EVERY: i64 = 60;
/// The file with the roots that workloads trust, in the state directory.
const BUNDLE: &str = "bundle.pem";

/// The owner of trust.
pub(crate) struct Authority {
    signing: CertificateAuthority,
    identity: Arc<IdentitySource>,
    own: Own,
    kv: Arc<dyn Kv>,
    world: Arc<World>,
    /// The name of this control plane among those that share the store.
    replica: String,
    /// When this process began, in seconds since 1970.
    started: i64,
    /// The longest life of a workload's certificate, in seconds.
    lifetime: i64,
    trust_bundle: PathBuf,
    state: Mutex<State>,
    published: watch::Sender<Published>,
    /// One at a time: what is published last is the newest.
    publishing: Mutex<()>,
    /// Something that a rotation's proof looks at has changed.
    news: Notify,
    federation: federation::Federation,
}

#[derive(Debug, Default)]
struct State {
    peers: Peers,
    held: Held,
    federated: Vec<Bundle>,
    /// When the last token ends that was signed here, by the root whose key signed it.
    tokens: BTreeMap<String, i64>,
    /// What the store had when it was last read.
    read: Read,
    /// Why the authority's files could not be read last, or something with them not be done.
    trouble: Option<String>,
}

/// Trust as it is told to everybody.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) trust: Arc<Trust>,
    /// The same as peers get it.
    json: Arc<str>,
    /// Which of all this is.
    version: String,
}

/// A certificate that was signed, and for whom.
pub(crate) struct Issued<'c> {
    pub(crate) id: SpiffeId,
    /// By token: the workload that is enrolled; by registration: the agent that holds it.
    pub(crate) workload: Option<Key>,
    /// The serial number of the certificate that was shown for it.
    pub(crate) shown: Option<String>,
    /// The chain, the workload's certificate first.
    pub(crate) chain_pem: &'c str,
    /// Whether an agent holds it for another workload.
    pub(crate) is_delegated: bool,
}

/// What an authority is made of.
pub(crate) struct Parts<'o> {
    pub(crate) options: &'o Options,
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) world: Arc<World>,
    pub(crate) replica: String,
}

impl Published {
    fn new(trust: Trust) -> Self {
        let json: Arc<str> = trust.to_json().into();
        let version = secret(&json).version();
        Self { trust: Arc::new(trust), json, version }
    }
}

/// Trust as a secret of SDS.
fn secret(json: &Arc<str>) -> SecretValue {
    SecretValue::Generic(json.as_bytes().to_vec().into())
}

impl Authority {
    /// Opens the authority, or makes one, with a certificate for this control plane.
    ///
    /// # Errors
    /// A file of the authority is missing, damaged or of another trust domain; who is revoked cannot be read.
    pub(crate) fn open(parts: Parts<'_>) -> Result<Arc<Self>, Error> {
        let Parts { options, kv, world, replica } = parts;
        let signing = CertificateAuthority::open(options.authority())?;
        let own = Own::new(options)?;
        let identity = IdentitySource::new(own.issue(&signing)?, signing.bundle())?;
        // Who does not know whom not to believe believes nobody.
        let read = Read::all(&*kv).map_err(Error::Kv)?;
        let published = watch::Sender::new(Published::new(Trust::new(signing.bundle())));
        let authority = Self {
            signing,
            identity,
            own,
            kv,
            world,
            replica,
            started: now(),
            lifetime: i64::try_from(options.svid_lifetime.as_secs()).unwrap_or(i64::MAX / 2),
            trust_bundle: options.state.join(BUNDLE),
            state: Mutex::new(State { read, ..State::default() }),
            published,
            publishing: Mutex::default(),
            news: Notify::new(),
            federation: federation::Federation::new(options.federation_refresh),
        };
        authority.publish()?;
        Ok(Arc::new(authority))
    }

    /// Follows what others write, looks after what wears out, and does the steps of rotations, for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) {
        let this = || Arc::clone(&self);
        let kept = async { tokio::join!(this().follow(), this().keep_current(), this().drive()) };
        tokio::join!(kept, this().follow_config(), this().follow_federation());
    }

    /// What signs.
    pub(crate) fn signing(&self) -> &CertificateAuthority {
        &self.signing
    }

    /// The control plane's own identity.
    pub(crate) fn identity(&self) -> &Arc<IdentitySource> {
        &self.identity
    }

    /// The file with the roots that workloads trust, PEM.
    pub(crate) fn trust_bundle(&self) -> &PathBuf {
        &self.trust_bundle
    }

    /// Trust as it is told, now and whenever it changes.
    pub(crate) fn published(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// Trusts these trust domains beside the own, in place of earlier ones.
    ///
    /// # Errors
    /// The file of the bundle cannot be written.
    pub(crate) fn set_federated(&self, bundles: Vec<Bundle>) -> Result<(), IdentityError> {
        self.lock().federated = bundles;
        self.publish()
    }

    /// Tells everybody of the trust of now, where it differs from what they were told. Blocks for some small files.
    ///
    /// # Errors
    /// The file of the bundle, or a new certificate of the own cannot be made. What can be told is told nevertheless.
    pub(crate) fn publish(&self) -> Result<(), IdentityError> {
        let _turn = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Published::new(self.trust());
        let done = self.put_in_place(&next);
        if next.version != self.published.borrow().version {
            self.tell(next);
        }
        done
    }

    /// The trust of now.
    fn trust(&self) -> Trust {
        let (federated, revoked) = {
            let state = self.lock();
            (state.federated.clone(), revocation::revocations(&state.read.revoked))
        };
        let trust = Trust::new(self.signing.bundle()).with_federated(federated).with_revoked(revoked);
        trust.with_issuer(Some(&self.roots().active))
    }

    /// The authority's roots, by what they are for.
    fn roots(&self) -> Roots {
        let mut roots = Roots::default();
        for root in self.signing.roots() {
            match root.role {
                Role::Active => roots.active = root.fingerprint,
                Role::Next => roots.next.push(root.fingerprint),
                Role::Previous => drop(roots.previous.get_or_insert(root.fingerprint)),
            }
        }
        roots
    }

    /// Makes the control plane itself trust so, and show a certificate that others trust so.
    fn put_in_place(&self, next: &Published) -> Result<(), IdentityError> {
        let pem = next.trust.own().file();
        if std::fs::read_to_string(&self.trust_bundle).ok().as_ref() != Some(&pem) {
            files::write_public(&self.trust_bundle, pem.as_bytes())?;
        }
        self.identity.replace_trust((*next.trust).clone())?;
        self.leave_revoked_intermediate(&next.trust)?;
        if own::is_due(&self.identity.svid(), &next.trust, SystemTime::now()) {
            self.identity.replace_svid(self.own.issue(&self.signing)?)?;
            info!(serial = self.identity.svid().serial(), "has a new certificate of its own");
        }
        Ok(())
    }

    /// Signs by another intermediate, where somebody has revoked the one of now: what that signs is good for nothing.
    fn leave_revoked_intermediate(&self, trust: &Trust) -> Result<(), IdentityError> {
        let issuer = self.signing.issuer();
        if trust.revoked().revokes_serial(&issuer.serial)
            && self.signing.replace_intermediate(&issuer.serial)?
        {
            warn!(revoked = issuer.serial, "its intermediate is revoked: it signs by another one");
        }
        Ok(())
    }

    fn tell(&self, next: Published) {
        let now = now();
        let (revoked, trust) = (next.trust.revoked().clone(), Arc::clone(&next.trust));
        let mut state = self.lock();
        state.peers.publish(&next.version, trust.own().fingerprints().into_iter().collect());
        self.published.send_replace(next);
        let gone = state.peers.let_go(|peer| revoked.revokes(&peer.identity, &peer.serial), now);
        state.peers.tell();
        drop(state);
        if gone > 0 {
            warn!(streams = gone, "streams of those that are revoked are ended");
        }
        self.world.revoke(revoked.identities().cloned().collect());
        self.news.notify_one();
    }

    /// Why somebody gets no certificate, no token and no stream; nothing where they may.
    pub(crate) fn refuses(&self, id: &SpiffeId, serial: Option<&str>) -> Option<String> {
        let is_revoked = self.published.borrow().trust.revoked().revokes(id, serial.unwrap_or_default());
        if !is_revoked {
            return None;
        }
        let state = self.lock();
        let kept = state.read.revoked.iter().find(|kept| revocation::concerns(kept, id, serial));
        let reason = kept.map_or("", |kept| &kept.reason);
        Some(revocation::words(id, serial, reason))
    }

    /// Ends when the identity of a chain is revoked, or a certificate of it.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) fn revoked(
        &self,
        chain: Arc<[CertificateDer<'static>]>,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut published = self.published.subscribe();
        async move {
            let revokes = |published: &Published| published.trust.revokes(&chain);
            if published.wait_for(revokes).await.is_err() {
                // The control plane ends: that is no revocation.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Notes a certificate that was signed: who holds it can be locked out.
    pub(crate) fn issued(&self, issued: Issued<'_>) {
        let Issued { id, workload, shown, chain_pem, is_delegated } = issued;
        let chain: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect();
        let certificate = chain.ok().and_then(|chain| self.certificate(&chain));
        let Some(certificate) = certificate else { return };
        let whom = match (workload, shown) {
            (Some(agent), shown) if is_delegated => For::Agent(shown, agent),
            (Some(workload), _) => For::Workload(workload),
            (None, Some(serial)) => For::Shown(serial),
            (None, None) => return,
        };
        self.lock().held.issued(&id, whom, certificate, now());
        self.news.notify_one();
    }

    /// Notes a token that was signed: the key beside the active root is needed until it ends. Blocks, once in a while.
    pub(crate) fn signed_token(&self, ends: SystemTime) {
        let (root, ends) = (self.roots().active, seconds(ends));
        let is_told = {
            let mut state = self.lock();
            let last = state.tokens.entry(root.clone()).or_default();
            *last = (*last).max(ends);
            state.read.tokens.get(&root).is_some_and(|told| *told >= ends)
        };
        if !is_told {
            // Told of more than there is, it need not be told of the next ones.
            let until = ends + TOKENS_TOLD_EVERY;
            if let Err(error) = record::put_tokens(&*self.kv, &root, until) {
                warn!(%error, "other control planes are not told until when a key for tokens is needed");
            }
            self.lock().read.tokens.insert(root, until);
        }
    }

    /// When the last token ends that the key beside each root has signed.
    fn tokens(&self) -> BTreeMap<String, i64> {
        let state = self.lock();
        let mut tokens = state.read.tokens.clone();
        for (root, ends) in &state.tokens {
            let last = tokens.entry(root.clone()).or_default();
            *last = (*last).max(*ends);
        }
        tokens
    }

    /// What rotation asks of a chain.
    fn certificate(&self, chain: &[CertificateDer<'static>]) -> Option<Certificate> {
        let facts = CertificateFacts::read(chain.first()?)?;
        let serial = facts.serial.trim_start_matches('0').to_owned();
        let root = self.published.borrow().trust.root_of(chain);
        Some(Certificate { serial, root, ends: seconds(facts.not_after) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between two writes of one change can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// An authority with its state in a directory.
#[cfg(test)]
pub(crate) fn in_test(dir: &std::path::Path, kv: Arc<dyn Kv>, world: Arc<World>) -> Arc<Authority> {
    of_trust_domain("mesh.local", dir, kv, world)
}

/// One of another trust domain.
#[cfg(test)]
pub(crate) fn of_trust_domain(
    trust_domain: &str,
    dir: &std::path::Path,
    kv: Arc<dyn Kv>,
    world: Arc<World>,
) -> Arc<Authority> {
    let options = Options { trust_domain: trust_domain.to_owned(), ..tests::options(dir) };
    let parts = Parts { options: &options, kv, world, replica: "here".to_owned() };
    Authority::open(parts).expect("opened")
}

/// Fingerprints of roots, in few letters for people.
pub(crate) fn short(fingerprint: &str) -> &str {
    const LETTERS: usize = 16;
    fingerprint.get(..LETTERS).unwrap_or(fingerprint)
}

/// Now, in seconds since 1970.
fn now() -> i64 {
    seconds(SystemTime::now())
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
