//! `istio.v1.auth.IstioCertificateService`: how a workload asks for a certificate over gRPC.
//!
//! Messages, client and server are written by hand after Istio's `security/v1alpha1/ca.proto`, whose service has one
//! method. The first time a caller proves itself by `authorization: Bearer <token>` in the call's metadata, later by
//! mTLS with its SVID. The protocol buffers of this service stay in this module and its two callers.

mod client;
mod server;

pub use client::IstioCertificateServiceClient;
pub use server::{IstioCertificateService, IstioCertificateServiceServer};

use std::time::Duration;

use meshwork_model::spiffe::SpiffeId;
use prost_types::Struct;
use prost_types::value::Kind;

use crate::{Bundle, IdentityError, pem};

/// The service's full name.
pub const SERVICE_NAME: &str = "istio.v1.auth.IstioCertificateService";
/// The path of its one method.
pub(crate) const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// The member of a request's metadata that names for whom it asks. Source: Istio, `security.ImpersonatedIdentity`.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// A request for a certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateRequest {
    /// The certificate signing request, PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// How long the certificate should live, seconds; 0 leaves it to the signer.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// What the workload says of itself; informative.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

impl IstioCertificateRequest {
    /// Asks for a certificate of somebody else, as who may: an agent for the workloads of its host.
    pub fn impersonating(csr: String, lifetime: Duration, id: &SpiffeId) -> Self {
        let kind = Some(Kind::StringValue(id.to_string()));
        let fields = [(IMPERSONATED.to_owned(), prost_types::Value { kind })].into();
        let validity_duration = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        Self { csr, validity_duration, metadata: Some(Struct { fields }) }
    }

    /// For whom the asker asks, where that is not itself: as it stands there, unchecked.
    ///
    /// What is no text is told as an empty one, so that nobody takes it for a request of one's own.
    pub fn impersonated(&self) -> Option<&str> {
        match &self.metadata.as_ref()?.fields.get(IMPERSONATED)?.kind {
            Some(Kind::StringValue(id)) => Some(id),
            _ => Some(""),
        }
    }
}

/// A certificate with its chain.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateResponse {
    /// PEM, the workload's certificate first, roots last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

impl IstioCertificateResponse {
    /// Answers with a signed chain (PEM, without roots) and the roots, as Istio does.
    ///
    /// # Errors
    /// The chain holds no certificate.
    pub fn new(chain_pem: &str, bundle: &Bundle) -> Result<Self, IdentityError> {
        let chain = pem::certificates(chain_pem)?;
        let all = chain.iter().chain(bundle.certificates());
        Ok(Self { cert_chain: all.map(|der| pem::encode("CERTIFICATE", der)).collect() })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_request_may_be_for_somebody_else() {
        let id = SpiffeId::parse("spiffe://mesh.local/ns/shop/sa/web").expect("valid");
        let request = IstioCertificateRequest::impersonating("C".to_owned(), Duration::from_mins(1), &id);
        let request = IstioCertificateRequest::decode(&*request.encode_to_vec()).expect("decoded");
        assert_eq!((request.impersonated(), request.validity_duration), (Some(id.as_str()), 60));
        let mut odd = request;
        for value in odd.metadata.iter_mut().flat_map(|metadata| metadata.fields.values_mut()) {
            value.kind = Some(Kind::BoolValue(true));
        }
        assert_eq!(odd.impersonated(), Some(""));
        assert_eq!(IstioCertificateRequest::default().impersonated(), None);
    }

    #[test]
    fn messages_have_the_field_numbers_of_istio() {
        let request = IstioCertificateRequest { csr: "C".to_owned(), validity_duration: 5, metadata: None };
        assert_eq!(request.encode_to_vec(), [0x0a, 1, b'C', 0x18, 5]);
        let response = IstioCertificateResponse { cert_chain: vec!["A".to_owned(), "B".to_owned()] };
        assert_eq!(response.encode_to_vec(), [0x0a, 1, b'A', 0x0a, 1, b'B']);
    }
}
