//! Listeners, their filters, filter chains, and the network filters.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::chain::ChainIndex;
use meshwork_model::cidr::Cidr;
use meshwork_model::proxy::{
    ChainMatch, ConnectionLimit, Direction, FilterChain, Gate, Listener, ListenerFilter, ListenerFilterKind,
    NetworkFilter, PortTest, ProxyProtocol, Resource, SocketOptions, SourceType, TcpCluster, TcpProxy,
    TlsInspector, Transport,
};

use super::{access_log, address, duration, http, is, names, policy, required, timeout, tls, unpack};
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
    let default_chain = match &message.default_filter_chain {
        None => None,
        Some(default) => {
            let chain = chain(default, &at.field("default_filter_chain"), problems)?;
            Some(FilterChain { matches: ChainMatch::default(), ..chain })
        }
    };
    let use_original_dst = is_true(message.use_original_dst);
    Some(Listener {
        additional_addresses,
        bind_to_port: message.bind_to_port.is_none_or(|bind| bind.value),
        socket: SocketOptions {
            freebind: is_true(message.freebind),
            transparent: is_true(message.transparent),
            backlog: message.tcp_backlog_size.map(|size| size.value),
        },
        use_original_dst,
        filters: listener_filters(message, use_original_dst, at, problems),
        filters_timeout: filters_timeout(message, at, problems),
        continue_on_filters_timeout: message.continue_on_listener_filters_timeout,
        default_chain,
        ..Listener::new(name?, address, direction(message.traffic_direction), chains)
    })
}

fn is_true(value: Option<pb::BoolValue>) -> bool {
    value.is_some_and(|value| value.value)
}

