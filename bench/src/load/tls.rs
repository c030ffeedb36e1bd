//! The client's side of TLS: the same offer to every contender.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

/// TLS 1.3 with AES-128-GCM, a client certificate, no resumption; X25519, or the hybrid with ML-KEM-768.
pub(super) fn connector(dir: &Path, hybrid: bool) -> anyhow::Result<TlsConnector> {
    let provider = rustls::crypto::CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![if hybrid { kx_group::X25519MLKEM768 } else { kx_group::X25519 }],
        ..aws_lc_rs::default_provider()
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(&dir.join("bundle.pem"))? {
        roots.add(root)?;
    }
    let chain = certificates(&dir.join("chain.pem"))?;
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).context("key.pem")?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)?.collect::<Result<_, _>>().with_context(|| file.display().to_string())
}
