//! Clusters.

#![expect(deprecated, reason = "what people still write is read")]

mod balancing;
mod options;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{
    Cluster, Discovery, Dns, DnsFamily, Endpoints, Network, ServiceName, TransportMatch, WORKLOAD_SOURCE_V4,
    WORKLOAD_SOURCE_V6,
};
use serde_json::Value;

use super::{duration, endpoint, health, only_ads, required, tls};
use crate::metadata;
use crate::path::{Path, Problems};
use crate::pb;

/// Envoy's time to connect for a cluster that says nothing.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The key of the HTTP options among a cluster's extensions.
pub(crate) const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What `network_namespace_filepath` says for the network of the workload, whoever holds that open.
pub(crate) const WORKLOAD_NETWORK: &str = "workload";

pub(crate) fn cluster(
    message: &pb::cluster::Cluster,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Cluster> {
    let name: Option<Arc<str>> = required(&message.name, &at.field("name"), problems).map(Into::into);
    let discovery = discovery(message, at, problems);
    let original = pb::cluster::cluster::DiscoveryType::OriginalDst as i32;
    let is_original =
        message.cluster_discovery_type == Some(pb::cluster::cluster::ClusterDiscoveryType::Type(original));
    let balancing = balancing::balancing(message, is_original, at, problems);
    let network = network(message.upstream_bind_config.as_ref(), &at.field("upstream_bind_config"), problems);
    let connect_timeout = match message.connect_timeout {
        None => Some(DEFAULT_CONNECT_TIMEOUT),
        Some(timeout) => connect_timeout(timeout, &at.field("connect_timeout"), problems),
    };
    let protocol = options::protocol(message, at, problems);
    let connections = options::connections(message, at, problems);
    let breakers = message.circuit_breakers.as_ref();
    let breakers = options::breakers(breakers, &at.field("circuit_breakers"), problems);
    let transports = transports(message, at, problems);
    let (balancing, spread) = balancing?;
    let outliers = match &message.outlier_detection {
        None => Some(None),
        Some(outliers) => health::outliers(outliers, &at.field("outlier_detection"), problems)
            .map(|found| Some(Arc::new(found))),
    };
    let checks = health::checks(&message.health_checks, &at.field("health_checks"), problems);
    Some(Cluster {
        name: name?,
        service: service(message.metadata.as_ref()),
        discovery: discovery?,
        network: network?,
        balancing,
        connect_timeout: connect_timeout?,
        protocol: protocol?,
        transports: transports?,
        spread,
        connections: connections?,
        breakers: breakers?,
        outliers: outliers?,
        checks: checks?,
    })
}

fn connect_timeout(timeout: pb::Duration, at: &Path<'_>, problems: &mut Problems) -> Option<Duration> {
    let timeout = duration(timeout, at, problems)?;
    if timeout.is_zero() {
        return problems.error(at, "connecting takes longer than no time", "");
    }
    Some(timeout)
}

fn discovery(message: &pb::cluster::Cluster, at: &Path<'_>, problems: &mut Problems) -> Option<Discovery> {
    use pb::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match message.cluster_discovery_type {
        None => Ok(DiscoveryType::Static),
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind),
        // The support table has named it.
        Some(ClusterDiscoveryType::ClusterType(_)) => return None,
    };
    match kind {
        Ok(DiscoveryType::OriginalDst) => match &message.load_assignment {
            None => Some(Discovery::OriginalDestination),
            Some(_) => problems.error(
                &at.field("load_assignment"),
                "connections go where they were meant to go",
                "leave it out",
            ),
        },
        Ok(kind @ (DiscoveryType::Static | DiscoveryType::StrictDns | DiscoveryType::LogicalDns)) => {
            let by_name = message
                .load_assignment
                .as_ref()
                .filter(|assignment| kind != DiscoveryType::Static && endpoint::has_names(assignment));
            if let Some(assignment) = by_name {
                let is_strict = kind == DiscoveryType::StrictDns;
                return dns(message, assignment, is_strict, at, problems).map(Discovery::Dns);
            }
            let endpoints = static_endpoints(message, &at.field("load_assignment"), problems)?;
            Some(Discovery::Static(endpoints))
        }
        Ok(DiscoveryType::Eds) => {
            let config = message.eds_cluster_config.as_ref();
            let path = at.field("eds_cluster_config");
            let source = config.and_then(|config| config.eds_config.as_ref());
            only_ads(source, &path.field("eds_config"), problems)?;
            let service = config.map(|config| config.service_name.as_str()).filter(|name| !name.is_empty());
            Some(Discovery::Eds(service.unwrap_or(&message.name).into()))
        }
        _ => problems.error(
            &at.field("type"),
            "this discovery is not supported",
            "write STATIC, STRICT_DNS, LOGICAL_DNS, EDS or ORIGINAL_DST",
        ),
    }
}

