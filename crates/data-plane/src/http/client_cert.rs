//! `x-forwarded-client-cert`: what is told of the client's certificate.
//!
//! Source: Envoy `forward_client_cert_details`, `set_current_client_cert_details`.

use std::fmt::Write as _;

use meshwork_identity::certificates_pem;
use meshwork_model::proxy::ClientCert;

use crate::connection::Peer;
use crate::facts::percent_encode;

/// One element of the field; `own` is the URI of our own certificate.
pub(super) fn text(said: ClientCert, peer: &Peer, own: Option<&str>) -> String {
    let mut text = String::new();
    let mut add = |key: &str, value: &str| {
        let separator = if text.is_empty() { "" } else { ";" };
        // Writing to a String does not fail.
        let _ = write!(text, "{separator}{key}={value}");
    };
    if let Some(own) = own {
        add("By", own);
    }
    let facts = peer.certificate();
    if let Some(facts) = facts {
        add("Hash", &facts.sha256);
    }
    let certificates = peer.certificates();
    if said.certificate && !certificates.is_empty() {
        add("Cert", &quoted_pem(&certificates[..1]));
    }
    if said.chain && !certificates.is_empty() {
        add("Chain", &quoted_pem(certificates));
    }
    if said.subject {
        add("Subject", &format!("\"{}\"", facts.map_or("", |facts| &facts.subject)));
    }
    if said.uri {
        let uris = facts.map_or(&[][..], |facts| &facts.uris);
        for uri in uris {
            add("URI", uri);
        }
        if uris.is_empty() {
            add("URI", peer.id.as_ref().map_or("", |id| id.as_str()));
        }
    }
    if said.dns {
        facts.iter().flat_map(|facts| &facts.dns_names).for_each(|name| add("DNS", name));
    }
    text
}

fn quoted_pem(certificates: &[tokio_rustls::rustls::pki_types::CertificateDer<'static>]) -> String {
    let mut encoded = vec![b'"'];
    percent_encode(certificates_pem(certificates).as_bytes(), &mut encoded);
    encoded.push(b'"');
    String::from_utf8(encoded).unwrap_or_default()
}