/// Zero stands for no limit.
fn filters_timeout(
    message: &pb::listener::Listener,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Duration> {
    let Some(timeout) = message.listener_filters_timeout else { return Some(Listener::FILTERS_TIMEOUT) };
    duration(timeout, &at.field("listener_filters_timeout"), problems).filter(|timeout| !timeout.is_zero())
}

fn direction(direction: i32) -> Direction {
    match pb::core::TrafficDirection::try_from(direction) {
        Ok(pb::core::TrafficDirection::Inbound) => Direction::Inbound,
        Ok(pb::core::TrafficDirection::Outbound) => Direction::Outbound,
        _ => Direction::Unspecified,
    }
}

/// What looks at a connection, in order; what `use_original_dst` implies is left out.
fn listener_filters(
    message: &pb::listener::Listener,
    use_original_dst: bool,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<ListenerFilter> {
    use pb::listener::listener_filter::ConfigType::TypedConfig;
    let path = at.field("listener_filters");
    let mut filters = Vec::new();
    for (index, filter) in message.listener_filters.iter().enumerate() {
        let at = path.index(index);
        let Some(TypedConfig(any)) = &filter.config_type else {
            problems.error::<()>(&at, "the filter is missing", "write `typed_config`");
            continue;
        };
        let Some(kind) = listener_filter(any, &at, problems) else { continue };
        let disabled = match &filter.filter_disabled {
            None => None,
            Some(test) => port_test(test, &at.field("filter_disabled"), problems),
        };
        if kind != ListenerFilterKind::OriginalDestination || !use_original_dst {
            filters.push(ListenerFilter { kind, disabled });
        }
    }
    filters
}

fn listener_filter(any: &pb::Any, at: &Path<'_>, problems: &mut Problems) -> Option<ListenerFilterKind> {
    if let Some(message) = unpack::<pb::TlsInspector>(any) {
        let only_tls = message.close_connection_on_client_hello_parsing_errors;
        return Some(ListenerFilterKind::Tls(TlsInspector { only_tls }));
    }
    if let Some(message) = unpack::<pb::ProxyProtocol>(any) {
        use pb::core::proxy_protocol_config::Version;
        let refuses = |version: Version| message.disallowed_versions.contains(&(version as i32));
        return Some(ListenerFilterKind::ProxyProtocol(ProxyProtocol {
            optional: message.allow_requests_without_proxy_protocol,
            refuses_v1: refuses(Version::V1),
            refuses_v2: refuses(Version::V2),
        }));
    }
    if is::<pb::HttpInspector>(any) {
        return Some(ListenerFilterKind::Http);
    }
    if is::<pb::OriginalDst>(any) {
        return Some(ListenerFilterKind::OriginalDestination);
    }
    let known = "tls_inspector, http_inspector, original_dst and proxy_protocol are";
    problems.error(at, "this listener filter is not supported", known)
}

/// A test of the port that a connection came to; the only thing that Envoy lets a listener filter depend on.
fn port_test(
    message: &pb::listener::ListenerFilterChainMatchPredicate,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<PortTest> {
    use pb::listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let each = |set: &MatchSet, at: &Path<'_>, problems: &mut Problems| -> Option<Vec<PortTest>> {
        let at = at.field("rules");
        if set.rules.len() < 2 {
            return problems.error(&at, "two rules are the least", "");
        }
        let rules = set.rules.iter().enumerate();
        rules.map(|(index, rule)| port_test(rule, &at.index(index), problems)).collect()
    };
    match message.rule.as_ref() {
        Some(Rule::AnyMatch(true)) => Some(PortTest::Any),
        Some(Rule::AndMatch(set)) => each(set, &at.field("and_match"), problems).map(PortTest::All),
        Some(Rule::OrMatch(set)) => each(set, &at.field("or_match"), problems).map(PortTest::OneOf),
        Some(Rule::NotMatch(rule)) => {
            let inner = port_test(rule, &at.field("not_match"), problems)?;
            Some(PortTest::Not(Box::new(inner)))
        }
        Some(Rule::DestinationPortRange(range)) => Some(PortTest::Range(range.start, range.end)),
        _ => problems.error(at, "the test is missing", "write `destination_port_range`"),
    }
}

fn api_chain(api: &pb::listener::ApiListener, at: &Path<'_>, problems: &mut Problems) -> Option<FilterChain> {
    let at = at.field("api_listener");
    let Some(message) = api.api_listener.as_ref().and_then(unpack::<pb::hcm::HttpConnectionManager>) else {
        return problems.error(&at, "an API listener holds an HttpConnectionManager", "");
    };
    let http = http::connection(&message, &at, problems)?;
    let filter = NetworkFilter::Http(Arc::new(http));
    Some(FilterChain::new("", filter))
}

/// All chains but the default one. That two would take the same connections is said here, where both have names.
fn chains(message: &pb::listener::Listener, at: &Path<'_>, problems: &mut Problems) -> Vec<FilterChain> {
    let path = at.field("filter_chains");
    let mut chains: Vec<FilterChain> = Vec::new();
    for (index, message) in message.filter_chains.iter().enumerate() {
        chains.extend(chain(message, &path.index(index), problems));
    }
    if message.filter_chains.is_empty() && message.default_filter_chain.is_none() {
        problems.error::<()>(&path, "a listener needs a filter chain", "");
    }
    if chains.len() == message.filter_chains.len()
        && let Err((first, second)) = ChainIndex::compile(chains.iter().map(|chain| &chain.matches))
    {
        let text = format!("it takes connections that `filter_chains[{first}]` takes as well");
        let at = path.index(second);
        problems.error::<()>(&at.field("filter_chain_match"), text, "name something by which they differ");
    }
    chains
}

fn chain(message: &pb::listener::FilterChain, at: &Path<'_>, problems: &mut Problems) -> Option<FilterChain> {
    let matches = chain_match(message, &at.field("filter_chain_match"), problems);
    let tls = match &message.transport_socket {
        Some(socket) => tls::downstream(socket, &at.field("transport_socket"), problems),
        None => Ok(None),
    };
    let path = at.field("transport_socket_connect_timeout");
    let limit = message.transport_socket_connect_timeout;
    let handshake_timeout = limit.and_then(|limit| duration(limit, &path, problems));
    let filters = network_filters(&message.filters, &at.field("filters"), problems);
    let (gates, filter) = filters?;
    Some(FilterChain {
        matches: matches?,
        tls: tls.ok()?,
        handshake_timeout: handshake_timeout.filter(|limit| !limit.is_zero()),
        gates,
        ..FilterChain::new(message.name.as_str(), filter)
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
    let destination_port = match message.destination_port {
        None => None,
        Some(port) => Some(port_number(port.value, &at.field("destination_port"), problems)?),
    };
    let path = at.field("source_ports");
    let mut source_ports = Vec::new();
    for (index, port) in message.source_ports.iter().enumerate() {
        source_ports.push(port_number(*port, &path.index(index), problems)?);
    }
    Some(ChainMatch {
        destination_port,
        destinations: cidrs(&message.prefix_ranges, &at.field("prefix_ranges"), problems)?,
        server_names,
        transport,
        alpn,
        direct_sources: cidrs(
            &message.direct_source_prefix_ranges,
            &at.field("direct_source_prefix_ranges"),
            problems,
        )?,
        source_type: source_type(message.source_type, &at.field("source_type"), problems)?,
        sources: cidrs(&message.source_prefix_ranges, &at.field("source_prefix_ranges"), problems)?,
        source_ports,
    })
}

fn source_type(value: i32, at: &Path<'_>, problems: &mut Problems) -> Option<SourceType> {
    use pb::listener::filter_chain_match::ConnectionSourceType as Type;
    match Type::try_from(value) {
        Ok(Type::Any) => Some(SourceType::Any),
        Ok(Type::SameIpOrLoopback) => Some(SourceType::Local),
        Ok(Type::External) => Some(SourceType::External),
        Err(_) => problems.error(at, "this source type is not known", ""),
    }
}

fn port_number(port: u32, at: &Path<'_>, problems: &mut Problems) -> Option<u16> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Some(port),
        _ => problems.error(at, format!("{port} is no port"), ""),
    }
}

fn cidrs(ranges: &[pb::core::CidrRange], at: &Path<'_>, problems: &mut Problems) -> Option<Vec<Cidr>> {
    ranges.iter().enumerate().map(|(index, range)| cidr(range, &at.index(index), problems)).collect()
}

/// A range of addresses; one without a length is of all addresses of the version.
pub(super) fn cidr(range: &pb::core::CidrRange, at: &Path<'_>, problems: &mut Problems) -> Option<Cidr> {
    let Ok(address) = range.address_prefix.parse() else {
        let text = format!("`{}` is not an IP address", range.address_prefix);
        return problems.error(&at.field("address_prefix"), text, "");
    };
    Some(Cidr::new(address, range.prefix_len.map_or(0, |length| length.value)))
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

/// The filters of a chain: what a connection has to pass, then one that consumes it.
fn network_filters(
    filters: &[pb::listener::Filter],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<(Vec<Gate>, NetworkFilter)> {
    let Some((last, before)) = filters.split_last() else {
        return problems.error(at, "a chain needs a filter", "");
    };
    let mut gates = Vec::new();
    for (index, filter) in before.iter().enumerate() {
        gates.extend(gates_of(filter, &at.index(index), problems));
    }
    let at = at.index(before.len());
    let typed = at.field("typed_config");
    let config = typed_config(last);
    if let Some(message) = config.and_then(unpack::<pb::tcp_proxy::TcpProxy>) {
        let tcp = tcp_proxy(&message, &typed, problems)?;
        return Some((gates, NetworkFilter::Tcp(Arc::new(tcp))));
    }
    let Some(message) = config.and_then(unpack::<pb::hcm::HttpConnectionManager>) else {
        return problems.error(
            &at,
            "the last filter must consume the connection",
            "end with http_connection_manager or tcp_proxy",
        );
    };
    let http = http::connection(&message, &typed, problems)?;
    Some((gates, NetworkFilter::Http(Arc::new(http))))
}

fn typed_config(filter: &pb::listener::Filter) -> Option<&pb::Any> {
    match &filter.config_type {
        Some(pb::listener::filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    }
}

/// What a connection has to pass; nothing where everyone passes.
fn gates_of(filter: &pb::listener::Filter, at: &Path<'_>, problems: &mut Problems) -> Vec<Gate> {
    let typed = at.field("typed_config");
    let config = typed_config(filter);
    if let Some(message) = config.and_then(unpack::<pb::NetworkRbac>) {
        // What is known of a connection does not change, so that judging it once or again is the same.
        let mut read = |rules: &Option<pb::rbac::Rbac>, field| {
            policy::rbac(rules.as_ref()?, &typed.field(field), problems).map(Arc::new)
        };
        let (tried, rules) = (read(&message.shadow_rules, "shadow_rules"), read(&message.rules, "rules"));
        let tried = tried.map(|rules| Gate::Tried(rules, message.shadow_rules_stat_prefix.as_str().into()));
        return tried.into_iter().chain(rules.map(Gate::Rbac)).collect();
    }
    if let Some(message) = config.and_then(unpack::<pb::ConnectionLimit>) {
        return limit(&message, &typed, problems).into_iter().collect();
    }
    let refused: Option<Gate> =
        problems.error(at, "only rbac and connection_limit may stand before the last filter", "");
    refused.into_iter().collect()
}

fn limit(message: &pb::ConnectionLimit, typed: &Path<'_>, problems: &mut Problems) -> Option<Gate> {
    let Some(most) = message.max_connections.map(|most| most.value).filter(|most| *most > 0) else {
        return problems.error(&typed.field("max_connections"), "one is the least", "");
    };
    let delay = match message.delay {
        None => None,
        Some(delay) => Some(duration(delay, &typed.field("delay"), problems)?),
    };
    let enabled = message.runtime_enabled.as_ref().and_then(|flag| flag.default_value.as_ref());
    enabled.is_none_or(|enabled| enabled.value).then_some(Gate::Limit(ConnectionLimit { most, delay }))
}

fn tcp_proxy(message: &pb::tcp_proxy::TcpProxy, at: &Path<'_>, problems: &mut Problems) -> Option<TcpProxy> {
    let path = at.field("max_downstream_connection_duration");
    let longest = match message.max_downstream_connection_duration {
        None => None,
        Some(longest) => Some(duration(longest, &path, problems)?),
    };
    let connect_attempts = message.max_connect_attempts.map_or(1, |attempts| attempts.value);
    if connect_attempts == 0 {
        return problems.error(&at.field("max_connect_attempts"), "one is the least", "");
    }
    Some(TcpProxy {
        stat_prefix: message.stat_prefix.as_str().into(),
        clusters: tcp_clusters(message, at, problems)?,
        idle_timeout: timeout(message.idle_timeout, &at.field("idle_timeout"), problems),
        connect_attempts,
        longest,
        hashes_source: hashes_source(message, at, problems)?,
        access_logs: access_log::logs(&message.access_log, &at.field("access_log"), problems),
    })
}

fn tcp_clusters(
    message: &pb::tcp_proxy::TcpProxy,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<TcpCluster>> {
    use pb::tcp_proxy::tcp_proxy::ClusterSpecifier;
    match &message.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => {
            Some(vec![TcpCluster { name: name.as_str().into(), weight: 1 }])
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let path = at.field("weighted_clusters");
            let path = path.field("clusters");
            if weighted.clusters.is_empty() {
                return problems.error(&path, "one cluster is the least", "");
            }
            let mut clusters = Vec::new();
            for (index, cluster) in weighted.clusters.iter().enumerate() {
                let at = path.index(index);
                if cluster.weight == 0 {
                    return problems.error(&at.field("weight"), "one is the least", "");
                }
                let name = required(&cluster.name, &at.field("name"), problems)?;
                clusters.push(TcpCluster { name: name.into(), weight: cluster.weight });
            }
            Some(clusters)
        }
        None => problems.error(at, "the cluster is missing", "write `cluster`"),
    }
}

/// Of the two hash policies that connections have, the client's address.
fn hashes_source(message: &pb::tcp_proxy::TcpProxy, at: &Path<'_>, problems: &mut Problems) -> Option<bool> {
    use pb::hash_policy::PolicySpecifier;
    let path = at.field("hash_policy");
    match &message.hash_policy[..] {
        [] => Some(false),
        [one] => match &one.policy_specifier {
            Some(PolicySpecifier::SourceIp(_)) => Some(true),
            _ => problems.error(&path.index(0), "this hash policy is not supported", "write `source_ip`"),
        },
        _ => problems.error(&path, "there may be one", ""),
    }
}
