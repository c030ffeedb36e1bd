//! `extensionProviders` of the MeshConfig: services that CUSTOM policies have asked. Source: Istio
//! `MeshConfig.ExtensionProvider`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::fraction::Fraction;
use meshwork_model::mesh::{AuthorizationProvider, Key, Target};
use meshwork_model::proxy::{AuthBody, AuthHttp, AuthService, ExtAuthz, StringMatch};

use super::istio::{duration, target};
use super::metadata::Metadata;
use super::reader::{Fields, Item, Report};
use super::route::{is_token, limited};

/// The most providers.
const MAX_PROVIDERS: usize = 1000;
/// How long an answer is waited for where nothing is written. Source: Istio, which waits ten minutes; that is too long for
/// anybody who asks.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The status of a request whose provider could not be asked. Source: Istio.
const STATUS_ON_ERROR: u16 = 403;
/// Metadata that a provider gets: the claims of tokens.
const TOKENS: &str = "envoy.filters.http.jwt_authn";

type Providers = BTreeMap<Arc<str>, Arc<AuthorizationProvider>>;

/// Reads the list.
pub(crate) fn read(spec: &mut Fields<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Providers {
    let mut providers = Providers::new();
    for item in limited(spec, report, "extensionProviders", MAX_PROVIDERS) {
        let Some(mut fields) = item.fields(report) else { continue };
        let name = fields.required_text(report, "name");
        let grpc = fields
            .mapping(report, "envoyExtAuthzGrpc")
            .map(|fields| provider(fields, true, metadata, report));
        let http = fields
            .mapping(report, "envoyExtAuthzHttp")
            .map(|fields| provider(fields, false, metadata, report));
        fields.close(report);
        let (Some(name), Some(provider)) = (name, grpc.or(http)) else {
            let fix = "Write `envoyExtAuthzGrpc` or `envoyExtAuthzHttp`";
            report.error(&item.path, item.node.place, "the provider says not how it is asked", fix);
            continue;
        };
        if let Some(provider) = provider
            && providers.insert(name.value.into(), Arc::new(provider)).is_some()
        {
            name.error(report, format!("there is a provider {} already", name.value), "Name each once");
        }
    }
    providers
}

fn provider(
    mut fields: Fields<'_>,
    by_grpc: bool,
    metadata: &Metadata,
    report: &mut Report<'_>,
) -> Option<AuthorizationProvider> {
    let service = fields.required_text(report, "service");
    let port = fields.required(report, "port").and_then(|_| fields.port(report, "port"));
    let timeout = duration(&mut fields, report, "timeout").unwrap_or(TIMEOUT);
    let failure_mode_allow = fields.boolean(report, "failOpen").unwrap_or(false);
    let status_on_error = status(&mut fields, report).unwrap_or(STATUS_ON_ERROR);
    let body = fields.mapping(report, "includeRequestBodyInCheck").and_then(|fields| body(fields, report));
    let (how, allowed_headers) = if by_grpc {
        (AuthService::Grpc { cluster: "".into(), authority: None }, None)
    } else {
        let allowed = fields.optional("includeRequestHeadersInCheck").map(|item| tests(&item, report));
        (AuthService::Http(http(&mut fields, report)), allowed)
    };
    fields.not_yet(report, &["clearRouteCache", "includeHeadersInCheck"], "");
    fields.close(report);
    let service = service?;
    // Istio lets a namespace stand before the name.
    let host = service.value.rsplit_once('/').map_or(service.value, |(_, host)| host);
    let Target::Service(key) = target(host, &metadata.key.namespace) else {
        let fix = "Name a Service as NAME.NAMESPACE.svc.cluster.local";
        service.error(report, "a provider outside the mesh is not supported yet", fix);
        return None;
    };
    let check = ExtAuthz {
        service: how,
        timeout,
        failure_mode_allow,
        failure_mode_allow_header: false,
        status_on_error,
        body,
        enabled: Fraction::ALL,
        enabled_metadata: None,
        deny_at_disable: false,
        allowed_headers,
        disallowed_headers: Vec::new(),
        metadata_namespaces: vec![TOKENS.into()],
        include_certificate: false,
        include_session: false,
    };
    Some(AuthorizationProvider { service: Key::new(key.namespace, key.name), port: port?, check })
}

/// A status in quotes. Source: Istio.
fn status(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<u16> {
    let text = fields.text(report, "statusOnError")?;
    let status = text.value.parse().ok().filter(|status| (400..600).contains(status));
    if status.is_none() {
        text.error(
            report,
            format!("\"{}\" is not the status of a refusal", text.value),
            "Write \"403\" or \"503\"",
        );
    }
    status
}

fn body(mut fields: Fields<'_>, report: &mut Report<'_>) -> Option<AuthBody> {
    let most = fields
        .required(report, "maxRequestBytes")
        .and_then(|_| fields.integer(report, "maxRequestBytes", 1..=1 << 20));
    let is_part_enough = fields.boolean(report, "allowPartialMessage").unwrap_or(false);
    let as_bytes = fields.boolean(report, "packAsBytes").unwrap_or(false);
    fields.close(report);
    Some(AuthBody { most: u32::try_from(most?).ok()?, is_part_enough, as_bytes })
}

fn http(fields: &mut Fields<'_>, report: &mut Report<'_>) -> AuthHttp {
    let path_prefix = fields.text(report, "pathPrefix").map_or("", |text| text.value).into();
    let added = fields.labels(report, "includeAdditionalHeadersInCheck").unwrap_or_default();
    let mut list = |name| fields.optional(name).map(|item| tests(&item, report)).unwrap_or_default();
    AuthHttp {
        cluster: "".into(),
        path_prefix,
        headers_to_add: added
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase().into(), value.as_str().into()))
            .collect(),
        upstream: list("headersToUpstreamOnAllow"),
        upstream_append: Vec::new(),
        client: list("headersToDownstreamOnDeny"),
        client_on_success: list("headersToDownstreamOnAllow"),
    }
}

/// Names of headers, with a star at an end.
fn tests(item: &Item<'_>, report: &mut Report<'_>) -> Vec<StringMatch> {
    let mut tests = Vec::new();
    for item in item.items() {
        let Some(text) = item.text(report) else { continue };
        let name = text.value.to_ascii_lowercase();
        let (test, rest) = match (name.strip_suffix('*'), name.strip_prefix('*')) {
            (Some(start), _) => (StringMatch::Prefix(start.into()), start),
            (None, Some(end)) => (StringMatch::Suffix(end.into()), end),
            (None, None) => (StringMatch::Exact(name.as_str().into()), name.as_str()),
        };
        if is_token(rest) || rest.is_empty() && name == "*" {
            tests.push(test);
        } else {
            text.error(report, format!("\"{}\" is not a header's name", text.value), "");
        }
    }
    tests
}
