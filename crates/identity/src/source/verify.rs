//! The judges of a handshake: who the peer is, and whether that is right. And what we show the peer.
//!
//! What a chain proves is [`crate::Trust`]'s business. Host names play no part: a peer is its SPIFFE ID.

use std::fmt;
use std::sync::Arc;

use meshwork_model::spiffe::SpiffeId;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{IdentitySource, provider};
use crate::bundle::Role;
use crate::{IdentityError, Trust};

/// Whom a verifier believes.
pub(super) enum Believed {
    /// Those of the moment.
    Current(Arc<IdentitySource>),
    /// Always the same.
    Fixed(Trust),
}

/// A client's judge of its server.
pub(super) struct PeerOfClient {
    believed: Believed,
    expected: Vec<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerOfClient {
    pub(super) fn new(believed: Believed, expected: Vec<SpiffeId>) -> Self {
        Self { believed, expected, algorithms: provider().signature_verification_algorithms }
    }

    fn check_expected(&self, found: &SpiffeId) -> Result<(), IdentityError> {
        if self.expected.contains(found) {
            return Ok(());
        }
        let names: Vec<&str> = self.expected.iter().map(SpiffeId::as_str).collect();
        let expected = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
        Err(IdentityError::Unexpected { found: found.to_string(), expected })
    }
}

impl ServerCertVerifier for PeerOfClient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = match &self.believed {
            Believed::Current(source) => source.prove(end_entity, intermediates, now, Role::Server)?,
            Believed::Fixed(trust) => trust.prove(end_entity, intermediates, now, Role::Server)?.id,
        };
        self.check_expected(&found)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A server's judge of its clients: anybody of a trust domain that is believed; what each may do is policy's business.
pub(super) struct PeerOfServer {
    source: Arc<IdentitySource>,
    required: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerOfServer {
    pub(super) fn new(source: Arc<IdentitySource>, required: bool) -> Self {
        Self { source, required, algorithms: provider().signature_verification_algorithms }
    }
}

impl ClientCertVerifier for PeerOfServer {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    /// None: a client has one identity and needs no hint which one to show.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.source.prove(end_entity, intermediates, now, Role::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Shows the SVID of the moment, as a server and as a client.
pub(super) struct CurrentSvid(pub(super) Arc<IdentitySource>);

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().svid.certified())
    }
}

impl ResolvesClientCert for CurrentSvid {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().svid.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

// rustls wants Debug of all of them; what they hold is told in one word each.

impl fmt::Debug for PeerOfClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerOfClient").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl fmt::Debug for PeerOfServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerOfServer").field("required", &self.required).finish_non_exhaustive()
    }
}

impl fmt::Debug for CurrentSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CurrentSvid").field(&self.0.id).finish()
    }
}
