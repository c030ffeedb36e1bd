//! What can go wrong with an exchange or a connection, and the one place that turns it into a [`Reason`], a status
//! and words for people.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_http1::ParseError;
use meshwork_model::reason::Reason;
use meshwork_telemetry::Unproven;

use crate::http::filters::LocalReply;
use crate::unproven;

/// A failure of an exchange or a connection.
#[derive(Debug)]
pub(crate) struct ProxyError {
    /// What failed.
    pub(crate) kind: Kind,
    /// Whether the request may be sent again.
    pub(crate) retry: Retry,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one who called us.
    Downstream,
    /// The one whom we called.
    Upstream,
    /// Config or limits of this proxy.
    Local,
}

/// Whether a request that failed may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It may have had an effect.
    Never,
    /// The connection had gone stale: only if the request can be repeated (idempotent, and without a body).
    IfRepeatable,
    /// It never reached the application.
    Safe,
}

/// What failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Kind {
    /// The downstream's bytes break a rule of HTTP/1.1.
    #[error("{0}")]
    BadRequest(ParseError),
    /// The request is refused for what it says.
    #[error("{0}")]
    Refused(&'static str),
    /// The request asks for something that the proxy does not do.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The request asks to switch to a protocol that config does not carry.
    #[error("config does not carry this upgrade")]
    UpgradeRefused,
    /// The request's version is not answered.
    #[error("HTTP/1.0 is not accepted")]
    Version,
    /// The path has another form, which the client is sent to.
    #[error("the path has another form")]
    MovedPath(Box<[u8]>),
    /// The downstream was too slow.
    #[error("the request was not complete in time")]
    RequestTimeout,
    /// The downstream took nothing of its response for too long.
    #[error("the client took nothing of the response for too long")]
    SlowReader,
    /// The downstream left.
    #[error("the client closed its connection")]
    DownstreamGone,
    /// The downstream's connection broke.
    #[error("the client's connection broke: {0}")]
    DownstreamBroken(Cow<'static, str>),
    /// The downstream sends frames of HTTP/2 that ask for nothing, more than anybody needs.
    #[error("the client floods its connection with {0}")]
    Flood(&'static str),
    /// The TLS handshake with the downstream failed.
    #[error("the TLS handshake failed: {}", .0.1)]
    Unproven(Box<(Unproven, String)>),
    /// The peer of an open connection is revoked, or not trusted any more.
    #[error("the peer is revoked, or not trusted any more")]
    Untrusted,
    /// The downstream spoke plaintext where TLS is asked for.
    #[error("the client speaks plaintext, and this port asks for mTLS")]
    Plaintext,
    /// No route takes the request.
    #[error("no route takes the request")]
    NoRoute,
    /// The cluster is unknown.
    #[error("the cluster {0} is not known")]
    NoCluster(Arc<str>),
    /// The cluster that a route or request names is unknown, and config has a status for that.
    #[error("the cluster {} is not known", .0.0)]
    UnknownCluster(Box<(Arc<str>, u16)>),
    /// The cluster is empty.
    #[error("the cluster {0} has no endpoint")]
    NoEndpoint(Arc<str>),
    /// Policy refused.
    #[error("policy refused it ({})", .0.as_deref().unwrap_or("no rule allows it"))]
    Denied(Option<Arc<str>>),
    /// A filter answers in the service's place.
    #[error("a filter answered ({})", .0.reason.words().code)]
    Answered(Box<LocalReply>),
    /// The connection was meant for an address that nobody is taken to.
    #[error("nobody is taken to {}: it is {}", .0.0, .0.1)]
    Destination(Box<(SocketAddr, &'static str)>),
    /// No connection could be opened.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// No connection could be opened in time.
    #[error("connecting took longer than the cluster's connect time-out")]
    ConnectTimeout,
    /// The TLS handshake with the endpoint failed, or nothing says how to reach it.
    #[error("the endpoint did not prove its identity: {0}")]
    Identity(String),
    /// The upstream closed or broke the connection.
    #[error("the upstream's connection broke: {0}")]
    UpstreamBroken(Cow<'static, str>),
    /// The upstream's bytes break a rule of HTTP.
    #[error("the upstream's answer is not valid: {0}")]
    BadResponse(Cow<'static, str>),
    /// The upstream's stream was refused unseen.
    #[error("the upstream refused the stream")]
    StreamRefused,
    /// The upstream reset the stream.
    #[error("the upstream reset the stream: {0}")]
    StreamReset(Cow<'static, str>),
    /// The upstream was too slow.
    #[error("the upstream did not answer in time")]
    Timeout,
    /// As much as config allows is under way to the cluster.
    #[error("the circuit breaker of {0} is open")]
    Overflow(&'static str),
    /// Config sheds the request.
    #[error("config sheds a part of the requests")]
    Shed,
    /// The same, for one try of several.
    #[error("the upstream did not answer one try in time")]
    TryTimeout,
    /// The upstream was too slow, and the request wants that passed over in silence.
    #[error("the upstream did not answer in time, of which the request wants to hear nothing")]
    QuietTimeout,
    /// Nothing moved for too long.
    #[error("nothing moved for too long")]
    StreamIdle {
        /// Whether all of the request had come.
        taken: bool,
    },
    /// The whole exchange lasted too long.
    #[error("the exchange lasted longer than it may")]
    StreamDuration {
        /// Whether all of the request had come.
        taken: bool,
    },
    /// The exchange with the upstream lasted too long.
    #[error("the exchange with the upstream lasted longer than it may")]
    UpstreamDuration {
        /// Whether all of the request had come.
        taken: bool,
    },
    /// A field that says how the request is forwarded has no valid value.
    #[error("the field {0} has no valid value")]
    InvalidField(Arc<str>),
    /// A limit of this proxy.
    #[error("a limit is reached: {0}")]
    Overload(&'static str),
}

impl ProxyError {
    /// The client and we did not come to an agreement.
    pub(crate) fn handshake((why, words): (Unproven, String)) -> Self {
        Self::fatal(Kind::Unproven(Box::new((why, words))))
    }

    /// What came on a connection is no handshake.
    pub(crate) fn no_handshake(words: &str) -> Self {
        Self::handshake((Unproven::Broken, words.to_owned()))
    }

    /// A failure after which the request is not sent again.
    pub(crate) fn fatal(kind: Kind) -> Self {
        Self { kind, retry: Retry::Never }
    }

    /// A failure before the request reached anything.
    pub(crate) fn unsent(kind: Kind) -> Self {
        Self { kind, retry: Retry::Safe }
    }

    /// The downstream's connection failed.
    pub(crate) fn downstream(error: &io::Error) -> Self {
        Self::fatal(match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Kind::DownstreamGone
            }
            _ => Kind::DownstreamBroken(error.to_string().into()),
        })
    }

    /// The upstream's connection failed. With TLS 1.3 a server's refusal of our certificate comes when the handshake is
    /// over for us.
    pub(crate) fn upstream(error: &io::Error) -> Self {
        Self::fatal(match unproven::of_tls(error).map(unproven::of_error) {
            Some((Unproven::RefusedUs, words)) => Kind::Identity(words),
            _ => Kind::UpstreamBroken(error.to_string().into()),
        })
    }

    /// Whose fault it is.
    pub(crate) fn side(&self) -> Side {
        match self.kind {
            Kind::BadRequest(_)
            | Kind::Refused(_)
            | Kind::Unsupported(_)
            | Kind::UpgradeRefused
            | Kind::Version
            | Kind::MovedPath(_)
            | Kind::RequestTimeout
            | Kind::SlowReader
            | Kind::Plaintext
            | Kind::Unproven(_)
            | Kind::Untrusted
            | Kind::InvalidField(_)
            | Kind::DownstreamGone
            | Kind::DownstreamBroken(_)
            | Kind::Flood(_) => Side::Downstream,
            Kind::NoRoute
            | Kind::NoCluster(_)
            | Kind::UnknownCluster(_)
            | Kind::NoEndpoint(_)
            | Kind::Denied(_)
            | Kind::Answered(_)
            | Kind::Destination(_)
            | Kind::Overflow(_)
            | Kind::Shed
            | Kind::Overload(_) => Side::Local,
            Kind::Connect(_)
            | Kind::ConnectTimeout
            | Kind::Identity(_)
            | Kind::UpstreamBroken(_)
            | Kind::BadResponse(_)
            | Kind::StreamRefused
            | Kind::StreamReset(_)
            | Kind::Timeout
            | Kind::TryTimeout
            | Kind::QuietTimeout
            | Kind::StreamIdle { .. }
            | Kind::StreamDuration { .. }
            | Kind::UpstreamDuration { .. } => Side::Upstream,
        }
    }

    /// The reason that is reported for it.
    pub(crate) fn reason(&self) -> Reason {
        match &self.kind {
            Kind::BadRequest(error) if error.status() == 431 => Reason::HeadTooLarge,
            Kind::BadRequest(_) | Kind::Refused(_) | Kind::Plaintext => Reason::BadRequest,
            Kind::Unsupported(_) => Reason::Unsupported,
            Kind::UpgradeRefused => Reason::UpgradeRefused,
            Kind::Version => Reason::Version,
            Kind::MovedPath(_) => Reason::DirectResponse,
            Kind::RequestTimeout => Reason::RequestTimeout,
            Kind::SlowReader => Reason::SlowReader,
            Kind::Flood(_) => Reason::Flood,
            Kind::Untrusted => Reason::Untrusted,
            Kind::Unproven(unproven) if unproven.0 == Unproven::Revoked => Reason::Untrusted,
            Kind::DownstreamGone | Kind::DownstreamBroken(_) | Kind::Unproven(_) => Reason::DownstreamGone,
            Kind::NoRoute => Reason::NoRoute,
            Kind::NoCluster(_) | Kind::UnknownCluster(_) => Reason::NoCluster,
            Kind::NoEndpoint(_) => Reason::NoEndpoint,
            Kind::Denied(_) => Reason::Denied,
            Kind::Answered(reply) => reply.reason,
            Kind::Destination(_) => Reason::Destination,
            Kind::Connect(_) | Kind::ConnectTimeout => Reason::ConnectFailed,
            Kind::Identity(_) => Reason::UpstreamIdentity,
            Kind::UpstreamBroken(_) => Reason::UpstreamReset,
            Kind::BadResponse(_) => Reason::BadResponse,
            Kind::Overflow(_) => Reason::UpstreamOverflow,
            Kind::Shed => Reason::Shed,
            Kind::StreamRefused | Kind::StreamReset(_) => Reason::StreamReset,
            Kind::Timeout | Kind::TryTimeout | Kind::QuietTimeout => Reason::Timeout,
            Kind::StreamIdle { .. } => Reason::StreamIdle,
            Kind::StreamDuration { .. } => Reason::StreamDuration,
            Kind::UpstreamDuration { .. } => Reason::UpstreamDuration,
            Kind::InvalidField(_) => Reason::InvalidField,
            Kind::Overload(_) => Reason::Overload,
        }
    }

    /// The status of the answer that is given for it.
    pub(crate) fn status(&self) -> u16 {
        match &self.kind {
            Kind::BadRequest(error) => error.status(),
            Kind::QuietTimeout => 204,
            // As if the request itself had not come in time.
            Kind::StreamIdle { taken: false }
            | Kind::StreamDuration { taken: false }
            | Kind::UpstreamDuration { taken: false } => 408,
            Kind::MovedPath(_) => 307,
            Kind::Answered(reply) => reply.status,
            Kind::UnknownCluster(unknown) => unknown.1,
            _ => self.reason().words().status,
        }
    }
}

/// The text of an answer that the proxy gives itself: `MW0201 what. fix.`
pub(crate) fn words_for_people(reason: Reason) -> String {
    let words = reason.words();
    format!("{} {} {}\n", words.code, words.what, words.fix)
}
