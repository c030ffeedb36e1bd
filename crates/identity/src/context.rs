//! TLS as config asks for it, beside the mesh's own: certificates of any kind, judged by any authority.
//!
//! What is made here never changes: who gets a new certificate makes a new configuration, and with it begin new
//! sessions. Chains are webpki's business; names, hashes and leniency are judged here, with Envoy's meaning.
//!
//! Source: Envoy `extensions.transport_sockets.tls.v3`; its default certificate validator.

mod judge;
mod select;

use std::sync::Arc;

use meshwork_model::proxy::{
    CipherSuite, ClientContext, Group, ServerContext, TlsContext, TlsVersion, ValidationContext,
};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;

use crate::source::provider;
use crate::svid::parse;
use crate::{CertificateFacts, IdentityError, pem};
use judge::Judge;
use select::{Only, Several};

/// One ticket: a client that opens connections gets a fresh one on each.
const TICKETS: usize = 1;

/// A certificate chain with its key, ready for handshakes. It shows what it certifies, never the key.
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    facts: CertificateFacts,
    /// The hosts that it is for: its DNS names, or its common names where it has none.
    hosts: Vec<String>,
}

/// What a peer's certificate is judged by, ready for handshakes.
pub struct Trust {
    judge: Arc<Judge>,
    authorities: Vec<CertificateFacts>,
}

impl Certificate {
    /// Reads a chain, the certificate itself first, and its key (PKCS #8, PKCS #1 or SEC 1; RSA or ECDSA or Ed25519).
    ///
    /// # Errors
    /// Either does not parse, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = certificates(chain)?;
        let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
        let facts = facts(leaf)?;
        let mut hosts = facts.dns_names.clone();
        if hosts.is_empty() {
            let names = parse(leaf)?;
            let names = names.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            hosts.extend(names.map(ToOwned::to_owned));
        }
        let signing = signing_key(key).ok_or(IdentityError::AnyKey)?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| IdentityError::KeyMismatch)?;
        Ok(Self { certified: Arc::new(certified), facts, hosts })
    }

    /// What the certificate says.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }
}

impl Trust {
    /// Reads the authorities, where there are any, and takes the rules as they are.
    ///
    /// # Errors
    /// The authorities do not parse; names are asked for, and no authority vouches for them.
    pub fn new(rules: &ValidationContext, authorities: Option<&[u8]>) -> Result<Self, IdentityError> {
        let authorities = authorities.map(certificates).transpose()?;
        if authorities.is_none() && !rules.names.is_empty() {
            return Err(IdentityError::Bundle("names are asked for where no authority is trusted"));
        }
        let read = authorities.iter().flatten().map(facts).collect::<Result<_, _>>()?;
        Ok(Self { judge: Arc::new(Judge::new(rules.clone(), authorities)?), authorities: read })
    }

    /// Whether who passes has proved who it is.
    pub fn proves(&self) -> bool {
        self.judge.proves()
    }

    /// Whether it judges anything at all.
    pub fn judges(&self) -> bool {
        self.judge.judges()
    }

    /// What the authorities' certificates say.
    pub fn authorities(&self) -> &[CertificateFacts] {
        &self.authorities
    }
}

fn signing_key(text: &[u8]) -> Option<Arc<dyn SigningKey>> {
    pem::with_private_key(text, |key| rustls::crypto::aws_lc_rs::sign::any_supported_type(key).ok())
}

fn facts(certificate: &CertificateDer<'_>) -> Result<CertificateFacts, IdentityError> {
    let none = || IdentityError::Certificate("it is none".to_owned());
    CertificateFacts::read(certificate).ok_or_else(none)
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = std::str::from_utf8(text).map_err(|_| IdentityError::Pem { expected: "certificate" })?;
    pem::certificates(text)
}

