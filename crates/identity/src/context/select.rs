//! Which of several certificates is shown.

use std::fmt;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::Certificate;

/// A server's certificates, in order.
///
/// Source: Envoy, "Certificate selection": by the server name that the client asks for, exactly and then by wildcard;
/// where none has it, the first, or with a full scan the first that suits the client. Of those that have the name, one
/// with an ECDSA key where the client takes that.
pub(super) struct Several {
    certificates: Vec<Arc<Certificate>>,
    scans_all: bool,
}

impl Several {
    pub(super) fn new(certificates: Vec<Arc<Certificate>>, scans_all: bool) -> Self {
        Self { certificates, scans_all }
    }

    fn with_name(&self, name: Option<&str>) -> Vec<&Arc<Certificate>> {
        let Some(name) = name else { return Vec::new() };
        let with = |is_match: &dyn Fn(&str) -> bool| -> Vec<&Arc<Certificate>> {
            let has = |certificate: &&Arc<Certificate>| certificate.hosts.iter().any(|host| is_match(host));
            self.certificates.iter().filter(has).collect()
        };
        let exact = with(&|host| host.eq_ignore_ascii_case(name));
        if exact.is_empty() { with(&|host| is_wildcard_of(host, name)) } else { exact }
    }
}

/// Only a whole first label is wild here. Source: Envoy, "Certificate selection".
fn is_wildcard_of(pattern: &str, name: &str) -> bool {
    let domain = name.split_once('.').map(|(_, domain)| domain);
    pattern.strip_prefix("*.").is_some_and(|parent| domain.is_some_and(|it| it.eq_ignore_ascii_case(parent)))
}

impl ResolvesServerCert for Several {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut candidates = self.with_name(hello.server_name());
        if candidates.is_empty() {
            let all = if self.scans_all { self.certificates.len() } else { 1 };
            candidates = self.certificates.iter().take(all).collect();
        }
        let suits = |certificate: &&&Arc<Certificate>| {
            certificate.certified.key.choose_scheme(hello.signature_schemes()).is_some()
        };
        let is_ecdsa = |certificate: &&&Arc<Certificate>| {
            certificate.certified.key.algorithm() == SignatureAlgorithm::ECDSA
        };
        let ecdsa = candidates.iter().filter(suits).find(is_ecdsa);
        let chosen = ecdsa.or_else(|| candidates.iter().find(suits)).or(candidates.first());
        chosen.map(|certificate| Arc::clone(&certificate.certified))
    }
}

/// A client's certificate.
pub(super) struct Only(pub(super) Arc<Certificate>);

impl ResolvesClientCert for Only {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let certified = &self.0.certified;
        certified.key.choose_scheme(schemes).is_some().then(|| Arc::clone(certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Several").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Only")
    }
}
