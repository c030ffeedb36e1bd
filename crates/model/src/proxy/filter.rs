use std::sync::Arc;
use std::time::Duration;

use super::{CheckSettings, ExtAuthz, HeaderMatch, JwtAuthentication, Rbac, RouteJwt, StringMatch};
use crate::fraction::Fraction;

/// A filter before the router.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpFilter {
    /// The name by which routes refer to it.
    pub name: Arc<str>,
    /// Whether it is off where no route says anything of it.
    pub disabled: bool,
    /// What it does.
    pub kind: HttpFilterKind,
}

/// What a filter does.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpFilterKind {
    /// Delays and statuses on purpose.
    Fault(Arc<Fault>),
    /// What pages of other origins may do; routes say it.
    Cors,
    /// Tokens that requests need.
    Jwt(Arc<JwtAuthentication>),
    /// Authorization by who asks, and for what.
    Rbac(HttpRbac),
    /// Authorization by another service.
    ExtAuthz(Arc<ExtAuthz>),
    /// So many requests in a time, counted here.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Answers to who asks whether this proxy is healthy.
    HealthCheck(Arc<HealthCheckFilter>),
    /// A request is forwarded once all of it is here: so many bytes at most.
    Buffer(u32),
}

/// What a route, or what stands above it, says of a filter. Source: Envoy `typed_per_filter_config`.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteFilter {
    /// The filter's name.
    pub name: Arc<str>,
    /// Whether it is off; if not, it is on, whatever [`HttpFilter::disabled`] says.
    pub disabled: bool,
    /// What it does here; `None` leaves that.
    pub kind: Option<RouteFilterKind>,
}

/// What a filter does for a route.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteFilterKind {
    /// Other faults.
    Fault(Arc<Fault>),
    /// What pages of other origins may do.
    Cors(Arc<CorsPolicy>),
    /// Other tokens.
    Jwt(RouteJwt),
    /// Other rules.
    Rbac(HttpRbac),
    /// What that service is told besides.
    ExtAuthz(CheckSettings),
    /// Another limit, which counts on its own.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Another number of bytes.
    Buffer(u32),
}

/// What a filter does for the requests of one route, which may say otherwise than the filter's own config.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied<'f> {
    /// Delays and statuses on purpose; requests that have one are counted by the filter's own config.
    Fault {
        /// The filter's own.
        own: &'f Arc<Fault>,
        /// That of the route.
        config: &'f Arc<Fault>,
    },
    /// What pages of other origins may do, the most specific policy first.
    Cors(Vec<&'f Arc<CorsPolicy>>),
    /// Tokens that requests need, and what the route says of them.
    Jwt(&'f Arc<JwtAuthentication>, Option<&'f RouteJwt>),
    /// Authorization by who asks, and for what.
    Rbac(&'f HttpRbac),
    /// Authorization by another service, and what that is told besides.
    ExtAuthz(&'f Arc<ExtAuthz>, Option<&'f CheckSettings>),
    /// So many requests in a time.
    LocalRateLimit(&'f Arc<LocalRateLimit>),
    /// Answers to who asks whether this proxy is healthy.
    HealthCheck(&'f Arc<HealthCheckFilter>),
    /// A request is forwarded once all of it is here: so many bytes at most.
    Buffer(u32),
}

/// What pages of other origins may do. Texts are as they stand in header fields; what is empty is not said.
///
/// Source: Envoy `extensions.filters.http.cors.v3.CorsPolicy`; the Fetch standard.
#[derive(Clone, Debug, PartialEq)]
pub struct CorsPolicy {
    /// Tests of an origin, one of which must pass.
    pub allow_origins: Vec<StringMatch>,
    /// Methods; `*` for whatever is asked for.
    pub allow_methods: Arc<str>,
    /// Header fields; `*` for whatever is asked for.
    pub allow_headers: Arc<str>,
    /// Header fields of responses that pages see.
    pub expose_headers: Arc<str>,
    /// How long the answer to a preflight stands, in seconds.
    pub max_age: Arc<str>,
    /// Whether credentials may be sent.
    pub allow_credentials: Option<bool>,
    /// Whether pages of public networks may ask.
    pub allow_private_network: Option<bool>,
    /// Whether a preflight of another origin is forwarded; else it is answered.
    pub forward_others: Option<bool>,
    /// Requests that the policy is for.
    pub enabled: Fraction,
    /// Requests that it is tried on, which changes nothing.
    pub shadow: Fraction,
}

/// Delays and statuses on purpose. Source: Envoy `extensions.filters.http.fault.v3`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Fault {
    /// How long requests wait.
    pub delay: Option<FaultDelay>,
    /// What they are answered with.
    pub abort: Option<FaultAbort>,
    /// The cluster that a request must be going to; empty takes any.
    pub upstream_cluster: Arc<str>,
    /// Tests that the request must pass.
    pub headers: Vec<HeaderMatch>,
    /// Programs, one of which the request must name as its sender; empty takes any.
    pub downstream_nodes: Vec<Arc<str>>,
    /// Requests that may have a fault at the same time.
    pub max_active: Option<u32>,
}

/// How long requests wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultDelay {
    /// Who says how long.
    pub by: DelayBy,
    /// How many requests wait.
    pub share: Fraction,
}

/// Who says how long a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayBy {
    /// Config.
    Fixed(Duration),
    /// The request.
    Header,
}

