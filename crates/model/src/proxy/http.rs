use std::sync::Arc;
use std::time::Duration;

use super::{HttpFilter, RouteTable, Router};

/// What is done with the requests of an HTTP connection.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpConnection {
    /// Prefix of statistics.
    pub stat_prefix: Arc<str>,
    /// Which HTTP versions are spoken.
    pub codec: Codec,
    /// Where the routes come from.
    pub routes: RouteSource,
    /// Filters in the one order of phases; the router is implied at the end.
    pub filters: Vec<HttpFilter>,
    /// How paths are normalised before they are judged and forwarded.
    pub paths: PathNormalization,
    /// Whether a request gets an `x-request-id` where it has none.
    pub generate_request_id: bool,
    /// Whether a request that belongs to no trace yet begins one (W3C `traceparent`, not sampled). Those that it does
    /// carry pass unchanged in any case.
    pub tracing: bool,
    /// Whether CONNECT is carried, by routes that match it.
    pub connect: bool,
    /// The `server` field that is set on responses; `None` leaves the origin's.
    pub server_name: Option<Arc<str>>,
    /// How long a connection may be idle between requests; `None` for the data plane's default.
    pub idle_timeout: Option<Duration>,
    /// How long no byte of an exchange may move; zero for as long as it may at all, `None` for the data plane's
    /// default.
    pub stream_idle_timeout: Option<Duration>,
    /// How long a whole exchange may take, where its route says nothing; `None` or zero for as long as it likes.
    pub max_stream_duration: Option<Duration>,
    /// How requests are forwarded, whatever their route.
    pub router: Router,
    /// Access logs that the config itself asks for.
    pub access_logs: Vec<AccessLog>,
}

impl HttpConnection {
    /// With everything that is not named left out.
    pub fn new(stat_prefix: impl Into<Arc<str>>, routes: RouteSource) -> Self {
        Self {
            stat_prefix: stat_prefix.into(),
            codec: Codec::Auto,
            routes,
            filters: Vec::new(),
            paths: PathNormalization::default(),
            generate_request_id: false,
            tracing: false,
            connect: false,
            server_name: None,
            idle_timeout: None,
            stream_idle_timeout: None,
            max_stream_duration: None,
            router: Router::default(),
            access_logs: Vec::new(),
        }
    }
}

/// An access log sink of the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// JSON lines to a file.
    File(Arc<str>),
    /// JSON lines to standard output.
    Stdout,
}

/// Which HTTP versions a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// By ALPN, or by the first bytes.
    Auto,
    /// HTTP/1.1 (and 1.0).
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Where a connection's routes come from.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteSource {
    /// Part of the listener.
    Inline(Arc<RouteTable>),
    /// Named, and delivered on its own (RDS).
    Named(Arc<str>),
}

/// How paths are normalised. Source: RFC 3986 §6, Envoy `normalize_path`, `merge_slashes`,
/// `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PathNormalization {
    /// Resolves `.` and `..`, decodes unreserved percent escapes, folds escape case, `\` to `/`.
    pub rfc3986: bool,
    /// Folds runs of `/` into one.
    pub merge_slashes: bool,
    /// Refuses `%2F` and `%5C` with 400.
    pub reject_escaped_slashes: bool,
}
