//! A table of names: a UDP listener with Envoy's DNS filter.

use std::net::IpAddr;
use std::time::Duration;

use meshwork_model::proxy::NameTable;

use super::{Writer, address, boolean, duration, pack};
use crate::node::Dialect;
use crate::pb;

const DNS_FILTER: &str = "envoy.filters.udp.dns_filter";

/// How many names Envoy asks the host's resolvers for at the same time.
const ENVOY_PENDING_LOOKUPS: u64 = 256;
/// How long it waits for them.
const ENVOY_RESOLVER_TIMEOUT: Duration = Duration::from_secs(5);

impl Writer<'_> {
    pub(super) fn names(&self, table: &NameTable) -> pb::listener::Listener {
        let mut at = address(table.address);
        if let Some(pb::core::address::Address::SocketAddress(socket)) = &mut at.address {
            socket.protocol = pb::core::socket_address::Protocol::Udp as i32;
        }
        let filter = pb::listener::ListenerFilter {
            name: DNS_FILTER.to_owned(),
            config_type: Some(pb::listener::listener_filter::ConfigType::TypedConfig(pack(
                &self.dns_filter(table),
            ))),
            ..pb::listener::ListenerFilter::default()
        };
        pb::listener::Listener {
            name: table.name.to_string(),
            address: Some(at),
            enable_reuse_port: Some(boolean(true)),
            listener_filters: vec![filter],
            ..pb::listener::Listener::default()
        }
    }

    fn dns_filter(&self, table: &NameTable) -> pb::dns_filter::DnsFilterConfig {
        use pb::dns_filter::dns_filter_config::server_context_config::ConfigSource;
        use pb::dns_filter::dns_filter_config::{ClientContextConfig, ServerContextConfig};
        let domains = table.names.iter().map(|(name, addresses)| domain(name, addresses, table.ttl));
        let names = pb::dns::DnsTable { virtual_domains: domains.collect(), ..pb::dns::DnsTable::default() };
        let is_envoy = self.dialect == Dialect::Envoy;
        pb::dns_filter::DnsFilterConfig {
            stat_prefix: table.name.to_string(),
            server_config: Some(ServerContextConfig {
                config_source: Some(ConfigSource::InlineDnsTable(names)),
            }),
            // Our own asks the host's resolvers for what it does not know in any case, and names have no case.
            client_config: is_envoy.then(|| ClientContextConfig {
                resolver_timeout: Some(duration(ENVOY_RESOLVER_TIMEOUT)),
                max_pending_lookups: ENVOY_PENDING_LOOKUPS,
                ..ClientContextConfig::default()
            }),
            case_insensitive: is_envoy,
            ..pb::dns_filter::DnsFilterConfig::default()
        }
    }
}

fn domain(name: &str, addresses: &[IpAddr], ttl: Duration) -> pb::dns::dns_table::DnsVirtualDomain {
    use pb::dns::dns_table::dns_endpoint::EndpointConfig;
    use pb::dns::dns_table::{AddressList, DnsEndpoint, DnsVirtualDomain};
    let address = addresses.iter().map(ToString::to_string).collect();
    DnsVirtualDomain {
        name: name.to_owned(),
        endpoint: Some(DnsEndpoint {
            endpoint_config: Some(EndpointConfig::AddressList(AddressList { address })),
        }),
        answer_ttl: Some(duration(ttl)),
    }
}
