//! Clusters.

#![expect(deprecated, reason = "what replaces `dns_failure_refresh_rate` is an extension")]

mod balancing;
mod options;

use std::net::SocketAddr;
use std::time::Duration;

use meshwork_model::proxy::{
    Cluster, Criterion, Discovery, Dns, DnsFamily, Network, TransportMatch, WORKLOAD_SOURCE_V4,
};
use serde_json::json;

use super::health::{health_check, outliers};
use super::{Writer, ads, duration};
use crate::decode::WORKLOAD_NETWORK;
use crate::node::Dialect;
use crate::{metadata, pb};

impl Writer<'_> {
    pub(super) fn cluster(&self, cluster: &Cluster) -> pb::cluster::Cluster {
        let mut message = pb::cluster::Cluster {
            name: cluster.name.to_string(),
            connect_timeout: Some(duration(cluster.connect_timeout)),
            metadata: metadata_of(cluster),
            circuit_breakers: Some(options::circuit_breakers(&cluster.breakers)),
            outlier_detection: cluster.outliers.as_deref().map(outliers),
            ..pb::cluster::Cluster::default()
        };
        self.balancing(cluster, &mut message);
        self.discovery(cluster, &mut message);
        self.transports(cluster, &mut message);
        if !self.is_grpc() {
            message.upstream_bind_config = self.source(cluster);
            let sayable = cluster.checks.iter().filter(|check| self.may_check(check, cluster));
            message.health_checks = sayable.map(|check| health_check(check)).collect();
            self.connections(cluster, &mut message);
        }
        message
    }

    /// Where connections begin: an address of its own is Envoy's alone.
    fn source(&self, cluster: &Cluster) -> Option<pb::core::BindConfig> {
        match (cluster.network, cluster.connections.source) {
            (Network::Workload, _) => Some(from_workload()),
            (Network::Proxy, Some(source)) if self.dialect == Dialect::Envoy => Some(from_address(source)),
            _ => None,
        }
    }

    fn discovery(&self, cluster: &Cluster, message: &mut pb::cluster::Cluster) {
        use pb::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy};
        let kind = match &cluster.discovery {
            Discovery::Static(endpoints) => {
                message.load_assignment = Some(self.endpoints(endpoints));
                // gRPC knows no static clusters.
                if self.is_grpc() { DiscoveryType::LogicalDns } else { DiscoveryType::Static }
            }
            Discovery::Eds(name) => {
                let service_name = if *name == cluster.name { String::new() } else { name.to_string() };
                message.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(ads()), service_name });
                DiscoveryType::Eds
            }
            Discovery::Dns(dns) => {
                message.load_assignment = Some(self.named(&cluster.name, dns));
                if !self.is_grpc() {
                    message.dns_lookup_family = family(dns.family) as i32;
                    message.dns_refresh_rate = (dns.refresh != Dns::REFRESH).then(|| duration(dns.refresh));
                }
                if self.dialect == Dialect::Meshwork {
                    message.dns_failure_refresh_rate = dns.failure_refresh.map(refresh_rate);
                }
                let is_strict = self.is_strict(&cluster.discovery);
                if is_strict { DiscoveryType::StrictDns } else { DiscoveryType::LogicalDns }
            }
            Discovery::OriginalDestination => {
                message.lb_policy = LbPolicy::ClusterProvided as i32;
                message.lb_subset_config = None;
                DiscoveryType::OriginalDst
            }
        };
        message.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
    }

    /// Whether each address of a name is an endpoint: Envoy tries those of one logical host in turn, and gRPC knows nothing
    /// else.
    fn is_strict(&self, discovery: &Discovery) -> bool {
        let Discovery::Dns(dns) = discovery else { return false };
        match self.dialect {
            Dialect::Meshwork => dns.is_strict,
            Dialect::Envoy => dns.is_strict && dns.hosts.len() != 1,
            Dialect::Grpc => false,
        }
    }

    fn transports(&self, cluster: &Cluster, message: &mut pb::cluster::Cluster) {
        if self.is_grpc() {
            message.transport_socket = self.only_transport(&cluster.transports);
            return;
        }
        message.transport_socket_matches =
            cluster.transports.iter().map(|transport| self.transport_match(transport)).collect();
        let takes_any = |known: &&TransportMatch| known.transport.is_none() && known.labels.is_empty();
        match cluster.transports.iter().find(takes_any) {
            // Envoy looks at the one for endpoints that nothing matches, too, where TLS is to agree on a protocol.
            Some(TransportMatch { tls: tls @ Some(_), .. }) if self.dialect == Dialect::Envoy => {
                message.transport_socket = Some(self.upstream(tls.as_ref()));
            }
            // Envoy would reach an endpoint that nothing matches in plaintext.
            None if !cluster.transports.is_empty() => {
                message.transport_socket = Some(self.refusal(&cluster.transports));
            }
            _ => {}
        }
    }

    fn transport_match(&self, transport: &TransportMatch) -> pb::cluster::cluster::TransportSocketMatch {
        pb::cluster::cluster::TransportSocketMatch {
            name: transport.name.to_string(),
            r#match: Some(marks(transport.transport.as_deref(), &transport.labels)),
            transport_socket: Some(self.upstream(transport.tls.as_ref())),
        }
    }
}

