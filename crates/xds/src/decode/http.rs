//! The HTTP connection manager.

use std::sync::Arc;

use meshwork_model::proxy::{Codec, HttpConnection, PathNormalization, RouteSource};

use super::{access_log, duration, filter, only_ads, required, retry, route, timeout};
use crate::path::{Noted, Path, Problems};
use crate::pb;

/// An HTTP connection manager.
pub(super) fn connection(
    message: &pb::hcm::HttpConnectionManager,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<HttpConnection> {
    fixed_values(message, at, problems);
    let codec = codec(message.codec_type, &at.field("codec_type"), problems);
    let routes = routes(message, at, problems);
    let filters = filter::filters(&message.http_filters, &at.field("http_filters"), problems);
    let server_name = server_name(message, at, problems);
    let paths = paths(message, at, problems);
    let access_logs = access_log::sinks(&message.access_log, &at.field("access_log"), problems);
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
        max_stream_duration: retry::limit_of(common, &options, problems)?,
        router: retry::router(&message.http_filters),
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
