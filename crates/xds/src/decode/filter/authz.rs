//! External authorization.

#![expect(deprecated, reason = "programs in use read and write the older forms, too")]

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::fraction::Fraction;
use meshwork_model::proxy::{AuthBody, AuthHttp, AuthService, CheckSettings, ExtAuthz, StringMatch};

use super::super::{Read, policy};
use super::{GrpcService, HttpUri, failure_status, grpc_service, http_uri, runtime_share};
use crate::path::{Path, Problems};
use crate::pb;

/// How long an answer is waited for, where nothing is said. Source: Envoy `ext_authz`.
const TIMEOUT: Duration = Duration::from_millis(200);

/// The filter.
pub(super) fn authorization(
    message: &pb::ext_authz::ExtAuthz,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<ExtAuthz> {
    use pb::ext_authz::ext_authz::Services;
    if message.transport_api_version != pb::core::ApiVersion::V3 as i32 {
        return problems.error(&at.field("transport_api_version"), "only V3 is supported", "write `V3`");
    }
    if message.clear_route_cache {
        let text = "a request keeps the route that it has";
        return problems.error(&at.field("clear_route_cache"), text, "leave it out");
    }
    let mut allowed = list(message.allowed_headers.as_ref(), &at.field("allowed_headers"), problems)?;
    let (service, timeout) = match &message.services {
        Some(Services::GrpcService(service)) => {
            let service = grpc_service(service, &at.field("grpc_service"), problems)?;
            let GrpcService { cluster, authority, timeout } = service;
            (AuthService::Grpc { cluster, authority }, timeout.unwrap_or(TIMEOUT))
        }
        Some(Services::HttpService(service)) => {
            let at = at.field("http_service");
            let (http, timeout, more) = http(service, &at, problems)?;
            if let Some(more) = more {
                allowed.get_or_insert_default().extend(more);
            }
            (AuthService::Http(http), timeout)
        }
        None => return problems.error(at, "the service is missing", "write `grpc_service`"),
    };
    let body = match &message.with_request_body {
        Some(settings) => Some(body(*settings, &at.field("with_request_body"), problems)?),
        None => None,
    };
    let enabled_metadata = match &message.filter_enabled_metadata {
        Some(test) => Some(policy::metadata(test, &at.field("filter_enabled_metadata"), problems)?),
        None => None,
    };
    let disallowed = list(message.disallowed_headers.as_ref(), &at.field("disallowed_headers"), problems)?;
    let namespaces = message.metadata_context_namespaces.iter();
    Some(ExtAuthz {
        service,
        timeout,
        failure_mode_allow: message.failure_mode_allow,
        failure_mode_allow_header: message.failure_mode_allow_header_add,
        status_on_error: failure_status(message.status_on_error.as_ref(), 403),
        body,
        enabled: message.filter_enabled.as_ref().map_or(Fraction::ALL, |share| runtime_share(Some(share))),
        enabled_metadata,
        deny_at_disable: message
            .deny_at_disable
            .as_ref()
            .and_then(|flag| flag.default_value)
            .is_some_and(|deny| deny.value),
        allowed_headers: allowed,
        disallowed_headers: disallowed.unwrap_or_default(),
        metadata_namespaces: namespaces.map(|name| name.as_str().into()).collect(),
        include_certificate: message.include_peer_certificate,
        include_session: message.include_tls_session,
    })
}

fn body(message: pb::ext_authz::BufferSettings, at: &Path<'_>, problems: &mut Problems) -> Option<AuthBody> {
    if message.max_request_bytes == 0 {
        return problems.error(&at.field("max_request_bytes"), "this must be more than 0", "");
    }
    Some(AuthBody {
        most: message.max_request_bytes,
        is_part_enough: message.allow_partial_message,
        as_bytes: message.pack_as_bytes,
    })
}

type Http = (AuthHttp, Duration, Option<Vec<StringMatch>>);

fn http(message: &pb::ext_authz::HttpService, at: &Path<'_>, problems: &mut Problems) -> Option<Http> {
    let uri = at.field("server_uri");
    let Some(server) = &message.server_uri else { return problems.error(&uri, "this is missing", "") };
    let HttpUri { cluster, timeout, .. } = http_uri(server, &uri, problems)?;
    if !message.path_prefix.is_empty() && !message.path_prefix.starts_with('/') {
        return problems.error(&at.field("path_prefix"), "this must begin with `/`", "");
    }
    let request = message.authorization_request.as_ref();
    let allowed_at = at.field("authorization_request");
    let allowed = request.and_then(|request| request.allowed_headers.as_ref());
    let allowed = list(allowed, &allowed_at.field("allowed_headers"), problems)?;
    let added = request.into_iter().flat_map(|request| &request.headers_to_add);
    let response = message.authorization_response.as_ref();
    let at = at.field("authorization_response");
    let mut of =
        |list_of: fn(&pb::ext_authz::AuthorizationResponse) -> Option<&pb::matcher::ListStringMatcher>,
         name| {
            list(response.and_then(list_of), &at.field(name), problems).map(Option::unwrap_or_default)
        };
    let http = AuthHttp {
        cluster,
        path_prefix: message.path_prefix.as_str().into(),
        headers_to_add: added
            .map(|header| (header.key.to_ascii_lowercase().into(), header.value.as_str().into()))
            .collect(),
        upstream: of(|r| r.allowed_upstream_headers.as_ref(), "allowed_upstream_headers")?,
        upstream_append: of(
            |r| r.allowed_upstream_headers_to_append.as_ref(),
            "allowed_upstream_headers_to_append",
        )?,
        client: of(|r| r.allowed_client_headers.as_ref(), "allowed_client_headers")?,
        client_on_success: of(
            |r| r.allowed_client_headers_on_success.as_ref(),
            "allowed_client_headers_on_success",
        )?,
    };
    Some((http, timeout, allowed))
}

fn list(
    message: Option<&pb::matcher::ListStringMatcher>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Read<Option<Vec<StringMatch>>> {
    let Some(message) = message else { return Some(None) };
    let at = at.field("patterns");
    let each = message.patterns.iter().enumerate();
    let tests = each.map(|(index, test)| policy::string(test, &at.index(index), problems));
    tests.collect::<Option<_>>().map(Some)
}

/// What a route says of it.
pub(super) fn settings(message: &pb::ext_authz::CheckSettings) -> CheckSettings {
    let mut extensions: Vec<(Arc<str>, Arc<str>)> = message
        .context_extensions
        .iter()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect();
    extensions.sort();
    CheckSettings { extensions, without_body: message.disable_request_body_buffering }
}
