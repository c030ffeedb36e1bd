//! `SpiffeWorkloadAPI`: how a workload gets its SVIDs and bundles, on a Unix socket that knows who calls.
//!
//! Messages, client and server are written by hand after SPIFFE's `workload.proto`, which has no package. Each call
//! carries the metadata `workload.spiffe.io: true`; the server refuses one without it, since only a client that means
//! the Workload API sets it, and a request forged through a browser or a proxy cannot. Three of the methods are streams
//! that stay open: a message on each change. Who may have what is decided by who implements [`SpiffeWorkloadApi`].
//!
//! Source: SPIFFE Workload API; SPIFFE Workload Endpoint.

mod client;
mod messages;
mod server;

pub use client::SpiffeWorkloadApiClient;
pub use messages::{
    JwtBundlesRequest, JwtBundlesResponse, JwtSvidMessage, JwtSvidRequest, JwtSvidResponse,
    ValidateJwtSvidRequest, ValidateJwtSvidResponse, X509BundlesRequest, X509BundlesResponse,
    X509SvidMessage, X509SvidRequest, X509SvidResponse,
};
pub use server::{Answers, SpiffeWorkloadApi, SpiffeWorkloadApiServer};

/// The service's full name.
pub const SERVICE_NAME: &str = "SpiffeWorkloadAPI";
/// The metadata that each call carries, with the value `true`. Source: SPIFFE Workload Endpoint §3.
pub const SECURITY_HEADER: &str = "workload.spiffe.io";

pub(crate) const FETCH_X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
pub(crate) const FETCH_X509_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchX509Bundles";
pub(crate) const FETCH_JWT_SVID: &str = "/SpiffeWorkloadAPI/FetchJWTSVID";
pub(crate) const FETCH_JWT_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchJWTBundles";
pub(crate) const VALIDATE_JWT_SVID: &str = "/SpiffeWorkloadAPI/ValidateJWTSVID";

#[cfg(test)]
mod tests;
