//! What a foreign data plane needs to join the mesh as it is: a bootstrap and files with its identity, kept fresh.
//!
//! [`EnvoyBootstrap`] writes `bootstrap.yaml` with secrets for Envoy's file SDS, [`GrpcBootstrap`] writes
//! `bootstrap.json` with PEM files for gRPC's file watcher. Everything is for its owner only.

mod envoy;
mod grpc;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_identity::{IdentityError, IdentitySource};
use serde_json::{Value, json};
use tracing::error;

pub use envoy::EnvoyBootstrap;
pub use grpc::GrpcBootstrap;

/// After a failed write, the pause until the next attempt: a full disk is not emptied in less.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// A workload as it describes itself to the control plane.
///
/// Who it is follows from its identity; this says where its ports are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// The workload's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its labels, informative: the authoritative ones are in the enrolment's record.
    pub labels: BTreeMap<String, String>,
    /// The ports that it serves.
    pub inbound: Vec<Inbound>,
    /// The services that it calls.
    pub outbound: Vec<Outbound>,
}

/// A port that a workload serves through its proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inbound {
    /// The service's port.
    pub port: u16,
    /// Where the proxy listens for the mesh.
    pub bind: SocketAddr,
    /// Where the application listens for the proxy.
    pub application: SocketAddr,
}

/// A service that a workload calls through its proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outbound {
    /// The service, as `name.namespace`.
    pub service: String,
    /// The service's port.
    pub port: u16,
    /// Where the proxy listens for the application.
    pub bind: SocketAddr,
}

impl Node {
    /// The id under which the control plane knows this node.
    pub fn id(&self) -> String {
        format!("sidecar~{}.{}", self.name, self.namespace)
    }

    /// The cluster in xDS's sense: what Envoy groups its statistics by.
    pub fn cluster(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }

    /// The node's metadata, with Istio's keys where Istio has one.
    pub fn metadata(&self) -> Value {
        let inbound = self.inbound.iter().map(|port| {
            json!({"port": port.port, "bind": port.bind.to_string(), "application": port.application.to_string()})
        });
        let outbound = self
            .outbound
            .iter()
            .map(|port| json!({"service": port.service, "port": port.port, "bind": port.bind.to_string()}));
        json!({
            "NAME": self.name,
            "NAMESPACE": self.namespace,
            "SERVICE_ACCOUNT": self.service_account,
            "LABELS": self.labels,
            "INBOUND": inbound.collect::<Vec<_>>(),
            "OUTBOUND": outbound.collect::<Vec<_>>(),
        })
    }
}

/// Writes now and after each change of the identity, for ever.
async fn write_on_change(
    identity: &Arc<IdentitySource>,
    write: impl Fn(&IdentitySource) -> Result<(), IdentityError>,
) {
    let mut changes = identity.changes();
    loop {
        while let Err(error) = write(identity) {
            error!(%error, "cannot write the files of a foreign data plane");
            tokio::time::sleep(WRITE_AGAIN).await;
        }
        if changes.changed().await.is_err() {
            // The source is borrowed, so its sender lives; without it nothing would ever change again.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
