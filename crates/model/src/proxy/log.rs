use std::sync::Arc;

use super::HeaderMatch;
use crate::flag::Flags;
use crate::format::{Json, Template};
use crate::fraction::Fraction;

/// An access log.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Where its lines go.
    pub sink: LogSink,
    /// What a line says.
    pub format: Format,
    /// Which requests it is about; `None` for all.
    pub filter: Option<LogFilter>,
}

/// Where an access log goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogSink {
    /// Appended to a file.
    File(Arc<str>),
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a text says of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    /// Its body.
    pub body: FormatBody,
    /// Whether missing values are left out.
    pub omit_empty: bool,
    /// The type of its content.
    pub content_type: Option<Arc<str>>,
}

/// How a text is made.
#[derive(Clone, Debug, PartialEq)]
pub enum FormatBody {
    /// By a format string.
    Text(Template),
    /// As an object of JSON, with a line break behind.
    Json(Json),
}

/// Which requests a log, or another text for an answer, is about. Source: Envoy `AccessLogFilter`.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFilter {
    /// By the response's status.
    Status(Comparison, u64),
    /// By how long it took, in milliseconds.
    Duration(Comparison, u64),
    /// All but health checks.
    NotHealthCheck,
    /// Those that are traced; none is, since no span is exported.
    Traceable,
    /// A share of them.
    Share(Fraction),
    /// Those that all filters let pass.
    All(Vec<LogFilter>),
    /// Those that one filter lets pass.
    Any(Vec<LogFilter>),
    /// By a field of the request's head.
    Header(HeaderMatch),
    /// Those with one of these flags; empty: with any.
    Flags(Flags),
    /// By the call's gRPC status.
    GrpcStatus {
        /// The codes, a bit each.
        statuses: u32,
        /// All others instead.
        exclude: bool,
    },
    /// Whether a line at the end is meant.
    AtEnd(bool),
}

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It is the same.
    Equal,
    /// It is another.
    NotEqual,
    /// It is as much or more.
    AtLeast,
    /// It is as much or less.
    AtMost,
}

/// Other words for answers that the proxy gives itself. Source: Envoy `LocalReplyConfig`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalReplies {
    /// Tried in order; the first whose filter fits counts.
    pub mappers: Vec<ReplyMapper>,
    /// The body of those that no mapper has another for.
    pub format: Option<Format>,
}

/// Other words for some answers.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplyMapper {
    /// Which answers.
    pub filter: LogFilter,
    /// Another status.
    pub status: Option<u16>,
    /// Another body.
    pub body: Option<Arc<str>>,
    /// How the body is written.
    pub format: Option<Format>,
    /// Fields that are written.
    pub headers: Vec<ReplyHeader>,
}

/// A field of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplyHeader {
    /// Lowercase name.
    pub name: Arc<str>,
    /// Its value.
    pub value: Template,
    /// How it stands beside others of its name.
    pub action: AppendAction,
    /// Whether it is written although its value is empty.
    pub keep_empty: bool,
}

/// How a field stands beside others of its name. Source: Envoy `HeaderAppendAction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAction {
    /// Behind them.
    Append,
    /// Only where there is none.
    IfAbsent,
    /// In their place, or alone.
    Overwrite,
    /// In their place; not where there is none.
    OverwriteIfExists,
}

impl Format {
    /// Whether one of its format strings passes a test.
    pub fn any(&self, test: &dyn Fn(&Template) -> bool) -> bool {
        match &self.body {
            FormatBody::Text(template) => test(template),
            FormatBody::Json(json) => json.any(test),
        }
    }
}

impl Comparison {
    /// Whether a number fits.
    pub fn holds(self, value: u64, than: u64) -> bool {
        match self {
            Self::Equal => value == than,
            Self::NotEqual => value != than,
            Self::AtLeast => value >= than,
            Self::AtMost => value <= than,
        }
    }
}

impl LocalReplies {
    /// Whether answers are as the proxy gives them.
    pub fn is_plain(&self) -> bool {
        self.mappers.is_empty() && self.format.is_none()
    }
}
