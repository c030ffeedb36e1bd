//! What vouches for the identities of one trust domain: root certificates, and keys for JWT-SVIDs.

mod document;
mod keys;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_model::spiffe::check_trust_domain;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

pub use document::BundleDocument;
pub(crate) use keys::JwtKeys;

use crate::source::provider;
use crate::{IdentityError, certificate, pem, svid};

/// More roots than any trust domain has, also in the midst of a rotation.
pub(crate) const MAX_ROOTS: usize = 64;

const SCHEME: &str = "spiffe://";

/// The authorities of one trust domain, immutable and cheap to clone.
///
/// Source: SPIFFE Trust Domain and Bundle; the domain's name is the URI in the roots' alternative names
/// (X.509-SVID §3.2).
#[derive(Clone)]
pub struct Bundle {
    trust_domain: Arc<str>,
    certificates: Arc<[CertificateDer<'static>]>,
    /// None where there is no root: then nobody is proven.
    verifiers: Option<Verifiers>,
    /// When the first of the roots ends.
    first_end: SystemTime,
    jwt_keys: Arc<JwtKeys>,
}

/// The roots, ready for handshakes.
#[derive(Clone)]
struct Verifiers {
    roots: Arc<RootCertStore>,
    of_clients: Arc<dyn ClientCertVerifier>,
}

/// Which end of a connection a peer is: its certificate's extended key usage, where it has one, must allow that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Client,
    Server,
}

