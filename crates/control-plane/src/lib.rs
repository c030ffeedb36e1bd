//! The control plane: config in; discovery, certificates and policy out.
//!
//! One direction of data, one module a step:
//!
//! - [`ingest`] reads a directory of YAML into [`meshwork_model::mesh::Config`], with every problem it has.
//! - `world` holds what is true now: config, and the workloads that are connected. It alone writes.
//! - [`translate`] turns that into what one node runs. Pure.
//! - `snapshot` encodes it, once for all nodes that share a resource, and hands it to each node's stream.
//! - `serve` is the mTLS port: certificates, discovery, telemetry.
//! - [`store`] keeps tokens, enrolments, leases and virtual addresses across restarts.
//! - `api` answers people and the command line, on loopback; [`topology_of`] draws config that runs nowhere.
//!
//! [`run()`] ties them together.
//!
//! Kubernetes and YAML types stop in `ingest`; Envoy's protobufs stop in `meshwork_xds`.

mod addresses;
mod api;
mod claims;
mod implied;
pub mod ingest;
mod keep;
mod last_good;
mod lease;
mod run;
mod serve;
mod snapshot;
pub mod store;
mod topology;
pub mod translate;
mod world;

pub use addresses::{Addressee, Addresses};
pub use run::{Error, run};
pub use topology::topology_of;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The namespace of the control plane itself, and of policies that act on the whole mesh.
pub(crate) const SYSTEM_NAMESPACE: &str = "meshwork-system";

/// What a control plane is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the mesh's config, or one file.
    pub config: PathBuf,
    /// Directory of keys, tokens, enrolments and leases; made if absent, locked while in use.
    pub state: PathBuf,
    /// Where discovery, certificates and telemetry are served over mTLS.
    pub listen: SocketAddr,
    /// Where the JSON API is served, without TLS: a loopback address.
    pub api: SocketAddr,
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// How long a workload's certificate lives.
    pub svid_lifetime: Duration,
}

/// A control plane that serves.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where discovery is served; the port that the kernel chose, where 0 was asked for.
    pub listen: SocketAddr,
    /// Where the JSON API is served.
    pub api: SocketAddr,
    /// The file with the roots that workloads trust, PEM.
    pub trust_bundle: PathBuf,
}
