//! A forger's workshop for tests: certificates that our own authority would never sign, and handshakes in memory.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use meshwork_model::spiffe::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{Bundle, IdentitySource, Key, Svid, Trust, pem};

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// An authority under test's control: a root, or one below.
pub(crate) struct Forge {
    pub(crate) certificate: CertificateDer<'static>,
    params: CertificateParams,
    key: Key,
    /// What stands behind a certificate that it signs: itself and what is above it, without the root.
    behind: Vec<CertificateDer<'static>>,
}

/// A chain with its key that need not be an SVID.
pub(crate) struct Forged {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Key,
}

impl Forge {
    pub(crate) fn new(trust_domain: &str) -> Self {
        Self::root(authority(trust_domain, &format!("{trust_domain} root")))
    }

    pub(crate) fn root(params: CertificateParams) -> Self {
        let key = Key::generate().expect("a key");
        let certificate = key.with_pair(|pair| Ok(params.self_signed(pair)?)).expect("signed").der().clone();
        Self { certificate, params, key, behind: Vec::new() }
    }

    /// An authority below this one, as these say.
    pub(crate) fn below(&self, params: &CertificateParams) -> Self {
        let Forged { chain, key } = self.sign(params);
        Self { certificate: chain[0].clone(), params: params.clone(), key, behind: chain }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let text = pem::encode_certificates(std::slice::from_ref(&self.certificate));
        Bundle::of_trust_domain(&trust_domain_of(&self.params), &text).expect("a bundle")
    }

    /// The bundle of this root and others'.
    pub(crate) fn bundle_with(&self, others: &[&Self]) -> Bundle {
        let text = others.iter().fold(self.bundle().pem(), |text, other| text + &other.bundle().pem());
        Bundle::of_trust_domain(self.bundle().trust_domain(), &text).expect("a bundle")
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> Forged {
        let key = Key::generate().expect("a key");
        let leaf = self.key.with_pair(|signer| {
            let issuer = Issuer::from_params(&self.params, signer);
            key.with_pair(|pair| Ok(params.signed_by(pair, &issuer)?))
        });
        let chain = std::iter::once(leaf.expect("signed").der().clone()).chain(self.behind.clone()).collect();
        Forged { chain, key }
    }

    /// As [`Forge::sign`], with another public key in the certificate: any, in DER.
    pub(crate) fn sign_key(&self, params: &CertificateParams, public_key: &[u8]) -> Forged {
        const ECDSA_WITH_SHA256: [u8; 12] =
            [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
        let mut forged = self.sign(params);
        let signed = {
            let parsed = crate::svid::parse(&forged.chain[0]).expect("a certificate");
            let (own, all) = (parsed.public_key().raw, parsed.tbs_certificate.as_ref());
            let at = own.as_ptr() as usize - all.as_ptr() as usize;
            let content = [&all[header(all)..at], public_key, &all[at + own.len()..]].concat();
            der(0x30, &content)
        };
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, self.key.pkcs8()).expect("a key");
        let signature = pair.sign(&SystemRandom::new(), &signed).expect("signed");
        let signature = der(0x03, &[&[0], signature.as_ref()].concat());
        forged.chain[0] = der(0x30, &[&signed[..], &ECDSA_WITH_SHA256, &signature].concat()).into();
        forged
    }

    pub(crate) fn svid(&self, uri: &str) -> Svid {
        let Forged { chain, key } = self.sign(&params(&[uri]));
        Svid::from_pem(&pem::encode_certificates(&chain), key).expect("an SVID")
    }

    pub(crate) fn source(&self, uri: &str) -> Arc<IdentitySource> {
        IdentitySource::new(self.svid(uri), self.bundle()).expect("a source")
    }
}

/// One element of DER.
pub(crate) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let [.., high, low] = length.to_be_bytes();
    let mut element = match length {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    element.extend_from_slice(content);
    element
}

/// How long tag and length of an element are.
fn header(element: &[u8]) -> usize {
    match element[1] {
        0..0x80 => 2,
        long => 2 + usize::from(long & 0x7f),
    }
}

/// What a good authority's certificate has.
pub(crate) fn authority(trust_domain: &str, name: &str) -> CertificateParams {
    let mut params = params(&[&format!("spiffe://{trust_domain}")]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = Vec::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn trust_domain_of(params: &CertificateParams) -> String {
    let uri = params.subject_alt_names.iter().find_map(|name| match name {
        SanType::URI(uri) => uri.as_str().strip_prefix("spiffe://"),
        _ => None,
    });
    uri.expect("a trust domain").to_owned()
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

/// A client that shows whatever it has, and believes and expects these.
pub(crate) fn forged_client(trust: &Trust, expected: &[SpiffeId], forged: &Forged) -> Arc<ClientConfig> {
    let shown = SingleCertAndKey::from(forged.certified());
    let config = crate::source::client_of(trust.clone(), expected.to_vec());
    Arc::new(config.with_client_cert_resolver(Arc::new(shown)))
}

/// A server that shows whatever it has, and asks for nothing.
pub(crate) fn forged_server(forged: &Forged) -> Arc<ServerConfig> {
    let shown = SingleCertAndKey::from(forged.certified());
    let config = ServerConfig::builder_with_provider(crate::source::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth();
    Arc::new(config.with_cert_resolver(Arc::new(shown)))
}

impl Forged {
    /// Unchecked: a chain and a key that need not belong together.
    fn certified(&self) -> CertifiedKey {
        CertifiedKey::new(self.chain.clone(), self.key.signing_key().expect("a key"))
    }
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