impl Bundle {
    /// Reads roots that name their trust domain themselves, as Meshwork's do, or whose trust domain a line before them names:
    /// `# spiffe://mesh.local`.
    ///
    /// # Errors
    /// No certificate, one that is not an authority's, or no or several trust domains.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let certificates = pem::certificates(text)?;
        let mut named = named_beside(text);
        for certificate in &certificates {
            // A root of somebody's own need not name it, where the rest of the text does.
            let Some(domain) = svid::trust_domain_of_root(certificate)? else { continue };
            if named.get_or_insert_with(|| domain.clone()) != &domain {
                return Err(IdentityError::Bundle("its roots name several trust domains"));
            }
        }
        let named = named.ok_or(IdentityError::Bundle(
            "no root names its trust domain; write a line `# spiffe://TRUST-DOMAIN` before the roots",
        ))?;
        Self::new(&named, certificates, JwtKeys::default())
    }

    /// Reads roots of a trust domain that the caller names.
    ///
    /// # Errors
    /// No certificate, or one that is not an authority's; a name that is not a trust domain's.
    pub fn of_trust_domain(trust_domain: &str, text: &str) -> Result<Self, IdentityError> {
        Self::new(trust_domain, pem::certificates(text)?, JwtKeys::default())
    }

    /// Reads a SPIFFE bundle document; [`BundleDocument`] tells its sequence number, too.
    ///
    /// # Errors
    /// It is no such document, or a key in it breaks a rule. One without keys is good: it says that nobody is to be
    /// trusted.
    pub fn from_document(trust_domain: &str, text: &str) -> Result<Self, IdentityError> {
        Ok(BundleDocument::parse(trust_domain, text)?.bundle)
    }

    fn new(
        trust_domain: &str,
        certificates: Vec<CertificateDer<'static>>,
        jwt_keys: JwtKeys,
    ) -> Result<Self, IdentityError> {
        check_trust_domain(trust_domain).map_err(|_| {
            IdentityError::Bundle("its trust domain has a character outside a-z, 0-9, '.', '-', '_'")
        })?;
        if certificates.len() > MAX_ROOTS {
            return Err(IdentityError::Bundle("it has more than 64 roots"));
        }
        let mut first_end = None;
        for certificate in &certificates {
            svid::check_authority(certificate)?;
            let end = svid::not_after(certificate)?;
            first_end = Some(first_end.map_or(end, |first: SystemTime| first.min(end)));
        }
        Ok(Self {
            trust_domain: trust_domain.into(),
            verifiers: Verifiers::new(&certificates)?,
            certificates: certificates.into(),
            first_end: first_end.unwrap_or(SystemTime::UNIX_EPOCH),
            jwt_keys: Arc::new(jwt_keys),
        })
    }

    /// The same roots, with these keys for JWT-SVIDs alone: a JWKS; an empty text has none.
    ///
    /// # Errors
    /// It is no JWKS, a key in it is private, or there are more than 100. Keys without `kid` and of kinds that JWT-SVIDs
    /// do not know are left out.
    pub fn with_jwt_keys(self, jwks: &str) -> Result<Self, IdentityError> {
        Ok(Self { jwt_keys: Arc::new(JwtKeys::parse(jwks)?), ..self })
    }

    /// The same without the roots that have one of these fingerprints; there may be none left.
    ///
    /// # Errors
    /// The library refuses what it took before.
    pub fn without(&self, fingerprints: &BTreeSet<String>) -> Result<Self, IdentityError> {
        let left = |root: &&CertificateDer<'static>| !fingerprints.contains(&certificate::fingerprint(root));
        let left = self.certificates.iter().filter(left).cloned().collect();
        let jwt_keys = Arc::clone(&self.jwt_keys);
        Ok(Self { jwt_keys, ..Self::new(&self.trust_domain, left, JwtKeys::default())? })
    }

    /// The keys for JWT-SVIDs as a JWKS: `{"keys":[...]}`, public members only.
    pub fn jwt_keys(&self) -> &str {
        self.jwt_keys.text()
    }

    /// The keys for JWT-SVIDs, ready to verify.
    pub(crate) fn jwt(&self) -> &JwtKeys {
        &self.jwt_keys
    }

    /// Writes the SPIFFE bundle document, with the number that grows with each change, and how often a reader should
    /// look again.
    ///
    /// Source: SPIFFE Trust Domain and Bundle §4.
    pub fn to_document(&self, sequence: u64, refresh_hint: Option<Duration>) -> serde_json::Value {
        document::write(self, Some(sequence), refresh_hint)
    }

    /// The trust domain, lowercase, without `spiffe://`.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Writes all roots as text that [`Bundle::from_pem`] reads: PEM, with a line before it that names the trust domain
    /// where a root does not.
    pub fn file(&self) -> String {
        let names = |root| svid::trust_domain_of_root(root).ok().flatten().is_some();
        if self.certificates.iter().all(names) {
            return self.pem();
        }
        format!("# {SCHEME}{}\n{}", self.trust_domain, self.pem())
    }

    /// Writes all roots as PEM text; empty where there is none.
    pub fn pem(&self) -> String {
        pem::encode_certificates(&self.certificates)
    }

    /// SHA-256 of each root in their order, lowercase hexadecimal.
    pub fn fingerprints(&self) -> Vec<String> {
        self.certificates.iter().map(certificate::fingerprint).collect()
    }

    /// The root certificates, DER.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Tells whether a certificate is one of the roots.
    pub(crate) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|root| root == certificate)
    }

    /// When the first root ends that has not ended yet.
    pub(crate) fn next_end(&self, now: UnixTime) -> SystemTime {
        let now = time_of(now);
        if now < self.first_end {
            return self.first_end;
        }
        let ends = self.certificates.iter().filter_map(|root| svid::not_after(root).ok());
        ends.filter(|end| *end > now).min().unwrap_or(now)
    }

    /// Checks the signatures and times of a chain up to a root, and what the certificates are made for.
    ///
    /// # Errors
    /// What webpki says of the chain; `UnknownIssuer` where no root that is still valid has signed it.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<(), rustls::Error> {
        if time_of(now) < self.first_end {
            let verifiers = self.verifiers.as_ref().ok_or_else(unknown_issuer)?;
            return verifiers.verify(leaf, intermediates, now, role);
        }
        // webpki takes roots without an end. One that has ended vouches for nobody; the others go on.
        let is_valid = |root: &&CertificateDer<'_>| svid::not_after(root).is_ok_and(|end| end > time_of(now));
        let valid: Vec<_> = self.certificates.iter().filter(is_valid).cloned().collect();
        Verifiers::of(&valid)?.verify(leaf, intermediates, now, role)
    }

    /// As [`Bundle::verify`], up to the root of this fingerprint alone.
    pub(crate) fn verify_under(
        &self,
        root: &str,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<(), rustls::Error> {
        let is_it = |known: &&CertificateDer<'static>| certificate::fingerprint(known) == root;
        let only = self.certificates.iter().find(is_it).ok_or_else(unknown_issuer)?;
        Verifiers::of(std::slice::from_ref(only))?.verify(leaf, intermediates, now, role)
    }

    /// Tells which root a chain leads to, whatever the time is.
    pub(crate) fn root_of(&self, chain: &[CertificateDer<'_>]) -> Option<&CertificateDer<'static>> {
        let (leaf, rest) = chain.split_first()?;
        // A chain that ever was valid was so when the youngest of it began.
        let begin = chain.iter().filter_map(|der| svid::not_before(der).ok()).max()?;
        let then = UnixTime::since_unix_epoch(begin.duration_since(SystemTime::UNIX_EPOCH).ok()?);
        self.certificates.iter().find(|root| {
            let verifiers = Verifiers::new(std::slice::from_ref(*root)).ok().flatten();
            verifiers.is_some_and(|only| {
                [Role::Client, Role::Server].iter().any(|role| only.verify(leaf, rest, then, *role).is_ok())
            })
        })
    }
}

impl Verifiers {
    fn new(certificates: &[CertificateDer<'static>]) -> Result<Option<Self>, IdentityError> {
        if certificates.is_empty() {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone()).map_err(|error| IdentityError::Certificate(error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let of_clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|_| IdentityError::Bundle("it has no roots"))?;
        Ok(Some(Self { roots, of_clients }))
    }

    /// Those of some roots alone; without any, nobody is known.
    fn of(roots: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        Self::new(roots).ok().flatten().ok_or_else(unknown_issuer)
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<(), rustls::Error> {
        match role {
            Role::Client => self.of_clients.verify_client_cert(leaf, intermediates, now).map(drop),
            Role::Server => {
                let leaf = ParsedCertificate::try_from(leaf)?;
                let algorithms = provider().signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)
            }
        }
    }
}

fn unknown_issuer() -> rustls::Error {
    rustls::CertificateError::UnknownIssuer.into()
}

/// The trust domain that a line before the certificates names: `# spiffe://mesh.local`.
fn named_beside(text: &str) -> Option<String> {
    let before = text.split("-----BEGIN").next().unwrap_or_default();
    let named = |line: &str| line.strip_prefix('#')?.trim().strip_prefix(SCHEME).map(ToOwned::to_owned);
    before.lines().find_map(named)
}

/// A bundle's document without a sequence number, as it stands within others.
pub(crate) fn write_document(bundle: &Bundle) -> serde_json::Value {
    document::write(bundle, None, None)
}

/// A handshake's time as everybody else's.
pub(crate) fn time_of(now: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && self.certificates == other.certificates
            && self.jwt_keys.text() == other.jwt_keys.text()
    }
}

impl Eq for Bundle {}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.fingerprints())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
