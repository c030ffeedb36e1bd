//! Clusters and endpoints.

#![expect(deprecated, reason = "what replaces `dns_failure_refresh_rate` is an extension")]

use std::time::Duration;

use meshwork_model::proxy::{
    Balancing, Cluster, Discovery, Dns, DnsFamily, DnsHost, Endpoint, Endpoints, Network, TransportMatch,
    UpstreamProtocol, WORKLOAD_SOURCE_V4, Workload,
};
use serde_json::json;

use super::{Writer, address, ads, duration, number, pack};
use crate::decode::{HTTP_OPTIONS, WORKLOAD_NETWORK};
use crate::node::Dialect;
use crate::{metadata, pb};

/// The one locality of gRPC's endpoints: it drops endpoints without a locality, and without a weight, in silence.
const LOCALITY: &str = "mesh";

impl Writer<'_> {
    pub(super) fn cluster(&self, cluster: &Cluster) -> pb::cluster::Cluster {
        let mut message = pb::cluster::Cluster {
            name: cluster.name.to_string(),
            connect_timeout: Some(duration(cluster.connect_timeout)),
            lb_policy: self.balancing(cluster.balancing) as i32,
            metadata: service_metadata(cluster),
            ..pb::cluster::Cluster::default()
        };
        self.discovery(cluster, &mut message);
        if cluster.network == Network::Workload && !self.is_grpc() {
            message.upstream_bind_config = Some(from_workload());
        }
        self.transports(cluster, &mut message);
        if cluster.protocol == UpstreamProtocol::Http2 && !self.is_grpc() {
            message.typed_extension_protocol_options.insert(HTTP_OPTIONS.to_owned(), pack(&http2()));
        }
        message
    }

    /// gRPC's core knows no other policy that we have.
    fn balancing(&self, balancing: Balancing) -> pb::cluster::cluster::LbPolicy {
        use pb::cluster::cluster::LbPolicy;
        match balancing {
            Balancing::RoundRobin(_) => LbPolicy::RoundRobin,
            _ if self.is_grpc() => LbPolicy::RoundRobin,
            Balancing::Random => LbPolicy::Random,
            Balancing::LeastRequest(_) => LbPolicy::LeastRequest,
            Balancing::RingHash(_) => LbPolicy::RingHash,
            Balancing::Maglev(_) => LbPolicy::Maglev,
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
                message.load_assignment = Some(named(&cluster.name, dns));
                if !self.is_grpc() {
                    message.dns_lookup_family = family(dns.family) as i32;
                }
                if self.dialect == Dialect::Meshwork {
                    message.dns_failure_refresh_rate = dns.failure_refresh.map(refresh_rate);
                }
                // Envoy tries the addresses of one logical host in turn; gRPC knows nothing else.
                let is_strict = dns.is_strict && self.dialect == Dialect::Meshwork;
                if is_strict { DiscoveryType::StrictDns } else { DiscoveryType::LogicalDns }
            }
            Discovery::OriginalDestination => {
                message.lb_policy = LbPolicy::ClusterProvided as i32;
                DiscoveryType::OriginalDst
            }
        };
        message.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
    }

    fn transports(&self, cluster: &Cluster, message: &mut pb::cluster::Cluster) {
        if self.is_grpc() {
            message.transport_socket = self.only_transport(&cluster.transports);
            return;
        }
        message.transport_socket_matches =
            cluster.transports.iter().map(|transport| self.transport_match(transport)).collect();
        let all_matched = cluster.transports.iter().any(|transport| transport.transport.is_none());
        if !cluster.transports.is_empty() && !all_matched {
            // Envoy would reach an endpoint that nothing matches in plaintext.
            message.transport_socket = Some(self.refusal(&cluster.transports));
        }
    }

    fn transport_match(&self, transport: &TransportMatch) -> pb::cluster::cluster::TransportSocketMatch {
        let mark = transport.transport.as_deref();
        pb::cluster::cluster::TransportSocketMatch {
            name: transport.name.to_string(),
            r#match: Some(mark.map(identity_mark).unwrap_or_default()),
            transport_socket: Some(self.upstream(transport.tls.as_ref())),
        }
    }

    pub(super) fn endpoints(&self, endpoints: &Endpoints) -> pb::endpoint::ClusterLoadAssignment {
        let mut locality = pb::endpoint::LocalityLbEndpoints {
            lb_endpoints: endpoints.endpoints.iter().map(lb_endpoint).collect(),
            ..pb::endpoint::LocalityLbEndpoints::default()
        };
        if self.is_grpc() {
            locality.load_balancing_weight = Some(number(1));
            locality.locality =
                Some(pb::core::Locality { region: LOCALITY.to_owned(), ..pb::core::Locality::default() });
        }
        let localities = if endpoints.endpoints.is_empty() { Vec::new() } else { vec![locality] };
        pb::endpoint::ClusterLoadAssignment {
            cluster_name: endpoints.cluster.to_string(),
            endpoints: localities,
            ..pb::endpoint::ClusterLoadAssignment::default()
        }
    }
}