/// What requests are answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultAbort {
    /// Who says with what.
    pub by: AbortBy,
    /// How many requests are answered so.
    pub share: Fraction,
    /// The answer's body; `None` for the proxy's own words.
    pub body: Option<Arc<str>>,
}

/// Who says what a request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortBy {
    /// Config: an HTTP status.
    Http(u16),
    /// Config: a gRPC status.
    Grpc(u32),
    /// The request.
    Header,
}

/// So many requests in a time. Source: Envoy `extensions.filters.http.local_ratelimit.v3`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of Envoy's")]
pub struct LocalRateLimit {
    /// The status of those who get no token.
    pub status: u16,
    /// Tokens for requests that no descriptor is for; `None` has as many as are asked for.
    pub bucket: Option<TokenBucket>,
    /// Tokens for requests with one of these descriptors.
    pub descriptors: Vec<LocalDescriptor>,
    /// Requests that ask for a token at all.
    pub enabled: Fraction,
    /// Of those who get none, how many are refused.
    pub enforced: Fraction,
    /// Whether each connection has tokens of its own.
    pub per_connection: bool,
    /// Whether a request with a descriptor takes one of the common tokens, too.
    pub always_consume_default: bool,
    /// Whether responses say how many tokens are left (`x-ratelimit-…`).
    pub tells: bool,
    /// Whether a gRPC call is refused with `RESOURCE_EXHAUSTED`.
    pub resource_exhausted: bool,
}

/// Tokens for requests with a descriptor.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalDescriptor {
    /// Keys and values, in order.
    pub entries: Vec<(Arc<str>, Arc<str>)>,
    /// The tokens.
    pub bucket: TokenBucket,
}

/// Tokens, which come back bit by bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenBucket {
    /// As many as there are at most, and at first.
    pub most: u32,
    /// As many as come back in a second.
    pub per_second: f64,
}

/// Answers to who asks whether this proxy is healthy. Source: Envoy `extensions.filters.http.health_check.v3`.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheckFilter {
    /// Whether the application is asked, too.
    pub pass_through: bool,
    /// How long the application's answer stands.
    pub cache: Option<Duration>,
    /// Which requests ask that.
    pub headers: Vec<HeaderMatch>,
    /// Per cent of a cluster's endpoints that must be healthy, by the cluster's name.
    pub least_healthy: Vec<(Arc<str>, f64)>,
}

/// Rules, and rules that are only tried.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct HttpRbac {
    /// What decides; `None` lets everything pass.
    pub rules: Option<Arc<Rbac>>,
    /// What is tried on the side: its verdict is noted, and decides nothing.
    pub shadow: Option<Arc<Rbac>>,
    /// Stands before the names under which the verdict on the side is noted.
    pub shadow_prefix: Arc<str>,
}

impl HttpFilter {
    /// Names of filters as Envoy's documentation has them.
    pub const RBAC: &str = "envoy.filters.http.rbac";
    /// Delays and statuses on purpose.
    pub const FAULT: &str = "envoy.filters.http.fault";
    /// What pages of other origins may do.
    pub const CORS: &str = "envoy.filters.http.cors";
    /// Tokens that requests need.
    pub const JWT: &str = "envoy.filters.http.jwt_authn";

