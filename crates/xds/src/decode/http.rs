//! The HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::cidr::Cidr;
use meshwork_model::proxy::{
    ClientCert, Clients, Codec, EscapedSlashes, ForwardClientCert, HostNormalization, Http1, Http2,
    HttpConnection, HttpLimits, PathNormalization, RouteSource, Scheme, ServerHeader, StrippedPort,
    Underscores,
};

use super::{Read, access_log, duration, filter, local_reply, only_ads, required, retry, route, timeout};
use crate::path::{Path, Problems};
use crate::pb;
use crate::pb::hcm::HttpConnectionManager as Message;

/// An HTTP connection manager.
pub(super) fn connection(
    message: &Message,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<HttpConnection> {
    let codec = codec(message.codec_type, &at.field("codec_type"), problems);
    let routes = routes(message, at, problems);
    let filters = filter::filters(&message.http_filters, &at.field("http_filters"), problems);
    let server = server(message, at, problems);
    let paths = paths(message, at, problems);
    let access_logs = access_log::logs(&message.access_log, &at.field("access_log"), problems);
    let local_replies = message.local_reply_config.as_ref();
    let local_replies =
        local_replies.map(|replies| local_reply::replies(replies, &at.field("local_reply_config"), problems));
    let common = message.common_http_protocol_options.as_ref();
    let options = at.field("common_http_protocol_options");
    let idle = common.and_then(|common| common.idle_timeout);
    let mut limit = |value: Option<pb::Duration>, field: &'static str| match value {
        Some(value) => duration(value, &at.field(field), problems).map(Some),
        None => Some(None),
    };
    let stream_idle = limit(message.stream_idle_timeout, "stream_idle_timeout");
    let request_headers = limit(message.request_headers_timeout, "request_headers_timeout");
    let delayed_close = limit(message.delayed_close_timeout, "delayed_close_timeout");
    let stream_limit = match common.and_then(|common| common.max_stream_duration) {
        Some(most) => duration(most, &options.field("max_stream_duration"), problems).map(Some),
        None => Some(None),
    };
    request_id(message, at, problems);
    Some(HttpConnection {
        stat_prefix: message.stat_prefix.as_str().into(),
        codec: codec?,
        routes: routes?,
        filters,
        paths: paths?,
        hosts: hosts(message),
        generate_request_id: message.generate_request_id.is_none_or(|generate| generate.value),
        keep_request_id: message.preserve_external_request_id,
        answer_request_id: message.always_set_request_id_in_response,
        tracing: message.tracing.is_some(),
        upgrades: upgrades(message),
        server: server?,
        via: message.via.as_str().into(),
        clients: clients(message, at, problems)?,
        client_cert: client_cert(message, at, problems)?,
        scheme: scheme(message, at, problems)?,
        http1: http1(message.http_protocol_options.as_ref(), &at.field("http_protocol_options"), problems)?,
        http2: http2(message.http2_protocol_options.as_ref(), &at.field("http2_protocol_options"), problems)?,
        limits: limits(message, at, problems)?,
        idle_timeout: timeout(idle, &options.field("idle_timeout"), problems),
        stream_idle_timeout: stream_idle?,
        router: retry::router(&message.http_filters),
        max_stream_duration: stream_limit?.filter(|limit| !limit.is_zero()),
        request_headers_timeout: request_headers?.filter(|limit| !limit.is_zero()),
        delayed_close_timeout: delayed_close?,
        local_replies: local_replies.unwrap_or_default(),
        access_logs,
    })
}

