//! Endpoints.

use std::collections::HashSet;
use std::sync::Arc;

use meshwork_model::proxy::{Endpoint, Endpoints, Workload};

use super::{address, required};
use crate::metadata;
use crate::path::{Noted, Path, Problems};
use crate::pb;

/// Endpoints of their own, which need the name under which they were asked for.
pub(super) fn endpoints(
    message: &pb::endpoint::ClusterLoadAssignment,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Endpoints> {
    let cluster: Arc<str> = required(&message.cluster_name, &at.field("cluster_name"), problems)?.into();
    let path = at.field("endpoints");
    let mut endpoints = Vec::new();
    let mut seen = HashSet::new();
    for (index, locality) in message.endpoints.iter().enumerate() {
        let at = path.index(index);
        let path = at.field("lb_endpoints");
        for (index, message) in locality.lb_endpoints.iter().enumerate() {
            let at = path.index(index);
            let Some(endpoint) = endpoint(message, &at, problems) else { continue };
            if !seen.insert(endpoint.address) {
                problems.error::<()>(&at, format!("{} is listed twice", endpoint.address), "");
            }
            if serves(message.health_status) {
                endpoints.push(endpoint);
            }
        }
    }
    Some(Endpoints { cluster, endpoints })
}

/// Whether an endpoint with this status is used.
fn serves(status: i32) -> bool {
    use pb::core::HealthStatus::{Degraded, Healthy, Unknown};
    matches!(pb::core::HealthStatus::try_from(status), Ok(Unknown | Healthy | Degraded))
}

fn endpoint(message: &pb::endpoint::LbEndpoint, at: &Path<'_>, problems: &mut Problems) -> Option<Endpoint> {
    use pb::endpoint::lb_endpoint::HostIdentifier;
    if message.load_balancing_weight.is_some_and(|weight| weight.value != 1) {
        problems.error::<()>(&at.field("load_balancing_weight"), "endpoints have no weight", "leave it out");
    }
    let Some(HostIdentifier::Endpoint(endpoint)) = &message.host_identifier else {
        return problems.error(at, "the endpoint is missing", "write `endpoint`");
    };
    let path = at.field("endpoint");
    let address = address(endpoint.address.as_ref(), &path.field("address"), problems)?;
    let transport = transport(message.metadata.as_ref(), &at.field("metadata"), problems);
    let workload = metadata::text(message.metadata.as_ref(), metadata::ISTIO, metadata::WORKLOAD);
    Some(Endpoint { address, transport: transport.ok()?, workload: workload.map(workload_of) })
}

/// The mark for transport matches.
fn transport(
    metadata: Option<&pb::core::Metadata>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Option<Arc<str>>, Noted> {
    let Some(marks) = metadata.and_then(|metadata| metadata.filter_metadata.get(metadata::TRANSPORT)) else {
        return Ok(None);
    };
    let at = at.field("filter_metadata");
    metadata::identity_mark(marks, &at.key(metadata::TRANSPORT), problems)
}

/// Reads Istio's `<name>;<namespace>;<app>;<version>;<cluster>`; parts that are missing are empty.
fn workload_of(text: &str) -> Workload {
    let mut parts = text.split(';').map(Arc::from);
    let mut next = || parts.next().unwrap_or_default();
    Workload { name: next(), namespace: next(), app: next(), version: next() }
}