/// A server's configuration.
///
/// # Errors
/// There is no certificate, or the library refuses the combination of versions, suites and groups.
pub fn server_config(
    context: &ServerContext,
    certificates: Vec<Arc<Certificate>>,
    trust: Option<&Trust>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    if certificates.is_empty() {
        return Err(IdentityError::NoCertificate);
    }
    let asks = context.require_client_certificate || trust.is_some_and(|trust| trust.judge.judges());
    let verifier = match (asks, trust) {
        (false, _) => WebPkiClientVerifier::no_client_auth(),
        (true, trust) => {
            let judge =
                trust.map_or_else(|| Ok(Arc::new(Judge::nobody()?)), |trust| Ok(Arc::clone(&trust.judge)));
            let judge: Result<_, IdentityError> = judge;
            Arc::new(judge::OfClients::new(
                judge?,
                context.require_client_certificate,
                context.tell_authorities,
            ))
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider_for(&context.common))
        .with_protocol_versions(&versions(&context.common))
        .map_err(refused)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Several::new(certificates, context.scan_all_certificates)));
    config.alpn_protocols = protocols(&context.common);
    // Source: Envoy's servers prefer their own order.
    config.ignore_client_order = true;
    let (sessions, tickets) = context.resumes;
    config.send_tls13_tickets = if tickets { TICKETS } else { 0 };
    if !sessions {
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(Arc::new(config))
}

/// A client's configuration. Without rules that judge anything, every server is taken, as config says.
///
/// # Errors
/// The library refuses the combination of versions, suites and groups.
pub fn client_config(
    context: &ClientContext,
    certificate: Option<Arc<Certificate>>,
    trust: Option<&Trust>,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let judge = trust.map(|trust| Arc::clone(&trust.judge)).filter(|judge| judge.judges());
    let builder = ClientConfig::builder_with_provider(provider_for(&context.common))
        .with_protocol_versions(&versions(&context.common))
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge::OfServers::new(judge, context.validates_sni)));
    let mut config = match certificate {
        Some(certificate) => builder.with_client_cert_resolver(Arc::new(Only(certificate))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols(&context.common);
    Ok(Arc::new(config))
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` gives it")]
fn refused(error: rustls::Error) -> IdentityError {
    IdentityError::Crypto(error.to_string())
}

fn protocols(context: &TlsContext) -> Vec<Vec<u8>> {
    context.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
}

fn versions(context: &TlsContext) -> Vec<&'static SupportedProtocolVersion> {
    let (oldest, newest) = context.versions;
    let all = [(TlsVersion::Tls13, &rustls::version::TLS13), (TlsVersion::Tls12, &rustls::version::TLS12)];
    let wanted = all.into_iter().filter(|(version, _)| (oldest..=newest).contains(version));
    wanted.map(|(_, version)| version).collect()
}

/// The provider with no more suites and groups than config allows; those of TLS 1.3 are not its business.
fn provider_for(context: &TlsContext) -> Arc<CryptoProvider> {
    if context.cipher_suites.is_empty() && context.groups.is_empty() {
        return provider();
    }
    let mut narrow = CryptoProvider::clone(&provider());
    if !context.cipher_suites.is_empty() {
        narrow.cipher_suites.retain(|suite| matches!(suite, SupportedCipherSuite::Tls13(_)));
        narrow.cipher_suites.extend(context.cipher_suites.iter().map(|suite| cipher_suite_of(*suite)));
    }
    if !context.groups.is_empty() {
        narrow.kx_groups = context.groups.iter().map(|group| group_of(*group)).collect();
    }
    Arc::new(narrow)
}

fn cipher_suite_of(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::EcdsaAes128 => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::RsaAes128 => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdsaAes256 => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::RsaAes256 => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdsaChaCha20 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::RsaChaCha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn group_of(group: Group) -> &'static dyn rustls::crypto::SupportedKxGroup {
    match group {
        Group::X25519 => kx_group::X25519,
        Group::P256 => kx_group::SECP256R1,
        Group::P384 => kx_group::SECP384R1,
        Group::X25519MlKem768 => kx_group::X25519MLKEM768,
    }
}

#[cfg(test)]
mod tests;
