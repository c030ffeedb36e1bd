//! Tables of names: UDP listeners with Envoy's DNS filter.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::NameTable;

use super::{duration, required, socket, socket_address, unpack};
use crate::path::{Path, Problems};
use crate::pb;

/// The shortest time that an answer may be kept. Source: Envoy `DnsVirtualDomain.answer_ttl`.
const TTL_LEAST: Duration = Duration::from_secs(30);

/// Whether a listener is asked by UDP, so that it can only be a table of names.
pub(super) fn is_udp(message: &pb::listener::Listener) -> bool {
    let socket = socket(message.address.as_ref());
    socket.is_some_and(|socket| socket.protocol == pb::core::socket_address::Protocol::Udp as i32)
}

pub(super) fn names(
    message: &pb::listener::Listener,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<NameTable> {
    let name = required(&message.name, &at.field("name"), problems);
    only_names(message, at, problems);
    let address = socket(message.address.as_ref())
        .and_then(|socket| socket_address(socket, &at.field("address").field("socket_address"), problems));
    let at = at.field("listener_filters");
    let [filter] = message.listener_filters.as_slice() else {
        let fix = "write one listener filter, the DNS filter";
        return problems.error(&at, "a UDP listener answers for names, and does nothing else", fix);
    };
    let at = at.index(0);
    let config = match &filter.config_type {
        Some(pb::listener::listener_filter::ConfigType::TypedConfig(any)) => {
            unpack::<pb::dns_filter::DnsFilterConfig>(any)
        }
        _ => None,
    };
    let Some(config) = config else {
        return problems.error(&at, "only the DNS filter is supported for UDP", "");
    };
    dns_filter(name?.into(), address?, &config, &at.field("typed_config"), problems)
}

/// What a listener of connections says, and a table of names cannot.
fn only_names(message: &pb::listener::Listener, at: &Path<'_>, problems: &mut Problems) {
    let other = if !message.filter_chains.is_empty() {
        "filter_chains"
    } else if message.default_filter_chain.is_some() {
        "default_filter_chain"
    } else if message.api_listener.is_some() {
        "api_listener"
    } else if !message.additional_addresses.is_empty() {
        "additional_addresses"
    } else if message.bind_to_port.is_some_and(|bind| !bind.value) {
        "bind_to_port"
    } else if message.use_original_dst.is_some_and(|original| original.value) {
        "use_original_dst"
    } else {
        return;
    };
    problems.error::<()>(&at.field(other), "this is not for UDP", "leave it out");
}

fn dns_filter(
    name: Arc<str>,
    address: SocketAddr,
    config: &pb::dns_filter::DnsFilterConfig,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<NameTable> {
    use pb::dns_filter::dns_filter_config::server_context_config::ConfigSource;
    let at = at.field("server_config");
    let source = config.server_config.as_ref().and_then(|server| server.config_source.as_ref());
    let Some(ConfigSource::InlineDnsTable(table)) = source else {
        return problems.error(&at, "the names are missing", "write `inline_dns_table`");
    };
    let at = at.field("inline_dns_table");
    let path = at.field("virtual_domains");
    let mut names = BTreeMap::new();
    let mut common = None;
    for (index, domain) in table.virtual_domains.iter().enumerate() {
        let at = path.index(index);
        let Some((name, addresses)) = domain_of(domain, &at, problems) else { continue };
        let Some(ttl) = ttl(domain, &at.field("answer_ttl"), problems) else { continue };
        if *common.get_or_insert(ttl) != ttl {
            let text = "the names of a table are kept for the same time";
            problems.error::<()>(&at.field("answer_ttl"), text, "give all the same");
        }
        if names.insert(name, addresses).is_some() {
            problems.error::<()>(&at.field("name"), format!("{} is listed twice", domain.name), "");
        }
    }
    Some(NameTable { name, address, ttl: common.unwrap_or(NameTable::TTL), names })
}

fn ttl(
    domain: &pb::dns::dns_table::DnsVirtualDomain,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Duration> {
    let Some(ttl) = domain.answer_ttl else { return Some(NameTable::TTL) };
    let ttl = duration(ttl, at, problems)?;
    if ttl < TTL_LEAST {
        return problems.error(at, "answers are kept for 30 s at least", "write `30s` or more");
    }
    Some(ttl)
}

fn domain_of(
    domain: &pb::dns::dns_table::DnsVirtualDomain,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<(Arc<str>, Vec<IpAddr>)> {
    use pb::dns::dns_table::dns_endpoint::EndpointConfig;
    let name = domain.name.strip_suffix('.').unwrap_or(&domain.name).to_ascii_lowercase();
    let name = required(&name, &at.field("name"), problems).map(Arc::from);
    if domain.name.contains('*') {
        return problems.error(&at.field("name"), "wildcards are not supported", "list each name");
    }
    let at = at.field("endpoint");
    let config = domain.endpoint.as_ref().and_then(|endpoint| endpoint.endpoint_config.as_ref());
    let Some(EndpointConfig::AddressList(list)) = config else {
        return problems.error(&at, "the addresses are missing", "write `address_list`");
    };
    let at = at.field("address_list");
    let path = at.field("address");
    if list.address.is_empty() {
        return problems.error(&path, "a name needs an address", "");
    }
    let mut addresses = Vec::new();
    for (index, text) in list.address.iter().enumerate() {
        let Ok(address) = text.parse() else {
            return problems.error(&path.index(index), format!("`{text}` is not an IP address"), "");
        };
        addresses.push(address);
    }
    Some((name?, addresses))
}
