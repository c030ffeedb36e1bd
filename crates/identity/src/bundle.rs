//! The roots of one trust domain.

use std::sync::Arc;

use meshwork_model::spiffe::check_trust_domain;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;

use crate::source::provider;
use crate::{IdentityError, pem, svid};

/// The root certificates of one trust domain, immutable.
///
/// Source: SPIFFE Trust Domain and Bundle; the domain's name is the URI in the roots' alternative names
/// (X.509-SVID §3.2).
#[derive(Clone)]
pub struct Bundle {
    trust_domain: Arc<str>,
    certificates: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
    chain_of_client: Arc<dyn ClientCertVerifier>,
}

impl Bundle {
    /// Reads roots that name their trust domain themselves, as Meshwork's do.
    ///
    /// # Errors
    /// No certificate, one that is not an authority's, or no or several trust domains.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let certificates = pem::certificates(text)?;
        let mut named = None;
        for certificate in &certificates {
            let domain = svid::trust_domain_of_root(certificate)?.ok_or(IdentityError::Bundle(
                "a root names no trust domain (a spiffe:// URI without path)",
            ))?;
            if named.get_or_insert_with(|| domain.clone()) != &domain {
                return Err(IdentityError::Bundle("its roots name several trust domains"));
            }
        }
        Self::new(&named.unwrap_or_default(), certificates)
    }

    /// Reads roots of a trust domain that the caller names.
    ///
    /// # Errors
    /// No certificate, or one that is not an authority's; a name that is not a trust domain's.
    pub fn of_trust_domain(trust_domain: &str, text: &str) -> Result<Self, IdentityError> {
        Self::new(trust_domain, pem::certificates(text)?)
    }

    fn new(trust_domain: &str, certificates: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        check_trust_domain(trust_domain).map_err(|_| {
            IdentityError::Bundle("its trust domain has a character outside a-z, 0-9, '.', '-', '_'")
        })?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            svid::check_authority(certificate)?;
            roots.add(certificate.clone()).map_err(|error| IdentityError::Certificate(error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let chain_of_client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|_| IdentityError::Bundle("it has no roots"))?;
        Ok(Self {
            trust_domain: trust_domain.into(),
            certificates: certificates.into(),
            roots,
            chain_of_client,
        })
    }

    /// The trust domain, lowercase, without `spiffe://`.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Writes all roots as PEM text.
    pub fn pem(&self) -> String {
        pem::encode_certificates(&self.certificates)
    }

    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Tells whether a certificate is one of the roots.
    pub(crate) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|root| root == certificate)
    }

    pub(crate) fn roots(&self) -> &RootCertStore {
        &self.roots
    }

    pub(crate) fn chain_of_client(&self) -> &dyn ClientCertVerifier {
        &*self.chain_of_client
    }
}
