//! X.509-SVIDs: the checks that make a certificate one, and the pair of a chain and its key.
//!
//! Source: SPIFFE X.509-SVID §2 to §5. Whether a chain leads to a trusted root is decided by [`crate::Trust`].

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_model::spiffe::SpiffeId;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use crate::{Bundle, IdentityError, Key, Trust, pem};

/// Below it RSA is weak, above it a handshake costs its verifier too much. Source: NIST SP 800-57.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;
const SCHEME: &str = "spiffe:";
/// The tag of a URI among alternative names. Source: RFC 5280 §4.2.1.6.
const URI_TAG: Tag = Tag(6);

/// A workload's certificate chain with its private key.
pub struct Svid {
    facts: Facts,
    certified: Arc<CertifiedKey>,
    key: Key,
}

/// What a workload's certificate says.
pub(crate) struct Facts {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Lowercase hexadecimal without leading zeros.
    pub(crate) serial: String,
}

/// What a certificate that stands between a workload's and a root says.
pub(crate) struct Signer {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) serial: String,
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

    /// Lends the key as PKCS #8, DER.
    pub(crate) fn key_der(&self) -> &[u8] {
        self.key.pkcs8()
    }

    /// Checks that the chain leads to a root of the bundle now, and that the identity is of its trust domain.
    ///
    /// # Errors
    /// Not signed under the bundle, expired or not yet valid, or of another trust domain.
    pub fn check_under(&self, bundle: &Bundle) -> Result<(), IdentityError> {
        check_trust_domain(&self.facts.id, bundle)?;
        Trust::new(bundle.clone()).judge(self.chain(), SystemTime::now()).map(drop)
    }

    /// The chain, DER, the workload's certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
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

fn check_trust_domain(id: &SpiffeId, bundle: &Bundle) -> Result<(), IdentityError> {
    if id.trust_domain() == bundle.trust_domain() {
        return Ok(());
    }
    Err(IdentityError::TrustDomain { id: id.to_string(), trust_domain: bundle.trust_domain().to_owned() })
}

impl Facts {
    /// Reads a certificate and checks all that makes it a workload's X.509-SVID.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let certificate = parse(der)?;
        check_leaf(&certificate)?;
        check_key(certificate.public_key())?;
        let uris = uri_names(&certificate)?;
        let [uri] = uris[..] else { return Err(IdentityError::UriNames(uris.len())) };
        let uri = uri.ok_or(IdentityError::UriBytes)?;
        let id = SpiffeId::parse(uri)
            .map_err(|cause| IdentityError::SpiffeId { uri: uri.escape_default().to_string(), cause })?;
        let validity = certificate.validity();
        Ok(Self {
            id,
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
            serial: serial(&certificate),
        })
    }
}

impl Signer {
    /// Reads a certificate that stands behind a workload's and checks that it may sign for a trust domain. That it has
    /// signed what it should, and how deep below it others may sign, is webpki's business.
    ///
    /// Source: X.509-SVID §3.2, §4.1, §4.3.
    pub(crate) fn read(der: &CertificateDer<'_>, trust_domain: &str) -> Result<Self, IdentityError> {
        let certificate = parse(der)?;
        if !is_authority(&certificate)? {
            return Err(IdentityError::Signer("is not an authority's"));
        }
        for uri in uri_names(&certificate)? {
            let uri = uri.ok_or(IdentityError::UriBytes)?;
            let is_spiffe = uri.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME));
            // With a slash behind it the path is as empty: so SPIFFE's own examples write it.
            let named = uri.strip_prefix("spiffe://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
            if is_spiffe && named != Some(trust_domain) {
                return Err(IdentityError::Signer("names another trust domain, or a workload"));
            }
        }
        let validity = certificate.validity();
        Ok(Self {
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
            serial: serial(&certificate),
        })
    }
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    format!("{:x}", certificate.tbs_certificate.serial)
}

/// Reads a certificate's serial number, lowercase hexadecimal without leading zeros.
pub(crate) fn serial_of(der: &CertificateDer<'_>) -> Result<String, IdentityError> {
    parse(der).map(|certificate| serial(&certificate))
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

/// A handshake would refuse a weak key by its signature; here it is refused whoever judges, and said why.
fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), IdentityError> {
    match key.parsed().map_err(malformed)? {
        PublicKey::EC(_) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|found| found.as_oid().ok());
            let known = [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521];
            if curve.is_some_and(|curve| known.contains(&curve)) {
                return Ok(());
            }
            Err(IdentityError::WeakKey("on another curve".to_owned()))
        }
        PublicKey::RSA(key) if RSA_BITS.contains(&key.key_size()) => Ok(()),
        PublicKey::RSA(key) => Err(IdentityError::WeakKey(format!("RSA of {} bits", key.key_size()))),
        _ if key.algorithm.algorithm == OID_SIG_ED25519 => Ok(()),
        _ => Err(IdentityError::WeakKey("of an unknown kind".to_owned())),
    }
}

/// Checks that a certificate may sign others.
pub(crate) fn check_authority(der: &CertificateDer<'_>) -> Result<(), IdentityError> {
    if is_authority(&parse(der)?)? {
        return Ok(());
    }
    Err(IdentityError::Bundle("a certificate in it is not an authority's"))
}

/// Whether a certificate may sign others. Source: X.509-SVID §4.1, §4.3.
fn is_authority(certificate: &X509Certificate<'_>) -> Result<bool, IdentityError> {
    let constraints = certificate.basic_constraints().map_err(malformed)?;
    let usage = certificate.key_usage().map_err(malformed)?;
    // Those of some foreign authorities have no key usage; where it stands it must allow signing.
    let may_sign = usage.is_none_or(|found| found.value.key_cert_sign());
    Ok(may_sign && constraints.is_some_and(|found| found.value.ca))
}

/// Reads the trust domain that a root names: one URI `spiffe://<domain>`. Source: X.509-SVID §3.2.
pub(crate) fn trust_domain_of_root(der: &CertificateDer<'_>) -> Result<Option<String>, IdentityError> {
    let certificate = parse(der)?;
    let uris = uri_names(&certificate)?;
    let [Some(uri)] = uris[..] else { return Ok(None) };
    Ok(uri.strip_prefix("spiffe://").map(|rest| rest.trim_end_matches('/').to_owned()))
}

/// Reads when a certificate's time begins.
pub(crate) fn not_before(der: &CertificateDer<'_>) -> Result<SystemTime, IdentityError> {
    Ok(time(parse(der)?.validity().not_before.timestamp()))
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

/// The URIs among the alternative names; `None` for one that is no text, which counts all the same.
fn uri_names<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<Option<&'a str>>, IdentityError> {
    let Some(names) = certificate.subject_alternative_name().map_err(malformed)? else {
        return Ok(Vec::new());
    };
    let uri = |name: &'a GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some(Some(*uri)),
        GeneralName::Invalid(tag, _) if *tag == URI_TAG => Some(None),
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
