//! Who is at the other end of a connection, and how they came in.
//!
//! Made once per connection, before its chain takes it, and read by policy, logs and header fields. What costs
//! something, such as what a certificate says, is found out when somebody asks for the first time.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use meshwork_identity::CertificateFacts;
use meshwork_model::policy::{Facts, Names};
use meshwork_model::proxy::Direction;
use meshwork_model::spiffe::SpiffeId;
use meshwork_telemetry::OpenFrom;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{CipherSuite, ProtocolVersion, ServerConnection};

use crate::error::ProxyError;
use crate::http::filters::Tokens;
use crate::standing::{Certificates, Standing};
use crate::upstream::Edges;

/// Who is at the other end, and how they came in.
pub(crate) struct Peer {
    /// Which side of the workload they came to.
    pub(crate) direction: Direction,
    /// On whose behalf the connection was opened: what its opener said by the PROXY protocol, or the opener.
    pub(crate) address: SocketAddr,
    /// Who opened the connection.
    pub(crate) direct: SocketAddr,
    /// The address that they came to: what the opener said, where the connection was redirected from, or the socket's.
    pub(crate) local: SocketAddr,
    /// The port that they meant to connect to.
    pub(crate) port: u16,
    /// The address that they meant to connect to, where they were redirected; it was looked at.
    pub(crate) meant_for: Option<SocketAddr>,
    /// The identity that they proved.
    pub(crate) id: Option<SpiffeId>,
    /// Whether the connection is encrypted.
    pub(crate) is_tls: bool,
    /// The server name that they asked for, in lowercase, also where TLS is passed through.
    pub(crate) server_name: Option<Box<str>>,
    /// What TLS agreed on, where it ends here.
    pub(crate) tls: Option<Box<PeerTls>>,
    /// How they stand, where the mesh's trust judges them.
    pub(crate) standing: Option<Rc<Standing>>,
    /// The counter of what comes from them, at a workload's inbound side.
    pub(crate) taken: Option<OpenFrom>,
    /// The connection's number, among those of its worker.
    pub(crate) number: u64,
    /// Edges from them, by protocol.
    pub(crate) edges: Edges,
    /// Tokens of the connection's own, where a rate limit asks for that.
    pub(crate) tokens: OnceCell<Arc<Tokens>>,
}

/// What a finished handshake agreed on.
pub(crate) struct PeerTls {
    /// The version, as `TLSv1.3`.
    pub(crate) version: &'static str,
    /// The cipher suite, by OpenSSL's name.
    pub(crate) cipher: &'static str,
    /// The certificates that the peer showed, its own first; none where none was asked for.
    pub(crate) certificates: Certificates,
    /// Whether who shows one has proved who they are; config may let in those who have not.
    proves: bool,
    facts: OnceCell<Option<Box<CertificateFacts>>>,
}

impl Peer {
    /// What rules look at.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            peer: self.id.as_ref(),
            names: self.proven().map(names),
            destination: Some(self.local.ip()),
            destination_port: self.port,
            direct: Some(self.direct.ip()),
            source: Some(self.address.ip()),
            remote: Some(self.address.ip()),
            server_name: self.server_name.as_deref(),
            metadata: None,
            head: None,
        }
    }

    /// Whether they may ask for something: trust has not changed since they proved who they are, or not for them.
    ///
    /// # Errors
    /// They are revoked, or not trusted any more.
    pub(crate) fn admit(&self) -> Result<(), ProxyError> {
        self.standing.as_ref().map_or(Ok(()), |standing| standing.admit())
    }

    /// Whether they were cut off, since they are not trusted any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.standing.as_ref().is_some_and(|standing| standing.is_cut())
    }

    /// What the certificate says by which the peer proved who they are.
    pub(crate) fn proven(&self) -> Option<&CertificateFacts> {
        self.tls.as_ref().filter(|tls| tls.proves)?.certificate()
    }

    /// What the certificate that the peer showed says, be it true or not.
    pub(crate) fn certificate(&self) -> Option<&CertificateFacts> {
        self.tls.as_ref()?.certificate()
    }

    /// The certificates that the peer showed, its own first.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.as_ref().map_or(&[], |tls| &tls.certificates)
    }

    /// A peer of tests, who came to this side.
    #[cfg(test)]
    pub(crate) fn sample(direction: Direction) -> Self {
        let (theirs, ours) = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 80).into());
        Self {
            direction,
            address: theirs,
            direct: theirs,
            local: ours,
            port: 80,
            meant_for: None,
            id: None,
            is_tls: false,
            server_name: None,
            tls: None,
            standing: None,
            taken: None,
            number: 1,
            edges: Edges::default(),
            tokens: OnceCell::new(),
        }
    }
}

fn names(facts: &CertificateFacts) -> Names<'_> {
    Names { uris: &facts.uris, dns_names: &facts.dns_names, subject: &facts.subject }
}

impl PeerTls {
    /// What a finished handshake agreed on; `proves` is whether certificates were verified.
    pub(crate) fn of(session: &ServerConnection, standing: Option<&Standing>, proves: bool) -> Self {
        let shown = || session.peer_certificates().unwrap_or_default().into();
        Self {
            version: session.protocol_version().map_or("", version),
            cipher: session.negotiated_cipher_suite().map_or("", |suite| cipher(suite.suite())),
            certificates: standing
                .map_or_else(shown, |standing| Certificates::clone(standing.certificates())),
            proves,
            facts: OnceCell::new(),
        }
    }

    fn certificate(&self) -> Option<&CertificateFacts> {
        let read = || self.certificates.first().and_then(CertificateFacts::read).map(Box::new);
        self.facts.get_or_init(read).as_deref()
    }
}

fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        other => other.as_str().unwrap_or(""),
    }
}

/// Source: OpenSSL, `ciphers -stdname`.
fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        other => other.as_str().unwrap_or(""),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshwork_identity::CertificateAuthority;

    use super::*;

    #[test]
    fn a_certificate_that_nobody_verified_names_nobody() {
        let directory = tempfile::tempdir().expect("a directory");
        let authority =
            CertificateAuthority::open_or_create(directory.path(), "mesh.local").expect("an authority");
        let id = SpiffeId::workload("mesh.local", "shop", "cart").expect("valid");
        let svid = authority.issue(&id, Duration::from_hours(1), &[]).expect("signed");
        for proves in [true, false] {
            let certificates = svid.chain().into();
            let tls = PeerTls { version: "", cipher: "", certificates, proves, facts: OnceCell::new() };
            let peer = Peer { tls: Some(Box::new(tls)), ..Peer::sample(Direction::Inbound) };
            assert!(peer.certificate().is_some());
            assert_eq!((peer.proven().is_some(), peer.facts().names.is_some()), (proves, proves));
        }
    }
}
