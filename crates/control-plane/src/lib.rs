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
//! - [`explain`] says what becomes of one request, and why.
//! - `api` answers people and the command line, and takes their changes; [`topology_of`] draws config that runs nowhere.
//!
//! [`run()`] ties them together.
//!
//! Kubernetes and YAML types stop in `ingest`; Envoy's protobufs stop in `meshwork_xds`.

mod addresses;
mod api;
mod attachment;
mod authority;
mod claims;
mod config;
pub mod explain;
mod implied;
pub mod ingest;
mod keep;
mod last_good;
mod lease;
mod limits;
mod replicas;
mod room;
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

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use meshwork_identity::PluggedIntermediate;
use meshwork_identity::{AuthorityOptions, DEFAULT_LIFETIME, INTERMEDIATE_LIFETIME, ROOT_LIFETIME};

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
    /// Whether who reads by that needs a token, too.
    pub closed_api: bool,
    /// Where our own bundle is served to other trust domains; nowhere, where it is left out.
    pub federation_listen: Option<SocketAddr>,
    /// How often others are to look for it again; a rotation waits for twice that before it signs under a new root.
    pub federation_refresh: Duration,
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// The longest life of a workload's certificate, and that of one for which nothing is asked.
    pub svid_lifetime: Duration,
    /// An intermediate of the user's that signs, in place of one under the CA's own root.
    pub plugged: Option<PluggedIntermediate>,
    /// How long this control plane's own intermediate lives.
    pub intermediate_lifetime: Duration,
    /// How long a root lives that the CA makes.
    pub root_lifetime: Duration,
}

impl Options {
    /// What serves on ports of loopback that the kernel chooses, without config files, and with its state in a folder.
    pub fn on_loopback(state: PathBuf) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            config: None,
            state,
            etcd: Vec::new(),
            ca: None,
            listen: any,
            api: any,
            closed_api: false,
            federation_listen: None,
            federation_refresh: Duration::from_mins(1),
            trust_domain: "mesh.local".to_owned(),
            svid_lifetime: DEFAULT_LIFETIME,
            plugged: None,
            intermediate_lifetime: INTERMEDIATE_LIFETIME,
            root_lifetime: ROOT_LIFETIME,
        }
    }

    /// What the CA is opened with.
    pub(crate) fn authority(&self) -> AuthorityOptions {
        AuthorityOptions {
            dir: self.ca.clone().unwrap_or_else(|| self.state.join("ca")),
            issuer_dir: self.state.join("issuer"),
            trust_domain: self.trust_domain.clone(),
            plugged: self.plugged.clone(),
            intermediate_lifetime: self.intermediate_lifetime,
            root_lifetime: self.root_lifetime,
        }
    }
}

/// A control plane that serves.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where discovery is served; the port that the kernel chose, where 0 was asked for.
    pub listen: SocketAddr,
    /// Where the JSON API is served.
    pub api: SocketAddr,
    /// Where our own bundle is served to other trust domains, where it is.
    pub federation: Option<SocketAddr>,
    /// The file with the roots that workloads trust, PEM.
    pub trust_bundle: PathBuf,
}
