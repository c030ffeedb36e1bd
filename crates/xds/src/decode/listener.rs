//! Listeners, filter chains, and the network filters.

use std::sync::Arc;

use meshwork_model::proxy::{
    AccessLog, ChainMatch, Codec, Direction, FilterChain, HttpConnection, HttpFilter, Listener,
    NetworkFilter, PathNormalization, Rbac, Resource, RouteSource, TcpProxy, Transport,
};

use super::{address, duration, is, names, only_ads, policy, required, route, timeout, tls, unpack};
use crate::path::{Noted, Path, Problems};
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
    let http = http(&message, &at, problems)?;
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
    let mut http = http(&message, &typed, problems)?;
    // What a connection may not do, its requests may not do either.
    http.filters.splice(0..0, rbac.into_iter().map(HttpFilter::Rbac));
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

fn http(
    message: &pb::hcm::HttpConnectionManager,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<HttpConnection> {
    fixed_values(message, at, problems);
    let codec = codec(message.codec_type, &at.field("codec_type"), problems);
    let routes = routes(message, at, problems);
    let filters = http_filters(&message.http_filters, &at.field("http_filters"), problems);
    let server_name = server_name(message, at, problems);
    let paths = paths(message, at, problems);
    let access_logs = access_logs(&message.access_log, &at.field("access_log"), problems);
    let common = message.common_http_protocol_options.as_ref();
    let options = at.field("common_http_protocol_options");
    let idle = common.and_then(|common| common.idle_timeout);
    let stream_idle = match message.stream_idle_timeout {
        Some(limit) => duration(limit, &at.field("stream_idle_timeout"), problems).map(Some),
        None => Some(None),
    };
    Some(HttpConnection {
        stat_prefix: message.stat_prefix.as_str().into(),
        codec: codec?,
        routes: routes?,
        filters,
        paths: paths?,
        generate_request_id: message.generate_request_id.is_none_or(|generate| generate.value),
        tracing: message.tracing.is_some(),
        connect: upgrades(message, at, problems)?,
        server_name: server_name.ok()?,
        idle_timeout: timeout(idle, &options.field("idle_timeout"), problems),
        stream_idle_timeout: stream_idle?,
        access_logs,
    })
}

/// Fields of which one value alone is honoured.
fn fixed_values(message: &pb::hcm::HttpConnectionManager, at: &Path<'_>, problems: &mut Problems) {
    if message.use_remote_address.is_some_and(|value| value.value) {
        let at = at.field("use_remote_address");
        problems.error::<()>(&at, "x-forwarded-for is never written", "leave it out");
    }
}

/// Whether CONNECT is carried. (A WebSocket is in any case.)
fn upgrades(
    message: &pb::hcm::HttpConnectionManager,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<bool> {
    let at = at.field("upgrade_configs");
    let mut connect = false;
    for (index, upgrade) in message.upgrade_configs.iter().enumerate() {
        let at = at.index(index);
        if upgrade.enabled.is_some_and(|enabled| !enabled.value) {
            return problems.error(
                &at.field("enabled"),
                "an upgrade is not switched off here",
                "leave it out",
            );
        }
        if upgrade.upgrade_type.eq_ignore_ascii_case("CONNECT") {
            connect = true;
        } else if !upgrade.upgrade_type.eq_ignore_ascii_case("websocket") {
            let text = format!("the upgrade to `{}` is not supported", upgrade.upgrade_type);
            return problems.error(&at.field("upgrade_type"), text, "write `websocket` or `CONNECT`");
        }
    }
    Some(connect)
}

fn codec(codec: i32, at: &Path<'_>, problems: &mut Problems) -> Option<Codec> {
    use pb::hcm::http_connection_manager::CodecType;
    match CodecType::try_from(codec) {
        Ok(CodecType::Auto) => Some(Codec::Auto),
        Ok(CodecType::Http1) => Some(Codec::Http1),
        Ok(CodecType::Http2) => Some(Codec::Http2),
        _ => problems.error(at, "this codec is not supported", "write AUTO, HTTP1 or HTTP2"),
    }
}

fn routes(
    message: &pb::hcm::HttpConnectionManager,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<RouteSource> {
    use pb::hcm::http_connection_manager::RouteSpecifier;
    match &message.route_specifier {
        Some(RouteSpecifier::RouteConfig(table)) => {
            let table = route::inline(table, &at.field("route_config"), problems);
            Some(RouteSource::Inline(Arc::new(table)))
        }
        Some(RouteSpecifier::Rds(rds)) => {
            let at = at.field("rds");
            only_ads(rds.config_source.as_ref(), &at.field("config_source"), problems)?;
            let name = required(&rds.route_config_name, &at.field("route_config_name"), problems)?;
            Some(RouteSource::Named(name.into()))
        }
        _ => problems.error(at, "the routes are missing", "write `route_config` or `rds`"),
    }
}

/// Filters before the router, which must be the last one.
fn http_filters(filters: &[pb::hcm::HttpFilter], at: &Path<'_>, problems: &mut Problems) -> Vec<HttpFilter> {
    use pb::hcm::http_filter::ConfigType::TypedConfig;
    let mut found = Vec::new();
    let mut routed = false;
    for (index, filter) in filters.iter().enumerate() {
        let at = at.index(index);
        let config = match &filter.config_type {
            Some(TypedConfig(any)) => Some(any),
            _ => None,
        };
        if routed {
            problems.error::<()>(&at, "the router must be the last filter", "");
        } else if config.is_some_and(is::<pb::Router>) {
            routed = true;
        } else if let Some(message) = config.and_then(unpack::<pb::HttpRbac>) {
            let typed = at.field("typed_config");
            let rules = message.rules.as_ref();
            let rbac = rules.and_then(|rules| policy::rbac(rules, &typed.field("rules"), problems));
            found.extend(rbac.map(Arc::new).map(HttpFilter::Rbac));
        } else if !filter.is_optional {
            problems.error::<()>(&at, "this HTTP filter is not supported", "only rbac and router are");
        }
    }
    if !routed {
        problems.error::<()>(at, "the router is missing", "end with `envoy.filters.http.router`");
    }
    found
}

/// What is set as `server`: Envoy says `envoy` by default.
fn server_name(
    message: &pb::hcm::HttpConnectionManager,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Option<Arc<str>>, Noted> {
    use pb::hcm::http_connection_manager::ServerHeaderTransformation;
    match ServerHeaderTransformation::try_from(message.server_header_transformation) {
        Ok(ServerHeaderTransformation::Overwrite) if message.server_name.is_empty() => {
            Ok(Some("envoy".into()))
        }
        Ok(ServerHeaderTransformation::Overwrite) => Ok(Some(message.server_name.as_str().into())),
        Ok(ServerHeaderTransformation::PassThrough) => Ok(None),
        _ => problems.refuse(
            &at.field("server_header_transformation"),
            "this transformation is not supported",
            "write OVERWRITE or PASS_THROUGH",
        ),
    }
}

fn paths(
    message: &pb::hcm::HttpConnectionManager,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<PathNormalization> {
    use pb::hcm::http_connection_manager::PathWithEscapedSlashesAction as Action;
    let reject_escaped_slashes = match Action::try_from(message.path_with_escaped_slashes_action) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => false,
        Ok(Action::RejectRequest) => true,
        _ => {
            let at = at.field("path_with_escaped_slashes_action");
            return problems.error(
                &at,
                "this action is not supported",
                "write REJECT_REQUEST or KEEP_UNCHANGED",
            );
        }
    };
    Some(PathNormalization {
        rfc3986: message.normalize_path.is_some_and(|normalize| normalize.value),
        merge_slashes: message.merge_slashes,
        reject_escaped_slashes,
    })
}

fn access_logs(logs: &[pb::accesslog::AccessLog], at: &Path<'_>, problems: &mut Problems) -> Vec<AccessLog> {
    use pb::accesslog::access_log::ConfigType::TypedConfig;
    let mut sinks = Vec::new();
    for (index, log) in logs.iter().enumerate() {
        let Some(TypedConfig(any)) = &log.config_type else { continue };
        if let Some(file) = unpack::<pb::FileAccessLog>(any) {
            let at = at.index(index);
            let path = required(&file.path, &at.field("typed_config").field("path"), problems);
            sinks.extend(path.map(|path| AccessLog::File(path.into())));
        } else if is::<pb::StdoutAccessLog>(any) {
            sinks.push(AccessLog::Stdout);
        } else {
            problems.error::<()>(&at.index(index), "this access log is not supported", "");
        }
    }
    sinks
}
