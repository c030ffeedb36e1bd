//! Certificate signing requests: what is taken from them is the public key, and proof that the asker has the
//! private one. What a request asks for beyond that must not contradict what it will get, or it is refused: who sends
//! it is mistaken, or means no good. Its subject is nobody's business.
//!
//! Source: RFC 2986; RFC 5280 §4.2 for what is asked for; RFC 7468 §7 for its text.

use std::net::IpAddr;

use meshwork_model::spiffe::SpiffeId;
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest as _, Sha256};
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_SIG_ED25519,
};
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::x509::SubjectPublicKeyInfo as ParsedKey;

use super::AlternativeName;
use super::signer::parts;
use crate::{IdentityError, Key};

/// Far more than a request with the largest accepted key needs.
const MAX_BYTES: usize = 16 * 1024;
/// Below it RSA is weak. Source: NIST SP 800-57.
pub(super) const MIN_RSA_BITS: usize = 2048;
/// Above it a handshake costs its verifier too much.
const MAX_RSA_BITS: usize = 8192;
/// A small public exponent is weak, a large one is slow. Source: FIPS 186-5 §A.1.1; what verifiers take.
const RSA_EXPONENTS: std::ops::Range<u64> = 65_537..1 << 33;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END CERTIFICATE REQUEST-----";

/// Takes the public key out of a request that is well made and asks for nothing but what it gets.
pub(super) fn public_key(
    csr_pem: &str,
    id: &SpiffeId,
    extra: &[AlternativeName],
) -> Result<SubjectPublicKeyInfo, IdentityError> {
    with_request(csr_pem, |request| {
        check_wishes(request, id, extra)?;
        let key = &request.certification_request_info.subject_pki;
        SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| refused("its key is of an unknown kind"))
    })
}

/// Names the key of a request: the SHA-256 of its public key, lowercase hexadecimal.
///
/// Two requests of one key differ in their signature, so this, not their text, tells that the same workload asks again.
///
/// # Errors
/// The request does not parse, its key is weak, or its signature is not by its key.
pub fn request_key_fingerprint(csr_pem: &str) -> Result<String, IdentityError> {
    with_request(csr_pem, |request| {
        Ok(super::hex(&Sha256::digest(request.certification_request_info.subject_pki.raw)))
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
    check_text(csr_pem)?;
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|_| IdentityError::Pem { expected: "certificate request" })?;
    check_form(&der)?;
    let Ok(([], request)) =
        <X509CertificationRequest<'_> as x509_parser::prelude::FromDer<'_, _>>::from_der(&der)
    else {
        return Err(refused("it does not parse"));
    };
    // The key first: a huge one costs too much to verify by.
    check_key(&request.certification_request_info.subject_pki)?;
    check_signature(&request)?;
    act(&request)
}

/// One section and nothing behind it: two requests in a text would be judged and signed apart.
fn check_text(csr_pem: &str) -> Result<(), IdentityError> {
    if csr_pem.matches(BEGIN).count() > 1 {
        return Err(refused("its text has several PEM sections; send one request at a time"));
    }
    match csr_pem.split_once(END) {
        Some((_, rest)) if !rest.trim_ascii().is_empty() => Err(refused("something follows it in its text")),
        _ => Ok(()),
    }
}

/// Looks for what a lenient parser steps over, and a signature does not cover: other tags, bytes behind the parts of the
/// whole, and behind those of what is signed.
fn check_form(der: &[u8]) -> Result<(), IdentityError> {
    const SEQUENCE: Option<&u8> = Some(&0x30);
    const OBJECT_ID: Option<&u8> = Some(&0x06);
    /// A bit string; after its tag and length comes the number of bits that are left over.
    const BITS: Option<&u8> = Some(&0x03);
    let malformed = || refused("it does not parse");
    let whole = parts(der).ok_or_else(malformed)?;
    let [signed, algorithm, signature] = whole[..] else { return Err(malformed()) };
    let names = parts(algorithm).ok_or_else(malformed)?;
    let bits = only(signature).ok_or_else(malformed)?;
    let tags = [der.first(), signed.first(), algorithm.first()];
    let is_good = only(der).is_some()
        && tags == [SEQUENCE; 3]
        && names.first().and_then(|name| name.first()) == OBJECT_ID
        && signature.first() == BITS
        && bits.data.first() == Some(&0)
        // Some leave out the attributes where there are none.
        && matches!(parts(signed).ok_or_else(malformed)?.len(), 3 | 4);
    if is_good { Ok(()) } else { Err(malformed()) }
}

/// The one DER value that bytes are.
fn only(der: &[u8]) -> Option<Any<'_>> {
    match Any::from_der(der) {
        Ok(([], value)) => Some(value),
        _ => None,
    }
}