/// The names of a cluster.
fn dns(
    message: &pb::cluster::Cluster,
    assignment: &pb::endpoint::ClusterLoadAssignment,
    is_strict: bool,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Dns> {
    let path = at.field("load_assignment");
    let (hosts, policy) = endpoint::named(assignment, &path, problems)?;
    if !is_strict && hosts.len() != 1 {
        let text = "with LOGICAL_DNS there is one endpoint";
        return problems.error(&path.field("endpoints"), text, "write STRICT_DNS");
    }
    let refresh = match message.dns_refresh_rate {
        None => Dns::REFRESH,
        Some(rate) => duration(rate, &at.field("dns_refresh_rate"), problems)?,
    };
    let failures = message.dns_failure_refresh_rate.as_ref();
    let failures = failures.map(|rate| refresh_rate(rate, &at.field("dns_failure_refresh_rate"), problems));
    Some(Dns {
        hosts,
        is_strict,
        family: family(message.dns_lookup_family, &at.field("dns_lookup_family"), problems)?,
        refresh,
        failure_refresh: match failures {
            None => None,
            Some(failures) => Some(failures?),
        },
        policy,
        only_far: is_only_far(message.metadata.as_ref()),
    })
}

/// Whether our own metadata says so.
fn is_only_far(metadata: Option<&pb::core::Metadata>) -> bool {
    let own = metadata.and_then(|metadata| metadata.filter_metadata.get(metadata::OWN));
    own.is_some_and(|own| metadata::to_json(own).get(metadata::ONLY_FAR) == Some(&Value::Bool(true)))
}

fn refresh_rate(
    message: &pb::cluster::cluster::RefreshRate,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<(Duration, Duration)> {
    let Some(least) = message.base_interval else {
        return problems.error(&at.field("base_interval"), "this is missing", "write it");
    };
    let least = duration(least, &at.field("base_interval"), problems)?;
    let most = match message.max_interval {
        None => least.saturating_mul(10),
        Some(most) => duration(most, &at.field("max_interval"), problems)?,
    };
    if most < least {
        return problems.error(&at.field("max_interval"), "this is less than `base_interval`", "");
    }
    Some((least, most))
}

fn family(family: i32, at: &Path<'_>, problems: &mut Problems) -> Option<DnsFamily> {
    use pb::cluster::cluster::DnsLookupFamily;
    Some(match DnsLookupFamily::try_from(family) {
        Ok(DnsLookupFamily::Auto) => DnsFamily::Auto,
        Ok(DnsLookupFamily::V4Only) => DnsFamily::V4,
        Ok(DnsLookupFamily::V6Only) => DnsFamily::V6,
        Ok(DnsLookupFamily::V4Preferred) => DnsFamily::V4Preferred,
        Ok(DnsLookupFamily::All) => DnsFamily::All,
        Err(_) => return problems.error(at, "this is no family of addresses", ""),
    })
}

/// Whose network connections begin in.
fn network(config: Option<&pb::core::BindConfig>, at: &Path<'_>, problems: &mut Problems) -> Option<Network> {
    let Some(config) = config else { return Some(Network::Proxy) };
    let at = at.field("source_address");
    let Some(source) = &config.source_address else {
        return problems.error(&at, "the source address is missing", "leave out `upstream_bind_config`");
    };
    if source.network_namespace_filepath != WORKLOAD_NETWORK {
        let path = at.field("network_namespace_filepath");
        return problems.error(&path, "only the workload's network is supported", "write `workload`");
    }
    let known = [IpAddr::V4(WORKLOAD_SOURCE_V4), IpAddr::V6(WORKLOAD_SOURCE_V6)];
    if !source.address.parse().is_ok_and(|address| known.contains(&address)) {
        let fix = format!("write {WORKLOAD_SOURCE_V4}");
        return problems.error(&at.field("address"), "the source address is a fixed one", &fix);
    }
    Some(Network::Workload)
}

fn static_endpoints(
    message: &pb::cluster::Cluster,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Endpoints> {
    match &message.load_assignment {
        Some(assignment) => endpoint::endpoints(assignment, at, problems),
        None => problems.error(at, "the endpoints are missing", "write `load_assignment`"),
    }
}

/// The transports in order of their matches. Where none matches, Envoy takes the cluster's own transport socket,
/// or plaintext; that stands here as a last entry that takes any endpoint.
fn transports(
    message: &pb::cluster::Cluster,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<TransportMatch>> {
    let path = at.field("transport_socket_matches");
    let mut transports = Vec::new();
    for (index, message) in message.transport_socket_matches.iter().enumerate() {
        transports.push(transport_match(message, &path.index(index), problems)?);
    }
    if transports.iter().any(|transport| transport.transport.is_none() && transport.labels.is_empty()) {
        return Some(transports);
    }
    match &message.transport_socket {
        Some(socket) if tls::is_refusal(socket) => {}
        Some(socket) => {
            let tls = tls::upstream(socket, &at.field("transport_socket"), problems).ok()?;
            let name = socket.name.as_str().into();
            transports.push(TransportMatch { name, transport: None, labels: Vec::new(), tls });
        }
        None if transports.is_empty() => {}
        None => {
            let name = "".into();
            transports.push(TransportMatch { name, transport: None, labels: Vec::new(), tls: None });
        }
    }
    Some(transports)
}

fn transport_match(
    message: &pb::cluster::cluster::TransportSocketMatch,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<TransportMatch> {
    let (transport, labels) = match &message.r#match {
        None => (None, Vec::new()),
        Some(marks) => metadata::marks(marks, &at.field("match"), problems).ok()?,
    };
    let path = at.field("transport_socket");
    let Some(socket) = &message.transport_socket else {
        return problems.error(&path, "the transport socket is missing", "");
    };
    let tls = tls::upstream(socket, &path, problems).ok()?;
    Some(TransportMatch { name: message.name.as_str().into(), transport, labels, tls })
}

/// The service that Istio's metadata names.
fn service(metadata: Option<&pb::core::Metadata>) -> Option<ServiceName> {
    let istio = metadata::to_json(metadata?.filter_metadata.get(metadata::ISTIO)?);
    let first = istio.get(metadata::SERVICES)?.get(0)?;
    let text = |key| first.get(key).and_then(Value::as_str).map(Arc::from);
    Some(ServiceName { name: text("name")?, namespace: text("namespace")? })
}
