//! A secret as what it is, and as Envoy's message.

use bytes::Bytes;
use meshwork_model::proxy::Kind;
use prost::{Message as _, Name as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::pb::core::data_source::Specifier;
use crate::pb::core::{DataSource, TypedExtensionConfig};
use crate::pb::tls::spiffe_cert_validator_config::TrustDomain;
use crate::pb::tls::{
    CertificateValidationContext, GenericSecret, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
};
use crate::pb::{self, Any};
use crate::resource::type_url;

/// Envoy's validator that judges each peer by the roots of its own trust domain.
const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
/// How much of the hash is a version: enough that no two contents ever meet.
const VERSION_BYTES: usize = 16;

/// A secret. It may hold a private key: neither `Debug` nor `Clone`.
pub enum SecretValue {
    /// A certificate with its key.
    Certificate {
        /// The leaf and what lies between it and the root, PEM.
        chain_pem: String,
        /// The leaf's private key, PKCS #8 PEM.
        key_pem: Zeroizing<String>,
    },
    /// What peers are judged by.
    Roots {
        /// The trust domain whose roots stand alone where `spiffe` is not set.
        own: String,
        /// Trust domains with their roots as PEM.
        domains: Vec<(String, String)>,
        /// Whether each peer is judged by the roots of its own trust domain, all that are given. Else the roots are those
        /// of `own`, whatever name a peer has.
        spiffe: bool,
    },
    /// Any bytes: trust, registrations.
    Generic(Bytes),
}

impl SecretValue {
    /// The hash of the content, hexadecimal. A key belongs to its chain, and is no part of it.
    pub fn version(&self) -> String {
        let mut digest = Sha256::new();
        let mut add = |part: &[u8]| {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        };
        match self {
            Self::Certificate { chain_pem, .. } => {
                add(b"certificate");
                add(chain_pem.as_bytes());
            }
            Self::Roots { own, domains, spiffe } => {
                add(if *spiffe { b"domains" } else { b"roots" });
                add(own.as_bytes());
                for (domain, roots) in domains {
                    add(domain.as_bytes());
                    add(roots.as_bytes());
                }
            }
            Self::Generic(bytes) => {
                add(b"generic");
                add(bytes);
            }
        }
        hex(&digest.finalize()[..VERSION_BYTES])
    }

    /// Envoy's message.
    pub(super) fn message(&self, name: &str) -> Any {
        let r#type = match self {
            Self::Certificate { chain_pem, key_pem } => secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(inline(chain_pem.as_bytes())),
                private_key: Some(inline(key_pem.as_bytes())),
                ..TlsCertificate::default()
            }),
            Self::Roots { own, domains, spiffe } => secret::Type::ValidationContext(if *spiffe {
                by_domain(domains)
            } else {
                alone(own, domains)
            }),
            Self::Generic(bytes) => secret::Type::GenericSecret(GenericSecret {
                secret: Some(inline(bytes)),
                ..GenericSecret::default()
            }),
        };
        let secret = Secret { name: name.to_owned(), r#type: Some(r#type) };
        Any { type_url: type_url(Kind::Secret).to_owned(), value: secret.encode_to_vec() }
    }
}

fn alone(own: &str, domains: &[(String, String)]) -> CertificateValidationContext {
    let roots = domains.iter().find(|(domain, _)| domain == own).map(|(_, roots)| roots.as_str());
    CertificateValidationContext {
        trusted_ca: Some(inline(roots.unwrap_or_default().as_bytes())),
        ..CertificateValidationContext::default()
    }
}

fn by_domain(domains: &[(String, String)]) -> CertificateValidationContext {
    let domain = |(name, roots): &(String, String)| TrustDomain {
        name: name.clone(),
        trust_bundle: Some(inline(roots.as_bytes())),
        ..TrustDomain::default()
    };
    let config = SpiffeCertValidatorConfig {
        trust_domains: domains.iter().map(domain).collect(),
        ..SpiffeCertValidatorConfig::default()
    };
    CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: SPIFFE_VALIDATOR.to_owned(),
            typed_config: Some(pb::Any {
                type_url: SpiffeCertValidatorConfig::type_url(),
                value: config.encode_to_vec(),
            }),
        }),
        ..CertificateValidationContext::default()
    }
}

fn inline(bytes: &[u8]) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())), ..DataSource::default() }
}

/// Reads a generic secret: its name and its bytes.
///
/// # Errors
/// Why it cannot be read, for a person.
pub(super) fn read_generic(any: &Any) -> Result<(String, Vec<u8>), String> {
    if any.type_url != type_url(Kind::Secret) {
        return Err(format!("{:?} is no secret", any.type_url));
    }
    let secret = Secret::decode(any.value.as_slice()).map_err(|error| error.to_string())?;
    let Some(secret::Type::GenericSecret(generic)) = secret.r#type else {
        return Err(format!("{:?} is no generic secret", secret.name));
    };
    match generic.secret.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => Ok((secret.name, bytes)),
        Some(Specifier::InlineString(text)) => Ok((secret.name, text.into_bytes())),
        _ => Err(format!("{:?} carries nothing", secret.name)),
    }
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}
