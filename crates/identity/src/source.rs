//! What a process proves itself with, and the TLS configurations that read it at each handshake.
//!
//! The agent writes ([`IdentitySource::replace_svid`], [`IdentitySource::replace_trust`]); each handshake reads,
//! through one atomic pointer. Configurations are shared among callers that ask for the same, so that sessions
//! can be resumed across rebuilt clusters and listeners.

mod proven;
mod renewal;
mod sessions;
mod verify;

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use meshwork_model::spiffe::SpiffeId;
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

use crate::bundle::Role;
use crate::trust::Appraisal;
use crate::{Bundle, IdentityError, Svid, Trust};
use proven::{ChainHash, Proven};
pub use renewal::Renewal;
use sessions::{ClientSessions, ServerSessions};
use verify::{Believed, CurrentSvid, PeerOfClient, PeerOfServer};

/// Between ourselves nothing older: 1.3 hides certificates and has no weak choices.
static VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
/// One ticket: a client that opens connections gets a fresh one on each.
const TICKETS: usize = 1;

/// Whether a server asks its clients for a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClientCertificate {
    /// A client without a valid certificate is refused.
    Required,
    /// A client may have none; one that it shows must be valid.
    Optional,
    /// None is asked for.
    None,
}

/// The current SVID of a process, and whom it believes.
///
/// The identity and the trust domain never change; certificates and trust do, under traffic.
pub struct IdentitySource {
    id: SpiffeId,
    current: ArcSwap<Current>,
    changes: watch::Sender<u64>,
    servers: Mutex<Shared<ServerKey, ServerConfig>>,
    clients: Mutex<Shared<ClientKey, ClientConfig>>,
    renewal: Mutex<Renewal>,
}

/// One consistent state. `generation` grows with every change.
struct Current {
    svid: Arc<Svid>,
    believed: Arc<BelievedNow>,
    generation: u64,
}

/// A trust, and what was proven under it and no other.
struct BelievedNow {
    trust: Arc<Trust>,
    proven: Proven,
    generation: u64,
}

type Protocols = Vec<Vec<u8>>;
type ServerKey = (Protocols, ClientCertificate);
type ClientKey = (Vec<SpiffeId>, Protocols);
/// Weak: a configuration lives as long as somebody uses it. That bounds the map, too.
type Shared<K, C> = HashMap<K, Weak<C>>;

impl IdentitySource {
    /// Begins with an SVID and the bundle that it belongs to.
    ///
    /// # Errors
    /// The SVID is not signed under the bundle, or not valid now.
    pub fn new(svid: Svid, bundle: Bundle) -> Result<Arc<Self>, IdentityError> {
        svid.check_under(&bundle)?;
        let id = svid.id().clone();
        let believed = Arc::new(BelievedNow::new(Trust::new(bundle), 0));
        let current = Current { svid: Arc::new(svid), believed, generation: 0 };
        Ok(Arc::new(Self {
            id,
            current: ArcSwap::from_pointee(current),
            changes: watch::Sender::new(0),
            servers: Mutex::default(),
            clients: Mutex::default(),
            renewal: Mutex::default(),
        }))
    }

    /// Who this process is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// When the current certificate's time ends.
    pub fn expires_at(&self) -> SystemTime {
        self.svid().not_after()
    }

    /// The current SVID.
    pub fn svid(&self) -> Arc<Svid> {
        self.current.load().svid.clone()
    }

    /// The current authorities of one's own trust domain.
    pub fn bundle(&self) -> Arc<Bundle> {
        Arc::new(self.current.load().believed.trust.own().clone())
    }

    /// The fingerprint of the root that the current SVID leads to; `None` where none that is trusted has signed it. Costs
    /// some signatures.
    pub fn own_root(&self) -> Option<String> {
        let current = self.current.load();
        current.believed.trust.root_of(current.svid.chain())
    }

    /// Whom this process believes now.
    pub fn trust(&self) -> Arc<Trust> {
        self.current.load().believed.trust.clone()
    }

    /// A number that grows with each change of trust, not with those of the SVID: who let a peer in under another one
    /// judges it anew.
    pub fn trust_generation(&self) -> u64 {
        self.current.load().believed.generation
    }

