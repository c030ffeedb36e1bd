//! Whether a peer's certificate is good enough for what config asks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{SanKind, SanMatch, StringMatch, ValidationContext};
use meshwork_model::route::matches_text;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

use crate::CertificateFacts;
use crate::IdentityError;
use crate::source::provider;
use crate::svid::parse;

/// The rules, with the authorities ready for use.
pub(super) struct Judge {
    rules: ValidationContext,
    authorities: Option<Authorities>,
    algorithms: WebPkiSupportedAlgorithms,
}

struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    of_clients: Arc<dyn ClientCertVerifier>,
}

/// Which end the peer is.
#[derive(Clone, Copy)]
enum Peer<'a> {
    Client,
    /// With the name that must be in its certificate, where one must.
    Server(Option<&'a str>),
}

impl Judge {
    pub(super) fn new(
        rules: ValidationContext,
        authorities: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<Self, IdentityError> {
        let authorities = authorities.map(Authorities::new).transpose()?;
        Ok(Self { rules, authorities, algorithms: provider().signature_verification_algorithms })
    }

    /// Takes nobody: certificates are demanded, and nothing says which.
    pub(super) fn nobody() -> Result<Self, IdentityError> {
        Self::new(ValidationContext::default(), None)
    }

    /// Whether it judges anything at all.
    pub(super) fn judges(&self) -> bool {
        self.authorities.is_some() || !self.rules.hashes.is_empty() || !self.rules.keys.is_empty()
    }

    /// Whether who passes has proved who it is.
    pub(super) fn proves(&self) -> bool {
        self.judges() && !self.rules.accept_untrusted
    }

    /// Source: Envoy `DefaultCertValidator`: what is not trusted may be taken all the same.
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        peer: Peer<'_>,
    ) -> Result<(), Error> {
        match self.check(leaf, chain, now, peer) {
            Err(_) if self.rules.accept_untrusted => Ok(()),
            outcome => outcome,
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        peer: Peer<'_>,
    ) -> Result<(), Error> {
        let mut is_proven = false;
        if let Some(authorities) = &self.authorities {
            self.check_chain(authorities, leaf, chain, now, peer)?;
            is_proven = true;
        }
        let facts = facts(leaf)?;
        match peer {
            Peer::Server(Some(name)) if !facts.dns_names.iter().any(|pattern| is_name(name, pattern)) => {
                return Err(IdentityError::Names.into());
            }
            Peer::Server(Some(_)) => {}
            _ if self.rules.names.is_empty() => {}
            _ if self.rules.names.iter().any(|wanted| has_name(&facts, wanted)) => {}
            _ => return Err(IdentityError::Names.into()),
        }
        if !self.rules.hashes.is_empty() || !self.rules.keys.is_empty() {
            let hash: [u8; 32] = Sha256::digest(leaf).into();
            if !self.rules.hashes.contains(&hash) && !has_key(&self.rules.keys, leaf)? {
                return Err(IdentityError::Hash.into());
            }
            is_proven = true;
        }
        if is_proven { Ok(()) } else { Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) }
    }

    fn check_chain(
        &self,
        authorities: &Authorities,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        peer: Peer<'_>,
    ) -> Result<(), Error> {
        let outcome = authorities.check(leaf, chain, now, peer, &self.algorithms);
        if !self.rules.allow_expired || !outcome.as_ref().is_err_and(is_about_time) {
            return outcome;
        }
        // When the certificate was new, so was what signed it.
        let begin = facts(leaf)?.not_before;
        let begin = begin.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let then = UnixTime::since_unix_epoch(begin + Duration::from_secs(1));
        authorities.check(leaf, chain, then, peer, &self.algorithms)
    }
}

