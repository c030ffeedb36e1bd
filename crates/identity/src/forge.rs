//! A forger's workshop for tests: certificates that our own authority would never sign, and handshakes in memory.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_model::spiffe::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType,
};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{Bundle, IdentitySource, Key, Svid, pem};

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// A root under test's control.
pub(crate) struct Forge {
    root: CertificateDer<'static>,
    key: Key,
}

/// A chain with its key that need not be an SVID.
pub(crate) struct Forged {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Key,
}

impl Forge {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let key = Key::generate().expect("a key");
        let mut params = params(&[&format!("spiffe://{trust_domain}")]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = Vec::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "root");
        let root = key.with_pair(|pair| Ok(params.self_signed(pair)?)).expect("signed").der().clone();
        Self { root, key }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::from_pem(&pem::encode_certificates(std::slice::from_ref(&self.root))).expect("a bundle")
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> Forged {
        let key = Key::generate().expect("a key");
        let leaf = self.key.with_pair(|root_pair| {
            let issuer = Issuer::from_ca_cert_der(&self.root, root_pair)?;
            key.with_pair(|pair| Ok(params.signed_by(pair, &issuer)?))
        });
        Forged { chain: vec![leaf.expect("signed").der().clone()], key }
    }

    pub(crate) fn svid(&self, uri: &str) -> Svid {
        let Forged { chain, key } = self.sign(&params(&[uri]));
        Svid::from_pem(&pem::encode_certificates(&chain), key).expect("an SVID")
    }

    pub(crate) fn source(&self, uri: &str) -> Arc<IdentitySource> {
        IdentitySource::new(self.svid(uri), self.bundle()).expect("a source")
    }
}

/// What a good workload's certificate has, with these URIs.
pub(crate) fn params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ASCII"))).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + DAY).into();
    params
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("a SPIFFE ID")
}

/// Both ends of a handshake in memory, each with its own outcome, after a byte has crossed each way where both agree.
pub(crate) struct Met {
    pub(crate) client: io::Result<client::TlsStream<DuplexStream>>,
    pub(crate) server: io::Result<server::TlsStream<DuplexStream>>,
}

pub(crate) async fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Met {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let client = async move {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        // A refusal of our certificate arrives after our own handshake is over; a session ticket, too.
        stream.read_u8().await?;
        Ok(stream)
    };
    let server = async move {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(stream)
    };
    let (client, server) = tokio::join!(client, server);
    Met { client, server }
}
