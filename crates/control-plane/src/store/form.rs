//! Workloads as JSON, as the store keeps them in leases.

use std::net::SocketAddr;

use meshwork_model::mesh::{Capture, Inbound, Key, Labels, Outbound, Protocol, Workload};
use meshwork_model::proxy::Locality;
use meshwork_model::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

/// A workload's lease. Fields are only ever added.
#[derive(Serialize, Deserialize)]
struct Lease {
    namespace: String,
    name: String,
    identity: String,
    labels: Labels,
    inbound: Vec<InboundPort>,
    outbound: Vec<OutboundPort>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capture: Option<CaptureAddresses>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unready: Option<String>,
    /// Region, zone and sub-zone.
    #[serde(default, skip_serializing_if = "is_nowhere")]
    locality: [String; 3],
}

fn is_nowhere(locality: &[String; 3]) -> bool {
    locality.iter().all(String::is_empty)
}

#[derive(Serialize, Deserialize)]
struct InboundPort {
    port: u16,
    bind: SocketAddr,
    application: SocketAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct CaptureAddresses {
    outbound: Vec<SocketAddr>,
    names: SocketAddr,
}

#[derive(Serialize, Deserialize)]
struct OutboundPort {
    namespace: String,
    service: String,
    port: u16,
    bind: SocketAddr,
}

pub(super) fn workload_to_text(workload: &Workload) -> String {
    let inbound = |p: &Inbound| InboundPort {
        port: p.port,
        bind: p.bind,
        application: p.application,
        protocol: p.protocol.map(|protocol| protocol.name().to_owned()),
    };
    let outbound = |p: &Outbound| OutboundPort {
        namespace: p.service.namespace.to_string(),
        service: p.service.name.to_string(),
        port: p.port,
        bind: p.bind,
    };
    let lease = Lease {
        namespace: workload.key.namespace.to_string(),
        name: workload.key.name.to_string(),
        identity: workload.identity.to_string(),
        labels: workload.labels.clone(),
        inbound: workload.inbound.iter().map(inbound).collect(),
        outbound: workload.outbound.iter().map(outbound).collect(),
        capture: workload
            .capture
            .as_ref()
            .map(|c| CaptureAddresses { outbound: c.outbound.clone(), names: c.names }),
        unready: workload.unready.as_deref().map(str::to_owned),
        locality: [&workload.locality.region, &workload.locality.zone, &workload.locality.sub_zone]
            .map(ToString::to_string),
    };
    serde_json::to_string(&lease).unwrap_or_default()
}

pub(super) fn workload_from_text(text: &str) -> Option<Workload> {
    let lease: Lease = serde_json::from_str(text).ok()?;
    let inbound = |p: InboundPort| Inbound {
        port: p.port,
        bind: p.bind,
        application: p.application,
        protocol: p.protocol.and_then(|name| Protocol::of_name(&name)),
    };
    let outbound =
        |p: OutboundPort| Outbound { service: Key::new(p.namespace, p.service), port: p.port, bind: p.bind };
    let [region, zone, sub_zone] = lease.locality;
    Some(Workload {
        key: Key::new(lease.namespace, lease.name),
        identity: SpiffeId::parse(&lease.identity).ok()?,
        labels: lease.labels,
        inbound: lease.inbound.into_iter().map(inbound).collect(),
        outbound: lease.outbound.into_iter().map(outbound).collect(),
        capture: lease.capture.map(|c| Capture { outbound: c.outbound, names: c.names }),
        // It says so again when it connects; nobody calls it meanwhile.
        gateway: None,
        unready: lease.unready.map(Into::into),
        locality: Locality { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() },
    })
}
