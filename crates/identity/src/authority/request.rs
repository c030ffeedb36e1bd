//! Certificate signing requests: what is taken from them is the public key, and proof that the asker has the
//! private one. Source: RFC 2986.

use std::fmt::Write as _;

use meshwork_model::spiffe::SpiffeId;
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest as _, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo as ParsedKey;

use crate::{IdentityError, Key};

/// Far more than a request with the largest accepted key needs.
const MAX_BYTES: usize = 16 * 1024;
/// Below it RSA is weak. Source: NIST SP 800-57.
const MIN_RSA_BITS: usize = 2048;
/// Above it a handshake costs its verifier too much.
const MAX_RSA_BITS: usize = 8192;

/// Takes the public key out of a request that is well made and names nobody but `id`.
pub(super) fn public_key(csr_pem: &str, id: &SpiffeId) -> Result<SubjectPublicKeyInfo, IdentityError> {
    with_request(csr_pem, |request| {
        check_names(request, id)?;
        let key = &request.certification_request_info.subject_pki;
        check_key(key)?;
        SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| refused("its key is of an unknown kind"))
    })
}

/// Names the key of a request: the SHA-256 of its public key, lowercase hexadecimal.
///
/// Two requests of one key differ in their signature, so this, not their text, tells that the same workload asks again.
///
/// # Errors
/// The request does not parse, or its signature is not by its key.
pub fn request_key_fingerprint(csr_pem: &str) -> Result<String, IdentityError> {
    with_request(csr_pem, |request| {
        let digest = Sha256::digest(request.certification_request_info.subject_pki.raw);
        Ok(digest.iter().fold(String::new(), |mut text, byte| {
            // Writing into a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        }))
    })
}

/// Parses a request and checks that it is signed by its own key.
fn with_request<T>(
    csr_pem: &str,
    act: impl FnOnce(&X509CertificationRequest<'_>) -> Result<T, IdentityError>,
) -> Result<T, IdentityError> {
    if csr_pem.len() > MAX_BYTES {
        return Err(refused("it is larger than 16 KiB"));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|_| IdentityError::Pem { expected: "certificate request" })?;
    let Ok(([], request)) = X509CertificationRequest::from_der(&der) else {
        return Err(refused("it does not parse"));
    };
    check_signature(&request)?;
    act(&request)
}

fn check_signature(request: &X509CertificationRequest<'_>) -> Result<(), IdentityError> {
    let algorithm = &request.signature_algorithm.algorithm;
    if [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(algorithm) {
        return Err(refused("it is signed with a broken hash"));
    }
    request.verify_signature().map_err(|_| refused("its signature is not by its key"))
}

fn check_names(request: &X509CertificationRequest<'_>, id: &SpiffeId) -> Result<(), IdentityError> {
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) if *uri != id.as_str() => {
                    return Err(IdentityError::Request(format!(
                        "it asks for {}, but the asker is {id}",
                        uri.escape_default()
                    )));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn check_key(key: &ParsedKey<'_>) -> Result<(), IdentityError> {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|found| found.as_oid().ok());
        return match curve {
            Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
            _ => Err(refused("its key is on another curve than P-256 and P-384")),
        };
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let bits = key.parsed().map_or(0, |parsed| parsed.key_size());
        return match bits {
            MIN_RSA_BITS..=MAX_RSA_BITS => Ok(()),
            _ => Err(IdentityError::Request(format!(
                "its RSA key has {bits} bits, allowed are {MIN_RSA_BITS} to {MAX_RSA_BITS}"
            ))),
        };
    }
    if *algorithm == OID_SIG_ED25519 { Ok(()) } else { Err(refused("its key is of an unknown kind")) }
}

/// Tells whether a certificate holds the public half of a key.
pub(super) fn is_key_of(key: &Key, certificate: &CertificateDer<'_>) -> Result<bool, IdentityError> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate)
        .map_err(|error| IdentityError::Certificate(error.to_string()))?;
    let public: &[u8] = &certificate.public_key().subject_public_key.data;
    key.with_pair(|pair| Ok(pair.public_key_raw() == public))
}

fn refused(why: &str) -> IdentityError {
    IdentityError::Request(why.to_owned())
}
