use std::sync::Arc;
use std::time::Duration;

use super::{AccessLog, HttpFilter, LocalReplies, RouteTable, Router};
use crate::cidr::Cidr;

/// What is done with the requests of an HTTP connection.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of Envoy's")]
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
    /// How the authority is normalised before it is judged and forwarded.
    pub hosts: HostNormalization,
    /// Whether a request gets an `x-request-id` where it has none.
    pub generate_request_id: bool,
    /// Whether that of a request from outside is kept, where it has one.
    pub keep_request_id: bool,
    /// Whether every response says it.
    pub answer_request_id: bool,
    /// Whether a request that belongs to no trace yet begins one (W3C `traceparent`, not sampled). Those that it does
    /// carry pass unchanged in any case.
    pub tracing: bool,
    /// Protocols that a connection may switch to, lowercase; `connect` stands for CONNECT, by routes that match it.
    pub upgrades: Vec<Arc<str>>,
    /// The `server` field of responses.
    pub server: ServerHeader,
    /// What is appended to `via`, both ways; empty leaves it.
    pub via: Arc<str>,
    /// Who counts as the client.
    pub clients: Clients,
    /// What is said of the client's certificate.
    pub client_cert: ClientCert,
    /// The scheme that every request is taken to have.
    pub scheme: Option<Scheme>,
    /// What HTTP/1 allows.
    pub http1: Http1,
    /// What HTTP/2 allows.
    pub http2: Http2,
    /// What a request and a connection may be.
    pub limits: HttpLimits,
    /// How long a connection may be idle between requests; `None` for the data plane's default.
    pub idle_timeout: Option<Duration>,
    /// How long no byte of an exchange may move; zero for as long as it may at all, `None` for the data plane's
    /// default.
    pub stream_idle_timeout: Option<Duration>,
    /// How requests are forwarded, whatever their route.
    pub router: Router,
    /// How long an exchange may last; `None` for as long as it moves.
    pub max_stream_duration: Option<Duration>,
    /// How long its head may take; `None` for as long as it may be idle.
    pub request_headers_timeout: Option<Duration>,
    /// How long a client that the connection is closed for may take to close it, too; `None` for the data plane's
    /// default.
    pub delayed_close_timeout: Option<Duration>,
    /// Other words for answers that the proxy gives itself.
    pub local_replies: LocalReplies,
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
            hosts: HostNormalization::default(),
            generate_request_id: false,
            keep_request_id: false,
            answer_request_id: false,
            tracing: false,
            upgrades: Vec::new(),
            server: ServerHeader::Keep,
            via: "".into(),
            clients: Clients::default(),
            client_cert: ClientCert::default(),
            scheme: None,
            http1: Http1::default(),
            http2: Http2::default(),
            limits: HttpLimits::default(),
            idle_timeout: None,
            stream_idle_timeout: None,
            max_stream_duration: None,
            router: Router::default(),
            request_headers_timeout: None,
            delayed_close_timeout: None,
            local_replies: LocalReplies::default(),
            access_logs: Vec::new(),
        }
    }

    /// Whether CONNECT is carried.
    pub fn carries_connect(&self) -> bool {
        self.carries(b"connect")
    }

    /// Whether a connection may switch to a protocol; case does not count.
    pub fn carries(&self, protocol: &[u8]) -> bool {
        self.upgrades.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(protocol))
    }
}

/// How the `server` field of responses is written. Source: Envoy `server_header_transformation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerHeader {
    /// This, whatever the origin says.
    Set(Arc<str>),
    /// This, where the origin says nothing.
    IfAbsent(Arc<str>),
    /// What the origin says.
    Keep,
}

/// The scheme of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// How an authority is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HostNormalization {
    /// Which port is cut off.
    pub port: StrippedPort,
    /// Whether a dot at the name's end is cut off.
    pub trailing_dot: bool,
}

/// The port that is cut off an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StrippedPort {
    /// None.
    #[default]
    None,
    /// That which the client connected to.
    Own,
    /// Any.
    Any,
}

/// Who counts as the client, and what is said of it. Source: Envoy `use_remote_address` and its neighbours.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Clients {
    /// Whether the other end of the connection is the client, and not a proxy that knows it.
    pub is_edge: bool,
    /// How many proxies before this one are trusted to tell the truth in `x-forwarded-for`.
    pub trusted_hops: u32,
    /// Whether `x-forwarded-for` is left as it came, where the other end would be appended.
    pub skip_append: bool,
    /// Whether `x-forwarded-port` is written.
    pub append_port: bool,
    /// Whose requests are our own.
    pub internal: Vec<Cidr>,
}

/// What is said of the client's certificate in `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of Envoy's")]
pub struct ClientCert {
    /// What is done with what came.
    pub forward: ForwardClientCert,
    /// The certificate's subject is said.
    pub subject: bool,
    /// The certificate itself.
    pub certificate: bool,
    /// The whole chain.
    pub chain: bool,
    /// Its names that are DNS names.
    pub dns: bool,
    /// Those that are URIs.
    pub uri: bool,
}

/// What is done with `x-forwarded-client-cert`. Source: Envoy `forward_client_cert_details`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ForwardClientCert {
    /// It is removed.
    #[default]
    Sanitize,
    /// It passes, where the client proved its identity by mTLS.
    ForwardOnly,
    /// The client's certificate is appended, where there is one.
    Append,
    /// The client's certificate takes its place, where there is one.
    Set,
    /// It passes.
    AlwaysForwardOnly,
}

/// What HTTP/1 allows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Http1 {
    /// Whether HTTP/1.0 is answered.
    pub accept_http_10: bool,
    /// The authority of its requests that name none.
    pub default_host: Option<Arc<str>>,
    /// Whether trailers pass.
    pub trailers: bool,
}

/// What HTTP/2 allows; `None` for the data plane's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Http2 {
    /// Streams at the same time.
    pub most_streams: Option<u32>,
    /// Flow-control window of a stream, in bytes.
    pub stream_window: Option<u32>,
    /// Flow-control window of the connection, in bytes.
    pub connection_window: Option<u32>,
}

/// What a request and a connection may be; `None` for the data plane's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HttpLimits {
    /// Bytes of a request's head.
    pub head_bytes: Option<u32>,
    /// Field lines of a request's head.
    pub fields: Option<u32>,
    /// Requests on one connection.
    pub requests: Option<u32>,
    /// How long a connection may last.
    pub connection_duration: Option<Duration>,
    /// What is done with fields that have `_` in their names.
    pub underscores: Underscores,
}

/// What is done with fields that have `_` in their names, which CGI and its successors take for `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Underscores {
    /// They pass.
    #[default]
    Allow,
    /// The request is refused.
    Reject,
    /// They are removed.
    Drop,
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

/// How paths are normalised. Source: Envoy `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PathNormalization {
    /// Resolves `.` and `..`, decodes unreserved percent escapes, `\` to `/`, as browsers do.
    pub rfc3986: bool,
    /// Folds runs of `/` into one.
    pub merge_slashes: bool,
    /// What is done with `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// What is done with `%2F` and `%5C`, which origins read in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// They pass.
    #[default]
    Keep,
    /// The request is refused with 400.
    Reject,
    /// The client is sent to the path in which they are slashes.
    Redirect,
    /// They become slashes.
    Decode,
}
