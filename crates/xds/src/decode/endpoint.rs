//! Endpoints.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use meshwork_model::proxy::{
    CheckTarget, DnsHost, Endpoint, Endpoints, Health, LoadPolicy, Locality, NamedEndpoint, Place, Workload,
};

use super::{Read, address, required};
use crate::metadata;
use crate::path::{Noted, Path, Problems};
use crate::pb;

/// The most priorities, as Envoy.
const PRIORITIES: u32 = 128;

/// Endpoints of their own, which need the name under which they were asked for.
pub(super) fn endpoints(
    message: &pb::endpoint::ClusterLoadAssignment,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Endpoints> {
    let cluster: Arc<str> = required(&message.cluster_name, &at.field("cluster_name"), problems)?.into();
    let mut endpoints = Vec::new();
    let mut seen = HashSet::new();
    each(message, at, problems, |found, place, at, problems| {
        let path = at.field("endpoint");
        let address = found.host.address.as_ref();
        let Some(address) = self::address(address, &path.field("address"), problems) else { return };
        if !seen.insert(address) {
            problems.error::<()>(at, format!("{address} is listed twice"), "");
        }
        endpoints.extend(endpoint(&found, address, place, at, problems));
    });
    let policy = policy(message.policy.as_ref(), &at.field("policy"), problems);
    Some(Endpoints { cluster, endpoints, policy: policy? })
}

/// Endpoints by name, and how load follows their health.
pub(super) fn named(
    message: &pb::endpoint::ClusterLoadAssignment,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<(Vec<NamedEndpoint>, LoadPolicy)> {
    let mut all = Vec::new();
    each(message, at, problems, |found, place, at, problems| {
        let path = at.field("endpoint");
        let Some(host) = dns_host(found.host.address.as_ref(), &path.field("address"), problems) else {
            return;
        };
        let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, host.port));
        let Some(mut endpoint) = endpoint(&found, anywhere, place, at, problems) else { return };
        if endpoint.hostname.is_empty() {
            endpoint.hostname = Arc::clone(&host.host);
        }
        all.push(NamedEndpoint { host, endpoint });
    });
    let policy = policy(message.policy.as_ref(), &at.field("policy"), problems);
    Some((all, policy?))
}

/// Whether an endpoint is there by name.
pub(super) fn has_names(message: &pb::endpoint::ClusterLoadAssignment) -> bool {
    use pb::endpoint::lb_endpoint::HostIdentifier;
    let mut all = message.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
    all.any(|endpoint| {
        let Some(HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else { return false };
        let socket = super::socket(host.address.as_ref());
        socket.is_some_and(|socket| socket.address.parse::<IpAddr>().is_err())
    })
}

/// An endpoint as it was found in its message.
struct Found<'m> {
    message: &'m pb::endpoint::LbEndpoint,
    host: &'m pb::endpoint::Endpoint,
}

fn each<'m>(
    message: &'m pb::endpoint::ClusterLoadAssignment,
    at: &Path<'_>,
    problems: &mut Problems,
    mut take: impl FnMut(Found<'m>, &Arc<Place>, &Path<'_>, &mut Problems),
) {
    use pb::endpoint::lb_endpoint::HostIdentifier;
    let path = at.field("endpoints");
    for (index, locality) in message.endpoints.iter().enumerate() {
        let at = path.index(index);
        let Some(place) = place(locality, &at, problems).map(Arc::new) else { continue };
        let path = at.field("lb_endpoints");
        for (index, message) in locality.lb_endpoints.iter().enumerate() {
            let at = path.index(index);
            match &message.host_identifier {
                Some(HostIdentifier::Endpoint(host)) => take(Found { message, host }, &place, &at, problems),
                _ => {
                    problems.error::<()>(&at, "the endpoint is missing", "write `endpoint`");
                }
            }
        }
    }
}

