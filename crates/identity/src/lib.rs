//! SPIFFE identities, certificates, the embedded CA and the TLS configurations made of them.
//!
//! This crate owns private keys and everything that decides who a peer is. Keys have neither `Debug` nor
//! `Clone` nor serde, and are wiped from memory when dropped. TLS is rustls with the aws-lc-rs provider,
//! always passed explicitly; the mesh's own is TLS 1.3 only.
//!
//! - [`CertificateAuthority`] signs X.509-SVIDs; the control plane holds it.
//! - [`Trust`] is whom a process believes: [`Bundle`]s of its own trust domain and of federated ones, and
//!   [`Revocations`]. It judges every chain of certificates, the same in handshakes and afterwards.
//! - [`IdentitySource`] holds a process's current [`Svid`] and [`Trust`] and makes TLS configurations that read them
//!   anew at each handshake: a renewed certificate or a revocation acts without rebuilding anything.
//! - [`peer_id`] tells who the other end of a finished handshake is.
//! - [`CertificateFacts`] are what any certificate says, for logs and rules.
//! - [`jwt_svid`] signs and verifies tokens that prove an identity; [`jwt`] reads tokens of anybody, and verifies them
//!   by sets of keys.
//! - [`context`] makes TLS configurations of what a file says, with any certificates.
//! - [`istio_ca`] is the wire format in which certificates are asked for, [`workload_api`] that in which workloads get
//!   theirs.
//! - [`files`] writes what must stay private; [`FileIdentity`] follows an identity that others write.
//!
//! Source: SPIFFE X.509-SVID, JWT-SVID, Trust Domain and Bundle, and Workload API; docs/identity.md.

mod authority;
mod bundle;
mod certificate;
pub mod context;
mod error;
mod file_identity;
pub mod files;
mod grpc;
pub mod istio_ca;
pub mod jwt;
pub mod jwt_svid;
mod key;
mod pem;
mod revocation;
mod source;
mod svid;
mod trust;
pub mod workload_api;

#[cfg(test)]
mod forge;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod hostile;

pub use authority::{
    AlternativeName, AuthorityFile, AuthorityOptions, CertificateAuthority, DEFAULT_LIFETIME,
    INTERMEDIATE_LIFETIME, IssuerFacts, PluggedIntermediate, ROOT_LIFETIME, Role, RootFacts,
    request_key_fingerprint,
};
pub use bundle::{Bundle, BundleDocument};
pub use certificate::{CertificateFacts, certificates_pem};
pub use error::{IdentityError, Refusal, refusal};
pub use file_identity::{FileIdentity, IdentityFiles};
pub use jwt_svid::{JwtSvid, JwtSvidError};
pub use key::Key;
pub use meshwork_model::spiffe::SpiffeId;
pub use revocation::Revocations;
pub use source::{
    ClientCertificate, IdentitySource, Renewal, anonymous_client_config, bootstrap_client_config,
};
pub use svid::{Svid, peer_id};
pub use trust::{Appraisal, Trust};