fn facts(certificate: &CertificateDer<'_>) -> Result<CertificateFacts, Error> {
    CertificateFacts::read(certificate).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn has_key(keys: &[[u8; 32]], leaf: &CertificateDer<'_>) -> Result<bool, Error> {
    let key: [u8; 32] = Sha256::digest(parse(leaf)?.public_key().raw).into();
    Ok(keys.contains(&key))
}

fn is_about_time(error: &Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(
        error,
        Error::InvalidCertificate(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
    )
}

impl Authorities {
    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|error| IdentityError::Certificate(error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let of_clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .build()
            .map_err(|_| IdentityError::Bundle("it has no roots"))?;
        Ok(Self { certificates, roots, of_clients })
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        peer: Peer<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        // A certificate that is trusted itself needs nobody to vouch for it.
        if self.certificates.iter().any(|trusted| trusted == leaf) {
            return within_time(leaf, now);
        }
        match peer {
            Peer::Client => self.of_clients.verify_client_cert(leaf, chain, now).map(drop),
            Peer::Server(_) => {
                let leaf = ParsedCertificate::try_from(leaf)?;
                verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, chain, now, algorithms.all)
            }
        }
    }
}

fn within_time(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let facts = facts(leaf)?;
    let now = std::time::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    if now > facts.not_after {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    if now < facts.not_before {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    Ok(())
}

/// Whether a certificate has a name that is wanted.
fn has_name(facts: &CertificateFacts, wanted: &SanMatch) -> bool {
    let is_kind = |kind| wanted.kind.is_none_or(|wanted| wanted == kind);
    let test = |name: &String| matches_text(&wanted.test, name.as_bytes());
    let dns = |name: &String| match &wanted.test {
        StringMatch::Exact(exact) => is_name(exact, name),
        _ => test(name),
    };
    (is_kind(SanKind::Dns) && facts.dns_names.iter().any(dns))
        || (is_kind(SanKind::Uri) && facts.uris.iter().any(test))
        || (is_kind(SanKind::Email) && facts.emails.iter().any(test))
        || (is_kind(SanKind::IpAddress)
            && facts.addresses.iter().map(ToString::to_string).any(|ip| test(&ip)))
}

/// Whether a name in a certificate stands for a host: equal, or with a `*` for the rest of its first label.
///
/// Source: Envoy `Utility::dnsNameMatch`; RFC 6125 §6.4.3.
pub(super) fn is_name(host: &str, pattern: &str) -> bool {
    if host.eq_ignore_ascii_case(pattern) {
        return true;
    }
    let (Some((label, domain)), Some((wild, parent))) = (host.split_once('.'), pattern.split_once('.'))
    else {
        return false;
    };
    let Some((before, after)) = wild.split_once('*') else { return false };
    let label = label.to_ascii_lowercase();
    // An internationalised label is never taken apart.
    !wild.to_ascii_lowercase().starts_with("xn--")
        && !after.contains('*')
        && domain.eq_ignore_ascii_case(parent)
        && label.len() > before.len() + after.len()
        && label.starts_with(&before.to_ascii_lowercase())
        && label.ends_with(&after.to_ascii_lowercase())
}

/// A server's judge of its clients.
pub(super) struct OfClients {
    judge: Arc<Judge>,
    is_required: bool,
    tells: bool,
}

impl OfClients {
    pub(super) fn new(judge: Arc<Judge>, is_required: bool, tells: bool) -> Self {
        Self { judge, is_required, tells }
    }
}

impl ClientCertVerifier for OfClients {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        let authorities = self.judge.authorities.as_ref().filter(|_| self.tells);
        authorities.map_or(&[][..], |authorities| authorities.of_clients.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge.judge(end_entity, intermediates, now, Peer::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.judge.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.judge.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}

/// A client's judge of its servers; without rules it takes everybody who has the certificate's key.
pub(super) struct OfServers {
    judge: Option<Arc<Judge>>,
    validates_sni: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl OfServers {
    pub(super) fn new(judge: Option<Arc<Judge>>, validates_sni: bool) -> Self {
        Self { judge, validates_sni, algorithms: provider().signature_verification_algorithms }
    }
}

impl ServerCertVerifier for OfServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(judge) = &self.judge {
            let name = server_name.to_str();
            let wanted = self.validates_sni.then_some(&*name);
            judge.judge(end_entity, intermediates, now, Peer::Server(wanted))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

// rustls wants Debug of both; what they hold is told in one word each.

impl fmt::Debug for OfClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfClients").field("is_required", &self.is_required).finish_non_exhaustive()
    }
}

impl fmt::Debug for OfServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfServers").field("judges", &self.judge.is_some()).finish_non_exhaustive()
    }
}
