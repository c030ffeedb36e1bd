//! Whom a process believes: the authorities of its own trust domain and of federated ones, and who is revoked.
//!
//! A peer is judged by the bundle of the trust domain that its certificate names, and by no other: a federated root
//! never vouches for an identity of ours, and ours for none of theirs.
//!
//! Source: SPIFFE X.509-SVID §5; SPIFFE Federation §5; gRFC A87 for the form in JSON.

mod json;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use meshwork_model::spiffe::SpiffeId;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::Role;
use crate::svid::{Facts, Signer};
use crate::{Bundle, IdentityError, Revocations, certificate, svid};

/// Certificates that may stand behind a workload's: more than any hierarchy of authorities is deep.
const MAX_SIGNERS: usize = 8;

/// Whom a process believes, immutable and cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Trust {
    own: Bundle,
    federated: Arc<BTreeMap<Arc<str>, Bundle>>,
    revoked: Revocations,
    issuer: Option<Arc<str>>,
}

/// Who a chain of certificates proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appraisal {
    /// The identity.
    pub id: SpiffeId,
    /// Whether the chain is under the root under which new certificates are issued; `true` also where that is not told, and
    /// for chains of federated trust domains. One that is not is about to be replaced, and its root to be taken away.
    pub is_current: bool,
}