/// Endpoints by name.
fn named(cluster: &str, dns: &Dns) -> pb::endpoint::ClusterLoadAssignment {
    use pb::endpoint::lb_endpoint::HostIdentifier;
    let endpoint = |DnsHost { host, port }: &DnsHost| pb::endpoint::LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(pb::endpoint::Endpoint {
            address: Some(super::socket_address(host.to_string(), *port)),
            ..pb::endpoint::Endpoint::default()
        })),
        ..pb::endpoint::LbEndpoint::default()
    };
    let locality = pb::endpoint::LocalityLbEndpoints {
        lb_endpoints: dns.hosts.iter().map(|named| endpoint(&named.host)).collect(),
        ..pb::endpoint::LocalityLbEndpoints::default()
    };
    pb::endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![locality],
        ..pb::endpoint::ClusterLoadAssignment::default()
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

fn http2() -> pb::upstream_http::HttpProtocolOptions {
    use pb::upstream_http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(
            ProtocolConfig::Http2ProtocolOptions(pb::core::Http2ProtocolOptions::default()),
        ),
    };
    pb::upstream_http::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..pb::upstream_http::HttpProtocolOptions::default()
    }
}

fn identity_mark(identity: &str) -> pb::Struct {
    metadata::from_json(&json!({ metadata::IDENTITY: identity }))
}

fn service_metadata(cluster: &Cluster) -> Option<pb::core::Metadata> {
    let service = cluster.service.as_ref()?;
    let entry = json!({
        "host": service.host(),
        "name": &*service.name,
        "namespace": &*service.namespace,
    });
    let istio = metadata::from_json(&json!({ metadata::SERVICES: [entry] }));
    Some(pb::core::Metadata {
        filter_metadata: [(metadata::ISTIO.to_owned(), istio)].into(),
        ..pb::core::Metadata::default()
    })
}

fn lb_endpoint(endpoint: &Endpoint) -> pb::endpoint::LbEndpoint {
    use pb::endpoint::lb_endpoint::HostIdentifier;
    let host = pb::endpoint::Endpoint {
        address: Some(address(endpoint.address)),
        ..pb::endpoint::Endpoint::default()
    };
    let mut filter_metadata = std::collections::HashMap::new();
    if let Some(identity) = &endpoint.transport {
        filter_metadata.insert(metadata::TRANSPORT.to_owned(), identity_mark(identity));
    }
    if let Some(workload) = &endpoint.workload {
        let istio = json!({ metadata::WORKLOAD: workload_text(workload) });
        filter_metadata.insert(metadata::ISTIO.to_owned(), metadata::from_json(&istio));
    }
    let metadata = pb::core::Metadata { filter_metadata, ..pb::core::Metadata::default() };
    pb::endpoint::LbEndpoint {
        metadata: (!metadata.filter_metadata.is_empty()).then_some(metadata),
        host_identifier: Some(HostIdentifier::Endpoint(host)),
        ..pb::endpoint::LbEndpoint::default()
    }
}

/// Istio's `<name>;<namespace>;<app>;<version>;<cluster>`; there is one cluster, without a name.
fn workload_text(workload: &Workload) -> String {
    format!("{};{};{};{};", workload.name, workload.namespace, workload.app, workload.version)
}
