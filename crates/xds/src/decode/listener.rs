//! Listeners, filter chains, and the network filters.

use std::sync::Arc;

use meshwork_model::proxy::{
    ChainMatch, Direction, FilterChain, HttpFilter, Listener, NetworkFilter, Rbac, Resource, TcpProxy,
    Transport,
};

use super::{address, http, is, names, policy, required, timeout, tls, unpack};
use crate::path::{Path, Problems};
use crate::pb;

/// A listener of connections or, where it is asked by UDP, a table of names.
pub(crate) fn listener(
    message: &pb::listener::Listener,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Resource> {
    if names::is_udp(message) {
        names::names(message, at, problems).map(Resource::Names)
    } else {
        of_connections(message, at, problems).map(Resource::Listener)
    }
}

fn of_connections(
    message: &pb::listener::Listener,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Listener> {
    let name = required(&message.name, &at.field("name"), problems);
    let use_original_dst = message.use_original_dst.is_some_and(|original| original.value);
    listener_filters(message, use_original_dst, at, problems);
    let (address, chains) = if let Some(api) = &message.api_listener {
        (None, vec![api_chain(api, &at.field("api_listener"), problems)?])
    } else {
        let bind = address(message.address.as_ref(), &at.field("address"), problems);
        (Some(bind?), chains(message, at, problems))
    };
    let path = at.field("additional_addresses");
    let mut additional_addresses = Vec::new();
    for (index, further) in message.additional_addresses.iter().enumerate() {
        let at = path.index(index);
        additional_addresses.extend(super::address(further.address.as_ref(), &at.field("address"), problems));
    }
    Some(Listener {
        additional_addresses,
        bind_to_port: message.bind_to_port.is_none_or(|bind| bind.value),
        use_original_dst,
        ..Listener::new(name?, address, direction(message.traffic_direction), chains)
    })
}

fn direction(direction: i32) -> Direction {
    match pb::core::TrafficDirection::try_from(direction) {
        Ok(pb::core::TrafficDirection::Inbound) => Direction::Inbound,
        Ok(pb::core::TrafficDirection::Outbound) => Direction::Outbound,
        _ => Direction::Unspecified,
    }
}

/// Only the TLS inspector, which is implied, and what `use_original_dst` implies.
fn listener_filters(
    message: &pb::listener::Listener,
    use_original_dst: bool,
    at: &Path<'_>,
    problems: &mut Problems,
) {
    let at = at.field("listener_filters");
    for (index, filter) in message.listener_filters.iter().enumerate() {
        let at = at.index(index);
        match &filter.config_type {
            Some(pb::listener::listener_filter::ConfigType::TypedConfig(any))
                if is::<pb::TlsInspector>(any) || (use_original_dst && is::<pb::OriginalDst>(any)) => {}
            Some(pb::listener::listener_filter::ConfigType::TypedConfig(any))
                if is::<pb::OriginalDst>(any) =>
            {
                let text = "the original destination is looked up to hand connections over by it";
                problems.error::<()>(&at, text, "write `use_original_dst: true` in the listener");
            }
            _ => {
                let text = "only tls_inspector and original_dst are supported as listener filters";
                problems.error::<()>(&at, text, "");
            }
        }
    }
}

fn api_chain(api: &pb::listener::ApiListener, at: &Path<'_>, problems: &mut Problems) -> Option<FilterChain> {
    let at = at.field("api_listener");
    let Some(message) = api.api_listener.as_ref().and_then(unpack::<pb::hcm::HttpConnectionManager>) else {
        return problems.error(&at, "an API listener holds an HttpConnectionManager", "");
    };
    let http = http::connection(&message, &at, problems)?;
    let filter = NetworkFilter::Http(Arc::new(http));
    Some(FilterChain { name: "".into(), matches: ChainMatch::default(), tls: None, filter })
}

/// All chains, the more specific ones first, as Envoy prefers them; the default one last.
fn chains(message: &pb::listener::Listener, at: &Path<'_>, problems: &mut Problems) -> Vec<FilterChain> {
    let path = at.field("filter_chains");
    let mut chains: Vec<FilterChain> = Vec::new();
    for (index, message) in message.filter_chains.iter().enumerate() {
        chains.extend(chain(message, &path.index(index), problems));
    }
    chains.sort_by_key(|chain| {
        let matches = &chain.matches;
        (matches.server_names.is_empty(), matches.transport.is_none(), matches.alpn.is_empty())
    });
    if let Some(default) = &message.default_filter_chain {
        let chain = chain(default, &at.field("default_filter_chain"), problems);
        chains.extend(chain.map(|chain| FilterChain { matches: ChainMatch::default(), ..chain }));
    } else if message.filter_chains.is_empty() {
        problems.error::<()>(&path, "a listener needs a filter chain", "");
    }
    chains
}

fn chain(message: &pb::listener::FilterChain, at: &Path<'_>, problems: &mut Problems) -> Option<FilterChain> {
    let matches = chain_match(message, &at.field("filter_chain_match"), problems);
    let tls = match &message.transport_socket {
        Some(socket) => tls::downstream(socket, &at.field("transport_socket"), problems),
        None => Ok(None),
    };
    let filter = network_filter(&message.filters, &at.field("filters"), problems);
    Some(FilterChain {
        name: message.name.as_str().into(),
        matches: matches?,
        tls: tls.ok()?,
        filter: filter?,
    })
}

fn chain_match(
    message: &pb::listener::FilterChain,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<ChainMatch> {
    let Some(message) = &message.filter_chain_match else { return Some(ChainMatch::default()) };
    let transport = match message.transport_protocol.as_str() {
        "" => None,
        "tls" => Some(Transport::Tls),
        "raw_buffer" => Some(Transport::Plaintext),
        other => {
            let text = format!("the transport protocol `{other}` is not known");
            return problems.error(&at.field("transport_protocol"), text, "write `tls` or `raw_buffer`");
        }
    };
    let alpn = message.application_protocols.iter().map(|protocol| protocol.as_str().into()).collect();
    let path = at.field("server_names");
    let mut server_names = Vec::new();
    for (index, name) in message.server_names.iter().enumerate() {
        server_names.push(server_name_match(name, &path.index(index), problems)?);
    }
    Some(ChainMatch { transport, alpn, server_names })
}

/// A server name, or a wildcard for what is below a domain. Source: Envoy `FilterChainMatch.server_names`.
fn server_name_match(name: &str, at: &Path<'_>, problems: &mut Problems) -> Option<Arc<str>> {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if rest.is_empty() || rest.contains('*') {
        let text = format!("`{name}` is no server name");
        return problems.error(at, text, "write `host.example.com` or `*.example.com`");
    }
    Some(name.to_ascii_lowercase().into())
}

/// The filters of a chain: authorization, then one that consumes the connection.
fn network_filter(
    filters: &[pb::listener::Filter],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<NetworkFilter> {
    let Some((last, before)) = filters.split_last() else {
        return problems.error(at, "a chain needs a filter", "");
    };
    let mut rbac = Vec::new();
    for (index, filter) in before.iter().enumerate() {
        rbac.extend(network_rbac(filter, &at.index(index), problems));
    }
    let at = at.index(before.len());
    let typed = at.field("typed_config");
    let config = typed_config(last);
    if let Some(message) = config.and_then(unpack::<pb::tcp_proxy::TcpProxy>) {
        let tcp = tcp_proxy(&message, rbac, &typed, problems)?;
        return Some(NetworkFilter::Tcp(Arc::new(tcp)));
    }
    let Some(message) = config.and_then(unpack::<pb::hcm::HttpConnectionManager>) else {
        return problems.error(
            &at,
            "the last filter must consume the connection",
            "end with http_connection_manager or tcp_proxy",
        );
    };
    let mut http = http::connection(&message, &typed, problems)?;
    // What a connection may not do, its requests may not do either.
    let rules = |rbac| HttpFilter::rbac("envoy.filters.network.rbac", rbac);
    http.filters.splice(0..0, rbac.into_iter().map(rules));
    Some(NetworkFilter::Http(Arc::new(http)))
}

fn typed_config(filter: &pb::listener::Filter) -> Option<&pb::Any> {
    match &filter.config_type {
        Some(pb::listener::filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    }
}

fn network_rbac(filter: &pb::listener::Filter, at: &Path<'_>, problems: &mut Problems) -> Option<Arc<Rbac>> {
    let Some(message) = typed_config(filter).and_then(unpack::<pb::NetworkRbac>) else {
        return problems.error(at, "only rbac may stand before the last filter", "");
    };
    let typed = at.field("typed_config");
    policy::rbac(message.rules.as_ref()?, &typed.field("rules"), problems).map(Arc::new)
}

fn tcp_proxy(
    message: &pb::tcp_proxy::TcpProxy,
    rbac: Vec<Arc<Rbac>>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<TcpProxy> {
    let Some(pb::tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(cluster)) = &message.cluster_specifier
    else {
        return problems.error(at, "the cluster is missing", "write `cluster`");
    };
    Some(TcpProxy {
        stat_prefix: message.stat_prefix.as_str().into(),
        cluster: cluster.as_str().into(),
        rbac,
        idle_timeout: timeout(message.idle_timeout, &at.field("idle_timeout"), problems),
    })
}