/// What a chain of certificates has proved, and within which times that holds.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) id: SpiffeId,
    pub(crate) is_current: bool,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Trust {
    /// Believes the authorities of one's own trust domain.
    pub fn new(own: Bundle) -> Self {
        Self { own, federated: Arc::default(), revoked: Revocations::default(), issuer: None }
    }

    /// The same, with these federated trust domains in place of earlier ones. One's own among them is left out.
    #[must_use]
    pub fn with_federated(self, bundles: impl IntoIterator<Item = Bundle>) -> Self {
        let foreign = bundles.into_iter().filter(|bundle| bundle.trust_domain() != self.own.trust_domain());
        let federated = foreign.map(|bundle| (bundle.trust_domain().into(), bundle)).collect();
        Self { federated: Arc::new(federated), ..self }
    }

    /// The same, with these revocations in place of earlier ones.
    #[must_use]
    pub fn with_revoked(self, revoked: Revocations) -> Self {
        Self { revoked, ..self }
    }

    /// The same, with the fingerprint of the root under which new certificates are issued: who has one under another
    /// root renews it soon.
    #[must_use]
    pub fn with_issuer(self, root_fingerprint: Option<&str>) -> Self {
        Self { issuer: root_fingerprint.map(Into::into), ..self }
    }

    /// The same, with other authorities of one's own trust domain.
    pub(crate) fn with_own(self, own: Bundle) -> Self {
        Self { own, ..self }
    }

    /// The authorities of one's own trust domain.
    pub fn own(&self) -> &Bundle {
        &self.own
    }

    /// Those of federated trust domains, sorted by name.
    pub fn federated(&self) -> impl Iterator<Item = &Bundle> {
        self.federated.values()
    }

    /// The authorities of a trust domain; `None` where it is not trusted.
    pub fn bundle_of(&self, trust_domain: &str) -> Option<&Bundle> {
        if trust_domain == self.own.trust_domain() {
            return Some(&self.own);
        }
        self.federated.get(trust_domain)
    }

    /// Who is revoked.
    pub fn revoked(&self) -> &Revocations {
        &self.revoked
    }

    /// The fingerprint of the root under which new certificates are issued, where that is told.
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Tells who a chain proves, the workload's certificate first: all of X.509-SVID checked, signed under a root of
    /// its own trust domain, valid now, and not revoked. It may be made for clients or for servers.
    ///
    /// # Errors
    /// What the chain lacks.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<SpiffeId, IdentityError> {
        self.appraise(chain, now).map(|peer| peer.id)
    }

    /// As [`Trust::judge`], and tells whether the chain is under the root of today.
    ///
    /// # Errors
    /// What the chain lacks.
    pub fn appraise(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Appraisal, IdentityError> {
        let (leaf, signers) = chain.split_first().ok_or(IdentityError::NoCertificate)?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since);
        let proof = match self.prove(leaf, signers, now, Role::Client) {
            Err(error) if error.is_about_purpose() => self.prove(leaf, signers, now, Role::Server)?,
            outcome => outcome?,
        };
        Ok(proof.appraisal())
    }

    /// As [`Trust::judge`], for one role, in a handshake's form.
    pub(crate) fn prove(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<Proof, IdentityError> {
        if signers.len() > MAX_SIGNERS {
            return Err(IdentityError::ChainLength(signers.len() + 1));
        }
        let facts = Facts::read(leaf)?;
        let trust_domain = facts.id.trust_domain();
        let bundle = self
            .bundle_of(trust_domain)
            .ok_or_else(|| IdentityError::NotTrusted(trust_domain.escape_default().to_string()))?;
        bundle
            .verify(leaf, signers, now, role)
            .map_err(|cause| IdentityError::Chain { id: facts.id.to_string(), cause })?;
        self.check_revoked(&facts.id, &facts.serial)?;
        let mut proof = Proof {
            not_before: facts.not_before,
            not_after: facts.not_after.min(bundle.next_end(now)),
            is_current: self.is_current(bundle, leaf, signers, now, role),
            id: facts.id,
        };
        for signer in signers {
            // Whoever puts the root itself behind the chain shows nothing that is not known.
            if bundle.contains(signer) {
                continue;
            }
            let signer = Signer::read(signer, proof.id.trust_domain())?;
            self.check_revoked(&proof.id, &signer.serial)?;
            proof.not_before = proof.not_before.max(signer.not_before);
            proof.not_after = proof.not_after.min(signer.not_after);
        }
        Ok(proof)
    }

    fn check_revoked(&self, id: &SpiffeId, serial: &str) -> Result<(), IdentityError> {
        if self.revoked.revokes(id, serial) {
            return Err(IdentityError::Revoked { id: id.to_string(), serial: serial.to_owned() });
        }
        Ok(())
    }

    /// Whether a chain that was verified is under the root that issues. Of one root there is nothing to tell apart, so that
    /// it costs nothing but while a root is replaced.
    fn is_current(
        &self,
        bundle: &Bundle,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> bool {
        let Some(issuer) = self.issuer() else { return true };
        let is_own = bundle.trust_domain() == self.own.trust_domain();
        !is_own
            || bundle.certificates().len() < 2
            || bundle.verify_under(issuer, leaf, signers, now, role).is_ok()
    }

    /// Whether a chain proves nobody any more because its identity is revoked, its certificate, or one that stands between
    /// that and the root; whatever else it is worth.
    pub fn revokes(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, signers)) = chain.split_first() else { return false };
        if self.revoked.is_empty() {
            return false;
        }
        let Ok(facts) = Facts::read(leaf) else { return false };
        let bundle = self.bundle_of(facts.id.trust_domain());
        self.revoked.revokes(&facts.id, &facts.serial)
            || signers.iter().any(|signer| {
                let is_root = bundle.is_some_and(|bundle| bundle.contains(signer));
                !is_root && svid::serial_of(signer).is_ok_and(|serial| self.revoked.revokes_serial(&serial))
            })
    }

    /// The fingerprint of the root that a chain leads to, be it expired or revoked; `None` where there is none here.
    pub fn root_of(&self, chain: &[CertificateDer<'_>]) -> Option<String> {
        let leaf = Facts::read(chain.first()?).ok()?;
        let bundle = self.bundle_of(leaf.id.trust_domain())?;
        bundle.root_of(chain).map(certificate::fingerprint)
    }

    /// Writes all of it as JSON; equal ones give equal text.
    ///
    /// Source: gRFC A87 (`trust_domains`); what stands beside it is ours.
    pub fn to_json(&self) -> String {
        json::write(self)
    }

    /// Reads what [`Trust::to_json`] wrote.
    ///
    /// # Errors
    /// It is no such text, a bundle in it breaks a rule, or it is that of another trust domain than one's own.
    pub fn from_json(text: &str, own_trust_domain: &str) -> Result<Self, IdentityError> {
        json::read(text, own_trust_domain)
    }
}

impl Proof {
    pub(crate) fn appraisal(&self) -> Appraisal {
        Appraisal { id: self.id.clone(), is_current: self.is_current }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("own", &self.own)
            .field("federated", &self.federated.values())
            .field("revoked", &self.revoked)
            .field("issuer", &self.issuer)
            .finish()
    }
}

#[cfg(test)]
mod tests;