    /// Tells of every change of SVID or trust from now on; the value is a growing number without meaning.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How renewing goes, as was noted last.
    pub fn renewal(&self) -> Renewal {
        // Whoever panicked while holding it left it whole.
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how renewing goes, for people.
    pub fn note_renewal(&self, note: impl FnOnce(&mut Renewal)) {
        note(&mut self.renewal.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Tells who a chain proves now, as [`Trust::judge`]; cheap for chains of a moment ago.
    ///
    /// # Errors
    /// What the chain lacks.
    pub fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<SpiffeId, IdentityError> {
        self.appraise(chain).map(|peer| peer.id)
    }

    /// As [`IdentitySource::judge`], and tells whether the chain is under the root of today.
    ///
    /// # Errors
    /// What the chain lacks.
    pub fn appraise(&self, chain: &[CertificateDer<'_>]) -> Result<Appraisal, IdentityError> {
        let (leaf, signers) = chain.split_first().ok_or(IdentityError::NoCertificate)?;
        let (now, hash) = (UnixTime::now(), ChainHash::of(leaf, signers));
        let current = self.current.load();
        let believed = &current.believed;
        if let Some(peer) = believed.proven.find(hash, Role::Server, now) {
            return Ok(peer);
        }
        match believed.prove(hash, leaf, signers, now, Role::Client) {
            Err(error) if error.is_about_purpose() => believed.prove(hash, leaf, signers, now, Role::Server),
            outcome => outcome,
        }
    }

    /// Tells who a chain proves in a handshake.
    fn prove(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<SpiffeId, IdentityError> {
        let hash = ChainHash::of(leaf, signers);
        self.current.load().believed.prove(hash, leaf, signers, now, role).map(|peer| peer.id)
    }

    /// Puts a renewed SVID in place; handshakes from now on show it.
    ///
    /// # Errors
    /// It is somebody else's, or not signed under the current bundle, or not valid now. Then nothing changes.
    pub fn replace_svid(&self, svid: Svid) -> Result<(), IdentityError> {
        self.check_own(&svid)?;
        svid.check_under(self.trust().own())?;
        let svid = Arc::new(svid);
        self.replace(|current| Current {
            svid: svid.clone(),
            believed: current.believed.clone(),
            ..*current
        });
        Ok(())
    }

    /// Puts new authorities of one's own trust domain in place and keeps the rest of the trust; handshakes from now on
    /// are judged by them.
    ///
    /// # Errors
    /// They are another trust domain's. Then nothing changes.
    pub fn replace_bundle(&self, bundle: Bundle) -> Result<(), IdentityError> {
        self.check_trust_domain(&bundle)?;
        self.change_trust(move |trust| trust.clone().with_own(bundle.clone()));
        Ok(())
    }

    /// Puts a new trust in place; handshakes from now on are judged by it, and sessions to be resumed are forgotten.
    /// One that is equal to the current one changes nothing.
    ///
    /// # Errors
    /// Its own trust domain is another one. Then nothing changes.
    pub fn replace_trust(&self, trust: Trust) -> Result<(), IdentityError> {
        self.check_trust_domain(trust.own())?;
        self.change_trust(move |_| trust.clone());
        Ok(())
    }

    /// Puts a renewed SVID and the bundle that it belongs to in place, both at the same moment.
    ///
    /// # Errors
    /// The SVID is somebody else's, or not signed under that bundle, or not valid now. Then nothing changes.
    pub fn replace_both(&self, svid: Svid, bundle: Bundle) -> Result<(), IdentityError> {
        self.check_own(&svid)?;
        svid.check_under(&bundle)?;
        let svid = Arc::new(svid);
        self.replace(move |current| {
            let believed = if *current.believed.trust.own() == bundle {
                current.believed.clone()
            } else {
                current.believed.changed(|trust| trust.clone().with_own(bundle.clone()))
            };
            Current { svid: svid.clone(), believed, ..*current }
        });
        Ok(())
    }

    fn check_trust_domain(&self, bundle: &Bundle) -> Result<(), IdentityError> {
        if bundle.trust_domain() == self.id.trust_domain() {
            return Ok(());
        }
        let (id, trust_domain) = (self.id.to_string(), bundle.trust_domain().to_owned());
        Err(IdentityError::TrustDomain { id, trust_domain })
    }

    fn check_own(&self, svid: &Svid) -> Result<(), IdentityError> {
        if *svid.id() == self.id {
            return Ok(());
        }
        let (found, expected) = (svid.id().to_string(), self.id.to_string());
        Err(IdentityError::Unexpected { found, expected })
    }

    fn change_trust(&self, next: impl Fn(&Trust) -> Trust) {
        let current = self.trust();
        if next(&current) == *current {
            return;
        }
        self.replace(|current| {
            let believed = current.believed.changed(&next);
            Current { svid: current.svid.clone(), believed, ..*current }
        });
    }

    fn replace(&self, next: impl Fn(&Current) -> Current) {
        self.current.rcu(|current| Current { generation: current.generation + 1, ..next(current) });
        self.changes.send_modify(|count| *count += 1);
    }

    /// A server's configuration that resolves the current SVID and bundle at each handshake.
    ///
    /// `alpn` is in the server's order of preference. The client's identity is [`crate::peer_id`] of the
    /// connection's peer certificates, on resumed sessions, too.
    pub fn server_config(self: &Arc<Self>, alpn: &[&[u8]], client: ClientCertificate) -> Arc<ServerConfig> {
        let protocols = owned(alpn);
        share(&self.servers, (protocols.clone(), client), || self.make_server_config(protocols, client))
    }

    /// A client's configuration that shows the current SVID and accepts a server that is one of `expected`.
    ///
    /// With nobody expected every handshake fails: an empty list never means "anybody".
    pub fn client_config(self: &Arc<Self>, expected: &[SpiffeId], alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut expected = expected.to_vec();
        expected.sort();
        expected.dedup();
        let protocols = owned(alpn);
        share(&self.clients, (expected.clone(), protocols.clone()), || {
            self.make_client_config(expected, protocols)
        })
    }

    fn make_server_config(self: &Arc<Self>, protocols: Protocols, client: ClientCertificate) -> ServerConfig {
        let verifier = match client {
            ClientCertificate::None => WebPkiClientVerifier::no_client_auth(),
            asked => Arc::new(PeerOfServer::new(self.clone(), asked == ClientCertificate::Required)),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .expect("the provider has TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(CurrentSvid(self.clone())));
        config.alpn_protocols = protocols;
        config.session_storage = Arc::new(ServerSessions::new(self.clone()));
        config.send_tls13_tickets = TICKETS;
        config
    }

    fn make_client_config(self: &Arc<Self>, expected: Vec<SpiffeId>, protocols: Protocols) -> ClientConfig {
        let verifier = PeerOfClient::new(Believed::Current(self.clone()), expected);
        let mut config =
            client_builder(verifier).with_client_cert_resolver(Arc::new(CurrentSvid(self.clone())));
        config.alpn_protocols = protocols;
        config.resumption = Resumption::store(Arc::new(ClientSessions::new(self.clone())))
            .tls12_resumption(Tls12Resumption::Disabled);
        config
    }

    /// Identifies the certificates that a session was made under.
    fn generation(&self) -> u64 {
        self.current.load().generation
    }
}

impl BelievedNow {
    fn new(trust: Trust, generation: u64) -> Self {
        Self { trust: Arc::new(trust), proven: Proven::new(), generation }
    }

    /// Its successor, under which nothing is proven yet.
    fn changed(&self, next: impl FnOnce(&Trust) -> Trust) -> Arc<Self> {
        Arc::new(Self::new(next(&self.trust), self.generation + 1))
    }

    fn prove(
        &self,
        hash: ChainHash,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<Appraisal, IdentityError> {
        if let Some(peer) = self.proven.find(hash, role, now) {
            return Ok(peer);
        }
        let proof = self.trust.prove(leaf, signers, now, role)?;
        let peer = proof.appraisal();
        self.proven.keep(hash, role, proof);
        Ok(peer)
    }
}

impl fmt::Debug for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentitySource").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A client's configuration for the time before it has an SVID: it shows none, and accepts `expected` alone.
pub fn bootstrap_client_config(bundle: &Bundle, expected: &SpiffeId) -> Arc<ClientConfig> {
    anonymous_client_config(Trust::new(bundle.clone()), expected)
}

/// A client's configuration that shows no certificate, judges by a trust as it is now, revocations among it, and accepts
/// `expected` alone.
pub fn anonymous_client_config(trust: Trust, expected: &SpiffeId) -> Arc<ClientConfig> {
    let verifier = PeerOfClient::new(Believed::Fixed(trust), vec![expected.clone()]);
    let mut config = client_builder(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A client of a test, before it has a certificate.
#[cfg(test)]
pub(crate) fn client_of(
    trust: Trust,
    expected: Vec<SpiffeId>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    client_builder(PeerOfClient::new(Believed::Fixed(trust), expected))
}

fn client_builder(
    verifier: PeerOfClient,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
}

/// The one provider of cryptography, never the process-wide default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

fn owned(alpn: &[&[u8]]) -> Protocols {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

fn share<K: Hash + Eq, C>(shared: &Mutex<Shared<K, C>>, key: K, make: impl FnOnce() -> C) -> Arc<C> {
    // Whoever panicked while holding it left a whole map.
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(config) = shared.get(&key).and_then(Weak::upgrade) {
        return config;
    }
    shared.retain(|_, config| config.strong_count() > 0);
    let config = Arc::new(make());
    shared.insert(key, Arc::downgrade(&config));
    config
}

#[cfg(test)]
mod tests;
