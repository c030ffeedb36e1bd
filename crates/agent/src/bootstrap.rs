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
use meshwork_model::mesh::{Capture, GatewayNode, Inbound, Outbound};
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
    /// Where its proxy takes all that leaves it, where it does.
    pub capture: Option<Capture>,
    /// The gateway that it serves, where it does.
    pub gateway: Option<GatewayNode>,
    /// Whether its readiness is probed: it counts as not ready until the first probe has said so.
    pub is_probed: bool,
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
        let mut metadata = json!({
            "NAME": self.name,
            "NAMESPACE": self.namespace,
            "SERVICE_ACCOUNT": self.service_account,
            "LABELS": self.labels,
            "INBOUND": self.inbound.iter().map(inbound).collect::<Vec<_>>(),
            "OUTBOUND": self.outbound.iter().map(outbound).collect::<Vec<_>>(),
        });
        if let Some(capture) = &self.capture {
            let outbound: Vec<String> = capture.outbound.iter().map(ToString::to_string).collect();
            metadata["CAPTURE"] = json!({"outbound": outbound, "names": capture.names.to_string()});
        }
        if let Some(node) = &self.gateway {
            metadata["GATEWAY"] = gateway(node);
        }
        if self.is_probed {
            metadata["HEALTH"] = json!("probed");
        }
        metadata
    }
}

fn inbound(port: &Inbound) -> Value {
    let mut value = json!({
        "port": port.port, "bind": port.bind.to_string(), "application": port.application.to_string()
    });
    if let Some(protocol) = port.protocol {
        value["protocol"] = json!(protocol.name());
    }
    value
}

fn gateway(node: &GatewayNode) -> Value {
    let bind = |(port, bind): (&u16, &SocketAddr)| json!({"port": port, "bind": bind.to_string()});
    json!({
        "name": &*node.name,
        "address": node.address.to_string(),
        "binds": node.binds.iter().map(bind).collect::<Vec<_>>(),
        "certificates": node.certificates.as_deref(),
    })
}

fn outbound(port: &Outbound) -> Value {
    let service = format!("{}.{}", port.service.name, port.service.namespace);
    json!({"service": service, "port": port.port, "bind": port.bind.to_string()})
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
