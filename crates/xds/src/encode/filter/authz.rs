//! External authorization.

use meshwork_model::fraction::Fraction;
use meshwork_model::proxy::{AuthBody, AuthHttp, AuthService, CheckSettings, ExtAuthz, StringMatch};

use super::super::policy::{metadata, string};
use super::super::terms::{header_value, runtime_share};
use super::super::{Writer, boolean, duration};
use super::http_status;
use crate::node::Dialect;
use crate::pb;

/// The status of a refusal where nothing else is said.
const FORBIDDEN: u16 = 403;
/// Where Envoy, which insists on a key, would look up whether requests that are not asked about are refused.
const DENY_KEY: &str = "ext_authz.deny_at_disable";
/// A field that no request has: Envoy takes no empty list.
const NO_FIELD: &str = "x-meshwork-none";

impl Writer<'_> {
    pub(super) fn ext_authz(&self, config: &ExtAuthz) -> pb::ext_authz::ExtAuthz {
        let allowed = config.allowed_headers.as_deref();
        let namespaces = config.metadata_namespaces.iter();
        pb::ext_authz::ExtAuthz {
            services: Some(service(config)),
            transport_api_version: pb::core::ApiVersion::V3 as i32,
            failure_mode_allow: config.failure_mode_allow,
            failure_mode_allow_header_add: config.failure_mode_allow_header,
            with_request_body: config.body.map(body),
            status_on_error: http_status(config.status_on_error, FORBIDDEN, self.dialect),
            metadata_context_namespaces: namespaces.map(ToString::to_string).collect(),
            filter_enabled_metadata: config.enabled_metadata.as_ref().map(metadata),
            filter_enabled: (config.enabled != Fraction::ALL).then(|| runtime_share(config.enabled)),
            deny_at_disable: config.deny_at_disable.then(|| pb::core::RuntimeFeatureFlag {
                default_value: Some(boolean(true)),
                runtime_key: DENY_KEY.to_owned(),
            }),
            include_peer_certificate: config.include_certificate,
            include_tls_session: config.include_session,
            allowed_headers: allowed.map(|tests| self.allowed(tests)),
            disallowed_headers: list(&config.disallowed_headers),
            ..pb::ext_authz::ExtAuthz::default()
        }
    }

    fn allowed(&self, tests: &[StringMatch]) -> pb::matcher::ListStringMatcher {
        if tests.is_empty() && self.dialect != Dialect::Meshwork {
            return all(&[StringMatch::Exact(NO_FIELD.into())]);
        }
        all(tests)
    }
}

fn service(config: &ExtAuthz) -> pb::ext_authz::ext_authz::Services {
    use pb::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    use pb::ext_authz::ext_authz::Services;
    match &config.service {
        AuthService::Grpc { cluster, authority } => {
            let target = TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: cluster.to_string(),
                authority: authority.as_deref().unwrap_or_default().to_owned(),
                ..EnvoyGrpc::default()
            });
            Services::GrpcService(pb::core::GrpcService {
                timeout: Some(duration(config.timeout)),
                target_specifier: Some(target),
                ..pb::core::GrpcService::default()
            })
        }
        AuthService::Http(http) => Services::HttpService(http_service(http, config)),
    }
}

fn http_service(http: &AuthHttp, config: &ExtAuthz) -> pb::ext_authz::HttpService {
    use pb::core::http_uri::HttpUpstreamType;
    // The host that is asked for is the request's; of this one nobody hears.
    let host = http.cluster.rsplit('|').next().unwrap_or_default();
    let added = http.headers_to_add.iter();
    pb::ext_authz::HttpService {
        server_uri: Some(pb::core::HttpUri {
            uri: format!("http://{host}/"),
            timeout: Some(duration(config.timeout)),
            http_upstream_type: Some(HttpUpstreamType::Cluster(http.cluster.to_string())),
        }),
        path_prefix: http.path_prefix.to_string(),
        authorization_request: (!http.headers_to_add.is_empty()).then(|| {
            pb::ext_authz::AuthorizationRequest {
                headers_to_add: added.map(|(name, value)| header_value(name, value)).collect(),
                ..pb::ext_authz::AuthorizationRequest::default()
            }
        }),
        authorization_response: Some(pb::ext_authz::AuthorizationResponse {
            allowed_upstream_headers: list(&http.upstream),
            allowed_upstream_headers_to_append: list(&http.upstream_append),
            allowed_client_headers: list(&http.client),
            allowed_client_headers_on_success: list(&http.client_on_success),
            ..pb::ext_authz::AuthorizationResponse::default()
        }),
        ..pb::ext_authz::HttpService::default()
    }
}

fn body(body: AuthBody) -> pb::ext_authz::BufferSettings {
    pb::ext_authz::BufferSettings {
        max_request_bytes: body.most,
        allow_partial_message: body.is_part_enough,
        pack_as_bytes: body.as_bytes,
    }
}

fn list(tests: &[StringMatch]) -> Option<pb::matcher::ListStringMatcher> {
    (!tests.is_empty()).then(|| all(tests))
}

fn all(tests: &[StringMatch]) -> pb::matcher::ListStringMatcher {
    pb::matcher::ListStringMatcher { patterns: tests.iter().map(string).collect() }
}

/// What a route says of it.
pub(super) fn settings(settings: &CheckSettings) -> pb::ext_authz::ExtAuthzPerRoute {
    use pb::ext_authz::ext_authz_per_route::Override;
    let extensions = settings.extensions.iter();
    pb::ext_authz::ExtAuthzPerRoute {
        r#override: Some(Override::CheckSettings(pb::ext_authz::CheckSettings {
            context_extensions: extensions.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            disable_request_body_buffering: settings.without_body,
            ..pb::ext_authz::CheckSettings::default()
        })),
    }
}
