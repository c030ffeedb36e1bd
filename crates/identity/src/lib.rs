//! SPIFFE identities, certificates, the embedded CA and the TLS configurations made of them.
//!
//! This crate owns private keys and everything that decides who a peer is. Keys have neither `Debug` nor
//! `Clone` nor serde, and are wiped from memory when dropped. TLS is rustls with the aws-lc-rs provider,
//! always passed explicitly; the mesh's own is TLS 1.3 only.
//!
//! - [`CertificateAuthority`] signs X.509-SVIDs; the control plane holds it.
//! - [`IdentitySource`] holds a process's current [`Svid`] and [`Bundle`] and makes TLS configurations that
//!   read them anew at each handshake: a renewed certificate acts without rebuilding anything.
//! - [`peer_id`] tells who the other end of a finished handshake is.
//! - [`CertificateFacts`] are what any certificate says, for logs and rules.
//! - [`jwt`] reads tokens, and verifies them by sets of keys.
//! - [`context`] makes TLS configurations of what a file says, with any certificates.
//! - [`istio_ca`] is the wire format in which certificates are asked for.
//! - [`files`] writes what must stay private; [`FileIdentity`] follows an identity that others write.
//!
//! Source: SPIFFE X.509-SVID and SPIFFE Trust Domain and Bundle specifications.

mod authority;
mod bundle;
mod certificate;
pub mod context;
mod error;
mod file_identity;
pub mod files;
pub mod istio_ca;
pub mod jwt;
mod key;
mod pem;
mod source;
mod svid;

#[cfg(test)]
mod forge;

pub use authority::{AlternativeName, CertificateAuthority, DEFAULT_LIFETIME, request_key_fingerprint};
pub use bundle::Bundle;
pub use certificate::{CertificateFacts, certificates_pem};
pub use error::IdentityError;
pub use file_identity::{FileIdentity, IdentityFiles};
pub use key::Key;
pub use meshwork_model::spiffe::SpiffeId;
pub use source::{ClientCertificate, IdentitySource, bootstrap_client_config};
pub use svid::{Svid, peer_id};