fn family(family: DnsFamily) -> pb::cluster::cluster::DnsLookupFamily {
    use pb::cluster::cluster::DnsLookupFamily;
    match family {
        DnsFamily::Auto => DnsLookupFamily::Auto,
        DnsFamily::V4 => DnsLookupFamily::V4Only,
        DnsFamily::V6 => DnsLookupFamily::V6Only,
        DnsFamily::V4Preferred => DnsLookupFamily::V4Preferred,
        DnsFamily::All => DnsLookupFamily::All,
    }
}

fn refresh_rate((least, most): (Duration, Duration)) -> pb::cluster::cluster::RefreshRate {
    pb::cluster::cluster::RefreshRate {
        base_interval: Some(duration(least)),
        max_interval: Some(duration(most)),
    }
}

/// Connections begin in the workload's network namespace.
fn from_workload() -> pb::core::BindConfig {
    use pb::core::socket_address::PortSpecifier;
    let source = pb::core::SocketAddress {
        address: WORKLOAD_SOURCE_V4.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(0)),
        network_namespace_filepath: WORKLOAD_NETWORK.to_owned(),
        ..pb::core::SocketAddress::default()
    };
    pb::core::BindConfig { source_address: Some(source), ..pb::core::BindConfig::default() }
}

fn from_address(source: SocketAddr) -> pb::core::BindConfig {
    let address = match super::address(source).address {
        Some(pb::core::address::Address::SocketAddress(socket)) => Some(socket),
        _ => None,
    };
    pb::core::BindConfig { source_address: address, ..pb::core::BindConfig::default() }
}

/// What a transport is picked by: an identity, and labels.
pub(super) fn marks(identity: Option<&str>, labels: &[Criterion]) -> pb::Struct {
    let mut marks = metadata::to_struct(labels.iter().map(|(key, value)| (key, value)));
    if let Some(identity) = identity {
        let text = pb::value::Kind::StringValue(identity.to_owned());
        marks.fields.insert(metadata::IDENTITY.to_owned(), pb::Value { kind: Some(text) });
    }
    marks
}

fn metadata_of(cluster: &Cluster) -> Option<pb::core::Metadata> {
    let service = cluster.service.as_ref().map(|service| {
        let entry = json!({
            "host": service.host(),
            "name": &*service.name,
            "namespace": &*service.namespace,
        });
        (metadata::ISTIO, json!({ metadata::SERVICES: [entry] }))
    });
    let is_only_far = matches!(&cluster.discovery, Discovery::Dns(dns) if dns.only_far);
    let own = is_only_far.then(|| (metadata::OWN, json!({ metadata::ONLY_FAR: true })));
    let all = service.into_iter().chain(own);
    let filter_metadata: std::collections::HashMap<_, _> =
        all.map(|(filter, value)| (filter.to_owned(), metadata::from_json(&value))).collect();
    (!filter_metadata.is_empty())
        .then(|| pb::core::Metadata { filter_metadata, ..pb::core::Metadata::default() })
}