    /// A filter that is on.
    pub fn new(name: impl Into<Arc<str>>, kind: HttpFilterKind) -> Self {
        Self { name: name.into(), disabled: false, kind }
    }

    /// Rules of authorization, each under a name of its own.
    pub fn rules(rules: impl IntoIterator<Item = Arc<Rbac>>) -> Vec<Self> {
        let name =
            |index: usize| if index == 0 { Self::RBAC.into() } else { format!("{}.{index}", Self::RBAC) };
        let each = rules.into_iter().enumerate();
        each.map(|(index, rbac)| Self::rbac(name(index), rbac)).collect()
    }

    /// Rules of authorization.
    pub fn rbac(name: impl Into<Arc<str>>, rules: Arc<Rbac>) -> Self {
        Self::new(name, HttpFilterKind::Rbac(HttpRbac { rules: Some(rules), ..HttpRbac::default() }))
    }

    /// What it does for the requests of a route; `words` is what the route and what stands above it say of filters, the
    /// most specific first. `None` where it is off.
    pub fn applied<'f>(&'f self, words: &[&'f [RouteFilter]]) -> Option<Applied<'f>> {
        use {HttpFilterKind as Of, RouteFilterKind as To};
        let found: Vec<&RouteFilter> =
            words.iter().filter_map(|words| words.iter().find(|word| word.name == self.name)).collect();
        if found.first().map_or(self.disabled, |word| word.disabled) {
            return None;
        }
        let words: Vec<&RouteFilterKind> = found.into_iter().filter_map(|word| word.kind.as_ref()).collect();
        Some(match (&self.kind, words.first().copied()) {
            (Of::Cors, _) => Applied::Cors(words.into_iter().filter_map(RouteFilterKind::cors).collect()),
            (Of::Fault(own), Some(To::Fault(config))) => Applied::Fault { own, config },
            (Of::Fault(own), _) => Applied::Fault { own, config: own },
            (Of::Jwt(config), Some(To::Jwt(word))) => Applied::Jwt(config, Some(word)),
            (Of::Jwt(config), _) => Applied::Jwt(config, None),
            (Of::Rbac(_), Some(To::Rbac(rules))) | (Of::Rbac(rules), _) => Applied::Rbac(rules),
            (Of::ExtAuthz(config), Some(To::ExtAuthz(settings))) => Applied::ExtAuthz(config, Some(settings)),
            (Of::ExtAuthz(config), _) => Applied::ExtAuthz(config, None),
            (Of::LocalRateLimit(_), Some(To::LocalRateLimit(limit))) | (Of::LocalRateLimit(limit), _) => {
                Applied::LocalRateLimit(limit)
            }
            (Of::HealthCheck(config), _) => Applied::HealthCheck(config),
            (Of::Buffer(_), Some(To::Buffer(most))) | (Of::Buffer(most), _) => Applied::Buffer(*most),
        })
    }

    /// Its rules of authorization, where it has some.
    pub fn policy(&self) -> Option<&Arc<Rbac>> {
        match &self.kind {
            HttpFilterKind::Rbac(rbac) => rbac.rules.as_ref(),
            _ => None,
        }
    }
}

impl RouteFilterKind {
    /// What it says of pages of other origins, if it does.
    fn cors(&self) -> Option<&Arc<CorsPolicy>> {
        match self {
            Self::Cors(policy) => Some(policy),
            _ => None,
        }
    }
}

impl HttpFilterKind {
    /// Its place in the one order of filters; of one kind there may be several.
    ///
    /// A filter that may refuse for nothing stands before one that costs, and what is judged stands before what changes.
    pub fn place(&self) -> usize {
        match self {
            Self::Fault(_) => 0,
            Self::Cors => 1,
            Self::Jwt(_) => 2,
            Self::Rbac(_) => 3,
            Self::ExtAuthz(_) => 4,
            Self::LocalRateLimit(_) => 5,
            Self::HealthCheck(_) => 8,
            Self::Buffer(_) => 9,
        }
    }
}
