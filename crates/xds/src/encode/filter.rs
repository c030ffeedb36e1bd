//! HTTP filters, and what routes say of them.

mod authz;
mod jwt;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::fraction::Fraction;
use meshwork_model::proxy::{
    AbortBy, CorsPolicy, DelayBy, Fault, FaultAbort, FaultDelay, HealthCheckFilter, HttpFilter,
    HttpFilterKind, HttpRbac, LocalRateLimit, RouteFilter, RouteFilterKind, RouteJwt, Router, TokenBucket,
};

use super::policy::string;
use super::route::header;
use super::terms::{runtime_share, share};
use super::{Writer, boolean, duration, number, pack};
use crate::node::Dialect;
use crate::pb;

const ROUTER: &str = "envoy.filters.http.router";
/// The name in statistics of limits that are counted in the proxy.
const LOCAL_LIMIT: &str = "local_rate_limit";
/// The status of who gets no token where nothing else is said.
const TOO_MANY: u16 = 429;

/// Which end of a connection filters stand at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In the program that calls: an API listener.
    Caller,
    /// Behind a socket.
    Socket,
}

impl Writer<'_> {
    pub(super) fn http_filters(
        &self,
        filters: &[HttpFilter],
        router: &Router,
        end: End,
    ) -> Vec<pb::hcm::HttpFilter> {
        let write = |filter| {
            if self.is_grpc() { self.grpc_filter(filter, end) } else { Some(self.http_filter(filter)) }
        };
        let mut messages: Vec<_> = filters.iter().filter_map(write).collect();
        let router = if self.is_grpc() {
            pb::Router::default()
        } else {
            pb::Router {
                suppress_envoy_headers: router.is_silent,
                respect_expected_rq_timeout: router.respects_expected,
                strict_check_headers: router.strict.iter().map(ToString::to_string).collect(),
                ..pb::Router::default()
            }
        };
        messages.push(typed(ROUTER.to_owned(), pack(&router)));
        messages
    }

    fn http_filter(&self, filter: &HttpFilter) -> pb::hcm::HttpFilter {
        let config = match &filter.kind {
            HttpFilterKind::Fault(config) => pack(&fault(config)),
            HttpFilterKind::Cors => pack(&pb::cors::Cors {}),
            HttpFilterKind::Jwt(config) => pack(&self.jwt(config)),
            HttpFilterKind::Rbac(config) => pack(&self.http_rbac(config)),
            HttpFilterKind::ExtAuthz(config) => pack(&self.ext_authz(config)),
            HttpFilterKind::LocalRateLimit(config) => pack(&local_rate_limit(config, self.dialect)),
            HttpFilterKind::HealthCheck(config) => pack(&health_check(config)),
            HttpFilterKind::Buffer(most) => pack(&buffer(*most)),
        };
        pb::hcm::HttpFilter { disabled: filter.disabled, ..typed(filter.name.to_string(), config) }
    }

    /// gRPC knows faults in who calls, and rules in who is called; one that is off it takes for one that does nothing.
    /// What asks another service it cannot do without: a server that does not know how refuses its listener.
    fn grpc_filter(&self, filter: &HttpFilter, end: End) -> Option<pb::hcm::HttpFilter> {
        let (config, is_optional) = match (&filter.kind, end) {
            (HttpFilterKind::Fault(_), End::Caller) if filter.disabled => {
                (pack(&pb::fault::HttpFault::default()), true)
            }
            (HttpFilterKind::Fault(config), End::Caller) => (pack(&fault(config)), true),
            (HttpFilterKind::Rbac(_), End::Socket) if filter.disabled => {
                (pack(&pb::HttpRbac::default()), false)
            }
            (HttpFilterKind::Rbac(config), End::Socket) => (pack(&self.http_rbac(config)), false),
            (HttpFilterKind::ExtAuthz(config), End::Socket) if !filter.disabled => {
                (pack(&self.ext_authz(config)), false)
            }
            _ => return None,
        };
        Some(pb::hcm::HttpFilter { is_optional, ..typed(filter.name.to_string(), config) })
    }

    /// What is said of filters by their names.
    pub(super) fn route_filters(&self, filters: &[RouteFilter]) -> HashMap<String, pb::Any> {
        let each = filters.iter();
        each.filter_map(|filter| Some((filter.name.to_string(), self.route_filter(filter)?))).collect()
    }

    fn route_filter(&self, filter: &RouteFilter) -> Option<pb::Any> {
        if self.is_grpc() {
            return self.grpc_route_filter(filter);
        }
        if filter.disabled {
            return Some(pack(&pb::route::FilterConfig {
                disabled: true,
                ..pb::route::FilterConfig::default()
            }));
        }
        Some(match filter.kind.as_ref()? {
            RouteFilterKind::Fault(config) => pack(&fault(config)),
            RouteFilterKind::Cors(config) => pack(&cors(config)),
            RouteFilterKind::Jwt(config) => pack(&route_jwt(config)),
            RouteFilterKind::Rbac(config) => pack(&self.route_rbac(config)),
            RouteFilterKind::ExtAuthz(config) => pack(&authz::settings(config)),
            RouteFilterKind::LocalRateLimit(config) => pack(&local_rate_limit(config, self.dialect)),
            RouteFilterKind::Buffer(most) => {
                use pb::buffer::buffer_per_route::Override;
                let bound = Override::Buffer(buffer(*most));
                pack(&pb::buffer::BufferPerRoute { r#override: Some(bound) })
            }
        })
    }

    /// gRPC has no word for a filter that is off: what does nothing stands in its place.
    fn grpc_route_filter(&self, filter: &RouteFilter) -> Option<pb::Any> {
        match &filter.kind {
            _ if filter.disabled && filter.name.starts_with(HttpFilter::RBAC) => {
                Some(pack(&pb::HttpRbacPerRoute::default()))
            }
            _ if filter.disabled && filter.name.starts_with(FAULT) => {
                Some(pack(&pb::fault::HttpFault::default()))
            }
            Some(RouteFilterKind::Fault(config)) if !filter.disabled => Some(pack(&fault(config))),
            Some(RouteFilterKind::Rbac(config)) if !filter.disabled => Some(pack(&self.route_rbac(config))),
            _ => None,
        }
    }

    fn http_rbac(&self, rbac: &HttpRbac) -> pb::HttpRbac {
        let rules = rbac.rules.as_ref().map(|rules| self.rbac(rules));
        if self.is_grpc() {
            // It tries nothing on the side.
            return pb::HttpRbac { rules, ..pb::HttpRbac::default() };
        }
        pb::HttpRbac {
            rules,
            shadow_rules: rbac.shadow.as_ref().map(|rules| self.rbac(rules)),
            shadow_rules_stat_prefix: rbac.shadow_prefix.to_string(),
            ..pb::HttpRbac::default()
        }
    }

    fn route_rbac(&self, rbac: &HttpRbac) -> pb::HttpRbacPerRoute {
        pb::HttpRbacPerRoute { rbac: Some(self.http_rbac(rbac)) }
    }
}

/// What names of fault filters begin with.
const FAULT: &str = "envoy.filters.http.fault";

fn typed(name: String, config: pb::Any) -> pb::hcm::HttpFilter {
    pb::hcm::HttpFilter {
        name,
        config_type: Some(pb::hcm::http_filter::ConfigType::TypedConfig(config)),
        ..pb::hcm::HttpFilter::default()
    }
}

fn route_jwt(config: &RouteJwt) -> pb::jwt::PerRouteConfig {
    use pb::jwt::per_route_config::RequirementSpecifier;
    pb::jwt::PerRouteConfig {
        requirement_specifier: Some(match config {
            RouteJwt::Named(name) => RequirementSpecifier::RequirementName(name.to_string()),
            RouteJwt::Off => RequirementSpecifier::Disabled(true),
        }),
    }
}

fn fault(fault: &Fault) -> pb::fault::HttpFault {
    pb::fault::HttpFault {
        delay: fault.delay.as_ref().map(delay),
        abort: fault.abort.as_ref().map(abort),
        upstream_cluster: fault.upstream_cluster.to_string(),
        headers: fault.headers.iter().map(header).collect(),
        downstream_nodes: fault.downstream_nodes.iter().map(ToString::to_string).collect(),
        max_active_faults: fault.max_active.map(number),
        ..pb::fault::HttpFault::default()
    }
}

fn delay(delay: &FaultDelay) -> pb::common_fault::FaultDelay {
    use pb::common_fault::fault_delay::{FaultDelaySecifier, HeaderDelay};
    pb::common_fault::FaultDelay {
        percentage: Some(share(delay.share)),
        fault_delay_secifier: Some(match delay.by {
            DelayBy::Fixed(wait) => FaultDelaySecifier::FixedDelay(duration(wait)),
            DelayBy::Header => FaultDelaySecifier::HeaderDelay(HeaderDelay {}),
        }),
    }
}

fn abort(abort: &FaultAbort) -> pb::fault::FaultAbort {
    use pb::fault::fault_abort::{ErrorType, HeaderAbort};
    pb::fault::FaultAbort {
        percentage: Some(share(abort.share)),
        response_body: abort.body.as_deref().unwrap_or_default().to_owned(),
        error_type: Some(match abort.by {
            AbortBy::Http(status) => ErrorType::HttpStatus(status.into()),
            AbortBy::Grpc(status) => ErrorType::GrpcStatus(status),
            AbortBy::Header => ErrorType::HeaderAbort(HeaderAbort {}),
        }),
    }
}

fn cors(policy: &CorsPolicy) -> pb::cors::CorsPolicy {
    pb::cors::CorsPolicy {
        allow_origin_string_match: policy.allow_origins.iter().map(string).collect(),
        allow_methods: policy.allow_methods.to_string(),
        allow_headers: policy.allow_headers.to_string(),
        expose_headers: policy.expose_headers.to_string(),
        max_age: policy.max_age.to_string(),
        allow_credentials: policy.allow_credentials.map(boolean),
        // What Envoy takes for granted is not said.
        filter_enabled: (policy.enabled != Fraction::ALL).then(|| runtime_share(policy.enabled)),
        shadow_enabled: (policy.shadow.numerator > 0).then(|| runtime_share(policy.shadow)),
        allow_private_network_access: policy.allow_private_network.map(boolean),
        forward_not_matching_preflights: policy.forward_others.map(boolean),
    }
}

fn health_check(filter: &HealthCheckFilter) -> pb::health_check::HealthCheck {
    let least = |(cluster, percent): &(Arc<str>, f64)| {
        (cluster.to_string(), pb::fraction::Percent { value: *percent })
    };
    pb::health_check::HealthCheck {
        pass_through_mode: Some(boolean(filter.pass_through)),
        cache_time: filter.cache.map(duration),
        cluster_min_healthy_percentages: filter.least_healthy.iter().map(least).collect(),
        headers: filter.headers.iter().map(header).collect(),
    }
}

fn buffer(most: u32) -> pb::buffer::Buffer {
    pb::buffer::Buffer { max_request_bytes: Some(number(most)) }
}

/// A status that says that something failed; Envoy refuses those that it has no name for, and takes its own instead.
fn http_status(status: u16, usual: u16, dialect: Dialect) -> Option<pb::HttpStatus> {
    let is_known =
        dialect == Dialect::Meshwork || pb::fraction::StatusCode::try_from(i32::from(status)).is_ok();
    (status != usual && is_known).then(|| pb::HttpStatus { code: status.into() })
}

/// Limits by descriptors are not written: no route here makes descriptors, so that they would never hold.
fn local_rate_limit(limit: &LocalRateLimit, dialect: Dialect) -> pb::local_ratelimit::LocalRateLimit {
    use pb::ratelimit::XRateLimitHeadersRfcVersion as Version;
    pb::local_ratelimit::LocalRateLimit {
        stat_prefix: LOCAL_LIMIT.to_owned(),
        status: http_status(limit.status, TOO_MANY, dialect),
        token_bucket: limit.bucket.map(token_bucket),
        filter_enabled: Some(runtime_share(limit.enabled)),
        filter_enforced: Some(runtime_share(limit.enforced)),
        local_rate_limit_per_downstream_connection: limit.per_connection,
        enable_x_ratelimit_headers: if limit.tells { Version::DraftVersion03 } else { Version::Off } as i32,
        always_consume_default_token_bucket: (!limit.always_consume_default).then(|| boolean(false)),
        rate_limited_as_resource_exhausted: limit.resource_exhausted,
        ..pb::local_ratelimit::LocalRateLimit::default()
    }
}

/// Within which times tokens are given out, shortest first: a second, a tenth, a minute, an hour, a day.
const INTERVALS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_millis(100),
    Duration::from_mins(1),
    Duration::from_hours(1),
    Duration::from_hours(24),
];

/// So many tokens per time: the first of [`INTERVALS`] in which a whole number comes back, or else the longest.
fn token_bucket(bucket: TokenBucket) -> pb::TokenBucket {
    let exact = INTERVALS.iter().copied().find(|interval| {
        let per_fill = per_fill(bucket.per_second, *interval);
        let comes_back = f64::from(per_fill) / interval.as_secs_f64();
        per_fill > 0 && comes_back.to_bits() == bucket.per_second.to_bits()
    });
    let [.., longest] = INTERVALS;
    let interval = exact.unwrap_or(longest);
    pb::TokenBucket {
        max_tokens: bucket.most,
        tokens_per_fill: Some(number(per_fill(bucket.per_second, interval).max(1))),
        fill_interval: Some(duration(interval)),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is out of bounds is at the bound"
)]
fn per_fill(per_second: f64, interval: Duration) -> u32 {
    (per_second * interval.as_secs_f64()).round() as u32
}
