use std::sync::Arc;
use std::time::Duration;

use super::{Criterion, HeaderMatch};

/// How long the exchanges of a route may take, and what of them is tried again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resilience {
    /// What is tried again; a virtual host's where the route has none of its own. `None` for nothing that the request
    /// does not ask for itself.
    pub retry: Option<Arc<RetryPolicy>>,
    /// How long no byte of an exchange may move, in place of the connection's; zero for as long as it may at all.
    pub idle_timeout: Option<Duration>,
    /// How long a whole exchange may take. Where it stands, the route's `timeout` is not looked at.
    pub stream_duration: Option<StreamDuration>,
    /// The older way to believe what a gRPC call says of its time; not looked at beside `stream_duration`.
    pub grpc_timeout: Option<GrpcTimeout>,
    /// Whether requests say which attempt they are (`x-envoy-attempt-count`).
    pub tells_attempts_upstream: bool,
    /// Whether responses say how many attempts there were.
    pub tells_attempts_downstream: bool,
    /// Whether repeated requests say if that is because of a time-out (`x-envoy-is-timeout-retry`).
    pub tells_timeout_retries: bool,
    /// Bytes of a request's body that are kept for another try; `None` for the data plane's default.
    pub replay_bytes: Option<u64>,
}

/// How a connection's requests are forwarded, whatever their route. Source: Envoy `Router`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Whether requests and responses get no `x-envoy-` fields that say how long things take.
    pub is_silent: bool,
    /// Whether what a proxy before this one expects (`x-envoy-expected-rq-timeout-ms`) counts.
    pub respects_expected: bool,
    /// Fields by which a request says how it wants to be forwarded whose values have to be valid; lowercase.
    pub strict: Vec<Arc<str>>,
}

impl Default for Router {
    /// That of a mesh, whose applications see nothing of it.
    fn default() -> Self {
        Self { is_silent: true, respects_expected: false, strict: Vec::new() }
    }
}

/// How long a whole exchange may take. Source: Envoy `RouteAction.MaxStreamDuration`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamDuration {
    /// In place of the connection's; zero for as long as it likes.
    pub most: Option<Duration>,
    /// Where this is set, the time that a request names in `grpc-timeout` counts instead, up to this; zero for whatever
    /// it names.
    pub grpc_most: Option<Duration>,
    /// How much sooner than the caller's time.
    pub grpc_offset: Option<Duration>,
}

/// Believes the time of gRPC calls. Source: Envoy `RouteAction.max_grpc_timeout`, `grpc_timeout_offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcTimeout {
    /// The most; zero for whatever the call says.
    pub most: Duration,
    /// How much sooner than the caller's time.
    pub offset: Option<Duration>,
}

/// What is tried again, and how. Source: Envoy `RetryPolicy`.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// On what.
    pub on: RetryOn,
    /// How often, beside the first try.
    pub retries: u32,
    /// How long one try may take, from the request's end to the response's head.
    pub per_try_timeout: Option<Duration>,
    /// How long nothing may come of one try's response.
    pub per_try_idle_timeout: Option<Duration>,
    /// How long is waited before the next try.
    pub back_off: BackOff,
    /// How long is waited where the response says so.
    pub rate_limited: Option<RateLimitedBackOff>,
    /// With [`RetryOn::STATUS_CODES`], the statuses.
    pub status_codes: Vec<u32>,
    /// With [`RetryOn::HEADERS`], tests of the response of which one holds.
    pub response_headers: Vec<HeaderMatch>,
    /// Tests of the request of which one has to hold; empty for all requests.
    pub request_headers: Vec<HeaderMatch>,
    /// Which endpoints another try avoids.
    pub avoid: AvoidedHosts,
    /// How often an endpoint is picked anew where the picked one is to be avoided.
    pub host_attempts: u32,
}

impl RetryPolicy {
    /// What Envoy does where only the conditions are said.
    pub fn on(on: RetryOn) -> Self {
        Self {
            on,
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            back_off: BackOff::default(),
            rate_limited: None,
            status_codes: Vec::new(),
            response_headers: Vec::new(),
            request_headers: Vec::new(),
            avoid: AvoidedHosts::default(),
            host_attempts: 1,
        }
    }

    /// What a mesh does by itself: only what never reached the application goes to another endpoint, so often.
    pub fn unreached(retries: u32) -> Self {
        let avoid = AvoidedHosts { previous: true, ..AvoidedHosts::default() };
        Self {
            retries,
            avoid,
            host_attempts: 3,
            ..Self::on(RetryOn::CONNECT_FAILURE | RetryOn::REFUSED_STREAM)
        }
    }
}

