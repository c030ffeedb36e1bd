//! TLS of the client and of the origins.

use std::sync::Arc;

use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::answer::TlsServer;
use super::certs::Certs;
use super::step::TlsClient;
use crate::tls::Anybody;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::aws_lc_rs::default_provider())
}

fn versions(wanted: Option<&str>) -> Vec<&'static SupportedProtocolVersion> {
    match wanted {
        Some("1.2") => vec![&version::TLS12],
        Some("1.3") => vec![&version::TLS13],
        None => vec![&version::TLS12, &version::TLS13],
        Some(other) => panic!("TLS version {other}"),
    }
}

fn names(alpn: &[String]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// What an origin accepts connections with.
pub(super) fn acceptor(tls: &TlsServer, certs: &Certs) -> TlsAcceptor {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(tls.version.as_deref()))
        .expect("versions");
    let builder = match &tls.client_ca {
        Some(name) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certs.chain(name));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = certs.pair(&tls.cert);
    let mut config = builder.with_single_cert(chain, key).expect("a certificate");
    config.alpn_protocols = names(&tls.alpn);
    TlsAcceptor::from(Arc::new(config))
}

/// What the client connects with. It takes any certificate: which one it was is a part of the outcome.
pub(super) fn connector(tls: &TlsClient, certs: &Certs) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(tls.version.as_deref()))
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match &tls.cert {
        Some(name) => {
            let (chain, key) = certs.pair(name);
            builder.with_client_auth_cert(chain, key).expect("a certificate")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = names(&tls.alpn);
    config.enable_sni = tls.sni.is_some();
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}
