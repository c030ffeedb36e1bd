//! Enrols workloads on a host and keeps their certificates; writes bootstraps for foreign data planes.
//!
//! - [`enrol()`] proves who we are to the control plane: by a join token the first time, by the SVID on disk from then
//!   on. [`Enrolled::keep_fresh`] renews it for ever.
//! - [`channel()`] is the mTLS connection to the control plane that everything else of a data plane uses.
//! - [`host`] serves the workloads of a host their identities, by SPIFFE's Workload API and Envoy's SDS.
//! - [`probe`] asks a program whether it is well.
//! - [`bootstrap`] writes what Envoy and gRPC need to join the mesh as they are.
//!
//! State is one directory per identity, for its owner only, locked by the process that uses it.

mod attest;
pub mod bootstrap;
mod channel;
mod enrol;
#[cfg(test)]
mod fixture;
mod hex;
pub mod host;
pub mod probe;

pub use attest::{AttestError, Attestor, Selectors, UnixPeer};
pub use channel::{channel, control_plane_id};
pub use enrol::{EnrolError, Enrolled, Enrolment, enrol};