/// Which endpoints another try avoids. Source: Envoy `RetryPolicy.retry_host_predicate`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AvoidedHosts {
    /// Those that were tried.
    pub previous: bool,
    /// Canaries.
    pub canaries: bool,
    /// Those whose metadata `envoy.lb` has all of these; empty for none.
    pub metadata: Vec<Criterion>,
}

/// How long is waited before the next try: fully jittered, twice as long each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// Before the second try, at most; a millisecond at least.
    pub base: Duration,
    /// Before any; not less than `base`.
    pub most: Duration,
}

impl BackOff {
    /// Of which the most is what Envoy makes of it.
    pub fn of(base: Duration) -> Self {
        Self { base, most: base * 10 }
    }
}

impl Default for BackOff {
    /// Envoy's.
    fn default() -> Self {
        Self::of(Duration::from_millis(25))
    }
}

/// How long is waited where a response says so. Source: Envoy `RetryPolicy.RateLimitedRetryBackOff`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitedBackOff {
    /// Header fields that say it, in order.
    pub headers: Vec<ResetHeader>,
    /// One that says more than this is passed over.
    pub most: Duration,
}

/// A header field that says when to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetHeader {
    /// Lowercase name.
    pub name: Arc<str>,
    /// What its number is.
    pub format: ResetFormat,
}

/// What the number in a [`ResetHeader`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

/// A set of conditions. Source: Envoy `x-envoy-retry-on`, `x-envoy-retry-grpc-on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

impl RetryOn {
    /// No condition.
    pub const NONE: Self = Self(0);
    /// `5xx`: such a response, or none.
    pub const ANY_5XX: Self = Self(1);
    /// `gateway-error`: 502, 503, 504, or no response.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// `reset`: no response.
    pub const RESET: Self = Self(1 << 2);
    /// `reset-before-request`: no response, and nothing of the request was sent.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    /// `connect-failure`: no connection could be opened.
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    /// `envoy-ratelimited`: the response says `x-envoy-ratelimited`.
    pub const RATE_LIMITED: Self = Self(1 << 5);
    /// `retriable-4xx`: 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 6);
    /// `refused-stream`: the endpoint refused the stream unseen.
    pub const REFUSED_STREAM: Self = Self(1 << 7);
    /// `retriable-status-codes`: one that is listed.
    pub const STATUS_CODES: Self = Self(1 << 8);
    /// `retriable-headers`: the response passes a test that is listed.
    pub const HEADERS: Self = Self(1 << 9);
    /// `cancelled`: that gRPC status, in the response's head.
    pub const GRPC_CANCELLED: Self = Self(1 << 10);
    /// `deadline-exceeded`
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 11);
    /// `internal`
    pub const GRPC_INTERNAL: Self = Self(1 << 12);
    /// `resource-exhausted`
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 13);
    /// `unavailable`
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 14);
    /// `http3-post-connect-failure`: never, there is no HTTP/3.
    pub const HTTP3: Self = Self(1 << 15);

    /// Every condition with its name: those of `x-envoy-retry-on` first.
    pub const NAMES: [(&'static str, Self); 16] = [
        ("5xx", Self::ANY_5XX),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("envoy-ratelimited", Self::RATE_LIMITED),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-status-codes", Self::STATUS_CODES),
        ("retriable-headers", Self::HEADERS),
        ("http3-post-connect-failure", Self::HTTP3),
        ("cancelled", Self::GRPC_CANCELLED),
        ("deadline-exceeded", Self::GRPC_DEADLINE_EXCEEDED),
        ("internal", Self::GRPC_INTERNAL),
        ("resource-exhausted", Self::GRPC_RESOURCE_EXHAUSTED),
        ("unavailable", Self::GRPC_UNAVAILABLE),
    ];

    /// Those that are about gRPC statuses.
    pub const GRPC: Self = Self(0b1_1111 << 10);

    /// Whether it has all of the others'.
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether it has one of the others'.
    pub fn has_any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether there is no condition.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of the others', too.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those that both have.
    #[must_use]
    pub fn only(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Those that the others have not.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// The condition of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, on)| *on)
    }

    /// The names of its conditions, in the order of [`Self::NAMES`].
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(_, on)| self.has(*on)).map(|(name, _)| name)
    }
}

impl std::ops::BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        self.and(others)
    }
}