fn place(
    message: &pb::endpoint::LocalityLbEndpoints,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Place> {
    if message.priority > PRIORITIES {
        return problems.error(&at.field("priority"), format!("this is more than {PRIORITIES}"), "");
    }
    let locality = message.locality.as_ref();
    let text = |of: fn(&pb::core::Locality) -> &String| {
        locality.map_or_else(Arc::default, |locality| Arc::from(of(locality).as_str()))
    };
    Some(Place {
        priority: message.priority,
        locality: Locality {
            region: text(|locality| &locality.region),
            zone: text(|locality| &locality.zone),
            sub_zone: text(|locality| &locality.sub_zone),
        },
        weight: weight(message.load_balancing_weight, &at.field("load_balancing_weight"), problems)?,
        metadata: metadata::others(message.metadata.as_ref()),
    })
}

fn weight(value: Option<pb::UInt32Value>, at: &Path<'_>, problems: &mut Problems) -> Read<Option<u32>> {
    match value.map(|value| value.value) {
        Some(0) => problems.error(at, "a weight is 1 at least", "leave it out"),
        weight => Some(weight),
    }
}

fn endpoint(
    found: &Found<'_>,
    address: SocketAddr,
    place: &Arc<Place>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Endpoint> {
    let Found { message, host } = found;
    let weight = weight(message.load_balancing_weight, &at.field("load_balancing_weight"), problems);
    let metadata = message.metadata.as_ref();
    let transport = transport(metadata, &at.field("metadata"), problems);
    let workload = metadata::text(metadata, metadata::ISTIO, metadata::WORKLOAD);
    let path = at.field("endpoint");
    let check = check(host.health_check_config.as_ref(), &path.field("health_check_config"), problems);
    Some(Endpoint {
        address,
        hostname: host.hostname.as_str().into(),
        transport: transport.ok()?,
        workload: workload.map(workload_of),
        metadata: Arc::new(metadata::others(metadata)),
        weight: weight?.unwrap_or(1),
        health: health(message.health_status),
        check: check?,
        place: Arc::clone(place),
    })
}

fn health(status: i32) -> Health {
    use pb::core::HealthStatus;
    match HealthStatus::try_from(status) {
        Ok(HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Unhealthy) => Health::Unhealthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Ok(HealthStatus::Timeout) => Health::Timeout,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Unknown) | Err(_) => Health::Unknown,
    }
}

fn check(
    message: Option<&pb::endpoint::endpoint::HealthCheckConfig>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<CheckTarget> {
    let Some(message) = message else { return Some(CheckTarget::default()) };
    let port = if let Ok(port) = u16::try_from(message.port_value) {
        Some(port).filter(|port| *port != 0)
    } else {
        let text = format!("{} is no port", message.port_value);
        return problems.error(&at.field("port_value"), text, "");
    };
    let address = match &message.address {
        None => None,
        some => Some(self::address(some.as_ref(), &at.field("address"), problems)?),
    };
    Some(CheckTarget {
        port,
        address,
        hostname: message.hostname.as_str().into(),
        is_disabled: message.disable_active_health_check,
    })
}

/// A host name, or an IP address, and a port.
fn dns_host(address: Option<&pb::core::Address>, at: &Path<'_>, problems: &mut Problems) -> Option<DnsHost> {
    let Some(socket) = super::socket(address) else {
        return problems.error(at, "an address is missing", "write `socket_address`");
    };
    let at = at.field("socket_address");
    if socket.protocol != pb::core::socket_address::Protocol::Tcp as i32
        || !socket.network_namespace_filepath.is_empty()
    {
        return problems.error(&at, "only TCP in the proxy's own network is supported", "");
    }
    if !is_host_name(&socket.address) && socket.address.parse::<IpAddr>().is_err() {
        let text = format!("`{}` is neither a host name nor an IP address", socket.address);
        return problems.error(&at.field("address"), text, "");
    }
    match socket.port_specifier {
        Some(pb::core::socket_address::PortSpecifier::PortValue(port)) => match u16::try_from(port) {
            Ok(port) if port != 0 => Some(DnsHost { host: socket.address.to_ascii_lowercase().into(), port }),
            _ => problems.error(&at.field("port_value"), format!("{port} is no port"), ""),
        },
        _ => problems.error(&at, "the port is missing", "write `port_value`"),
    }
}

/// The longest name of DNS. Source: RFC 1035 §2.3.4.
const NAME_BYTES: usize = 253;

fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= NAME_BYTES && name.split('.').all(is_label)
}

fn policy(
    message: Option<&pb::endpoint::cluster_load_assignment::Policy>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<LoadPolicy> {
    let Some(message) = message else { return Some(LoadPolicy::default()) };
    let overprovisioning = match message.overprovisioning_factor {
        None => LoadPolicy::default().overprovisioning,
        Some(factor) if factor.value == 0 => {
            return problems.error(
                &at.field("overprovisioning_factor"),
                "this is 1 at least",
                "leave it out",
            );
        }
        Some(factor) => factor.value,
    };
    let mut drops = Vec::new();
    let path = at.field("drop_overloads");
    for (index, drop) in message.drop_overloads.iter().enumerate() {
        let at = path.index(index);
        let at = at.field("drop_percentage");
        drops.push(parts_of_million(drop.drop_percentage.as_ref(), &at, problems)?);
    }
    Some(LoadPolicy { overprovisioning, by_weight: message.weighted_priority_health, drops })
}

/// A fraction in parts of a million.
fn parts_of_million(
    fraction: Option<&envoy_types::pb::envoy::r#type::v3::FractionalPercent>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<u32> {
    use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
    let Some(fraction) = fraction else { return Some(0) };
    let factor = match DenominatorType::try_from(fraction.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return problems.error(&at.field("denominator"), "this is no denominator", ""),
    };
    Some(fraction.numerator.saturating_mul(factor).min(1_000_000))
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
    metadata::marks(marks, &at.key(metadata::TRANSPORT), problems).map(|(identity, _)| identity)
}

/// Reads Istio's `<name>;<namespace>;<app>;<version>;<cluster>`; parts that are missing are empty.
fn workload_of(text: &str) -> Workload {
    let mut parts = text.split(';').map(Arc::from);
    let mut next = || parts.next().unwrap_or_default();
    Workload { name: next(), namespace: next(), app: next(), version: next() }
}
