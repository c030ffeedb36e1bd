//! HTTP filters, which stand in one order, and what routes say of them.

mod authz;
mod fault;
mod jwt;
mod limit;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::fraction::Fraction;
use meshwork_model::proxy::{
    CorsPolicy, HealthCheckFilter, HttpFilter, HttpFilterKind, HttpRbac, RouteFilter, RouteFilterKind,
    RouteJwt,
};

use super::{duration, is, policy, required, route, unpack};
use crate::path::{Path, Problems};
use crate::{pb, support};

/// Filters before the router, which must be the last one.
pub(super) fn filters(
    filters: &[pb::hcm::HttpFilter],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<HttpFilter> {
    let mut found: Vec<HttpFilter> = Vec::new();
    let mut routed = false;
    for (index, message) in filters.iter().enumerate() {
        let at = at.index(index);
        if routed {
            problems.error::<()>(&at, "the router must be the last filter", "");
        } else if typed_config(message).is_some_and(is::<pb::Router>) {
            routed = true;
        } else if let Some(filter) = filter(message, &at, problems) {
            in_order(&found, &filter, &at, problems);
            found.push(filter);
        }
    }
    if !routed {
        problems.error::<()>(at, "the router is missing", "end with `envoy.filters.http.router`");
    }
    found
}

/// Filters stand in one order, so that what is judged was not changed before by a filter that Envoy would run later.
fn in_order(before: &[HttpFilter], filter: &HttpFilter, at: &Path<'_>, problems: &mut Problems) {
    if let Some(late) = before.iter().find(|other| other.kind.place() > filter.kind.place()) {
        let text = format!("`{}` must not stand behind `{}`", filter.name, late.name);
        let fix = "the order is fault, cors, jwt_authn, rbac, ext_authz, local_ratelimit, ratelimit, \
                   header_mutation, health_check, buffer, router";
        problems.error::<()>(at, text, fix);
    }
}

fn typed_config(filter: &pb::hcm::HttpFilter) -> Option<&pb::Any> {
    match &filter.config_type {
        Some(pb::hcm::http_filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    }
}

/// One filter; `None` also where it is unknown and may be left out.
fn filter(message: &pb::hcm::HttpFilter, at: &Path<'_>, problems: &mut Problems) -> Option<HttpFilter> {
    let Some(config) = typed_config(message) else {
        return problems.error(at, "the filter has no config", "write `typed_config`");
    };
    if message.is_optional && !support::is_accepted(&config.type_url) {
        return None;
    }
    let kind = kind(config, &at.field("typed_config"), problems)?;
    let name = required(&message.name, &at.field("name"), problems)?;
    Some(HttpFilter { name: name.into(), disabled: message.disabled, kind })
}

fn kind(config: &pb::Any, at: &Path<'_>, problems: &mut Problems) -> Option<HttpFilterKind> {
    if let Some(message) = unpack::<pb::fault::HttpFault>(config) {
        return fault::fault(&message, at, problems).map(HttpFilterKind::Fault);
    }
    if is::<pb::cors::Cors>(config) {
        return Some(HttpFilterKind::Cors);
    }
    if let Some(message) = unpack::<pb::jwt::JwtAuthentication>(config) {
        let filter = jwt::authentication(&message, at, problems)?;
        return Some(HttpFilterKind::Jwt(filter.into()));
    }
    if let Some(message) = unpack::<pb::HttpRbac>(config) {
        return rbac(&message, at, problems).map(HttpFilterKind::Rbac);
    }
    if let Some(message) = unpack::<pb::ext_authz::ExtAuthz>(config) {
        let filter = authz::authorization(&message, at, problems)?;
        return Some(HttpFilterKind::ExtAuthz(filter.into()));
    }
    if let Some(message) = unpack::<pb::local_ratelimit::LocalRateLimit>(config) {
        return limit::local(&message, false, at, problems).map(HttpFilterKind::LocalRateLimit);
    }
    if let Some(message) = unpack::<pb::health_check::HealthCheck>(config) {
        let filter = health_check(&message, at, problems)?;
        return Some(HttpFilterKind::HealthCheck(filter.into()));
    }
    if let Some(message) = unpack::<pb::buffer::Buffer>(config) {
        return buffer(message, at, problems).map(HttpFilterKind::Buffer);
    }
    problems.error(at, "this HTTP filter is not supported", "")
}

fn rbac(message: &pb::HttpRbac, at: &Path<'_>, problems: &mut Problems) -> Option<HttpRbac> {
    let mut rules = |rules: &Option<pb::rbac::Rbac>, name| match rules {
        Some(rules) => policy::rbac(rules, &at.field(name), problems).map(|rules| Some(rules.into())),
        None => Some(None),
    };
    Some(HttpRbac {
        rules: rules(&message.rules, "rules")?,
        shadow: rules(&message.shadow_rules, "shadow_rules")?,
        shadow_prefix: message.shadow_rules_stat_prefix.as_str().into(),
    })
}

fn health_check(
    message: &pb::health_check::HealthCheck,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<HealthCheckFilter> {
    let Some(pass_through) = message.pass_through_mode else {
        return problems.error(&at.field("pass_through_mode"), "this is missing", "write `true` or `false`");
    };
    let cache = match message.cache_time {
        Some(time) => Some(duration(time, &at.field("cache_time"), problems)?),
        None => None,
    };
    if !pass_through.value && cache.is_some() {
        let text = "nothing is cached where the application is not asked";
        return problems.error(&at.field("cache_time"), text, "leave it out");
    }
    let clusters = message.cluster_min_healthy_percentages.iter();
    let mut least_healthy: Vec<_> =
        clusters.map(|(name, least)| (name.as_str().into(), least.value)).collect();
    least_healthy.sort_by(|a: &(Arc<str>, f64), b| a.0.cmp(&b.0));
    Some(HealthCheckFilter {
        pass_through: pass_through.value,
        cache: cache.filter(|time| !time.is_zero()),
        headers: route::headers(&message.headers, &at.field("headers"), problems)?,
        least_healthy,
    })
}

fn cors(message: &pb::cors::CorsPolicy, at: &Path<'_>, problems: &mut Problems) -> Option<CorsPolicy> {
    let path = at.field("allow_origin_string_match");
    let each = message.allow_origin_string_match.iter().enumerate();
    let origins = each.map(|(index, test)| policy::string(test, &path.index(index), problems));
    let value = |flag: &Option<pb::BoolValue>| flag.as_ref().map(|flag| flag.value);
    Some(CorsPolicy {
        allow_origins: origins.collect::<Option<_>>()?,
        allow_methods: message.allow_methods.as_str().into(),
        allow_headers: message.allow_headers.as_str().into(),
        expose_headers: message.expose_headers.as_str().into(),
        max_age: message.max_age.as_str().into(),
        allow_credentials: value(&message.allow_credentials),
        allow_private_network: value(&message.allow_private_network_access),
        forward_others: value(&message.forward_not_matching_preflights),
        enabled: message.filter_enabled.as_ref().map_or(Fraction::ALL, |share| runtime_share(Some(share))),
        shadow: runtime_share(message.shadow_enabled.as_ref()),
    })
}

fn buffer(message: pb::buffer::Buffer, at: &Path<'_>, problems: &mut Problems) -> Option<u32> {
    match message.max_request_bytes {
        Some(most) if most.value > 0 => Some(most.value),
        _ => problems.error(&at.field("max_request_bytes"), "this must be more than 0", ""),
    }
}

/// A cluster and what is asked for there.
struct HttpUri {
    cluster: Arc<str>,
    authority: Arc<str>,
    path: Arc<str>,
    timeout: Duration,
}

fn http_uri(message: &pb::core::HttpUri, at: &Path<'_>, problems: &mut Problems) -> Option<HttpUri> {
    use pb::core::http_uri::HttpUpstreamType::Cluster;
    let Some(Cluster(cluster)) = &message.http_upstream_type else {
        return problems.error(&at.field("cluster"), "this is missing", "");
    };
    let Some(timeout) = message.timeout else {
        return problems.error(&at.field("timeout"), "this is missing", "");
    };
    let rest = message.uri.split_once("://").map_or(&*message.uri, |(_, rest)| rest);
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    required(authority, &at.field("uri"), problems)?;
    let timeout = duration(timeout, &at.field("timeout"), problems)?;
    Some(HttpUri {
        cluster: cluster.as_str().into(),
        authority: authority.into(),
        path: path.into(),
        timeout,
    })
}

/// A gRPC service: its cluster, the host that is asked for, and the time-out.
struct GrpcService {
    cluster: Arc<str>,
    authority: Option<Arc<str>>,
    timeout: Option<Duration>,
}

fn grpc_service(
    message: &pb::core::GrpcService,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<GrpcService> {
    use pb::core::grpc_service::TargetSpecifier::EnvoyGrpc;
    let Some(EnvoyGrpc(grpc)) = &message.target_specifier else {
        return problems.error(at, "only `envoy_grpc` is supported", "write `envoy_grpc: {cluster_name: …}`");
    };
    if !message.initial_metadata.is_empty() {
        let path = at.field("initial_metadata");
        return problems.error(&path, "calls carry no metadata of config's", "leave it out");
    }
    let timeout = match message.timeout {
        Some(time) => Some(duration(time, &at.field("timeout"), problems)?),
        None => None,
    };
    let at = at.field("envoy_grpc");
    let cluster = required(&grpc.cluster_name, &at.field("cluster_name"), problems)?;
    let authority = (!grpc.authority.is_empty()).then(|| grpc.authority.as_str().into());
    Some(GrpcService { cluster: cluster.into(), authority, timeout })
}

/// A share of requests; Envoy takes none where nothing is said.
fn share(message: Option<&pb::FractionalPercent>) -> Fraction {
    use pb::fractional_percent::DenominatorType;
    let denominator = match message.map(pb::FractionalPercent::denominator) {
        Some(DenominatorType::TenThousand) => 10_000,
        Some(DenominatorType::Million) => 1_000_000,
        Some(DenominatorType::Hundred) | None => 100,
    };
    Fraction { numerator: message.map_or(0, |message| message.numerator), denominator }
}

/// The same, where a key may stand by which Envoy looks up another share.
fn runtime_share(message: Option<&pb::core::RuntimeFractionalPercent>) -> Fraction {
    share(message.and_then(|message| message.default_value.as_ref()))
}

/// A status that says that something failed; Envoy takes its own in the place of others.
fn failure_status(message: Option<&pb::HttpStatus>, default: u16) -> u16 {
    let status = message.and_then(|status| u16::try_from(status.code).ok());
    status.filter(|status| *status >= 400).unwrap_or(default)
}

/// What a route, a virtual host, a table or a weighted cluster says of filters (`typed_per_filter_config`), by name.
pub(super) fn of_route(
    messages: &HashMap<String, pb::Any>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<RouteFilter> {
    let mut sorted: Vec<_> = messages.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    let mut found = Vec::new();
    for (name, config) in sorted {
        found.extend(route_filter(name, config, &at.key(name), problems));
    }
    found
}

fn route_filter(name: &str, config: &pb::Any, at: &Path<'_>, problems: &mut Problems) -> Option<RouteFilter> {
    let (mut disabled, mut kind) = (false, None);
    if let Some(wrapped) = unpack::<pb::route::FilterConfig>(config) {
        disabled = wrapped.disabled;
        match &wrapped.config {
            None if !disabled => return problems.error(&at.field("config"), "the config is missing", ""),
            Some(inner) if wrapped.is_optional && !support::is_accepted(&inner.type_url) => return None,
            // Of a filter that is off, nobody reads what it would do.
            Some(inner) if !disabled => kind = Some(route_kind(inner, &at.field("config"), problems)?),
            _ => {}
        }
    } else {
        kind = Some(route_kind(config, at, problems)?);
    }
    let (off, kind) = match kind {
        Some(Word::Kind(kind)) => (false, Some(kind)),
        Some(Word::Off) => (true, None),
        None => (false, None),
    };
    Some(RouteFilter { name: name.into(), disabled: disabled || off, kind })
}

/// What a route says of a filter.
enum Word {
    /// What it does.
    Kind(RouteFilterKind),
    /// That it does nothing.
    Off,
}

fn route_kind(config: &pb::Any, at: &Path<'_>, problems: &mut Problems) -> Option<Word> {
    use pb::buffer::buffer_per_route::Override as Buffered;
    let kind = if let Some(message) = unpack::<pb::fault::HttpFault>(config) {
        RouteFilterKind::Fault(fault::fault(&message, at, problems)?)
    } else if let Some(message) = unpack::<pb::cors::CorsPolicy>(config) {
        RouteFilterKind::Cors(cors(&message, at, problems)?.into())
    } else if let Some(message) = unpack::<pb::jwt::PerRouteConfig>(config) {
        use pb::jwt::per_route_config::RequirementSpecifier as Specifier;
        match &message.requirement_specifier {
            Some(Specifier::RequirementName(name)) => {
                RouteFilterKind::Jwt(RouteJwt::Named(name.as_str().into()))
            }
            // Not the same as a filter that is off: nobody else may set the fields that tell of tokens, all the same.
            Some(Specifier::Disabled(_)) => RouteFilterKind::Jwt(RouteJwt::Off),
            None => return problems.error(at, "this says nothing", "write `requirement_name` or `disabled`"),
        }
    } else if let Some(message) = unpack::<pb::HttpRbacPerRoute>(config) {
        match &message.rbac {
            Some(message) => RouteFilterKind::Rbac(rbac(message, &at.field("rbac"), problems)?),
            None => return Some(Word::Off),
        }
    } else if let Some(message) = unpack::<pb::ext_authz::ExtAuthzPerRoute>(config) {
        use pb::ext_authz::ext_authz_per_route::Override;
        match &message.r#override {
            Some(Override::CheckSettings(message)) => RouteFilterKind::ExtAuthz(authz::settings(message)),
            Some(Override::Disabled(true)) => return Some(Word::Off),
            _ => {
                return problems.error(at, "this says nothing", "write `disabled: true` or `check_settings`");
            }
        }
    } else if let Some(message) = unpack::<pb::local_ratelimit::LocalRateLimit>(config) {
        RouteFilterKind::LocalRateLimit(limit::local(&message, true, at, problems)?)
    } else if let Some(message) = unpack::<pb::buffer::BufferPerRoute>(config) {
        match &message.r#override {
            Some(Buffered::Buffer(message)) => {
                RouteFilterKind::Buffer(buffer(*message, &at.field("buffer"), problems)?)
            }
            Some(Buffered::Disabled(_)) => return Some(Word::Off),
            None => return problems.error(at, "this says nothing", "write `disabled` or `buffer`"),
        }
    } else {
        return problems.error(at, "this is no config of a filter for a route", "");
    };
    Some(Word::Kind(kind))
}
