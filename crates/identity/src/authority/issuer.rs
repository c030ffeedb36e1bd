//! What signs workloads' certificates: an intermediate with its key, this replica's own or a plugged-in one.
//!
//! The own one is made under the active root, kept in `certificate.pem` and `key.pem` of a directory of this replica,
//! and made anew at half of its life. It is derived: where a file of it is damaged, another is made.

use std::time::{Duration, SystemTime};

use meshwork_model::spiffe::SpiffeId;
use rcgen::PublicKeyData;
use rustls_pki_types::CertificateDer;

use super::AlternativeName;
use super::certify::{self, BACKDATE, Validity};
use super::directory::Root;
use super::disk::Disk;
use super::signer::{Pair, Signer};
use crate::certificate::fingerprint;
use crate::{Bundle, CertificateFacts, IdentityError, Key, Svid, pem, svid};

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// What signs, as others may know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssuerFacts {
    /// Serial number of its certificate, lowercase hexadecimal without leading zeros.
    pub serial: String,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when; what it signs lives no longer.
    pub not_after: SystemTime,
    /// The SHA-256 of the root that it leads to, lowercase hexadecimal.
    pub root: String,
    /// Whether it came from files of the user's.
    pub plugged: bool,
}

/// An intermediate that signs.
pub(super) struct Issuer {
    signer: Signer,
    /// What goes behind each certificate: the intermediate and what is between it and its root; without the root.
    chain: Vec<CertificateDer<'static>>,
    facts: IssuerFacts,
}

impl Issuer {
    /// Puts a certificate and its key together. Which root it leads to is found by trying.
    ///
    /// # Errors
    /// It leads to none of the roots, or what it signs is not good under them.
    pub(super) fn new(
        trust_domain: &str,
        certificate: &CertificateDer<'_>,
        pair: Pair,
        chain: Vec<CertificateDer<'static>>,
        roots: &[CertificateDer<'static>],
        plugged: bool,
    ) -> Result<Self, IdentityError> {
        let read = CertificateFacts::read(certificate)
            .ok_or_else(|| IdentityError::Certificate("it is none".to_owned()))?;
        let facts = IssuerFacts {
            serial: super::short_serial(&read.serial),
            not_before: read.not_before,
            not_after: read.not_after,
            root: String::new(),
            plugged,
        };
        let mut issuer = Self { signer: Signer::new(certificate, pair)?, chain, facts };
        issuer.facts.root = issuer.try_out(trust_domain, roots)?;
        Ok(issuer)
    }

    pub(super) fn facts(&self) -> &IssuerFacts {
        &self.facts
    }

    /// Signs a throw-away certificate, checks it as a peer would, and tells under which root it is good.
    fn try_out(
        &self,
        trust_domain: &str,
        roots: &[CertificateDer<'static>],
    ) -> Result<String, IdentityError> {
        let id = SpiffeId::workload(trust_domain, "meshwork-system", "self-check")
            .map_err(|cause| IdentityError::SpiffeId { uri: "self-check".to_owned(), cause })?;
        let key = Key::generate()?;
        let chain = key.with_pair(|pair| self.sign(pair, &id, BACKDATE, &[]))?;
        let svid = Svid::from_pem(&pem::encode_certificates(&chain), key)?;
        let mut problem = IdentityError::Bundle("it has no roots");
        for root in roots {
            let alone = pem::encode("CERTIFICATE", root);
            match Bundle::of_trust_domain(trust_domain, &alone).and_then(|bundle| svid.check_under(&bundle)) {
                Ok(()) => return Ok(fingerprint(root)),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    /// Signs a public key: the certificate, then the chain behind it.
    pub(super) fn sign(
        &self,
        public_key: &impl PublicKeyData,
        id: &SpiffeId,
        lifetime: Duration,
        extra: &[AlternativeName],
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let validity = Validity::until(SystemTime::now(), lifetime, Some(self.facts.not_after))?;
        let leaf = self.signer.sign(&certify::workload(id, extra, validity)?, public_key)?;
        Ok(std::iter::once(leaf).chain(self.chain.iter().cloned()).collect())
    }

    /// Whether another own one should be made: half of its life is over, and another would live longer; or its time
    /// cannot be right.
    pub(super) fn is_due(&self, now: SystemTime, lifetime: Duration, end: SystemTime) -> bool {
        let IssuerFacts { not_before, not_after, .. } = &self.facts;
        let begin = *not_before + BACKDATE;
        let life = not_after.duration_since(begin).unwrap_or_default();
        // A second, for what certificates cut off.
        let is_too_long = life > lifetime.saturating_add(Duration::from_secs(1));
        let is_old = now >= begin + life / 2 && *not_after < end;
        now < *not_before || is_too_long || is_old
    }
}

/// Makes this replica's own intermediate under a root, in its directory, or takes the one that is there and good.
pub(super) struct Own<'a> {
    pub(super) disk: &'a Disk,
    pub(super) trust_domain: &'a str,
    pub(super) lifetime: Duration,
    pub(super) now: SystemTime,
}

impl Own<'_> {
    /// The intermediate on disk, where it is good under the root, and not due.
    pub(super) fn kept(&self, root: &Root) -> Option<Issuer> {
        let certificate = self.disk.read(CERTIFICATE, pem::certificates).ok()?.swap_remove(0);
        let key = self.disk.read(KEY, Key::from_pem).ok()?;
        svid::check_authority(&certificate).ok()?;
        let issuer = self.issuer(&certificate, &key, root).ok()?;
        (!issuer.is_due(self.now, self.lifetime, root.not_after)).then_some(issuer)
    }

    /// Another one, on disk before it signs anything.
    pub(super) fn make(&self, root: &Root, root_key: &Key) -> Result<Issuer, IdentityError> {
        let key = Key::generate()?;
        let validity = Validity::until(self.now, self.lifetime, Some(root.not_after))?;
        let certificate =
            certify::intermediate(self.trust_domain, &key, &root.certificate, root_key, validity)?;
        let issuer = self.issuer(&certificate, &key, root)?;
        self.disk.create_dir("")?;
        self.disk.write(KEY, key.pem().as_bytes())?;
        self.disk.write(CERTIFICATE, pem::encode("CERTIFICATE", &certificate).as_bytes())?;
        Ok(issuer)
    }

    fn issuer(
        &self,
        certificate: &CertificateDer<'static>,
        key: &Key,
        root: &Root,
    ) -> Result<Issuer, IdentityError> {
        let pair = Pair::from_pem(&key.pem())?;
        let roots = std::slice::from_ref(&root.certificate);
        Issuer::new(self.trust_domain, certificate, pair, vec![certificate.clone()], roots, false)
    }
}
