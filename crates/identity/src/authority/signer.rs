//! A key that signs certificates in the name of its own certificate, byte for byte.
//!
//! rcgen writes a signer's name anew from its parts. It knows no name with two parts of one kind, which directories of
//! companies have (`DC=com, DC=example`), nor every kind of text; verifiers compare names as they stand. Where the name
//! comes out otherwise, it is put in place, and the certificate is signed again.
//!
//! Source: RFC 5280 §4.1, §4.1.2.4; X.690 §8.1.3, §10.1.

use std::collections::BTreeSet;

use rcgen::{
    CertificateParams, DistinguishedName, Issuer, KeyIdMethod, KeyPair, PublicKeyData, SignatureAlgorithm,
    SigningKey,
};
use rustls_pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use zeroize::Zeroize as _;

use crate::{IdentityError, pem, svid};

/// Where the signer's name stands among the parts of what is signed.
const ISSUER: usize = 3;
const SEQUENCE: u8 = 0x30;
const BITS: u8 = 0x03;

/// A signing key, wiped when dropped.
pub(super) struct Pair(KeyPair);

impl Drop for Pair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for Pair {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(&self.0)
    }
}

impl SigningKey for Pair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl Pair {
    /// Reads a key of any form: PKCS #8, SEC 1 or PKCS #1.
    pub(super) fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let pair = pem::with_private_key(text.as_bytes(), |key| KeyPair::try_from(key).ok());
        pair.map(Self).ok_or(IdentityError::AnyKey)
    }
}

/// What signs.
pub(super) struct Signer {
    issuer: Issuer<'static, Pair>,
    /// The name, DER.
    name: Vec<u8>,
}

impl Signer {
    /// Puts a certificate of an authority and its key together.
    pub(super) fn new(certificate: &CertificateDer<'_>, pair: Pair) -> Result<Self, IdentityError> {
        let read = svid::parse(certificate)?;
        let name = read.subject().as_raw().to_vec();
        if is_plain(&read) {
            return Ok(Self { issuer: Issuer::from_ca_cert_der(certificate, pair)?, name });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(id) = key_id(&read) {
            params.key_identifier_method = KeyIdMethod::PreSpecified(id);
        }
        Ok(Self { issuer: Issuer::new(params, pair), name })
    }

    /// Signs a public key with what is to stand beside it.
    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        public_key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let signed = params.signed_by(public_key, &self.issuer)?.der().clone();
        if svid::parse(&signed)?.issuer().as_raw() == self.name {
            return Ok(signed);
        }
        with_name(&signed, ISSUER, &self.name, self.issuer.key())
    }
}

/// Whether rcgen can write the name.
fn is_plain(certificate: &X509Certificate<'_>) -> bool {
    let mut kinds = BTreeSet::new();
    certificate.subject().iter().all(|part| {
        let mut attributes = part.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else { return false };
        kinds.insert(attribute.attr_type().to_id_string()) && attribute.as_str().is_ok()
    })
}

fn key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

/// The same certificate with another name at a place, signed again.
pub(super) fn with_name(
    certificate: &CertificateDer<'_>,
    place: usize,
    name: &[u8],
    pair: &impl SigningKey,
) -> Result<CertificateDer<'static>, IdentityError> {
    let odd = || IdentityError::Crypto("a certificate that was just signed does not parse".to_owned());
    let whole = parts(certificate).ok_or_else(odd)?;
    let [signed, algorithm, _] = whole[..] else { return Err(odd()) };
    let mut inner = parts(signed).ok_or_else(odd)?;
    *inner.get_mut(place).ok_or_else(odd)? = name;
    let signed = value(SEQUENCE, &inner.concat());
    // In front of a bit string is the number of bits that are left over: none.
    let signature = [vec![0], pair.sign(&signed)?].concat();
    let whole = [signed, algorithm.to_vec(), value(BITS, &signature)].concat();
    Ok(value(SEQUENCE, &whole).into())
}

/// The values within one, DER, each with its tag and length; nothing where there are more than anybody needs.
pub(super) fn parts(der: &[u8]) -> Option<Vec<&[u8]>> {
    const MOST: usize = 64;
    let (_, whole) = Any::from_der(der).ok()?;
    let mut left = whole.data;
    let mut found = Vec::new();
    while !left.is_empty() && found.len() < MOST {
        let (rest, _) = Any::from_der(left).ok()?;
        found.push(&left[..left.len() - rest.len()]);
        left = rest;
    }
    left.is_empty().then_some(found)
}

/// A value of a kind: tag, length in the fewest bytes, content.
fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let begin = length.iter().take_while(|byte| **byte == 0).count();
    let mut value = vec![tag];
    match length[begin..] {
        [] => value.push(0),
        [short] if short < 0x80 => value.push(short),
        ref long => {
            // A length has some bytes, never 128.
            value.push(0x80 | u8::try_from(long.len()).unwrap_or(0));
            value.extend_from_slice(long);
        }
    }
    value.extend_from_slice(content);
    value
}