/// Protocols that a connection may switch to, as they are enabled.
fn upgrades(message: &Message) -> Vec<Arc<str>> {
    let configs = message.upgrade_configs.iter();
    let enabled = configs.filter(|upgrade| upgrade.enabled.is_none_or(|enabled| enabled.value));
    enabled.map(|upgrade| upgrade.upgrade_type.to_ascii_lowercase().into()).collect()
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

fn routes(message: &Message, at: &Path<'_>, problems: &mut Problems) -> Option<RouteSource> {
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

/// What is written as `server`: Envoy says `envoy` by default.
fn server(message: &Message, at: &Path<'_>, problems: &mut Problems) -> Option<ServerHeader> {
    use pb::hcm::http_connection_manager::ServerHeaderTransformation as Transformation;
    let name = if message.server_name.is_empty() { "envoy" } else { &message.server_name };
    match Transformation::try_from(message.server_header_transformation) {
        Ok(Transformation::Overwrite) => Some(ServerHeader::Set(name.into())),
        Ok(Transformation::AppendIfAbsent) => Some(ServerHeader::IfAbsent(name.into())),
        Ok(Transformation::PassThrough) => Some(ServerHeader::Keep),
        _ => {
            let at = at.field("server_header_transformation");
            problems.error(
                &at,
                "there is no such transformation",
                "write OVERWRITE, APPEND_IF_ABSENT or PASS_THROUGH",
            )
        }
    }
}

fn paths(message: &Message, at: &Path<'_>, problems: &mut Problems) -> Option<PathNormalization> {
    use pb::hcm::http_connection_manager::PathWithEscapedSlashesAction as Action;
    let escaped_slashes = match Action::try_from(message.path_with_escaped_slashes_action) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => EscapedSlashes::Keep,
        Ok(Action::RejectRequest) => EscapedSlashes::Reject,
        Ok(Action::UnescapeAndRedirect) => EscapedSlashes::Redirect,
        Ok(Action::UnescapeAndForward) => EscapedSlashes::Decode,
        Err(_) => {
            let at = at.field("path_with_escaped_slashes_action");
            return problems.error(&at, "there is no such action", "write KEEP_UNCHANGED or REJECT_REQUEST");
        }
    };
    Some(PathNormalization {
        rfc3986: message.normalize_path.is_some_and(|normalize| normalize.value),
        merge_slashes: message.merge_slashes,
        escaped_slashes,
    })
}

fn hosts(message: &Message) -> HostNormalization {
    use pb::hcm::http_connection_manager::StripPortMode::StripAnyHostPort;
    let port = match message.strip_port_mode {
        Some(StripAnyHostPort(true)) => StrippedPort::Any,
        _ if message.strip_matching_host_port => StrippedPort::Own,
        _ => StrippedPort::None,
    };
    HostNormalization { port, trailing_dot: message.strip_trailing_host_dot }
}

fn clients(message: &Message, at: &Path<'_>, problems: &mut Problems) -> Option<Clients> {
    let config = message.internal_address_config.as_ref();
    let at = at.field("internal_address_config");
    let at = at.field("cidr_ranges");
    let mut internal = Vec::new();
    for (index, range) in config.iter().flat_map(|config| config.cidr_ranges.iter().enumerate()) {
        internal.push(cidr(range, &at.index(index), problems)?);
    }
    Some(Clients {
        is_edge: message.use_remote_address.is_some_and(|edge| edge.value),
        trusted_hops: message.xff_num_trusted_hops,
        skip_append: message.skip_xff_append,
        append_port: message.append_x_forwarded_port,
        internal,
    })
}

fn cidr(range: &pb::core::CidrRange, at: &Path<'_>, problems: &mut Problems) -> Option<Cidr> {
    if let Ok(address) = range.address_prefix.parse() {
        Some(Cidr::new(address, range.prefix_len.map_or(0, |length| length.value)))
    } else {
        let text = format!("`{}` is not an IP address", range.address_prefix);
        problems.error(&at.field("address_prefix"), text, "")
    }
}

fn client_cert(message: &Message, at: &Path<'_>, problems: &mut Problems) -> Option<ClientCert> {
    use pb::hcm::http_connection_manager::ForwardClientCertDetails as Details;
    let forward = match Details::try_from(message.forward_client_cert_details) {
        Ok(Details::Sanitize) => ForwardClientCert::Sanitize,
        Ok(Details::ForwardOnly) => ForwardClientCert::ForwardOnly,
        Ok(Details::AppendForward) => ForwardClientCert::Append,
        Ok(Details::SanitizeSet) => ForwardClientCert::Set,
        Ok(Details::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
        Err(_) => {
            let at = at.field("forward_client_cert_details");
            return problems.error(&at, "there is no such value", "write SANITIZE, or leave it out");
        }
    };
    let details = message.set_current_client_cert_details.unwrap_or_default();
    Some(ClientCert {
        forward,
        subject: details.subject.is_some_and(|subject| subject.value),
        certificate: details.cert,
        chain: details.chain,
        dns: details.dns,
        uri: details.uri,
    })
}

fn scheme(message: &Message, at: &Path<'_>, problems: &mut Problems) -> Read<Option<Scheme>> {
    use pb::core::scheme_header_transformation::Transformation::SchemeToOverwrite;
    let transformation = message.scheme_header_transformation.as_ref();
    match transformation.and_then(|transformation| transformation.transformation.as_ref()) {
        None => Some(None),
        Some(SchemeToOverwrite(scheme)) if scheme == "http" => Some(Some(Scheme::Http)),
        Some(SchemeToOverwrite(scheme)) if scheme == "https" => Some(Some(Scheme::Https)),
        Some(SchemeToOverwrite(_)) => {
            let at = at.field("scheme_header_transformation");
            let at = at.field("scheme_to_overwrite");
            problems.error(&at, "this is no scheme", "write http or https")
        }
    }
}

fn http1(
    options: Option<&pb::core::Http1ProtocolOptions>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Http1> {
    let Some(options) = options else { return Some(Http1::default()) };
    if options.allow_absolute_url.is_some_and(|allow| !allow.value) {
        let at = at.field("allow_absolute_url");
        return problems.error(&at, "requests in absolute form are always answered", "leave it out");
    }
    let host = &options.default_host_for_http_10;
    Some(Http1 {
        accept_http_10: options.accept_http_10,
        default_host: (!host.is_empty()).then(|| host.as_str().into()),
        trailers: options.enable_trailers,
    })
}

/// Bounds of Envoy's own.
fn http2(
    options: Option<&pb::core::Http2ProtocolOptions>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Http2> {
    let Some(options) = options else { return Some(Http2::default()) };
    let mut within = |value: Option<pb::UInt32Value>, least: u32, most: u32, field: &'static str| match value
    {
        Some(pb::UInt32Value { value }) if value < least || value > most => {
            problems.error(&at.field(field), format!("{value} is not from {least} to {most}"), "")
        }
        value => Some(value.map(|value| value.value)),
    };
    let most = u32::try_from(i32::MAX).unwrap_or(u32::MAX);
    Some(Http2 {
        most_streams: within(options.max_concurrent_streams, 1, most, "max_concurrent_streams")?,
        stream_window: within(
            options.initial_stream_window_size,
            65_535,
            most,
            "initial_stream_window_size",
        )?,
        connection_window: within(
            options.initial_connection_window_size,
            65_535,
            most,
            "initial_connection_window_size",
        )?,
    })
}

fn limits(message: &Message, at: &Path<'_>, problems: &mut Problems) -> Option<HttpLimits> {
    let head_bytes = match message.max_request_headers_kb {
        Some(pb::UInt32Value { value }) if value == 0 || value > 8192 => {
            let at = at.field("max_request_headers_kb");
            return problems.error(&at, format!("{value} is not from 1 to 8192"), "");
        }
        kilobytes => kilobytes.map(|kilobytes| kilobytes.value * 1024),
    };
    let at = at.field("common_http_protocol_options");
    let Some(common) = &message.common_http_protocol_options else {
        return Some(HttpLimits { head_bytes, ..HttpLimits::default() });
    };
    let mut limit = |value: Option<pb::Duration>, field: &'static str| -> Read<Option<Duration>> {
        let Some(value) = value else { return Some(None) };
        let limit = duration(value, &at.field(field), problems)?;
        Some((!limit.is_zero()).then_some(limit))
    };
    Some(HttpLimits {
        head_bytes,
        fields: common.max_headers_count.map(|count| count.value.max(1)),
        requests: common.max_requests_per_connection.map(|most| most.value).filter(|most| *most > 0),
        connection_duration: limit(common.max_connection_duration, "max_connection_duration")?,
        underscores: underscores(common, &at, problems)?,
    })
}

fn underscores(
    common: &pb::core::HttpProtocolOptions,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Underscores> {
    use pb::core::http_protocol_options::HeadersWithUnderscoresAction as Action;
    match Action::try_from(common.headers_with_underscores_action) {
        Ok(Action::Allow) => Some(Underscores::Allow),
        Ok(Action::RejectRequest) => Some(Underscores::Reject),
        Ok(Action::DropHeader) => Some(Underscores::Drop),
        Err(_) => {
            let at = at.field("headers_with_underscores_action");
            problems.error(&at, "there is no such action", "write ALLOW, REJECT_REQUEST or DROP_HEADER")
        }
    }
}

/// Ids of requests are UUIDs; others are refused.
fn request_id(message: &Message, at: &Path<'_>, problems: &mut Problems) {
    let at = at.field("request_id_extension");
    let Some(any) = message.request_id_extension.as_ref().and_then(|e| e.typed_config.as_ref()) else {
        return;
    };
    match super::unpack::<pb::UuidRequestId>(any) {
        Some(uuid) if uuid.use_request_id_for_trace_sampling.is_some_and(|by| !by.value) => {}
        Some(_) => {}
        None => {
            problems.error::<()>(&at.field("typed_config"), "only UUIDs are ids of requests", "leave it out");
        }
    }
}
