//! The control plane: config in; discovery, certificates and policy out.
//!
//! One direction of data, one module a step:
//!
//! - [`ingest`] reads a directory of YAML into [`meshwork_model::mesh::Config`], with every problem it has.
//! - `config` is its one writer: it joins the folder's files and the store's resources, and keeps the history.
//! - `world` holds what is true now: config, and the workloads that are connected. It alone writes.
//! - [`translate`] turns that into what one node runs. Pure.
//! - `snapshot` encodes it, once for all nodes that share a resource, and hands it to each node's stream.
//! - `serve` is the mTLS port: certificates, discovery, telemetry.
//! - [`store`] keeps config, tokens, enrolments, leases and virtual addresses across restarts.
//! - `api` answers people and the command line, and takes their changes; [`topology_of`] draws config that runs nowhere.
//!
//! [`run()`] ties them together.
//!
//! Kubernetes and YAML types stop in `ingest`; Envoy's protobufs stop in `meshwork_xds`.

mod addresses;
mod api;
mod attachment;
mod claims;
mod config;
mod implied;
pub mod ingest;
mod keep;
mod last_good;
mod lease;
mod replicas;
mod run;
mod serve;
mod snapshot;
mod status;
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
    /// Folder of the mesh's config, or one file; without one, all config is in the store.
    pub config: Option<PathBuf>,
    /// Directory of keys, tokens, enrolments and leases; made if absent, locked while in use.
    pub state: PathBuf,
    /// Members of an etcd, as URLs, which several control planes share; without any, the store is in `state`.
    pub etcd: Vec<String>,
    /// Directory of the CA, where it is not in `state`: control planes of one mesh need the same.
    pub ca: Option<PathBuf>,
    /// Where discovery, certificates and telemetry are served over mTLS.
    pub listen: SocketAddr,
    /// Where the JSON API is served, without TLS: a loopback address.
    pub api: SocketAddr,
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// How long a workload's certificate lives.
    pub svid_lifetime: Duration,
}

impl Options {
    pub(crate) fn ca_dir(&self) -> PathBuf {
        self.ca.clone().unwrap_or_else(|| self.state.join("ca"))
    }
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
