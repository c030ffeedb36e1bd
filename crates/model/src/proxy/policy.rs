use std::sync::Arc;

use super::HeaderMatch;
use crate::cidr::Cidr;
use crate::regex::Regex;

/// A test of a text. Source: Envoy `StringMatcher`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Starts so.
    Prefix(Arc<str>),
    /// Ends so.
    Suffix(Arc<str>),
    /// Contains it.
    Contains(Arc<str>),
    /// The whole text is such.
    Regex(Regex),
    /// As the test within, which is none of [`StringMatch::Regex`] and whose text is in lowercase, whatever the case of
    /// ASCII letters.
    AnyCase(Box<StringMatch>),
}

/// Rules that allow or deny. Source: Envoy `config.rbac.v3.RBAC`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rbac {
    /// What a matching rule means. With `Allow` and no matching rule, the request is denied.
    pub action: Action,
    /// Rules in order of their names.
    pub rules: Vec<Rule>,
}

/// What a matching rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only what matches passes.
    Allow,
    /// What matches is refused.
    Deny,
    /// Everything passes; what matches is marked for logs.
    Log,
}

/// A rule matches when one of its permissions and one of its principals do.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Name, as in `ns[shop]-policy[cart]-rule[0]`.
    pub name: Arc<str>,
    /// What is asked for.
    pub permissions: Vec<Permission>,
    /// Who asks.
    pub principals: Vec<Principal>,
}

/// A test of what is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Permission {
    /// Always.
    Any,
    /// All of them.
    All(Vec<Permission>),
    /// One of them.
    OneOf(Vec<Permission>),
    /// Not that.
    Not(Box<Permission>),
    /// The normalised path without query. Never matches a TCP connection.
    Path(StringMatch),
    /// A header field, `:method` or `:authority`. Never matches a TCP connection.
    Header(HeaderMatch),
    /// The address that the connection was made to.
    DestinationAddress(Cidr),
    /// The port that the connection was made to.
    DestinationPort(u16),
    /// That port is at least `start`, and less than `end`.
    DestinationPorts {
        /// The least.
        start: u32,
        /// What is too much.
        end: u32,
    },
    /// The server name that the connection asked for (SNI); empty where it asked for none.
    ServerName(StringMatch),
    /// What filters found out about the request.
    Metadata(MetadataMatch),
}

/// A test of who asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Principal {
    /// Anybody, also without identity.
    Any,
    /// All of them.
    All(Vec<Principal>),
    /// One of them.
    OneOf(Vec<Principal>),
    /// Not that.
    Not(Box<Principal>),
    /// A peer that showed a certificate, one of whose names passes the test: URIs, DNS names, the subject. `None` takes
    /// any certificate.
    Authenticated(Option<StringMatch>),
    /// Who opened the connection.
    DirectAddress(Cidr),
    /// On whose behalf the request comes, as far as that is known.
    RemoteAddress(Cidr),
    /// On whose behalf the connection was opened. Source: Envoy `source_ip`.
    SourceAddress(Cidr),
    /// A header field. Never matches a TCP connection.
    Header(HeaderMatch),
    /// A header field that is there, and each of whose values passes one of the tests. Never matches a TCP connection.
    /// Envoy has no such test: it is content with one value that passes.
    EachValue {
        /// Lowercase field name.
        name: Arc<str>,
        /// What a value may be.
        tests: Vec<StringMatch>,
    },
    /// The normalised path without query. Never matches a TCP connection.
    Path(StringMatch),
    /// What filters found out about the request.
    Metadata(MetadataMatch),
}

/// A test of metadata. Source: Envoy `type.matcher.v3.MetadataMatcher`.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataMatch {
    /// The filter that found it, or under whose name a route has it.
    pub filter: Arc<str>,
    /// Keys on the way to the value; never empty.
    pub path: Vec<Arc<str>>,
    /// The test.
    pub value: ValueMatch,
    /// Whether the test must fail.
    pub invert: bool,
}

/// A test of a value. Source: Envoy `type.matcher.v3.ValueMatcher`.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch {
    /// It is `null`.
    Null,
    /// It is this number.
    Exactly(f64),
    /// It is a number that is at least `start`, and less than `end`.
    Range {
        /// The least.
        start: f64,
        /// What is too much.
        end: f64,
    },
    /// It is a text that passes.
    Text(StringMatch),
    /// It is this.
    Bool(bool),
    /// It is there; with `false`, nothing passes.
    Present(bool),
    /// It is a list, and one of its values passes.
    OneOf(Box<ValueMatch>),
    /// One of the tests passes.
    Or(Vec<ValueMatch>),
}