fn check_signature(request: &X509CertificationRequest<'_>) -> Result<(), IdentityError> {
    let algorithm = &request.signature_algorithm.algorithm;
    if [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(algorithm) {
        return Err(refused("it is signed with a broken hash"));
    }
    request.verify_signature().map_err(|_| refused("its signature is not by its key"))
}

/// Checks everything that a request asks for.
fn check_wishes(
    request: &X509CertificationRequest<'_>,
    id: &SpiffeId,
    extra: &[AlternativeName],
) -> Result<(), IdentityError> {
    if request.certification_request_info.version.0 != 0 {
        return Err(refused("it is of an unknown version"));
    }
    let mut seen = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else { continue };
        let values = parts(attribute.value).map_or(0, |values| values.len());
        if values != 1 {
            return Err(refused("it does not parse"));
        }
        for extension in &asked.extensions {
            if seen.contains(&extension.oid) {
                return Err(refused("it asks for an extension twice"));
            }
            seen.push(extension.oid.clone());
            check_extension(extension, id, extra)?;
        }
    }
    Ok(())
}

fn check_extension(
    extension: &X509Extension<'_>,
    id: &SpiffeId,
    extra: &[AlternativeName],
) -> Result<(), IdentityError> {
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => {
            names.general_names.iter().try_for_each(|name| check_name(name, id, extra))
        }
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
            Err(refused("it asks to be a certificate authority"))
        }
        ParsedExtension::KeyUsage(usage) => check_usage(*usage),
        ParsedExtension::ExtendedKeyUsage(usage) => check_extended_usage(usage),
        // The certificate has its own, which is of the same key.
        ParsedExtension::BasicConstraints(_) | ParsedExtension::SubjectKeyIdentifier(_) => Ok(()),
        ParsedExtension::ParseError { .. } => Err(refused("it does not parse")),
        _ => Err(IdentityError::Request(format!(
            "it asks for the extension {}, which is not given",
            extension.oid.to_id_string()
        ))),
    }
}

fn check_name(name: &GeneralName<'_>, id: &SpiffeId, extra: &[AlternativeName]) -> Result<(), IdentityError> {
    let other = |what: String| {
        IdentityError::Request(format!("it asks for {what}, but the asker is {id}, and gets no other name"))
    };
    match name {
        GeneralName::URI(uri) if *uri == id.as_str() => Ok(()),
        GeneralName::URI(uri) => Err(other(uri.escape_default().to_string())),
        GeneralName::DNSName(name) if extra.contains(&AlternativeName::Dns((*name).to_owned())) => Ok(()),
        GeneralName::DNSName(name) => Err(other(format!("the host name {}", name.escape_default()))),
        GeneralName::IPAddress(bytes) => match address(bytes) {
            Some(address) if extra.contains(&AlternativeName::Ip(address)) => Ok(()),
            Some(address) => Err(other(format!("the address {address}"))),
            None => Err(refused("it does not parse")),
        },
        _ => Err(other("a name of another kind than a URI".to_owned())),
    }
}

/// What a key may be asked to be for: TLS 1.3 signs, and older TLS agreed on keys, too.
fn check_usage(usage: KeyUsage) -> Result<(), IdentityError> {
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(refused("it asks to sign certificates or revocation lists (keyCertSign, cRLSign)"));
    }
    if usage.non_repudiation() || usage.data_encipherment() || usage.encipher_only() || usage.decipher_only()
    {
        return Err(refused("it asks for another key usage than those of TLS"));
    }
    Ok(())
}

fn check_extended_usage(usage: &ExtendedKeyUsage<'_>) -> Result<(), IdentityError> {
    let others = usage.any
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    if others {
        return Err(refused("it asks for another extended key usage than serverAuth and clientAuth"));
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
        return match key.parsed() {
            Ok(PublicKey::RSA(key)) => check_rsa(&key),
            _ => Err(refused("its key does not parse")),
        };
    }
    if *algorithm == OID_SIG_ED25519 { Ok(()) } else { Err(refused("its key is of an unknown kind")) }
}

fn check_rsa(key: &RSAPublicKey<'_>) -> Result<(), IdentityError> {
    let modulus: &[u8] = key.modulus;
    let leading = modulus.iter().take_while(|byte| **byte == 0).count();
    let significant = &modulus[leading..];
    let spare = significant.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = significant.len() * 8 - spare;
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(IdentityError::Request(format!(
            "its RSA key has {bits} bits, allowed are {MIN_RSA_BITS} to {MAX_RSA_BITS}"
        )));
    }
    match key.try_exponent() {
        Ok(exponent) if RSA_EXPONENTS.contains(&exponent) && exponent % 2 == 1 => Ok(()),
        _ => Err(refused("its RSA key has a weak or oversized public exponent; 65537 is the usual one")),
    }
}

/// Tells whether a certificate holds the public half of a key.
pub(super) fn is_key_of(key: &Key, certificate: &CertificateDer<'_>) -> Result<bool, IdentityError> {
    let certificate = crate::svid::parse(certificate)?;
    let public: &[u8] = &certificate.public_key().subject_public_key.data;
    key.with_pair(|pair| Ok(pair.public_key_raw() == public))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn refused(why: &str) -> IdentityError {
    IdentityError::Request(why.to_owned())
}
