//! What is spoken on a cluster's connections, how long they live, and how many there may be.

use meshwork_model::proxy::{Breakers, Connections, Keepalive, RetryBudget, Thresholds, UpstreamProtocol};

use super::HTTP_OPTIONS;
use crate::decode::{duration, unpack};
use crate::path::{Path, Problems};
use crate::pb;
use crate::pb::upstream_http::http_protocol_options::UpstreamProtocolOptions;
use crate::pb::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;

/// What is spoken.
pub(super) fn protocol(
    message: &pb::cluster::Cluster,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<UpstreamProtocol> {
    let path = at.field("typed_extension_protocol_options");
    if let Some(other) = message.typed_extension_protocol_options.keys().find(|key| *key != HTTP_OPTIONS) {
        let fix = "only HttpProtocolOptions may stand here";
        return problems.error(&path.key(other), format!("`{other}` is not supported"), fix);
    }
    let Some(any) = message.typed_extension_protocol_options.get(HTTP_OPTIONS) else {
        return by_deprecated(message, at, problems);
    };
    let at = path.key(HTTP_OPTIONS);
    let options = unpack::<pb::upstream_http::HttpProtocolOptions>(any);
    match options.and_then(|options| options.upstream_protocol_options) {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => Some(UpstreamProtocol::Http2),
            Some(ProtocolConfig::HttpProtocolOptions(_)) => Some(UpstreamProtocol::Http1),
            _ => problems.error(&at, "this protocol is not supported", ""),
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
            // Envoy speaks HTTP/1.1 with those who speak HTTP/2 to it, unless it is told how to speak HTTP/2.
            Some(match config.http2_protocol_options {
                Some(_) => UpstreamProtocol::Downstream,
                None => UpstreamProtocol::Http1,
            })
        }
        Some(UpstreamProtocolOptions::AutoConfig(_)) => Some(UpstreamProtocol::Auto),
        None => problems.error(&at, "the protocol is missing", "write `explicit_http_config`"),
    }
}

/// What fields of the cluster itself say.
fn by_deprecated(
    message: &pb::cluster::Cluster,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<UpstreamProtocol> {
    use pb::cluster::cluster::ClusterProtocolSelection;
    let is_downstream = message.protocol_selection == ClusterProtocolSelection::UseDownstreamProtocol as i32;
    match (is_downstream, &message.http_protocol_options, &message.http2_protocol_options) {
        (false, Some(_), Some(_)) => {
            let path = at.field("http2_protocol_options");
            problems.error(&path, "both HTTP/1 and HTTP/2 are asked for", "write one of them")
        }
        (true, ..) => Some(UpstreamProtocol::Downstream),
        (false, _, Some(_)) => Some(UpstreamProtocol::Http2),
        (false, ..) => Some(UpstreamProtocol::Http1),
    }
}

/// Options that mean something on the side of clients, and that endpoints are not spoken with by. Both sides share the
/// messages that hold them.
fn of_clients_only(
    message: &pb::cluster::Cluster,
    options: Option<&pb::upstream_http::HttpProtocolOptions>,
    common: Option<&pb::core::HttpProtocolOptions>,
    at: &Path<'_>,
    problems: &mut Problems,
) {
    let unset = |http2: &pb::core::Http2ProtocolOptions| {
        http2.max_concurrent_streams.is_none()
            && http2.initial_stream_window_size.is_none()
            && http2.initial_connection_window_size.is_none()
    };
    let is_default = |common: &pb::core::HttpProtocolOptions| {
        common.max_headers_count.is_none()
            && common.max_stream_duration.is_none()
            && common.headers_with_underscores_action == 0
    };
    if !common.is_none_or(is_default) {
        let path = at.field("common_http_protocol_options");
        let fix = "leave out all but idle_timeout, max_connection_duration and max_requests_per_connection";
        problems.error::<()>(&path, "a cluster does not honour all of these options", fix);
    }
    if !http2(message, options).is_none_or(unset) {
        let text = "streams and windows of endpoints cannot be set";
        problems.error::<()>(&at.field("http2_protocol_options"), text, "write `http2_protocol_options: {}`");
    }
}

/// The options of HTTP/2, wherever they stand.
fn http2<'m>(
    message: &'m pb::cluster::Cluster,
    options: Option<&'m pb::upstream_http::HttpProtocolOptions>,
) -> Option<&'m pb::core::Http2ProtocolOptions> {
    let Some(options) = options else { return message.http2_protocol_options.as_ref() };
    match options.upstream_protocol_options.as_ref()? {
        UpstreamProtocolOptions::ExplicitHttpConfig(explicit) => match explicit.protocol_config.as_ref()? {
            ProtocolConfig::Http2ProtocolOptions(http2) => Some(http2),
            _ => None,
        },
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(config) => {
            config.http2_protocol_options.as_ref()
        }
        UpstreamProtocolOptions::AutoConfig(config) => config.http2_protocol_options.as_ref(),
    }
}

