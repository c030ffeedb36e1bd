//! X.509-SVIDs: the checks that make a certificate one, and the pair of a chain and its key.
//!
//! Source: SPIFFE X.509-SVID §2 to §5. Whether a chain leads to a trusted root is decided elsewhere, by webpki.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_model::spiffe::SpiffeId;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use crate::{Bundle, IdentityError, Key, pem};

/// A workload's certificate chain with its private key.
pub struct Svid {
    facts: Facts,
    certified: Arc<CertifiedKey>,
    key: Key,
}

/// What a workload's certificate says.
struct Facts {
    id: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
}

impl Svid {
    /// Puts a chain (the workload's certificate first, then what signed it) and its key together.
    ///
    /// # Errors
    /// The first certificate is no X.509-SVID, or the key is not its key.
    pub fn from_pem(chain: &str, key: Key) -> Result<Self, IdentityError> {
        Self::from_chain(pem::certificates(chain)?, key)
    }

    /// As [`Svid::from_pem`], leaving out the roots that some signers put behind the chain.
    pub fn from_pem_without_roots(chain: &str, bundle: &Bundle, key: Key) -> Result<Self, IdentityError> {
        let mut chain = pem::certificates(chain)?;
        chain.retain(|certificate| !bundle.contains(certificate));
        Self::from_chain(chain, key)
    }

    fn from_chain(chain: Vec<CertificateDer<'static>>, key: Key) -> Result<Self, IdentityError> {
        let facts = Facts::read(chain.first().ok_or(IdentityError::NoCertificate)?)?;
        let certified = CertifiedKey::new(chain, key.signing_key()?);
        certified.keys_match().map_err(|_| IdentityError::KeyMismatch)?;
        Ok(Self { facts, certified: Arc::new(certified), key })
    }

    /// Who this is.
    pub fn id(&self) -> &SpiffeId {
        &self.facts.id
    }

    /// From when on the certificate is valid.
    pub fn not_before(&self) -> SystemTime {
        self.facts.not_before
    }

    /// Until when the certificate is valid.
    pub fn not_after(&self) -> SystemTime {
        self.facts.not_after
    }

    /// The serial number, lowercase hexadecimal.
    pub fn serial(&self) -> String {
        self.facts.serial.clone()
    }

    /// Writes the chain as PEM text, the workload's certificate first.
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.certified.cert)
    }

    /// Writes the key as PKCS #8 PEM text, for a file of its owner.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.pem()
    }

    /// Checks that the chain leads to a root of the bundle now, and that the identity is of its trust domain.
    ///
    /// # Errors
    /// Not signed under the bundle, expired or not yet valid, or of another trust domain.
    pub fn check_under(&self, bundle: &Bundle) -> Result<(), IdentityError> {
        let now = rustls_pki_types::UnixTime::now();
        let (leaf, rest) = self.certified.cert.split_first().ok_or(IdentityError::NoCertificate)?;
        bundle
            .chain_of_client()
            .verify_client_cert(leaf, rest, now)
            .map_err(|error| IdentityError::Certificate(error.to_string()))?;
        check_trust_domain(&self.facts.id, bundle)
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

/// Tells who the peer of a finished handshake is, from the certificates that the TLS connection gives.
///
/// A resumed session carries the certificates of its first handshake, so the time is checked here again.
///
/// # Errors
/// No certificate, one that is not an X.509-SVID, or one that has expired since.
pub fn peer_id(certificates: &[CertificateDer<'_>]) -> Result<SpiffeId, IdentityError> {
    let facts = Facts::read(certificates.first().ok_or(IdentityError::NoCertificate)?)?;
    if facts.not_after < SystemTime::now() {
        return Err(IdentityError::Expired(facts.id.to_string()));
    }
    Ok(facts.id)
}

/// Checks a certificate whose chain is already proven, and says whose it is.
pub(crate) fn id_under(leaf: &CertificateDer<'_>, bundle: &Bundle) -> Result<SpiffeId, IdentityError> {
    let id = Facts::read(leaf)?.id;
    check_trust_domain(&id, bundle)?;
    Ok(id)
}

fn check_trust_domain(id: &SpiffeId, bundle: &Bundle) -> Result<(), IdentityError> {
    if id.trust_domain() == bundle.trust_domain() {
        return Ok(());
    }
    Err(IdentityError::TrustDomain { id: id.to_string(), trust_domain: bundle.trust_domain().to_owned() })
}

impl Facts {
    /// Reads a certificate and checks all that makes it a workload's X.509-SVID.
    fn read(der: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let certificate = parse(der)?;
        check_leaf(&certificate)?;
        let uris = uri_names(&certificate)?;
        let [uri] = uris[..] else { return Err(IdentityError::UriNames(uris.len())) };
        let id = SpiffeId::parse(uri)
            .map_err(|cause| IdentityError::SpiffeId { uri: uri.escape_default().to_string(), cause })?;
        let validity = certificate.validity();
        Ok(Self {
            id,
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
            serial: format!("{:x}", certificate.tbs_certificate.serial),
        })
    }
}

/// A workload's certificate signs no others and is made for signatures. Source: X.509-SVID §4.1, §4.3, §5.2.
fn check_leaf(certificate: &X509Certificate<'_>) -> Result<(), IdentityError> {
    let constraints = certificate.basic_constraints().map_err(malformed)?;
    if constraints.is_some_and(|found| found.value.ca) {
        return Err(IdentityError::IsAuthority);
    }
    let usage = certificate.key_usage().map_err(malformed)?.ok_or(IdentityError::KeyUsage)?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(IdentityError::KeyUsage);
    }
    Ok(())
}

/// Checks that a certificate may sign others. Source: X.509-SVID §4.1, §4.3.
pub(crate) fn check_authority(der: &CertificateDer<'_>) -> Result<(), IdentityError> {
    let certificate = parse(der)?;
    let is_authority =
        certificate.basic_constraints().map_err(malformed)?.is_some_and(|found| found.value.ca);
    let usage = certificate.key_usage().map_err(malformed)?;
    // Roots of some foreign authorities have no key usage; where it stands it must allow signing.
    let may_sign = usage.is_none_or(|found| found.value.key_cert_sign());
    if is_authority && may_sign {
        Ok(())
    } else {
        Err(IdentityError::Bundle("a certificate in it is not an authority's"))
    }
}

/// Reads the trust domain that a root names: one URI `spiffe://<domain>`. Source: X.509-SVID §3.2.
pub(crate) fn trust_domain_of_root(der: &CertificateDer<'_>) -> Result<Option<String>, IdentityError> {
    let certificate = parse(der)?;
    let uris = uri_names(&certificate)?;
    let [uri] = uris[..] else { return Ok(None) };
    Ok(uri.strip_prefix("spiffe://").map(|rest| rest.trim_end_matches('/').to_owned()))
}

/// Reads when a certificate's time ends.
pub(crate) fn not_after(der: &CertificateDer<'_>) -> Result<SystemTime, IdentityError> {
    Ok(time(parse(der)?.validity().not_after.timestamp()))
}

pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(IdentityError::Certificate("bytes follow it".to_owned())),
        Err(error) => Err(IdentityError::Certificate(error.to_string())),
    }
}

fn uri_names<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, IdentityError> {
    let Some(names) = certificate.subject_alternative_name().map_err(malformed)? else {
        return Ok(Vec::new());
    };
    let uri = |name: &'a GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    };
    Ok(names.value.general_names.iter().filter_map(uri).collect())
}

fn malformed(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Certificate(error.to_string())
}

/// Seconds since 1970; what lies before counts as 1970, what no clock can hold as the end of time we know.
fn time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}