/// How long connections live, and what they carry.
pub(super) fn connections(
    message: &pb::cluster::Cluster,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Connections> {
    let any = message.typed_extension_protocol_options.get(HTTP_OPTIONS);
    let options = any.and_then(unpack::<pb::upstream_http::HttpProtocolOptions>);
    let common = match &options {
        Some(options) => options.common_http_protocol_options.as_ref(),
        None => message.common_http_protocol_options.as_ref(),
    };
    let path = at.field("common_http_protocol_options");
    of_clients_only(message, options.as_ref(), common, at, problems);
    let time = |value: Option<pb::Duration>, name, problems: &mut Problems| match value {
        None => Some(None),
        Some(value) => duration(value, &path.field(name), problems).map(Some),
    };
    let idle = time(common.and_then(|common| common.idle_timeout), "idle_timeout", problems)?;
    let lifetime = common.and_then(|common| common.max_connection_duration);
    let lifetime = time(lifetime, "max_connection_duration", problems)?;
    let requests = common.and_then(|common| common.max_requests_per_connection);
    let requests = requests.or(message.max_requests_per_connection);
    let keepalive = message.upstream_connection_options.as_ref();
    let keepalive = keepalive.and_then(|options| options.tcp_keepalive.as_ref());
    let seconds = |value: Option<pb::UInt32Value>| {
        value.map(|value| std::time::Duration::from_secs(value.value.into()))
    };
    Some(Connections {
        idle,
        lifetime: lifetime.filter(|lifetime| !lifetime.is_zero()),
        requests: requests.map(|requests| requests.value).filter(|requests| *requests > 0),
        keepalive: keepalive.map(|keepalive| Keepalive {
            after: seconds(keepalive.keepalive_time),
            interval: seconds(keepalive.keepalive_interval),
            probes: keepalive.keepalive_probes.map(|probes| probes.value),
        }),
        ..Connections::default()
    })
}

/// What there may be at the same time.
pub(super) fn breakers(
    message: Option<&pb::cluster::CircuitBreakers>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Breakers> {
    use pb::core::RoutingPriority;
    let mut breakers = Breakers::ENVOY;
    let Some(message) = message else { return Some(breakers) };
    let path = at.field("thresholds");
    // The first of a priority counts, as in Envoy.
    for (index, thresholds) in message.thresholds.iter().enumerate().rev() {
        let at = path.index(index);
        let limits = self::thresholds(thresholds, &at, problems)?;
        match RoutingPriority::try_from(thresholds.priority) {
            Ok(RoutingPriority::High) => breakers.high = limits,
            Ok(RoutingPriority::Default) | Err(_) => breakers.normal = limits,
        }
    }
    let first =
        message.per_host_thresholds.iter().find(|one| one.priority == RoutingPriority::Default as i32);
    breakers.host_connections = first.and_then(|one| one.max_connections).map(|most| most.value);
    Some(breakers)
}

fn thresholds(
    message: &pb::cluster::circuit_breakers::Thresholds,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Thresholds> {
    let default = Thresholds::ENVOY;
    let or = |value: Option<pb::UInt32Value>, default| value.map_or(default, |value| value.value);
    let retry_budget = match &message.retry_budget {
        None => None,
        Some(budget) => {
            let percent = budget.budget_percent.as_ref().map_or(20.0, |percent| percent.value);
            if !(0.0..=100.0).contains(&percent) {
                let path = at.field("retry_budget");
                return problems.error(&path, format!("{percent} is no per cent"), "");
            }
            Some(RetryBudget { percent, least: or(budget.min_retry_concurrency, 3) })
        }
    };
    Some(Thresholds {
        connections: or(message.max_connections, default.connections),
        pending: or(message.max_pending_requests, default.pending),
        requests: or(message.max_requests, default.requests),
        retries: or(message.max_retries, default.retries),
        retry_budget,
    })
}
